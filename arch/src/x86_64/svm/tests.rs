//! Control blocks by the offsets and bits of the manual, as Linux's `asm/svm.h` has them, over a CPU that does what the test
//! says.

use super::spec::vmcb::Vmcb;
use super::{Features, Guest, Maps, Processor, Unsupported, Words};
use crate::x86_64::vcpu::{
    DescriptorTable, Entry, Event, Exception, Exit, IoAccess, Left, NestedFault, Registers, State,
    Virtualization,
};
use alloc::collections::VecDeque;
use alloc::sync::Arc;

/// What #VMEXIT leaves: words by their offset in the control block.
type Words64 = Vec<(usize, u64)>;

#[derive(Debug, Default)]
struct Fake {
    exits: VecDeque<Words64>,
    prepared: usize,
    /// The control block at each entry.
    seen: Vec<[u64; 512]>,
}

fn words(vmcb: &Vmcb) -> [u64; 512] {
    // SAFETY: a control block is 4096 bytes without padding (proved where it is laid down), and any bytes are words.
    unsafe { core::ptr::from_ref(vmcb).cast::<[u64; 512]>().read() }
}

fn put(vmcb: &mut Vmcb, at: usize, value: u64) {
    assert!(at.is_multiple_of(8) && at < 4096);
    // SAFETY: inside of the block, aligned, and all its fields are plain numbers.
    unsafe {
        core::ptr::from_mut(vmcb)
            .cast::<u64>()
            .add(at / 8)
            .write(value)
    };
}

impl Processor for Fake {
    fn prepare(&mut self) {
        self.prepared += 1;
    }

    fn enter(&mut self, vmcb: &mut Vmcb, registers: &mut Registers) {
        self.seen.push(words(vmcb));
        registers.general[3] += 1;
        for (at, value) in self.exits.pop_front().expect("an exit") {
            put(vmcb, at, value);
        }
    }
}

const PLAIN: Features = Features {
    next_rip: false,
    flush_by_asid: false,
};

fn guest(features: Features) -> Guest<Fake> {
    let mut guest = Guest::new(
        features,
        Arc::new(Maps::new()),
        0x1234_5000,
        Fake::default(),
    );
    guest.reset(&State::RESET);
    guest
}

fn run(guest: &mut Guest<Fake>, entry: &Entry, exit: &[(usize, u64)]) -> (Left, [u64; 512]) {
    let mut registers = Registers::default();
    run_with(guest, &mut registers, entry, exit)
}

fn run_with(
    guest: &mut Guest<Fake>,
    registers: &mut Registers,
    entry: &Entry,
    exit: &[(usize, u64)],
) -> (Left, [u64; 512]) {
    guest.parts().1.exits.push_back(exit.to_vec());
    let left = guest.run(registers, entry);
    (left, *guest.parts().1.seen.last().expect("entered"))
}

/// Runs to an exit with `code`, EXITINFO1 and EXITINFO2.
fn exit(code: u64, one: u64, two: u64) -> Left {
    let words = [(0x70, code), (0x78, one), (0x80, two), (0x578, 0x1000)];
    run(&mut guest(PLAIN), &Entry::default(), &words).0
}

#[test]
fn a_control_block_says_all_that_an_entry_needs() {
    let maps = Arc::new(Maps::new());
    let mut guest = Guest::new(PLAIN, Arc::clone(&maps), 0x1234_5000, Fake::default());
    guest.reset(&State::protected(0x10_0000));
    let mut registers = Registers {
        general: core::array::from_fn(|n| 0x1000 + n as u64),
        rip: 0x10_0000,
        rflags: 2,
    };
    let (_, block) = run_with(
        &mut guest,
        &mut registers,
        &Entry::default(),
        &[(0x70, 0x78)],
    );
    let word = |at: usize| block[at / 8];
    // No CR or DR exits; #DB, #AC and #MC do.
    assert_eq!((word(0), word(8) as u32), (0, 1 << 1 | 1 << 17 | 1 << 18));
    // By number in Linux's list, from 96 on: INTR, NMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR, SHUTDOWN.
    let expected = [96, 97, 99, 111, 114, 118, 120, 122, 123, 124, 127];
    let bits = |from: usize, word: u64| -> Vec<usize> {
        (0..32)
            .filter(|bit| word >> bit & 1 != 0)
            .map(|bit| from + bit)
            .collect()
    };
    assert_eq!(bits(96, word(8) >> 32), expected);
    // From 128 on: VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD, MONITOR, MWAIT twice, RDPRU.
    let expected = [128, 129, 130, 131, 132, 133, 134, 137, 138, 139, 140, 142];
    assert_eq!(bits(128, word(0x10) & 0xffff_ffff), expected);
    assert_eq!((word(0x40), word(0x48)), (maps.io(), maps.msr()));
    // ASID 1, and the first entry flushes everything; V_INTR_MASKING.
    assert_eq!(word(0x58), 1 << 32 | 1);
    assert_eq!(word(0x60), 1 << 24);
    assert_eq!(
        (word(0x90), word(0xb0), word(0xb8), word(0xc0)),
        (1, 0x1234_5000, 0, 0)
    );
    // ES, SS, DS, FS, GS; then CS, GDTR, LDTR, IDTR, TR: selector, attributes and limit.
    for at in [0x400, 0x420, 0x430, 0x440, 0x450] {
        assert_eq!((word(at), word(at + 8)), (0xffff_ffff_0c93_0018, 0));
    }
    assert_eq!(word(0x410), 0xffff_ffff_0c9b_0010);
    assert_eq!((word(0x460), word(0x480)), (0xffff << 32, 0xffff << 32));
    assert_eq!(
        (word(0x470), word(0x490)),
        (0xffff_0082_0000, 0x67_008b_0000)
    );
    // EFER.SVME; CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP; RSP, RAX; PAT.
    assert_eq!(word(0x4d0), 0x1000);
    let rest = [0x548, 0x550, 0x558, 0x560, 0x568, 0x570, 0x578].map(word);
    assert_eq!(rest, [0, 0, 0x31, 0x400, 0xffff_0ff0, 2, 0x10_0000]);
    assert_eq!((word(0x5d8), word(0x5f8)), (0x1004, 0x1000));
    assert_eq!(word(0x668), 0x0007_0406_0007_0406);
    assert_eq!(registers.general[3], 0x1004, "what the entry code keeps");
    assert_eq!(guest.parts().1.prepared, 1);
}

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

#[test]
fn events_have_one_layout_in_both_directions() {
    let fault = |vector, error| Event::Exception(Exception { vector, error });
    for (event, word) in [
        (Event::Interrupt(0x41), 0x8000_0041),
        (Event::Nmi, 0x8000_0202),
        (fault(6, None), 0x8000_0306),
        (fault(14, Some(0x1_0002)), 0x1_0002_8000_0b0e),
    ] {
        let entry = Entry {
            event: Some(event),
            ..Entry::default()
        };
        let words = [(0x70, 0x400), (0x88, word)];
        let (left, block) = run(&mut guest(PLAIN), &entry, &words);
        assert_eq!(block[0xa8 / 8], word);
        assert_eq!(left.interrupted, Some(event));
    }
    // Nothing; INTn, INT3 and INTO come again by themselves; what is no event is none.
    for word in [
        0x41,
        0x302,
        0x8000_0480,
        0x8000_0303,
        0x8000_0304,
        0x8000_0320,
        0x8000_0741,
    ] {
        let words = [(0x70, 0x400), (0x88, word)];
        let (left, _) = run(&mut guest(PLAIN), &Entry::default(), &words);
        assert_eq!(left.interrupted, None, "{word:#x}");
    }
    // A state that the CPU refuses has no event either.
    let words = [(0x70, u64::MAX), (0x88, 0x8000_0041)];
    assert_eq!(
        run(&mut guest(PLAIN), &Entry::default(), &words)
            .0
            .interrupted,
        None
    );
}

#[test]
fn a_window_is_an_interrupt_that_is_never_taken() {
    let vintr = |block: &[u64; 512]| block[1] >> (32 + 4) & 1;
    let mut guest = guest(PLAIN);
    guest.set_task_priority(3);
    for (window, control) in [
        (Some(5), 1 << 24 | 5 << 16 | 1 << 8 | 3),
        (Some(u8::MAX), 1 << 24 | 1 << 20 | 1 << 8 | 3),
        (None, 1 << 24 | 3),
    ] {
        let entry = Entry {
            window,
            ..Entry::default()
        };
        let (_, block) = run(&mut guest, &entry, &[(0x70, 0x64)]);
        assert_eq!(block[0x60 / 8], control);
        assert_eq!(vintr(&block), u64::from(window.is_some()));
    }
    // The guest moves CR8 without an exit.
    run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x78), (0x60, 1 << 24 | 9)],
    );
    assert_eq!(guest.task_priority(), 9);
    guest.reset(&State::RESET);
    assert_eq!(guest.task_priority(), 0);
}

#[test]
fn an_nmi_is_over_after_its_iret() {
    let iret = |block: &[u64; 512]| block[1] >> (32 + 20) & 1;
    let mut guest = guest(PLAIN);
    let at = |rip| Registers {
        rip,
        ..Registers::default()
    };
    assert!(!guest.is_nmi_masked(&at(0)));
    let entry = Entry {
        event: Some(Event::Nmi),
        ..Entry::default()
    };
    let (_, block) = run(&mut guest, &entry, &[(0x70, 0x78), (0x578, 0x2000)]);
    assert_eq!(iret(&block), 1);
    assert!(guest.is_nmi_masked(&at(0x2000)) && guest.is_nmi_masked(&at(0x2001)));
    // At the IRET it is still in its handler.
    let (left, _) = run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x74), (0x578, 0x2100)],
    );
    assert_eq!(left.exit, Exit::NmiWindow);
    assert!(guest.is_nmi_masked(&at(0x2100)));
    let (_, block) = run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x78), (0x578, 0x1000)],
    );
    assert_eq!(iret(&block), 0);
    assert!(!guest.is_nmi_masked(&at(0x1000)));
    run(&mut guest, &entry, &[(0x70, 0x78)]);
    guest.reset(&State::RESET);
    assert!(!guest.is_nmi_masked(&at(0x2000)));
}

#[test]
fn what_is_cached_goes_when_it_has_to() {
    for flush_by_asid in [false, true] {
        let mut guest = guest(Features {
            flush_by_asid,
            ..PLAIN
        });
        let one = if flush_by_asid { 3 } else { 1 };
        let flushes = |guest: &mut Guest<Fake>, flush| {
            let entry = Entry {
                flush,
                ..Entry::default()
            };
            let (_, block) = run(guest, &entry, &[(0x70, 0x78)]);
            block[0x58 / 8] >> 32
        };
        assert_eq!(flushes(&mut guest, true), 1, "a new life");
        assert_eq!(flushes(&mut guest, false), 0);
        assert_eq!(flushes(&mut guest, true), one);
        guest.reset(&State::RESET);
        assert_eq!(flushes(&mut guest, false), 1, "a new life");
        assert_eq!(guest.parts().1.prepared, 2);
    }
}

#[test]
fn a_shadow_ends_with_the_instruction_that_is_carried_out() {
    let mut guest = guest(PLAIN);
    run(&mut guest, &Entry::default(), &[(0x70, 0x78), (0x68, 1)]);
    assert!(guest.is_shadowed());
    guest.end_shadow();
    assert!(!guest.is_shadowed());
    let (_, block) = run(&mut guest, &Entry::default(), &[(0x70, 0x78), (0x68, 1)]);
    assert_eq!(block[0x68 / 8], 0);
    guest.reset(&State::RESET);
    assert!(!guest.is_shadowed());
}

#[test]
fn the_context_is_the_guests_without_our_bits() {
    let mut guest = guest(PLAIN);
    let gdt = DescriptorTable {
        base: 0x1000,
        limit: 31,
    };
    guest.reset(&State::long(0x100_0200, 0x2000, gdt));
    let context = guest.context();
    assert_eq!(
        (context.efer, context.cr3, context.code_bits()),
        (0xd00, 0x2000, 64)
    );
    guest.set_efer(0xd01);
    assert_eq!(guest.context().efer, 0xd01);
    guest.set_tsc_offset(u64::MAX);
    // CPL is the byte at 0xcb of the save area.
    let (_, block) = run(
        &mut guest,
        &Entry::default(),
        &[(0x70, 0x78), (0x4c8, 3 << 24)],
    );
    assert_eq!((block[0x4d0 / 8], block[0x50 / 8]), (0x1d01, u64::MAX));
    assert_eq!((block[0x460 / 8], block[0x468 / 8]), (31 << 32, 0x1000));
    assert_eq!(guest.context().cpl, 3);
}

#[test]
fn svm_is_there_or_says_why_not() {
    let all = Words {
        last: 0x8000_001f,
        extended: 1 << 2,
        asids: 16,
        // What QEMU's TCG has: NPT, VGIF and SVMEaddrChk.
        svm: 1 | 1 << 16 | 1 << 28,
        vm_cr: 0,
    };
    assert_eq!(Features::new(&all), Ok(PLAIN));
    let more = Words {
        svm: 1 | 1 << 3 | 1 << 6,
        vm_cr: 1 << 3,
        ..all
    };
    let features = Features::new(&more).expect("SVM");
    assert!(features.next_rip && features.flush_by_asid);
    let refused = |words| Features::new(&words).expect_err("no SVM");
    assert_eq!(
        refused(Words {
            last: 0x8000_0008,
            ..all
        }),
        Unsupported::NoSvm
    );
    assert_eq!(
        refused(Words {
            extended: !(1 << 2),
            ..all
        }),
        Unsupported::NoSvm
    );
    assert_eq!(
        refused(Words {
            vm_cr: 1 << 4,
            ..all
        }),
        Unsupported::Disabled
    );
    assert_eq!(
        refused(Words { svm: !1, ..all }),
        Unsupported::NoNestedPaging
    );
    assert_eq!(refused(Words { asids: 1, ..all }), Unsupported::NoAsid(1));
}
