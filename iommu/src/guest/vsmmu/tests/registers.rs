//! The register file, against a list of its own.

use super::*;

/// Every register: offset, bytes, the bits that can be written when everything is off, by IHI 0070 chapter 6, for an
/// SMMU with everything that can be offered (`.2`) and for one with nothing of it (`.3`). CR0's acknowledgement and
/// IRQ_CTRL's follow in the same store.
const REGISTERS: &[(u64, u8, u64, u64)] = &[
    (0x20, 4, 0x1f, 0x0d),
    (0x28, 4, 0xfff, 0xfff),
    (0x2c, 4, 0x6, 0x6),
    (0x50, 4, 0x7, 0x5),
    (0x68, 8, 0x000f_ffff_ffff_fffc, 0),
    (0x70, 4, 0xffff_ffff, 0),
    (0x74, 4, 0x3f, 0),
    (0x80, 8, 0x400f_ffff_ffff_ffc0, 0x400f_ffff_ffff_ffc0),
    (0x88, 4, 0x3_07ff, 0x3_07ff),
    (0x90, 8, 0x400f_ffff_ffff_ffff, 0x400f_ffff_ffff_ffff),
    (0x98, 4, 0xf_ffff, 0xf_ffff),
    (0x9c, 4, 0x7f0f_ffff, 0x7f0f_ffff),
    (0xa0, 8, 0x400f_ffff_ffff_ffff, 0x400f_ffff_ffff_ffff),
    (0xb0, 8, 0x000f_ffff_ffff_fffc, 0),
    (0xb8, 4, 0xffff_ffff, 0),
    (0xbc, 4, 0x3f, 0),
    (0xc0, 8, 0x400f_ffff_ffff_ffff, 0),
    (0xd0, 8, 0x000f_ffff_ffff_fffc, 0),
    (0xd8, 4, 0xffff_ffff, 0),
    (0xdc, 4, 0x3f, 0),
    (0x1_00a8, 4, 0x800f_ffff, 0x800f_ffff),
    (0x1_00ac, 4, 0x800f_ffff, 0x800f_ffff),
    (0x1_00c8, 4, 0x800f_ffff, 0),
    (0x1_00cc, 4, 0x800f_ffff, 0),
];

/// Which follow a write of another: (written, follows, its bits).
const FOLLOWERS: &[(u64, u64)] = &[(0x20, 0x24), (0x50, 0x54)];

fn mask(rich: bool, offset: u64) -> u64 {
    let registers = REGISTERS.iter();
    let mut found =
        registers.filter(|(at, size, ..)| (*at..*at + u64::from(*size)).contains(&offset));
    found.next().map_or(0, |(at, _, most, least)| {
        let mask = if rich { *most } else { *least };
        mask >> ((offset - at) * 8)
    })
}

fn is_wide(offset: u64) -> bool {
    REGISTERS
        .iter()
        .any(|(at, size, ..)| *at == offset && *size == 8)
}

/// What follows outside of the register itself: word index in page 0 or none.
fn all(guest: &mut Guest) -> Vec<u32> {
    guest.smmu.registers.words().to_vec()
}

#[test]
fn every_access_of_every_size_at_every_offset_changes_its_own_register_only() {
    for rich in [false, true] {
        let mut guest = if rich { Guest::rich() } else { Guest::plain() };
        let reset = all(&mut guest);
        let mut accesses = 0u64;
        for offset in 0..0x2_0000u64 {
            for size in [1, 2, 4, 8] {
                let aligned = offset % u64::from(size) == 0;
                let known = offset < 0x100 || (0x1_00a8..0x1_00d0).contains(&offset);
                let legal = aligned && (size == 4 || size == 8 && is_wide(offset));
                if !legal {
                    assert_eq!(guest.smmu.read(offset, size), 0, "{offset:#x}, {size}");
                }
                for value in [0, u64::MAX, 0x5a5a_a5a5_1234_fedc, 0x7fff_0000_8000_0001] {
                    accesses += 2;
                    guest.smmu.registers.write(offset, size, value);
                    if !legal || !known {
                        assert!(guest.smmu.registers.words() == reset, "{offset:#x}, {size}");
                        continue;
                    }
                    let mut expected = value & mask(rich, offset);
                    if size == 4 {
                        expected &= 0xffff_ffff;
                    }
                    let written = mask(rich, offset) != 0;
                    if written {
                        assert_eq!(
                            guest.smmu.read(offset, size),
                            expected,
                            "{offset:#x}, {size}"
                        );
                    }
                    let follower = FOLLOWERS.iter().find(|(at, _)| *at == offset);
                    for other in (0..0x100).chain(0x1_00a8..0x1_00d0).step_by(4) {
                        let own = (offset..offset + u64::from(size)).contains(&other);
                        if own && (written || other == 0x44)
                            || Some(other) == follower.map(|it| it.1)
                        {
                            continue;
                        }
                        let slot = if other < 0x100 {
                            other / 4
                        } else {
                            64 + [0x1_00a8, 0x1_00ac, 0x1_00c8, 0x1_00cc]
                                .iter()
                                .position(|it| *it == other)
                                .unwrap_or(100) as u64
                        };
                        let Some(before) = reset.get(slot as usize) else {
                            continue;
                        };
                        assert_eq!(
                            guest.smmu.registers.words()[slot as usize],
                            *before,
                            "{other:#x} after a write to {offset:#x}"
                        );
                    }
                    guest.smmu.registers.reset();
                }
            }
        }
        assert_eq!(accesses, 0x2_0000 * 4 * 4 * 2);
    }
}

#[test]
fn what_is_not_a_register_reads_zero() {
    let mut guest = Guest::rich();
    guest.up(8, 4);
    let readable = |offset: u64| {
        REGISTERS
            .iter()
            .any(|(at, size, ..)| (*at..*at + u64::from(*size)).contains(&offset))
            || matches!(offset, 0..0x20 | 0x24 | 0x44 | 0x54 | 0x60 | 0x64 | 0xff0..0x1000)
    };
    for offset in (0..0x2_0000).step_by(4).filter(|at| !readable(*at)) {
        assert_eq!(guest.read(offset), 0, "{offset:#x}");
    }
    assert_eq!(guest.smmu.read(0x2_0000, 4), 0);
    assert_eq!(guest.smmu.read(u64::MAX - 3, 4), 0);
}

#[test]
fn the_copy_holds_what_every_read_returns() {
    let mut guest = Guest::rich();
    guest.up(8, 4);
    guest.say(&[[0xff, 0]]);
    guest.write(0x68, 0x1234_5678_9abc);
    for offset in (0..0x2_0000u64).step_by(4) {
        let read = guest.read(offset);
        let at = match offset {
            0..0x1000 => offset,
            0x1_0000..0x1_1000 => IMAGE_PAGE_ONE as u64 + offset - 0x1_0000,
            _ => {
                assert_eq!(read, 0, "{offset:#x}");
                continue;
            }
        };
        let pair = guest.smmu.image().read64(at as usize & !7);
        assert_eq!((pair >> ((at & 4) * 8)) as u32, read, "{offset:#x}");
    }
    assert_eq!(guest.smmu.image().len(), IMAGE_BYTES);
}

#[test]
fn the_id_registers_say_what_is_offered_and_there() {
    let mut guest = Guest::plain();
    let ids: [u32; 8] = core::array::from_fn(|word| guest.read(word as u64 * 4));
    // S1P, AArch64, COHACC, ASID16, SEV, little-endian, terminate, TERM_MODEL, two-level; 16-bit streams, queues of 2^19
    // and 2^10; RIL and BBML 2; 40 bits, all granules; no implementer.
    assert_eq!(
        ids,
        [0x0d40_501a, 0x026a_0010, 0, 0x1400, 0, 0x72, 0, 1],
        "{ids:x?}"
    );
    let mut guest = Guest::rich();
    let ids: [u32; 8] = core::array::from_fn(|word| guest.read(word as u64 * 4));
    // And ATS, MSI, PRI, CD2L, stalls by choice, no TERM_MODEL; 20-bit substreams, page requests of 2^8; 4 stalls.
    assert_eq!(
        ids,
        [
            0x0849_741a | 1 << 22,
            0x026a_4510,
            0,
            0x1400,
            0,
            0x0004_0075,
            0,
            2
        ],
        "{ids:x?}"
    );
    assert_eq!(
        [0xff0, 0xff4, 0xff8, 0xffc].map(|at| guest.read(at)),
        [0x0d, 0xf0, 0x05, 0xb1]
    );
}

#[test]
fn what_is_on_guards_its_registers() {
    let mut guest = Guest::rich();
    guest.up(8, 4);
    guest.write(CR0, 0b1111);
    guest.settle();
    let guarded = [
        0x2c, 0x68, 0x70, 0x74, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xb0, 0xb8, 0xbc, 0xc0, 0xd0, 0xd8,
        0xdc, 0x1_00a8, 0x1_00c8,
    ];
    let before = all(&mut guest);
    for offset in guarded {
        let misuse = guest.smmu.counters().misuse;
        guest.write(offset, u64::MAX);
        assert_eq!(all(&mut guest), before, "{offset:#x}");
        assert_eq!(guest.smmu.counters().misuse, misuse + 1, "{offset:#x}");
    }
    // CR1 by its halves.
    guest.write(0x28, 0xfff);
    assert_eq!(guest.read(0x28), 0);
    guest.write(CR0, 0b0001);
    guest.write(0x28, 0xfff);
    assert_eq!(guest.read(0x28), 0x03f, "queues");
    guest.write(CR0, 0b1000);
    guest.settle();
    guest.write(0x28, 0xfff);
    assert_eq!(guest.read(0x28), 0xfff, "tables");
}

#[test]
fn halves_of_wide_registers_are_registers() {
    let mut guest = Guest::plain();
    guest.smmu.write(&guest.ram, 0x94, 4, 0x4000_0012);
    guest.smmu.write(&guest.ram, 0x90, 4, 0x3456_7805);
    assert_eq!(guest.smmu.read(0x90, 8), 0x4000_0012_3456_7805);
    assert_eq!(guest.read(0x94), 0x4000_0012);
    // 64 bits of two 32-bit registers are none.
    guest.smmu.write(&guest.ram, 0x98, 8, u64::MAX);
    assert_eq!(guest.smmu.read(0x98, 8), 0);
    assert_eq!(guest.read(0x98), 0);
}

#[test]
fn gbpa_takes_effect_by_update_only() {
    let mut guest = Guest::plain();
    assert_eq!(guest.read(GBPA), 0x1000);
    guest.attached();
    guest.write(GBPA, 1 << 20);
    assert_eq!(guest.read(GBPA), 0x1000, "without UPDATE");
    assert_eq!(guest.attached(), []);
    guest.write(GBPA, 1 << 31 | 1 << 20 | 0xf_0fff);
    assert_eq!(guest.read(GBPA), 1 << 20);
    assert_eq!(
        guest.attached(),
        [0, 1, 2].map(|device| (device, StageOne::Abort))
    );
    guest.write(GBPA, 1 << 31 | 1 << 12);
    assert_eq!(
        guest.attached(),
        [0, 1, 2].map(|device| (device, StageOne::Bypass))
    );
    // While translation is on it decides nothing.
    guest.up(8, 4);
    guest.write(GBPA, 1 << 31 | 1 << 20);
    assert_eq!(guest.read(GBPA), 1 << 20);
    assert_eq!(guest.attached(), []);
}

#[test]
fn acknowledgements_of_errors_that_are_not_active_do_nothing() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.write(GERRORN, 0xffff_ffff);
    assert_eq!((guest.read(GERROR), guest.read(GERRORN)), (0, 0));
    guest.say(&[[0xff, 0]]);
    assert_eq!((guest.read(GERROR), guest.read(GERRORN)), (1, 0));
    guest.write(GERRORN, 0xffff_ffff);
    assert_eq!((guest.read(GERROR), guest.read(GERRORN)), (1, 1));
}

#[test]
fn many_streams_follow_cr0_in_steps_and_are_acknowledged_with_the_last() {
    let devices: Vec<_> = (0..40).map(behind).collect();
    let mut guest = Guest::with(plain_setup(), &devices);
    guest.write(STRTAB_BASE, TABLE);
    guest.write(STRTAB_CONFIG, 8);
    guest.attached();
    let mut effect = guest.write(CR0, 1);
    let mut calls = 1;
    while effect.more {
        assert_eq!(guest.read(CR0ACK), 0, "not before the last");
        // Four steps a call, two of each stream.
        assert_eq!(guest.attached().len(), 2);
        effect = guest.run();
        calls += 1;
    }
    assert_eq!((guest.read(CR0ACK), calls), (1, 20));
    // A change of mind on the way begins anew.
    guest.write(CR0, 0);
    guest.write(CR0, 1);
    guest.write(CR0, 0);
    guest.settle();
    assert_eq!(guest.read(CR0ACK), 0);
    let last: Vec<_> = (0..40)
        .map(|device| {
            let attached = &guest.smmu.streams[device].current;
            *attached
        })
        .collect();
    assert_eq!(last, vec![Some(StageOne::Bypass); 40]);
}

#[test]
fn a_reset_is_complete() {
    let mut guest = Guest::rich();
    let fresh = all(&mut guest);
    guest.up(8, 4);
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[CFGI_ALL, [0xff, 0]]);
    guest.settle();
    assert_eq!(guest.smmu.streams[1].current, Some(translate(CONTEXTS)));
    guest.told.borrow_mut().events.push_back(Item::Record {
        sequence: 0,
        record: [0x10, 0, 0, 0],
    });
    guest.attached();
    guest.smmu.stop().expect("stopped");
    assert_eq!(
        guest.attached(),
        [0, 1, 2].map(|device| (device, StageOne::Abort))
    );
    assert_eq!(all(&mut guest), fresh);
    assert!(guest.told.borrow().events.is_empty());
    assert!(!guest.smmu.has_work());
    guest.smmu.start(&guest.ram);
    assert_eq!(
        guest.attached(),
        [0, 1, 2].map(|device| (device, StageOne::Bypass))
    );
}

#[test]
fn a_setup_that_registers_cannot_say_is_refused() {
    let platform = Arc::new(Memory::coherent());
    let new = |setup, devices: &[Behind]| {
        let slice = Recorder::default();
        VirtSmmu::new(Arc::clone(&platform), setup, slice, devices).err()
    };
    let mut setup = plain_setup();
    setup.hardware.idr[0] &= !2;
    assert_eq!(new(setup, &[]), Some(SetupError::NoStageOne(0x0d44_1019)));
    for (stream_bits, command_queue_log2, bad) in [(0, 8, 0), (33, 8, 33), (8, 0, 0), (8, 20, 20)] {
        let setup = Setup {
            stream_bits,
            command_queue_log2,
            ..plain_setup()
        };
        assert_eq!(new(setup, &[]), Some(SetupError::Size(bad)));
    }
    let setup = Setup {
        budget: 0,
        ..plain_setup()
    };
    assert_eq!(new(setup, &[]), Some(SetupError::Budget));
    for devices in [[behind(1), behind(1)], [behind(1), behind(0x1_0000)]] {
        let stream = devices[1].stream;
        assert_eq!(
            new(plain_setup(), &devices),
            Some(SetupError::Stream(stream))
        );
    }
    platform.fail_allocation(0, true);
    assert_eq!(new(plain_setup(), &[]), Some(SetupError::OutOfMemory));
    assert_eq!(
        new(rich_setup(), &[behind(1)]),
        Some(SetupError::OutOfMemory)
    );
}
