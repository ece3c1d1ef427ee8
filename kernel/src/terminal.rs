//! The physical UART with the console on it, for every CPU: [`say!`](crate::say) prints a line of the hypervisor's own.

use crate::console::{Console, Sink, Source};
use arch::pl011::Pl011;
use core::fmt::Arguments;
use spin::mutex::TicketMutex;

static TERMINAL: TicketMutex<Option<Terminal>> = TicketMutex::new(None);

struct Terminal {
    console: Console,
    uart: Uart,
}

struct Uart(Pl011);

impl Sink for Uart {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // A UART that takes no more is nothing that one could print about.
            let _ = self.0.write_byte(byte);
        }
    }
}

/// Prints a line of the hypervisor's own, with the arguments of `format!`.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::print(format_args!($($argument)*))
    };
}

/// From here on what is said is heard.
pub fn open(uart: Pl011) {
    *TERMINAL.lock() = Some(Terminal {
        console: Console::new([]),
        uart: Uart(uart),
    });
}

/// Gives each partition its lines; the first gets the input.
pub fn name_partitions<'a>(names: impl IntoIterator<Item = &'a str>) {
    with(|terminal| terminal.console = Console::new(names));
}

/// Turns the receive interrupt of the UART on.
pub fn listen() {
    with(|terminal| terminal.uart.0.enable_receive_interrupt());
}

/// See [`say!`](crate::say).
pub fn print(text: Arguments<'_>) {
    with(|terminal| terminal.console.print(text, &mut terminal.uart));
}

/// Output of a partition.
pub fn output(partition: usize, byte: u8) {
    with(|terminal| {
        terminal
            .console
            .write(Source::Partition(partition), &[byte], &mut terminal.uart)
    });
}

/// A partition starts afresh or is gone: ends its line.
pub fn end_line(partition: usize) {
    with(|terminal| {
        terminal
            .console
            .end(Source::Partition(partition), &mut terminal.uart)
    });
}

/// The next byte of input that is for a partition, with whose it is; `None` if there is no more input.
pub fn input() -> Option<(usize, u8)> {
    let mut terminal = TERMINAL.lock();
    let terminal = terminal.as_mut()?;
    terminal.uart.0.clear_interrupts();
    // At most what the FIFO holds: more raises the interrupt again.
    for _ in 0..64 {
        let byte = terminal.uart.0.read_byte()?;
        if let Some(for_partition) = terminal.console.input(byte, &mut terminal.uart) {
            return Some(for_partition);
        }
    }
    None
}

fn with(action: impl FnOnce(&mut Terminal)) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        action(terminal);
    }
}
