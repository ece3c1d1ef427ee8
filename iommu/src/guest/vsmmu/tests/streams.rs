//! Stream tables, entries, and contexts that are copied.

use super::*;
use crate::physical::{IommuError, StageOneConfig};

#[test]
fn an_entry_is_what_its_words_say() {
    let abort = StageOne::Abort;
    let refuse = StageOne::Refuse;
    let cases = [
        // V = 0, whatever else.
        ([0, 0], refuse),
        ([!1, u64::MAX], refuse),
        // Config = 0b0xx.
        ([0b0001, 0], abort),
        ([0b0011, u64::MAX], abort),
        ([0b0111 | 0xffff << 40, 0], abort),
        // Bypass; the rest does not count, Linux's SHCFG = incoming among it.
        ([0b1001, 0], StageOne::Bypass),
        ([0b1001, 1 << 44], StageOne::Bypass),
        (
            [0b1001 | 7 << 52, 0xc0ff_ffff << 32 | 3 << 30],
            StageOne::Bypass,
        ),
        // Stage 2, which is not there.
        ([0b1101, 0], refuse),
        ([0b1111, 0], refuse),
        // Stage 1.
        (stage_one(CONTEXTS), translate(CONTEXTS)),
        // S1STALLD without stalls.
        ([stage_one(CONTEXTS)[0], 1 << 27], refuse),
    ];
    for (words, expected) in cases {
        let mut guest = Guest::plain();
        guest.up(8, 4);
        guest.entry(8, words);
        guest.say(&[cfgi_ste(8)]);
        assert_eq!(guest.smmu.streams[1].current, Some(expected), "{words:x?}");
    }
}

#[test]
fn what_id_registers_leave_without_meaning_is_not_looked_at() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    let [first, second] = stage_one(CONTEXTS);
    // EATS, STRW, MEV, CONT, DRE, DCP, PPAR, S2HWU, S2FWB, S1MPAM; MTCFG and what else overrides attributes; bits [58:52]
    // and S1CDMax.
    let ignored = 0xff_ffff << 8 & !(1 << 27) | 0xf_ffff << 32;
    guest.entry(8, [first | 0xfff << 52, second | ignored]);
    guest.say(&[cfgi_ste(8)]);
    assert_eq!(guest.attached(), [(1, translate(CONTEXTS))]);
}

#[test]
fn an_smmu_with_everything_takes_substreams_stalls_and_ats() {
    let devices = [
        behind(8),
        Behind {
            ats: true,
            ..behind(0x10)
        },
    ];
    let mut guest = Guest::with(rich_setup(), &devices);
    guest.up(8, 4);
    let [first, second] = stage_one(CONTEXTS);
    // 2^5 contexts in two levels, S1DSS = 2, S1STALLD, EATS = 1.
    let words = [first | 5 << 59 | 1 << 4, second | 2 | 1 << 27 | 1 << 28];
    guest.entry(8, words);
    guest.entry(0x10, words);
    guest.say(&[CFGI_ALL]);
    let expected = |ats| {
        StageOne::Translate(StageOneConfig {
            format: 1,
            contexts: CONTEXTS,
            contexts_log2: 5,
            default_context: 2,
            inner: 1,
            outer: 1,
            shareability: 3,
            no_stall: true,
            ats,
        })
    };
    // ATS is a matter of trust in the device, whatever the guest says.
    assert_eq!(
        guest.attached(),
        [(0, expected(false)), (1, expected(true))]
    );
    for bad in [
        [words[0] | 21 << 59, words[1]],
        [words[0], words[1] ^ 3 << 28],
    ] {
        guest.entry(8, bad);
        guest.say(&[cfgi_ste(8)]);
        assert_eq!(
            guest.smmu.streams[0].current,
            Some(StageOne::Refuse),
            "{bad:x?}"
        );
    }
}

#[test]
fn a_guest_that_is_not_told_of_stalls_does_not_cause_them() {
    let mut setup = rich_setup();
    setup.offer.stalls = false;
    let mut guest = Guest::new(setup);
    guest.up(8, 4);
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[cfgi_ste(8)]);
    let attached = guest.attached();
    let [(1, StageOne::Translate(stage_one))] = attached[..] else {
        panic!("{attached:?}");
    };
    assert!(stage_one.no_stall);
}

#[test]
fn a_changed_entry_replaces_the_old_one_and_an_unchanged_one_is_forgotten() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[cfgi_ste(8)]);
    guest.entry(8, stage_one(CONTEXTS + 64));
    guest.say(&[cfgi_ste(8), SYNC]);
    let seen = [CONTEXTS, CONTEXTS + 64].map(|at| (1, translate(at)));
    assert_eq!(guest.attached(), seen);
    assert_eq!(guest.entries(), Vec::<Entry>::new());
    // The same again: its contexts may be others (§4.3.1).
    guest.say(&[cfgi_ste(8), SYNC]);
    assert_eq!(guest.attached(), []);
    assert_eq!(guest.entries(), [[0x06 | 8 << 32, 0, 0, 0]]);
    // Bypass again is nothing new.
    guest.entry(8, [0b1001, 0]);
    guest.say(&[cfgi_ste(8), cfgi_ste(8), SYNC]);
    assert_eq!(guest.attached(), [(1, StageOne::Bypass)]);
    assert_eq!(guest.entries(), Vec::<Entry>::new());
}

#[test]
fn a_command_order_of_invalidations_and_entries_is_kept() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[NH_ALL, NH_ALL, cfgi_ste(8), NH_ALL, SYNC]);
    assert_eq!(
        guest.batches(),
        [2, 1],
        "what came before is complete before"
    );
}

/// A guest with a table of two levels at `TABLE`, of 2^`log2` streams, split at `split`.
fn two_level(log2: u64, split: u64, streams: &[u32]) -> Guest {
    let devices: Vec<_> = streams.iter().copied().map(behind).collect();
    let mut guest = Guest::with(plain_setup(), &devices);
    guest.up(8, 4);
    guest.write(CR0, 0b1100);
    guest.settle();
    guest.write(STRTAB_BASE, TABLE);
    guest.write(STRTAB_CONFIG, 1 << 16 | split << 6 | log2);
    guest
}

fn on(guest: &mut Guest) {
    guest.write(CR0, 0b1101);
    guest.settle();
    guest.attached();
}

#[test]
fn tables_of_two_levels_are_walked() {
    for (split, reserved) in [(6, false), (8, false), (10, false), (7, true), (0, true)] {
        let effective = if reserved { 6 } else { split };
        let stream = (3 << effective) + 5;
        let mut guest = two_level(16, split, &[stream]);
        let leaf = RAM + 0x60_0000;
        // Span: as large as there is.
        guest.ram.store(TABLE + 3 * 8, &[leaf | (effective + 1)]);
        guest.ram.store(leaf + 5 * 64, &stage_one(CONTEXTS));
        on(&mut guest);
        assert_eq!(
            guest.smmu.streams[0].current,
            Some(translate(CONTEXTS)),
            "split {split}"
        );
    }
}

#[test]
fn a_level_1_descriptor_spans_what_it_says() {
    let leaf = RAM + 0x60_0000;
    // Span n: 2^(n - 1) entries; 0 none; more than SPLIT + 1 is reserved.
    let spans = [(0, 0), (1, 1), (4, 8), (8, 128), (9, 256), (10, 0), (31, 0)];
    for (span, entries) in spans {
        for index in [0, 1, 7, 8, 127, 128, 255] {
            let mut guest = two_level(16, 8, &[0x300 + index]);
            guest.ram.store(TABLE + 3 * 8, &[leaf | span]);
            guest.ram.store(leaf + u64::from(index) * 64, &[0b1001, 0]);
            on(&mut guest);
            let there = guest.smmu.streams[0].current == Some(StageOne::Bypass);
            assert_eq!(there, index < entries, "span {span}, index {index}");
        }
    }
}

#[test]
fn a_stream_past_the_table_has_no_entry() {
    for (config, stream, there) in [
        (4, 15, true),
        (4, 16, false),
        (0, 0, true),
        (0, 1, false),
        (63, 0xffff, true),
        // A reserved format is linear.
        (2 << 16 | 4, 15, true),
    ] {
        let mut guest = Guest::with(plain_setup(), &[behind(stream)]);
        guest.write(STRTAB_BASE, TABLE);
        guest.write(STRTAB_CONFIG, config);
        // The base is aligned to a table of 2^16 entries for the fifth.
        let base = if config == 63 { RAM } else { TABLE };
        guest.ram.store(base + u64::from(stream) * 64, &[0b1001, 0]);
        guest.write(CR0, 1);
        guest.settle();
        let expected = if there {
            StageOne::Bypass
        } else {
            StageOne::Abort
        };
        assert_eq!(
            guest.smmu.streams[0].current,
            Some(expected),
            "{config:#x}, {stream:#x}"
        );
    }
}

#[test]
fn a_table_outside_of_memory_refuses_and_is_told_with_the_guests_address() {
    let end = RAM + BYTES as u64;
    for (base, config, at) in [
        (0x0900_0000, 8, 0x0900_0000 + 8 * 64),
        (end, 8, end + 8 * 64),
        (0x000f_ffff_ffff_c000, 8, 0x000f_ffff_ffff_c000 + 8 * 64),
        (0x0900_0000, 1 << 16 | 8 << 6 | 16, 0x0900_0000),
    ] {
        let mut guest = Guest::plain();
        guest.up(8, 4);
        guest.write(CR0, 0b1100);
        guest.settle();
        guest.write(STRTAB_BASE, base);
        guest.write(STRTAB_CONFIG, config);
        on(&mut guest);
        assert_eq!(guest.smmu.streams[1].current, Some(StageOne::Refuse));
        // The hardware has an entry that is not valid, and says so; the guest's table could not be read.
        guest.told.borrow_mut().events.push_back(Item::Record {
            sequence: 0,
            record: [0x04 | 8 << 32, 0, 0, 0],
        });
        guest.smmu.deliver(&guest.ram);
        let record = guest.ram.load::<4>(EVENTS);
        assert_eq!(record, [0x03 | 8 << 32, 0, 0, at], "{base:#x}");
    }
}

#[test]
fn a_stream_without_an_entry_is_told_if_the_guest_wants_to_know() {
    for wanted in [true, false] {
        let mut guest = Guest::plain();
        guest.up(8, 4);
        guest.write(CR0, 0b1100);
        guest.settle();
        guest.write(0x2c, if wanted { 2 } else { 0 });
        guest.write(STRTAB_CONFIG, 2);
        on(&mut guest);
        let current = guest.smmu.streams[1].current;
        let expected = if wanted {
            StageOne::Refuse
        } else {
            StageOne::Abort
        };
        assert_eq!(current, Some(expected));
        guest.told.borrow_mut().events.push_back(Item::Record {
            sequence: 0,
            record: [0x04 | 8 << 32, 0, 0, 0],
        });
        guest.smmu.deliver(&guest.ram);
        let [first, ..] = guest.ram.load::<4>(EVENTS);
        assert_eq!(first, 0x02 | 8 << 32);
    }
}

#[test]
fn an_entry_that_hangs_over_the_end_of_memory_is_not_half_read() {
    let mut guest = Guest::plain();
    guest.write(STRTAB_BASE, RAM + BYTES as u64 - 0x200);
    guest.write(STRTAB_CONFIG, 0x3f);
    guest.write(CR0, 1);
    guest.settle();
    let attached = guest.attached();
    assert!(
        attached
            .iter()
            .all(|it| it.1 == StageOne::Bypass || it.1 == StageOne::Refuse)
    );
}

#[test]
fn each_level_is_read_once() {
    let mut guest = two_level(16, 8, &[0x305]);
    guest.ram.store(TABLE + 24, &[(RAM + 0x60_0000) | 9]);
    on(&mut guest);
    guest.ram.reads.set(0);
    guest.say(&[cfgi_ste(0x305)]);
    assert_eq!(
        guest.ram.reads.get(),
        3,
        "the command, the descriptor, the entry"
    );
}

#[test]
fn what_the_slice_cannot_do_is_in_abort_and_tried_again() {
    for (error, failed) in [
        (Error::OutOfMemory, true),
        (Error::Hardware(IommuError::Timeout), true),
        // Not legal on this hardware: an entry that is not valid.
        (Error::IllegalStageOne, false),
    ] {
        let mut guest = Guest::plain();
        guest.up(8, 4);
        guest.entry(8, stage_one(CONTEXTS));
        guest.told.borrow_mut().attach_fails = Some(error);
        let effect = guest.say(&[cfgi_ste(8), SYNC]);
        assert_eq!(effect.failed, failed.then_some(error));
        assert_eq!(guest.consumed(), 2, "the guest's queue is not to blame");
        let last = guest.attached().pop();
        let expected = if failed {
            StageOne::Abort
        } else {
            StageOne::Refuse
        };
        assert_eq!(last, Some((1, expected)));
        guest.say(&[cfgi_ste(8), SYNC]);
        assert_eq!(guest.attached(), [(1, translate(CONTEXTS))]);
    }
}

#[test]
fn a_stream_that_could_not_be_stopped_is_stopped_again() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.entry(8, [1, 0]);
    let error = Error::Hardware(IommuError::Timeout);
    guest.told.borrow_mut().abort_fails = Some(error);
    assert_eq!(guest.say(&[cfgi_ste(8)]).failed, Some(error));
    assert_eq!(guest.attached(), []);
    // What the guest wants is what it wanted before, but not what is known to be in force.
    assert_eq!(guest.say(&[cfgi_ste(8)]).failed, None);
    assert_eq!(guest.attached(), [(1, StageOne::Abort)]);
}

#[test]
fn what_hardware_would_not_forget_is_in_abort() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.entry(8, stage_one(CONTEXTS));
    guest.say(&[cfgi_ste(8)]);
    guest.attached();
    let error = Error::Hardware(IommuError::Timeout);
    guest.told.borrow_mut().fails = Some((0, error));
    let effect = guest.say(&[cfgi_ste(8)]);
    assert_eq!(effect.failed, Some(error));
    assert_eq!(guest.attached(), [(1, StageOne::Abort)]);
}
