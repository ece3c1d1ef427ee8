//! The driver against a UART that behaves: FIFOs with a length, a line that can stop.

use super::{Pl011, TransmitTimeout};
use crate::host::mmio::Device;
use crate::mmio::MmioRegion;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use spin::mutex::SpinMutex;

#[derive(Default)]
struct Uart {
    control: u32,
    line: u32,
    mask: u32,
    cleared: u32,
    sent: Vec<u8>,
    received: VecDeque<u32>,
    full: bool,
    /// So many looks at FR find it busy.
    busy: u32,
    polls: usize,
}

struct Fake(SpinMutex<Uart>);

impl Device for Fake {
    fn read(&self, offset: u64, size: usize) -> u64 {
        assert_eq!(size, 4);
        let mut uart = self.0.lock();
        u64::from(match offset {
            0x00 => uart.received.pop_front().expect("read of an empty FIFO"),
            0x18 => {
                uart.polls += 1;
                uart.busy = uart.busy.saturating_sub(1);
                let busy = u32::from(uart.busy != 0) << 3;
                busy | u32::from(uart.received.is_empty()) << 4 | u32::from(uart.full) << 5
            }
            0x30 => uart.control,
            _ => panic!("read of {offset:#x}"),
        })
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        assert_eq!(size, 4);
        let mut uart = self.0.lock();
        let value = value as u32;
        match offset {
            0x00 => {
                assert!(
                    !uart.full && uart.control & 0x101 == 0x101,
                    "a byte is lost"
                );
                uart.sent.push(value as u8);
            }
            0x2C => {
                assert_eq!(uart.control & 1, 0, "line settings changed while on");
                uart.line = value;
            }
            0x30 => uart.control = value,
            0x38 => uart.mask = value,
            0x44 => uart.cleared |= value,
            _ => panic!("write of {offset:#x}"),
        }
    }
}

fn uart(state: Uart) -> (Arc<Fake>, Pl011) {
    let fake = Arc::new(Fake(SpinMutex::new(state)));
    let driver = Pl011::new(MmioRegion::fake(0x900_0000, 0x1000, fake.clone()));
    (fake, driver)
}

#[test]
fn an_uart_that_is_off_is_turned_on_with_8n1() {
    let (fake, mut driver) = uart(Uart {
        control: 0x300,
        mask: 0x7FF,
        ..Default::default()
    });
    write!(driver, "a\n{}", 7).unwrap();
    let uart = fake.0.lock();
    assert_eq!(uart.sent, b"a\r\n7");
    assert_eq!((uart.line, uart.control, uart.mask), (0x70, 0x301, 0));
}

#[test]
fn line_settings_of_firmware_stay() {
    let (fake, _driver) = uart(Uart {
        control: 0xC301,
        line: 0x66,
        ..Default::default()
    });
    let uart = fake.0.lock();
    assert_eq!((uart.line, uart.control), (0x66, 0xC301));
}

#[test]
fn a_line_that_stands_still_costs_one_wait_and_recovers() {
    let (fake, mut driver) = uart(Uart {
        full: true,
        ..Default::default()
    });
    assert_eq!(driver.write_byte(b'x'), Err(TransmitTimeout));
    let polls = fake.0.lock().polls;
    assert!(driver.write_str("yz").is_err());
    assert!(fake.0.lock().polls - polls <= 2, "it was waited for again");
    fake.0.lock().full = false;
    assert_eq!(driver.write_byte(b'w'), Ok(()));
    assert_eq!(fake.0.lock().sent, b"w");
}

#[test]
fn nobody_has_to_wait_for_room() {
    let (fake, mut driver) = uart(Uart {
        full: true,
        ..Default::default()
    });
    assert!(!driver.try_write_byte(b'x'));
    assert_eq!(fake.0.lock().polls, 1);
    fake.0.lock().full = false;
    assert!(driver.try_write_byte(b'y'));
    assert_eq!(fake.0.lock().sent, b"y");
}

#[test]
fn the_last_byte_is_waited_for_but_not_for_ever() {
    let (fake, mut driver) = uart(Uart {
        busy: 5,
        ..Default::default()
    });
    driver.wait_idle();
    assert_eq!(fake.0.lock().polls, 5);
    fake.0.lock().busy = u32::MAX;
    driver.wait_idle();
    assert_ne!(fake.0.lock().busy, 0);
}

#[test]
fn what_comes_with_an_error_is_no_character() {
    let received = [0x41, 0x400, 0x142, 0x243, 0x844].into();
    let (_fake, mut driver) = uart(Uart {
        received,
        ..Default::default()
    });
    assert_eq!(driver.read_byte(), Some(b'A'));
    // Break, framing and parity errors are dropped; an overrun says nothing of this character.
    assert_eq!(driver.read_byte(), Some(b'D'));
    assert_eq!(driver.read_byte(), None);
}

#[test]
fn an_endless_stream_of_errors_does_not_hold_the_reader() {
    let received = [0x400; 100].into();
    let (fake, mut driver) = uart(Uart {
        received,
        ..Default::default()
    });
    assert_eq!(driver.read_byte(), None);
    assert_eq!(fake.0.lock().received.len(), 100 - 32);
}

#[test]
fn only_receive_interrupts_are_enabled_and_cleared() {
    let (fake, mut driver) = uart(Uart::default());
    driver.enable_receive_interrupt();
    driver.clear_interrupts();
    let uart = fake.0.lock();
    assert_eq!((uart.mask, uart.cleared), (0x50, 0x50));
}

#[test]
fn input_can_be_left_where_it_is() {
    let (fake, mut driver) = uart(Uart::default());
    assert!(!driver.has_input());
    fake.0.lock().received.push_back(0x41);
    driver.enable_receive_interrupt();
    driver.disable_receive_interrupt();
    assert!(driver.has_input());
    assert_eq!(fake.0.lock().mask, 0);
    assert_eq!(driver.read_byte(), Some(b'A'));
}
