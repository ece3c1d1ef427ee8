//! What the fields of an exit mean ("VM Exits", "Exit Qualification").

use super::guest::Processor;
use super::spec::control::NMI_BLOCKED;
use super::spec::{exit, field};
use crate::x86_64::vcpu::{Exception, Exit, IoAccess, NestedFault, RAX, RCX, RDX, Registers};

/// An exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decoded {
    pub(super) exit: Exit,
    /// An exception for the guest, which the hypervisor saw first.
    pub(super) reflected: Option<Exception>,
    /// The CPU says how long the instruction is.
    pub(super) instruction: bool,
    /// The hypervisor has carried the instruction out.
    pub(super) done: bool,
}

impl Decoded {
    const fn event(exit: Exit) -> Self {
        Self {
            exit,
            reflected: None,
            instruction: false,
            done: false,
        }
    }

    const fn instruction(exit: Exit) -> Self {
        Self {
            instruction: true,
            ..Self::event(exit)
        }
    }

    const fn reflected(exception: Exception) -> Self {
        Self {
            reflected: Some(exception),
            ..Self::event(Exit::Retry)
        }
    }
}

/// Decodes the exit with `reason`, and carries out what is the CPU's affair alone.
pub(super) fn decode<P: Processor>(cpu: &mut P, reason: u64, registers: &Registers) -> Decoded {
    // Bit 31: the entry failed.
    let basic = reason as u16;
    match basic {
        exit::EXCEPTION => exception(cpu),
        exit::INTERRUPT => interrupt(cpu),
        exit::TRIPLE_FAULT => Decoded::event(Exit::Shutdown),
        exit::INIT => Decoded::event(Exit::Init),
        exit::INTERRUPT_WINDOW | exit::TPR_BELOW => Decoded::event(Exit::InterruptWindow),
        exit::NMI_WINDOW => Decoded::event(Exit::NmiWindow),
        exit::CPUID => Decoded::instruction(Exit::Cpuid),
        exit::HLT => Decoded::instruction(Exit::Halt),
        exit::INVD | exit::WBINVD => Decoded::instruction(Exit::Cache),
        exit::VMCALL => Decoded::instruction(Exit::Hypercall),
        exit::RDMSR => Decoded::instruction(Exit::Msr { write: false }),
        exit::WRMSR => Decoded::instruction(Exit::Msr { write: true }),
        exit::IO => Decoded::instruction(Exit::Io(io(cpu.read(field::QUALIFICATION)))),
        exit::RDPMC => Decoded::event(Exit::Forbidden),
        exit::GETSEC
        | exit::RSM
        | exit::VMCLEAR..=exit::VMXON
        | exit::MWAIT
        | exit::MONITOR
        | exit::INVEPT
        | exit::INVVPID => Decoded::event(Exit::Undefined),
        exit::CONTROL_REGISTER => control_register(cpu, registers),
        exit::XSETBV => set_xcr(cpu, registers),
        exit::EPT_VIOLATION => Decoded::event(Exit::NestedFault(violation(cpu))),
        exit::EPT_MISCONFIGURED => Decoded::event(Exit::NestedFault(NestedFault {
            gpa: cpu.read(field::GUEST_PHYSICAL),
            write: false,
            fetch: false,
            walk: false,
            present: true,
            reserved: true,
        })),
        exit::INVALID_STATE => Decoded::event(Exit::Invalid),
        exit::ENTRY_MACHINE_CHECK => Decoded::event(Exit::MachineCheck),
        _ => Decoded::event(Exit::Unknown(reason)),
    }
}

fn exception<P: Processor>(cpu: &mut P) -> Decoded {
    let event = cpu.read(field::EXIT_EVENT);
    match (event >> 8 & 7, event as u8) {
        (2, _) => {
            cpu.take_nmi();
            Decoded::event(Exit::Nmi)
        }
        (_, 18) => Decoded::event(Exit::MachineCheck),
        (_, vector @ (1 | 17)) => Decoded::reflected(Exception {
            vector,
            error: (vector == 17).then(|| cpu.read(field::EXIT_ERROR) as u32),
        }),
        _ => Decoded::event(Exit::Unknown(event)),
    }
}

/// It may be acknowledged already.
fn interrupt<P: Processor>(cpu: &mut P) -> Decoded {
    let event = cpu.read(field::EXIT_EVENT);
    if event & 1 << 31 != 0 {
        cpu.take_interrupt(event as u8);
    }
    Decoded::event(Exit::Interrupt)
}

fn io(qualification: u64) -> IoAccess {
    IoAccess {
        port: (qualification >> exit::IO_PORT_SHIFT) as u16,
        size: (qualification & exit::IO_SIZE) as u8 + 1,
        write: qualification & exit::IO_IN == 0,
        string: qualification & exit::IO_STRING != 0,
        repeat: qualification & exit::IO_REPEAT != 0,
    }
}

fn violation<P: Processor>(cpu: &mut P) -> NestedFault {
    let qualification = cpu.read(field::QUALIFICATION);
    let has = |bit| qualification & bit != 0;
    // The IRET that faulted had ended the blocking already ("Information for VM Exits Due to Event Delivery").
    if has(exit::NMI_UNBLOCKED) && cpu.read(field::VECTORING) & 1 << 31 == 0 {
        let state = cpu.read(field::INTERRUPTIBILITY);
        cpu.write(field::INTERRUPTIBILITY, state | NMI_BLOCKED);
    }
    NestedFault {
        gpa: cpu.read(field::GUEST_PHYSICAL),
        write: has(exit::EPT_WRITE),
        fetch: has(exit::EPT_FETCH),
        walk: has(exit::EPT_LINEAR) && !has(exit::EPT_FINAL),
        present: has(exit::EPT_MAPPED),
        reserved: false,
    }
}

/// A write of CR0 that changes NE, or of CR4 that sets VMXE: all else the guest does itself. NE is what it wrote from now on, and
/// the instruction, carried out again, does the rest; VMXE is nothing that it has.
fn control_register<P: Processor>(cpu: &mut P, registers: &Registers) -> Decoded {
    let qualification = cpu.read(field::QUALIFICATION);
    if qualification & exit::CR_KIND != 0 {
        return Decoded::event(Exit::Unknown(exit::CONTROL_REGISTER.into()));
    }
    let register = (qualification >> exit::CR_REGISTER_SHIFT & 0xf) as usize;
    match qualification & exit::CR_NUMBER {
        0 => {
            cpu.write(field::CR0_SHADOW, registers.general[register]);
            Decoded::event(Exit::Retry)
        }
        4 => Decoded::reflected(Exception::GENERAL_PROTECTION),
        _ => Decoded::event(Exit::Unknown(exit::CONTROL_REGISTER.into())),
    }
}

/// XSETBV, which always exits; privilege and CR4 were checked before that.
fn set_xcr<P: Processor>(cpu: &mut P, registers: &Registers) -> Decoded {
    let [number, low, high] = [RCX, RAX, RDX].map(|n| registers.general[n] as u32);
    let value = u64::from(high) << 32 | u64::from(low);
    if number != 0 || !is_xcr0(value, cpu.xcr0_supported()) {
        return Decoded::reflected(Exception::GENERAL_PROTECTION);
    }
    cpu.set_xcr0(value);
    Decoded {
        done: true,
        ..Decoded::instruction(Exit::Retry)
    }
}

/// Whether XCR0 can be `value` (SDM, volume 1, "XSAVE-Supported Features and State-Component Bitmaps"): x87 always; AVX with SSE;
/// both parts of MPX; all three of AVX-512 with AVX; both of AMX.
fn is_xcr0(value: u64, supported: u64) -> bool {
    const AVX_512: u64 = 7 << 5;
    let whole = |part: u64| value & part == 0 || value & part == part;
    let needs = |part: u64, other: u64| value & part == 0 || value & other == other;
    value & !supported == 0
        && value & 1 != 0
        && needs(1 << 2, 1 << 1)
        && whole(3 << 3)
        && whole(AVX_512)
        && needs(AVX_512, 1 << 2)
        && whole(3 << 17)
}

#[cfg(test)]
mod tests {
    use super::is_xcr0;

    #[test]
    fn xcr0_holds_only_what_goes_together() {
        let all = 0x6_02ff;
        for value in [1, 3, 7, 0x1f, 0xe7, 0xff, 0x207, 0x6_0007, all] {
            assert!(is_xcr0(value, all), "{value:#x}");
        }
        for value in [
            0, 2, 5, 0xb, 0x13, 0x27, 0x67, 0xe3, 0x2_0007, 0x4_0007, 0x407,
        ] {
            assert!(!is_xcr0(value, all), "{value:#x}");
        }
        assert!(!is_xcr0(7, 3), "not this CPU's");
    }
}
