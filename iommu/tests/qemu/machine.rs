//! The `virt` machine: where it has what, and what is its SMMU's alone.

use iommu::hal::Mmio;

use crate::devices::Places;
use crate::driven::{Board, Machine};

/// `virt`'s memory map: registers of the SMMU, and RAM.
const SMMU: u64 = 0x0905_0000;
pub const RAM: u64 = 0x4000_0000;
pub const RAM_BYTES: u64 = 1 << 30;

/// The same: configuration space, and the window for BARs.
const VIRT: Board = Board {
    registers: SMMU,
    pool: (RAM + 0x1000_0000, RAM + 0x2000_0000),
    places: Places {
        ecam: 0x40_1000_0000,
        window: 0x1000_0000,
    },
};

/// SMMU registers that go back and forth around a copy that is not translated: CR0, GBPA (IHI 0070 H.a, §6.3.9, §6.3.14).
const CR0: usize = 0x20;
const GBPA: usize = 0x44;
const GBPA_UPDATE: u32 = 1 << 31;
const GBPA_ABORT: u32 = 1 << 20;

/// Starts one. Its only CPU is off.
pub fn start() -> Machine {
    let args = [
        "-machine",
        "virt,virtualization=on,gic-version=3,iommu=smmuv3",
        "-cpu",
        "max,start-powered-off=on",
    ];
    Machine::with(VIRT, &args, |_| ())
}

/// What the first `count` slots of the device of `stream` have. The SMMU is off for that.
pub fn slots(machine: &Machine, stream: u32, count: usize) -> Vec<u32> {
    let (cr0, gbpa) = (machine.read32(CR0), machine.read32(GBPA));
    machine.write32(GBPA, gbpa & !GBPA_ABORT | GBPA_UPDATE);
    machine.write32(CR0, cr0 & !1);
    let all = machine.show(stream, count);
    machine.write32(GBPA, gbpa | GBPA_UPDATE);
    machine.write32(CR0, cr0);
    all
}

/// The line that reads a 32-bit register of the SMMU.
pub fn register(offset: usize) -> String {
    format!("readl {:#x}", SMMU + offset as u64)
}
