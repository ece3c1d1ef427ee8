//! What of RAM is free.

use super::{FRAME, Frames};
use crate::machine::memory::Window;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use spin::mutex::SpinMutex;

/// Free RAM, as sorted ranges that do not touch; first fit.
///
/// Meant for start-up and configuration: a search is linear in the number of free ranges, zeroing in the length.
pub struct FramePool {
    free: SpinMutex<Vec<Range<u64>>>,
    zeroed: SpinMutex<Zeroed>,
    window: Window,
}

/// Free ranges that there is room for from the start. As long as there are no more, the heap holds the same whatever was given
/// back in which order, and giving back needs none of it.
const ROOM: usize = 64;

/// Single frames that are free and zero already.
struct Zeroed {
    bases: [u64; 16],
    count: usize,
}

impl FramePool {
    /// A pool without memory, whose frames the CPU reaches through `window`.
    pub const fn new(window: Window) -> Self {
        Self {
            free: SpinMutex::new(Vec::new()),
            zeroed: SpinMutex::new(Zeroed {
                bases: [0; 16],
                count: 0,
            }),
            window,
        }
    }

    /// Puts `range` into the pool, less the partial pages at its ends. What overlaps free memory is ignored.
    ///
    /// # Safety
    /// The range is RAM that `window` maps for reading and writing, and nothing else in the image uses it.
    pub unsafe fn add(&self, range: Range<u64>) {
        let start = range.start.next_multiple_of(FRAME);
        let end = range.end & !(FRAME - 1);
        let mut free = self.free.lock();
        let missing = ROOM.saturating_sub(free.len());
        free.reserve(missing);
        let mut at = start;
        while at < end {
            // The first free range that ends after `at`: either `at` is inside of it, or there is a hole before it.
            match free.iter().find(|part| part.end > at).cloned() {
                Some(part) if part.start <= at => at = part.end,
                next => {
                    let hole = next.map_or(end, |part| part.start.min(end));
                    give_back(&mut free, at..hole);
                    at = hole;
                }
            }
        }
    }

    /// `len` bytes (rounded up to 4 KiB), zeroed, at a multiple of `align` (a power of two, at least 4 KiB).
    pub fn allocate(&'static self, len: u64, align: u64) -> Option<Frames> {
        let len = round_up(len)?;
        let align = align.max(FRAME);
        if !align.is_power_of_two() || !self.window.permits() {
            return None;
        }
        if (len, align) == (FRAME, FRAME)
            && let Some(base) = self.zeroed.lock().pop()
        {
            return Some(self.own(base, len));
        }
        self.settle();
        let mut free = self.free.lock();
        let (index, base) = free.iter().enumerate().find_map(|(index, part)| {
            let base = part.start.checked_next_multiple_of(align)?;
            (base.checked_add(len)? <= part.end).then_some((index, base))
        })?;
        carve(&mut free, index, base..base + len);
        drop(free);
        Some(self.hand_out(base, len))
    }

    /// The frames of `[base, base + len)`, if all of it is free. `base` must be 4 KiB aligned; `len` is rounded up.
    pub fn reserve_exact(&'static self, base: u64, len: u64) -> Option<Frames> {
        let len = round_up(len)?;
        let end = base.checked_add(len)?;
        self.settle();
        let mut free = self.free.lock();
        let index = free
            .iter()
            .position(|part| part.start <= base && end <= part.end)
            .filter(|_| base.is_multiple_of(FRAME))?;
        carve(&mut free, index, base..end);
        drop(free);
        Some(self.hand_out(base, len))
    }

    /// The way to RAM, past the owners of frames: theirs, and that of a fake device, as the hardware does it.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The free ranges, lowest first.
    pub fn free_ranges(&self) -> Vec<Range<u64>> {
        self.settle();
        self.free.lock().clone()
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        self.settle();
        self.free.lock().iter().map(|r| r.end - r.start).sum()
    }

    /// The longest free range, in bytes: what one allocation can have at most.
    pub fn largest_free(&self) -> u64 {
        self.settle();
        let free = self.free.lock();
        free.iter().map(|r| r.end - r.start).max().unwrap_or(0)
    }

    /// Free ranges that its list has room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.free.lock().capacity()
    }

    /// Takes back what an owner had.
    pub(super) fn give_back(&self, part: Range<u64>) {
        give_back(&mut self.free.lock(), part);
    }

    /// Takes back a frame that is zero. False: there is no room for it, it stays the owner's.
    pub(super) fn keep_zeroed(&self, base: u64) -> bool {
        self.zeroed.lock().push(base)
    }

    /// Puts the zeroed frames back among the others.
    fn settle(&self) {
        while let Some(base) = self.zeroed.lock().pop() {
            self.give_back(base..base + FRAME);
        }
    }

    fn hand_out(&'static self, base: u64, len: u64) -> Frames {
        let frames = self.own(base, len);
        frames.zero(0, len as usize);
        frames
    }

    fn own(&'static self, base: u64, len: u64) -> Frames {
        Frames {
            base,
            len,
            pool: self,
        }
    }
}

impl Zeroed {
    fn pop(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        Some(self.bases[self.count])
    }

    /// Whether there was room.
    fn push(&mut self, base: u64) -> bool {
        let free = self.bases.get_mut(self.count);
        let room = free.is_some();
        if let Some(free) = free {
            *free = base;
            self.count += 1;
        }
        room
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.free.lock().iter()).finish()
    }
}

fn round_up(len: u64) -> Option<u64> {
    len.max(1).checked_next_multiple_of(FRAME)
}

/// Removes `part` from `free[index]`, which contains it.
fn carve(free: &mut Vec<Range<u64>>, index: usize, part: Range<u64>) {
    let whole = free[index].clone();
    let before = whole.start..part.start;
    let after = part.end..whole.end;
    match (before.is_empty(), after.is_empty()) {
        (true, true) => drop(free.remove(index)),
        (true, false) => free[index] = after,
        (false, true) => free[index] = before,
        (false, false) => {
            free[index] = before;
            free.insert(index + 1, after);
        }
    }
}

/// Adds `part`, which overlaps nothing in `free`, and joins it with its neighbours.
fn give_back(free: &mut Vec<Range<u64>>, part: Range<u64>) {
    let index = free.partition_point(|other| other.start < part.start);
    let joins_next = free.get(index).is_some_and(|next| next.start == part.end);
    let joins_last = index > 0 && free[index - 1].end == part.start;
    match (joins_last, joins_next) {
        (true, true) => {
            free[index - 1].end = free[index].end;
            free.remove(index);
        }
        (true, false) => free[index - 1].end = part.end,
        (false, true) => free[index].start = part.start,
        (false, false) => free.insert(index, part),
    }
}
