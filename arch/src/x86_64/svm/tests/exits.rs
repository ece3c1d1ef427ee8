//! What an exit says.

use super::{PLAIN, exit, guest, run, run_with};
use crate::x86_64::svm::Features;
use crate::x86_64::vcpu::{Entry, Exit, IoAccess, NestedFault, Registers};

#[test]
fn an_exit_brings_the_registers_back() {
    let mut guest = guest(PLAIN);
    let mut registers = Registers::default();
    let words = [
        (0x70, 0x60),
        (0x578, 0x2000),
        (0x570, 0x246),
        (0x5d8, 0x3000),
        (0x5f8, 7),
    ];
    let (left, _) = run_with(&mut guest, &mut registers, &Entry::default(), &words);
    assert_eq!(left.exit, Exit::Interrupt);
    assert_eq!((registers.rip, registers.rflags), (0x2000, 0x246));
    assert_eq!((registers.general[4], registers.general[0]), (0x3000, 7));
}

/// Codes of appendix C.
#[test]
fn each_exit_means_what_the_manual_says() {
    for (code, one, expected, length) in [
        (0x60, 0, Exit::Interrupt, 0),
        (0x61, 0, Exit::Nmi, 0),
        (0x63, 0, Exit::Init, 0),
        (0x64, 0, Exit::InterruptWindow, 0),
        (0x6f, 0, Exit::Forbidden, 0),
        (0x72, 0, Exit::Cpuid, 2),
        (0x74, 0, Exit::NmiWindow, 0),
        (0x76, 0, Exit::Cache, 2),
        (0x78, 0, Exit::Halt, 1),
        (0x7c, 0, Exit::Msr { write: false }, 2),
        (0x7c, 1, Exit::Msr { write: true }, 2),
        (0x7f, 0, Exit::Shutdown, 0),
        (0x81, 0, Exit::Hypercall, 3),
        (0x89, 0, Exit::Cache, 2),
        (0x52, 0, Exit::MachineCheck, 0),
        (0x4e, 0, Exit::Unknown(0x4e), 0),
        (0x7d, 0, Exit::Unknown(0x7d), 0),
        (0x3f, 0, Exit::Unknown(0x3f), 0),
        (0x401, 0, Exit::Unknown(0x401), 0),
        (u64::MAX, 0, Exit::Invalid, 0),
        // As QEMU writes it.
        (0xffff_ffff, 0, Exit::Invalid, 0),
    ] {
        let left = exit(code, one, 0);
        assert_eq!((left.exit, left.reflected), (expected, None), "{code:#x}");
        assert_eq!(left.next, 0x1000 + length, "{code:#x}");
    }
    for code in [
        0x7a, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x8a, 0x8b, 0x8c, 0x8e,
    ] {
        assert_eq!(exit(code, 0, 0).exit, Exit::Undefined, "{code:#x}");
    }
    // #DB and #AC go on to the guest.
    let reflected = |code| {
        let left = exit(code, 0, 0);
        assert_eq!(left.exit, Exit::Retry);
        left.reflected
            .map(|exception| (exception.vector, exception.error))
    };
    assert_eq!(reflected(0x41), Some((1, None)));
    assert_eq!(reflected(0x51), Some((17, Some(0))));
}

#[test]
fn an_access_to_a_port_is_in_exitinfo1() {
    let access = |port, size, write, string, repeat| {
        Exit::Io(IoAccess {
            port,
            size,
            write,
            string,
            repeat,
        })
    };
    // out dx, al: port 15:0 in 31:16, A64 1<<9, SZ8 1<<4; EXITINFO2 is where it goes on.
    let left = exit(0x7b, 0x03f8_0210, 0x1001);
    assert_eq!(
        (left.exit, left.next),
        (access(0x3f8, 1, true, false, false), 0x1001)
    );
    // in eax, dx: SZ32 1<<6, TYPE 1.
    let left = exit(0x7b, 0x0cfc_0241, 0x1001);
    assert_eq!(left.exit, access(0xcfc, 4, false, false, false));
    // rep insw: SZ16 1<<5, REP 1<<3, STR 1<<2.
    let left = exit(0x7b, 0xffff_022d, 0x1003);
    assert_eq!(
        (left.exit, left.next),
        (access(0xffff, 2, false, true, true), 0x1003)
    );
}

#[test]
fn a_nested_fault_is_in_exitinfo1_and_2() {
    let fault = |info| match exit(0x400, info, 0xfee0_0123).exit {
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
    // Bit 2 is always set: guests are users. Bit 32: of the final address; 33: of a guest's table.
    assert_eq!(fault(1 << 32 | 4), none);
    assert_eq!(
        fault(1 << 32 | 6),
        NestedFault {
            write: true,
            ..none
        }
    );
    assert_eq!(
        fault(1 << 32 | 0x14),
        NestedFault {
            fetch: true,
            ..none
        }
    );
    assert_eq!(
        fault(1 << 32 | 7),
        NestedFault {
            write: true,
            present: true,
            ..none
        }
    );
    assert_eq!(
        fault(1 << 33 | 6),
        NestedFault {
            write: true,
            walk: true,
            ..none
        }
    );
    assert_eq!(
        fault(1 << 32 | 0xd),
        NestedFault {
            present: true,
            reserved: true,
            ..none
        }
    );
}

#[test]
fn where_the_cpu_says_where_to_go_on_it_is_believed() {
    let features = Features {
        next_rip: true,
        ..PLAIN
    };
    let next = |code| {
        let words = [(0x70, code), (0xc8, 0x1007), (0x578, 0x1000)];
        run(&mut guest(features), &Entry::default(), &words).0.next
    };
    assert_eq!(next(0x72), 0x1007);
    // It says so of instructions only.
    assert_eq!(next(0x60), 0x1000);
}
