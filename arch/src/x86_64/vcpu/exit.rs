//! Why a guest stopped, whichever way the CPU says so.

/// Why [`run`](super::Vcpu::run) came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A physical interrupt is pending.
    Interrupt,
    /// A physical NMI came; this CPU has taken it since.
    Nmi,
    /// The guest can take an interrupt of the class that was asked for.
    InterruptWindow,
    /// The guest is at the end of its NMI handler, and takes the next at an exit after this one.
    NmiWindow,
    /// There is nothing to do.
    Retry,
    /// IN or OUT of a port that is not the guest's. The program counter is still at it.
    Io(IoAccess),
    /// RDMSR or WRMSR of a register that is not the guest's; its number is in ECX. The program counter is still at it.
    Msr {
        /// WRMSR.
        write: bool,
    },
    /// CPUID. The program counter is still at it.
    Cpuid,
    /// HLT. The program counter is still at it.
    Halt,
    /// VMMCALL or VMCALL. The program counter is still at it.
    Hypercall,
    /// INVD or WBINVD. The program counter is still at it.
    Cache,
    /// An access that the nested tables do not allow.
    NestedFault(NestedFault),
    /// An instruction that this guest does not have: #UD.
    Undefined,
    /// An instruction that this guest may not use, RDPMC: #GP(0).
    Forbidden,
    /// This CPU was sent INIT while it was in the guest.
    Init,
    /// A machine check: something of the machine is broken.
    MachineCheck,
    /// The guest has shut itself down (a triple fault).
    Shutdown,
    /// The CPU refuses the guest's state: what the guest's registers hold is lost.
    Invalid,
    /// Anything else: the CPU's code for it.
    Unknown(u64),
}

/// An access to an I/O port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// The first port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// OUT, rather than IN.
    pub write: bool,
    /// INS or OUTS: from or to memory.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}

/// An access that the nested tables (NPT, EPT) do not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedFault {
    /// Guest physical address of the access.
    pub gpa: u64,
    /// A write. On a walk of the guest's own tables SVM says so of reads as well.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// On a walk of the guest's own tables.
    pub walk: bool,
    /// Something is mapped there, for other accesses.
    pub present: bool,
    /// The nested tables hold what the CPU reserves: the hypervisor's own mistake.
    pub reserved: bool,
}
