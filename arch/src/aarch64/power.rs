//! The machine's power, by PSCI (DEN0022 5.9 and 5.10).

use super::cpu;
use smccc::Smc;
use smccc::psci;

/// Switches the machine off.
pub fn off() -> ! {
    // Either it does not return, or firmware does not have it: then this CPU has nothing left to do.
    let _ = psci::system_off::<Smc>();
    cpu::halt()
}

/// Resets the machine.
pub fn reset() -> ! {
    let _ = psci::system_reset::<Smc>();
    cpu::halt()
}
