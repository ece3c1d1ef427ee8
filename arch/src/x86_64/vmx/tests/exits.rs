//! What an exit says.

use super::{exit, guest, run, run_with};
use crate::x86_64::vcpu::{
    Entry, Exception, Exit, IoAccess, NestedFault, Registers, State, Virtualization,
};

#[test]
fn an_exit_brings_back_what_the_guest_is() {
    let mut guest = guest();
    guest.reset(&State::RESET);
    let mut registers = Registers::default();
    let words = [
        (0x4402, 1),
        (0x681e, 0x2000),
        (0x6820, 0x246),
        (0x681c, 0x3000),
        (0x6800, 0x8005_0033),
        (0x6004, 0x10),
        (0x6804, 0x2020),
        (0x6802, 0x7000),
        (0x2806, 0x500),
        (0x4816, 0xa0fb),
        (0x4818, 0xc0f3),
    ];
    let (left, vmcs) = run_with(&mut guest, &mut registers, &Entry::default(), &words);
    // Real mode, as after reset, but for NE.
    assert_eq!(
        (vmcs[&0x6800], vmcs[&0x4816], vmcs[&0x4012] >> 9 & 1),
        (0x6000_0030, 0x9b, 0)
    );
    assert_eq!(left.exit, Exit::Interrupt);
    assert_eq!(
        (registers.rip, registers.rflags, registers.general[4]),
        (0x2000, 0x246, 0x3000)
    );
    let context = guest.context();
    // NE as the guest wrote it, no VMXE.
    assert_eq!(
        (context.cr0, context.cr4, context.cr3),
        (0x8005_0013, 0x20, 0x7000)
    );
    assert_eq!(
        (context.code_bits(), context.cpl, context.cs.attributes),
        (64, 3, 0xafb)
    );
    guest.set_efer(0xd01);
    guest.set_tsc_offset(u64::MAX);
    let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
    assert_eq!(
        (vmcs[&0x2806], vmcs[&0x2010], vmcs[&0x4012] >> 9 & 1),
        (0xd01, u64::MAX, 1)
    );
    assert_eq!(guest.cpu.prepared, 1);
}

/// Reasons of appendix C.
#[test]
fn each_exit_means_what_the_manual_says() {
    for (reason, expected, length) in [
        (1, Exit::Interrupt, 0),
        (2, Exit::Shutdown, 0),
        (3, Exit::Init, 0),
        (7, Exit::InterruptWindow, 0),
        (8, Exit::NmiWindow, 0),
        (10, Exit::Cpuid, 3),
        (12, Exit::Halt, 3),
        (13, Exit::Cache, 3),
        (15, Exit::Forbidden, 0),
        (18, Exit::Hypercall, 3),
        (31, Exit::Msr { write: false }, 3),
        (32, Exit::Msr { write: true }, 3),
        (43, Exit::InterruptWindow, 0),
        (54, Exit::Cache, 3),
        (1 << 31 | 33, Exit::Invalid, 0),
        (1 << 31 | 41, Exit::MachineCheck, 0),
        (9, Exit::Unknown(9), 0),
        (55 + 1, Exit::Unknown(56), 0),
    ] {
        let left = exit(reason, 0, &[]);
        assert_eq!((left.exit, left.reflected), (expected, None), "{reason}");
        assert_eq!(left.next, 0x1000 + length, "{reason}");
    }
    for reason in [11, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 36, 39, 50, 53] {
        assert_eq!(exit(reason, 0, &[]).exit, Exit::Undefined, "{reason}");
    }
}

#[test]
fn exceptions_that_are_intercepted_are_told_apart() {
    // Valid 1<<31, hardware exception 3<<8, error code 1<<11.
    let left = exit(0, 0, &[(0x4404, 0x8000_0301)]);
    let debug = Exception {
        vector: 1,
        error: None,
    };
    assert_eq!((left.exit, left.reflected), (Exit::Retry, Some(debug)));
    let left = exit(0, 0, &[(0x4404, 0x8000_0b11), (0x4406, 0)]);
    assert_eq!(
        left.reflected.map(|e| (e.vector, e.error)),
        Some((17, Some(0)))
    );
    assert_eq!(
        exit(0, 0, &[(0x4404, 0x8000_0312)]).exit,
        Exit::MachineCheck
    );
    let other = exit(0, 0, &[(0x4404, 0x8000_0b0e)]).exit;
    assert_eq!(other, Exit::Unknown(0x8000_0b0e));
    let mut guest = guest();
    let (left, _) = run(
        &mut guest,
        &Entry::default(),
        &[(0x4402, 0), (0x4404, 0x8000_0202)],
    );
    assert_eq!((left.exit, guest.cpu.nmis), (Exit::Nmi, 1));
}

#[test]
fn an_access_to_a_port_is_in_the_qualification() {
    let access = |port, size, write, string, repeat| {
        Exit::Io(IoAccess {
            port,
            size,
            write,
            string,
            repeat,
        })
    };
    assert_eq!(
        exit(30, 0x03f8_0000, &[]).exit,
        access(0x3f8, 1, true, false, false)
    );
    let left = exit(30, 0x0cfc_000b, &[]);
    assert_eq!(
        (left.exit, left.next),
        (access(0xcfc, 4, false, false, false), 0x1003)
    );
    assert_eq!(
        exit(30, 0xffff_0039, &[]).exit,
        access(0xffff, 2, false, true, true)
    );
}

#[test]
fn an_ept_violation_is_a_nested_fault() {
    let fault = |qualification| match exit(48, qualification, &[(0x2400, 0xfee0_0123)]).exit {
        Exit::NestedFault(fault) => fault,
        other => panic!("{other:?}"),
    };
    let none = NestedFault {
        gpa: 0xfee0_0123,
        write: false,
        fetch: false,
        walk: false,
        present: false,
        reserved: false,
    };
    // Bit 7: with a linear address; bit 8: of its final translation.
    assert_eq!(fault(0x181), none);
    assert_eq!(
        fault(0x182),
        NestedFault {
            write: true,
            ..none
        }
    );
    assert_eq!(
        fault(0x184),
        NestedFault {
            fetch: true,
            ..none
        }
    );
    assert_eq!(
        fault(0x18a),
        NestedFault {
            write: true,
            present: true,
            ..none
        }
    );
    assert_eq!(fault(0x081), NestedFault { walk: true, ..none });
    assert_eq!(fault(0x001), none);
    let misconfigured = exit(49, 0, &[(0x2400, 0xfee0_0123)]).exit;
    let reserved = NestedFault {
        present: true,
        reserved: true,
        ..none
    };
    assert_eq!(misconfigured, Exit::NestedFault(reserved));
}
