//! Register behaviour, as a kernel and as a hostile guest sees it.

use super::{load, store, x2apic, xapic};
use crate::vdev::CpuSet;
use crate::vdev::vlapic::{Destination, GeneralProtection, Message, Mode, Vlapics};

fn fixed(vector: u8, level: bool) -> Message {
    Message {
        destination: Destination::All,
        mode: Mode::Fixed,
        vector,
        level,
    }
}

/// "Local APIC State After Power-Up or Reset".
#[test]
fn after_reset_all_is_masked_and_off() {
    let mut apics = Vlapics::new(3, 0).unwrap();
    assert_eq!((apics.base(0), apics.base(1)), (0xfee0_0900, 0xfee0_0800));
    assert_eq!((apics.waits(0), apics.waits(1)), (false, true));
    assert_eq!(load(&mut apics, 2, 0x20), 2 << 24);
    assert_eq!(load(&mut apics, 0, 0x30), 0x0105_0014);
    assert_eq!(load(&mut apics, 0, 0xf0), 0xff);
    assert_eq!(load(&mut apics, 0, 0xe0), 0xffff_ffff);
    for lvt in (0x320..=0x370).step_by(16) {
        assert_eq!(load(&mut apics, 0, lvt), 0x1_0000, "{lvt:#x}");
    }
    for zero in [
        0x80, 0xa0, 0xd0, 0x100, 0x1f0, 0x270, 0x280, 0x300, 0x310, 0x380, 0x390, 0x3e0,
    ] {
        assert_eq!(load(&mut apics, 0, zero), 0, "{zero:#x}");
    }
    assert_eq!(apics.misuse(), 0);
    assert!(Vlapics::new(0, 0).is_none() && Vlapics::new(65, 0).is_none());
}

#[test]
fn the_most_urgent_vector_is_taken_first_and_masks_what_is_not_above_it() {
    let mut apics = xapic(1);
    for vector in [0x31, 0x41, 0x45] {
        assert_eq!(apics.deliver(&fixed(vector, false)).kick, CpuSet::one(0));
    }
    assert_eq!(apics.acknowledge(0), Some(0x45));
    assert_eq!(load(&mut apics, 0, 0xa0), 0x40, "PPR");
    assert_eq!(apics.pending(0), None, "0x41 is of the same class");
    assert_eq!(load(&mut apics, 0, 0x120), 1 << 5, "ISR, vectors 0x40 up");
    assert_eq!(load(&mut apics, 0, 0x220), 1 << 1, "IRR");
    apics.deliver(&fixed(0x50, false));
    assert_eq!(apics.acknowledge(0), Some(0x50), "nested");
    store(&mut apics, 0, 0xb0, 0);
    assert_eq!(apics.pending(0), None);
    store(&mut apics, 0, 0xb0, 0);
    assert_eq!(apics.acknowledge(0), Some(0x41));
    store(&mut apics, 0, 0xb0, 0);
    store(&mut apics, 0, 0x80, 0x3f);
    assert_eq!(apics.pending(0), None, "TPR has the class of 0x31");
    assert_eq!(
        load(&mut apics, 0, 0xa0),
        0x3f,
        "PPR is TPR, its lower half too"
    );
    assert_eq!(apics.cr8(0), 3);
    apics.set_cr8(0, 2);
    assert_eq!(load(&mut apics, 0, 0x80), 0x20);
    assert_eq!(apics.acknowledge(0), Some(0x31));
}

#[test]
fn only_the_end_of_a_level_goes_to_the_io_apic() {
    let mut apics = xapic(1);
    for (vector, level) in [(0x31, true), (0x41, false)] {
        apics.deliver(&fixed(vector, level));
    }
    assert_eq!(load(&mut apics, 0, 0x190), 1 << 17, "TMR");
    assert_eq!(apics.acknowledge(0), Some(0x41));
    assert_eq!(store(&mut apics, 0, 0xb0, 0).end, None);
    assert_eq!(apics.acknowledge(0), Some(0x31));
    assert_eq!(store(&mut apics, 0, 0xb0, 0).end, Some(0x31));
    assert_eq!(
        store(&mut apics, 0, 0xb0, 0).end,
        None,
        "nothing in service"
    );
    // "EOI Broadcast Suppression".
    store(&mut apics, 0, 0xf0, 0x11ff);
    apics.deliver(&fixed(0x31, true));
    apics.acknowledge(0);
    assert_eq!(store(&mut apics, 0, 0xb0, 0).end, None);
    // The same vector by edge: the mode is that of the last one accepted.
    store(&mut apics, 0, 0xf0, 0x1ff);
    apics.deliver(&fixed(0x31, false));
    apics.acknowledge(0);
    assert_eq!(store(&mut apics, 0, 0xb0, 0).end, None);
}

#[test]
fn one_that_software_has_turned_off_takes_nothing_but_what_cannot_be_masked() {
    let mut apics = xapic(2);
    store(&mut apics, 0, 0x350, 0x700);
    apics.deliver(&fixed(0x31, false));
    store(&mut apics, 0, 0xf0, 0xff);
    assert_eq!(load(&mut apics, 0, 0x350), 0x1_0700, "masked");
    store(&mut apics, 0, 0x350, 0x700);
    assert_eq!(load(&mut apics, 0, 0x350), 0x1_0700, "and stays so");
    assert_eq!(apics.pending(0), Some(0x31), "what it has it keeps");
    assert_eq!(apics.deliver(&fixed(0x51, false)).kick, CpuSet::one(1));
    let nmi = Message {
        mode: Mode::Nmi,
        ..fixed(0, false)
    };
    assert_eq!(apics.deliver(&nmi).kick, CpuSet(3));
    assert!(!apics.take_nmi(0, || false), "not yet");
    assert!(apics.take_nmi(0, || true) && !apics.take_nmi(0, || true));
}

#[test]
fn errors_show_at_the_next_write_of_esr_and_call_whoever_is_there() {
    let mut apics = xapic(1);
    store(&mut apics, 0, 0x370, 0xfe);
    assert_eq!(store(&mut apics, 0, 0x300, 0x4_0005).kick, CpuSet::one(0));
    assert_eq!(load(&mut apics, 0, 0x280), 0);
    store(&mut apics, 0, 0x280, 0);
    assert_eq!(load(&mut apics, 0, 0x280), 1 << 5, "send illegal vector");
    assert_eq!(apics.acknowledge(0), Some(0xfe));
    store(&mut apics, 0, 0xb0, 0);
    store(&mut apics, 0, 0x280, 0);
    assert_eq!(load(&mut apics, 0, 0x280), 0, "errors since the last write");
    apics.deliver(&fixed(15, false));
    assert_eq!(load(&mut apics, 0, 0x40), 0, "reserved");
    store(&mut apics, 0, 0x3f0, 0x31);
    store(&mut apics, 0, 0x280, 0);
    assert_eq!(load(&mut apics, 0, 0x280), 1 << 6 | 1 << 7);
    assert_eq!(load(&mut apics, 0, 0x210), 0, "no self IPI in xAPIC mode");
    assert_eq!(apics.misuse(), 2);
    // An error interrupt with an illegal vector is one more error, and no more than that.
    store(&mut apics, 0, 0x370, 3);
    load(&mut apics, 0, 0x40);
    store(&mut apics, 0, 0x280, 0);
    assert_eq!(load(&mut apics, 0, 0x280), 1 << 6 | 1 << 7);
}

#[test]
fn x2apic_refuses_what_is_reserved_or_absent() {
    let mut apics = x2apic(20);
    assert_eq!(apics.read_msr(19, 0x802, 0), Ok(19));
    assert_eq!(
        apics.read_msr(19, 0x80d, 0),
        Ok(0x1_0008),
        "cluster 1, member 3"
    );
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x808, 0x100),
        (0x809, 0),
        (0x80a, 0),
        (0x80b, 1),
        (0x80c, 0),
        (0x80d, 0),
        (0x80e, 0),
        (0x80f, 0x200),
        (0x810, 0),
        (0x827, 0),
        (0x828, 1),
        (0x82f, 0x1_0000),
        (0x830, 1 << 12),
        (0x831, 0),
        (0x832, 1 << 8),
        (0x837, 1 << 8),
        (0x838, 1 << 32),
        (0x839, 0),
        (0x83e, 4),
        (0x83f, 0x100),
        (0x840, 0),
        (0x8ff, 0),
    ] {
        let refused = apics.write_msr(0, msr, value, 0);
        assert_eq!(refused, Err(GeneralProtection), "{msr:#x} {value:#x}");
    }
    for msr in [
        0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff,
    ] {
        assert_eq!(
            apics.read_msr(0, msr, 0),
            Err(GeneralProtection),
            "{msr:#x}"
        );
    }
    assert_eq!(load(&mut apics, 0, 0x20), 0xffff_ffff, "no page");
    apics.write_msr(0, 0x83f, 0x61, 0).unwrap();
    assert_eq!(apics.pending(0), Some(0x61));
    // Status bits of LVT entries can be written, and are not kept.
    apics
        .write_msr(0, 0x835, 0x700 | 1 << 12 | 1 << 14, 0)
        .unwrap();
    assert_eq!(apics.read_msr(0, 0x835, 0), Ok(0x700));
}

#[test]
fn no_access_of_any_kind_does_harm() {
    let mut apics = xapic(2);
    for offset in (0..0x1010).chain([u64::MAX, u64::MAX - 15, 1 << 40]) {
        for size in [1, 2, 4, 8, 0, 3, 255] {
            let value = apics.read(0, offset, size, 7);
            let register = size == 4 && offset % 16 == 0 && offset < 0x1000;
            let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
            assert!(register || value == ones, "{offset:#x} {size}");
            apics.write(0, offset, size, u64::MAX, 7);
        }
    }
    assert_eq!(
        load(&mut apics, 0, 0x320),
        0x7_00ff,
        "reserved bits are not kept"
    );
    assert_eq!(load(&mut apics, 0, 0xf0), 0x11ff);
    let mut apics = x2apic(2);
    for msr in 0x800..=0x8ff {
        for bit in 0..64 {
            let _ = apics.write_msr(0, msr, 1 << bit, 7);
            let _ = apics.read_msr(0, msr, 7);
        }
    }
    let counted = apics.misuse();
    assert!(counted > 0);
}
