//! A guest's stage 1 on our stage 2, by the driver on the model of an SMMUv3: entries change under running DMA, and what
//! is invalidated is gone.

mod rig;

use std::sync::Arc;

use iommu::addr::{Hpa, Iova};
use iommu::id::{CacheTag, DeviceId};
use iommu::model::smmu::{Config, Pace};
use iommu::physical::{
    Granule, Incomplete, Invalidated, Invalidation, IommuError, PhysicalIommu, StageOneConfig,
    StageTwo, StreamConfig,
};
use iommu::smmuv3::{ContextDescriptor, StageOneTable};
use rig::{RAM, Rig, Table, map, span, stage_two, translation};

const PAGE: u64 = 4096;
const STREAM: u32 = 0x108;
const TAG: CacheTag = CacheTag(7);
const ASID: u16 = 5;
/// Where the guest has its RAM; 256 pages of it.
const GUEST: u64 = 0x4000_0000;
/// What it put there, in pages: two context tables, three levels of a page table.
const CONTEXTS: [u64; 2] = [GUEST, GUEST + PAGE];
const TABLES: u64 = 2;
/// The page that address 0x1000 of the device leads to.
const TARGET: u64 = 16;

/// A page of stage 1: not global, AF, inner shareable, read and write for all, attribute 0.
const LEAF: u64 = 0xf43;

struct Guest {
    rig: Rig,
    table: Table,
}

impl Guest {
    fn new(config: Config) -> Self {
        let rig = Rig::new(config);
        let mut table = rig.table(39);
        map(&mut table, GUEST, RAM, 256 * PAGE);
        let guest = Self { rig, table };
        for (level, next) in [(0, 1), (1, 2)] {
            guest.store(
                (TABLES + level) * PAGE,
                (GUEST + (TABLES + next) * PAGE) | 3,
            );
        }
        guest.point(1, TARGET);
        let descriptor = ContextDescriptor::new(
            &StageOneTable {
                asid: ASID,
                root: Hpa(GUEST + TABLES * PAGE),
                input_bits: 39,
                granule: Granule::Size4K,
                attributes: 0xff,
            },
            &guest.rig.driver.features(),
        )
        .expect("fits");
        for contexts in CONTEXTS {
            for (word, value) in descriptor.0.iter().enumerate() {
                guest.store(contexts - GUEST + word as u64 * 8, *value);
            }
        }
        guest
    }

    /// The guest stores a word of its own.
    fn store(&self, offset: u64, value: u64) {
        self.rig.memory.store(RAM + offset, value);
        iommu::hal::Platform::write_barrier(&self.rig.memory);
    }

    /// Page `number` of the device's addresses leads to page `target` of the guest's RAM.
    fn point(&self, number: u64, target: u64) {
        let entry = (TABLES + 2) * PAGE + number * 8;
        self.store(entry, (GUEST + target * PAGE) | LEAF);
    }

    fn nested(&self, contexts: u64, tag: CacheTag) -> StreamConfig {
        StreamConfig::Nested {
            stage_two: StageTwo {
                tag,
                root: self.table.root(),
                input_bits: self.table.input_bits(),
                ats: false,
            },
            stage_one: StageOneConfig {
                contexts,
                inner: 1,
                outer: 1,
                shareability: 3,
                ..StageOneConfig::default()
            },
        }
    }

    fn attach(&mut self, config: StreamConfig) {
        self.rig
            .driver
            .attach(DeviceId(STREAM), config)
            .expect("fits");
    }

    fn invalidate(&mut self, entry: Invalidation) {
        self.rig.driver.invalidate(&[entry]).expect("complete");
    }

    fn reaches(&self, iova: u64) -> Option<u64> {
        let at = self.rig.smmu.translate(STREAM, iova, true).ok()?;
        Some((at - RAM) / PAGE)
    }
}

#[test]
fn a_device_sees_the_guests_addresses_and_the_guest_sees_no_others() {
    let mut guest = Guest::new(Config::default());
    guest.attach(guest.nested(CONTEXTS[0], TAG));
    guest
        .rig
        .smmu
        .dma_write(STREAM, 0x1008, &[7])
        .expect("passes");
    let at = RAM + TARGET * PAGE + 8;
    assert_eq!(guest.rig.memory.device_read(at, true), Ok(7));
    // Not mapped by the guest; mapped by it to what is not its own.
    let refused = guest.rig.smmu.dma_write(STREAM, 0x2000, &[7]);
    assert_eq!(refused, Err(translation(false)));
    guest.store((TABLES + 2) * PAGE + 2 * 8, 0x5000_0000 | LEAF);
    guest.invalidate(Invalidation::StageOne(TAG));
    let refused = guest.rig.smmu.dma_write(STREAM, 0x2000, &[7]);
    assert_eq!(refused, Err(translation(true)));
}

/// The model looks at every image that a slow fetch could put together, and a DMA tries at every command.
#[test]
fn a_stream_changes_its_tables_under_running_dma() {
    let config = Config {
        torn_fetches: true,
        ..Config::default()
    };
    let mut guest = Guest::new(config);
    // An identity: stage 1 maps the page where stage 2 has it, so that both entries let the same DMA pass.
    let at = GUEST + TARGET * PAGE;
    let third = (TABLES + 2) * PAGE;
    guest.store(TABLES * PAGE + 8, (GUEST + (TABLES + 1) * PAGE) | 3);
    guest.store(third + TARGET * 8, at | LEAF);
    let two = stage_two(&guest.table, TAG.0);
    guest.attach(two);
    for config in [
        guest.nested(CONTEXTS[0], TAG),
        guest.nested(CONTEXTS[1], TAG),
        two,
        guest.nested(CONTEXTS[1], TAG),
    ] {
        assert_eq!(guest.reaches(at), Some(TARGET));
        guest.attach(config);
        assert_eq!(guest.reaches(at), Some(TARGET));
    }
    guest.attach(guest.nested(CONTEXTS[0], CacheTag(8)));
    guest.attach(StreamConfig::Abort);
    assert_eq!(guest.reaches(at), None);
    assert!(guest.rig.smmu.violations().is_empty());
    assert!(guest.rig.smmu.refused().is_empty());
}

#[test]
fn each_invalidation_of_the_guests_takes_its_entry() {
    let ways: [(&str, Invalidation); 6] = [
        ("all", Invalidation::StageOne(TAG)),
        (
            "asid",
            Invalidation::AddressSpace {
                tag: TAG,
                asid: ASID,
            },
        ),
        (
            "address",
            Invalidation::StageOneAddress {
                tag: TAG,
                asid: Some(ASID),
                address: Iova(0x1000),
                leaf: true,
            },
        ),
        (
            "every space",
            Invalidation::StageOneAddress {
                tag: TAG,
                asid: None,
                address: Iova(0x1000),
                leaf: true,
            },
        ),
        (
            "range",
            Invalidation::StageOneRange {
                tag: TAG,
                asid: Some(ASID),
                range: span(0, 33 * PAGE),
                granule: Granule::Size4K,
                level: 3,
                leaf: true,
            },
        ),
        ("tag", Invalidation::Tag(TAG)),
    ];
    for ranges in [true, false] {
        for (name, way) in ways {
            let mut guest = Guest::new(Config {
                range_invalidation: ranges,
                ..Config::default()
            });
            guest.attach(guest.nested(CONTEXTS[0], TAG));
            assert_eq!(guest.reaches(0x1000), Some(TARGET));
            guest.point(1, TARGET + 1);
            assert_eq!(guest.reaches(0x1000), Some(TARGET), "{name}: still cached");
            guest.invalidate(way);
            assert_eq!(guest.reaches(0x1000), Some(TARGET + 1), "{name}");
        }
    }
}

#[test]
fn what_stage_2_unmaps_is_gone_from_what_was_combined() {
    for iidr in [0, 0x4832_043b] {
        let mut guest = Guest::new(Config {
            iidr,
            ..Config::default()
        });
        guest.attach(guest.nested(CONTEXTS[0], TAG));
        assert_eq!(guest.reaches(0x1000), Some(TARGET));
        let at = GUEST + TARGET * PAGE;
        let cut = guest.table.unmap(span(at, PAGE));
        let stale = cut.invalidation(TAG);
        guest.rig.driver.invalidate(&[stale]).expect("complete");
        guest.table.release(cut, Invalidated::complete());
        let refused = guest.rig.smmu.translate(STREAM, 0x1000, true);
        assert_eq!(refused, Err(translation(true)));
    }
}

#[test]
fn a_change_of_the_guests_context_is_seen_after_its_invalidation() {
    let mut guest = Guest::new(Config::default());
    guest.attach(guest.nested(CONTEXTS[0], TAG));
    assert_eq!(guest.reaches(0x1000), Some(TARGET));
    // Another ASID and another table, empty.
    guest.store(0, 0);
    for entry in [
        Invalidation::Context {
            device: DeviceId(STREAM),
            pasid: 0,
            leaf: true,
        },
        Invalidation::StageOne(TAG),
    ] {
        guest.invalidate(entry);
    }
    assert_eq!(guest.reaches(0x1000), None);
}

#[test]
fn a_refusal_and_a_slow_queue_are_survived() {
    let mut guest = Guest::new(Config {
        pace: Pace::Reads(3),
        ..Config::default()
    });
    guest.attach(guest.nested(CONTEXTS[0], TAG));
    let good = Invalidation::StageOne(TAG);
    let bad = Invalidation::AddressSpace {
        tag: TAG,
        asid: ASID,
    };
    for code in [1, 2] {
        guest.rig.smmu.refuse(0x11, code);
        let result = guest.rig.driver.submit(&[good, bad, good]);
        let expected = Incomplete {
            complete: 1,
            error: IommuError::Command(1),
        };
        // CERROR_ABT is a read that failed: it is read again.
        assert_eq!(result, if code == 1 { Err(expected) } else { Ok(()) });
    }
    guest.rig.smmu.abort_fetches(1);
    assert_eq!(guest.rig.driver.submit(&[good, bad]), Ok(()));
    let several = guest.rig.driver.invalidator().expect("there is one");
    let other = Arc::clone(&several);
    let thread = std::thread::spawn(move || {
        (0..50).for_each(|_| other.submit(&[good]).expect("complete"));
    });
    (0..50).for_each(|_| several.submit(&[bad, good]).expect("complete"));
    thread.join().expect("no panic");
    assert_eq!(guest.reaches(0x1000), Some(TARGET));
}
