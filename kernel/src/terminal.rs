//! The physical UART with the console on it, for every CPU: [`say!`](crate::say) prints a line of the hypervisor's own.
//!
//! Its lock is the last one that anybody takes: nothing in here locks anything else.

use crate::console::{Console, Input, Sink, Source};
use crate::lock::Mutex;
use crate::tick;
use alloc::vec::Vec;
use arch::clock;
use arch::pl011::Pl011;
use core::fmt::Arguments;

/// Output that waits for the rest of its line is shown once nothing has come for so long.
const IDLE_NS: u64 = 1_000_000_000;

static TERMINAL: Mutex<Option<Terminal>> = Mutex::new(None);

struct Terminal {
    console: Console,
    uart: Uart,
    /// When each partition last wrote something.
    touched: Vec<u64>,
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
        touched: Vec::new(),
    });
}

/// Gives each partition its lines; the first gets the input.
pub fn name_partitions<'a>(names: impl ExactSizeIterator<Item = &'a str>) {
    with(|terminal| {
        terminal.touched = alloc::vec![0; names.len()];
        terminal.console = Console::new(names);
    });
}

/// See [`say!`](crate::say).
pub fn print(text: Arguments<'_>) {
    with(|terminal| {
        terminal.console.print(text, &mut terminal.uart);
        terminal.wait_for_the_rest(terminal.console.selected());
    });
}

/// Output of a partition.
pub fn output(partition: usize, byte: u8) {
    with(|terminal| {
        let source = Source::Partition(partition);
        terminal.console.write(source, &[byte], &mut terminal.uart);
        // What it cut off is the selected one's.
        let selected = terminal.console.selected();
        terminal.wait_for_the_rest(Some(partition).filter(|_| byte != b'\n').or(selected));
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

/// Shows what has waited long enough for the rest of its line. When to look again, on [`clock::now_ns`].
pub fn show_idle() -> Option<u64> {
    let mut terminal = TERMINAL.lock();
    let terminal = terminal.as_mut()?;
    let now = clock::now_ns();
    let mut next: Option<u64> = None;
    for (partition, touched) in terminal.touched.iter().enumerate() {
        let due = touched.saturating_add(IDLE_NS);
        if due <= now {
            terminal.console.show_kept(partition, &mut terminal.uart);
        } else if terminal.console.keeps(partition) {
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    next
}

/// The partition that gets the input.
pub fn selected() -> Option<usize> {
    TERMINAL.lock().as_ref()?.console.selected()
}

/// Whether a byte of input waits.
pub fn has_input() -> bool {
    let terminal = TERMINAL.lock();
    terminal
        .as_ref()
        .is_some_and(|terminal| terminal.uart.0.has_input())
}

/// The next byte of input; `None` if none waits.
pub fn input() -> Option<Input> {
    let mut terminal = TERMINAL.lock();
    let terminal = terminal.as_mut()?;
    let byte = terminal.uart.0.read_byte()?;
    Some(terminal.console.input(byte, &mut terminal.uart))
}

/// Whether input that waits raises the interrupt of the UART. What has raised it up to now is forgotten.
pub fn listen(on: bool) {
    with(|terminal| {
        terminal.uart.0.clear_interrupts();
        if on {
            terminal.uart.0.enable_receive_interrupt();
        } else {
            terminal.uart.0.disable_receive_interrupt();
        }
    });
}

fn with(action: impl FnOnce(&mut Terminal)) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        action(terminal);
    }
}

impl Terminal {
    /// If something of `partition` is kept: has this CPU look again later.
    fn wait_for_the_rest(&mut self, partition: Option<usize>) {
        if let Some(partition) = partition.filter(|&partition| self.console.keeps(partition))
            && let Some(touched) = self.touched.get_mut(partition)
        {
            *touched = clock::now_ns();
            tick::by(*touched + IDLE_NS);
        }
    }
}
