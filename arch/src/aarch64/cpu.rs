//! The CPU this runs on, and how to start the others.

use super::area::{self, Local};
pub use super::features::Features;
use super::features::IdRegisters;
use super::sysreg::read;
use super::{controls, memory, mmu};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use smccc::Smc;
use smccc::psci;
use spin::once::Once;

/// Number of this CPU: its index in the firmware's list.
pub fn index() -> usize {
    // SAFETY: TPIDR_EL2 was set at entry and is never changed; the area it points into lives as long as the CPU.
    unsafe { (*area::local()).index as usize }
}

/// Gives the boot CPU, which was number 0 until now, its number.
pub fn set_index(index: usize) {
    // SAFETY: as in `index`; the area is this CPU's own.
    unsafe { (*area::local()).index = index as u64 };
}

/// Waits until an interrupt is pending (WFI). It is not taken: EL2 runs with interrupts masked.
///
/// An SError would end every later wait at once. With FEAT_RAS it cannot be a guest's, whose are taken at its exit, so
/// it is let in, and ends the machine.
pub fn wait() {
    // SAFETY: waits; interrupts wake it even while they are masked (Arm ARM D1.7.2).
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    if controls::has_ras(&features()) {
        // SAFETY: an exception from here is described, and nothing goes on (`exceptions`).
        unsafe {
            asm!(
                "msr daifclr, #4",
                "isb",
                "msr daifset, #4",
                options(nostack)
            )
        };
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are masked first, so nothing follows but waiting.
        unsafe { asm!("msr daifset, #15", "wfi", options(nostack)) };
    }
}

/// What this CPU is and can do.
pub fn features() -> Features {
    macro_rules! row {
        ($crm:literal) => {
            [
                read!(concat!("S3_0_C0_C", $crm, "_0")),
                read!(concat!("S3_0_C0_C", $crm, "_1")),
                read!(concat!("S3_0_C0_C", $crm, "_2")),
                read!(concat!("S3_0_C0_C", $crm, "_3")),
                read!(concat!("S3_0_C0_C", $crm, "_4")),
                read!(concat!("S3_0_C0_C", $crm, "_5")),
                read!(concat!("S3_0_C0_C", $crm, "_6")),
                read!(concat!("S3_0_C0_C", $crm, "_7")),
            ]
        };
    }
    let id = IdRegisters([
        row!("1"),
        row!("2"),
        row!("3"),
        row!("4"),
        row!("5"),
        row!("6"),
        row!("7"),
    ]);
    Features::new(read!("MIDR_EL1"), read!("REVIDR_EL1"), read!("CTR_EL0"), id)
}

/// Whether this is EL2: anywhere else, nothing in this crate works but [`halt`].
pub fn at_el2() -> bool {
    read!("CurrentEL") == 2 << 2
}

/// Affinity of this CPU: what firmware calls it.
pub fn mpidr() -> u64 {
    read!("MPIDR_EL1") & 0xff_00ff_ffff
}

/// Why a CPU did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// There is no stack for a CPU of this number.
    NoStack(usize),
    /// Firmware refused: a PSCI error code (DEN0022 5.2.2).
    Psci(i64),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoStack(cpu) => ("no stack for CPU", Some(cpu as u64)),
            Self::Psci(code) => ("PSCI error, negative:", Some(code.unsigned_abs())),
        };
        crate::text::write(f, what, value)
    }
}

/// What a starting CPU needs before it has its MMU on; it reads this with caches off.
#[repr(C)]
struct Launch {
    mair: u64,
    tcr: u64,
    root: u64,
    sctlr: u64,
    local: u64,
    stack: u64,
    index: u64,
    entry: fn(usize) -> !,
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
/// each and not its [`area::guards`].
pub unsafe fn provide_areas(base: u64, count: usize) {
    AREAS.call_once(|| Areas { base, count });
}

/// Starts the CPU with affinity `mpidr` as number `index`, in `entry(index)`. Each number is used once.
pub fn start(index: usize, mpidr: u64, entry: fn(usize) -> !) -> Result<(), StartError> {
    let areas = AREAS
        .get()
        .filter(|areas| index < areas.count)
        .ok_or(StartError::NoStack(index))?;
    let area = areas.base + index as u64 * area::SIZE;
    let local = area + area::EMERGENCY_END;
    let launch = Launch {
        mair: mmu::MAIR,
        tcr: read!("TCR_EL2"),
        root: read!("TTBR0_EL2"),
        sctlr: mmu::SCTLR,
        local,
        stack: area + area::STACK_END,
        index: index as u64,
        entry,
    };
    let local: *mut Local = core::ptr::with_exposed_provenance_mut(local as usize);
    // SAFETY: the area is that of a CPU that does not run yet (`provide_areas`), and mapped here.
    unsafe {
        local.write(Local {
            index: index as u64,
            in_exception: core::ptr::null(),
            recover: 0,
        })
    };
    let record: *mut Launch =
        core::ptr::with_exposed_provenance_mut((area + area::STACK_END + area::GUARD) as usize);
    // SAFETY: as above: the lowest bytes of its stack for exceptions, which it has not used yet.
    unsafe { record.write(launch) };
    memory::clean(record.cast(), size_of::<Launch>());
    memory::clean(local.cast(), size_of::<Local>());
    let entry: unsafe extern "C" fn() = sluice_secondary_entry;
    psci::cpu_on::<Smc>(mpidr, entry as usize as u64, record as u64)
        .map_err(|error| StartError::Psci(error.into()))
}

unsafe extern "C" {
    fn sluice_secondary_entry();
}

// EL2's own controls that no later step writes, so that nothing of firmware's EL2 is left in them: on every CPU before its
// MMU is on, without a stack. Changes x1 and x2. SCTLR2_EL2 and TCR2_EL2 are there where ID_AA64MMFR3_EL1 says so.
global_asm!(
    ".pushsection .text.sluice_reset_el2, \"ax\"",
    ".global sluice_reset_el2",
    "sluice_reset_el2:",
    "msr AMAIR_EL2, xzr",
    "mrs x1, S3_0_C0_C7_3",
    "and x2, x1, #0xf0",
    "cbz x2, 1f",
    "msr S3_4_C1_C0_3, xzr",
    "1: and x2, x1, #0xf",
    "cbz x2, 1f",
    "msr S3_4_C2_C0_3, xzr",
    "1: ret",
    ".popsection",
);

// Entered by firmware with the MMU off and x0 = `Launch` (DEN0022 6.4). The map is already in use by another CPU.
global_asm!(
    ".pushsection .text.sluice_secondary_entry, \"ax\"",
    ".global sluice_secondary_entry",
    "sluice_secondary_entry:",
    "msr daifset, #15",
    "mov x1, #(1 << 31)",        // HCR_EL2: E2H = 0, EL1 is AArch64
    "msr HCR_EL2, x1",
    "isb",
    "bl sluice_reset_el2",
    "ldp x1, x2, [x0, #{mair}]",
    "msr MAIR_EL2, x1",
    "msr TCR_EL2, x2",
    "ldp x1, x2, [x0, #{root}]",
    "msr TTBR0_EL2, x1",
    "adrp x3, sluice_vectors",
    "add x3, x3, :lo12:sluice_vectors",
    "msr VBAR_EL2, x3",
    "isb",
    "tlbi alle2",
    "tlbi alle1", // guests' VMIDs: reset need not have emptied the TLB (Arm ARM D8.16.1)
    "ic iallu",
    "dsb nsh",
    "isb",
    "msr SCTLR_EL2, x2",
    "isb",
    "ldp x1, x2, [x0, #{local}]",
    "msr SPSel, #1",
    "msr TPIDR_EL2, x1",
    "mov sp, x2",
    "ldp x0, x1, [x0, #{index}]",
    "mov x29, xzr",
    "mov x30, xzr",
    "br x1",
    ".popsection",
    mair = const offset_of!(Launch, mair),
    root = const offset_of!(Launch, root),
    local = const offset_of!(Launch, local),
    index = const offset_of!(Launch, index),
);
