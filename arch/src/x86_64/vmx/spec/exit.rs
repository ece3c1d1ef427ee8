//! Basic exit reasons (appendix "VMX Basic Exit Reasons") and exit qualifications ("Exit Qualification").

/// An exception or an NMI.
pub const EXCEPTION: u16 = 0;
/// An external interrupt.
pub const INTERRUPT: u16 = 1;
/// A triple fault.
pub const TRIPLE_FAULT: u16 = 2;
/// INIT.
pub const INIT: u16 = 3;
/// The guest takes interrupts.
pub const INTERRUPT_WINDOW: u16 = 7;
/// The guest takes NMIs.
pub const NMI_WINDOW: u16 = 8;
/// CPUID.
pub const CPUID: u16 = 10;
/// GETSEC.
pub const GETSEC: u16 = 11;
/// HLT.
pub const HLT: u16 = 12;
/// INVD.
pub const INVD: u16 = 13;
/// RDPMC.
pub const RDPMC: u16 = 15;
/// RSM.
pub const RSM: u16 = 17;
/// VMCALL.
pub const VMCALL: u16 = 18;
/// VMCLEAR; up to VMXON.
pub const VMCLEAR: u16 = 19;
/// VMXON.
pub const VMXON: u16 = 27;
/// An access to a control register.
pub const CONTROL_REGISTER: u16 = 28;
/// IN or OUT.
pub const IO: u16 = 30;
/// RDMSR.
pub const RDMSR: u16 = 31;
/// WRMSR.
pub const WRMSR: u16 = 32;
/// The guest's state is refused.
pub const INVALID_STATE: u16 = 33;
/// MWAIT.
pub const MWAIT: u16 = 36;
/// MONITOR.
pub const MONITOR: u16 = 39;
/// A machine check during the entry.
pub const ENTRY_MACHINE_CHECK: u16 = 41;
/// CR8 is below the TPR threshold.
pub const TPR_BELOW: u16 = 43;
/// An EPT violation.
pub const EPT_VIOLATION: u16 = 48;
/// An EPT misconfiguration.
pub const EPT_MISCONFIGURED: u16 = 49;
/// INVEPT.
pub const INVEPT: u16 = 50;
/// INVVPID.
pub const INVVPID: u16 = 53;
/// WBINVD.
pub const WBINVD: u16 = 54;
/// XSETBV.
pub const XSETBV: u16 = 55;

/// Of an IN or OUT: size less 1 in bits 2:0.
pub const IO_SIZE: u64 = 7;
/// Of an IN or OUT: IN.
pub const IO_IN: u64 = 1 << 3;
/// Of an IN or OUT: INS or OUTS.
pub const IO_STRING: u64 = 1 << 4;
/// Of an IN or OUT: with REP.
pub const IO_REPEAT: u64 = 1 << 5;
/// Of an IN or OUT: position of the port.
pub const IO_PORT_SHIFT: u32 = 16;

/// Of an EPT violation: a read.
pub const EPT_READ: u64 = 1 << 0;
/// Of an EPT violation: a write.
pub const EPT_WRITE: u64 = 1 << 1;
/// Of an EPT violation: a fetch.
pub const EPT_FETCH: u64 = 1 << 2;
/// Of an EPT violation: what is mapped may be read, written, or executed.
pub const EPT_MAPPED: u64 = 7 << 3;
/// Of an EPT violation: the linear address is known.
pub const EPT_LINEAR: u64 = 1 << 7;
/// Of an EPT violation with a linear address: of its final translation, rather than on the walk.
pub const EPT_FINAL: u64 = 1 << 8;
/// Of an EPT violation: an IRET has ended the blocking of NMIs.
pub const NMI_UNBLOCKED: u64 = 1 << 12;

/// Of an access to a control register: its number.
pub const CR_NUMBER: u64 = 0xf;
/// Of an access to a control register: the kind of access, 0 for MOV to it.
pub const CR_KIND: u64 = 3 << 4;
/// Of an access to a control register: position of the general register.
pub const CR_REGISTER_SHIFT: u32 = 8;
