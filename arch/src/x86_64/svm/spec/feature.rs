//! How a CPU says that it has SVM (15.4, 15.30.1; volume 3, appendix E.4.9).

/// CPUID 8000_0001, ECX: SVM.
pub const SVM: u32 = 1 << 2;
/// CPUID 8000_000A, EDX: nested paging.
pub const NESTED_PAGING: u32 = 1 << 0;
/// CPUID 8000_000A, EDX: the next RIP is saved.
pub const NEXT_RIP: u32 = 1 << 3;
/// CPUID 8000_000A, EDX: the TLB entries of one ASID can be flushed.
pub const FLUSH_BY_ASID: u32 = 1 << 6;

/// MSR VM_CR.
pub const VM_CR: u32 = 0xc001_0114;
/// VM_CR.SVMDIS: EFER.SVME cannot be set.
pub const VM_CR_SVMDIS: u64 = 1 << 4;
/// MSR VM_HSAVE_PA: where VMRUN saves the host's state.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
