//! The I/O APIC by its manual, and together with local APICs.

mod linked;

use super::Vioapic;
use crate::vdev::msi::Msi;

const SELECT: u64 = 0;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

fn get(apic: &mut Vioapic, index: u8) -> u64 {
    apic.write(SELECT, 4, index.into());
    apic.read(WINDOW, 4)
}

fn set(apic: &mut Vioapic, index: u8, value: u64) {
    apic.write(SELECT, 4, index.into());
    apic.write(WINDOW, 4, value);
}

/// Upper half first, so that the lower one unmasks it.
fn program(apic: &mut Vioapic, pin: u8, entry: u64) {
    set(apic, 0x11 + 2 * pin, entry >> 32);
    set(apic, 0x10 + 2 * pin, entry & 0xffff_ffff);
}

fn drain(apic: &mut Vioapic) -> Vec<Msi> {
    core::iter::from_fn(|| apic.next_message()).collect()
}

#[test]
fn after_reset_it_has_24_masked_pins() {
    let mut apic = Vioapic::new();
    assert_eq!(get(&mut apic, 1), 0x17_0020);
    assert_eq!((get(&mut apic, 0), get(&mut apic, 2)), (0, 0));
    for pin in 0..24 {
        let entry = [0x10, 0x11].map(|half| get(&mut apic, half + 2 * pin));
        assert_eq!(entry, [0x1_0000, 0]);
        apic.set_line(pin.into(), true);
    }
    assert_eq!(drain(&mut apic), []);
    set(&mut apic, 0, u64::MAX);
    assert_eq!(
        (get(&mut apic, 0), get(&mut apic, 2)),
        (0x0f00_0000, 0x0f00_0000)
    );
    assert_eq!(apic.misuse(), 0);
    apic.set_line(24, true);
    apic.set_line(usize::MAX, true);
    assert_eq!(drain(&mut apic), []);
}

#[test]
fn an_edge_is_sent_once_and_is_lost_while_masked() {
    let mut apic = Vioapic::new();
    apic.set_line(4, true);
    // Vector 0x34 for APIC 2.
    program(&mut apic, 4, 0x0200_0000_0000_0034);
    assert_eq!(drain(&mut apic), [], "it was high before");
    apic.set_line(4, false);
    assert_eq!(drain(&mut apic), []);
    apic.set_line(4, true);
    apic.set_line(4, true);
    let sent = Msi {
        address: 0xfee0_2000,
        data: 0x4034,
    };
    assert_eq!(drain(&mut apic), [sent]);
    // A pulse.
    apic.set_line(4, false);
    apic.set_line(4, true);
    apic.set_line(4, false);
    assert_eq!(drain(&mut apic), [sent]);
    assert_eq!(get(&mut apic, 0x18), 0x34, "no remote IRR");
}

#[test]
fn a_level_is_sent_again_after_each_end_until_it_falls() {
    let mut apic = Vioapic::new();
    // Vector 0x41, logical, level-triggered, active low.
    program(&mut apic, 16, 0x0300_0000_0000_a841);
    apic.set_line(16, true);
    let sent = Msi {
        address: 0xfee0_3004,
        data: 0xc041,
    };
    assert_eq!(drain(&mut apic), [sent]);
    assert_eq!(get(&mut apic, 0x30), 0xe841, "remote IRR");
    apic.end(0x40);
    assert_eq!(drain(&mut apic), []);
    apic.end(0x41);
    assert_eq!(drain(&mut apic), [sent]);
    apic.set_line(16, false);
    apic.write(EOI, 4, 0x41);
    assert_eq!(drain(&mut apic), []);
    assert_eq!(get(&mut apic, 0x30), 0xa841);
    // Masked with the interrupt under way: its end is not lost.
    apic.set_line(16, true);
    assert_eq!(drain(&mut apic), [sent]);
    set(&mut apic, 0x30, 0x1_e841);
    assert_eq!(get(&mut apic, 0x30), 0x1_e841);
    apic.end(0x41);
    assert_eq!(drain(&mut apic), []);
    set(&mut apic, 0x30, 0xe841);
    assert_eq!(drain(&mut apic), [sent], "remote IRR cannot be written");
    // To edge-triggered and back clears remote IRR, as kernels do that know no EOI register.
    set(&mut apic, 0x30, 0x1_2841);
    set(&mut apic, 0x30, 0x1_a841);
    assert_eq!(get(&mut apic, 0x30), 0x1_a841);
}

#[test]
fn several_pins_may_share_a_vector() {
    let mut apic = Vioapic::new();
    for pin in [16, 17, 18] {
        program(&mut apic, pin, 0x8051);
        apic.set_line(pin.into(), pin != 17);
    }
    assert_eq!(drain(&mut apic).len(), 2);
    apic.set_line(17, true);
    assert_eq!(drain(&mut apic).len(), 1);
    apic.end(0x51);
    assert_eq!(drain(&mut apic).len(), 3);
}

/// VT-d, §5.1.2.1: what an entry of the remappable format becomes on its way, with handle 0x8a51.
#[test]
fn remappable_entries_keep_their_handle() {
    let mut apic = Vioapic::new();
    // Bits 63:49 and 11 are the handle, bit 48 the format; the vector is for the EOI only.
    program(
        &mut apic,
        20,
        0x0a51 << 49 | 1 << 48 | 1 << 15 | 1 << 11 | 20,
    );
    apic.set_line(20, true);
    let [msi] = drain(&mut apic)[..] else {
        panic!("one message")
    };
    let expected = crate::vdev::msi::Interrupt::Remappable { index: 0x8a51 };
    assert_eq!(msi.decode(), Some(expected));
    apic.write(EOI, 4, 20);
    assert_eq!(drain(&mut apic), [msi]);
}

#[test]
fn reset_keeps_nothing_but_the_lines() {
    let mut apic = Vioapic::new();
    program(&mut apic, 16, 0xa041);
    apic.set_line(16, true);
    apic.set_line(17, true);
    apic.reset();
    assert_eq!((get(&mut apic, 0x30), drain(&mut apic)), (0x1_0000, vec![]));
    program(&mut apic, 16, 0xa041);
    assert_eq!(drain(&mut apic).len(), 1);
}

#[test]
fn no_access_of_any_kind_does_harm() {
    let mut apic = Vioapic::new();
    for offset in (0..0x1010).chain([u64::MAX, 1 << 40]) {
        for size in [1, 2, 4, 8, 0, 3, 255] {
            let there = size == 4 && [SELECT, WINDOW].contains(&offset);
            assert!(there || apic.read(offset, size) == 0);
            apic.write(offset, size, 0);
        }
    }
    let before = apic.misuse();
    for index in 0..=255 {
        set(&mut apic, index, u64::MAX);
        let value = get(&mut apic, index);
        match index {
            0 | 2 => assert_eq!(value, 0x0f00_0000),
            1 => assert_eq!(value, 0x17_0020),
            0x10..0x40 if index % 2 == 0 => assert_eq!(value, 0x1_afff),
            0x10..0x40 => assert_eq!(value, 0xffff_0000),
            _ => assert_eq!(value, 0),
        }
    }
    assert_eq!(apic.misuse() - before, 2 * (256 - 51));
}
