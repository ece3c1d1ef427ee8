//! The hardware side of a vCPU: entering it, and what comes back.

use super::area::{self, Local};
use super::controls;
use super::cpu;
use super::exit::{self, AbortInfo, Exit, Syndrome, decode};
use super::inject::{self, Before, Exception};
use super::sysreg::{read, write_guest};
use super::vcpu::{Registers, VcpuConfig};
use core::arch::{asm, global_asm};
use core::mem::offset_of;

unsafe extern "C" {
    fn sluice_enter_guest(registers: *mut Registers) -> u64;
    fn sluice_reset_floating_point();
}

// Clears V0 to V31, FPCR and FPSR. EL2 itself is built without floating point.
global_asm!(
    ".pushsection .text.sluice_reset_floating_point, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".global sluice_reset_floating_point",
    "sluice_reset_floating_point:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "movi v\\n\\().2d, #0",
    ".endr",
    "msr FPCR, xzr",
    "msr FPSR, xzr",
    "ret",
    ".arch_extension nosimd",
    ".arch_extension nofp",
    ".popsection",
);

/// What is known of the guest beside its registers.
#[derive(Debug)]
pub struct Guest {
    /// The EL1 registers are still those of before a reset.
    fresh: bool,
    /// The CPU has FEAT_RAS.
    ras: bool,
    esr: u64,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            fresh: true,
            ras: false,
            esr: 1 << 25,
        }
    }
}

impl Guest {
    pub(crate) fn reset(&mut self) {
        self.fresh = true;
    }

    /// Length of the instruction that exited (ESR_EL2.IL), in bytes.
    pub(crate) fn instruction_length(&self) -> u64 {
        if self.esr & 1 << 25 != 0 { 4 } else { 2 }
    }

    pub(crate) fn run(&mut self, registers: &mut Registers, config: &VcpuConfig) -> Exit {
        if self.fresh {
            self.start(config);
        }
        if let Some(error) = self.deferred_error()
            && !error.is_corrected()
        {
            panic!("SError at EL2: {error}");
        }
        // SAFETY: the guest changes its own registers and memory only: EL1 is behind stage 2 (HCR_EL2.VM), and
        // comes back through the vectors with the stack and the callee-saved registers as they were.
        let kind = unsafe { sluice_enter_guest(registers) };
        self.esr = read!("ESR_EL2");
        if let Some(error) = self.deferred_error() {
            // It comes before the exit, which comes again; only HVC is over by then (D1.4.1, "preferred exception return
            // address").
            if kind == 0 && exit::is_hypercall(self.esr) {
                registers.pc = registers.pc.wrapping_sub(4);
            }
            return Exit::SError(error);
        }
        match kind {
            0 => self.synchronous(registers),
            // Without FEAT_RAS, EL2's own show here as well, as EL2 masks them: still the best that is known.
            3 => Exit::SError(Syndrome(self.esr)),
            _ => Exit::Interrupt,
        }
    }

    fn synchronous(&self, registers: &Registers) -> Exit {
        let far = read!("FAR_EL2");
        if !exit::needs_address(self.esr) {
            return decode(self.esr, far, read!("HPFAR_EL2"));
        }
        match look_up(far, registers.pstate & 0xf == 0) {
            Some(par) => match exit::translated(par) {
                Some(page) => exit::read_only(self.esr, far, page),
                None => Exit::Retry,
            },
            // What the guest would have had itself.
            None => Exit::Abort(AbortInfo {
                ipa: None,
                far,
                fetch: false,
                write: true,
                walk: false,
                esr: self.esr,
            }),
        }
    }

    /// Everything as after reset.
    fn start(&mut self, config: &VcpuConfig) {
        let features = cpu::features();
        self.ras = controls::has_ras(&features);
        controls::set(config, &features);
        controls::reset_el1(&features);
        // SAFETY: forgets what an earlier life of this guest left in the TLB under its VMID; invalidation loses no data.
        unsafe {
            asm!(
                "isb",
                "tlbi vmalle1",
                "dsb nsh",
                "isb",
                options(nostack, preserves_flags)
            );
        }
        // PFR0.FP: 15 is none.
        if features.ID_AA64PFR0() >> 16 & 0xf != 0xf {
            // SAFETY: these registers hold nothing of EL2's, and CPTR_EL2 does not trap them since `set`, which is
            // synchronized.
            unsafe { sluice_reset_floating_point() };
        }
        self.fresh = false;
    }

    /// An SError that was pending at the last ESB, of which there is one at each exit (`exceptions.S`) and one here:
    /// so whatever is found was caused since the one before (D20.5, ESB; `DISR_EL1`).
    fn deferred_error(&self) -> Option<Syndrome> {
        if !self.ras {
            return None;
        }
        let disr: u64;
        // SAFETY: ESB (HINT #16) and its register: errors are recorded there instead of being taken.
        unsafe { asm!("hint #16", "mrs {}, S3_0_C12_C1_1", out(reg) disr, options(nostack)) };
        if disr & 1 << 31 == 0 {
            return None;
        }
        // SAFETY: as above; the record is taken.
        unsafe { asm!("msr S3_0_C12_C1_1, xzr", options(nostack)) };
        Some(Syndrome::deferred(disr))
    }

    pub(crate) fn stop(&mut self) {
        controls::stop_timers();
        // SAFETY: a barrier: from here on no timer is high.
        unsafe { asm!("isb", options(nostack, preserves_flags)) };
    }

    /// HCR_EL2.VSE stays until the guest takes it, or is reset.
    pub(crate) fn inject_error(&mut self) {
        write_guest! { "HCR_EL2" => read!("HCR_EL2") | controls::VIRTUAL_SERROR; }
    }

    pub(crate) fn inject(&mut self, registers: &mut Registers, exception: Exception) {
        let before = Before {
            pc: registers.pc,
            pstate: registers.pstate,
            vbar: read!("VBAR_EL1"),
            sctlr: read!("SCTLR_EL1"),
        };
        let after = inject::take(&before, exception);
        write_guest! {
            "ELR_EL1" => before.pc;
            "SPSR_EL1" => before.pstate;
            "ESR_EL1" => after.esr;
        }
        if let Some(far) = after.far {
            write_guest! { "FAR_EL1" => far; }
        }
        registers.pc = after.pc;
        registers.pstate = after.pstate;
    }
}

/// What the guest's stage 1 makes of an address now, as PAR_EL1 has it; `None` where memory did not answer.
///
/// A fault of either stage on the walk is in the result, but an external abort on it is taken by EL2 (Arm ARM, D8.15.2):
/// `exceptions.S` lets it go on behind the instruction.
fn look_up(far: u64, from_el0: bool) -> Option<u64> {
    let (par, answered): (u64, u64);
    // SAFETY: 1. AT changes PAR_EL1 only, which is the guest's and put back; the translation regime is the guest's, as
    //            HCR_EL2.TGE is 0.
    //         2. The exception that it may take changes no register but ELR_EL2, SPSR_EL2, ESR_EL2 and FAR_EL2, of which
    //            nobody here reads any before it is written again, and SP_EL0, which is the guest's and put back.
    unsafe {
        asm!(
            "mrs {stack}, SP_EL0",
            "mrs {saved}, PAR_EL1",
            "adr {result}, 4f",
            "str {result}, [{local}, #{recover}]",
            "cbnz {user:w}, 2f",
            "at s1e1r, {far}",
            "b 3f",
            "2: at s1e0r, {far}",
            "3: isb",
            "4: ldr {answered}, [{local}, #{recover}]",
            "str xzr, [{local}, #{recover}]",
            "mrs {result}, PAR_EL1",
            "msr PAR_EL1, {saved}",
            "msr SP_EL0, {stack}",
            local = in(reg) area::local(),
            recover = const offset_of!(Local, recover),
            far = in(reg) far,
            user = in(reg) u32::from(from_el0),
            stack = out(reg) _,
            saved = out(reg) _,
            result = out(reg) par,
            answered = out(reg) answered,
            options(nostack, preserves_flags)
        );
    }
    (answered != 0).then_some(par)
}
