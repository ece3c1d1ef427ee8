//! Stores as the SMMU sees them, one by one and without snooping.

use super::PAGE;
use crate::rig::{RAM, Rig, map, translation};
use iommu::id::CacheTag;
use iommu::model::memory::Order;
use iommu::model::smmu::{Config, Denied};
use iommu::physical::{Invalidated, Invalidation, PhysicalIommu};

#[test]
fn every_image_of_an_entry_is_the_old_one_the_new_one_or_abort() {
    let mut rig = Rig::new(Config::default());
    let (mut one, mut two) = (rig.table(39), rig.table(44));
    map(&mut one, 0x1000, RAM, PAGE);
    map(&mut two, 0x1000, RAM + PAGE, PAGE);
    for round in 0..20 {
        let device = 8 + round % 3;
        let (table, tag) = if round % 2 == 0 { (&one, 3) } else { (&two, 4) };
        rig.attach(device, table, tag);
        rig.smmu.dma_write(device, 0x1000, &[1]).unwrap();
    }
    // Each attach changes at least word 0; a first one all of words 0 to 3 as well.
    assert!(rig.smmu.counters().images > 100);
}

#[test]
fn without_snooping_every_store_is_cleaned() {
    // The second SMMU says of itself that it snoops; firmware knows better.
    for (order, cohacc) in [
        (Order::Late, None),
        (Order::Random(0x5eed), None),
        (Order::Late, Some(true)),
    ] {
        let mut rig = Rig::described(
            Config {
                coherent: false,
                cohacc,
                ..Config::default()
            },
            cohacc.is_none(),
        );
        assert!(!rig.driver.caps().coherent);
        rig.memory.set_order(order);
        let mut table = rig.table(39);
        map(&mut table, 0x20_0000, RAM, 0x20_0000);
        map(&mut table, 0x1000, RAM, PAGE);
        rig.attach(0x108, &table, 3);
        rig.smmu.dma_write(0x108, 0x1000, &[1]).unwrap();
        rig.smmu.dma_write(0x108, 0x20_1000, &[1]).unwrap();
        // A cut block, a cut table, and a fault that is read.
        rig.unmap(&mut table, 0x20_1000, PAGE, 3);
        rig.unmap(&mut table, 0x1000, PAGE, 3);
        rig.smmu.dma_write(0x108, 0x20_2000, &[1]).unwrap();
        for at in [0x1000, 0x20_1000] {
            assert_eq!(rig.smmu.dma_write(0x108, at, &[1]), Err(translation(true)));
        }
        let (faults, lost) = rig.drain();
        assert_eq!((faults.len(), lost), (2, false), "{faults:?}");
        assert_eq!(faults[0].iova.map(|iova| iova.0), Some(0x1000));
        assert_eq!(faults[1].iova.map(|iova| iova.0), Some(0x20_1000));
        rig.abort(0x108);
        assert_eq!(
            rig.smmu.dma_write(0x108, 0x20_2000, &[1]),
            Err(Denied::StreamAbort)
        );
    }
}

#[test]
fn an_event_queue_that_wraps_is_read_right_without_snooping() {
    let mut rig = Rig::new(Config {
        coherent: false,
        event_queue_log2: 3,
        ..Config::default()
    });
    let table = rig.table(39);
    rig.attach(8, &table, 3);
    for round in 0..50u64 {
        for back in 0..round % 8 {
            let at = round << 20 | back << 12;
            assert!(rig.smmu.dma_read(8, at, 1).is_err());
        }
        let (faults, lost) = rig.drain();
        assert!(!lost);
        let seen: Vec<_> = faults.iter().filter_map(|fault| fault.iova).collect();
        let sent: Vec<_> = (0..round % 8)
            .map(|back| iommu::addr::Iova(round << 20 | back << 12))
            .collect();
        assert_eq!(seen, sent);
    }
}

#[test]
fn a_walker_that_does_not_snoop_never_finds_what_memory_held_before_a_table() {
    let mut rig = Rig::new(Config {
        coherent: false,
        ..Config::default()
    });
    for bits in [39, 44] {
        let mut table = rig.table(bits);
        map(&mut table, 0x40_0000_0000 - PAGE, RAM, PAGE);
        rig.attach(8, &table, 3);
        // The other end of each table on the way, and a place past a cache line.
        for at in [
            0,
            0x3f_c000_0000,
            0x3f_ffe0_0000,
            0x3f_ffff_0000,
            0x20_0000_0000,
        ] {
            assert_eq!(
                rig.smmu.translate(8, at, false),
                Err(translation(true)),
                "{at:#x} in {bits} bits"
            );
        }
        rig.abort(8);
        rig.driver
            .invalidate(&[Invalidation::Tag(CacheTag(3))])
            .unwrap();
        table.retire(Invalidated::complete());
    }
}
