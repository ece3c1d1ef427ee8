//! Control blocks by the offsets and bits of the manual, as Linux's `asm/svm.h` has them, over a CPU that does what the test
//! says.

mod events;
mod exits;

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use super::spec::vmcb::Vmcb;
use super::{Features, Guest, Maps, Processor, Unsupported, Words};
use crate::x86_64::vcpu::{DescriptorTable, Entry, Left, Registers, State, Virtualization};

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
