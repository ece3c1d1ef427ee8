//! Register behaviour, as a driver and as a hostile guest sees it.

use super::{Effect, V16550};

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;

/// As a driver leaves it: FIFOs with a trigger of 8, 8n1, DTR, RTS and OUT2, receive and line status interrupts.
fn running() -> V16550 {
    let mut uart = V16550::new();
    for (offset, value) in [(IIR, 0x81), (LCR, 0x03), (MCR, 0x0b), (IER, 0x05)] {
        uart.write(offset, 1, value);
    }
    uart
}

#[test]
fn after_reset_it_is_idle_and_connected() {
    let mut uart = V16550::new();
    let registers: Vec<u64> = (0..8).map(|offset| uart.read(offset, 1)).collect();
    assert_eq!(registers, [0, 0, 1, 0, 0, 0x60, 0xb0, 0]);
}

/// What Linux's `autoconfig` looks for: a scratch register, IER that holds four bits, loopback, FIFOs of a 16550A.
#[test]
fn a_driver_takes_it_for_a_16550a() {
    let mut uart = V16550::new();
    uart.write(7, 1, 0x5a);
    assert_eq!(uart.read(7, 1), 0x5a);
    uart.write(IER, 1, 0xff);
    assert_eq!(uart.read(IER, 1), 0x0f);
    uart.write(IER, 1, 0);
    uart.write(MCR, 1, 0x1a);
    assert_eq!(uart.read(MSR, 1) & 0xf0, 0x90, "RTS as CTS, OUT2 as DCD");
    uart.write(MCR, 1, 0);
    uart.write(IIR, 1, 1);
    assert_eq!(uart.read(IIR, 1) >> 6, 3);
    // No 16C950 or 16750: no enhanced registers behind the divisor's bit.
    uart.write(LCR, 1, 0xbf);
    assert_eq!(uart.read(IIR, 1), 0xc1);
    uart.write(LCR, 1, 0x80);
    uart.write(DATA, 1, 0x34);
    uart.write(IER, 1, 0x12);
    assert_eq!((uart.read(DATA, 1), uart.read(IER, 1)), (0x34, 0x12));
    uart.write(LCR, 1, 0x03);
    assert_eq!((uart.read(DATA, 1), uart.read(IER, 1)), (0, 0));
}

#[test]
fn output_leaves_at_once_and_the_transmitter_says_so() {
    let mut uart = running();
    for byte in *b"ok" {
        let effect = uart.write(DATA, 1, byte.into());
        let expected = Effect {
            output: Some(byte),
            line: false,
        };
        assert_eq!((effect, uart.read(LSR, 1)), (expected, 0x60));
    }
    assert!(uart.write(IER, 1, 0x02).line, "it is empty already");
    assert_eq!(
        (uart.read(IIR, 1), uart.line()),
        (0xc2, false),
        "reading ends it"
    );
    assert!(uart.write(DATA, 1, 1).line);
    uart.read(IIR, 1);
    // Off and on again tells again.
    uart.write(IER, 1, 0);
    assert!(uart.write(IER, 1, 0x02).line);
}

#[test]
fn a_stalled_transmitter_is_busy_and_says_when_it_is_empty_again() {
    let mut uart = running();
    uart.write(IER, 1, 0x02);
    uart.read(IIR, 1);
    uart.stall();
    assert_eq!(uart.read(LSR, 1), 0);
    let effect = uart.write(DATA, 1, u64::from(b'x'));
    assert_eq!((effect.output, effect.line, uart.lost()), (None, false, 1));
    uart.write(IER, 1, 0);
    assert!(!uart.write(IER, 1, 0x02).line);
    uart.resume();
    assert!(uart.line());
    assert_eq!(uart.read(LSR, 1), 0x60);
    uart.read(IIR, 1);
    // Nothing has happened to one that was not stalled.
    uart.resume();
    assert!(!uart.line());
}

#[test]
fn the_receive_interrupt_follows_its_level_and_a_timeout_the_rest() {
    for (setting, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut uart = running();
        uart.write(IIR, 1, setting);
        for n in 1..level {
            assert!(uart.receive(n));
            assert_eq!(uart.read(IIR, 1), 0xcc, "{setting:#x}");
        }
        assert!(uart.receive(level));
        assert_eq!(uart.read(IIR, 1), 0xc4, "{setting:#x}");
        assert_eq!(uart.read(LSR, 1), 0x61);
        let read: Vec<u64> = (0..level).map(|_| uart.read(DATA, 1)).collect();
        assert!(read.iter().copied().eq(1..=level.into()));
        assert_eq!((uart.read(IIR, 1), uart.line()), (0xc1, false));
    }
}

#[test]
fn a_full_receiver_drops_counts_and_says_so_first() {
    let mut uart = running();
    for n in 0..16 {
        assert!(uart.has_room());
        uart.receive(n);
    }
    assert!(!uart.has_room());
    uart.receive(99);
    assert_eq!((uart.lost(), uart.read(IIR, 1)), (1, 0xc6));
    assert_eq!(uart.read(LSR, 1), 0x63);
    assert_eq!((uart.read(LSR, 1), uart.read(IIR, 1)), (0x61, 0xc4));
    let read: Vec<u64> = (0..17).map(|_| uart.read(DATA, 1)).collect();
    assert!(read.iter().copied().eq((0..16).chain([0])));
    // Without FIFOs one fits.
    uart.write(IIR, 1, 0);
    uart.receive(1);
    uart.receive(2);
    assert_eq!((uart.read(IIR, 1), uart.read(DATA, 1)), (0x06, 1));
    assert_eq!(uart.read(DATA, 1), 0);
}

#[test]
fn fifo_control_empties_the_receiver() {
    for control in [0x83, 0x00] {
        let mut uart = running();
        uart.receive(1);
        uart.write(IIR, 1, control);
        assert_eq!((uart.read(LSR, 1), uart.line()), (0x60, false));
    }
}

#[test]
fn without_out2_there_is_no_interrupt() {
    let mut uart = running();
    uart.write(MCR, 1, 0x03);
    assert!(!uart.receive(1));
    assert_eq!(uart.read(IIR, 1), 0xcc, "but it is pending");
    assert!(uart.write(MCR, 1, 0x0b).line);
}

#[test]
fn loopback_goes_to_the_receiver_and_nowhere_else() {
    let mut uart = running();
    uart.write(MCR, 1, 0x1b);
    let effect = uart.write(DATA, 1, 7);
    assert_eq!((effect.output, effect.line), (None, false));
    assert_eq!(uart.read(DATA, 1), 7);
    assert!(uart.has_room());
    uart.receive(8);
    assert_eq!((uart.read(LSR, 1), uart.lost()), (0x60, 1));
    // RTS falls: CTS has changed. OUT1 rises and falls: ring has ended.
    uart.read(MSR, 1);
    uart.write(IER, 1, 0x08);
    uart.write(MCR, 1, 0x19);
    assert_eq!(uart.read(IIR, 1), 0xc0);
    assert_eq!(uart.read(MSR, 1), 0xa1);
    uart.write(MCR, 1, 0x1d);
    assert_eq!((uart.read(IIR, 1), uart.read(MSR, 1)), (0xc1, 0xe0));
    uart.write(MCR, 1, 0x19);
    assert_eq!((uart.read(MSR, 1), uart.read(IIR, 1)), (0xa4, 0xc1));
}

#[test]
fn no_access_of_any_kind_does_harm() {
    let mut uart = running();
    for offset in (0..0x20).chain([u64::MAX, 1 << 40]) {
        for size in [1, 2, 4, 8, 0, 3, 255] {
            let value = uart.read(offset, size);
            let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
            assert!(
                size == 1 && offset < 8 || value == ones,
                "{offset:#x} {size}"
            );
            let effect = uart.write(offset, size, u64::MAX);
            assert!(size == 1 && offset == 0 || effect.output.is_none());
        }
    }
}
