//! Attachments, invalidations and what they cost.

use super::{DEVICE, RAM, Rig, TAG, map, span, stage_two};
use iommu::addr::Hpa;
use iommu::id::{CacheTag, DeviceId};
use iommu::model::memory::Order;
use iommu::model::vtd::{Config, Denied};
use iommu::physical::{
    Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};
use iommu::vtd::interrupt_remap::Destinations;

#[test]
fn no_memory_that_was_given_back_is_reached_over_a_life() {
    for (coherent, scalable) in [(true, false), (true, true), (false, false), (false, true)] {
        for seed in 1..4 {
            let mut rig = Rig::with(
                Config {
                    coherent,
                    scalable,
                    first_stage: scalable,
                    nesting: scalable,
                    ..Config::default()
                },
                Some(Destinations::Wide),
            );
            rig.memory.set_order(Order::Random(seed));
            let mut table = rig.table();
            map(&mut table, 0, RAM, 0x40_0000);
            rig.driver
                .attach(DeviceId(DEVICE.into()), stage_two(&table))
                .unwrap();
            for page in 0..64 {
                let at = page * 0x1_0000;
                rig.vtd.dma_write(DEVICE, at, &page.to_le_bytes()).unwrap();
                let cut = table.unmap(span(at, 0x1000));
                let stale = cut.invalidation(TAG);
                rig.driver.invalidate(&[stale]).unwrap();
                table.release(cut, Invalidated::complete());
                let refused = if scalable { 0x79 } else { 5 };
                let denied = rig.vtd.translate(DEVICE, at, true);
                assert_eq!(denied, Err(Denied::Fault(refused)));
                // It was on its way when it was unmapped, and has arrived.
                assert_eq!(rig.memory.device_read(RAM + at, true), Ok(page));
                rig.drain();
            }
            rig.driver
                .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
                .unwrap();
            rig.driver.invalidate(&[Invalidation::Tag(TAG)]).unwrap();
            table.retire(Invalidated::complete());
            let Rig {
                driver,
                memory,
                vtd,
            } = rig;
            drop(driver);
            let refused = if scalable { 0x39 } else { 1 };
            let denied = vtd.translate(DEVICE, 0, true);
            assert_eq!(denied, Err(Denied::Fault(refused)));
            // The root table and the interrupt table.
            assert_eq!(memory.live(), (2, 4096 + 16384));
        }
    }
}

#[test]
fn a_unit_that_snoops_costs_no_clean() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    assert_eq!(rig.memory.cleaned(), 0);
}

#[test]
fn without_a_queue_registers_do_it() {
    let mut rig = Rig::new(Config {
        queue: false,
        ..Config::default()
    });
    let mut table = rig.open();
    rig.vtd.dma_write(DEVICE, 0, &[1; 4]).unwrap();
    assert_eq!(rig.vtd.cached(), 1);
    let cut = table.unmap(span(0, 0x1000));
    let stale = cut.invalidation(TAG);
    rig.driver.invalidate(&[stale]).unwrap();
    table.release(cut, Invalidated::complete());
    assert_eq!(rig.vtd.cached(), 0);
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(5)));
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    assert_eq!(rig.vtd.translate(DEVICE, 0, true), Err(Denied::Fault(2)));
    assert_eq!(rig.driver.counters().descriptors, 0);
}

#[test]
fn an_attach_and_an_unmap_cost_this_much() {
    let mut rig = Rig::new(Config::default());
    // The bus has its context table from here on.
    rig.driver
        .attach(DeviceId(0x300), StreamConfig::Refuse)
        .unwrap();
    let before = rig.driver.counters();
    let mut table = rig.open();
    let opened = rig.driver.counters();
    assert_eq!(opened.descriptors, before.descriptors, "nothing was cached");
    assert_eq!(opened.register_writes, before.register_writes);
    let cut = table.unmap(span(0, 0x1000));
    let stale = cut.invalidation(TAG);
    rig.driver.invalidate(&[stale]).unwrap();
    table.release(cut, Invalidated::complete());
    let unmapped = rig.driver.counters();
    assert_eq!(unmapped.descriptors - opened.descriptors, 1);
    assert_eq!(unmapped.waits - opened.waits, 1);
    assert_eq!(
        unmapped.register_writes - opened.register_writes,
        1,
        "the tail"
    );
    assert_eq!(unmapped.register_reads, opened.register_reads);
    rig.driver
        .attach(DeviceId(DEVICE.into()), StreamConfig::Refuse)
        .unwrap();
    let closed = rig.driver.counters();
    assert_eq!(closed.descriptors - unmapped.descriptors, 2);
    assert_eq!(closed.waits - unmapped.waits, 1);
    assert_eq!(closed.table_bytes, 2 * 4096);
}

#[test]
fn what_does_not_fit_the_unit_closes_the_source() {
    let mut rig = Rig::new(Config {
        domains: 2,
        ..Config::default()
    });
    let table = rig.open();
    let good = StageTwo {
        tag: TAG,
        root: table.root(),
        input_bits: 39,
        ats: false,
    };
    let bad = [
        StageTwo {
            tag: CacheTag(0),
            ..good
        },
        StageTwo {
            tag: CacheTag(256),
            ..good
        },
        StageTwo {
            root: Hpa(1 << 46),
            ..good
        },
        StageTwo {
            root: Hpa(RAM + 8),
            ..good
        },
        StageTwo {
            input_bits: 49,
            ..good
        },
        StageTwo {
            input_bits: 57,
            ..good
        },
        StageTwo { ats: true, ..good },
    ];
    for config in bad {
        rig.driver
            .attach(DeviceId(DEVICE.into()), StreamConfig::StageTwo(good))
            .unwrap();
        assert!(rig.vtd.translate(DEVICE, 0, false).is_ok());
        let config = StreamConfig::StageTwo(config);
        let result = rig.driver.attach(DeviceId(DEVICE.into()), config);
        assert_eq!(result, Err(IommuError::Unsupported), "{config:?}");
        assert_eq!(rig.vtd.translate(DEVICE, 0, false), Err(Denied::Fault(2)));
        rig.drain();
    }
    let nobody = DeviceId(0x1_0000);
    let result = rig.driver.attach(nobody, StreamConfig::Refuse);
    assert_eq!(result, Err(IommuError::NoSuchDevice(nobody)));
    // What there is no command for is said before anything is sent.
    let sent = rig.driver.counters().descriptors;
    let batch = [Invalidation::Tag(TAG), Invalidation::StageOne(TAG)];
    assert_eq!(rig.driver.invalidate(&batch), Err(IommuError::Unsupported));
    assert_eq!(rig.driver.counters().descriptors, sent);
}
