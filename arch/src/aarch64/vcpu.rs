//! A guest's CPU: its registers, how it is entered, and how exceptions are put into it.
//!
//! A vCPU stays on one physical CPU, so its EL1 registers and its floating point stay in the hardware: only the general
//! registers are here. What touches the hardware is in `guest`, a fake of it in `host` elsewhere.

pub use super::exit::{AbortInfo, Exit, MmioAccess, Syndrome, SysregAccess};
pub use super::inject::Exception;

use crate::machine::guest::Guest;

/// PSTATE at reset: EL1 with its own stack pointer, all exceptions masked (Arm ARM C5.2, DAIF and SPSel).
const PSTATE_RESET: u64 = 0x3c5;

/// PSTATE.BTYPE and PSTATE.SS: gone once an instruction has been carried out.
const PSTATE_INSTRUCTION: u64 = 3 << 10 | 1 << 21;

/// The general registers. `exceptions.S` relies on this layout.
#[repr(C)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers {
    pub(crate) x: [u64; 31],
    pub(crate) pc: u64,
    pub(crate) pstate: u64,
}

/// What a vCPU is told to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuConfig {
    /// `MPIDR_EL1` as the guest reads it.
    pub vmpidr: u64,
    /// `MIDR_EL1` as the guest reads it.
    pub vpidr: u64,
    /// WFI leaves the guest, rather than waiting in it.
    pub trap_wfi: bool,
    /// The guest has the EL1 physical timer; its registers trap otherwise.
    pub physical_timer: bool,
}

/// A guest's CPU.
#[derive(Debug)]
pub struct Vcpu {
    registers: Registers,
    config: VcpuConfig,
    guest: Guest,
}

impl Vcpu {
    /// A vCPU as it comes out of reset, at address 0.
    pub fn new(config: VcpuConfig) -> Self {
        let mut vcpu = Self {
            registers: Registers {
                x: [0; 31],
                pc: 0,
                pstate: 0,
            },
            config,
            guest: Guest::default(),
        };
        vcpu.reset(0, 0);
        vcpu
    }

    /// What it was told to be.
    pub fn config(&self) -> &VcpuConfig {
        &self.config
    }

    /// Resets it: EL1 with its MMU off, at `pc`, `x0` in x0 and zero in all others. The EL1 registers follow when it
    /// runs next.
    pub fn reset(&mut self, pc: u64, x0: u64) {
        self.registers.x = [0; 31];
        self.registers.x[0] = x0;
        self.registers.pc = pc;
        self.registers.pstate = PSTATE_RESET;
        self.guest.reset();
    }

    /// Runs it on this CPU until there is something to do. Always the same CPU, with its stage 2 active.
    pub fn run(&mut self) -> Exit {
        self.guest.run(&mut self.registers, &self.config)
    }

    /// General register `n`; 31 is the zero register.
    pub fn reg(&self, n: u8) -> u64 {
        self.registers.x.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets general register `n`; 31 is the zero register.
    pub fn set_reg(&mut self, n: u8, value: u64) {
        if let Some(register) = self.registers.x.get_mut(usize::from(n)) {
            *register = value;
        }
    }

    /// Program counter.
    pub fn pc(&self) -> u64 {
        self.registers.pc
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, pc: u64) {
        self.registers.pc = pc;
    }

    /// PSTATE, as in SPSR_EL2.
    pub fn pstate(&self) -> u64 {
        self.registers.pstate
    }

    /// Goes on after the instruction that made it exit: it has been carried out.
    pub fn skip_instruction(&mut self) {
        self.registers.pc = self
            .registers
            .pc
            .wrapping_add(self.guest.instruction_length());
        self.registers.pstate &= !PSTATE_INSTRUCTION;
    }

    /// Puts the value that a device gave to a load into its register, and goes on after it.
    pub fn complete_read(&mut self, access: &MmioAccess, value: u64) {
        self.set_reg(access.reg, access.extend(value));
        self.skip_instruction();
    }

    #[cfg(not(target_os = "none"))]
    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    #[cfg(not(target_os = "none"))]
    pub(crate) fn guest_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// Makes a virtual SError pending (HCR_EL2.VSE): it is taken once the guest unmasks it, and forgotten at a reset.
    pub fn inject_error(&mut self) {
        self.guest.inject_error();
    }

    /// It is off from here on: its timers do not fire any more. On the CPU where it ran.
    pub fn stop(&mut self) {
        self.guest.stop();
    }

    /// Makes it take `exception` at EL1, from where it is.
    pub fn inject(&mut self, exception: Exception) {
        self.guest.inject(&mut self.registers, exception);
    }
}

#[cfg(test)]
mod tests {
    use super::{Exception, Exit, MmioAccess, Vcpu, VcpuConfig};

    fn vcpu() -> Vcpu {
        Vcpu::new(VcpuConfig {
            vmpidr: 0x8000_0001,
            vpidr: 0x410f_d0f0,
            trap_wfi: true,
            physical_timer: false,
        })
    }

    #[test]
    fn reset_leaves_nothing_behind() {
        let mut vcpu = vcpu();
        vcpu.set_reg(30, 5);
        vcpu.reset(0x4008_0000, 0x4800_0000);
        assert_eq!((vcpu.pc(), vcpu.reg(0)), (0x4008_0000, 0x4800_0000));
        assert!((1..31).all(|n| vcpu.reg(n) == 0));
        assert_eq!(vcpu.pstate(), 0x3c5);
    }

    #[test]
    fn register_31_is_zero() {
        let mut vcpu = vcpu();
        vcpu.set_reg(31, 7);
        assert_eq!(vcpu.reg(31), 0);
    }

    #[test]
    fn a_completed_load_lands_in_its_register() {
        let mut vcpu = vcpu();
        vcpu.reset(0x1000, 0);
        let access = MmioAccess {
            ipa: 0x900_0000,
            far: 0x900_0000,
            size: 2,
            write: false,
            reg: 9,
            sign_extend: true,
            sixty_four: false,
        };
        vcpu.will_exit(Exit::Mmio(access));
        assert_eq!(vcpu.run(), Exit::Mmio(access));
        vcpu.complete_read(&access, 0x1_8001);
        assert_eq!(vcpu.reg(9), 0xffff_8001);
        assert_eq!(vcpu.pc(), 0x1004);
    }

    #[test]
    fn an_exception_goes_to_the_vector_of_the_current_level() {
        let mut vcpu = vcpu();
        vcpu.reset(0x1000, 0);
        vcpu.inject(Exception::Undefined);
        assert_eq!(vcpu.pc(), 0x200);
        assert_eq!(vcpu.injected(), [Exception::Undefined]);
    }
}
