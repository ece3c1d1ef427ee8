//! Access pins: software (and hardware queues) that read or write an address space's memory directly.
//!
//! An unmapping of pinned memory is refused at once: the lock is held, and nobody is called up. The holder finds
//! [`wanted`](Pins::wanted) set, lets go, and the unmapping is tried again.

use alloc::vec::Vec;

use super::driver::Access;
use super::ids::Object;
use super::inner::Inner;
use super::{Error, room};
use crate::addr::{Hpa, Iova, PAGE_SIZE, Span};

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pins {
    pub ioas: u32,
    /// What is held, each by as many pins as there are entries.
    pub ranges: Vec<Span<Iova>>,
    /// A hardware queue's: it cannot be asked, and locks the areas.
    pub locks: bool,
    /// An unmapping was refused because of it.
    pub wanted: bool,
}

impl Inner {
    /// A user of an address space's memory.
    pub(super) fn access_alloc(&mut self, ioas: u32, locks: bool) -> Result<u32, Error> {
        let alignment = self.ids.ioas(ioas)?.raised(PAGE_SIZE)?;
        let id = self.publish_with(|inner, _| {
            inner.ids.ioas_mut(ioas)?.alignment = alignment;
            Ok(Object::Access(Pins {
                ioas,
                ranges: Vec::new(),
                locks,
                wanted: false,
            }))
        })?;
        self.ids.grab(ioas);
        Ok(id)
    }

    /// Calls `with` with each area of a range that is mapped without a hole.
    fn each_area(
        &mut self,
        ioas: u32,
        range: Span<Iova>,
        mut with: impl FnMut(&mut super::ioas::Area, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if range.len == 0 {
            return Err(Error::Empty);
        }
        let first = range.base.0;
        let last = first.checked_add(range.len - 1).ok_or(Error::Overflow)?;
        let space = self.ids.ioas_mut(ioas)?;
        let mut at = first;
        loop {
            let index = space.index(at);
            let area = space.areas.get_mut(index);
            let area = area.filter(|area| area.first <= at && !area.stale);
            let area = area.ok_or(Error::NotMapped(at))?;
            let end = area.last().min(last);
            with(area, at, end - at + 1)?;
            if end == last {
                return Ok(());
            }
            at = end + 1;
        }
    }

    /// Holds a range, and returns the physically contiguous pieces of it in order.
    pub(super) fn pin(
        &mut self,
        access: u32,
        range: Span<Iova>,
        write: bool,
    ) -> Result<Vec<Span<Hpa>>, Error> {
        let pins = self.ids.access(access)?;
        let (ioas, locks) = (pins.ioas, pins.locks);
        let needed = if write { Access::WRITE } else { Access::READ };
        let mut pieces: Vec<Span<Hpa>> = Vec::new();
        self.each_area(ioas, range, |area, at, len| {
            if !area.access.contains(needed) {
                return Err(Error::NotPermitted);
            }
            area.pieces(at, len, |part, hpa| {
                let base = hpa;
                if let Some(piece) = pieces.last_mut()
                    && piece.base + piece.len == base
                {
                    piece.len += part.len;
                    return Ok(());
                }
                room::reserve(&mut pieces, 1)?;
                let len = part.len;
                pieces.push(Span { base, len });
                Ok(())
            })
        })?;
        room::reserve(&mut self.ids.access_mut(access)?.ranges, 1)?;
        self.ids.access_mut(access)?.ranges.push(range);
        self.each_area(ioas, range, |area, _, _| {
            *(if locks {
                &mut area.locks
            } else {
                &mut area.pins
            }) += 1;
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Lets go of a range that was pinned exactly so.
    pub(super) fn unpin(&mut self, access: u32, range: Span<Iova>) -> Result<(), Error> {
        let pins = self.ids.access_mut(access)?;
        let at = pins.ranges.iter().position(|it| *it == range);
        let at = at.ok_or(Error::NotMapped(range.base.0))?;
        pins.ranges.swap_remove(at);
        pins.wanted &= !pins.ranges.is_empty();
        let (ioas, locks) = (pins.ioas, pins.locks);
        self.each_area(ioas, range, |area, _, _| {
            *(if locks {
                &mut area.locks
            } else {
                &mut area.pins
            }) -= 1;
            Ok(())
        })
    }

    /// Lets go of everything.
    pub(super) fn unpin_all(&mut self, access: u32) {
        while let Some(range) = self
            .ids
            .access(access)
            .ok()
            .and_then(|it| it.ranges.last().copied())
        {
            if self.unpin(access, range).is_err() {
                return;
            }
        }
    }

    /// Whoever holds a part of `first..=last` is told to let go.
    pub(super) fn ask_to_unpin(&mut self, ioas: u32, first: u64, last: u64) {
        for id in 1..=self.ids.highest() {
            if let Ok(pins) = self.ids.access_mut(id)
                && pins.ioas == ioas
                && pins
                    .ranges
                    .iter()
                    .any(|it| it.base.0 <= last && first < it.base.0 + it.len)
            {
                pins.wanted = true;
            }
        }
    }

    pub(super) fn access_destroyed(&mut self, pins: &Pins) {
        for range in &pins.ranges {
            // The areas are there: they could not be unmapped.
            let _ = self.each_area(pins.ioas, *range, |area, _, _| {
                *(if pins.locks {
                    &mut area.locks
                } else {
                    &mut area.pins
                }) -= 1;
                Ok(())
            });
        }
        self.settle_alignment(pins.ioas);
        self.put(pins.ioas);
    }
}
