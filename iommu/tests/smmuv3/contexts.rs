//! Contexts of the host's own: what the SMMU can read while one takes the place of another.

use std::collections::{BTreeMap, BTreeSet};

use super::start;
use crate::fake::{Act, Fake};
use iommu::addr::Hpa;
use iommu::id::DeviceId;
use iommu::physical::{ContextSetup, Granule, PhysicalIommu, StageOneTable};
use iommu::table::StageOneAttributes;

const DEVICE: u32 = 0x108;

type Memory = BTreeMap<u64, u64>;

fn word(memory: &Memory, at: u64) -> u64 {
    memory.get(&at).copied().unwrap_or(0)
}

/// A table under `asid`.
fn table(asid: u16) -> StageOneTable {
    StageOneTable {
        asid,
        root: Hpa(0x8_0000_0000 + u64::from(asid) * 0x1000),
        input_bits: 39,
        granule: Granule::Size4K,
        attributes: StageOneAttributes::MAIR,
    }
}

/// Where the entry is (§5.1: two levels, 2^8 entries in each of the second).
fn entry_at(fake: &Fake) -> u64 {
    let state = fake.state();
    assert_eq!(state.registers[&0x88] & 0x3_07c0, 0x1_0200);
    let first = (state.registers[&0x80] & 0x000f_ffff_ffff_ffc0) + u64::from(DEVICE >> 8) * 8;
    (word(&state.memory, first) & 0x000f_ffff_ffff_ffc0) + u64::from(DEVICE & 0xff) * 64
}

/// What an SMMU reads on its way from word 0 of an entry to the descriptor of `substream` (§5.2, §5.3), and the words of that.
fn walk(memory: &Memory, first: u64, substream: u32) -> (BTreeSet<u64>, [u64; 8]) {
    let mut read = BTreeSet::new();
    let mut at = first & 0x000f_ffff_ffff_ffc0;
    let mut index = u64::from(substream);
    if first >> 4 & 3 == 1 {
        at += (index >> 6) * 8;
        read.insert(at);
        let second = word(memory, at);
        assert_eq!(second & 1, 1, "L1CD.V");
        at = second & 0x000f_ffff_ffff_f000;
        index &= 0x3f;
    }
    at += index * 64;
    read.extend((0..8).map(|word| at + word * 8));
    (
        read,
        core::array::from_fn(|it| word(memory, at + it as u64 * 8)),
    )
}

/// Every store is of words that nothing leads to yet, but for one: word 0 of the entry, when all others are visible.
/// So whatever the SMMU reads, in whatever order, is the old descriptor or the new one (§3.21.3).
#[test]
fn one_context_takes_the_place_of_another_by_one_store() {
    // SSIDSIZE, CD2L, and the PASID; 0 is without one.
    for (bits, two_level, pasid) in [
        (0, false, 0),
        (5, false, 0),
        (5, false, 7),
        (8, false, 200),
        (10, true, 0),
        (10, true, 70),
    ] {
        let fake = Fake::new();
        {
            let mut state = fake.state();
            *state.registers.get_mut(&0).unwrap() |= u64::from(two_level) << 19;
            *state.registers.get_mut(&4).unwrap() |= bits << 6;
        }
        let mut smmu = start(&fake).expect("good enough");
        let with = ContextSetup {
            pasid_bits: bits as u8,
            ats: false,
        };
        let mut attach = |pasid, asid| {
            smmu.attach_context(DeviceId(DEVICE), pasid, with, Some(&table(asid)))
                .expect("attached");
        };
        let others: Vec<u32> = [0, 3, 71, 1 << bits >> 1]
            .into_iter()
            .filter(|it| *it != pasid && it >> bits == 0)
            .collect();
        for other in &others {
            attach(*other, 1);
        }
        attach(pasid, 2);

        let at = entry_at(&fake);
        let mut memory = fake.state().memory.clone();
        let first = word(&memory, at);
        let (mut live, old) = walk(&memory, first, pasid);
        assert_eq!((old[0] >> 48, old[0] >> 31 & 1), (2, 1));
        let beside: Vec<_> = others.iter().map(|it| walk(&memory, first, *it)).collect();
        live.extend(beside.iter().flat_map(|(read, _)| read));
        live.extend((1..8).map(|word| at + word * 8));
        let _before = (fake.acts(), fake.commands());
        attach(pasid, 3);

        let (mut pending, mut switched) = (0, false);
        for act in fake.acts() {
            match act {
                Act::Barrier => pending = 0,
                Act::Store(to, value) => {
                    assert!(!live.contains(&to), "{bits} {two_level} {pasid}: {to:#x}");
                    memory.insert(to, value);
                    if to == at {
                        assert!(!switched && pending == 0);
                        switched = true;
                        let (read, new) = walk(&memory, value, pasid);
                        assert_eq!((new[0] >> 48, new[1]), (3, 0x8_0000_3000));
                        assert_eq!(
                            (new[0] ^ old[0]) << 16,
                            0,
                            "all but the address space is the same"
                        );
                        live.extend(read);
                        for (other, (_, words)) in others.iter().zip(&beside) {
                            let (read, now) = walk(&memory, value, *other);
                            assert_eq!(now, *words);
                            live.extend(read);
                        }
                        live.insert(at);
                    }
                    pending += 1;
                }
                _ => {}
            }
        }
        assert!(switched);
        // CMD_CFGI_STE, which is for the contexts too (§4.3.1), and CMD_SYNC.
        let stream = u64::from(DEVICE) << 32;
        assert_eq!(fake.commands(), [[0x03 | stream, 1], [0x46, 0]]);
    }
}

#[test]
fn contexts_that_an_smmu_may_still_read_are_never_freed() {
    for deaf in [false, true] {
        let fake = Fake::new();
        let mut smmu = start(&fake).expect("good enough");
        let with = ContextSetup {
            pasid_bits: 0,
            ats: false,
        };
        smmu.attach_context(DeviceId(DEVICE), 0, with, Some(&table(1)))
            .expect("attached");
        let at = entry_at(&fake);
        let first = word(&fake.state().memory, at);
        let contexts = first & 0x000f_ffff_ffff_ffc0;
        fake.state().deaf = deaf;
        drop(smmu);
        assert_eq!(fake.state().freed.contains(&contexts), !deaf);
    }
}
