//! Drivers that are broken on purpose: the model has to notice each of them, or it proves nothing about ours.

mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Mmio, Platform};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::smmu::{Config, SmmuModel};
use iommu::physical::{Invalidated, PhysicalIommu, StageTwo, StreamConfig};
use iommu::smmuv3::Smmu;
use iommu::table::{Attributes, StageTwoTable};
use rig::{RAM, parts, span};

const PAGE: u64 = 4096;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Nothing,
    Barriers,
    Cleans,
    Discards,
    /// Commands with this opcode become hints.
    Command(u64),
}

struct Broken {
    memory: Memory,
    fault: Fault,
    /// Where the command queue is.
    queue: Arc<AtomicU64>,
}

struct BrokenBuffer {
    buffer: Buffer,
    fault: Fault,
    queue: Arc<AtomicU64>,
}

impl Platform for Broken {
    type Buffer = BrokenBuffer;
    fn allocate(&self, len: usize) -> Option<BrokenBuffer> {
        Some(BrokenBuffer {
            buffer: self.memory.allocate(len)?,
            fault: self.fault,
            queue: Arc::clone(&self.queue),
        })
    }
    fn write_barrier(&self) {
        if self.fault != Fault::Barriers {
            self.memory.write_barrier();
        }
    }
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        self.memory.now_ns() * 1_000
    }
}

impl DmaBuffer for BrokenBuffer {
    fn hpa(&self) -> Hpa {
        self.buffer.hpa()
    }
    fn len(&self) -> usize {
        self.buffer.len()
    }
    fn read64(&self, offset: usize) -> u64 {
        self.buffer.read64(offset)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        let of_queue = self.hpa().0 == self.queue.load(Ordering::Relaxed);
        let value = match self.fault {
            Fault::Command(opcode)
                if of_queue && offset.is_multiple_of(16) && value & 0xff == opcode =>
            {
                1
            }
            _ => value,
        };
        self.buffer.write64(offset, value);
    }
    fn clean(&self, offset: usize, len: usize) {
        if self.fault != Fault::Cleans {
            self.buffer.clean(offset, len);
        }
    }
    fn discard(&self, offset: usize, len: usize) {
        if self.fault != Fault::Discards {
            self.buffer.discard(offset, len);
        }
    }
}

/// A short life; false or a panic where something is not as it should be.
fn lives(fault: Fault, memory: &Memory, smmu: &SmmuModel, coherent: bool) -> bool {
    let platform = Arc::new(Broken {
        memory: memory.clone(),
        fault,
        queue: Arc::new(AtomicU64::new(0)),
    });
    let index = IommuIndex(0);
    let Ok(mut driver) = Smmu::start(index, smmu.clone(), Arc::clone(&platform)) else {
        return false;
    };
    let base = smmu.read64(0x90) & 0x000f_ffff_ffff_ffe0;
    platform.queue.store(base, Ordering::Relaxed);
    let Ok(mut table) = StageTwoTable::new(Arc::clone(&platform), 39, coherent) else {
        return false;
    };
    table
        .map(span(0x1000, 4 * PAGE), Hpa(RAM), Attributes::DMA)
        .expect("room");
    let config = StreamConfig::StageTwo(StageTwo {
        tag: CacheTag(3),
        root: table.root(),
        input_bits: 39,
        ats: false,
    });
    let mut good = smmu.dma_read(8, 0x1000, 1).is_err();
    good &= driver.attach(DeviceId(8), config).is_ok();
    good &= smmu.dma_write(8, 0x1000, &[1]).is_ok();
    let cut = table.unmap(span(0x1000, PAGE));
    good &= driver.invalidate(&[cut.invalidation(CacheTag(3))]).is_ok();
    table.release(cut, Invalidated::complete());
    for page in 0..3 {
        good &= smmu.dma_read(8, 0x1000 + (page << 30), 1).is_err();
    }
    good &= smmu.dma_read(8, 0x2000, 1).is_ok();
    for _ in 0..2 {
        let blank = iommu::smmuv3::event::decode(index, [0; 4]);
        let mut faults = [blank; 8];
        let count = driver.drain_faults(&mut faults).count;
        good &= count > 0 && faults[count - 1].reason != blank.reason;
        for page in 0..1030 {
            let _ = smmu.dma_read(8, 0x10_0000 + page, 1);
        }
    }
    good &= driver.attach(DeviceId(8), StreamConfig::Abort).is_ok();
    good && smmu.dma_read(8, 0x2000, 1).is_err()
}

#[test]
fn each_thing_left_out_is_noticed() {
    for coherent in [true, false] {
        let faults = [
            Fault::Nothing,
            Fault::Barriers,
            Fault::Cleans,
            Fault::Discards,
            Fault::Command(0x03),
            Fault::Command(0x2a),
            Fault::Command(0x46),
        ];
        for fault in faults {
            let harmless = coherent && matches!(fault, Fault::Cleans | Fault::Discards);
            let good = fault == Fault::Nothing || harmless;
            let lived = catch_unwind(AssertUnwindSafe(|| {
                let (memory, smmu) = parts(Config {
                    coherent,
                    ..Config::default()
                });
                lives(fault, &memory, &smmu, coherent)
            }));
            assert_eq!(
                lived.unwrap_or(false),
                good,
                "{fault:?}, coherent: {coherent}"
            );
        }
    }
}
