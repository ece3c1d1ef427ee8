//! EXITCODE (appendix C, "SVM Intercept Exit Codes"), EXITINFO1 and EXITINFO2.

/// The first of 32 for exceptions, by vector.
pub const EXCEPTION: u64 = 0x40;
/// A physical interrupt.
pub const INTR: u64 = 0x60;
/// NMI.
pub const NMI: u64 = 0x61;
/// INIT.
pub const INIT: u64 = 0x63;
/// A virtual interrupt can be taken.
pub const VINTR: u64 = 0x64;
/// RDPMC.
pub const RDPMC: u64 = 0x6f;
/// CPUID.
pub const CPUID: u64 = 0x72;
/// IRET.
pub const IRET: u64 = 0x74;
/// INVD.
pub const INVD: u64 = 0x76;
/// HLT.
pub const HLT: u64 = 0x78;
/// INVLPGA.
pub const INVLPGA: u64 = 0x7a;
/// IN or OUT.
pub const IOIO: u64 = 0x7b;
/// RDMSR or WRMSR.
pub const MSR: u64 = 0x7c;
/// Shutdown.
pub const SHUTDOWN: u64 = 0x7f;
/// VMRUN.
pub const VMRUN: u64 = 0x80;
/// VMMCALL.
pub const VMMCALL: u64 = 0x81;
/// VMLOAD; VMSAVE, STGI and CLGI follow.
pub const VMLOAD: u64 = 0x82;
/// SKINIT.
pub const SKINIT: u64 = 0x86;
/// WBINVD.
pub const WBINVD: u64 = 0x89;
/// MONITOR.
pub const MONITOR: u64 = 0x8a;
/// MWAIT with the monitor armed.
pub const MWAIT_ARMED: u64 = 0x8c;
/// RDPRU.
pub const RDPRU: u64 = 0x8e;
/// A nested page fault.
pub const NPF: u64 = 0x400;

/// EXITINFO1 of IOIO (15.10.2): IN rather than OUT.
pub const IO_IN: u64 = 1 << 0;
/// INS or OUTS.
pub const IO_STRING: u64 = 1 << 2;
/// With REP.
pub const IO_REPEAT: u64 = 1 << 3;
/// Position of the operand's size in bytes, 3 bits: 1, 2 or 4.
pub const IO_SIZE_SHIFT: u32 = 4;
/// Position of the port.
pub const IO_PORT_SHIFT: u32 = 16;

/// EXITINFO1 of NPF (15.25.6): the entry was there.
pub const NPF_PRESENT: u64 = 1 << 0;
/// A write.
pub const NPF_WRITE: u64 = 1 << 1;
/// Reserved bits in an entry.
pub const NPF_RESERVED: u64 = 1 << 3;
/// An instruction fetch.
pub const NPF_FETCH: u64 = 1 << 4;
/// On a walk of the guest's own tables.
pub const NPF_WALK: u64 = 1 << 33;
