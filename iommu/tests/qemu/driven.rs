//! A machine of QEMU's without a running CPU, driven over the test protocol: its memory, one register file of an IOMMU and DMA
//! devices, as the seams of the crate. What is one board's alone is in `machine`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use iommu::addr::Hpa;
use iommu::hal::{DmaBuffer, Mmio, Platform};

use crate::devices::{self, Places, Reader, Writer, Written};
use crate::qtest::Qtest;

/// What every machine has. Time is counted in instructions, none of which are executed: it jumps to the next timer, and a
/// device's 100 ms are over at once.
const ARGS: [&str; 9] = [
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

/// Where one board has what is used of it.
#[derive(Clone, Copy)]
pub struct Board {
    /// Registers of the IOMMU.
    pub registers: u64,
    /// Where memory is handed out from, and its end. What is below and above is the tests' own.
    pub pool: (u64, u64),
    pub places: Places,
}

/// One machine. Clones are the same one; it is its IOMMU's register file.
#[derive(Clone)]
pub struct Machine {
    board: Board,
    state: Arc<Mutex<State>>,
    started: Instant,
}

struct State {
    qtest: Qtest,
    next: u64,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
}

impl Machine {
    /// Starts one with these arguments; `prepare` is done before its devices are looked for.
    pub fn with(board: Board, args: &[&str], prepare: impl FnOnce(&mut Qtest)) -> Self {
        let fixed = args.iter().chain(&ARGS).map(|arg| String::from(*arg));
        let args: Vec<_> = fixed.chain(devices::args()).collect();
        let mut qtest = Qtest::start(&args);
        prepare(&mut qtest);
        let (writers, readers) = devices::bring_up(&mut qtest, board.places);
        let state = State {
            qtest,
            next: board.pool.0,
            writers,
            readers,
        };
        Self {
            board,
            state: Arc::new(Mutex::new(state)),
            started: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, whoever still holds memory of it.
    pub fn end(&self) {
        self.state().qtest.end();
    }

    /// What `talk` says to it, in one piece.
    pub fn talk<R>(&self, talk: impl FnOnce(&mut Qtest) -> R) -> R {
        talk(&mut self.state().qtest)
    }

    pub fn load(&self, at: u64) -> u64 {
        self.talk(|qtest| qtest.number(&format!("readq {at:#x}")))
    }

    pub fn store(&self, at: u64, value: u64) {
        self.talk(|qtest| qtest.tell(&format!("writeq {at:#x} {value:#x}")));
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

    /// The first `count` slots of the device of `source`, which has no other way to show them than to write them to memory:
    /// call it where nothing is translated.
    pub fn show(&self, source: u32, count: usize) -> Vec<u32> {
        let State { qtest, readers, .. } = &mut *self.state();
        let reader = readers.iter().find(|reader| reader.stream == source);
        let reader = reader.expect("there is one");
        reader.show(qtest, self.board.pool.1, count)
    }
}

impl Mmio for Machine {
    fn read32(&self, offset: usize) -> u32 {
        let at = self.board.registers + offset as u64;
        self.talk(|qtest| qtest.number(&format!("readl {at:#x}"))) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        let at = self.board.registers + offset as u64;
        self.talk(|qtest| qtest.tell(&format!("writel {at:#x} {value:#x}")));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.load(self.board.registers + offset as u64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.store(self.board.registers + offset as u64, value);
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

    /// QEMU has no caches.
    fn clean(&self, _offset: usize, _len: usize) {}
}

impl Platform for Machine {
    type Buffer = Buffer;

    fn allocate(&self, len: usize) -> Option<Buffer> {
        let state = &mut *self.state();
        let hpa = state.next.next_multiple_of(len as u64);
        let end = hpa + len as u64;
        if end > self.board.pool.1 {
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
        self.started.elapsed().as_nanos() as u64
    }
}
