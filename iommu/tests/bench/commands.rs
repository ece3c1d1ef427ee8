//! The queues: a command that is refused, a batch that is longer than its queue, and more events than theirs holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu::hal::Mmio;
use iommu::id::{CacheTag, IommuIndex};
use iommu::physical::{Incomplete, Invalidation, IommuError, PhysicalIommu};
use iommu::smmuv3::Smmu;

use super::{Bench, Set};

/// CMDQ_PROD.
const PRODUCED: usize = 0x98;
/// No command has it.
const NO_COMMAND: u64 = 0xff;

/// Registers that spoil a command before it is announced.
struct Spoiler<B: Bench> {
    registers: B::Registers,
    bench: Arc<B>,
    /// Where the command is; 0 for none.
    place: Arc<AtomicU64>,
}

impl<B: Bench + Send + Sync> Mmio for Spoiler<B> {
    fn read32(&self, offset: usize) -> u32 {
        self.registers.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        let place = if offset == PRODUCED {
            self.place.swap(0, Ordering::Relaxed)
        } else {
            0
        };
        if place != 0 {
            self.bench.store(place, NO_COMMAND);
        }
        self.registers.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        self.registers.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.registers.write64(offset, value);
    }
}

pub fn a_refused_command_is_told_and_got_over<B: Bench + Send + Sync + 'static>() {
    let bench = Arc::new(B::new());
    let place = Arc::new(AtomicU64::new(0));
    let spoiler = Spoiler {
        registers: bench.registers(),
        bench: Arc::clone(&bench),
        place: Arc::clone(&place),
    };
    let mut driver = Smmu::start(IommuIndex(0), spoiler, bench.platform()).expect("it starts");
    let tag = |tag| Invalidation::Tag(CacheTag(tag));
    let queue = driver.layout().command_queue;
    for bad in [0, 2, 1] {
        let produced = u64::from(bench.registers().read32(PRODUCED));
        let slot = (produced + bad) % (queue.len / 16);
        place.store(queue.base.0 + slot * 16, Ordering::Relaxed);
        let told = driver.submit(&[tag(1), tag(2), tag(3)]);
        let expected = Incomplete {
            complete: bad as usize,
            error: IommuError::Command(1),
        };
        assert_eq!(told, Err(expected));
        assert_eq!(driver.submit(&[tag(1), tag(2), tag(3)]), Ok(()));
    }
    assert_eq!(driver.counters().refusals, 3);
}

pub fn a_batch_longer_than_the_queue_is_complete<B: Bench>() {
    let mut set = Set::<B>::new();
    let entries = set.driver.layout().command_queue.len / 16;
    let batch: Vec<_> = (0..entries * 2 + 3)
        .map(|tag| Invalidation::Tag(CacheTag(tag as u16)))
        .collect();
    let before = set.driver.counters().commands;
    assert_eq!(set.driver.submit(&batch), Ok(()));
    assert_eq!(set.driver.counters().commands - before, batch.len() as u64);
}

pub fn a_storm_of_faults_is_bounded_and_its_losses_are_told<B: Bench>() {
    let mut set = Set::<B>::new();
    let room = set.driver.layout().event_queue.len / 32;
    for _ in 0..room + 5 {
        assert!(!set.bench.write(0));
    }
    let (faults, lost) = set.drain();
    assert_eq!(faults.len() as u64, room);
    assert!(lost, "nobody said that records were lost");
    // And then it goes on.
    assert!(!set.bench.write(0));
    let (faults, lost) = set.drain();
    assert_eq!((faults.len(), lost), (1, false));
}
