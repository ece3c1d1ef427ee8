//! What a partition's HVC and SMC calls mean: PSCI 1.1 (DEN 0022F) and the part of SMCCC 1.1 (DEN 0028) that goes with it.
//!
//! Nothing is kept here: the power of the vCPUs is the partition's ([`Power`]), and what a call asks for is returned. Every
//! function that is not in the table of `is_known` is not supported.

use crate::life::Power;
use crate::vdev::vcpu_at;
use smccc::arch::{SMCCC_ARCH_FEATURES, SMCCC_VERSION};
use smccc::psci::error::{
    ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS,
};
use smccc::psci::{
    PSCI_AFFINITY_INFO_32, PSCI_AFFINITY_INFO_64, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_ON_64,
    PSCI_CPU_SUSPEND_32, PSCI_CPU_SUSPEND_64, PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE,
    PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION,
};

/// PSCI 1.1 and SMCCC 1.1: major in the upper half, minor in the lower.
const VERSION_1_1: u64 = 0x1_0001;
/// MIGRATE_INFO_TYPE (§5.9): no Trusted OS that has to be migrated.
const NO_TRUSTED_OS: u64 = 2;
/// CPU_SUSPEND (§5.4.2), original format of `power_state`: a StateID, and StateType (16) and PowerLevel (25:24) of a standby
/// of the CPU itself, which are zero. All else is reserved, or a state that no device tree here advertises.
const STANDBY: u64 = 0xffff;
/// Function IDs with this bit are SMC64: arguments are 64 bits wide (DEN 0028, §2.5).
const SMC64: u32 = 1 << 30;

/// What a call asks for. Where it is not a value, the caller of the guest's code decides what happens to its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This goes to x0, and the guest goes on.
    Return(u64),
    /// The function does not exist here: [`UNSUPPORTED`] goes to x0. To be counted.
    Unknown(u32),
    /// Turn a vCPU on; then [`started`] goes to the caller's x0.
    CpuOn {
        /// Which one.
        vcpu: usize,
        /// Where it starts.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// Turn the calling vCPU off: it does not return.
    CpuOff,
    /// Wait for an interrupt, as WFI does; then 0 goes to x0.
    Suspend,
    /// Stop the partition.
    SystemOff,
    /// Restart the partition.
    SystemReset,
}

/// x0 after an unknown function.
pub const UNSUPPORTED: u64 = status(NOT_SUPPORTED);

/// x0 after CPU_ON, given what the vCPU's power was: somebody else may have been faster (§5.6).
pub const fn started(before: Power) -> u64 {
    match before {
        Power::Off => status(SUCCESS),
        Power::Starting(_) => status(ON_PENDING),
        Power::On => status(ALREADY_ON),
    }
}

/// Decides on a call with the guest's x0 to x7 in `registers`. `power` is that of a vCPU, `None` where there is none of that
/// number; `is_code` says whether a guest physical address can be a vCPU's entry (is inside its RAM).
pub fn call(
    registers: &[u64; 8],
    power: impl Fn(usize) -> Option<Power>,
    is_code: impl Fn(u64) -> bool,
) -> Outcome {
    // The function ID is W0; so are the arguments of SMC32 calls (DEN 0028, §2.5 and §3.1).
    let function = registers[0] as u32;
    let argument = |n: usize| match function & SMC64 {
        0 => registers[n] & u64::from(u32::MAX),
        _ => registers[n],
    };
    match function {
        PSCI_VERSION | SMCCC_VERSION => Outcome::Return(VERSION_1_1),
        PSCI_FEATURES => Outcome::Return(features(argument(1) as u32)),
        SMCCC_ARCH_FEATURES => Outcome::Return(arch_features(argument(1) as u32)),
        PSCI_MIGRATE_INFO_TYPE => Outcome::Return(NO_TRUSTED_OS),
        PSCI_CPU_ON_32 | PSCI_CPU_ON_64 => {
            cpu_on(argument(1), argument(2), argument(3), power, is_code)
        }
        PSCI_AFFINITY_INFO_32 | PSCI_AFFINITY_INFO_64 => {
            Outcome::Return(affinity_info(argument(1), argument(2), power))
        }
        PSCI_CPU_SUSPEND_32 | PSCI_CPU_SUSPEND_64 if argument(1) & !STANDBY != 0 => {
            Outcome::Return(status(INVALID_PARAMETERS))
        }
        PSCI_CPU_SUSPEND_32 | PSCI_CPU_SUSPEND_64 => Outcome::Suspend,
        PSCI_CPU_OFF => Outcome::CpuOff,
        PSCI_SYSTEM_OFF => Outcome::SystemOff,
        PSCI_SYSTEM_RESET => Outcome::SystemReset,
        _ if is_query(function) => Outcome::Return(UNSUPPORTED),
        _ => Outcome::Unknown(function),
    }
}

/// How a guest finds out what is not there, which is no mistake: the general queries of any owner of functions (DEN 0028,
/// §6.2: count, UID, revision of its calls), and the versions of standard services, entropy (DEN 0098, §3.1), SDEI (DEN
/// 0054, §5.1.1) and FF-A (DEN 0077, §13.2).
fn is_query(function: u32) -> bool {
    const FAST: u32 = 1 << 31;
    const TRNG_VERSION: u32 = 0x8400_0050;
    const SDEI_VERSION: u32 = 0xc400_0020;
    const FFA_VERSION: u32 = 0x8400_0063;
    let general = function & FAST != 0
        && function & SMC64 == 0
        && matches!(function & 0xffff, 0xff00 | 0xff01 | 0xff03);
    general || matches!(function, TRNG_VERSION | SDEI_VERSION | FFA_VERSION)
}

/// §5.6.
fn cpu_on(
    target: u64,
    entry: u64,
    context: u64,
    power: impl Fn(usize) -> Option<Power>,
    is_code: impl Fn(u64) -> bool,
) -> Outcome {
    let found = vcpu_at(target).and_then(|vcpu| Some((vcpu, power(vcpu)?)));
    let Some((vcpu, before)) = found else {
        return Outcome::Return(status(INVALID_PARAMETERS));
    };
    if before != Power::Off {
        return Outcome::Return(started(before));
    }
    if !entry.is_multiple_of(4) || !is_code(entry) {
        return Outcome::Return(status(INVALID_ADDRESS));
    }
    Outcome::CpuOn {
        vcpu,
        entry,
        context,
    }
}

/// §5.7. Affinity levels above 0 need not be supported from PSCI 1.0 on.
fn affinity_info(target: u64, level: u64, power: impl Fn(usize) -> Option<Power>) -> u64 {
    if level != 0 {
        return status(INVALID_PARAMETERS);
    }
    match vcpu_at(target).and_then(power) {
        Some(Power::On) => 0,
        Some(Power::Off) => 1,
        Some(Power::Starting(_)) => 2,
        None => status(INVALID_PARAMETERS),
    }
}

/// §5.15. No flags: CPU_SUSPEND takes the original `power_state`, platform coordinated only.
fn features(function: u32) -> u64 {
    // SMCCC_VERSION is found through here; the rest of SMCCC is not (§5.15.2).
    let known = is_known(function) && function != SMCCC_ARCH_FEATURES;
    status(if known { SUCCESS } else { NOT_SUPPORTED })
}

/// DEN 0028, §7.3. No workaround is offered: ID registers say what the CPU needs, and nobody above does it for the guest.
fn arch_features(function: u32) -> u64 {
    let known = matches!(function, SMCCC_VERSION | SMCCC_ARCH_FEATURES);
    status(if known { SUCCESS } else { NOT_SUPPORTED })
}

/// The functions that [`call`] acts on.
fn is_known(function: u32) -> bool {
    matches!(
        function,
        SMCCC_VERSION
            | SMCCC_ARCH_FEATURES
            | PSCI_VERSION
            | PSCI_FEATURES
            | PSCI_MIGRATE_INFO_TYPE
            | PSCI_CPU_ON_32
            | PSCI_CPU_ON_64
            | PSCI_AFFINITY_INFO_32
            | PSCI_AFFINITY_INFO_64
            | PSCI_CPU_SUSPEND_32
            | PSCI_CPU_SUSPEND_64
            | PSCI_CPU_OFF
            | PSCI_SYSTEM_OFF
            | PSCI_SYSTEM_RESET
    )
}

/// Status codes are negative and go out sign-extended.
const fn status(code: i32) -> u64 {
    code as i64 as u64
}

#[cfg(test)]
mod tests {
    use super::{Outcome, call, started};
    use crate::life::{Entry, Power};

    const MINUS_1: u64 = u64::MAX;
    const MINUS_2: u64 = u64::MAX - 1;
    const MINUS_9: u64 = u64::MAX - 8;

    const STARTING: Power = Power::Starting(Entry { pc: 0, argument: 0 });

    /// vCPU 0 is on, 1 is off, 2 is on its way, 16 is off; RAM is at 1 to 2 GiB.
    fn ask(registers: &[u64]) -> Outcome {
        let mut all = [0xdead_beef_0000_0000; 8];
        all[..registers.len()].copy_from_slice(registers);
        let power = |vcpu| match vcpu {
            0 => Some(Power::On),
            1 | 16 => Some(Power::Off),
            2 => Some(STARTING),
            _ => None,
        };
        call(&all, power, |entry| {
            (0x4000_0000..0x8000_0000).contains(&entry)
        })
    }

    #[test]
    fn versions_and_the_absence_of_a_trusted_os() {
        assert_eq!(ask(&[0x8400_0000]), Outcome::Return(0x1_0001));
        assert_eq!(ask(&[0x8000_0000]), Outcome::Return(0x1_0001));
        assert_eq!(ask(&[0x8400_0006]), Outcome::Return(2));
        // The upper half of x0 is not part of the function.
        assert_eq!(ask(&[0xffff_ffff_8400_0000]), Outcome::Return(0x1_0001));
    }

    #[test]
    fn features_are_exactly_what_is_answered() {
        let supported: [u64; 13] = [
            0x8000_0000,
            0x8400_0000,
            0x8400_0001,
            0xc400_0001,
            0x8400_0002,
            0x8400_0003,
            0xc400_0003,
            0x8400_0004,
            0xc400_0004,
            0x8400_0006,
            0x8400_0008,
            0x8400_0009,
            0x8400_000a,
        ];
        for base in [
            0x8000_0000,
            0x8400_0000,
            0xc400_0000,
            0x8600_0000,
            0xc500_0000,
        ] {
            for function in base..base + 0x40_u64 {
                let answer = if supported.contains(&function) {
                    0
                } else {
                    MINUS_1
                };
                assert_eq!(
                    ask(&[0x8400_000a, function]),
                    Outcome::Return(answer),
                    "{function:#x}"
                );
                let unknown =
                    matches!(ask(&[function]), Outcome::Unknown(id) if u64::from(id) == function);
                // SMCCC_ARCH_FEATURES and SDEI_VERSION are queries.
                let query = matches!(function, 0x8000_0001 | 0xc400_0020);
                assert_eq!(
                    unknown,
                    !supported.contains(&function) && !query,
                    "{function:#x}"
                );
            }
        }
    }

    #[test]
    fn asking_for_what_is_not_there_is_no_mistake() {
        // KVM's UID query and Linux's entropy probe; SDEI, FF-A; count and revision of standard calls.
        let queries = [
            0x8600_ff01,
            0x8400_0050,
            0xc400_0020,
            0x8400_0063,
            0x8400_ff00,
            0x8400_ff03,
        ];
        for query in queries {
            assert_eq!(ask(&[query]), Outcome::Return(MINUS_1), "{query:#x}");
        }
        // Using it is one: entropy itself, a reserved general call, a query that is no fast call or has 64 bits.
        for other in [0xc400_0053, 0x8600_ff02, 0x0600_ff01, 0xc600_ff01] {
            assert_eq!(ask(&[other]), Outcome::Unknown(other as u32), "{other:#x}");
        }
    }

    #[test]
    fn no_workaround_is_claimed() {
        assert_eq!(ask(&[0x8000_0001, 0x8000_0000]), Outcome::Return(0));
        assert_eq!(ask(&[0x8000_0001, 0x8000_0001]), Outcome::Return(0));
        for workaround in [0x8000_8000, 0x8000_7fff, 0x8000_3fff, 0x8000_0002] {
            assert_eq!(ask(&[0x8000_0001, workaround]), Outcome::Return(MINUS_1));
            assert!(matches!(ask(&[workaround]), Outcome::Unknown(_)));
        }
    }

    #[test]
    fn cpu_on_starts_a_vcpu_that_is_off() {
        let on = |vcpu| Outcome::CpuOn {
            vcpu,
            entry: 0x4008_0000,
            context: 0x1_0000_0007,
        };
        assert_eq!(ask(&[0xc400_0003, 1, 0x4008_0000, 0x1_0000_0007]), on(1));
        // Aff1 = 1, Aff0 = 0.
        assert_eq!(
            ask(&[0xc400_0003, 0x100, 0x4008_0000, 0x1_0000_0007]),
            on(16)
        );
        let low = Outcome::CpuOn {
            vcpu: 1,
            entry: 0x4008_0000,
            context: 7,
        };
        assert_eq!(
            ask(&[0x8400_0003, 0xf_0000_0001, 0xf_4008_0000, 0x1_0000_0007]),
            low
        );
    }

    #[test]
    fn cpu_on_refuses_everything_else() {
        let status = |target, entry| ask(&[0xc400_0003, target, entry, 0]);
        assert_eq!(status(0, 0x4008_0000), Outcome::Return(u64::MAX - 3));
        assert_eq!(status(2, 0x4008_0000), Outcome::Return(u64::MAX - 4));
        for target in [3, 0x10, 0xf, 0x1_0000, 1 << 32, 1 << 31 | 1, u64::MAX] {
            assert_eq!(
                status(target, 0x4008_0000),
                Outcome::Return(MINUS_2),
                "{target:#x}"
            );
        }
        for entry in [0, 0x4008_0002, 0x4008_0001, 0x8000_0000, u64::MAX - 3] {
            assert_eq!(status(1, entry), Outcome::Return(MINUS_9), "{entry:#x}");
        }
    }

    #[test]
    fn the_slower_of_two_callers_learns_it() {
        assert_eq!(started(Power::Off), 0);
        assert_eq!(started(STARTING), u64::MAX - 4);
        assert_eq!(started(Power::On), u64::MAX - 3);
    }

    #[test]
    fn affinity_info_reports_power() {
        let info = |target, level| ask(&[0xc400_0004, target, level]);
        assert_eq!(info(0, 0), Outcome::Return(0));
        assert_eq!(info(1, 0), Outcome::Return(1));
        assert_eq!(info(2, 0), Outcome::Return(2));
        assert_eq!(info(3, 0), Outcome::Return(MINUS_2));
        assert_eq!(info(0, 1), Outcome::Return(MINUS_2));
    }

    #[test]
    fn suspend_is_standby_of_one_cpu_and_nothing_deeper() {
        for (function, state) in [(0xc400_0001, 0), (0x8400_0001, 1), (0xc400_0001, 0xffff)] {
            let call = ask(&[function, state, 0x4008_0000, 0]);
            assert_eq!(call, Outcome::Suspend, "{state:#x}");
        }
        // Power-down; a cluster, the system; reserved bits, of SMC64's upper half as well.
        for state in [
            1 << 16,
            0x0001_0002,
            1 << 24,
            3 << 24,
            1 << 31,
            1 << 20,
            1 << 32,
        ] {
            let call = ask(&[0xc400_0001, state, 0x4008_0000, 0]);
            assert_eq!(call, Outcome::Return(MINUS_2), "{state:#x}");
        }
    }

    #[test]
    fn power_down_calls_do_not_return() {
        assert_eq!(ask(&[0x8400_0002]), Outcome::CpuOff);
        assert_eq!(ask(&[0x8400_0008]), Outcome::SystemOff);
        assert_eq!(ask(&[0x8400_0009]), Outcome::SystemReset);
    }
}
