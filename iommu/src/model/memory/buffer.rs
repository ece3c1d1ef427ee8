//! What memory is to a driver: allocations, barriers, a clock.

use alloc::sync::Weak;
use alloc::vec::Vec;

use super::{Kind, LINE, Line, Memory, PAGE, POISON, Pending};
use crate::addr::Hpa;
use crate::hal::{DmaBuffer, Platform};

impl Platform for Memory {
    type Buffer = Buffer;

    fn allocate(&self, len: usize) -> Option<Buffer> {
        assert!(
            len.is_power_of_two() && len >= 4096,
            "a length of {len} was asked for"
        );
        let mut state = self.0.lock();
        state.allocations += 1;
        match &mut state.fail {
            Some((0, all)) => {
                if !*all {
                    state.fail = None;
                }
                return None;
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let bytes = len as u64;
        let base = state.next.next_multiple_of(bytes);
        // A page between two allocations: running past one is found out.
        state.next = base + bytes + PAGE;
        state.regions.insert(base, (bytes, Kind::Live));
        if state.cached {
            for at in (base..base + bytes).step_by(8) {
                state.set_below(at, POISON);
            }
            for at in (base..base + bytes).step_by(LINE as usize) {
                state.lines.insert(
                    at,
                    Line {
                        words: [0; 8],
                        dirty: 0xff,
                    },
                );
            }
        }
        drop(state);
        Some(Buffer {
            memory: self.clone(),
            base,
            len,
        })
    }

    fn write_barrier(&self) {
        let (stores, observers) = {
            let mut state = self.0.lock();
            state
                .observers
                .retain(|observer| observer.strong_count() > 0);
            let store = |item: &Pending| match *item {
                Pending::Store(at, value) => Some((at, value)),
                Pending::Clean(_) => None,
            };
            let stores: Vec<_> = state.pending.iter().filter_map(store).collect();
            (stores, state.observers.clone())
        };
        if !stores.is_empty() {
            for observer in observers.iter().filter_map(Weak::upgrade) {
                observer.before_barrier(&stores);
            }
        }
        let mut state = self.0.lock();
        for item in core::mem::take(&mut state.pending) {
            state.settle(item);
        }
    }

    fn read_barrier(&self) {}

    fn now_ns(&self) -> u64 {
        let mut state = self.0.lock();
        state.now += 1_000;
        state.now
    }
}

/// Memory that was handed out.
pub struct Buffer {
    memory: Memory,
    base: u64,
    len: usize,
}

impl Buffer {
    fn at(&self, offset: usize) -> u64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.len,
            "offset {offset:#x} of {:#x}",
            self.len
        );
        self.base + offset as u64
    }

    fn lines(&self, offset: usize, len: usize) -> impl Iterator<Item = u64> + use<> {
        assert!(
            offset + len <= self.len,
            "offset {offset:#x}, {len:#x} bytes"
        );
        let start = (self.base + offset as u64) & !(LINE - 1);
        (start..self.base + (offset + len) as u64).step_by(LINE as usize)
    }
}

impl DmaBuffer for Buffer {
    fn hpa(&self) -> Hpa {
        Hpa(self.base)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read64(&self, offset: usize) -> u64 {
        self.memory.load(self.at(offset))
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.memory.store(self.at(offset), value);
    }

    fn clean(&self, offset: usize, len: usize) {
        let mut state = self.memory.0.lock();
        for line in self.lines(offset, len) {
            state.cleaned += 1;
            state.pending.push(Pending::Clean(line));
        }
    }

    fn discard(&self, offset: usize, len: usize) {
        let mut state = self.memory.0.lock();
        for line in self.lines(offset, len) {
            state.cleaned += 1;
            let dirty = state.lines.get(&line).is_some_and(|line| line.dirty != 0);
            assert!(
                !(dirty && state.strict),
                "a dirty line at {line:#x} overwrites what a device wrote there"
            );
            state.write_back(line);
            state.lines.remove(&line);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.memory.0.lock();
        let (base, end) = (self.base, self.base + self.len as u64);
        let freed = state.regions.insert(base, (self.len as u64, Kind::Freed));
        debug_assert!(freed == Some((self.len as u64, Kind::Live)), "freed twice");
        state
            .pending
            .retain(|item| !(base..end).contains(&item.line()));
        for at in (base..end).step_by(LINE as usize) {
            state.lines.remove(&at);
        }
        for page in base / PAGE..end / PAGE {
            state.pages.remove(&page);
        }
    }
}
