//! What makes a guest exit (table B-1, offsets 0x0c and 0x10; 15.9 to 15.14).

/// A physical interrupt.
pub const INTR: u32 = 1 << 0;
/// An NMI.
pub const NMI: u32 = 1 << 1;
/// INIT.
pub const INIT: u32 = 1 << 3;
/// A virtual interrupt that can be taken.
pub const VINTR: u32 = 1 << 4;
/// RDPMC.
pub const RDPMC: u32 = 1 << 15;
/// CPUID.
pub const CPUID: u32 = 1 << 18;
/// IRET.
pub const IRET: u32 = 1 << 20;
/// INVD.
pub const INVD: u32 = 1 << 22;
/// HLT.
pub const HLT: u32 = 1 << 24;
/// INVLPGA.
pub const INVLPGA: u32 = 1 << 26;
/// IN and OUT, as the I/O permission map says.
pub const IOIO_PROT: u32 = 1 << 27;
/// RDMSR and WRMSR, as the MSR permission map says.
pub const MSR_PROT: u32 = 1 << 28;
/// Shutdown.
pub const SHUTDOWN: u32 = 1 << 31;

/// In the second word: VMRUN.
pub const VMRUN: u32 = 1 << 0;
/// VMMCALL.
pub const VMMCALL: u32 = 1 << 1;
/// VMLOAD.
pub const VMLOAD: u32 = 1 << 2;
/// VMSAVE.
pub const VMSAVE: u32 = 1 << 3;
/// STGI.
pub const STGI: u32 = 1 << 4;
/// CLGI.
pub const CLGI: u32 = 1 << 5;
/// SKINIT.
pub const SKINIT: u32 = 1 << 6;
/// WBINVD and WBNOINVD.
pub const WBINVD: u32 = 1 << 9;
/// MONITOR.
pub const MONITOR: u32 = 1 << 10;
/// MWAIT.
pub const MWAIT: u32 = 1 << 11;
/// MWAIT with the monitor armed.
pub const MWAIT_ARMED: u32 = 1 << 12;
/// RDPRU.
pub const RDPRU: u32 = 1 << 14;
