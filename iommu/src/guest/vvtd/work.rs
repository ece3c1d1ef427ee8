//! What takes long, in parts: sources are put before what their entries say, and shadows are made what guests' tables say.

use super::contexts::{Found, PAST, Tables, Wanted, find, next_pasid};
use super::effect::Effect;
use super::job::{Job, Pasids, What};
use super::shadow::{Piece, Walk};
use super::{Current, SOURCE_COST, Shadow, Slice, Through, VirtVtd};
use crate::addr::{Iova, PAGE_SIZE, Span};
use crate::hal::{GuestMemory, Platform};
use crate::object::Error;
use crate::object::driver::Entry;

/// What a hole in a guest's tables is taken out of a shadow by: as much as one table of tables holds.
const WINDOW: u64 = 1 << 30;
/// What a window that has mappings takes of the budget.
const WINDOW_COST: u32 = 16;
/// What a page of 1 GiB takes, which may be many of ours.
const LARGEST_COST: u32 = 64;
/// What the entry of a PASID takes.
const PASID_COST: u32 = 4;
/// A block that shadows may have: what covers less may have been a part of one.
const BLOCK: u64 = 1 << 21;

/// What the hardware is to forget of a first stage: the pages `first..=last`, as [`Slice::forget`] takes it.
pub(super) fn forgotten(first: u64, last: u64, leaf: bool) -> Entry {
    match (first, last) {
        (0, u64::MAX) => [0, u64::MAX, 0, 0],
        _ => [first, (last - first) / PAGE_SIZE + 1, leaf.into(), 0],
    }
}

/// A shadow that is made for a source, before the source goes through it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Filling {
    pub shadow: usize,
    pub at: u64,
}

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Goes on with what was begun. Whether it is complete.
    pub(super) fn work(
        &mut self,
        memory: &dyn GuestMemory,
        job: &mut Job,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        match &mut job.what {
            What::Sources { which, pasids, at } => {
                let (which, pasids) = (*which, *pasids);
                while job.next < self.devices.len() {
                    if *budget == 0 {
                        return false;
                    }
                    if which.has(self.devices[job.next].behind.source.0)
                        && !self.source(memory, job.next, pasids, at, budget, effect)
                    {
                        return false;
                    }
                    job.next += 1;
                    *at = pasids.first();
                }
                true
            }
            What::Tables {
                domain,
                rest,
                first,
                last,
            } => {
                while job.next < self.shadows.len() {
                    if *budget == 0 {
                        return false;
                    }
                    let shadow = self.shadows[job.next];
                    let domain = *domain;
                    let wanted = shadow.filter(|it| domain.is_none_or(|of| of == it.tables.domain));
                    if let Some(Shadow { nested: true, .. }) = wanted {
                        self.forget(job.next, &[forgotten(*first, *last, false)], effect);
                    } else if let Some(Shadow { tables, .. }) = wanted {
                        let limit = 1u64 << self.input_bits.min(tables.input_bits);
                        // Of a block that is left in part the size is not known any more.
                        let whole = || self.widened(job.next, *first, *last, limit);
                        let (from, end) = rest.unwrap_or_else(whole);
                        match self.sync(memory, job.next, tables, from..end, budget) {
                            Ok(reached) if reached < end => {
                                *rest = Some((reached, end));
                                return false;
                            }
                            Ok(_) => {}
                            Err(error) => self.lose(job.next, error, effect),
                        }
                    }
                    *budget = budget.saturating_sub(1);
                    *rest = None;
                    job.next += 1;
                }
                true
            }
        }
    }

    /// The range, with all of the blocks that are there at its ends: what is forgotten of a block is forgotten of all of it.
    fn widened(&self, shadow: usize, first: u64, last: u64, limit: u64) -> (u64, u64) {
        let last = last.min(limit - 1);
        if first > last {
            return (limit, limit);
        }
        let leaf = |at| {
            self.slice
                .leaf(self.shadows[shadow].as_ref()?.number, Iova(at))
        };
        let block = |at| leaf(at).filter(|leaf| leaf.len >= BLOCK);
        let first = block(first).map_or(first, |leaf| leaf.base.0.min(first));
        let end = last + 1;
        let end = block(last).map_or(end, |leaf| (leaf.base.0 + leaf.len).max(end));
        (first, end.min(limit))
    }

    /// Makes a shadow what the guest's tables say of a range, and returns how far it came.
    fn sync(
        &mut self,
        memory: &dyn GuestMemory,
        shadow: usize,
        tables: Tables,
        range: core::ops::Range<u64>,
        budget: &mut u32,
    ) -> Result<u64, Error> {
        let Some(shadow) = &self.shadows[shadow] else {
            return Ok(range.end);
        };
        let number = shadow.number;
        let (mut at, end) = (range.start, range.end);
        let mut walk = Walk::new(memory, tables);
        while at < end && *budget > 0 {
            let (slice, counters) = (&mut self.slice, &mut self.counters);
            let mut hole: Option<Piece> = None;
            let (mut cost, mut runs) = (0, 0);
            let (next, taken) = walk.step(at, end, counters, |piece| {
                if piece.to.is_none() {
                    if piece.range.len > BLOCK {
                        hole = Some(*piece);
                        return Ok(());
                    }
                    // Nothing is asked of a shadow that has nothing there.
                    let mapped = slice.next(number, piece.range.base);
                    if mapped.is_none_or(|mapped| mapped.0 >= piece.end()) {
                        return Ok(());
                    }
                }
                cost += if piece.range.len < WINDOW {
                    1
                } else {
                    LARGEST_COST
                };
                runs += 1;
                slice.set(number, piece.range, piece.to)
            })?;
            *budget = budget.saturating_sub(taken + cost);
            self.counters.runs += runs;
            // What one step adds is a few tables at most.
            if runs > 0 && self.slice.bytes() > self.shadow_bytes {
                return Err(Error::NoSpace);
            }
            at = match hole {
                None => next,
                Some(hole) => at.max(self.clear(number, &hole, budget)?).min(next),
            };
        }
        Ok(at)
    }

    /// Empties a large hole, by windows that have something, and returns how far it came.
    fn clear(&mut self, number: usize, hole: &Piece, budget: &mut u32) -> Result<u64, Error> {
        let mut at = hole.range.base.0;
        loop {
            let mapped = self.slice.next(number, Iova(at));
            let Some(mapped) = mapped.filter(|mapped| mapped.0 < hole.end()) else {
                return Ok(hole.end());
            };
            if *budget == 0 {
                return Ok(mapped.0);
            }
            *budget = budget.saturating_sub(WINDOW_COST);
            self.counters.runs += 1;
            let end = (mapped.align_down(WINDOW).0 + WINDOW).min(hole.end());
            let range = Span {
                base: mapped,
                len: end - mapped.0,
            };
            self.slice.set(number, range, None)?;
            at = end;
        }
    }

    /// Puts a source before what its entries say, those of some PASIDs. Whether that is complete.
    fn source(
        &mut self,
        memory: &dyn GuestMemory,
        device: usize,
        pasids: Pasids,
        at: &mut u32,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        if let Pasids::One(pasid) = pasids {
            return pasid >> self.rules.pasid_bits != 0
                || self.configure(memory, (device, pasid), budget, effect);
        }
        if *at == 0 {
            if !self.configure(memory, (device, 0), budget, effect) {
                return false;
            }
            *at = 1;
        }
        let source = self.devices[device].behind.source.0 as u16;
        while *at < PAST {
            if *budget == 0 {
                return false;
            }
            // What is begun goes on where it is.
            let next = match (self.filling, self.registers.translation) {
                (Some(_), _) => *at,
                (None, false) => PAST,
                (None, true) => {
                    let root = self.registers.root;
                    let (next, cost) = next_pasid(memory, &self.rules, root, source, *at);
                    *budget = budget.saturating_sub(cost);
                    next
                }
            };
            // In between there are none.
            // From the end, as the last takes the place of what goes.
            for index in (0..self.places.len()).rev() {
                let place = self.places[index];
                if place.device == device && (*at..next).contains(&place.pasid) {
                    self.put((device, place.pasid), Through::Refuse, None, effect);
                }
            }
            *at = next;
            if next < PAST {
                if !self.configure(memory, (device, next), budget, effect) {
                    return false;
                }
                *at = next + 1;
            }
        }
        true
    }

    /// Puts a PASID of a source before what its entry says. Whether that is complete.
    fn configure(
        &mut self,
        memory: &dyn GuestMemory,
        at: (usize, u32),
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        if let Some(filling) = self.filling.take() {
            return self.fill(memory, at, filling, budget, effect);
        }
        let (device, pasid) = at;
        *budget = budget.saturating_sub(if pasid == 0 { SOURCE_COST } else { PASID_COST });
        let source = self.devices[device].behind.source.0 as u16;
        let with = (pasid != 0).then_some(pasid);
        let found = match self.registers.translation {
            true => find(memory, &self.rules, self.registers.root, source, with),
            false if pasid != 0 => Found {
                wanted: Wanted::Refused(0),
                silent: true,
            },
            false => Found {
                wanted: Wanted::PassThrough,
                silent: false,
            },
        };
        if pasid == 0 {
            self.devices[device].found = found;
        }
        match found.wanted {
            Wanted::Refused(_) => {
                self.put(at, Through::Refuse, Some(Current::Refused), effect);
            }
            Wanted::PassThrough => {
                self.put(at, Through::Bypass, Some(Current::PassThrough), effect);
            }
            Wanted::Through(tables) => {
                let mut shadows = self.shadows.iter();
                let known = shadows
                    .position(|shadow| shadow.as_ref().is_some_and(|it| it.tables == tables));
                let filling = match known {
                    // It is filled.
                    Some(shadow) => Filling {
                        shadow,
                        at: u64::MAX,
                    },
                    None => match self.open(tables) {
                        Ok(shadow) => Filling { shadow, at: 0 },
                        Err(error) => {
                            effect.failed = Some(error);
                            self.put(at, Through::Abort, None, effect);
                            return true;
                        }
                    },
                };
                return self.fill(memory, at, filling, budget, effect);
            }
        }
        true
    }

    /// Fills a shadow, and puts a source behind it once it is full.
    fn fill(
        &mut self,
        memory: &dyn GuestMemory,
        at: (usize, u32),
        mut filling: Filling,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        let shadow = filling.shadow;
        let Some(Shadow {
            number,
            tables,
            nested,
        }) = self.shadows[shadow]
        else {
            return true;
        };
        let limit = 1u64 << self.input_bits.min(tables.input_bits);
        if filling.at < limit && !nested {
            match self.sync(memory, shadow, tables, filling.at..limit, budget) {
                Ok(reached) if reached < limit => {
                    filling.at = reached;
                    self.filling = Some(filling);
                    return false;
                }
                Ok(_) => {}
                Err(error) => {
                    effect.failed = Some(error);
                    self.put(at, Through::Abort, None, effect);
                    self.settle();
                    return true;
                }
            }
        }
        let current = Some(Current::Shadow(shadow));
        self.put(at, Through::Shadow(number), current, effect);
        true
    }
}
