//! The model itself, driven by words written by hand from IHI 0070 and DDI 0487: what it refuses, what it keeps, what it
//! records.

mod ats;
#[path = "../bare/mod.rs"]
mod bare;

use bare::{ALL, BLOCK, Bare, NSNH, PAGE, RAM, S2, SYNC, fault, two};
use iommu::hal::Mmio;
use iommu::model::smmu::{Config, Denied, Initiator, StallModel};

#[test]
fn each_granule_walks_its_own_levels() {
    // tg, t0sz, sl0, shifts from the start table down.
    for (tg, t0sz, sl0, shifts) in [
        (0, 25, 1, &[30, 21, 12][..]),
        (0, 20, 2, &[39, 30, 21, 12]),
        (0, 24, 1, &[30, 21, 12]),
        (2, 28, 1, &[25, 14]),
        (2, 24, 2, &[36, 25, 14]),
        (1, 25, 1, &[29, 16]),
        (1, 22, 1, &[29, 16]),
        (1, 20, 2, &[42, 29, 16]),
    ] {
        let mut bare = Bare::new(Config::default());
        let bits = 64 - t0sz;
        let ipa = (1u64 << bits) - 1 - 0x7_0000;
        let last = shifts[shifts.len() - 1];
        let mut table = bare.page();
        // Concatenated tables: aligned to all of it.
        table = (table + 0xf_ffff) & !0xf_ffff;
        let root = table;
        for (depth, shift) in shifts.iter().enumerate() {
            let entries = if depth == 0 {
                1u64 << (bits - shift)
            } else {
                1 << (last - 3)
            };
            let at = table + (ipa >> shift & (entries - 1)) * 8;
            if depth == shifts.len() - 1 {
                bare.store(at, RAM | S2 | 3);
            } else {
                let next = bare.page() + 0x10_0000;
                bare.store(at, next | 3);
                table = next;
            }
        }
        bare.entry(7, &[0xd, 0, two(t0sz, sl0, tg, 3), root]);
        let offset = ipa & ((1 << last) - 1);
        assert_eq!(bare.at(7, ipa), Ok(RAM + offset), "tg {tg}, t0sz {t0sz}");
        assert_eq!(bare.at(7, ipa ^ 1 << last), Err(fault(0x10, true)));
        assert_eq!(bare.at(7, ipa ^ 1 << (bits - 1)), Err(fault(0x10, true)));
    }
}

#[test]
fn every_illegal_entry_is_refused_and_recorded() {
    let good = [0xd, 0, two(25, 1, 0, 3), RAM];
    let change = |word: usize, value: u64| {
        let mut words = good;
        words[word] = value;
        words
    };
    let bad = [
        change(0, 0xc),
        change(2, two(15, 2, 0, 3)),
        change(2, two(40, 1, 0, 3)),
        change(2, two(19, 2, 0, 3)),
        change(2, two(25, 0, 0, 3)),
        change(2, two(25, 3, 0, 3)),
        change(2, two(25, 1, 3, 3)),
        change(2, two(25, 1, 0, 3) & !(1 << 51)),
        change(2, two(25, 1, 0, 3) | 1 << 52),
        change(2, two(25, 1, 0, 3) | 1 << 56),
        change(2, two(25, 1, 0, 3) | 1 << 57),
        change(3, 1 << 44),
        // A table past what S2PS says, 40 bits.
        [0xd, 0, two(25, 1, 0, 3) & !(7 << 48) | 2 << 48, 1 << 40],
        // Stage 1: S1STALLD without stalls, contexts past the output size.
        [0xb, 1 << 27, 0, 0],
        [0xb | 1 << 44, 0, 0, 0],
    ];
    let refused = |config: Config, words: &[u64; 4]| {
        let mut bare = Bare::new(config);
        bare.entry(7, words);
        assert_eq!(bare.at(7, 0), Err(fault(4, false)), "{words:x?}");
        assert_eq!(bare.events(), [[0x7_0000_0004, 0, 0, 0]]);
    };
    for words in bad {
        refused(Config::default(), &words);
    }
    // Fields that have a meaning with a feature: more contexts than substreams, a reserved STRW, a wide VMID.
    let (mut substreams, mut hyp, mut narrow) = <(Config, Config, Config)>::default();
    substreams.substream_bits = 4;
    hyp.hyp = true;
    narrow.vmid16 = false;
    refused(substreams, &[0xb | 5 << 59, 0, 0, 0]);
    refused(hyp, &[0xb, 1 << 30, 0, 0]);
    refused(narrow, &change(2, two(25, 1, 0, 3) | 0x100));
    // Without it they are ignored: what is refused is the context descriptor, which is not valid.
    for words in [[0xb | 5 << 59, 0, 0, 0], [0xb, 1 << 30, 0, 0]] {
        let mut bare = Bare::new(Config::default());
        let table = bare.page();
        bare.entry(7, &[words[0] | table, words[1], 0, 0]);
        assert_eq!(bare.at(7, 0), Err(fault(0xa, false)), "{words:x?}");
    }
    let mut bare = Bare::new(Config::default());
    for config in [1, 3, 5, 7] {
        bare.entry(7, &[config, u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!(bare.at(7, 0), Err(Denied::StreamAbort));
    }
    assert_eq!(bare.at(0x100, 0), Err(fault(2, false)));
    assert_eq!(bare.events(), [[0x100_0000_0002, 0, 0, 0]]);
}

#[test]
fn the_opcodes_are_those_of_the_document() {
    let always = [0x01, 0x02, 0x03, 0x04, 0x30, 0x46];
    let one = [0x05, 0x06, 0x10, 0x11, 0x12, 0x13];
    let two = [0x28, 0x2a];
    let hyp = [0x20, 0x21, 0x22, 0x23];
    for config in [
        Config::default(),
        Config::full(),
        Config {
            stage_one: false,
            ..Config::default()
        },
        Config {
            stage_two: false,
            ..Config::default()
        },
    ] {
        let mut bare = Bare::new(config);
        for opcode in 0..=0xffu64 {
            let legal = always.contains(&opcode)
                || config.stage_one && one.contains(&opcode)
                || config.stage_two && two.contains(&opcode)
                || config.hyp && hyp.contains(&opcode)
                || config.ats && opcode == 0x40
                || config.pri && opcode == 0x41
                || config.stall != StallModel::Terminate && matches!(opcode, 0x44 | 0x45);
            bare.send(&[[opcode, 0]]);
            let expected = (!legal).then_some(1);
            assert_eq!(bare.error(), expected, "{opcode:#x} on {config:?}");
        }
        // CS = 3, Resp = 3, Ac and Ab both, a range of nothing, a 16 KiB granule's level 1.
        for (command, legal) in [
            ([0x46 | 3 << 12, 0], false),
            ([0x41, 3 << 12], false),
            ([0x44 | 3 << 12, 0], false),
            ([0x2a, 1 << 10], false),
            ([0x2a | 1 << 12, 1 << 10], config.stage_two),
            ([0x2a, 2 << 10 | 1 << 8], false),
            ([0x03 | 1 << 10, 0], false),
        ] {
            bare.send(&[command]);
            assert_eq!(bare.error().is_none(), legal, "{command:x?}");
        }
    }
}

/// A stream with stage 2 pages at IPA 0, 4 KiB, .. and what a range command leaves of them in the TLB.
fn left(command: [u64; 2]) -> Vec<u64> {
    let mut bare = Bare::new(Config::default());
    let (root, middle, leaf) = (bare.page(), bare.page(), bare.page());
    bare.store(root, middle | 3);
    bare.store(middle, leaf | 3);
    bare.store(middle + 8, RAM | S2 | 1);
    for page in 0..64 {
        bare.store(leaf + page * 8, (RAM + page * PAGE) | S2 | 3);
    }
    bare.entry(7, &[0xd, 0, two(25, 1, 0, 3), root]);
    let all: Vec<u64> = (0..64).map(|page| page * PAGE).chain([0x20_0000]).collect();
    for at in &all {
        bare.at(7, *at).unwrap();
    }
    for page in 0..64 {
        bare.store(leaf + page * 8, 0);
    }
    bare.store(middle + 8, 0);
    bare.send(&[command, SYNC]);
    all.into_iter()
        .filter(|at| bare.at(7, *at).is_ok())
        .collect()
}

#[test]
fn a_range_takes_what_it_covers_and_nothing_else() {
    let pages = |range: std::ops::Range<u64>| range.map(|page| page * PAGE).collect::<Vec<_>>();
    let block = 0x20_0000;
    let ipa = 0x2a | 3 << 32;
    let without = |gone: std::ops::Range<u64>, last: bool| {
        let mut rest = pages(0..gone.start);
        rest.extend(pages(gone.end..64));
        rest.extend(last.then_some(block));
        rest
    };
    assert_eq!(left([ipa, 5 << 12]), without(5..6, true));
    assert_eq!(
        left([ipa | 4 << 12, 5 << 12 | 1 << 10]),
        without(5..10, true)
    );
    assert_eq!(
        left([ipa | 2 << 12 | 2 << 20, 8 << 12 | 1 << 10]),
        without(8..20, true)
    );
    // A level that is not theirs, a granule that is not theirs, a VMID that is not theirs.
    assert_eq!(left([ipa | 4 << 12, 2 << 8 | 1 << 10]), without(0..0, true));
    assert_eq!(left([ipa | 4 << 12, 3 << 10]), without(0..0, true));
    assert_eq!(
        left([0x2a | 4 << 32 | 4 << 12, 1 << 10]),
        without(0..0, true)
    );
    // One address inside of the block takes all of it; level 2 takes only the block.
    assert_eq!(left([ipa, block + 0x5000]), without(0..0, false));
    assert_eq!(
        left([ipa | 31 << 12 | 5 << 20, 2 << 8 | 1 << 10]),
        without(0..0, false)
    );
    assert_eq!(left(NSNH), Vec::<u64>::new());
    assert_eq!(left([0x28 | 3 << 32, 0]), Vec::<u64>::new());
    assert_eq!(left([0x10 | 3 << 32, 0]).len(), 65, "stage 1 only");
    assert_eq!(left(ALL).len(), 65, "configuration only");
}

/// Stage 1 of one page at 0x1000, with S and the rest as given.
fn stage_one(config: Config, stall: bool) -> Bare {
    let mut bare = Bare::new(config);
    let (root, middle, leaf, contexts) = (bare.page(), bare.page(), bare.page(), bare.page());
    bare.store(root, middle | 3);
    bare.store(middle, leaf | 3);
    bare.store(leaf + 8, RAM | 1 << 10 | 1 << 6 | 1 << 11 | 3);
    let flags = 7 << 45 | u64::from(stall) << 44;
    bare.store(contexts + 8, root);
    bare.store(
        contexts,
        25 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | flags | 9 << 48,
    );
    bare.entry(7, &[0xb | contexts, 0, 3, 0]);
    bare
}

#[test]
fn a_stalled_transaction_waits_for_its_answer() {
    let config = Config {
        stall: StallModel::Both,
        stall_max: 2,
        ..Config::default()
    };
    let mut bare = stage_one(config, true);
    assert_eq!(bare.at(7, 0x1000), Ok(RAM));
    assert_eq!(bare.at(7, 0x2000), Err(Denied::Stalled(0)));
    assert_eq!(bare.at(7, 0x3000), Err(Denied::Stalled(1)));
    assert_eq!(bare.at(7, 0x4000), Err(Denied::NoStall));
    let events = bare.events();
    assert_eq!(events.len(), 2);
    // F_TRANSLATION, STALL, STAG, read, CLASS = IN.
    assert_eq!(
        events[1],
        [0x7_0000_0010, 1 | 1 << 31 | 1 << 35 | 2 << 40, 0x3000, 0]
    );
    // The wrong stream, then the right one: retry.
    bare.send(&[[0x44 | 1 << 12 | 8 << 32, 1], SYNC]);
    assert_eq!(bare.smmu.resumed(), []);
    bare.send(&[[0x44 | 1 << 12 | 7 << 32, 1], SYNC]);
    assert_eq!(bare.smmu.resumed(), [(1, true)]);
    bare.send(&[[0x45 | 7 << 32, 0], SYNC]);
    assert_eq!(bare.smmu.resumed(), [(0, false)]);
    assert_eq!(bare.smmu.stalled(), 0);
}

#[test]
fn a_stall_record_is_not_lost_by_a_full_queue() {
    let config = Config {
        stall: StallModel::Both,
        stall_max: 20,
        ..Config::default()
    };
    let bare = stage_one(config, true);
    for page in 2..20u64 {
        assert!(matches!(bare.at(7, page << 12), Err(Denied::Stalled(_))));
    }
    assert_eq!(bare.events().len(), 16);
    assert_eq!(bare.events().len(), 2);
    assert_eq!(bare.smmu.counters().events_lost, 0);
}

#[test]
fn page_requests_fill_their_queue_and_overflow_is_shaken_hands_on() {
    let mut bare = Bare::new(Config::full());
    for page in 0..4u64 {
        assert!(bare.smmu.page_request(7, page << 12, true, 5, page == 3));
    }
    assert!(!bare.smmu.page_request(7, 0x9000, true, 6, true));
    assert_eq!(bare.smmu.read32(0x100c8), 1 << 31 | 4);
    let record = [0, 8].map(|offset| bare.memory.load(bare.requests + 48 + offset));
    assert_eq!(record, [7 | 7 << 60, 0x3005]);
    bare.smmu.write32(0x100cc, 4);
    assert!(
        !bare.smmu.page_request(7, 0x9000, true, 6, true),
        "not acknowledged yet"
    );
    bare.smmu.write32(0x100cc, 1 << 31 | 4);
    assert!(bare.smmu.page_request(7, 0x9000, true, 6, true));
    assert_eq!(bare.smmu.interrupts().page_requests, 0, "not enabled");
    bare.send(&[[0x41 | 7 << 32, 5 | 2 << 12], SYNC]);
    assert_eq!(bare.smmu.page_responses(), [(7, 5, 2)]);
}

#[test]
fn messages_are_written_and_their_aborts_are_errors() {
    let mut bare = Bare::new(Config::full());
    bare.smmu.write64(0x68, RAM);
    bare.smmu.write32(0x70, 0xaa);
    bare.smmu.write64(0xb0, RAM + 8);
    bare.smmu.write32(0xb8, 0xbb);
    bare.smmu.write32(0x50, 5);
    while bare.smmu.read32(0x54) != 5 {}
    assert!(bare.at(7, 0).is_err());
    assert_eq!(bare.memory.device_read(RAM + 8, true), Ok(0xbb));
    assert!(bare.at(7, 0).is_err());
    assert_eq!(bare.smmu.interrupts().events, 1, "not empty already");
    bare.send(&[[0x46 | 1 << 12 | 0xcc << 32, RAM + 16]]);
    assert_eq!(bare.memory.device_read(RAM + 16, true), Ok(0xcc));
    // Nothing is at that address: MSI_CMDQ_ABT_ERR, and the global error message.
    bare.send(&[[0x46 | 1 << 12 | 0xcc << 32, 0x10]]);
    assert_eq!(bare.smmu.read32(0x60), 1 << 4);
    assert_eq!(bare.memory.device_read(RAM, true), Ok(0xaa));
}

#[test]
fn hardware_sets_the_access_flag_and_dirty_state_where_it_was_told_to() {
    let config = Config {
        httu: 2,
        ..Config::default()
    };
    let mut bare = Bare::new(config);
    let (root, middle, leaf) = (bare.page(), bare.page(), bare.page());
    bare.store(root, middle | 3);
    bare.store(middle, leaf | 3);
    // DBM, not yet writable, AF = 0.
    let clean = RAM | 1 << 51 | 1 << 6 | 3;
    bare.store(leaf, clean);
    bare.entry(7, &[0xd, 0, two(25, 1, 0, 3), root]);
    bare.send(&[[0x28 | 3 << 32, 0], SYNC]);
    assert_eq!(bare.at(7, 0), Err(fault(0x12, true)));
    bare.entry(7, &[0xd, 0, two(25, 1, 0, 3) | 3 << 55, root]);
    assert_eq!(bare.at(7, 0), Ok(RAM));
    assert_eq!(bare.memory.load(leaf), clean | 1 << 10);
    assert_eq!(bare.smmu.dma_write(7, 0, &[1]), Ok(()));
    assert_eq!(bare.memory.load(leaf), clean | 1 << 10 | 1 << 7);
}

#[test]
fn two_level_contexts_are_found_and_their_holes_are_not() {
    let mut bare = Bare::new(Config::full());
    let (first, second, root) = (bare.page(), bare.page(), bare.page());
    bare.store(first + 8, second | 1);
    bare.store(root, BLOCK | 1 << 10 | 1 << 6 | 1 << 11 | 1);
    // Substream 65 is entry 1 of the second table of 64.
    bare.store(second + 64 + 8, root);
    bare.store(
        second + 64,
        25 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | 9 << 48,
    );
    bare.entry(7, &[0xb | 1 << 4 | first | 8 << 59, 0, 3, 0]);
    let from = Initiator::from(7);
    assert_eq!(
        bare.at(from.with_substream(65), 0x12_3456),
        Ok(BLOCK + 0x12_3456)
    );
    assert_eq!(bare.at(from.with_substream(66), 0), Err(fault(0x0a, false)));
    assert_eq!(bare.at(from.with_substream(1), 0), Err(fault(0x08, false)));
    assert_eq!(
        bare.at(from.with_substream(256), 0),
        Err(fault(0x08, false))
    );
    assert_eq!(bare.at(from, 0), Err(fault(0x06, false)));
}

#[test]
fn the_upper_half_has_a_table_of_its_own() {
    let mut bare = Bare::new(Config::default());
    let (lower, upper, contexts) = (bare.page(), bare.page(), bare.page());
    let block = 1 << 10 | 1 << 6 | 1 << 11 | 1;
    bare.store(lower, BLOCK | block);
    bare.store(upper, (BLOCK + 0x4000_0000) | block);
    bare.store(contexts + 8, lower);
    bare.store(contexts + 16, upper);
    // T1SZ = 25, TG1 = 4 KiB, TBI0.
    let first = 25 | 25 << 16 | 2 << 22 | 1 << 31 | 4 << 32 | 1 << 38 | 1 << 41 | 7 << 45;
    bare.store(contexts, first | 9 << 48);
    bare.entry(7, &[0xb | contexts, 0, 3, 0]);
    assert_eq!(bare.at(7, 0x1234), Ok(BLOCK + 0x1234));
    assert_eq!(
        bare.at(7, 0xab00_0000_0000_1234),
        Ok(BLOCK + 0x1234),
        "TBI0"
    );
    let top = 0xffff_ff80_0000_0000;
    assert_eq!(bare.at(7, top + 0x1234), Ok(BLOCK + 0x4000_1234));
    assert_eq!(
        bare.at(7, 0x7fff_ff80_0000_1234 | 1 << 55),
        Err(fault(0x10, false))
    );
    assert_eq!(bare.at(7, 1 << 39), Err(fault(0x10, false)));
    let gone = [0x12 | 3 << 32 | 9 << 48, top | 1];
    bare.store(upper, 0);
    bare.send(&[gone, SYNC]);
    assert!(bare.at(7, top).is_err());
    assert!(bare.at(7, 0).is_ok());
}
