//! What happens, as one word each, on x86_64.

use crate::guest_map::x86_64::VTD;
use arch::x86_64::vcpu::{Exit, RAX, RCX};
use core::fmt;
use iommu::addr::Gpa;

/// Kinds of events.
pub const KINDS: usize = 12;
/// Kinds of exits, which come first.
pub const EXITS: usize = 9;

/// What a kind is called, in the order of their codes.
pub(super) const NAMES: [&str; KINDS] = [
    "interrupt",
    "mmio",
    "port",
    "register",
    "cpuid",
    "call",
    "wait",
    "other",
    "vtd",
    "start",
    "take",
    "fault",
];

/// Something that happened: its code in bits 63:56, below it a number that says more, up to bit 47.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event(u64);

const CODE: u32 = 56;
const DETAIL: u64 = (1 << 48) - 1;

impl Event {
    /// What an exit is: with the address of an access, the port, the number of an MSR, CPUID's leaf. `general` are the guest's
    /// registers.
    pub fn of(exit: &Exit, general: &[u64; 16]) -> Self {
        let (code, detail) = match exit {
            Exit::Interrupt => (0, 0),
            Exit::NestedFault(fault) if VTD.contains(Gpa(fault.gpa)) => (8, fault.gpa),
            Exit::NestedFault(fault) => (1, fault.gpa),
            Exit::Io(access) => (2, access.port.into()),
            Exit::Msr { .. } => (3, u64::from(general[RCX] as u32)),
            Exit::Cpuid => (4, u64::from(general[RAX] as u32)),
            Exit::Hypercall => (5, u64::from(general[RAX] as u32)),
            Exit::Halt => (6, 0),
            Exit::Unknown(code) => (7, *code),
            _ => (7, 0),
        };
        Self::new(code, detail)
    }

    /// A vCPU starts, in this page.
    pub const fn start(at: u64) -> Self {
        Self::new(9, at)
    }

    /// A physical interrupt is taken.
    pub fn take(vector: u8) -> Self {
        Self::new(10, vector.into())
    }

    /// A DMA fault of this source is served.
    pub fn fault(source: u32) -> Self {
        Self::new(11, source.into())
    }

    const fn new(code: u64, detail: u64) -> Self {
        Self(code << CODE | detail & DETAIL)
    }

    pub(super) fn encode(self) -> u64 {
        self.0
    }

    pub(super) fn decode(word: u64) -> Option<Self> {
        (word >> CODE < KINDS as u64).then_some(Self(word))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES[(self.0 >> CODE) as usize % KINDS];
        write!(f, "{name} {:#x}", self.0 & DETAIL)
    }
}
