//! First stages (3.6, 9.7), alone and on a second stage (3.8), with what is cached of them under domain and PASID (6.2).

use alloc::collections::BTreeMap;

use super::State;
use super::cache::{Scope, Translation};
use super::space::{First, Space};
use super::translate::{INTERRUPTS, Request};

/// A leaf as it is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    to: Translation,
    /// User requests are allowed.
    user: bool,
    /// Privileged writes are.
    privileged_write: bool,
    /// A second stage took part.
    nested: bool,
}

/// A table on the way: bytes that it covers, where it is in memory, the rights on the way, and whether a second stage said
/// where it is.
#[derive(Clone, Copy, Debug)]
struct Table {
    size: u64,
    /// As the entry says it, and in memory.
    table: u64,
    at: u64,
    write: bool,
    user: bool,
    nested: bool,
}

/// What is held of first stages, by domain, PASID, height of the entry for tables, and first address.
#[derive(Default)]
pub(super) struct FirstStages {
    leaves: BTreeMap<(u16, u32, u64), Held>,
    tables: BTreeMap<(u16, u32, u8, u64), Table>,
}

impl FirstStages {
    /// Translations that are held.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    pub fn forget(&mut self, scope: &Scope) {
        self.leaves.retain(|(of, at, base), it| match *scope {
            Scope::Everything => false,
            // 6.5.2.3: what a second stage took part in goes as a whole, a first stage alone stays.
            Scope::Domain(domain) | Scope::Pages { domain, .. } => *of != domain || !it.nested,
            Scope::FirstStage {
                domain,
                pasid,
                first,
                last,
                ..
            } => (*of, *at) != (domain, pasid) || *base > last || base + (it.to.size - 1) < first,
            _ => true,
        });
        self.tables.retain(|(of, at, _, base), it| match *scope {
            Scope::Everything => false,
            Scope::Domain(domain) => *of != domain || !it.nested,
            Scope::Pages { domain, leaf, .. } => leaf || *of != domain || !it.nested,
            Scope::FirstStage {
                domain,
                pasid,
                first,
                last,
                leaf,
            } => {
                let outside = *base > last || base + (it.size - 1) < first;
                leaf || (*of, *at) != (domain, pasid) || outside
            }
            _ => true,
        });
    }

    fn find(&self, space: &Space, address: u64) -> Option<(u64, Held)> {
        let key = (space.domain, space.pasid, address);
        let (&(domain, pasid, base), &it) = self.leaves.range(..=key).next_back()?;
        let same = (domain, pasid) == (space.domain, space.pasid);
        (same && address - base < it.to.size).then_some((base, it))
    }

    fn table(&self, space: &Space, address: u64) -> Option<(u8, Table)> {
        (1..5).find_map(|height| {
            let key = (space.domain, space.pasid, height, address);
            let (&(domain, pasid, at, base), &it) = self.tables.range(..=key).next_back()?;
            let same = (domain, pasid, at) == (space.domain, space.pasid, height);
            (same && address - base < it.size).then_some((height - 1, it))
        })
    }
}

impl State {
    /// Where a request goes through a first stage, and a second if there is one. Reasons of scalable mode.
    pub(super) fn through_first(
        &mut self,
        space: &Space,
        first: &First,
        request: &Request,
    ) -> Result<u64, u8> {
        let bits = 12 + 9 * u32::from(first.levels);
        let sign = (request.address as i64) >> (bits - 1);
        if sign != 0 && sign != -1 {
            return Err(0x80);
        }
        if request.privileged && !first.supervisor {
            return Err(0x5d);
        }
        if let Some((base, held)) = self.cache.first.find(space, request.address) {
            let allowed = match (request.privileged, request.write) {
                (false, write) => held.user && (!write || held.to.write),
                (true, write) => !write || held.privileged_write,
            };
            if allowed {
                self.counters.hits += 1;
                return Ok(held.to.output + (request.address - base));
            }
            // The tables may allow more by now, or have to note a write: they are looked at.
            let key = (space.domain, space.pasid, base);
            self.cache.first.leaves.remove(&key);
        }
        let (base, held) = self.walk_first(space, first, request)?;
        let key = |base| (space.domain, space.pasid, base);
        let inside: alloc::vec::Vec<_> = self
            .cache
            .first
            .leaves
            .range(key(base)..=key(base + (held.to.size - 1)))
            .map(|(key, _)| *key)
            .collect();
        for key in inside {
            self.cache.first.leaves.remove(&key);
        }
        self.cache.first.leaves.insert(key(base), held);
        Ok(held.to.output + (request.address - base))
    }

    /// Where a first-stage table is in memory.
    fn table_of(&mut self, space: &Space, table: u64, top: bool, write: bool) -> Result<u64, u8> {
        let Some(second) = space.second else {
            return Ok(table);
        };
        let found = self.through_second(space.domain, second, table, write);
        found.map(|(to, _)| to).map_err(|reason| match reason {
            0x4 => 0x74,
            0x6 if top => 0x75,
            0x6 => 0x76,
            0x5 => 0x77,
            other => other,
        })
    }

    /// Sets accessed and dirty flags of an entry, where they are not.
    fn note(
        &mut self,
        space: &Space,
        first: &First,
        (table, at): (u64, u64),
        entry: u64,
        dirty: bool,
    ) -> Result<(), u8> {
        let flags = 1 << 5 | u64::from(dirty) << 6 | u64::from(first.extended_accessed) << 10;
        if entry & flags == flags {
            return Ok(());
        }
        if !self.config.coherent {
            return Err(0x90);
        }
        let at = self.table_of(space, table, false, true)? + at;
        let stored = self.memory.device_write(at, entry | flags, true);
        stored.map_err(|_| 0x70)
    }

    fn walk_first(
        &mut self,
        space: &Space,
        first: &First,
        request: &Request,
    ) -> Result<(u64, Held), u8> {
        self.counters.walks += 1;
        let nested = space.second.is_some();
        let limit = if nested { 52 } else { self.config.output_bits };
        let beyond = 0x000f_ffff_ffff_f000 & !((1u64 << limit) - 1);
        let top = first.levels - 1;
        let known = self.cache.first.table(space, request.address);
        // What is not allowed on the way is looked at again, as with a translation.
        let known = known.filter(|(height, it)| {
            *height < top && (request.privileged || it.user) && (!request.write || it.write)
        });
        let (mut height, mut table, mut at, mut write, mut user) = match known {
            Some((height, it)) => (height, it.table, Some(it.at), it.write, it.user),
            None => (top, first.root, None, true, true),
        };
        loop {
            let shift = 12 + 9 * u32::from(height);
            let index = request.address >> shift & 0x1ff;
            let page = match at.take() {
                Some(at) => at,
                None => self.table_of(space, table, height == top, false)?,
            };
            self.counters.first_entries += 1;
            let denied = if height == top { 0x73 } else { 0x70 };
            let entry = self.read(page + index * 8).ok_or(denied)?;
            if entry & 1 == 0 {
                return Err(0x71);
            }
            let large = height > 0 && entry >> 7 & 1 != 0;
            let allowed = match height {
                0 | 1 => true,
                2 => self.config.first_stage_1_gib,
                _ => false,
            };
            let size = 1u64 << shift;
            // Bit 12 of a large page is of its memory type.
            let low = if large { (size - 1) & !0x1fff } else { 0 };
            if large && !allowed || entry & (beyond | low) != 0 {
                return Err(0x72);
            }
            write &= entry >> 1 & 1 != 0;
            user &= entry >> 2 & 1 != 0;
            let leaf = height == 0 || large;
            if leaf {
                if !request.privileged && !user {
                    return Err(0x81);
                }
                let writes = write || request.privileged && !first.write_protect;
                if request.write && !writes {
                    return Err(0x85);
                }
            }
            let dirty = leaf && request.write;
            self.note(space, first, (table, index * 8), entry, dirty)?;
            let base = request.address & !(size - 1);
            let next = entry & 0x000f_ffff_ffff_f000;
            if leaf {
                let output = next & !(size - 1);
                let dirty = request.write || entry >> 6 & 1 != 0;
                let to = Translation {
                    size,
                    output,
                    read: true,
                    write: write && dirty,
                };
                let privileged_write = (write || !first.write_protect) && dirty;
                let held = Held {
                    to,
                    user,
                    privileged_write,
                    nested,
                };
                return self.onto_second(space, base, held, request);
            }
            table = next;
            let to = self.table_of(space, next, false, false)?;
            let key = (space.domain, space.pasid, height, base);
            let held = Table {
                size,
                table: next,
                at: to,
                write,
                user,
                nested,
            };
            self.cache.first.tables.insert(key, held);
            at = Some(to);
            height -= 1;
        }
    }

    /// What a leaf is with the second stage that it is on.
    fn onto_second(
        &mut self,
        space: &Space,
        base: u64,
        held: Held,
        request: &Request,
    ) -> Result<(u64, Held), u8> {
        let to = held.to.output + (request.address - base);
        let Some(second) = space.second else {
            let past = to >> self.config.output_bits != 0;
            if INTERRUPTS.contains(&to) || past {
                return Err(0x87);
            }
            return Ok((base, held));
        };
        let found = self.through_second(space.domain, second, to, request.write);
        let (output, under) = found?;
        let size = held.to.size.min(under.size);
        let both = Held {
            to: Translation {
                size,
                output: output & !(size - 1),
                read: under.read,
                write: held.to.write && under.write,
            },
            privileged_write: held.privileged_write && under.write,
            ..held
        };
        Ok((request.address & !(size - 1), both))
    }
}
