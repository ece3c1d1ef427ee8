//! Random lives of a few devices' PASIDs, against what was asked for.

use std::collections::BTreeMap;

use iommu::id::DeviceId;
use iommu::model::vtd::{Config, Denied, Initiator};
use iommu::physical::{PhysicalIommu, StreamConfig};

use super::device_tlb::trusted;
use super::{OWN, PAGE, RAM, Rig, map, on_second, stage_two};

const SOURCES: [u16; 3] = [0x310, 0x311, 0x4f8];
const PASIDS: [u32; 5] = [0, 1, 63, 64, 0x7fff];
const AT: u64 = 0x5000;

fn sequence(seed: u64, config: Config, ats: bool) {
    let mut rig = Rig::new(config);
    let parent = rig.parent();
    let mut other = rig.second();
    map(&mut other, AT, OWN, PAGE);
    let guests = [0x1_0000, 0x1_1000].map(|gpa| {
        let root = rig.first();
        rig.page(root, AT, gpa);
        (root, RAM + gpa)
    });
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % bound
    };
    // Where each goes, and which devices are silent.
    let mut reaches: BTreeMap<(u16, u32), u64> = BTreeMap::new();
    let mut silent = [false; 3];
    for _ in 0..40 {
        let at = roll(3);
        let (source, pasid) = (SOURCES[at], PASIDS[roll(5)]);
        let device = DeviceId(source.into());
        // A domain of each first stage: devices at one PASID share theirs with none.
        let own = 16 + (at * 5 + PASIDS.iter().position(|it| *it == pasid).unwrap()) as u16 * 2;
        let (config, reach) = match roll(6) {
            0 => (StreamConfig::Refuse, None),
            1 => (StreamConfig::Abort, None),
            2 => (
                StreamConfig::StageTwo(stage_two(&parent, 3)),
                Some(RAM + AT),
            ),
            3 => (StreamConfig::StageTwo(stage_two(&other, 4)), Some(OWN)),
            which => {
                let (root, reach) = guests[which - 4];
                let tag = own + which as u16 - 4;
                (on_second(&parent, tag, root), Some(reach))
            }
        };
        let config = match ats {
            true => trusted(config),
            false => config,
        };
        match pasid {
            0 => rig.driver.attach(device, config).expect("attached"),
            _ => rig
                .driver
                .attach_pasid(device, pasid, config)
                .expect("attached"),
        }
        match reach {
            Some(to) => reaches.insert((source, pasid), to),
            None => reaches.remove(&(source, pasid)),
        };
        if pasid == 0 {
            silent[at] = config == StreamConfig::Abort;
        }
        for (source, silent) in SOURCES.iter().zip(silent) {
            for pasid in PASIDS {
                let from = Initiator::from(*source);
                let from = match pasid {
                    0 => from,
                    _ => from.with_pasid(pasid),
                };
                let wanted = reaches.get(&(*source, pasid)).filter(|_| !silent);
                let went = match ats {
                    true => rig.vtd.translated(from, AT),
                    false => rig.vtd.translate_as(from, AT, roll(2) == 0),
                };
                match wanted {
                    Some(to) => assert_eq!(went, Ok(*to), "{seed}"),
                    None => assert!(matches!(went, Err(Denied::Fault(_))), "{seed}"),
                }
            }
        }
    }
    assert!(rig.vtd.violations().is_empty());
}

#[test]
fn random_lives_reach_what_was_asked_for() {
    for seed in 0..300 {
        sequence(seed, Config::nesting(), false);
        let caching = Config {
            device_tlbs: true,
            ..Config::nesting()
        };
        sequence(seed, caching, true);
    }
}
