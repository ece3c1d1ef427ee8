//! The driver on models with every pair of features (U1): the same life on each.

mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;

use iommu::addr::Hpa;
use iommu::id::{CacheTag, DeviceId};
use iommu::model::memory::Order;
use iommu::model::smmu::{Completion, Config, Denied, Initiator, Pace, StallModel};
use iommu::physical::{
    ContextSetup, Granule, HOST, Invalidated, Invalidation, PhysicalIommu, StageOneTable,
};
use iommu::table::{Granule4K, PageTable, Shape, StageOne, StageOneAttributes};
use rig::{RAM, Rig, map, span, translation};

const PAGE: u64 = 4096;

/// Values of each parameter.
const VALUES: [usize; 20] = [2, 2, 2, 2, 2, 5, 8, 3, 3, 2, 2, 2, 3, 2, 2, 2, 3, 2, 3, 2];

type Row = [usize; VALUES.len()];

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % limit
    }
}

fn pairs(row: &Row) -> impl Iterator<Item = (usize, usize, usize, usize)> + '_ {
    (0..row.len()).flat_map(move |one| (0..one).map(move |two| (one, row[one], two, row[two])))
}

/// Rows in which each value of each parameter meets each value of each other one.
fn rows() -> Vec<Row> {
    let mut open = BTreeSet::new();
    for (one, firsts) in VALUES.iter().enumerate() {
        for (two, seconds) in VALUES.iter().enumerate().take(one) {
            for first in 0..*firsts {
                open.extend((0..*seconds).map(|second| (one, first, two, second)));
            }
        }
    }
    let mut dice = Dice(0x1234_5678_9abc);
    let mut rows = Vec::new();
    while let Some(&(one, first, two, second)) = open.first() {
        let best = (0..30)
            .map(|_| {
                let mut row: Row = std::array::from_fn(|at| dice.below(VALUES[at]));
                (row[one], row[two]) = (first, second);
                row
            })
            .max_by_key(|row| pairs(row).filter(|pair| open.contains(pair)).count());
        let row = best.expect("30 of them");
        for pair in pairs(&row) {
            open.remove(&pair);
        }
        rows.push(row);
    }
    rows
}

fn config(row: &Row) -> Config {
    let flag = |at: usize| row[at] != 0;
    Config {
        coherent: flag(0),
        stage_one: flag(1),
        two_level: flag(2),
        vmid16: flag(3),
        range_invalidation: flag(4),
        output_size: [0, 1, 2, 4, 5][row[5]],
        stream_bits: [0, 1, 6, 8, 9, 16, 20, 32][row[6]],
        command_queue_log2: [1, 8, 19][row[7]],
        event_queue_log2: [2, 10, 19][row[8]],
        completion: [Completion::AtSync, Completion::AtOnce][row[9]],
        speculate: flag(10),
        cache_invalid: flag(11),
        pace: [Pace::AtOnce, Pace::Reads(1), Pace::Reads(5)][row[12]],
        hyp: flag(13),
        stall: [StallModel::Both, StallModel::Terminate][row[14]],
        ats: flag(15),
        pri: flag(15),
        msi: flag(15),
        bbml: row[16] as u8,
        cd_two_level: flag(17),
        substream_bits: [0, 4, 12][row[18]],
        asid16: flag(19),
        pri_queue_log2: 4,
        stall_max: 16,
        ..Config::default()
    }
}

fn live_on(config: Config, order: Order) {
    let mut rig = Rig::new(config);
    rig.memory.set_order(order);
    let bits = config.output_bits().min(40);
    let mut table = rig.table(bits);
    let tag = if config.vmid16 { 0x1ff } else { 0xff };
    let top = (1u64 << bits) - PAGE;
    map(&mut table, 0, RAM, PAGE);
    map(&mut table, 0x20_0000, RAM, 0x20_0000);
    map(&mut table, top, RAM + PAGE, PAGE);
    let last = match config.stream_bits {
        bits if config.two_level && bits > 8 => bits.min(24),
        bits => bits.min(16),
    };
    let last = ((1u64 << last) - 1) as u32;
    let devices = BTreeSet::from([0, last, last / 2]);
    for device in &devices {
        assert!(rig.smmu.dma_read(*device, 0, 1).is_err());
        rig.attach(*device, &table, tag);
        rig.smmu.dma_write(*device, 0xffc, &[1, 2, 3, 4]).unwrap();
        rig.smmu.dma_write(*device, 0x3f_ffff, &[5]).unwrap();
        rig.smmu.dma_write(*device, top, &[6]).unwrap();
        assert_eq!(
            rig.smmu.dma_read(*device, 0x40_0000, 1),
            Err(translation(true))
        );
    }
    rig.unmap(&mut table, top, PAGE, tag);
    rig.unmap(&mut table, 0x20_3000, 3 * PAGE, tag);
    for device in &devices {
        assert_eq!(rig.smmu.dma_read(*device, top, 1), Err(translation(true)));
        assert_eq!(
            rig.smmu.dma_read(*device, 0x20_5fff, 1),
            Err(translation(true))
        );
        assert!(rig.smmu.dma_read(*device, 0x20_6000, 1).is_ok());
    }
    let events = rig.smmu.counters();
    let (faults, lost) = rig.drain();
    assert_eq!(faults.len() as u64, events.events_written);
    assert_eq!(lost, events.events_lost > 0);
    for device in &devices {
        rig.abort(*device);
        assert_eq!(rig.smmu.dma_read(*device, 0, 1), Err(Denied::StreamAbort));
    }
    if config.stage_one {
        first_stages(&mut rig, last, &config);
    }
    let outside = u64::from(last) + 1;
    if let Ok(outside) = u32::try_from(outside) {
        let config = rig::stage_two(&table, tag);
        assert!(rig.driver.attach(DeviceId(outside), config).is_err());
        assert!(rig.smmu.dma_read(outside, 0, 1).is_err());
    }
    rig.driver
        .invalidate(&[Invalidation::Tag(CacheTag(tag))])
        .unwrap();
    table.retire(Invalidated::complete());
    let Rig { driver, memory, .. } = rig;
    drop(driver);
    assert_eq!(memory.live(), (0, 0));
}

/// The same with a first stage of the host's: without a PASID and, where there are any, with the last one.
fn first_stages(rig: &mut Rig, device: u32, config: &Config) {
    let at = DeviceId(device);
    let shape = Shape {
        coherent: rig.driver.features().coherent,
        output_bits: config.output_bits().min(48),
        ..Shape::new(39)
    };
    type Table = PageTable<iommu::model::memory::Memory, StageOne<Granule4K>>;
    let mut table = Table::with_shape(Arc::clone(&rig.platform), shape).expect("memory");
    let dma = StageOneAttributes::DMA;
    table
        .map(span(0x1000, PAGE), Hpa(RAM), dma)
        .expect("mapped");
    table
        .map(span(0x20_0000, 0x20_0000), Hpa(RAM), dma)
        .expect("mapped");
    let asid = if config.asid16 { 0x1ff } else { 0xff };
    let one = StageOneTable {
        asid,
        root: table.root(),
        input_bits: 39,
        granule: Granule::Size4K,
        attributes: StageOneAttributes::MAIR,
    };
    let with = ContextSetup {
        pasid_bits: config.substream_bits,
        ats: config.ats,
    };
    let pasids = [0, (1 << config.substream_bits) - 1];
    let pasids = &pasids[..if config.substream_bits == 0 { 1 } else { 2 }];
    let from = |pasid| match pasid {
        0 => Initiator::from(device),
        _ => Initiator::from(device).with_substream(pasid),
    };
    for pasid in pasids {
        rig.driver
            .attach_context(at, *pasid, with, Some(&one))
            .expect("attached");
        rig.smmu
            .dma_write(from(*pasid), 0x1ffe, &[1, 2])
            .expect("written");
        assert!(rig.smmu.dma_read(from(*pasid), 0x20_3000, 1).is_ok());
        assert_eq!(
            rig.smmu.ats_translate(from(*pasid), 0x1000, true).is_ok(),
            config.ats
        );
    }
    for range in [span(0x1000, PAGE), span(0x20_3000, 3 * PAGE)] {
        let cut = table.unmap(range);
        let stale = Invalidation::StageOneRange {
            tag: HOST,
            asid: Some(asid),
            range: cut.stale(),
            granule: Granule::Size4K,
            level: 0,
            leaf: cut.leaf_only(),
        };
        rig.driver.invalidate(&[stale]).expect("forgotten");
        table.release(cut, Invalidated::complete());
    }
    for pasid in pasids {
        for iova in [0x1000, 0x20_3000, 0x20_5000] {
            let read = rig.smmu.dma_read(from(*pasid), iova, 1);
            assert_eq!(read, Err(translation(false)));
            assert!(rig.smmu.ats_translate(from(*pasid), iova, true).is_err());
        }
        assert!(rig.smmu.dma_read(from(*pasid), 0x20_6000, 1).is_ok());
        rig.driver
            .attach_context(at, *pasid, with, None)
            .expect("refused");
        assert!(rig.smmu.dma_read(from(*pasid), 0x20_6000, 1).is_err());
    }
    let all = Invalidation::AddressSpace { tag: HOST, asid };
    rig.driver.invalidate(&[all]).expect("forgotten");
    table.retire(Invalidated::complete());
    rig.drain();
}

#[test]
fn every_pair_of_features_lives_the_same_life() {
    let rows = rows();
    assert!(rows.len() >= 40, "8 stream widths times 5 address widths");
    for (index, row) in rows.iter().enumerate() {
        let config = config(row);
        let order = if index % 2 == 0 {
            Order::Late
        } else {
            Order::Random(index as u64 + 7)
        };
        let lived = std::panic::catch_unwind(|| live_on(config, order));
        assert!(lived.is_ok(), "on {config:?}");
    }
}

#[test]
fn a_table_wider_than_the_output_is_refused_by_the_driver_and_not_by_the_hardware() {
    for output_size in 0..=5 {
        for bits in 32..=48 {
            let mut rig = Rig::new(Config {
                output_size,
                ..Config::default()
            });
            let mut table = rig.table(bits);
            map(&mut table, 0x1000, RAM, PAGE);
            let attached = rig.driver.attach(DeviceId(8), rig::stage_two(&table, 3));
            let reached = rig.smmu.dma_read(8, 0x1000, 1);
            assert_eq!(
                attached.is_ok(),
                reached.is_ok(),
                "{bits} bits with OAS {output_size}: {reached:?}"
            );
        }
    }
}

#[test]
fn an_smmu_that_always_stalls_is_served_or_refused_but_never_half() {
    let mut rig = Rig::new(Config {
        stall: StallModel::Stall,
        stall_max: 16,
        ..Config::default()
    });
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    let attached = rig.driver.attach(DeviceId(8), rig::stage_two(&table, 3));
    let reached = rig.smmu.dma_read(8, 0x1000, 1);
    assert_eq!(attached.is_ok(), reached.is_ok(), "{reached:?}");
}
