//! What a CPU's SVM has.

use super::spec::feature;
use core::fmt;

/// What CPUID and VM_CR say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Words {
    /// CPUID 8000_0000, EAX: the last extended leaf.
    pub last: u32,
    /// CPUID 8000_0001, ECX.
    pub extended: u32,
    /// CPUID 8000_000A, EBX: how many ASIDs there are, the hypervisor's own 0 counted.
    pub asids: u32,
    /// CPUID 8000_000A, EDX.
    pub svm: u32,
    /// VM_CR; 0 where there is no SVM.
    pub vm_cr: u64,
}

/// What is there beside what has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// NRIPS: the CPU says where the guest goes on.
    pub next_rip: bool,
    /// FlushByAsid.
    pub flush_by_asid: bool,
}

/// Why guests cannot run with SVM here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsupported {
    /// The CPU has none.
    NoSvm,
    /// Firmware has turned it off (VM_CR.SVMDIS).
    Disabled,
    /// There is no nested paging.
    NoNestedPaging,
    /// There is no ASID for a guest; how many there are.
    NoAsid(u32),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, value) = match *self {
            Self::NoSvm => ("the CPU has no SVM", None),
            Self::Disabled => ("firmware has turned SVM off", None),
            Self::NoNestedPaging => ("SVM has no nested paging", None),
            Self::NoAsid(asids) => ("SVM has too few ASIDs:", Some(asids.into())),
        };
        crate::text::write(f, what, value)
    }
}

impl Features {
    /// Of these words.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn new(words: &Words) -> Result<Self, Unsupported> {
        if words.last < 0x8000_000a || words.extended & feature::SVM == 0 {
            return Err(Unsupported::NoSvm);
        }
        if words.vm_cr & feature::VM_CR_SVMDIS != 0 {
            return Err(Unsupported::Disabled);
        }
        if words.svm & feature::NESTED_PAGING == 0 {
            return Err(Unsupported::NoNestedPaging);
        }
        if words.asids < 2 {
            return Err(Unsupported::NoAsid(words.asids));
        }
        Ok(Self {
            next_rip: words.svm & feature::NEXT_RIP != 0,
            flush_by_asid: words.svm & feature::FLUSH_BY_ASID != 0,
        })
    }
}
