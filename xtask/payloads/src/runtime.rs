//! Entry, console, clock and power of a small guest at EL1, on aarch64-rt. One CPU, no interrupts.

use crate::checks::Checks;
use crate::pci::register;
use crate::tree::{Tree, tree_len};
pub use aarch64_rt::entry;
use aarch64_rt::{
    ExceptionHandlers, InitialPagetable, RegisterStateRef, exception_handlers, initial_pagetable,
};
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use smccc::Hvc;

/// Valid block, access flag, EL1 read/write; MAIR index 0 (device) and execute-never.
const DEVICE: usize = 1 | 1 << 10 | 3 << 53;
/// The same with MAIR index 1 (normal write-back), inner shareable, executable at EL1.
const NORMAL: usize = 1 | 1 << 10 | 3 << 8 | 1 << 2 | 1 << 54;

/// First address of the window for BARs (kernel::guest_map::PCI_WINDOW).
pub const PCI_WINDOW: u64 = 0x1000_0000;
/// What no DMA may reach by default: GIC distributor, ITS control frame, UART.
pub const DEVICES: [u64; 3] = [0x0800_0000, 0x0808_0000, 0x0900_0000];

initial_pagetable!({
    let mut identity = [0; 512];
    // 1 GiB of devices, then RAM: kernel::guest_map.
    identity[0] = DEVICE;
    let mut gib = 1;
    while gib < 16 {
        identity[gib] = NORMAL | gib << 30;
        gib += 1;
    }
    InitialPagetable(identity)
});

exception_handlers!(Handlers);

/// An expected exception is counted and skipped; anything else is a bug of the scenario.
struct Handlers;

/// Exception class of an instruction abort without a change of level (DDI 0487, D24.2.40).
const INSTRUCTION_ABORT: u64 = 0x21;

/// Synchronous external aborts and undefined instructions taken while [`expect_fault`] runs.
static FAULTS: AtomicU64 = AtomicU64::new(0);
static EXPECTING: AtomicU64 = AtomicU64::new(0);
/// ESR_EL1 of the last of them.
static SYNDROME: AtomicU64 = AtomicU64::new(0);

impl ExceptionHandlers for Handlers {
    extern "C" fn sync_current(mut state: RegisterStateRef) {
        let (esr, far): (u64, u64);
        // SAFETY: reads of two EL1 registers have no side effect.
        unsafe { asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) esr, out(reg) far) };
        if EXPECTING.load(Ordering::Relaxed) == 0 {
            panic!("exception: esr {esr:#x} far {far:#x} elr {:#x}", state.elr);
        }
        FAULTS.fetch_add(1, Ordering::Relaxed);
        SYNDROME.store(esr, Ordering::Relaxed);
        // A jump to nowhere goes on where it would have returned to; all else behind the instruction.
        let next = match esr >> 26 {
            // aarch64-rt's frame has x30 there.
            INSTRUCTION_ABORT => state.sp as usize,
            _ => state.elr + 4,
        };
        // SAFETY: the faulting instruction is one `asm!` load, store, branch with link or system instruction of
        // `expect_fault`'s caller, which treats its output as meaningless after a fault.
        unsafe { state.get_mut().elr = next };
    }
}

/// Runs `action` and returns how many of its instructions were refused by a synchronous exception.
pub fn expect_fault(action: impl FnOnce()) -> u64 {
    let before = FAULTS.load(Ordering::Relaxed);
    EXPECTING.store(1, Ordering::Relaxed);
    action();
    EXPECTING.store(0, Ordering::Relaxed);
    FAULTS.load(Ordering::Relaxed) - before
}

/// The syndrome (ESR_EL1) of the last instruction that was refused there.
pub fn syndrome() -> u64 {
    SYNDROME.load(Ordering::Relaxed)
}

/// The console; every [`Console`] writes to the same PL011.
#[derive(Clone, Copy)]
pub struct Console(u64);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the address is the PL011 of our own device tree, mapped as device memory; one CPU, no interrupts, and
        // the pointer does not outlive this call, so nothing else refers to it meanwhile.
        let registers = unsafe {
            UniqueMmioPointer::new(NonNull::new(self.0 as *mut PL011Registers).ok_or(fmt::Error)?)
        };
        Uart::new(registers).write_str(text)
    }
}

static UART: AtomicU64 = AtomicU64::new(0);

/// What a scenario starts with.
pub struct Guest {
    /// The tree it was given.
    pub tree: Tree<'static>,
    /// Its checks, printed on the console.
    pub checks: Checks<Console>,
}

/// Reads the tree at `address` (x0 at entry) and finds the console.
pub fn start(address: u64) -> Guest {
    // SAFETY: the boot protocol puts a device tree of at most 2 MiB there, 2 MiB-aligned in our RAM behind the image;
    // nobody writes it.
    let header = unsafe { core::slice::from_raw_parts(address as *const u8, 8) };
    let Some(len) = tree_len(header) else {
        power_off()
    };
    // SAFETY: as above, and the header says that it is this long.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, len) };
    let Some(tree) = Tree::read(bytes) else {
        power_off()
    };
    let Some(uart) = tree.uart else { power_off() };
    UART.store(uart, Ordering::Relaxed);
    Guest {
        tree,
        checks: Checks::new(Console(uart)),
    }
}

/// Longest line that is typed to a guest.
const LINE: usize = 64;
// PL011 registers (DDI 0183G, 3.2).
const UART_DATA: u64 = 0x00;
const UART_FLAGS: u64 = 0x18;
const UART_LINE_CONTROL: u64 = 0x2c;
const UART_CONTROL: u64 = 0x30;
/// UARTFR.RXFE.
const RECEIVE_EMPTY: u32 = 1 << 4;

/// Turns the receiver of the console on. What was typed before is lost.
pub fn listen() {
    let uart = UART.load(Ordering::Relaxed);
    // 8 bits and FIFOs; then on, in both directions.
    register(uart + UART_LINE_CONTROL).write(0x70);
    register(uart + UART_CONTROL).write(0x301);
}

/// Waits for a line on the console and passes it to `action`, without its end. `None` if none came in `limit_ms`.
pub fn with_line<T>(limit_ms: u64, action: impl FnOnce(&str) -> T) -> Option<T> {
    let uart = UART.load(Ordering::Relaxed);
    let end = now_ns() + limit_ms * 1_000_000;
    let mut line = [0; LINE];
    let mut len = 0;
    while now_ns() < end {
        if register(uart + UART_FLAGS).read() & RECEIVE_EMPTY != 0 {
            continue;
        }
        match register(uart + UART_DATA).read() as u8 {
            b'\r' | b'\n' => return core::str::from_utf8(&line[..len]).ok().map(action),
            byte if len < LINE => {
                line[len] = byte;
                len += 1;
            }
            _ => {}
        }
    }
    None
}

/// Takes a byte that has come on the console since [`listen`]; whether there was one.
pub fn take_typed() -> bool {
    let uart = UART.load(Ordering::Relaxed);
    let typed = register(uart + UART_FLAGS).read() & RECEIVE_EMPTY == 0;
    if typed {
        register(uart + UART_DATA).read();
    }
    typed
}

/// Waits until a byte has come on the console, or until the clock says `end_ns`, without a single access to memory: what is
/// seen of it from outside stays as it is.
pub fn wait_silently(end_ns: u64) {
    let flags = UART.load(Ordering::Relaxed) + UART_FLAGS;
    let frequency: u64;
    // SAFETY: a read without side effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency) };
    let end = (u128::from(end_ns) * u128::from(frequency) / 1_000_000_000) as u64;
    // About a millisecond between two looks at the UART, each of which is an exit.
    let pause = frequency / 1000;
    // SAFETY: reads of a counter and of the UART's flags, which have no side effect.
    unsafe {
        asm!(
            "2: mrs {now}, cntvct_el0",
            "cmp {now}, {end}",
            "b.hs 4f",
            "ldr {word:w}, [{flags}]",
            "tbz {word:w}, #4, 4f",
            "add {now}, {now}, {pause}",
            "3: mrs {word}, cntvct_el0",
            "cmp {word}, {now}",
            "b.lo 3b",
            "b 2b",
            "4:",
            now = out(reg) _, word = out(reg) _,
            end = in(reg) end, flags = in(reg) flags, pause = in(reg) pause,
            options(nostack),
        );
    }
}

/// 4 KiB of our RAM at `address`, for a device: atomics, because it writes behind our back.
pub fn page(address: u64) -> &'static [AtomicU64; 512] {
    assert!(address.is_multiple_of(4096) && address >= 0x4040_0000);
    // SAFETY: RAM behind the payload and its device tree (kernel::config::place), which nothing else uses; atomics may
    // change at any time.
    unsafe { &*(address as *const [AtomicU64; 512]) }
}

/// `count` words of our RAM at `address`, for a device: atomics, because it writes behind our back.
pub fn words(address: u64, count: usize) -> &'static [AtomicU64] {
    assert!(address.is_multiple_of(8) && address >= 0x4040_0000);
    // SAFETY: as in `page`; a scenario has more RAM than it names.
    unsafe { core::slice::from_raw_parts(address as *const AtomicU64, count) }
}

/// What was written before is there for devices, and what they wrote for us, once this is over.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy") };
}

/// Nanoseconds since the machine started.
pub fn now_ns() -> u64 {
    let (ticks, hz): (u64, u64);
    // SAFETY: reads of the virtual counter and its frequency have no side effect.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) ticks, out(reg) hz) };
    (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as u64
}

/// The counter.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: a read without side effect.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks) };
    ticks
}

/// Ticks of the counter a second.
pub fn frequency() -> u64 {
    let hz;
    // SAFETY: a read without side effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz) };
    hz
}

/// Waits by looking at the clock.
pub fn sleep_ms(ms: u64) {
    let end = now_ns() + ms * 1_000_000;
    while now_ns() < end {
        core::hint::spin_loop();
    }
}

/// Ends this partition.
pub fn power_off() -> ! {
    let _ = smccc::psci::system_off::<Hvc>();
    loop {
        core::hint::spin_loop();
    }
}

/// Restarts this partition.
pub fn reset() -> ! {
    let _ = smccc::psci::system_reset::<Hvc>();
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut console = Console(UART.load(Ordering::Relaxed));
    let _ = writeln!(console, "{info}\r\nresult: failed (panic)\r");
    power_off()
}
