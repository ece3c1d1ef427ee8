//! The SMMUv3 driver on the model of an SMMUv3: what devices can and cannot reach.

mod rig;

use std::sync::Arc;

use iommu::addr::Hpa;
use iommu::fault::FaultReason;
use iommu::hal::{Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::{BusError, Memory};
use iommu::model::smmu::{Config, Denied, SmmuModel};
use iommu::physical::{
    Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};
use iommu::smmuv3::Smmu;
use iommu::table::Attributes;
use rig::{RAM, READ_ONLY, Rig, map, panic_of, parts, span, stage_two, start, translation};

const PAGE: u64 = 4096;

/// Tries a DMA after each register access, as a device that firmware left armed would.
struct Armed {
    smmu: SmmuModel,
    memory: Memory,
}

impl Armed {
    fn attack(&self) {
        // What the SMMU lets through while GBPA is as it came is not the driver's; after that nothing may pass.
        let denying = self.smmu.global_bypass_attribute() >> 20 & 1 != 0;
        let wrote = self.smmu.dma_write(0x8, RAM, &[0xff]);
        assert!(!denying || wrote.is_err(), "a write passed");
        if !denying {
            self.memory.device_write(RAM, 0, true).unwrap();
        }
    }
}

impl Mmio for Armed {
    fn read32(&self, offset: usize) -> u32 {
        let value = self.smmu.read32(offset);
        self.attack();
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        self.smmu.write32(offset, value);
        self.attack();
    }
    fn read64(&self, offset: usize) -> u64 {
        self.smmu.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.smmu.write64(offset, value);
        self.attack();
    }
}

#[test]
fn no_dma_passes_from_the_deny_to_the_end_even_if_caches_come_up_with_a_bypass() {
    let (memory, smmu) = parts(Config::default());
    smmu.plant_bypass(0x8);
    let armed = Armed {
        smmu: smmu.clone(),
        memory: memory.clone(),
    };
    let driver = Smmu::start(IommuIndex(0), armed, Arc::new(memory.clone())).expect("starts");
    assert_eq!(memory.device_read(RAM, true), Ok(0));
    drop(driver);
    assert_eq!(smmu.dma_write(0x8, RAM, &[1]), Err(Denied::GlobalAbort));
}

#[test]
fn an_smmu_that_firmware_left_in_bypass_is_closed_without_a_gap() {
    let (memory, smmu) = parts(Config::default());
    // A linear table of 2^16 bypass entries, and translation on.
    let table = memory.allocate(64 << 16).expect("memory");
    let base = iommu::hal::DmaBuffer::hpa(&table).0;
    for stream in 0..16 {
        memory.store(base + stream * 64, 0x9);
    }
    memory.write_barrier();
    smmu.write64(0x80, base);
    smmu.write32(0x88, 16);
    smmu.write32(0x20, 1);
    while smmu.read32(0x24) != 1 {}
    assert_eq!(smmu.dma_write(0x8, RAM, &[7]), Ok(()));
    memory.device_write(RAM, 0, true).unwrap();
    let armed = Armed {
        smmu: smmu.clone(),
        memory: memory.clone(),
    };
    // The moment between GBPA and CR0 is firmware's: its own translation is still in force.
    iommu::smmuv3::deny_all(&smmu, || memory.now_ns()).unwrap();
    let driver = Smmu::start(IommuIndex(0), armed, Arc::new(memory.clone())).expect("starts");
    assert_eq!(smmu.dma_write(0x8, RAM, &[1]).unwrap_err(), bad_entry());
    assert_eq!(memory.device_read(RAM, true), Ok(0));
    drop(driver);
    drop(table);
}

/// C_BAD_STREAMID.
fn bad_entry() -> Denied {
    Denied::Fault {
        number: 2,
        stage_two: false,
    }
}

#[test]
fn a_device_reaches_what_is_mapped_and_nothing_else() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1_0000, RAM, 2 * PAGE);
    assert_eq!(rig.smmu.dma_write(8, 0x1_0000, &[1]), Err(bad_entry()));
    rig.attach(8, &table, 3);

    rig.smmu.dma_write(8, 0x1_0ffe, &[1, 2, 3, 4]).unwrap();
    assert_eq!(
        rig.smmu.dma_read(8, 0x1_0ffe, 4),
        Ok(vec![1, 2, 3, 4]),
        "over the border of two pages"
    );
    assert_eq!(rig.memory.device_read(RAM + 0x1000, true), Ok(0x0403));
    assert_eq!(rig.smmu.dma_read(8, 0x1_2000, 1), Err(translation(true)));
    assert_eq!(rig.smmu.dma_read(8, 0xf000, 1), Err(translation(true)));
    assert_eq!(
        rig.smmu.dma_read(8, 1 << 39, 1),
        Err(translation(true)),
        "past the table"
    );
    // The neighbour in the same level 2 table was never opened.
    assert!(rig.smmu.dma_read(9, 0x1_0000, 1).is_err());

    rig.abort(8);
    assert_eq!(rig.smmu.dma_read(8, 0x1_0000, 1), Err(Denied::StreamAbort));
    let (faults, lost) = rig.drain();
    assert!(!lost);
    assert_eq!(faults.len(), 5, "the closed stream is silent");
    assert_eq!(faults[1].device, DeviceId(8));
    assert_eq!(faults[1].ipa.map(|ipa| ipa.0), Some(0x1_2000));
    rig.driver
        .invalidate(&[Invalidation::Tag(CacheTag(3))])
        .unwrap();
    table.retire(Invalidated::complete());
}

#[test]
fn permissions_of_the_table_are_those_of_the_device() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    table
        .map(span(0x1000, PAGE), Hpa(RAM), READ_ONLY)
        .expect("mapped");
    rig.attach(8, &table, 3);
    assert_eq!(rig.smmu.dma_read(8, 0x1000, 1), Ok(vec![0]));
    let denied = Denied::Fault {
        number: 0x13,
        stage_two: true,
    };
    assert_eq!(rig.smmu.dma_write(8, 0x1000, &[1]), Err(denied));
    let change = table.protect(span(0x1000, PAGE), Attributes::DMA).unwrap();
    assert_eq!(
        rig.smmu.dma_write(8, 0x1000, &[1]),
        Err(denied),
        "the TLB has the old permission"
    );
    rig.forget(&mut table, change, 3);
    assert_eq!(rig.smmu.dma_write(8, 0x1000, &[1]), Ok(()));
}

#[test]
fn a_stale_entry_is_used_until_the_invalidation_and_never_after_it() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    for round in 0..10_000u64 {
        let at = (round % 5) * 0x20_0000 + (round % 3) * PAGE;
        let len = [PAGE, 3 * PAGE, 0x20_0000, 0x40_0000][(round % 4) as usize];
        let at = if len > 0x1_0000 { at & !0x1f_ffff } else { at };
        if round == 0 {
            rig.attach(8, &table, 3);
        }
        map(&mut table, at, RAM, len);
        rig.smmu.dma_write(8, at + len - 1, &[1]).unwrap();
        rig.smmu.dma_write(8, at, &[1]).unwrap();
        let cut = table.unmap(span(at, len));
        rig.platform.write_barrier();
        assert_eq!(
            rig.smmu.dma_write(8, at, &[2]),
            Ok(()),
            "the model forgets nothing by itself"
        );
        rig.forget(&mut table, cut, 3);
        for back in [at, at + len - 1, at + len / 2] {
            assert_eq!(rig.smmu.dma_write(8, back, &[3]), Err(translation(true)));
        }
    }
}

#[test]
fn a_page_given_away_before_its_invalidation_is_found_out() {
    let mut rig = Rig::new(Config::default());
    let page = 0x7000_0000;
    rig.memory.add_ram(page, PAGE);
    let mut table = rig.table(39);
    map(&mut table, 0x1000, page, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.dma_write(8, 0x1000, &[1]).unwrap();
    let cut = table.unmap(span(0x1000, PAGE));
    rig.memory.take(page);
    let words = panic_of(|| {
        let _ = rig.smmu.dma_write(8, 0x1000, &[2]);
    });
    assert!(words.contains("freed memory"), "{words}");
    // And with it, it is not.
    rig.forget(&mut table, cut, 3);
    assert_eq!(rig.smmu.dma_write(8, 0x1000, &[2]), Err(translation(true)));
}

#[test]
fn writes_on_their_way_arrive_before_the_invalidation_is_complete() {
    let mut rig = Rig::new(Config::default());
    let page = 0x7000_0000;
    rig.memory.add_ram(page, PAGE);
    let mut table = rig.table(39);
    map(&mut table, 0x1000, page, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.posted_write(8, 0x1000, &[5]).unwrap();
    assert_eq!(rig.memory.device_read(page, true), Ok(0));
    rig.unmap(&mut table, 0x1000, PAGE, 3);
    assert_eq!(rig.memory.device_read(page, true), Ok(5));
    rig.memory.take(page);
}

#[test]
fn a_table_cut_off_with_leaf_invalidation_only_is_found_out() {
    let mut rig = Rig::new(Config::default());
    let page = 0x7000_0000;
    rig.memory.add_ram(page, PAGE);
    let mut table = rig.table(39);
    map(&mut table, 0x1000, page, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.dma_write(8, 0x1000, &[1]).unwrap();
    let all = span(0, 0x20_0000);
    let cut = table.unmap(all);
    assert!(!cut.leaf_only(), "a table goes");
    let wrong = Invalidation::StageTwoRange {
        tag: CacheTag(3),
        range: all,
        leaf: true,
    };
    rig.driver.invalidate(&[wrong]).unwrap();
    table.release(cut, Invalidated::complete());
    rig.memory.take(page);
    let words = panic_of(|| {
        let _ = rig.smmu.dma_write(8, 0x1000, &[2]);
    });
    assert!(words.contains("freed memory"), "{words}");
}

#[test]
fn nothing_is_leaked_and_nothing_freed_is_reached_over_a_life() {
    let (memory, smmu) = parts(Config::default());
    let before = memory.live();
    let platform = Arc::new(memory.clone());
    let mut driver = start(&memory, &smmu).unwrap();
    let table = iommu::table::StageTwoTable::new(Arc::clone(&platform), 39, true).unwrap();
    driver
        .attach(DeviceId(8), rig::stage_two(&table, 3))
        .unwrap();
    driver
        .attach(DeviceId(8), iommu::physical::StreamConfig::Abort)
        .unwrap();
    driver
        .invalidate(&[Invalidation::Tag(CacheTag(3))])
        .unwrap();
    table.retire(Invalidated::complete());
    drop(driver);
    assert_eq!(memory.live(), before);
    assert_eq!(smmu.dma_read(8, 0, 1), Err(Denied::GlobalAbort));
    assert_eq!(memory.device_read(0x10, true), Err(BusError::Absent(0x10)));
}

#[test]
fn a_closed_stream_has_nothing_on_its_way_any_more() {
    let mut rig = Rig::new(Config::default());
    let page = 0x7000_0000;
    rig.memory.add_ram(page, PAGE);
    let mut table = rig.table(39);
    map(&mut table, 0x1000, page, PAGE);
    rig.attach(8, &table, 3);
    rig.smmu.posted_write(8, 0x1000, &[5]).unwrap();
    rig.abort(8);
    assert_eq!(rig.memory.device_read(page, true), Ok(5));
    assert_eq!(
        rig.smmu.posted_write(8, 0x1000, &[5]),
        Err(Denied::StreamAbort)
    );
}

#[test]
fn one_table_behind_two_smmus_is_forgotten_by_each_on_its_own() {
    let (memory, one) = parts(Config::default());
    let two = SmmuModel::new(Config::default(), &memory);
    let mut first = start(&memory, &one).unwrap();
    let mut second = start(&memory, &two).unwrap();
    let platform = Arc::new(memory.clone());
    let mut table = iommu::table::StageTwoTable::new(platform, 39, true).unwrap();
    map(&mut table, 0x1000, RAM, PAGE);
    let config = rig::stage_two(&table, 3);
    first.attach(DeviceId(8), config).unwrap();
    second.attach(DeviceId(8), config).unwrap();
    assert!(one.dma_read(8, 0x1000, 1).is_ok() && two.dma_read(8, 0x1000, 1).is_ok());
    let cut = table.unmap(span(0x1000, PAGE));
    let stale = [cut.invalidation(CacheTag(3))];
    first.invalidate(&stale).unwrap();
    assert!(one.dma_read(8, 0x1000, 1).is_err());
    assert!(two.dma_read(8, 0x1000, 1).is_ok(), "not the other's");
    second.invalidate(&stale).unwrap();
    assert!(two.dma_read(8, 0x1000, 1).is_err());
    table.release(cut, Invalidated::complete());
}

#[test]
fn a_stream_of_nobody_is_recorded_and_a_silenced_one_is_not() {
    let mut rig = Rig::new(Config::default());
    let mut table = rig.table(39);
    map(&mut table, 0x1000, RAM, PAGE);
    let bad_entry = Err(Denied::Fault {
        number: 0x4,
        stage_two: false,
    });
    rig.attach(8, &table, 3);
    for (config, denied, records) in [
        (StreamConfig::Refuse, bad_entry, 1),
        (StreamConfig::Abort, Err(Denied::StreamAbort), 0),
        (StreamConfig::Refuse, bad_entry, 1),
        (stage_two(&table, 3), Ok(()), 0),
        (StreamConfig::Abort, Err(Denied::StreamAbort), 0),
        (stage_two(&table, 3), Ok(()), 0),
        (StreamConfig::Refuse, bad_entry, 1),
    ] {
        rig.driver.attach(DeviceId(8), config).unwrap();
        assert_eq!(rig.smmu.dma_write(8, 0x1000, &[1]), denied, "{config:?}");
        let (faults, lost) = rig.drain();
        assert_eq!((faults.len(), lost), (records, false), "{config:?}");
        for fault in faults {
            assert_eq!(fault.device, DeviceId(8));
            assert_eq!(fault.reason, FaultReason::BadDeviceEntry);
        }
    }
    // One that could not be let through is nobody's.
    let wide = StageTwo {
        tag: CacheTag(3),
        root: table.root(),
        input_bits: 52,
        ats: false,
    };
    rig.attach(8, &table, 3);
    let refused = rig.driver.attach(DeviceId(8), StreamConfig::StageTwo(wide));
    assert_eq!(refused, Err(IommuError::Unsupported));
    assert_eq!(rig.smmu.dma_write(8, 0x1000, &[1]), bad_entry);
}
