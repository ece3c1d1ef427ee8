//! Bit by bit, against masks written down from the description of Linux's interface, not from `spec`.

use super::*;
use crate::smmuv3::Identity;

const TAG: CacheTag = CacheTag(0x42);
const NAME: u64 = 0x1234_5678;
const DEVICE: DeviceId = DeviceId(0x9a);

/// An SMMU with everything: S1P, S2P, AArch64, ATS, ASID16; 20 bits of substreams; RIL; 4 KiB.
fn features() -> Features {
    let identity = Identity {
        idr: [
            0x140b | 1 << 18,
            16 | 20 << 6 | 8 << 16 | 8 << 21,
            0,
            1 << 10,
            0,
            0x10,
        ],
        ..Identity::default()
    };
    Features::of(&identity).unwrap()
}

fn with(words: [u64; 2], features: &Features) -> Result<Invalidation, Error> {
    decode(words, features, TAG, |name| {
        (name == NAME).then_some(DEVICE)
    })
}

/// The opcode, and what else may be set, with everything that the hardware can have.
const MASKS: [(u64, [u64; 2]); 8] = [
    (0x30, [0, 0]),
    (0x10, [0x0000_ffff_0000_0000, 0]),
    (0x11, [0xffff_ffff_0000_0000, 0]),
    (0x12, [0xffff_ffff_01f1_f000, 0xffff_ffff_ffff_ff01]),
    (0x13, [0x0000_ffff_01f1_f000, 0xffff_ffff_ffff_ff01]),
    (0x40, [0xffff_ffff_ffff_fa00, 0xffff_ffff_ffff_f03f]),
    (0x05, [0xffff_ffff_ffff_f000, 1]),
    (0x06, [0xffff_ffff_0000_0000, 0]),
];

#[test]
fn every_bit_off_the_list_refuses_the_command_and_every_opcode_off_it() {
    let features = features();
    let named = |opcode| matches!(opcode, 0x40 | 0x05 | 0x06);
    for opcode in 0..=0xff {
        let base = opcode | if named(opcode) { NAME << 32 } else { 0 };
        let known = MASKS.iter().find(|(known, _)| *known == opcode);
        let Some((_, mask)) = known else {
            assert_eq!(
                with([base, 0], &features),
                Err(Error::IllegalEntry(base)),
                "{opcode:#x}"
            );
            continue;
        };
        assert!(with([base, 0], &features).is_ok(), "{opcode:#x}");
        for (word, mask) in mask.iter().enumerate() {
            for bit in (0..64).filter(|bit| word == 1 || *bit >= 8) {
                let mut words = [base, 0];
                words[word] ^= 1 << bit;
                // NUM, SCALE or TTL without TG, or TG without them, is reserved.
                let part = matches!(opcode, 0x12 | 0x13)
                    && (word == 0 && bit < 32 || word == 1 && (8..12).contains(&bit));
                // Another name, which nobody has.
                let stranger = named(opcode) && word == 0 && bit >= 32;
                let legal = mask >> bit & 1 != 0 && !part && !stranger;
                let result = with(words, &features);
                assert_eq!(result.is_ok(), legal, "{opcode:#x}: {word}, {bit}");
            }
        }
    }
}

#[test]
fn what_the_smmu_lacks_no_guest_can_ask_for() {
    let all = features();
    let name = NAME << 32;
    let refused = |words, features: &Features| {
        assert!(with(words, &all).is_ok());
        assert!(with(words, features).is_err());
    };
    let narrow = Features {
        asid16: false,
        ..all
    };
    refused([0x11 | 0x100 << 48, 0], &narrow);
    assert!(with([0x11 | 0xff << 48, 0], &narrow).is_ok());
    let single = Features {
        range_invalidation: false,
        ..all
    };
    refused([0x12 | 3 << 12, 1 << 10], &single);
    let without = Features { ats: false, ..all };
    refused([0x40 | name, 0], &without);
    let plain = Features {
        substream_bits: 0,
        ..all
    };
    refused([0x40 | name | 1 << 11, 0], &plain);
    refused([0x05 | name | 1 << 12, 0], &plain);
    let few = Features {
        substream_bits: 4,
        ..all
    };
    refused([0x05 | name | 16 << 12, 0], &few);
    assert!(with([0x05 | name | 15 << 12, 0], &few).is_ok());
}

#[test]
fn what_comes_out_is_the_slices_and_as_wide_as_what_went_in() {
    let features = features();
    let stale = |words| with(words, &features).unwrap();
    let span = |base, len| Span {
        base: Iova(base),
        len,
    };
    assert_eq!(stale([0x30, 0]), Invalidation::StageOne(TAG));
    assert_eq!(stale([0x10 | 7 << 32, 0]), Invalidation::StageOne(TAG));
    let space = Invalidation::AddressSpace {
        tag: TAG,
        asid: 0xbeef,
    };
    assert_eq!(stale([0x11 | 7 << 32 | 0xbeef << 48, 0]), space);
    for leaf in [false, true] {
        let address = Invalidation::StageOneAddress {
            tag: TAG,
            asid: Some(0xbeef),
            address: Iova(0xfff0_0000_1234_5000),
            leaf,
        };
        let second = 0xfff0_0000_1234_5000 | u64::from(leaf);
        assert_eq!(stale([0x12 | 0xbeef << 48, second]), address);
    }
    // 6 units of 2^9 granules of 16 KiB, blocks of level 2, every ASID; low bits of the address do not count.
    let range = Invalidation::StageOneRange {
        tag: TAG,
        asid: None,
        range: span(0x4000_0000, 6 << 23),
        granule: Granule::Size16K,
        level: 2,
        leaf: true,
    };
    let words = [0x13 | 5 << 12 | 9 << 20, 0x4000_1000 | 2 << 10 | 2 << 8 | 1];
    assert_eq!(stale(words), range);
    // The largest one, at the end of everything.
    let top = Invalidation::StageOneRange {
        tag: TAG,
        asid: Some(0),
        range: span(u64::MAX << 16, 0xffff),
        granule: Granule::Size64K,
        level: 0,
        leaf: false,
    };
    let words = [0x12 | 31 << 12 | 31 << 20, u64::MAX << 16 | 3 << 10];
    assert_eq!(stale(words), top);
    let device_tlb = |pasid, range| Invalidation::DeviceTlb {
        device: DEVICE,
        pasid,
        range,
    };
    let atc = 0x40 | NAME << 32;
    assert_eq!(stale([atc, 52]), device_tlb(None, None));
    // SSID and Global without SSV do not count.
    assert_eq!(stale([atc | 5 << 12 | 1 << 9, 52]), device_tlb(None, None));
    let pages = Some(span(0x1_2344_0000, 0x4000));
    assert_eq!(
        stale([atc | 5 << 12 | 1 << 11, 0x1_2344_3000 | 2]),
        device_tlb(Some(5), pages)
    );
    let global = Invalidation::DeviceTlbOfPasids {
        device: DEVICE,
        range: Some(span(1 << 63, (1 << 63) - 1)),
    };
    assert_eq!(stale([atc | 1 << 11 | 1 << 9, 3 << 62 | 51]), global);
    let context = Invalidation::Context {
        device: DEVICE,
        pasid: 0xf_ffff,
        leaf: true,
    };
    assert_eq!(stale([0x05 | NAME << 32 | 0xf_ffff << 12, 1]), context);
    let contexts = Invalidation::Contexts(DEVICE);
    assert_eq!(stale([0x06 | NAME << 32, 0]), contexts);
}

#[test]
fn reserved_ranges_and_sizes_are_refused() {
    let features = features();
    let first = 0x12 | 1 << 12;
    for (words, legal) in [
        ([first, 0], false),
        ([0x12, 1 << 10], false),
        ([first, 1 << 10], true),
        ([0x12, 1 << 10 | 1 << 8], true),
        ([0x12, 2 << 10 | 1 << 8], false),
        ([0x12, 2 << 10 | 2 << 8], true),
        ([0x12, 3 << 10 | 1 << 8], true),
        ([0x40 | NAME << 32, 52], true),
        ([0x40 | NAME << 32, 53], false),
        ([0x40 | NAME << 32, 63], false),
    ] {
        assert_eq!(with(words, &features).is_ok(), legal, "{words:#x?}");
    }
}
