//! A machine that is memory: addresses of its own, an allocation budget, a note of what was cleaned, and freed memory
//! that no walker may be in.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use crate::addr::Hpa;
use crate::hal::{DmaBuffer, Platform};

/// What freed memory reads as.
pub const FREED: u64 = 0xdead_dead_dead_dead;
/// Where memory starts.
const BASE: u64 = 0x40_0000_0000;

/// One word, and whether it is in a cache only.
#[derive(Default)]
struct Cell {
    word: AtomicU64,
    dirty: AtomicBool,
}

type Cells = Arc<[Cell]>;

#[derive(Default)]
pub struct Machine {
    memory: Mutex<Memories>,
}

#[derive(Default)]
struct Memories {
    frames: BTreeMap<u64, Cells>,
    next: u64,
    live: usize,
    /// Frames that were given back as zeroed.
    zeroed: usize,
    budget: Option<usize>,
    /// What a walker is about to make of which entry.
    between: Option<(u64, u64)>,
}

#[derive(Clone)]
pub struct Ram(pub Arc<Machine>);

pub struct Frame {
    machine: Ram,
    base: u64,
    cells: Cells,
}

impl Platform for Ram {
    type Buffer = Frame;
    const KEEPS_ZEROED: bool = true;
    fn allocate(&self, len: usize) -> Option<Frame> {
        let mut memory = self.0.memory.lock().unwrap();
        match &mut memory.budget {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        memory.live += 1;
        let base = (BASE + memory.next).next_multiple_of(len as u64);
        memory.next = base + len as u64 - BASE;
        let cells: Cells = (0..len / 8).map(|_| Cell::default()).collect();
        for cell in cells.iter() {
            cell.dirty.store(true, Relaxed);
        }
        memory.frames.insert(base, Arc::clone(&cells));
        Some(Frame {
            machine: self.clone(),
            base,
            cells,
        })
    }
    fn release_zeroed(&self, frame: Frame) {
        for cell in frame.cells.iter() {
            assert_eq!(cell.word.load(Relaxed), 0, "said to be zeroed");
        }
        self.0.memory.lock().unwrap().zeroed += 1;
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

impl DmaBuffer for Frame {
    fn hpa(&self) -> Hpa {
        Hpa(self.base)
    }
    fn len(&self) -> usize {
        self.cells.len() * 8
    }
    fn read64(&self, offset: usize) -> u64 {
        self.cells[offset / 8].word.load(Relaxed)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        let cell = &self.cells[offset / 8];
        cell.word.store(value, Relaxed);
        cell.dirty.store(true, Relaxed);
    }
    fn swap64(&mut self, offset: usize, value: u64) -> u64 {
        self.machine.interfere(self.base + offset as u64);
        let old = self.read64(offset);
        self.write64(offset, value);
        old
    }
    fn clean(&self, offset: usize, len: usize) {
        for cell in &self.cells[offset / 8..(offset + len) / 8] {
            cell.dirty.store(false, Relaxed);
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.machine.0.memory.lock().unwrap().live -= 1;
        for cell in self.cells.iter() {
            cell.word.store(FREED, Relaxed);
            cell.dirty.store(false, Relaxed);
        }
    }
}

impl Ram {
    fn with<T>(&self, at: u64, look: impl FnOnce(&Cell) -> T) -> Option<T> {
        let memory = self.0.memory.lock().unwrap();
        let (base, cells) = memory.frames.range(..=at).next_back()?;
        cells.get((at - base) as usize / 8).map(look)
    }
    pub fn word(&self, at: u64) -> u64 {
        self.with(at, |cell| cell.word.load(Relaxed)).unwrap_or(0)
    }
    /// What a walker does to an entry on its own.
    pub fn set(&self, at: u64, value: u64) {
        self.with(at, |cell| cell.word.store(value, Relaxed));
    }
    /// The same, right before the entry is swapped next.
    pub fn set_before_swap(&self, at: u64, value: u64) {
        self.0.memory.lock().unwrap().between = Some((at, value));
    }
    fn interfere(&self, at: u64) {
        let mut memory = self.0.memory.lock().unwrap();
        let due = memory.between.take_if(|(entry, _)| *entry == at);
        drop(memory);
        if let Some((at, value)) = due {
            self.set(at, value);
        }
    }
    /// Every word that is not zero.
    pub fn words(&self) -> BTreeMap<u64, u64> {
        let memory = self.0.memory.lock().unwrap();
        let words = memory.frames.iter().flat_map(|(base, cells)| {
            let words = cells.iter().map(|cell| cell.word.load(Relaxed));
            words
                .enumerate()
                .map(move |(n, word)| (base + n as u64 * 8, word))
        });
        words
            .filter(|(_, word)| *word != 0 && *word != FREED)
            .collect()
    }
    pub fn live(&self) -> usize {
        self.0.memory.lock().unwrap().live
    }
    pub fn zeroed(&self) -> usize {
        self.0.memory.lock().unwrap().zeroed
    }
    pub fn budget(&self, budget: Option<usize>) {
        self.0.memory.lock().unwrap().budget = budget;
    }
    /// Words that a walker that does not snoop does not see.
    pub fn dirty(&self) -> usize {
        let memory = self.0.memory.lock().unwrap();
        let cells = memory.frames.values().flat_map(|cells| cells.iter());
        cells.filter(|cell| cell.dirty.load(Relaxed)).count()
    }
}
