//! What the words of an exit mean (15.7, 15.10.2, 15.25.6).

use super::spec::exit;
use super::spec::vmcb::Control;
use crate::x86_64::vcpu::{Exception, Exit, IoAccess, NestedFault};

/// An exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decoded {
    pub(super) exit: Exit,
    /// An exception that was intercepted for the hypervisor's sake: it is the guest's.
    pub(super) reflected: Option<Exception>,
    /// At an IRET, at the end of an NMI handler.
    pub(super) iret: bool,
    /// Bytes of the instruction in its shortest form, where it is one that exits before it is carried out.
    pub(super) length: u8,
}

impl Decoded {
    const fn instruction(exit: Exit, length: u8) -> Self {
        Self {
            exit,
            reflected: None,
            iret: false,
            length,
        }
    }

    const fn event(exit: Exit) -> Self {
        Self::instruction(exit, 0)
    }
}

pub(super) fn decode(control: &Control) -> Decoded {
    let (code, info) = (control.exit_code, control.exit_info_1);
    match code {
        exit::INTR => Decoded::event(Exit::Interrupt),
        exit::NMI => Decoded::event(Exit::Nmi),
        exit::INIT => Decoded::event(Exit::Init),
        exit::VINTR => Decoded::event(Exit::InterruptWindow),
        exit::IRET => Decoded {
            iret: true,
            ..Decoded::event(Exit::NmiWindow)
        },
        exit::CPUID => Decoded::instruction(Exit::Cpuid, 2),
        exit::HLT => Decoded::instruction(Exit::Halt, 1),
        exit::VMMCALL => Decoded::instruction(Exit::Hypercall, 3),
        exit::INVD | exit::WBINVD => Decoded::instruction(Exit::Cache, 2),
        exit::MSR => Decoded::instruction(
            Exit::Msr {
                write: info & 1 != 0,
            },
            2,
        ),
        exit::IOIO => Decoded::instruction(Exit::Io(io(info)), 0),
        exit::NPF => Decoded::event(Exit::NestedFault(nested_fault(info, control.exit_info_2))),
        exit::RDPMC => Decoded::event(Exit::Forbidden),
        exit::INVLPGA
        | exit::VMRUN
        | exit::VMLOAD..=exit::SKINIT
        | exit::MONITOR..=exit::MWAIT_ARMED
        | exit::RDPRU => Decoded::event(Exit::Undefined),
        exit::SHUTDOWN => Decoded::event(Exit::Shutdown),
        // VMEXIT_INVALID is -1; some write its lower half only.
        u64::MAX | 0xffff_ffff => Decoded::event(Exit::Invalid),
        _ => match code.checked_sub(exit::EXCEPTION) {
            Some(18) => Decoded::event(Exit::MachineCheck),
            Some(vector @ (1 | 17)) => Decoded {
                reflected: Some(Exception {
                    vector: vector as u8,
                    error: (vector == 17).then_some(0),
                }),
                ..Decoded::event(Exit::Retry)
            },
            _ => Decoded::event(Exit::Unknown(code)),
        },
    }
}

fn io(info: u64) -> IoAccess {
    IoAccess {
        port: (info >> exit::IO_PORT_SHIFT) as u16,
        size: (info >> exit::IO_SIZE_SHIFT & 7) as u8,
        write: info & exit::IO_IN == 0,
        string: info & exit::IO_STRING != 0,
        repeat: info & exit::IO_REPEAT != 0,
    }
}

fn nested_fault(info: u64, gpa: u64) -> NestedFault {
    NestedFault {
        gpa,
        write: info & exit::NPF_WRITE != 0,
        fetch: info & exit::NPF_FETCH != 0,
        walk: info & exit::NPF_WALK != 0,
        present: info & exit::NPF_PRESENT != 0,
        reserved: info & exit::NPF_RESERVED != 0,
    }
}
