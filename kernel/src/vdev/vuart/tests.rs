//! Register behaviour, as a driver and as a hostile guest sees it.

use super::{Effect, Vuart};

const DR: u64 = 0;
const RSR: u64 = 4;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;

/// As a driver leaves it: FIFOs on, 8n1, enabled, receive and receive timeout unmasked.
fn running() -> Vuart {
    let mut uart = Vuart::new();
    uart.write(LCR_H, 4, 0x70);
    uart.write(CR, 4, 0x301);
    uart.write(IMSC, 4, 0x50);
    uart
}

/// SBSA's generic UART: its driver writes DR, IMSC and ICR and nothing else.
#[test]
fn a_driver_that_never_turns_it_on_receives_where_firmware_has() {
    assert_eq!(
        (Vuart::new().read(CR, 4), Vuart::new().receive(b'a')),
        (0x300, false)
    );
    let mut uart = Vuart::set_up();
    assert_eq!((uart.read(CR, 4), uart.read(LCR_H, 4)), (0x301, 0x70));
    uart.write(IMSC, 4, 0x50);
    assert!(uart.receive(b'a') && uart.receive(b'b'));
    assert_eq!((uart.read(DR, 4), uart.read(DR, 4)), (0x61, 0x62));
    assert_eq!((uart.lost(), uart.line()), (0, false));
}

#[test]
fn identifies_itself_as_a_primecell_pl011() {
    let mut uart = Vuart::new();
    let mut word = |base: u64| (0..4).fold(0, |id, i| id | uart.read(base + 4 * i, 4) << (8 * i));
    // The AMBA bus's match: 0x00041011 under the mask 0x000fffff, and the cell ID.
    assert_eq!(word(0xfe0) & 0xf_ffff, 0x0004_1011);
    assert_eq!(word(0xff0), 0xb105_f00d);
}

#[test]
fn output_leaves_at_once_and_the_transmitter_is_always_ready() {
    let mut uart = Vuart::new();
    for byte in *b"ok" {
        let effect = uart.write(DR, 1, u64::from(byte));
        assert_eq!(
            effect,
            Effect {
                output: Some(byte),
                line: false
            }
        );
        assert_eq!(uart.read(FR, 4), 0x90);
    }
    assert!(uart.write(IMSC, 4, 0x20).line);
    assert!(!uart.write(ICR, 4, 0x20).line);
    assert!(uart.write(DR, 4, 0x1ff).line);
    assert_eq!(uart.write(DR, 2, 0x1ff).output, Some(0xff));
}

#[test]
fn a_stalled_transmitter_is_full_and_says_when_it_is_empty_again() {
    let mut uart = Vuart::new();
    uart.write(IMSC, 4, 0x20);
    uart.stall();
    // BUSY, TXFF; RXFE.
    assert_eq!(uart.read(FR, 4), 0x38);
    let effect = uart.write(DR, 4, u64::from(b'x'));
    assert_eq!((effect.output, effect.line, uart.lost()), (None, false, 1));
    uart.resume();
    assert!(uart.line());
    assert_eq!(uart.read(FR, 4), 0x90);
    assert_eq!(uart.write(DR, 4, u64::from(b'y')).output, Some(b'y'));
    // Nothing has happened to one that was not stalled.
    uart.write(ICR, 4, 0x20);
    uart.resume();
    assert!(!uart.line());
}

#[test]
fn one_character_raises_the_timeout_interrupt_until_it_is_read() {
    let mut uart = running();
    assert!(uart.receive(b'x'));
    assert_eq!((uart.read(RIS, 4), uart.read(MIS, 4)), (0x40, 0x40));
    assert_eq!(uart.read(FR, 4), 0x80);
    assert_eq!(uart.read(DR, 4), u64::from(b'x'));
    assert!(!uart.line());
    assert_eq!(uart.read(FR, 4), 0x90);
    assert_eq!(uart.read(DR, 4), 0);
}

#[test]
fn the_receive_interrupt_follows_its_level() {
    for (setting, level) in [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28), (5, 16), (7, 16)] {
        let mut uart = running();
        uart.write(IFLS, 4, setting << 3);
        uart.write(IMSC, 4, 0x10);
        let line: Vec<bool> = (0..level).map(|i| uart.receive(i)).collect();
        assert_eq!(line.iter().filter(|&&high| high).count(), 1, "{setting}");
        assert!(uart.line());
        uart.read(DR, 4);
        assert!(!uart.line(), "{setting}");
    }
}

#[test]
fn masked_interrupts_stay_raw() {
    let mut uart = running();
    uart.write(IMSC, 4, 0);
    assert!(!uart.receive(1));
    assert_eq!((uart.read(RIS, 4), uart.read(MIS, 4)), (0x40, 0));
    assert!(uart.write(IMSC, 4, 0xffff_ffff).line);
    assert_eq!(uart.read(IMSC, 4), 0x7ff);
}

#[test]
fn a_full_fifo_drops_counts_and_says_so() {
    let mut uart = running();
    uart.write(IMSC, 4, 1 << 10);
    for i in 0..32 {
        assert!(!uart.receive(i));
    }
    assert_eq!(uart.read(FR, 4) & 0x40, 0x40);
    assert!(uart.receive(99));
    assert_eq!((uart.lost(), uart.read(RSR, 4)), (1, 8));
    uart.write(ICR, 4, 1 << 10);
    uart.write(RSR, 4, 0xff);
    assert_eq!(uart.read(RSR, 4), 0);
    assert_eq!(uart.read(DR, 4), 0);
    uart.receive(100);
    let read: Vec<u64> = (0..32).map(|_| uart.read(DR, 4)).collect();
    assert_eq!(read[30], 31);
    assert_eq!(read[31], 0x800 | 100);
    assert_eq!(uart.read(RSR, 4), 8);
}

#[test]
fn without_fifos_one_character_fits() {
    let mut uart = running();
    uart.receive(1);
    uart.write(LCR_H, 4, 0x60);
    assert_eq!((uart.read(FR, 4), uart.read(RIS, 4)), (0x90, 0));
    uart.receive(2);
    uart.receive(3);
    assert_eq!(uart.read(FR, 4), 0xc0);
    assert_eq!((uart.read(DR, 4), uart.read(DR, 4)), (2, 0));
}

#[test]
fn a_disabled_receiver_takes_nothing() {
    for control in [0, 1, 0x200] {
        let mut uart = running();
        uart.write(CR, 4, control);
        assert!(!uart.receive(1));
        assert_eq!((uart.read(FR, 4), uart.lost()), (0x90, 1));
    }
}

#[test]
fn loopback_goes_to_the_receiver_and_nowhere_else() {
    let mut uart = running();
    uart.write(CR, 4, 0x381);
    assert_eq!(
        uart.write(DR, 4, 7),
        Effect {
            output: None,
            line: true
        }
    );
    assert_eq!(uart.read(DR, 4), 7);
}

#[test]
fn no_access_of_any_kind_does_harm() {
    let mut uart = running();
    uart.receive(1);
    for offset in (0..0x1010).chain([u64::MAX, u64::MAX - 3, 1 << 40]) {
        for size in [1, 2, 4, 8, 0, 3, 255] {
            let register = offset < 0x1000 && offset % 4 == 0 && [1, 2, 4].contains(&size);
            let value = uart.read(offset, size);
            assert!(register || value == 0, "{offset:#x} {size}");
            let effect = uart.write(offset, size, u64::MAX);
            assert!(register && offset == 0 || effect.output.is_none());
        }
    }
    // Reserved bits are not kept.
    assert_eq!(uart.read(CR, 4), 0xff87);
    assert_eq!(uart.read(0x28, 4), 0x3f);
    assert_eq!(uart.read(0x48, 4), 7);
}
