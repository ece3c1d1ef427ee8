//! Taking an exception to EL1 on behalf of a guest (Arm ARM, `AArch64.TakeException`, D1.4.2).
//!
//! Pure: what EL1 looks like before, what it looks like after.

use super::exit::AbortInfo;

/// A synchronous exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// The instruction does not exist for this guest.
    Undefined,
    /// A load or store failed outside of the CPU.
    DataAbort {
        /// Virtual address.
        far: u64,
        /// A store.
        write: bool,
        /// It was on a walk of the guest's tables, at this level.
        walk: Option<u8>,
    },
    /// An instruction fetch failed outside of the CPU.
    InstructionAbort {
        /// Virtual address.
        far: u64,
        /// It was on a walk of the guest's tables, at this level.
        walk: Option<u8>,
    },
}

impl Exception {
    /// What a guest sees of a stage-2 fault that nobody stands behind: an external abort.
    pub fn for_abort(info: &AbortInfo) -> Self {
        let walk = info.walk.then_some((info.esr & 3) as u8);
        if info.fetch {
            Self::InstructionAbort {
                far: info.far,
                walk,
            }
        } else {
            Self::DataAbort {
                far: info.far,
                write: info.write,
                walk,
            }
        }
    }

    fn far(self) -> Option<u64> {
        match self {
            Self::Undefined => None,
            Self::DataAbort { far, .. } | Self::InstructionAbort { far, .. } => Some(far),
        }
    }

    /// ESR_EL1 (D24.2), with IL set: all of these are reported for 32-bit instructions.
    fn esr(self, from_el0: bool) -> u64 {
        let status = |walk: Option<u8>| match walk {
            Some(level) => 0x14 | u64::from(level & 3),
            None => 0x10,
        };
        let class = |lower: u64| if from_el0 { lower } else { lower + 1 };
        let (class, iss) = match self {
            Self::Undefined => (0, 0),
            Self::InstructionAbort { walk, .. } => (class(0x20), status(walk)),
            Self::DataAbort { write, walk, .. } => {
                (class(0x24), status(walk) | u64::from(write) << 6)
            }
        };
        class << 26 | 1 << 25 | iss
    }
}

/// Where a guest is, and what decides how its EL1 takes an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// Program counter.
    pub pc: u64,
    /// PSTATE, as in SPSR_EL2.
    pub pstate: u64,
    /// `VBAR_EL1`.
    pub vbar: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
}

/// Where it is then. `ELR_EL1` and `SPSR_EL1` are the `pc` and `pstate` of before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct After {
    /// Program counter.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`, if the exception sets it.
    pub far: Option<u64>,
}

const fn bit(word: u64, at: u32) -> u64 {
    word >> at & 1
}

/// Takes `exception` to EL1.
pub fn take(before: &Before, exception: Exception) -> After {
    let mode = before.pstate & 0x1f;
    let aarch32 = mode & 0x10 != 0;
    let from_el0 = aarch32 || mode == 0;
    let offset = match mode {
        _ if aarch32 => 0x600,
        0 => 0x400,
        0b00100 => 0x000,
        _ => 0x200,
    };
    // NZCV, PAN (22) and DIT (24) stay, unless SCTLR_EL1.SPAN (23) is clear: then PAN is set. SSBS (12) comes from
    // DSSBS (44), ALLINT (13) from SPINTMASK (62) where NMIs (61) are in use. DAIF are set, the level is EL1h, and the
    // rest is clear: BTYPE, IL, SS, UAO. Memory tagging is kept from guests, so TCO is too.
    let kept = before.pstate & (0xf << 28 | 1 << 24 | 1 << 22);
    let pan = (1 - bit(before.sctlr, 23)) << 22;
    let ssbs = bit(before.sctlr, 44) << 12;
    let allint = (bit(before.sctlr, 61) & !bit(before.sctlr, 62)) << 13;
    After {
        pc: (before.vbar & !0x7ff) + offset,
        pstate: kept | pan | ssbs | allint | 0x3c5,
        esr: exception.esr(from_el0),
        far: exception.far(),
    }
}

#[cfg(test)]
mod tests {
    use super::{After, Before, Exception, take};
    use crate::aarch64::exit::AbortInfo;

    const BEFORE: Before = Before {
        pc: 0xffff_8000_1234_5678,
        pstate: 0x6000_0005,
        vbar: 0xffff_8000_0801_0800,
        sctlr: 0x30d0_0800 | 1,
    };

    #[test]
    fn from_el1_with_its_own_stack() {
        let far = 0xffff_8000_0000_1000;
        let exception = Exception::DataAbort {
            far,
            write: true,
            walk: None,
        };
        assert_eq!(
            take(&BEFORE, exception),
            After {
                pc: 0xffff_8000_0801_0a00,
                pstate: 0x6000_03c5,
                // EC 100101, IL, WnR, DFSC 010000.
                esr: 0x9600_0050,
                far: Some(far),
            }
        );
    }

    #[test]
    fn the_vector_depends_on_where_it_comes_from() {
        let vector = |pstate| {
            let before = Before { pstate, ..BEFORE };
            take(&before, Exception::Undefined).pc & 0x7ff
        };
        assert_eq!(vector(0x04), 0x000);
        assert_eq!(vector(0x05), 0x200);
        assert_eq!(vector(0x00), 0x400);
        assert_eq!(vector(0x10), 0x600);
        assert_eq!(vector(0x30), 0x600);
    }

    #[test]
    fn undefined_has_a_class_of_zero_and_no_address() {
        let after = take(&BEFORE, Exception::Undefined);
        assert_eq!((after.esr, after.far), (0x0200_0000, None));
    }

    #[test]
    fn a_user_is_a_lower_level() {
        let before = Before {
            pstate: 0,
            ..BEFORE
        };
        let walk = Some(2);
        let fetch = Exception::InstructionAbort { far: 4, walk };
        // EC 100000, IL, IFSC 010110.
        assert_eq!(take(&before, fetch).esr, 0x8200_0016);
        let load = Exception::DataAbort {
            far: 4,
            write: false,
            walk: None,
        };
        // EC 100100, IL, DFSC 010000.
        assert_eq!(take(&before, load).esr, 0x9200_0010);
    }

    #[test]
    fn pan_is_set_unless_the_guest_says_otherwise() {
        let before = Before {
            sctlr: BEFORE.sctlr & !(1 << 23),
            ..BEFORE
        };
        assert_eq!(take(&before, Exception::Undefined).pstate, 0x6040_03c5);
        let already = Before {
            pstate: BEFORE.pstate | 1 << 22,
            ..BEFORE
        };
        assert_eq!(take(&already, Exception::Undefined).pstate, 0x6040_03c5);
    }

    #[test]
    fn state_of_the_instruction_does_not_leak_into_the_handler() {
        // IL, SS, UAO, BTYPE, SSBS, ALLINT set; DSSBS clear, NMI clear.
        let before = Before {
            pstate: BEFORE.pstate | 0xf << 20 & !(1 << 22) | 0xf << 10,
            ..BEFORE
        };
        assert_eq!(take(&before, Exception::Undefined).pstate, 0x6000_03c5);
    }

    #[test]
    fn a_stage_2_fault_becomes_an_external_abort() {
        let info = AbortInfo {
            ipa: Some(0x5000),
            far: 0x9000,
            fetch: false,
            write: true,
            walk: true,
            esr: 0x9200_0087,
        };
        assert_eq!(
            Exception::for_abort(&info),
            Exception::DataAbort {
                far: 0x9000,
                write: true,
                walk: Some(3),
            }
        );
    }
}
