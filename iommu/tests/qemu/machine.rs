//! A `virt` machine of QEMU's without a running CPU: its memory, its SMMU and DMA devices, as the seams of the crate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Mmio, Platform};

use crate::devices::{self, Places, Reader, Writer, Written};
use crate::qtest::Qtest;

/// `virt`'s memory map: registers of the SMMU, and RAM.
const SMMU: u64 = 0x0905_0000;
pub const RAM: u64 = 0x4000_0000;
pub const RAM_BYTES: u64 = 1 << 30;

/// The same: configuration space, and the window for BARs.
const PLACES: Places = Places {
    ecam: 0x40_1000_0000,
    window: 0x1000_0000,
};

/// Where memory is handed out from. What is below and above is the tests' own.
const POOL: u64 = RAM + 0x1000_0000;
const POOL_END: u64 = RAM + 0x2000_0000;

/// SMMU registers that go back and forth around a copy that is not translated: CR0, GBPA (IHI 0070 H.a, §6.3.9, §6.3.14).
const CR0: u64 = SMMU + 0x20;
const GBPA: u64 = SMMU + 0x44;
const GBPA_UPDATE: u64 = 1 << 31;
const GBPA_ABORT: u64 = 1 << 20;

/// One machine. Clones are the same one; it is its SMMU's register file.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<State>>, Instant);

struct State {
    qtest: Qtest,
    next: u64,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
}

impl Machine {
    /// Starts one.
    pub fn start() -> Self {
        // The only CPU never starts: with it halted, and time counted in instructions, time jumps to the next timer, and
        // a device's 100 ms are over at once.
        let fixed = [
            "-machine",
            "virt,virtualization=on,gic-version=3,iommu=smmuv3",
            "-cpu",
            "max,start-powered-off=on",
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
        args.extend(devices::args());
        let mut qtest = Qtest::start(&args);
        let (writers, readers) = devices::bring_up(&mut qtest, PLACES);
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

    /// A device of `stream` writes 32 bits; what came of it, which depends on the word at `at`, and the answers to `lines`
    /// then.
    pub fn dma_write(
        &self,
        stream: u32,
        iova: u64,
        at: u64,
        lines: &[String],
    ) -> (Written, Vec<String>) {
        let State { qtest, writers, .. } = &mut *self.state();
        let writer = writers.iter().find(|writer| writer.stream == stream);
        writer.expect("there is one").write(qtest, iova, at);
        for line in lines {
            qtest.expect(line);
        }
        let mut answers = qtest.settle();
        (Written::of(&answers.remove(0)), answers)
    }

    /// A device of `stream` reads 32 bits and keeps them in `slot`; the answers to `lines` then.
    pub fn dma_read(&self, stream: u32, iova: u64, slot: usize, lines: &[String]) -> Vec<String> {
        let State { qtest, readers, .. } = &mut *self.state();
        let reader = readers.iter().find(|reader| reader.stream == stream);
        reader.expect("there is one").read(qtest, iova, slot, lines)
    }

    /// The first `count` slots of the device of `stream`. It has no other way to show them than to write them to memory:
    /// the SMMU is off for that.
    pub fn slots(&self, stream: u32, count: usize) -> Vec<u32> {
        let state = &mut *self.state();
        let State { qtest, readers, .. } = state;
        let reader = readers.iter().find(|reader| reader.stream == stream);
        let (cr0, gbpa) = (
            qtest.number(&format!("readl {CR0:#x}")),
            qtest.number(&format!("readl {GBPA:#x}")),
        );
        let open = gbpa & !GBPA_ABORT | GBPA_UPDATE;
        qtest.tell(&format!("writel {GBPA:#x} {open:#x}"));
        qtest.tell(&format!("writel {CR0:#x} {:#x}", cr0 & !1));
        let all = reader.expect("there is one").show(qtest, POOL_END, count);
        qtest.tell(&format!("writel {GBPA:#x} {:#x}", gbpa | GBPA_UPDATE));
        qtest.tell(&format!("writel {CR0:#x} {cr0:#x}"));
        all
    }
}

/// The line that reads a 32-bit register of the SMMU.
pub fn register(offset: usize) -> String {
    format!("readl {:#x}", SMMU + offset as u64)
}

impl Mmio for Machine {
    fn read32(&self, offset: usize) -> u32 {
        let at = SMMU + offset as u64;
        self.state().qtest.number(&format!("readl {at:#x}")) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        let at = SMMU + offset as u64;
        self.state()
            .qtest
            .tell(&format!("writel {at:#x} {value:#x}"));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.load(SMMU + offset as u64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.store(SMMU + offset as u64, value);
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

    /// The SMMU of QEMU snoops: it has no caches.
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
