//! Bits of the controls ("VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control Fields").

/// Pin-based: external interrupts exit.
pub const INTERRUPT_EXITING: u32 = 1 << 0;
/// Pin-based: NMIs exit.
pub const NMI_EXITING: u32 = 1 << 3;
/// Pin-based: the guest's own NMI blocking.
pub const VIRTUAL_NMIS: u32 = 1 << 5;

/// Pin-based: posted interrupts are processed.
pub const POSTED_INTERRUPTS: u32 = 1 << 7;

/// Primary: exit when the guest takes interrupts.
pub const INTERRUPT_WINDOW: u32 = 1 << 2;
/// Primary: the TSC offset counts.
pub const TSC_OFFSETTING: u32 = 1 << 3;
/// Primary: HLT exits.
pub const HLT_EXITING: u32 = 1 << 7;
/// Primary: MWAIT exits.
pub const MWAIT_EXITING: u32 = 1 << 10;
/// Primary: RDPMC exits.
pub const RDPMC_EXITING: u32 = 1 << 11;
/// Primary: writes of CR3 exit.
pub const CR3_LOAD_EXITING: u32 = 1 << 15;
/// Primary: reads of CR3 exit.
pub const CR3_STORE_EXITING: u32 = 1 << 16;
/// Primary: CR8 is in the virtual-APIC page.
pub const TPR_SHADOW: u32 = 1 << 21;
/// Primary: exit when the guest takes NMIs.
pub const NMI_WINDOW: u32 = 1 << 22;
/// Primary: every IN and OUT exits.
pub const IO_EXITING: u32 = 1 << 24;
/// Primary: the MSR bitmaps count.
pub const MSR_BITMAPS: u32 = 1 << 28;
/// Primary: MONITOR exits.
pub const MONITOR_EXITING: u32 = 1 << 29;
/// Primary: the secondary controls count.
pub const SECONDARY: u32 = 1 << 31;

/// Secondary: EPT.
pub const EPT: u32 = 1 << 1;
/// Secondary: RDTSCP is there.
pub const RDTSCP: u32 = 1 << 3;
/// Secondary: the MSRs of a local APIC in x2APIC mode that do not exit are the virtual-APIC page's registers.
pub const VIRTUAL_X2APIC: u32 = 1 << 4;
/// Secondary: VPID.
pub const VPID: u32 = 1 << 5;
/// Secondary: WBINVD exits.
pub const WBINVD_EXITING: u32 = 1 << 6;
/// Secondary: guests without paging, and in real mode.
pub const UNRESTRICTED: u32 = 1 << 7;
/// Secondary: the CPU delivers virtual interrupts.
pub const INTERRUPT_DELIVERY: u32 = 1 << 9;
/// Secondary: INVPCID is there.
pub const INVPCID: u32 = 1 << 12;

/// Exit: DR7 and IA32_DEBUGCTL are saved.
pub const EXIT_SAVES_DEBUG: u32 = 1 << 2;
/// Exit: the host is in 64-bit mode.
pub const EXIT_TO_64: u32 = 1 << 9;
/// Exit: an interrupt that makes the guest exit is acknowledged.
pub const EXIT_ACKNOWLEDGES: u32 = 1 << 15;
/// Exit: IA32_PAT is saved.
pub const EXIT_SAVES_PAT: u32 = 1 << 18;
/// Exit: IA32_PAT is loaded.
pub const EXIT_LOADS_PAT: u32 = 1 << 19;
/// Exit: IA32_EFER is saved.
pub const EXIT_SAVES_EFER: u32 = 1 << 20;
/// Exit: IA32_EFER is loaded.
pub const EXIT_LOADS_EFER: u32 = 1 << 21;

/// Entry: DR7 and IA32_DEBUGCTL are loaded.
pub const ENTRY_LOADS_DEBUG: u32 = 1 << 2;
/// Entry: the guest is in IA-32e mode; an exit keeps it up.
pub const ENTRY_IA32E: u32 = 1 << 9;
/// Entry: IA32_PAT is loaded.
pub const ENTRY_LOADS_PAT: u32 = 1 << 14;
/// Entry: IA32_EFER is loaded.
pub const ENTRY_LOADS_EFER: u32 = 1 << 15;

/// Interruptibility: blocking by STI, and by MOV SS.
pub const SHADOW: u64 = 0b11;
/// Interruptibility: blocking by NMI.
pub const NMI_BLOCKED: u64 = 1 << 3;

/// CR0.NE, which VMX keeps 1.
pub const CR0_NE: u64 = 1 << 5;
/// CR4.VMXE.
pub const CR4_VMXE: u64 = 1 << 13;
/// Access rights: the segment register is not usable.
pub const UNUSABLE: u64 = 1 << 16;
