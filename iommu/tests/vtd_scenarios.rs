//! The scenarios that QEMU's intel-iommu goes through too, on the crate's model: in legacy mode and in scalable mode.

#[macro_use]
mod vtd_bench;

use std::sync::Arc;

use iommu::hal::Platform;
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, VtdModel};
use vtd_bench::{Bench, WORD};

struct Model<const SCALABLE: bool> {
    memory: Memory,
    vtd: VtdModel,
}

impl<const SCALABLE: bool> Bench for Model<SCALABLE> {
    type Platform = Memory;
    type Registers = VtdModel;

    const RAM: u64 = 0x2000_0000;
    const WRITER: u32 = 0x100;
    const READER: u32 = 0x50;
    const SCALABLE: bool = SCALABLE;

    fn new() -> Self {
        let memory = Memory::coherent();
        memory.add_ram(Self::RAM, 0x100_0000);
        let config = Config {
            output_bits: 39,
            late_writes: false,
            scalable: SCALABLE,
            first_stage: SCALABLE,
            nesting: SCALABLE,
            ..Config::default()
        };
        let vtd = VtdModel::new(config, &memory);
        Self { memory, vtd }
    }

    fn platform(&self) -> Arc<Memory> {
        Arc::new(self.memory.clone())
    }

    fn registers(&self) -> VtdModel {
        self.vtd.clone()
    }

    fn load(&self, at: u64) -> u64 {
        self.memory.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        self.memory.store(at, value);
        self.memory.write_barrier();
    }

    fn write(&self, iova: u64) {
        let source = Self::WRITER as u16;
        let _ = self.vtd.dma_write(source, iova, &WORD.to_le_bytes());
    }

    fn read(&self, iova: u64) -> u32 {
        let read = self.vtd.dma_read(Self::READER as u16, iova, 4);
        let bytes = read.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }
}

mod legacy {
    use super::{Model, vtd_bench};
    scenarios!(Model<false>, []);
}

mod scalable {
    use super::{Model, vtd_bench};
    scenarios!(Model<true>, []);
}
