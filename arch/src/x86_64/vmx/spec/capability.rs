//! How a CPU says what its VMX has (appendix "VMX Capability Reporting Facility").

/// CPUID 1, ECX: VMX.
pub const VMX: u32 = 1 << 5;

/// MSR IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_FEATURE_CONTROL: it is locked.
pub const LOCKED: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON outside of SMX is allowed.
pub const OUTSIDE_SMX: u64 = 1 << 2;

/// MSR IA32_VMX_BASIC.
pub const BASIC: u32 = 0x480;
/// IA32_VMX_BASIC: the revision.
pub const REVISION: u64 = 0x7fff_ffff;
/// IA32_VMX_BASIC: the "true" control registers are there.
pub const TRUE_CONTROLS: u64 = 1 << 55;
/// MSR IA32_VMX_PROCBASED_CTLS2.
pub const SECONDARY: u32 = 0x48b;
/// MSR IA32_VMX_EPT_VPID_CAP.
pub const EPT_VPID: u32 = 0x48c;
/// MSR IA32_VMX_TRUE_PINBASED_CTLS.
pub const PIN: u32 = 0x48d;
/// MSR IA32_VMX_TRUE_PROCBASED_CTLS.
pub const PRIMARY: u32 = 0x48e;
/// MSR IA32_VMX_TRUE_EXIT_CTLS.
pub const EXIT: u32 = 0x48f;
/// MSR IA32_VMX_TRUE_ENTRY_CTLS.
pub const ENTRY: u32 = 0x490;
/// MSR IA32_VMX_CR0_FIXED0.
pub const CR0_FIXED0: u32 = 0x486;
/// MSR IA32_VMX_CR4_FIXED0.
pub const CR4_FIXED0: u32 = 0x488;

/// IA32_VMX_EPT_VPID_CAP: tables of 4 levels.
pub const FOUR_LEVELS: u64 = 1 << 6;
/// IA32_VMX_EPT_VPID_CAP: tables of 5 levels.
pub const FIVE_LEVELS: u64 = 1 << 7;
/// IA32_VMX_EPT_VPID_CAP: the tables may be write-back.
pub const WRITE_BACK: u64 = 1 << 14;
/// IA32_VMX_EPT_VPID_CAP: leaves of 2 MiB.
pub const LEAVES_2M: u64 = 1 << 16;
/// IA32_VMX_EPT_VPID_CAP: leaves of 1 GiB.
pub const LEAVES_1G: u64 = 1 << 17;
/// IA32_VMX_EPT_VPID_CAP: INVEPT.
pub const INVEPT: u64 = 1 << 20;
/// IA32_VMX_EPT_VPID_CAP: INVEPT for all tables.
pub const INVEPT_ALL: u64 = 1 << 26;
