//! A bounded queue with sequence numbers that says what it had to drop.

use alloc::collections::VecDeque;

use super::{Error, room};

/// The largest depth.
pub const MAX_DEPTH: u32 = 1 << 19;
/// The largest sequence number; the next is 0.
pub const MAX_SEQUENCE: u32 = (1 << 31) - 1;

/// What is read from a [`Ring`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<T> {
    /// A record. Sequence numbers that are missing before it are records that were lost.
    Record {
        /// Its sequence number.
        sequence: u32,
        /// What was put.
        record: T,
    },
    /// Records were lost, and none was accepted since.
    Lost {
        /// The sequence number of the last one lost.
        sequence: u32,
    },
}

/// See the module's description. All of its memory is taken when it is made.
#[derive(Debug)]
pub struct Ring<T> {
    records: VecDeque<(u32, T)>,
    depth: usize,
    sequence: u32,
    /// The mark at the tail. Each record lost takes a number; the mark has that of the last.
    lost: Option<u32>,
}

impl<T: Copy> Ring<T> {
    /// An empty one for `depth` records.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a depth of 0 or above [`MAX_DEPTH`]; [`Error::OutOfMemory`].
    pub fn new(depth: u32) -> Result<Self, Error> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(Error::Invalid(depth.into()));
        }
        Ok(Self {
            records: room::queue(depth as usize)?,
            depth: depth as usize,
            sequence: 0,
            lost: None,
        })
    }

    /// Puts a record, or notes that it was lost. Returns whether it was put.
    pub fn push(&mut self, record: T) -> bool {
        let sequence = self.sequence;
        self.sequence = if sequence == MAX_SEQUENCE {
            0
        } else {
            sequence + 1
        };
        let room = self.records.len() < self.depth;
        if room {
            self.records.push_back((sequence, record));
            self.lost = None;
        } else {
            self.lost = Some(sequence);
        }
        room
    }

    /// A record was lost before it came here.
    pub fn push_lost(&mut self) {
        self.lost = Some(self.sequence);
        self.sequence = if self.sequence == MAX_SEQUENCE {
            0
        } else {
            self.sequence + 1
        };
    }

    /// The oldest, which stays.
    pub fn peek(&self) -> Option<Item<T>> {
        match self.records.front() {
            Some(&(sequence, record)) => Some(Item::Record { sequence, record }),
            None => self.lost.map(|sequence| Item::Lost { sequence }),
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Item<T>> {
        let item = self.peek();
        if self.records.pop_front().is_none() {
            self.lost = None;
        }
        item
    }

    /// The sequence number of the next one that is put or lost.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Nothing to read.
    pub fn is_empty(&self) -> bool {
        self.peek().is_none()
    }

    #[cfg(test)]
    pub(super) fn set_sequence(&mut self, sequence: u32) {
        self.sequence = sequence;
    }
}
