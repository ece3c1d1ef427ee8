//! The scenarios that QEMU's SMMU goes through too, on the crate's model.

#[macro_use]
mod bench;

use std::sync::Arc;

use bench::{Bench, WORD};
use iommu::hal::Platform;
use iommu::model::memory::Memory;
use iommu::model::smmu::{Config, SmmuModel};

struct Model {
    memory: Memory,
    smmu: SmmuModel,
}

impl Bench for Model {
    type Platform = Memory;
    type Registers = SmmuModel;

    const RAM: u64 = 0x2000_0000;
    const WRITER: u32 = 0x100;
    const READER: u32 = 0x50;

    fn new() -> Self {
        let memory = Memory::coherent();
        memory.add_ram(Self::RAM, 0x100_0000);
        let smmu = SmmuModel::new(Config::default(), &memory);
        Self { memory, smmu }
    }

    fn platform(&self) -> Arc<Memory> {
        Arc::new(self.memory.clone())
    }

    fn registers(&self) -> SmmuModel {
        self.smmu.clone()
    }

    fn load(&self, at: u64) -> u64 {
        self.memory.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        self.memory.store(at, value);
        self.memory.write_barrier();
    }

    fn write(&self, iova: u64) -> bool {
        let written = self.smmu.dma_write(Self::WRITER, iova, &WORD.to_le_bytes());
        written.is_ok()
    }

    fn read(&self, iova: u64) -> u32 {
        let read = self.smmu.dma_read(Self::READER, iova, 4);
        let bytes = read.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }
}

scenarios!(Model, []);
