//! What takes long, in parts: sources are put before what their entries say, and shadows are made what guests' tables say.

use super::contexts::{Found, PAST, Tables, Wanted, find, next_pasid};
use super::effect::Effect;
use super::job::{Job, Pasids, What};
use super::shadow::Walk;
use super::{Current, SOURCE_COST, Shadow, Slice, Through, VirtVtd};
use crate::addr::{Gpa, Iova, PAGE_SIZE, Span};
use crate::hal::{GuestMemory, Platform};
use crate::object::Error;
use crate::object::driver::Entry;

/// What it takes of the budget to look for a shadow of a domain.
const SHADOW_COST: u32 = 1;
/// What it takes to have a shadow hold a run, to have caches forget what was there, and for each table that is new.
const RUN_COST: u32 = 2;
const FORGET_COST: u32 = 8;
const TABLE_COST: u32 = 2;
/// What it takes to free a few tables.
const FREE_COST: u32 = 8;
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
    /// What is left; nothing for one that is full.
    rest: Option<Part>,
}

/// A part of a shadow that is to be made what the guest's tables say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    from: u64,
    end: u64,
    /// It was begun before.
    begun: bool,
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
                    let wanted = shadow
                        .filter(|it| !it.leaving && domain.is_none_or(|of| of == it.tables.domain));
                    if let Some(Shadow { nested: true, .. }) = wanted {
                        self.forget(job.next, &[forgotten(*first, *last, false)], effect);
                        *budget = budget.saturating_sub(FORGET_COST);
                    } else if let Some(Shadow { tables, .. }) = wanted {
                        let limit = 1u64 << self.input_bits.min(tables.input_bits);
                        // Of a block that is left in part the size is not known any more.
                        let whole = || self.widened(job.next, *first, *last, limit);
                        let part = rest.unwrap_or_else(whole);
                        match self.sync(memory, job.next, tables, part, budget) {
                            Ok(None) => {}
                            Ok(left) => {
                                *rest = left;
                                return false;
                            }
                            Err(error) => self.lose(job.next, error, effect),
                        }
                    }
                    *budget = budget.saturating_sub(SHADOW_COST);
                    *rest = None;
                    job.next += 1;
                }
                true
            }
        }
    }

    /// The range, with all of the blocks that are there at its ends: what is forgotten of a block is forgotten of all of it.
    fn widened(&self, shadow: usize, first: u64, last: u64, limit: u64) -> Part {
        let last = last.min(limit - 1);
        if first > last {
            return Part {
                from: limit,
                end: limit,
                begun: false,
            };
        }
        let leaf = |at| {
            self.slice
                .leaf(self.shadows[shadow].as_ref()?.number, Iova(at))
        };
        let block = |at| leaf(at).filter(|leaf| leaf.len >= BLOCK);
        let lowest = block(first);
        let highest = match (first ^ last) / PAGE_SIZE {
            0 => lowest,
            _ => block(last),
        };
        let from = lowest.map_or(first, |leaf| leaf.base.0.min(first));
        let end = last + 1;
        let end = highest.map_or(end, |leaf| (leaf.base.0 + leaf.len).max(end));
        Part {
            from,
            end: end.min(limit),
            begun: false,
        }
    }

    /// Makes a part of a shadow what the guest's tables say of it, and returns what is left.
    fn sync(
        &mut self,
        memory: &dyn GuestMemory,
        shadow: usize,
        tables: Tables,
        part: Part,
        budget: &mut u32,
    ) -> Result<Option<Part>, Error> {
        let Some(shadow) = &self.shadows[shadow] else {
            return Ok(None);
        };
        let number = shadow.number;
        let Part {
            from: mut at,
            mut end,
            ..
        } = part;
        // What was begun goes on in the middle of an entry; else one that begins before is handed out whole.
        let least = if part.begun { at } else { 0 };
        if !part.begun {
            self.ahead.forget();
        }
        let mut walk = Walk::new(memory, tables, &mut self.ahead);
        while at < end {
            if *budget == 0 {
                return Ok(Some(Part {
                    from: at,
                    end,
                    begun: true,
                }));
            }
            let (slice, counters) = (&mut self.slice, &mut self.counters);
            let (mut runs, mut new_tables) = (0, 0);
            let (next, taken) = walk.step(at, end, counters, |piece| {
                end = end.max(piece.end());
                let mut done = least.saturating_sub(piece.range.base.0);
                while done < piece.range.len && *budget > 0 {
                    let range = Span {
                        base: piece.range.base + done,
                        len: piece.range.len - done,
                    };
                    let to = piece.to.map(|(to, access)| (Gpa(to.0 + done), access));
                    let set = slice.set(number, range, to)?;
                    runs += u64::from(to.is_some() || set.changed);
                    let forgetting = if set.forgot { FORGET_COST } else { 0 };
                    let freeing = if set.freed { FREE_COST } else { 0 };
                    *budget = budget.saturating_sub(RUN_COST + forgetting + freeing);
                    new_tables += set.new_tables;
                    done += set.bytes;
                    if set.bytes == 0 {
                        *budget = 0;
                    }
                }
                Ok::<u64, Error>(piece.range.base.0 + done)
            })?;
            *budget = budget.saturating_sub(taken);
            self.counters.runs += runs;
            if new_tables > 0 {
                let new = (new_tables / PAGE_SIZE) as u32;
                *budget = budget.saturating_sub(new * TABLE_COST);
                // What one step adds is a few tables at most.
                if self.slice.bytes() > self.shadow_bytes {
                    return Err(Error::NoSpace);
                }
            }
            at = next;
        }
        Ok(None)
    }

    /// Goes on with emptying what nothing goes through any more, as that takes long, and closes it when it is empty. Whether there
    /// was any.
    pub(super) fn empty(&mut self, budget: &mut u32) -> bool {
        if !self.leaving {
            return false;
        }
        let mut shadows = self.shadows.iter();
        let Some(index) = shadows.position(|it| it.is_some_and(|it| it.leaving)) else {
            self.leaving = false;
            return false;
        };
        *budget = budget.saturating_sub(FREE_COST);
        if let Some(Shadow { number, .. }) = self.shadows[index] {
            if self.slice.clear(number) == Ok(true) {
                return true;
            }
            self.slice.close(number);
            self.shadows[index] = None;
        }
        true
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
                    .position(|shadow| shadow.is_some_and(|it| !it.leaving && it.tables == tables));
                let filling = match known {
                    Some(shadow) => Filling { shadow, rest: None },
                    // The places and the bytes of those that leave are free first.
                    None if self.leaving => return false,
                    None => match self.open(tables) {
                        Ok(shadow) => {
                            let end = 1 << self.input_bits.min(tables.input_bits);
                            let all = Part {
                                from: 0,
                                end,
                                begun: false,
                            };
                            let is_shadow = self.shadows[shadow].is_some_and(|it| !it.nested);
                            let rest = is_shadow.then_some(all);
                            Filling { shadow, rest }
                        }
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
        let Some(Shadow { number, tables, .. }) = self.shadows[shadow] else {
            return true;
        };
        if let Some(part) = filling.rest {
            match self.sync(memory, shadow, tables, part, budget) {
                Ok(None) => {}
                Ok(rest) => {
                    filling.rest = rest;
                    self.filling = Some(filling);
                    return false;
                }
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
