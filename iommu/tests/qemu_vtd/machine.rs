//! The `q35` machine: where it has what, and what is its VT-d unit's alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use iommu::hal::Mmio;

use crate::devices::Places;
use crate::driven::{Board, Machine};

/// `q35`'s memory map: registers of the unit. RAM is at 0.
const VTD: u64 = 0xfed9_0000;

/// Configuration space, which MCH's PCIEXBAR turns on, and a window for BARs.
const PLACES: Places = Places {
    ecam: 0xb000_0000,
    window: 0xd000_0000,
};

const Q35: Board = Board {
    registers: VTD,
    pool: (0x1000_0000, 0x2000_0000),
    places: PLACES,
};

/// GCMD, GSTS, and the bits of GSTS that GCMD repeats (VT-d, 11.4).
const GCMD: usize = 0x18;
const GSTS: usize = 0x1c;
const STATE: u32 = 0x9680_0000;
const TE: u32 = 1 << 31;

/// A file of firmware that halts: 64 KiB, of which the CPU starts 16 bytes before the end (CLI, HLT, and back).
fn halt() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = env::temp_dir().join(format!("sluice-halt-{}-{number}", process::id()));
    let mut bytes = vec![0; 0x1_0000];
    bytes[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    fs::write(&path, bytes).expect("a file");
    path
}

/// Starts one, whose unit has these options. Its only CPU halts at once.
pub fn start(options: &str) -> Machine {
    let halt = halt();
    let (firmware, unit) = (halt.display().to_string(), format!("intel-iommu{options}"));
    let args = [
        "-machine", "q35", "-cpu", "max", "-bios", &firmware, "-device", &unit,
    ];
    let machine = Machine::with(Q35, &args, |qtest| {
        // PCIEXBAR: enabled, 256 MiB.
        for (register, value) in [(0x64, 0), (0x60, PLACES.ecam | 1)] {
            qtest.tell(&format!("outl 0xcf8 {:#x}", 1u32 << 31 | register));
            qtest.tell(&format!("outl 0xcfc {value:#x}"));
        }
    });
    // It has answered, and so has read it.
    fs::remove_file(halt).expect("it is there");
    machine
}

/// What the first `count` slots of the device of `source` have. Translation is off for that.
pub fn slots(machine: &Machine, source: u32, count: usize) -> Vec<u32> {
    let state = machine.read32(GSTS) & STATE;
    machine.write32(GCMD, state & !TE);
    let all = machine.show(source, count);
    machine.write32(GCMD, state);
    all
}

/// Where `edu` has its MSI capability, and the register that raises its interrupt.
const EDU_MSI: u64 = 0x40;
const EDU_RAISE: u64 = 0x60;

/// The `edu` of `source` raises its interrupt, as this message. Only a device's own messages carry its identity here.
pub fn message(machine: &Machine, source: u32, address: u32, data: u32) {
    machine.talk(|qtest| {
        let config = PLACES.ecam + (u64::from(source) << 12);
        let msi = config + EDU_MSI;
        let found = qtest.number(&format!("readb {msi:#x}"));
        assert_eq!(found, 5, "no MSI capability");
        for (offset, value) in [(4, address), (8, 0), (12, data)] {
            qtest.tell(&format!("writel {:#x} {value:#x}", msi + offset));
        }
        qtest.tell(&format!("writew {:#x} 0x81", msi + 2));
        let bar = qtest.number(&format!("readl {:#x}", config + 0x10)) & !0xf;
        qtest.tell(&format!("writel {:#x} 1", bar + EDU_RAISE));
        qtest.settle();
    });
}

/// The line that reads a 32-bit register of the unit.
pub fn register(offset: usize) -> String {
    format!("readl {:#x}", VTD + offset as u64)
}

/// The line that reads a 64-bit register of the unit.
pub fn wide_register(offset: usize) -> String {
    format!("readq {:#x}", VTD + offset as u64)
}
