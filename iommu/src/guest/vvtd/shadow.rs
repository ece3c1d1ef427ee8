//! Reading a guest's translation tables, piece by piece: what a shadow is made of.
//!
//! Each table on the way is looked up once for all that is below it, and entries that follow each other in one table are read
//! together. No walk goes deeper than there are levels, whatever the entries say.

use super::contexts::Tables;
use super::counters::Counters;
use crate::addr::{Gpa, Iova, Span};
use crate::hal::GuestMemory;
use crate::object::driver::Access;
use crate::table::{Entry, Format, Npt, SecondStage};

/// Entries that are read together at most: so few that what they map is never a block of the next size, which one of them
/// would have to be cut out of later.
const CHUNK: usize = 64;
/// Entries of a table.
const ENTRIES: u64 = 512;
/// What an entry takes that is not as the one before it.
const DECODED_COST: u32 = 1;
/// Entries that are looked at for one of a budget.
const ENTRIES_A_UNIT: u32 = 32;
const RIGHTS: Access = Access::READ.union(Access::WRITE);

/// log2 of the bytes that an entry at `height` covers, in both formats.
fn shift(height: u8) -> u32 {
    12 + 9 * u32::from(height)
}

/// One entry as it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// Nothing, or what the format reserves, or what lets nothing pass.
    Hole,
    Table(u64, Access),
    Leaf(u64, Access),
}

fn decode(first: bool, entry: u64, height: u8) -> Read {
    let (decoded, read, write) = if first {
        // Of the same form as the CPU's own (9.7): what user requests may not do, none may.
        let rights = Npt::attributes(entry);
        (Npt::decode(entry, height), rights.read, rights.write)
    } else {
        let rights = SecondStage::attributes(entry);
        (
            SecondStage::decode(entry, height),
            rights.read,
            rights.write,
        )
    };
    let mut access = Access::empty();
    access.set(Access::READ, read);
    access.set(Access::WRITE, write);
    match decoded {
        _ if access.is_empty() => Read::Hole,
        Entry::Table(to) => Read::Table(to, access),
        Entry::Leaf(to) => Read::Leaf(to, access),
        Entry::Invalid | Entry::Reserved => Read::Hole,
    }
}

/// A run of pages that go to a run of addresses with the same rights, or nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub range: Span<Iova>,
    pub to: Option<(Gpa, Access)>,
}

impl Piece {
    pub fn end(&self) -> u64 {
        self.range.base.0 + self.range.len
    }

    /// The two as one, where that is what they are.
    fn with(&self, next: &Self) -> Option<Self> {
        let goes_on = match (self.to, next.to) {
            (None, None) => true,
            (Some((to, access)), Some((next_to, next_access))) => {
                access == next_access && to.0.checked_add(self.range.len) == Some(next_to.0)
            }
            _ => false,
        };
        goes_on.then(|| Self {
            range: Span {
                base: self.range.base,
                len: self.range.len + next.range.len,
            },
            ..*self
        })
    }
}

/// Entries of one table as they were read, for as long as not all of them are handed out: a call may have no part left for the
/// rest, and the next one does not read them again.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Whose.
    tables: Option<Tables>,
    /// The first address that they cover.
    base: u64,
    height: u8,
    /// The rights on the way to them.
    access: Access,
    count: usize,
    words: [u64; CHUNK],
}

impl Ahead {
    pub const fn new() -> Self {
        Self {
            tables: None,
            base: 0,
            height: 0,
            access: RIGHTS,
            count: 0,
            words: [0; CHUNK],
        }
    }

    /// What the guest says from now on is read.
    pub fn forget(&mut self) {
        self.tables = None;
    }

    /// Those of `tables` from that for `at` on, if it leads to no table.
    fn rest(&self, at: u64, tables: &Tables) -> Option<&[u64]> {
        self.tables.filter(|of| of == tables)?;
        let index = at.checked_sub(self.base)? >> shift(self.height);
        let rest = self.words[..self.count].get(usize::try_from(index).ok()?..)?;
        let entry = decode(tables.first, *rest.first()?, self.height);
        (!matches!(entry, Read::Table(..))).then_some(rest)
    }
}

/// A way through the tables of one guest, with the tables on it.
pub(super) struct Walk<'a> {
    memory: &'a dyn GuestMemory,
    tables: Tables,
    ahead: &'a mut Ahead,
    top: u8,
    /// What leads to the table at each height: the first address that it covers, where it is, and the rights on the way.
    path: [Option<(u64, u64, Access)>; 5],
}

impl<'a> Walk<'a> {
    pub fn new(memory: &'a dyn GuestMemory, tables: Tables, ahead: &'a mut Ahead) -> Self {
        Self {
            memory,
            tables,
            ahead,
            top: (tables.input_bits - 12).div_ceil(9) - 1,
            path: [None; 5],
        }
    }

    /// The lowest table that is known to cover `at`.
    fn known(&self, at: u64) -> (u8, u64, Access) {
        for height in 0..self.top {
            if let Some((base, table, access)) = self.path[usize::from(height)]
                && at >> shift(height + 1) == base >> shift(height + 1)
            {
                return (height, table, access);
            }
        }
        (self.top, self.tables.root, RIGHTS)
    }

    /// Reads the entries from that for `at` on, in the lowest table that covers it.
    fn fetch(&mut self, at: u64, end: u64, counters: &mut Counters) {
        let (mut height, mut table, mut access) = self.known(at);
        let (memory, words) = (self.memory, &mut self.ahead.words);
        let count = loop {
            let index = at >> shift(height) & (ENTRIES - 1);
            let slot = table + index * 8;
            let wanted = ((end - 1) >> shift(height)) - (at >> shift(height)) + 1;
            let most = wanted.min(ENTRIES - index).min(CHUNK as u64) as usize;
            if height == 0 {
                read(memory, slot, &mut words[..most], counters);
                break most;
            }
            read(memory, slot, &mut words[..1], counters);
            let found = decode(self.tables.first, words[0], height);
            if let Read::Table(next, rights) = found {
                height -= 1;
                table = next;
                access &= rights;
                self.path[usize::from(height)] = Some((at, table, access));
                continue;
            }
            // With what follows, as far as there is no table. A page of 1 GiB is enough for one step.
            if most == 1 || height > 1 && found != Read::Hole {
                break 1;
            }
            read(memory, slot + 8, &mut words[1..most], counters);
            break most;
        };
        self.ahead.tables = Some(self.tables);
        self.ahead.base = at >> shift(height) << shift(height);
        (self.ahead.height, self.ahead.access, self.ahead.count) = (height, access, count);
    }

    /// Hands out what is mapped from `at` on in one table, up to `end` or as far as one reading goes, and returns where to go on
    /// and what it took of a budget. `out` says how far it came with a piece; it gets no other before it is through with that.
    /// An entry that covers more than was asked for is handed out whole.
    ///
    /// # Errors
    /// That of `out`.
    pub fn step<E>(
        &mut self,
        at: u64,
        end: u64,
        counters: &mut Counters,
        mut out: impl FnMut(&Piece) -> Result<u64, E>,
    ) -> Result<(u64, u32), E> {
        let first = self.tables.first;
        let mut cost = 0;
        if self.ahead.rest(at, &self.tables).is_none() {
            self.fetch(at, end, counters);
            cost = 1 + self.ahead.count as u32 / ENTRIES_A_UNIT;
        }
        let Ahead { height, access, .. } = *self.ahead;
        let size = 1u64 << shift(height);
        let mut base = at & !(size - 1);
        let mut run: Option<Piece> = None;
        let mut words = self.ahead.rest(at, &self.tables).unwrap_or_default();
        while let Some(word) = words.first() {
            let to = match decode(first, *word, height) {
                Read::Table(..) => break,
                Read::Leaf(to, rights) => Some((Gpa(to), access & rights)),
                Read::Hole => None,
            };
            let to = to.filter(|(_, rights)| !rights.is_empty());
            let step = if to.is_some() { size } else { 0 };
            let alike = alike(words, step);
            words = &words[alike..];
            cost += DECODED_COST;
            let len = alike as u64 * size;
            let piece = Piece {
                range: Span {
                    base: Iova(base),
                    len,
                },
                to,
            };
            base += len;
            run = Some(match run {
                None => piece,
                Some(before) => match before.with(&piece) {
                    Some(both) => both,
                    None => {
                        let reached = out(&before)?;
                        if reached < before.end() {
                            return Ok((reached, cost));
                        }
                        piece
                    }
                },
            });
        }
        let reached = run.map_or(Ok(end), |run| out(&run))?;
        Ok((reached, cost))
    }
}

/// Reads entries from `at` on. One that is not in the guest's memory leads nowhere.
fn read(memory: &dyn GuestMemory, at: u64, words: &mut [u64], counters: &mut Counters) {
    counters.table_reads += 1;
    counters.entries += words.len() as u64;
    if memory.read_words(Gpa(at), words).is_err() {
        words.fill(0);
    }
}

/// How many of `words` are as the first is: each `step` more than the one before it, in its address and in nothing else.
fn alike(words: &[u64], step: u64) -> usize {
    /// Above all addresses.
    const BEYOND: u32 = 52;
    let Some(&first) = words.first() else {
        return 0;
    };
    let mut expected = first;
    let alike = words.iter().take_while(|word| {
        let is = **word == expected && (expected ^ first) >> BEYOND == 0;
        expected = expected.wrapping_add(step);
        is
    });
    alike.count()
}
