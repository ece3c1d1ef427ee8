//! A `q35` machine of QEMU's without a running CPU: its memory, its VT-d unit and DMA devices, as the seams of the crate.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{env, fs, process};

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Mmio, Platform};

use crate::devices::{self, Places, Reader, Writer, Written};
use crate::qtest::Qtest;

/// `q35`'s memory map: registers of the unit. RAM is at 0.
const VTD: u64 = 0xfed9_0000;

/// Where memory is handed out from. What is below and above is the tests' own.
const POOL: u64 = 0x1000_0000;
const POOL_END: u64 = 0x2000_0000;

/// Configuration space, which MCH's PCIEXBAR turns on, and a window for BARs.
const PLACES: Places = Places {
    ecam: 0xb000_0000,
    window: 0xd000_0000,
};

/// GCMD, GSTS, and the bits of GSTS that GCMD repeats (VT-d, 11.4).
const GCMD: u64 = VTD + 0x18;
const GSTS: u64 = VTD + 0x1c;
const STATE: u64 = 0x9680_0000;
const TE: u64 = 1 << 31;

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

/// One machine. Clones are the same one; it is its unit's register file.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<State>>, Instant);

struct State {
    qtest: Qtest,
    next: u64,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
}

impl Machine {
    /// Starts one, whose unit has these options.
    pub fn start(options: &str) -> Self {
        // The only CPU halts at once: with time counted in instructions, time jumps to the next timer then, and a device's
        // 100 ms are over at once.
        let fixed = [
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-accel",
            "tcg",
            "-icount",
            "shift=0,sleep=off",
            "-m",
            "1G",
            "-display",
            "none",
            "-nodefaults",
        ];
        let mut args: Vec<_> = fixed.map(String::from).into();
        let halt = halt();
        args.extend(["-bios".into(), halt.display().to_string()]);
        args.extend(["-device".into(), format!("intel-iommu{options}")]);
        args.extend(devices::args());
        let mut qtest = Qtest::start(&args);
        // PCIEXBAR: enabled, 256 MiB.
        for (register, value) in [(0x64, 0), (0x60, PLACES.ecam | 1)] {
            qtest.tell(&format!("outl 0xcf8 {:#x}", 1u32 << 31 | register));
            qtest.tell(&format!("outl 0xcfc {value:#x}"));
        }
        let (writers, readers) = devices::bring_up(&mut qtest, PLACES);
        // It has answered, and so has read it.
        fs::remove_file(halt).expect("it is there");
        let state = State {
            qtest,
            next: POOL,
            writers,
            readers,
        };
        Self(Arc::new(Mutex::new(state)), Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, whoever still holds memory of it.
    pub fn end(&self) {
        self.state().qtest.end();
    }

    pub fn load(&self, at: u64) -> u64 {
        self.state().qtest.number(&format!("readq {at:#x}"))
    }

    pub fn store(&self, at: u64, value: u64) {
        self.state()
            .qtest
            .tell(&format!("writeq {at:#x} {value:#x}"));
    }

    /// A device of `source` writes 32 bits; what came of it, which depends on the word at `at`, and the answers to `lines`
    /// then.
    pub fn dma_write(
        &self,
        source: u32,
        iova: u64,
        at: u64,
        lines: &[String],
    ) -> (Written, Vec<String>) {
        let State { qtest, writers, .. } = &mut *self.state();
        let writer = writers.iter().find(|writer| writer.stream == source);
        writer.expect("there is one").write(qtest, iova, at);
        for line in lines {
            qtest.expect(line);
        }
        let mut answers = qtest.settle();
        (Written::of(&answers.remove(0)), answers)
    }

    /// A device of `source` reads 32 bits and keeps them in `slot`; the answers to `lines` then.
    pub fn dma_read(&self, source: u32, iova: u64, slot: usize, lines: &[String]) -> Vec<String> {
        let State { qtest, readers, .. } = &mut *self.state();
        let reader = readers.iter().find(|reader| reader.stream == source);
        reader.expect("there is one").read(qtest, iova, slot, lines)
    }

    /// The first `count` slots of the device of `source`. It has no other way to show them than to write them to memory:
    /// translation is off for that.
    pub fn slots(&self, source: u32, count: usize) -> Vec<u32> {
        let State { qtest, readers, .. } = &mut *self.state();
        let reader = readers.iter().find(|reader| reader.stream == source);
        let state = qtest.number(&format!("readl {GSTS:#x}")) & STATE;
        qtest.tell(&format!("writel {GCMD:#x} {:#x}", state & !TE));
        let all = reader.expect("there is one").show(qtest, POOL_END, count);
        qtest.tell(&format!("writel {GCMD:#x} {state:#x}"));
        all
    }
}

/// Where `edu` has its MSI capability, and the register that raises its interrupt.
const EDU_MSI: u64 = 0x40;
const EDU_RAISE: u64 = 0x60;

impl Machine {
    /// The `edu` of `source` raises its interrupt, as this message. Only a device's own messages carry its identity here.
    pub fn message(&self, source: u32, address: u32, data: u32) {
        let qtest = &mut self.state().qtest;
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
    }
}

/// The line that reads a 32-bit register of the unit.
pub fn register(offset: usize) -> String {
    format!("readl {:#x}", VTD + offset as u64)
}

/// The line that reads a 64-bit register of the unit.
pub fn wide_register(offset: usize) -> String {
    format!("readq {:#x}", VTD + offset as u64)
}

impl Mmio for Machine {
    fn read32(&self, offset: usize) -> u32 {
        self.state().qtest.number(&register(offset)) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        let at = VTD + offset as u64;
        self.state()
            .qtest
            .tell(&format!("writel {at:#x} {value:#x}"));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.load(VTD + offset as u64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.store(VTD + offset as u64, value);
    }
}

/// Memory that is never handed out again, so that a device that reaches what was freed reads zeros or old values.
pub struct Buffer {
    machine: Machine,
    hpa: u64,
    len: usize,
}

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.hpa)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read64(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= self.len, "{offset:#x}");
        self.machine.load(self.hpa + offset as u64)
    }

    fn write64(&mut self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.len, "{offset:#x}");
        self.machine.store(self.hpa + offset as u64, value);
    }

    /// ECAP.C is 0, but there are no caches.
    fn clean(&self, _offset: usize, _len: usize) {}
}

impl Platform for Machine {
    type Buffer = Buffer;

    fn allocate(&self, len: usize) -> Option<Buffer> {
        let state = &mut *self.state();
        let hpa = state.next.next_multiple_of(len as u64);
        let end = hpa + len as u64;
        if end > POOL_END {
            return None;
        }
        state.next = end;
        Some(Buffer {
            machine: self.clone(),
            hpa,
            len,
        })
    }

    /// One socket keeps the order.
    fn write_barrier(&self) {}

    fn read_barrier(&self) {}

    fn now_ns(&self) -> u64 {
        self.1.elapsed().as_nanos() as u64
    }
}
