//! Every register and every descriptor, against tables of what the document allows.

use super::guest::{FSTS, GCMD, GSTS, How, IQA, IQH, IQT, Machine, QIE, QUEUE, RAM};

/// Bits that a guest can write and read back, by register (11.4); all others are constant, or change by what is done.
fn writable(offset: u64) -> Option<u32> {
    Some(match offset {
        // RTADDR: address, TTM. IQA: address, DW, QS. IRTA: address, EIME, S.
        0x20 => 0xffff_fc00,
        0x90 => 0xffff_f807,
        0xb8 => 0xffff_f80f,
        0x24 | 0x94 | 0xbc => u32::MAX,
        // Event data, address, upper address; IVA. FECTL and IECTL: IM.
        0x3c | 0xa4 => 0xffff,
        0x40 | 0xa8 => 0xffff_fffc,
        0x44 | 0xac | 0xf0 | 0xf4 => u32::MAX,
        0x38 | 0xa0 => 0x8000_0000,
        // CCMD and IOTLB without what starts them; IQT of one page; each has its upper half at the next word.
        0x28 => u32::MAX,
        0xf8 => u32::MAX,
        0x88 => 0xff0,
        0x8c => 0,
        _ => return None,
    })
}

/// The registers that do something when they are written.
const DO: [u64; 4] = [GCMD, 0x2c, 0xfc, IQT];

#[test]
fn every_register_takes_what_it_has_and_no_other_changes() {
    for offset in (0..0x1000).step_by(4) {
        if DO.contains(&offset) {
            continue;
        }
        for value in [0, 0xffff_ffffu64, 0x5555_5555, 0xaaaa_aaaa, 0x1234_5678] {
            let mut machine = Machine::new(&How::default());
            let before: Vec<u64> = (0..0x400).map(|n| machine.read32(n * 4)).collect();
            machine.write(offset, 4, value);
            for (n, old) in (0..).zip(&before) {
                let now = machine.read32(n * 4);
                match writable(offset).filter(|_| n * 4 == offset) {
                    Some(mask) => assert_eq!(now, value & u64::from(mask), "{offset:#x}"),
                    None => assert_eq!(now, *old, "{:#x} by {offset:#x}", n * 4),
                }
            }
        }
    }
}

#[test]
fn accesses_that_no_register_has_read_zero_and_change_nothing() {
    let mut machine = Machine::new(&How::default());
    let mut misuse = machine.unit.counters().misuse;
    for offset in 0..0x1010u64 {
        for size in [1u8, 2, 4, 8] {
            let fits = size >= 4 && offset % u64::from(size) == 0 && offset < 0x1000;
            if fits {
                continue;
            }
            assert_eq!(machine.unit.read(offset, size), 0, "{offset:#x} {size}");
            machine.write(offset, size, u64::MAX);
            misuse += 2;
            assert_eq!(machine.unit.counters().misuse, misuse, "{offset:#x} {size}");
        }
    }
}

/// Fields of each type, words 0 and 1 (6.5.2); what else there is has IQE.
fn allowed(first: u64, second: u64) -> bool {
    let granularity = first >> 4 & 3;
    let (fields, in_second): (u64, u64) = match first & 0xf {
        1 => (0x0003_ffff_ffff_003f, 0),
        2 => (0xffff_00ff, !0xf80),
        4 => (0xffff_f800_001f, 0),
        5 => (0xffff_ffff_0000_00ff, !3),
        6 => (0x000f_ffff_ffff_003f, !0xf80),
        7 => (0x000f_ffff_ffff_003f, 0),
        _ => return false,
    };
    let value = match first & 0xf {
        1 => granularity != 0,
        2 => granularity != 0 && (granularity != 3 || second & 0x3f <= 18),
        4 => first >> 4 & 1 == 0 || first >> 27 & 0x1f <= 15,
        6 => granularity == 2 || granularity == 3 && second & 0x3f <= 18,
        7 => granularity != 2,
        _ => true,
    };
    first & !fields == 0 && second & !in_second == 0 && value
}

/// Puts one descriptor into an empty queue, and says whether it was taken.
fn taken(machine: &mut Machine, words: [u64; 4], wide: bool) -> bool {
    machine.write(GCMD, 4, 0);
    machine.write(IQT, 8, 0);
    machine.write(IQA, 8, QUEUE | u64::from(wide) << 11);
    machine.write(GCMD, 4, QIE);
    for (at, word) in (QUEUE..).step_by(8).zip(words) {
        machine.memory.store(at, word);
    }
    let step = if wide { 32 } else { 16 };
    machine.write(IQT, 8, step);
    let stopped = machine.read32(FSTS) & 0x10 != 0;
    let head = machine.unit.read(IQH, 8);
    assert_eq!(head == 0, stopped, "the head stays at what is refused");
    if stopped {
        // Nothing is taken before it is acknowledged; then it is looked at again.
        assert_eq!(machine.read32(GSTS) & QIE, QIE);
        let errors = machine.unit.counters().errors;
        machine.write(IQT, 8, step);
        assert_eq!(machine.unit.counters().errors, errors);
        machine.memory.store(QUEUE, 0x12);
        machine.memory.store(QUEUE + 8, 0);
        machine.memory.store(QUEUE + 16, 0);
        machine.memory.store(QUEUE + 24, 0);
        machine.write(FSTS, 4, 0x10);
        assert_eq!(machine.unit.read(IQH, 8), step);
        assert_eq!(machine.read32(FSTS) & 0x10, 0);
    }
    !stopped
}

#[test]
fn every_descriptor_is_taken_exactly_where_the_document_says() {
    let mut machine = Machine::new(&How::default());
    let mut count = [0; 2];
    for kind in 0..16u64 {
        for granularity in 0..4u64 {
            let base = kind | granularity << 4;
            // A wait's status goes to memory that is not there, or nowhere; both are taken.
            let mut rows = vec![
                (base, 0),
                (base, u64::MAX),
                (base, 0x7fff_f000 | 18),
                (base, 0x7fff_f000 | 19),
            ];
            for bit in 6..64 {
                rows.push((base | 1 << bit, 0));
            }
            for bit in 0..64 {
                rows.push((base, 1 << bit));
            }
            if kind == 4 {
                rows.extend((0..32).map(|mask| (base | mask << 27, 0)));
            }
            for (first, second) in rows {
                let expected = allowed(first, second);
                let found = taken(&mut machine, [first, second, 0, 0], false);
                assert_eq!(found, expected, "{first:#x} {second:#x}");
                let found = taken(&mut machine, [first, second, 0, 0], true);
                assert_eq!(found, expected, "{first:#x} {second:#x} wide");
                count[usize::from(expected)] += 1;
            }
        }
    }
    assert!(count[0] > 4000 && count[1] > 1000, "{count:?}");
    // The words behind are reserved in all of them.
    for (third, fourth) in [(1, 0), (0, 1 << 63)] {
        assert!(!taken(&mut machine, [0x12, 0, third, fourth], true));
    }
}

#[test]
fn what_scalable_mode_and_interrupts_bring_is_not_there_without_them() {
    let mut machine = Machine::new(&How {
        scalable: false,
        ..How::default()
    });
    for first in [0x26, 0x37] {
        assert!(!taken(&mut machine, [first, 0, 0, 0], false));
    }
    machine.write(GCMD, 4, 0);
    machine.write(IQA, 8, QUEUE | 1 << 11);
    assert_eq!(machine.unit.read(IQA, 8), QUEUE);
    let (cap, ecap) = (machine.unit.read(8, 8), machine.unit.read(0x10, 8));
    // 16-bit domains, caching mode, 39 and 48 bits, records at 0x200, 2 MiB and 1 GiB, by page up to 2^18, 4 records, drains.
    assert_eq!(cap, 0x00d2_038c_206f_0686 | 1 << 22);
    // Coherent, queue, interrupts with wide destinations, pass-through, IOTLB at 0xf0, 2^15 interrupts.
    assert_eq!(ecap, 0xf0_0f5b);
}

#[test]
fn a_queue_that_is_nowhere_stops() {
    let mut machine = Machine::new(&How::default());
    for base in [0, RAM - 0x1000, RAM + super::guest::BYTES, !0xfff] {
        machine.write(GCMD, 4, 0);
        machine.write(FSTS, 4, 0xff);
        machine.write(IQT, 8, 0);
        machine.write(IQA, 8, base);
        machine.write(GCMD, 4, QIE);
        machine.write(IQT, 8, 0x10);
        assert_eq!(machine.read32(FSTS) & 0x10, 0x10);
        // IQERCD.IQEI: it could not be read.
        assert_eq!(machine.unit.read(0xb0, 8), 2);
    }
}

/// Linux without its queue, and firmware: invalidation by registers (6.5.1).
#[test]
fn commands_by_register_are_done_when_they_say_so() {
    let mut machine = Machine::new(&How::default());
    for (offset, value, done) in [
        (0x28, 1 << 63 | 1 << 61, 1 << 61 | 1 << 59),
        (
            0x28,
            1 << 63 | 3 << 61 | 0x18 << 16,
            3 << 61 | 0x18 << 16 | 3 << 59,
        ),
        (0xf8, 1 << 63 | 1 << 60, 1 << 60 | 1 << 57),
        (
            0xf8,
            1 << 63 | 3 << 60 | 5 << 32,
            3 << 60 | 5 << 32 | 3 << 57,
        ),
    ] {
        machine.write(offset, 8, value);
        assert_eq!(machine.unit.read(offset, 8), done, "{value:#x}");
        // By halves: the upper one starts it.
        machine.write(offset, 4, value & 0xffff_ffff);
        machine.write(offset + 4, 4, value >> 32);
        assert_eq!(machine.unit.read(offset, 8), done, "{value:#x}");
    }
}
