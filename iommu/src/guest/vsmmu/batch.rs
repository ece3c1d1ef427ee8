//! Commands between a guest's queue and its slice: read several at a time, and collected until the slice is to do them.

use super::command::{Decoder, Plain};
use super::registers::Queue;
use crate::hal::{GuestMemory, GuestMemoryError};
use crate::object::BATCH;
use crate::object::driver::Entry;
use crate::smmuv3::ring::Position;
use crate::smmuv3::spec::command::COMMAND_BYTES;

/// Entries for the slice, with the commands that they come from.
pub(super) struct Batch {
    pub entries: [Entry; BATCH],
    pub at: [Position; BATCH],
    /// CMD_SYNCs before each since the last submission.
    pub syncs_before: [u8; BATCH],
    pub len: usize,
    /// CMD_SYNCs since the last submission. They are complete with it.
    pub syncs: u8,
}

/// Commands that are read from a guest's memory at a time.
const AHEAD: usize = 16;

/// Commands that are read and not yet taken: the last ones. What is left at the end is read again, and counts as it is
/// then.
pub(super) struct Ahead {
    words: [[u64; 2]; AHEAD],
    left: usize,
}

impl Ahead {
    /// None.
    pub fn new() -> Self {
        Self {
            words: [[0; 2]; AHEAD],
            left: 0,
        }
    }

    /// None is left.
    pub fn forget(&mut self) {
        self.left = 0;
    }

    /// Those that are not taken yet.
    #[inline(always)]
    pub fn left(&self) -> &[[u64; 2]] {
        &self.words[AHEAD - self.left.min(AHEAD)..]
    }

    /// The next `count` are taken.
    #[inline(always)]
    pub fn taken(&mut self, count: usize) {
        self.left -= count;
    }

    /// Reads up to `most` commands from `at` on, as far as they are one after the other; at least one.
    pub fn read(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &Queue,
        at: Position,
        most: u32,
    ) -> Result<(), GuestMemoryError> {
        let there = queue.prod.since(at).min(at.before_wrap()).min(most);
        let mut count = (there as usize).clamp(1, AHEAD);
        let from = queue.slot(at, COMMAND_BYTES);
        let mut read = |count| {
            let words = self.words[AHEAD - count..].as_flattened_mut();
            memory.read_words(from, words)
        };
        // Where one of them is nowhere, the others are not.
        if read(count).is_err() {
            count = 1;
            read(count)?;
        }
        self.left = count;
        Ok(())
    }
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            entries: [[0; 4]; BATCH],
            at: [Position::start(0); BATCH],
            syncs_before: [0; BATCH],
            len: 0,
            syncs: 0,
        }
    }

    /// Takes an entry for the command at `at`. Whether it has room for another.
    pub fn add(&mut self, entry: Entry, at: Position) -> bool {
        self.entries[self.len] = entry;
        self.at[self.len] = at;
        self.syncs_before[self.len] = self.syncs;
        self.len += 1;
        self.len < BATCH
    }

    /// Nothing more goes in before it is submitted.
    pub fn is_full(&self) -> bool {
        self.len == BATCH || self.syncs > u8::MAX / 2
    }

    /// Takes plain commands, of which the first is at `at`, up to another or until it is full. How many.
    ///
    /// All of a guest's time for many invalidations goes by here.
    #[inline(never)]
    pub fn take(&mut self, decoder: &Decoder, commands: &[[u64; 2]], mut at: Position) -> usize {
        let (mut len, mut syncs) = (self.len, self.syncs);
        let mut taken = 0;
        for command in commands {
            match decoder.plain(*command) {
                Some(Plain::Forget([first, second])) => {
                    if len >= BATCH {
                        break;
                    }
                    self.entries[len] = [first, second, 0, 0];
                    self.at[len] = at;
                    self.syncs_before[len] = syncs;
                    len += 1;
                }
                Some(Plain::Sync) => syncs = syncs.wrapping_add(1),
                None => break,
            }
            at = at.next();
            taken += 1;
        }
        (self.len, self.syncs) = (len, syncs);
        taken
    }
}
