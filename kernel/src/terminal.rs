//! The physical UART with the console on it, for every CPU: [`say!`](crate::say) prints a line of the hypervisor's own.
//!
//! Its lock is the last one that anybody takes: nothing in here locks anything else.

use crate::console::{Console, Input, Source};
use crate::lock::Mutex;
use crate::output::Output;
use crate::tick;
use alloc::vec::Vec;
use arch::Uart;
use arch::clock;
use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, Ordering};

/// Output that waits for the rest of its line is shown once nothing has come for so long.
const IDLE_NS: u64 = 1_000_000_000;
/// The UART is looked at again after so long while there is something for it: less than its FIFO takes to run empty, and
/// at the cost of the CPU that wrote last.
const PUMP_NS: u64 = 1_000_000;
/// How long the end of the machine waits for the terminal, if somebody else has it.
const END_NS: u64 = 100_000_000;

static TERMINAL: Mutex<Option<Terminal>> = Mutex::new(None);

/// Partitions have to wait: see [`crate::output`].
static CONGESTED: AtomicBool = AtomicBool::new(false);

struct Terminal {
    console: Console,
    output: Output,
    /// When each partition last wrote something.
    touched: Vec<u64>,
    /// Interrupts are served, the timer's among them: nobody waits for the UART.
    served: bool,
}

/// Prints a line of the hypervisor's own, with the arguments of `format!`.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::print(format_args!($($argument)*))
    };
}

/// From here on what is said is heard.
pub fn open(uart: Uart) {
    *TERMINAL.lock() = Some(Terminal {
        console: Console::new([]),
        output: Output::new(uart),
        touched: Vec::new(),
        served: false,
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
        terminal.console.print(text, &mut terminal.output);
        terminal.wait_for_the_rest(terminal.console.selected());
    });
}

/// From here on the timer of each CPU is served, and nobody waits for the UART any more.
pub fn serve() {
    with(|terminal| terminal.served = true);
}

/// Whether partitions have to wait before they write more.
pub fn is_congested() -> bool {
    CONGESTED.load(Ordering::Acquire)
}

/// Output of a partition. It is lost if there is no room, which [`is_congested`] has said long before.
pub fn output(partition: usize, byte: u8) {
    with(|terminal| {
        if !terminal.output.has_room() {
            return;
        }
        let source = Source::Partition(partition);
        terminal
            .console
            .write(source, &[byte], &mut terminal.output);
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
            .end(Source::Partition(partition), &mut terminal.output)
    });
}

/// Gives the UART what it takes. When to do so again, and whether partitions that have waited may go on.
pub fn pump() -> (Option<u64>, bool) {
    let mut terminal = TERMINAL.lock();
    let Some(terminal) = terminal.as_mut() else {
        return (None, false);
    };
    let left = terminal.output.pump();
    let relieved = terminal.output.is_low() && CONGESTED.swap(false, Ordering::AcqRel);
    (left.then(|| clock::now_ns() + PUMP_NS), relieved)
}

/// Before the machine is switched off: everything that was written leaves it.
pub fn flush() {
    let end = clock::now_ns() + END_NS;
    loop {
        if let Some(mut terminal) = TERMINAL.try_lock() {
            if let Some(terminal) = terminal.as_mut() {
                terminal.output.flush();
            }
            return;
        }
        // It may be this CPU, in the middle of a panic.
        if clock::now_ns() > end {
            return;
        }
    }
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
            terminal.console.show_kept(partition, &mut terminal.output);
        } else if terminal.console.keeps(partition) {
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    terminal.send();
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
        .is_some_and(|terminal| terminal.output.uart.has_input())
}

/// The next byte of input; `None` if none waits.
pub fn input() -> Option<Input> {
    let mut terminal = TERMINAL.lock();
    let terminal = terminal.as_mut()?;
    let byte = terminal.output.uart.read_byte()?;
    let input = terminal.console.input(byte, &mut terminal.output);
    terminal.send();
    Some(input)
}

/// Whether input that waits raises the interrupt of the UART. What has raised it up to now is forgotten.
pub fn listen(on: bool) {
    with(|terminal| {
        terminal.output.uart.clear_interrupts();
        if on {
            terminal.output.uart.enable_receive_interrupt();
        } else {
            terminal.output.uart.disable_receive_interrupt();
        }
    });
}

fn with(action: impl FnOnce(&mut Terminal)) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        action(terminal);
        terminal.send();
    }
}

impl Terminal {
    /// Gives the UART what it takes now, and has this CPU look after the rest.
    fn send(&mut self) {
        if !self.served {
            self.output.drain();
        } else if self.output.pump() {
            if self.output.is_high() {
                CONGESTED.store(true, Ordering::Release);
            }
            tick::by(clock::now_ns() + PUMP_NS);
        }
    }

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
