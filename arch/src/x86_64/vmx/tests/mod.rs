//! VMCSs by the encodings and bits of the SDM, as Linux's `asm/vmx.h` has them, over a CPU that does what the test says.

mod events;
mod exits;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;

use super::spec::field::Field;
use super::{Bitmaps, Features, Guest, Processor, Unsupported, Words};
use crate::x86_64::vcpu::{
    DescriptorTable, Entry, Exception, Exit, Left, Registers, State, Virtualization,
};

/// Fields that an exit leaves, by encoding.
type Fields = Vec<(u32, u64)>;

#[derive(Debug, Default)]
struct Fake {
    fields: BTreeMap<u32, u64>,
    exits: VecDeque<Fields>,
    refuses: bool,
    /// The VMCS at each entry, and how often everything was forgotten until then.
    seen: Vec<(BTreeMap<u32, u64>, usize)>,
    prepared: usize,
    flushes: usize,
    nmis: usize,
    xcr0: u64,
    apic: BTreeMap<usize, u32>,
    interrupts: Vec<u8>,
    /// One is pending at the CPU.
    interrupted: bool,
    cr2: u64,
}

impl Processor for Fake {
    fn prepare(&mut self, _features: &Features) {
        self.prepared += 1;
        self.fields.clear();
    }

    fn read(&self, field: Field) -> u64 {
        self.fields.get(&field.0).copied().unwrap_or(0)
    }

    fn write(&mut self, field: Field, value: u64) {
        // Bits 14:13 are the width, 0 for 16 bits and 2 for 32.
        let bits = match field.0 >> 13 & 3 {
            0 => 16,
            2 => 32,
            _ => 64,
        };
        assert!(bits == 64 || value >> bits == 0, "{:#x}", field.0);
        // Bits 11:10: 1 is what nobody writes.
        assert_ne!(field.0 >> 10 & 3, 1, "{:#x}", field.0);
        self.fields.insert(field.0, value);
    }

    fn enter(&mut self, registers: &mut Registers) -> Result<(), u64> {
        self.seen.push((self.fields.clone(), self.flushes));
        if self.refuses {
            return Err(7);
        }
        registers.general[3] += 1;
        let exit = self.exits.pop_front().expect("an exit");
        for field in [0x4402, 0x4404, 0x4406, 0x4408, 0x440a, 0x440c, 0x6400] {
            self.fields.insert(field, 0);
        }
        self.fields.extend(exit);
        Ok(())
    }

    fn flush(&mut self) {
        self.flushes += 1;
    }

    fn virtual_apic(&self) -> u64 {
        0x9000
    }

    fn apic(&self, register: usize) -> u32 {
        self.apic.get(&register).copied().unwrap_or(0)
    }

    fn set_apic(&mut self, register: usize, value: u32) {
        self.apic.insert(register, value);
    }

    fn set_cr2(&mut self, address: u64) {
        self.cr2 = address;
    }

    fn xcr0_supported(&self) -> u64 {
        7
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    fn take_nmi(&mut self) {
        self.nmis += 1;
    }

    fn take_interrupt(&mut self, vector: u8) {
        self.interrupts.push(vector);
    }

    fn take_pending(&mut self) -> bool {
        self.interrupted
    }
}

/// What every CPU with unrestricted guests has, by the numbers of the SDM: bits 63:32 can be on, bits 31:0 cannot be off.
fn words() -> Words {
    let both = |on: u32, fixed: u32| u64::from(on | fixed) << 32 | u64::from(fixed);
    Words {
        cpuid: 1 << 5,
        control: 5,
        basic: 1 << 55 | 0x12,
        pin: both(0x7f, 0x16),
        primary: both(0xfff9_fffe, 0x0400_6172 & !(1 << 15 | 1 << 16)),
        secondary: both(0x0297_7fff, 0),
        exit: both(0x01ff_ffff, 0x0003_6dfb),
        entry: both(0x0003_ffff, 0x0000_11fb),
        ept_vpid: 0x0f01_0633_4141,
    }
}

fn guest() -> Guest<Fake> {
    guest_of(&words())
}

fn guest_of(words: &Words) -> Guest<Fake> {
    let features = Features::new(words).expect("VMX");
    Guest::new(
        features,
        Arc::new(Bitmaps::new()),
        0x1234_5000,
        4,
        Fake::default(),
    )
}

fn run_with(
    guest: &mut Guest<Fake>,
    registers: &mut Registers,
    entry: &Entry,
    exit: &[(u32, u64)],
) -> (Left, BTreeMap<u32, u64>) {
    guest.cpu.exits.push_back(exit.to_vec());
    let left = guest.run(registers, entry);
    (left, guest.cpu.seen.last().expect("entered").0.clone())
}

fn run(guest: &mut Guest<Fake>, entry: &Entry, exit: &[(u32, u64)]) -> (Left, BTreeMap<u32, u64>) {
    run_with(guest, &mut Registers::default(), entry, exit)
}

/// Runs to an exit with this reason and qualification, at 0x1000, of an instruction of 3 bytes.
fn exit(reason: u64, qualification: u64, more: &[(u32, u64)]) -> Left {
    let mut fields = vec![
        (0x4402, reason),
        (0x6400, qualification),
        (0x681e, 0x1000),
        (0x440c, 3),
    ];
    fields.extend(more);
    run(&mut guest(), &Entry::default(), &fields).0
}

#[test]
fn a_vmcs_says_all_that_an_entry_needs() {
    let mut guest = guest();
    let gdt = DescriptorTable {
        base: 0x5000,
        limit: 31,
    };
    guest.reset(&State::long(0x100_0200, 0x2000, gdt));
    let mut registers = Registers {
        general: core::array::from_fn(|n| 0x1000 + n as u64),
        rip: 0x100_0200,
        rflags: 2,
    };
    let (_, vmcs) = run_with(
        &mut guest,
        &mut registers,
        &Entry::default(),
        &[(0x4402, 12)],
    );
    let word = |field| vmcs[&field];
    // PIN_BASED_EXT_INTR_MASK, NMI_EXITING, VIRTUAL_NMIS, and 0x16.
    assert_eq!(word(0x4000), 0x3f);
    // TSC_OFFSETTING 3, HLT 7, MWAIT 10, RDPMC 11, TPR_SHADOW 21, UNCOND_IO 24, MSR_BITMAPS 28, MONITOR 29, SECONDARY 31.
    let primary: u64 = [3, 7, 10, 11, 21, 24, 28, 29, 31]
        .iter()
        .map(|bit| 1 << bit)
        .sum();
    assert_eq!(word(0x4002), primary | 0x0400_6172);
    // ENABLE_EPT 1, RDTSCP 3, VPID 5, WBINVD_EXITING 6, UNRESTRICTED_GUEST 7, INVPCID 12.
    assert_eq!(word(0x401e), 0x10ea);
    // SAVE_DEBUG 2, HOST_ADDR_SPACE 9, SAVE_PAT 18, LOAD_PAT 19, SAVE_EFER 20, LOAD_EFER 21; no ACK_INTR 15.
    assert_eq!(word(0x400c), 0x003f_6fff);
    // LOAD_DEBUG 2, IA32E_MODE 9, LOAD_PAT 14, LOAD_EFER 15.
    assert_eq!(word(0x4012), 0xd3ff);
    assert_eq!(word(0x4004), 1 << 1 | 1 << 17 | 1 << 18);
    // EPTP: 4 levels, write-back. VPID 1. No shadow VMCS.
    assert_eq!(
        (word(0x201a), word(0), word(0x2800)),
        (0x1234_501e, 1, u64::MAX)
    );
    assert_eq!((word(0x2012), word(0x2004) % 4096), (0x9000, 0));
    // CR0 and CR4 with NE and VMXE, which are ours.
    assert_eq!(
        (word(0x6800), word(0x6000), word(0x6004)),
        (0x8001_0031, 0x20, 0x8001_0031)
    );
    assert_eq!(
        (word(0x6804), word(0x6002), word(0x6006)),
        (0x2020, 0x2000, 0)
    );
    assert_eq!(
        (word(0x6802), word(0x2806), word(0x2804)),
        (0x2000, 0xd00, 0x0007_0406_0007_0406)
    );
    assert_eq!(
        (word(0x681a), word(0x6820), word(0x681e)),
        (0x400, 2, 0x100_0200)
    );
    assert_eq!(word(0x681c), 0x1004);
    // Selector, limit, rights and base of ES, CS, SS, DS, FS, GS, LDTR, TR.
    let rights: Vec<u64> = (0..8).map(|n| word(0x4814 + 2 * n)).collect();
    let data = 0xc093;
    assert_eq!(rights, [data, 0xa09b, data, data, data, data, 0x82, 0x8b]);
    assert_eq!((word(0x0802), word(0x0800), word(0x080e)), (0x10, 0x18, 0));
    assert_eq!(
        (word(0x4802), word(0x480e), word(0x6808)),
        (0xffff_ffff, 0x67, 0)
    );
    assert_eq!(
        (word(0x6816), word(0x4810), word(0x4812)),
        (0x5000, 31, 0xffff)
    );
    assert_eq!(registers.general[3], 0x1004, "what the entry code keeps");
    assert_eq!((guest.cpu.prepared, guest.cpu.seen[0].1), (1, 1));
}

#[test]
fn a_guest_has_its_own_ne_and_no_vmxe() {
    let mut guest = guest();
    let mut registers = Registers::default();
    registers.general[9] = 0x8005_0033;
    // MOV to CR0 from R9: it is done again, and does not exit then.
    let fields = [(0x4402, 28), (0x6400, 0x900), (0x681e, 0x1000), (0x440c, 3)];
    let (left, _) = run_with(&mut guest, &mut registers, &Entry::default(), &fields);
    assert_eq!(
        (left.exit, left.next, registers.rip),
        (Exit::Retry, 0x1000, 0x1000)
    );
    let (_, vmcs) = run(&mut guest, &Entry::default(), &[(0x4402, 12)]);
    assert_eq!(vmcs[&0x6004] & 0x20, 0x20);
    // MOV to CR4: only VMXE exits.
    let left = exit(28, 0x904, &[]);
    assert_eq!(left.reflected, Some(Exception::GENERAL_PROTECTION));
    // MOV from CR3, MOV to CR8: never.
    assert_eq!(exit(28, 0x913, &[]).exit, Exit::Unknown(28));
    assert_eq!(exit(28, 0x908, &[]).exit, Exit::Unknown(28));
}

#[test]
fn xsetbv_is_carried_out_where_it_is_allowed() {
    let xsetbv = |number, low, high| {
        let mut guest = guest();
        let mut registers = Registers::default();
        (
            registers.general[1],
            registers.general[0],
            registers.general[2],
        ) = (number, low, high);
        let fields = [(0x4402, 55), (0x681e, 0x1000), (0x440c, 3), (0x4824, 1)];
        let (left, _) = run_with(&mut guest, &mut registers, &Entry::default(), &fields);
        assert_eq!(left.exit, Exit::Retry);
        let shadowed = guest.is_shadowed();
        (left.reflected, registers.rip, guest.cpu.xcr0, shadowed)
    };
    assert_eq!(xsetbv(0, 7 | 5 << 32, 1 << 32), (None, 0x1003, 7, false));
    let refused = (Some(Exception::GENERAL_PROTECTION), 0x1000, 0, true);
    assert_eq!(xsetbv(1, 7, 0), refused);
    assert_eq!(xsetbv(0, 7, 1), refused);
    assert_eq!(xsetbv(0, 4, 0), refused);
}

#[test]
fn what_is_cached_goes_when_it_has_to() {
    let mut guest = guest();
    let flushes = |guest: &mut Guest<Fake>, flush| {
        let entry = Entry {
            flush,
            ..Entry::default()
        };
        let before = guest.cpu.flushes;
        run(guest, &entry, &[(0x4402, 12)]);
        guest.cpu.seen.last().expect("entered").1 - before
    };
    assert_eq!(flushes(&mut guest, false), 1, "a new life");
    assert_eq!(flushes(&mut guest, false), 0);
    assert_eq!(flushes(&mut guest, true), 1);
    guest.reset(&State::RESET);
    assert_eq!(flushes(&mut guest, false), 1, "a new life");
    assert_eq!(guest.cpu.prepared, 2);
}

#[test]
fn an_entry_that_is_refused_is_no_exit() {
    let mut guest = guest();
    guest.cpu.refuses = true;
    let left = guest.run(&mut Registers::default(), &Entry::default());
    assert_eq!((left.exit, left.interrupted), (Exit::Invalid, None));
}

#[test]
fn vmx_is_there_or_says_why_not() {
    let all = words();
    let features = Features::new(&all).expect("VMX");
    assert_eq!(features.revision, 0x12);
    assert!(features.leaves_2m && features.leaves_1g && !features.five_levels);
    let unlocked = Words { control: 0, ..all };
    assert!(Features::new(&unlocked).is_ok(), "we lock it");
    let without = |word: u64, bit: u32| word & !(1 << (32 + bit));
    let refused = |words| Features::new(&words).expect_err("no VMX");
    assert_eq!(
        refused(Words {
            cpuid: !(1 << 5),
            ..all
        }),
        Unsupported::NoVmx
    );
    assert_eq!(refused(Words { control: 1, ..all }), Unsupported::Disabled);
    assert_eq!(
        refused(Words { basic: 0x12, ..all }),
        Unsupported::NoTrueControls
    );
    let pin = Words {
        pin: without(all.pin, 5),
        ..all
    };
    assert_eq!(refused(pin), Unsupported::Pin(1 << 5));
    // The windows come and go: they have to be possible, and possibly off.
    for bit in [2, 22] {
        let never = Words {
            primary: without(all.primary, bit),
            ..all
        };
        assert_eq!(refused(never), Unsupported::Primary(1 << bit));
        let always = Words {
            primary: all.primary | 1 << bit,
            ..all
        };
        assert_eq!(refused(always), Unsupported::Primary(1 << bit));
    }
    let cr3 = Words {
        primary: all.primary | 1 << 15,
        ..all
    };
    assert_eq!(refused(cr3), Unsupported::Primary(1 << 15));
    let unrestricted = Words {
        secondary: without(all.secondary, 7),
        ..all
    };
    assert_eq!(refused(unrestricted), Unsupported::Secondary(1 << 7));
    let without_rdtscp = Words {
        secondary: without(all.secondary, 3),
        ..all
    };
    assert_eq!(
        Features::new(&without_rdtscp).expect("VMX").secondary,
        0x10e2
    );
    assert_eq!(
        refused(Words {
            exit: without(all.exit, 21),
            ..all
        }),
        Unsupported::Exit(1 << 21)
    );
    assert_eq!(
        refused(Words {
            entry: all.entry | 1 << 9,
            ..all
        }),
        Unsupported::Entry(1 << 9)
    );
    for bit in [6, 14, 20, 26] {
        let ept_vpid = all.ept_vpid & !(1 << bit);
        assert_eq!(
            refused(Words { ept_vpid, ..all }),
            Unsupported::Ept(ept_vpid)
        );
    }
}
