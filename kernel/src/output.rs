//! What goes to the physical UART: kept in order, and given to it as fast as it takes it, without waiting for it. So a slow
//! line is no CPU's time, and no lock's.
//!
//! Past [`HIGH`] partitions are told that their UART's FIFO is full, until less than [`LOW`] is left. The rest of the room
//! is for what they are in the middle of, and for the hypervisor's own lines: only these wait for the line, if all of it is
//! in use.

use crate::console::Sink;
use alloc::collections::VecDeque;
use arch::Uart;

/// Bytes that are kept at most: a third of a second at 115,200 baud.
const CAPACITY: usize = 4096;
/// From here on partitions have to wait.
const HIGH: usize = 2048;
/// Below it they may go on.
const LOW: usize = 1024;
/// From here on nothing is taken from a partition: room for one line of 256 bytes, a prompt that it cuts off, and more.
const LIMIT: usize = 3072;

/// See the module's description.
pub struct Output {
    /// For the other direction as well.
    pub uart: Uart,
    waiting: VecDeque<u8>,
}

impl Output {
    /// Nothing waits.
    pub fn new(uart: Uart) -> Self {
        Self {
            uart,
            waiting: VecDeque::with_capacity(CAPACITY),
        }
    }

    /// Gives the UART what it takes at once: a FIFO at most. Whether something is left.
    pub fn pump(&mut self) -> bool {
        while let Some(&byte) = self.waiting.front()
            && self.uart.try_write_byte(byte)
        {
            self.waiting.pop_front();
        }
        !self.waiting.is_empty()
    }

    /// Waits until the UART has taken all of it, or takes no more.
    pub fn drain(&mut self) {
        while let Some(byte) = self.waiting.pop_front()
            && self.uart.write_byte(byte).is_ok()
        {}
    }

    /// Waits until all of it has left the machine as well.
    pub fn flush(&mut self) {
        self.drain();
        self.uart.wait_idle();
    }

    /// Whether partitions have to wait.
    pub fn is_high(&self) -> bool {
        self.waiting.len() >= HIGH
    }

    /// Whether partitions that wait may go on.
    pub fn is_low(&self) -> bool {
        self.waiting.len() < LOW
    }

    /// Whether one more byte of a partition's is taken, with all that it may bring with it.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < LIMIT
    }
}

impl Sink for Output {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.waiting.len() == CAPACITY
                && let Some(oldest) = self.waiting.pop_front()
            {
                // A UART that takes no more is nothing that one could print about.
                let _ = self.uart.write_byte(oldest);
            }
            self.waiting.push_back(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, HIGH, LIMIT, LOW, Output};
    use crate::console::{Console, LINE_LEN, Sink, Source};
    use alloc::sync::Arc;
    use arch::host::mmio::Device;
    use arch::mmio::MmioRegion;
    use arch::pl011::Pl011;
    use std::sync::Mutex;

    /// A UART whose FIFO of 32 goes out when the test says so, or one character with every look at the flags.
    #[derive(Default)]
    struct Line {
        fifo: usize,
        sent: Vec<u8>,
        moves: bool,
        accesses: usize,
    }

    struct Fake(Mutex<Line>);

    impl Device for Fake {
        fn read(&self, offset: u64, _size: usize) -> u64 {
            let mut line = self.0.lock().unwrap();
            line.accesses += 1;
            if line.moves {
                line.fifo = line.fifo.saturating_sub(1);
            }
            match offset {
                // FR: TXFF, BUSY.
                0x18 => u64::from(line.fifo == 32) << 5 | u64::from(line.fifo != 0) << 3,
                // CR: on.
                _ => 0x301,
            }
        }

        fn write(&self, offset: u64, _size: usize, value: u64) {
            let mut line = self.0.lock().unwrap();
            line.accesses += 1;
            if offset == 0 {
                assert!(line.fifo < 32, "a character is lost");
                line.fifo += 1;
                line.sent.push(value as u8);
            }
        }
    }

    fn output() -> (Arc<Fake>, Output) {
        let fake = Arc::new(Fake(Mutex::default()));
        let region = MmioRegion::fake(0x900_0000, 0x1000, fake.clone());
        (fake, Output::new(Pl011::new(region)))
    }

    #[test]
    fn a_line_that_stands_still_costs_nobody_more_than_a_fifo() {
        let (fake, mut output) = output();
        let mut console = Console::new(["a", "b"]);
        // What one access of a guest may lead to: the end of a long line, which cuts off a prompt.
        console.write(Source::Partition(0), &[b'x'; LINE_LEN], &mut output);
        console.write(Source::Partition(1), &[b'y'; LINE_LEN], &mut output);
        assert!(output.pump());
        fake.0.lock().unwrap().accesses = 0;
        console.write(Source::Partition(1), b"\n", &mut output);
        assert!(output.pump());
        let line = fake.0.lock().unwrap();
        assert!(line.accesses <= 2 * 32, "{} accesses", line.accesses);
        assert_eq!(line.sent.len(), 32);
        // The largest step fits behind the limit.
        assert!(output.waiting.len() < CAPACITY - LIMIT);
    }

    #[test]
    fn everything_leaves_in_order() {
        let (fake, mut output) = output();
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        output.put(&bytes);
        while output.pump() {
            fake.0.lock().unwrap().fifo = 0;
        }
        assert_eq!(fake.0.lock().unwrap().sent, bytes);
    }

    #[test]
    fn partitions_wait_between_two_marks() {
        let (_, mut output) = output();
        output.put(&[0; LOW - 1]);
        assert!(output.is_low() && !output.is_high());
        output.put(&[0]);
        assert!(!output.is_low() && !output.is_high());
        output.put(&[0; HIGH - LOW]);
        assert!(output.is_high() && output.has_room());
        output.put(&[0; LIMIT - HIGH]);
        assert!(!output.has_room());
    }

    #[test]
    fn the_hypervisors_lines_wait_for_room_and_the_end_for_all() {
        let (fake, mut output) = output();
        fake.0.lock().unwrap().moves = true;
        output.put(&[7; CAPACITY + 100]);
        assert_eq!(output.waiting.len(), CAPACITY);
        assert_eq!(fake.0.lock().unwrap().sent.len(), 100);
        output.flush();
        let line = fake.0.lock().unwrap();
        assert_eq!((line.sent.len(), line.fifo), (CAPACITY + 100, 0));
    }

    #[test]
    fn a_dead_line_is_given_up() {
        let (fake, mut output) = output();
        fake.0.lock().unwrap().fifo = 32;
        output.put(&[7; CAPACITY + 100]);
        output.flush();
        assert!(fake.0.lock().unwrap().sent.is_empty());
    }
}
