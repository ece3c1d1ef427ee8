//! The other CPUs: where they start, and how (Intel SDM, volume 3, "MP Initialization Protocol Algorithm").

use super::area;
use super::{apic, clock, cpu, exceptions, mmu};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::mutex::SpinMutex;
use spin::once::Once;

/// The page where they start: ordinary RAM of every PC, between the BIOS's data and its extended data.
pub const TRAMPOLINE: Range<u64> = 0x8000..0x9000;

global_asm!(
    include_str!("trampoline.S"),
    page = const TRAMPOLINE.start,
    root = const offset_of!(Launch, root),
    stack = const offset_of!(Launch, stack),
    entry = const offset_of!(Launch, entry),
    cr0 = const mmu::CR0,
    cr4 = const mmu::CR4,
    efer = const mmu::EFER,
);

unsafe extern "C" {
    static sluice_trampoline: u8;
    static sluice_trampoline_launch: u8;
    static sluice_trampoline_end: u8;
}

/// Copies what runs there.
///
/// # Safety
/// [`TRAMPOLINE`] is RAM that nobody uses, mapped for writing.
pub unsafe fn place_trampoline() {
    let from = &raw const sluice_trampoline;
    let len = (&raw const sluice_trampoline_end).addr() - from.addr();
    let to: *mut u8 = core::ptr::with_exposed_provenance_mut(TRAMPOLINE.start as usize);
    // SAFETY: a constant of the image, less than a page; the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
    let launch = (&raw const sluice_trampoline_launch).addr() - from.addr();
    // SAFETY: a word of the copy, which need not be aligned. The image is below 4 GiB.
    unsafe {
        to.add(launch)
            .cast::<u32>()
            .write_unaligned((&raw const LAUNCH).addr() as u32)
    };
}

/// What the CPU that starts reads, in 32-bit mode: below 4 GiB, as all of the image.
#[repr(C)]
struct Launch {
    root: AtomicU64,
    stack: AtomicU64,
    entry: AtomicU64,
    index: AtomicUsize,
    /// The area that it uses; 0 once it does.
    area: AtomicU64,
    then: AtomicUsize,
}

static LAUNCH: Launch = Launch {
    root: AtomicU64::new(0),
    stack: AtomicU64::new(0),
    entry: AtomicU64::new(0),
    index: AtomicUsize::new(0),
    area: AtomicU64::new(0),
    then: AtomicUsize::new(0),
};

/// One starts at a time.
static STARTS: SpinMutex<()> = SpinMutex::new(());

/// Why a CPU did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// There is no stack for a CPU of this number.
    NoStack(usize),
    /// It did not come within [`PATIENCE_NS`].
    NoAnswer,
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoStack(cpu) => ("no stack for CPU", Some(cpu as u64)),
            Self::NoAnswer => ("no answer", None),
        };
        crate::text::write(f, what, value)
    }
}

/// The areas of the CPUs that this one may start.
struct Areas {
    base: u64,
    count: usize,
}

static AREAS: Once<Areas> = Once::new();

/// Hands over `count` areas, one after the other from `base`, for the CPUs with numbers 0 to `count`.
///
/// # Safety
/// The memory is used by nothing else, and the map that is active when [`start`] is called maps the [`area::stacks`] of
/// each and not its [`area::guards`], and [`TRAMPOLINE`] for execution, with what [`place_trampoline`] left there.
pub unsafe fn provide_areas(base: u64, count: usize) {
    AREAS.call_once(|| Areas { base, count });
}

/// From INIT to the first start-up IPI, and from that to the second, which a CPU that has started ignores.
const AFTER_INIT_NS: u64 = 10_000_000;
const AFTER_STARTUP_NS: u64 = 200_000;
/// How long a CPU may take.
pub const PATIENCE_NS: u64 = 1_000_000_000;

/// Starts the CPU with APIC ID `id` as number `index`, in `entry(index)`. Each number is used once.
pub fn start(index: usize, id: u64, entry: fn(usize) -> !) -> Result<(), StartError> {
    let area = AREAS
        .get()
        .filter(|areas| index < areas.count)
        .map(|areas| areas.base + index as u64 * area::SIZE)
        .ok_or(StartError::NoStack(index))?;
    let _one = STARTS.lock();
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) };
    let first: extern "C" fn() -> ! = arrive;
    LAUNCH.root.store(root, Ordering::Relaxed);
    LAUNCH
        .stack
        .store(area + area::STACK_END, Ordering::Relaxed);
    LAUNCH.entry.store(first as usize as u64, Ordering::Relaxed);
    LAUNCH.index.store(index, Ordering::Relaxed);
    LAUNCH.then.store(entry as usize, Ordering::Relaxed);
    LAUNCH.area.store(area, Ordering::Release);
    let id = id as u32;
    apic::init_cpu(id);
    wait(AFTER_INIT_NS);
    let page = (TRAMPOLINE.start >> 12) as u8;
    for _ in 0..2 {
        apic::start_cpu(id, page);
        if wait(AFTER_STARTUP_NS) {
            return Ok(());
        }
    }
    match wait(PATIENCE_NS) {
        true => Ok(()),
        false => {
            // It may still come, and must not find the next one's stack.
            apic::init_cpu(id);
            Err(StartError::NoAnswer)
        }
    }
}

/// Waits for the CPU that starts, at most so long; whether it is there.
fn wait(ns: u64) -> bool {
    let start = clock::now_ns();
    loop {
        if LAUNCH.area.load(Ordering::Acquire) == 0 {
            return true;
        }
        if clock::now_ns() - start >= ns {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Where a CPU that has started comes to: in 64-bit mode, on its own stack.
extern "C" fn arrive() -> ! {
    let index = LAUNCH.index.load(Ordering::Relaxed);
    let then = LAUNCH.then.load(Ordering::Relaxed);
    let area = LAUNCH.area.load(Ordering::Acquire);
    // SAFETY: `start` made it this CPU's, and it is mapped (`provide_areas`).
    unsafe { exceptions::adopt(area, index) };
    apic::init();
    LAUNCH.area.store(0, Ordering::Release);
    // SAFETY: `start` stored a function of this type.
    let then: fn(usize) -> ! = unsafe { core::mem::transmute(then) };
    debug_assert_eq!(cpu::index(), index);
    then(index)
}
