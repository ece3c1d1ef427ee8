//! Entry, console, clock and power of a small guest at EL1, on aarch64-rt. One CPU, no interrupts.

use crate::checks::Checks;
use crate::tree::{Tree, tree_len};
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

/// An expected abort is counted and skipped; anything else is a bug of the scenario.
struct Handlers;

/// Synchronous external aborts and undefined instructions taken while [`expect_fault`] runs.
static FAULTS: AtomicU64 = AtomicU64::new(0);
static EXPECTING: AtomicU64 = AtomicU64::new(0);

impl ExceptionHandlers for Handlers {
    extern "C" fn sync_current(mut state: RegisterStateRef) {
        if EXPECTING.load(Ordering::Relaxed) == 0 {
            let (esr, far): (u64, u64);
            // SAFETY: reads of two EL1 registers have no side effect.
            unsafe { asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) esr, out(reg) far) };
            panic!("exception: esr {esr:#x} far {far:#x} elr {:#x}", state.elr);
        }
        FAULTS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the faulting instruction is one `asm!` load, store or system instruction of `expect_fault`'s caller,
        // which treats its output as meaningless after a fault; execution goes on right behind it.
        unsafe { state.get_mut().elr += 4 };
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

/// Nanoseconds since the machine started.
pub fn now_ns() -> u64 {
    let (ticks, hz): (u64, u64);
    // SAFETY: reads of the virtual counter and its frequency have no side effect.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) ticks, out(reg) hz) };
    (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as u64
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
