//! What happens, as one word each.

use arch::vcpu::SysregAccess;
use core::fmt;

/// Kinds of events.
pub const KINDS: usize = 12;
/// Kinds of exits, which come first.
pub const EXITS: usize = 9;

/// What a kind is called, in the order of their codes.
pub(super) const NAMES: [&str; KINDS] = [
    "interrupt",
    "mmio",
    "abort",
    "call",
    "system register",
    "wait",
    "system error",
    "other",
    "smmu",
    "start",
    "take",
    "fault",
];

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Exit: a physical interrupt; the INTID of the first that is taken.
    Interrupt(u32),
    /// Exit: a load or store that a virtual device answers.
    Mmio {
        /// A store.
        write: bool,
        /// Where, up to bit 47.
        ipa: u64,
    },
    /// Exit: a stage-2 fault that nothing answers.
    Abort {
        /// Where, up to bit 47; 0 where the CPU does not say.
        ipa: u64,
    },
    /// Exit: a call; its function ID.
    Call(u32),
    /// Exit: a trapped system register; op0 to op2 as in an MRS (DDI 0487, C6.2).
    SystemRegister(u16),
    /// Exit: WFI or WFE.
    Wait,
    /// Exit: a system error; the low half of its syndrome.
    SystemError(u32),
    /// Exit: anything else; the low half of its syndrome.
    Other(u32),
    /// Exit: a store to a register of the guest's own SMMU.
    Smmu {
        /// Where, up to bit 47.
        ipa: u64,
    },
    /// A vCPU starts, at this program counter up to bit 47.
    Start(u64),
    /// A physical interrupt is taken that is not [`Interrupt`](Self::Interrupt)'s; its INTID.
    Take(u32),
    /// A DMA fault is served; the StreamID.
    Fault(u32),
}

const DETAIL: u64 = (1 << 48) - 1;
const WRITE: u64 = 1 << 48;

impl Event {
    /// A vCPU starts at this program counter.
    pub fn start(pc: u64) -> Self {
        Self::Start(pc)
    }

    /// A DMA fault of this stream is served.
    pub fn fault(stream: u32) -> Self {
        Self::Fault(stream)
    }

    /// An exit: a trapped system register.
    pub fn system_register(access: &SysregAccess) -> Self {
        Self::SystemRegister(
            u16::from(access.op0) << 14
                | u16::from(access.op1) << 11
                | u16::from(access.crn) << 7
                | u16::from(access.crm) << 3
                | u16::from(access.op2),
        )
    }

    /// Code in bits 63:56, the rest below.
    #[inline(always)]
    pub(super) fn encode(self) -> u64 {
        let word = |kind: u64, detail: u64| kind << 56 | detail;
        match self {
            Self::Interrupt(intid) => word(0, intid.into()),
            Self::Mmio { write, ipa } => word(1, (ipa & DETAIL) | if write { WRITE } else { 0 }),
            Self::Abort { ipa } => word(2, ipa & DETAIL),
            Self::Call(function) => word(3, function.into()),
            Self::SystemRegister(register) => word(4, register.into()),
            Self::Wait => word(5, 0),
            Self::SystemError(esr) => word(6, esr.into()),
            Self::Other(esr) => word(7, esr.into()),
            Self::Smmu { ipa } => word(8, ipa & DETAIL),
            Self::Start(pc) => word(9, pc & DETAIL),
            Self::Take(intid) => word(10, intid.into()),
            Self::Fault(stream) => word(11, stream.into()),
        }
    }

    pub(super) fn decode(word: u64) -> Option<Self> {
        let detail = word & DETAIL;
        Some(match word >> 56 {
            0 => Self::Interrupt(detail as u32),
            1 => Self::Mmio {
                write: word & WRITE != 0,
                ipa: detail,
            },
            2 => Self::Abort { ipa: detail },
            3 => Self::Call(detail as u32),
            4 => Self::SystemRegister(detail as u16),
            5 => Self::Wait,
            6 => Self::SystemError(detail as u32),
            7 => Self::Other(detail as u32),
            8 => Self::Smmu { ipa: detail },
            9 => Self::Start(detail),
            10 => Self::Take(detail as u32),
            11 => Self::Fault(detail as u32),
            _ => return None,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[(self.encode() >> 56) as usize])?;
        match *self {
            Self::Wait => Ok(()),
            Self::Mmio { write: true, ipa } => write!(f, " write {ipa:#x}"),
            Self::Mmio { write: false, ipa } => write!(f, " read {ipa:#x}"),
            Self::Abort { ipa } | Self::Smmu { ipa } => write!(f, " {ipa:#x}"),
            Self::Call(number)
            | Self::SystemError(number)
            | Self::Other(number)
            | Self::Fault(number) => write!(f, " {number:#x}"),
            Self::Interrupt(intid) | Self::Take(intid) => write!(f, " {intid}"),
            Self::SystemRegister(register) => write!(
                f,
                " S{}_{}_C{}_C{}_{}",
                register >> 14,
                register >> 11 & 7,
                register >> 7 & 15,
                register >> 3 & 15,
                register & 7
            ),
            Self::Start(pc) => write!(f, " {pc:#x}"),
        }
    }
}
