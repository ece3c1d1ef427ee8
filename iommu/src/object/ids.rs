//! The ID space of one context: who exists, who uses whom, and what an ID may name again.
//!
//! An object comes in two steps: [`Ids::reserve`] takes the ID, and only [`Ids::publish`], after everything that can
//! fail, lets it be found; [`Ids::abort`] undoes the first. `users` starts at 1, which is the ID space's own.

use alloc::vec::Vec;

use super::{
    Error, access, device, fault_queue, hw_queue, hwpt, ioas, nested, room, vdevice, veventq,
    viommu,
};

/// Who ends an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// The outer ABI, by ID.
    Id,
    /// A typed handle.
    Handle,
    /// Nobody: the last use that ends takes it along. Automatic HWPTs, and objects whose handle was dropped.
    Uses,
}

/// An object and its counts.
#[derive(Debug)]
pub(super) struct Entry {
    /// References, the ID space's own included. `handles` are in it.
    pub users: u32,
    /// Typed handles and open event queues.
    pub handles: u32,
    pub owner: Owner,
    pub object: Object,
}

/// One object of any kind.
#[derive(Debug)]
pub(super) enum Object {
    Ioas(ioas::Space),
    Device(device::Bound),
    Paging(hwpt::Paging),
    Nested(nested::Nested),
    Viommu(viommu::Slice),
    Vdevice(vdevice::Name),
    Veventq(veventq::Events),
    FaultQueue(fault_queue::Requests),
    HwQueue(hw_queue::Guest),
    Access(access::Pins),
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Taken, and not to be found yet.
    Placeholder,
    /// Its object was taken from under its owner, who still believes in the ID: not usable, not reusable.
    /// True where a handle still names it.
    Tombstone(bool),
    Live(Entry),
}

/// The map from ID to object. ID n is slot n - 1: 0 is nobody.
#[derive(Debug)]
pub(super) struct Ids {
    slots: Vec<Slot>,
    limit: u32,
}

/// The largest ID.
pub(super) const MAX_ID: u32 = (1 << 31) - 1;

macro_rules! kinds {
    ($($get:ident, $get_mut:ident, $variant:ident, $type:ty;)*) => {
        $(
            /// The object, if it is of this kind.
            pub(super) fn $get(&self, id: u32) -> Result<&$type, Error> {
                match self.live_at(id) {
                    Some(Entry { object: Object::$variant(object), .. }) => Ok(object),
                    _ => Err(Error::NoSuchObject(id)),
                }
            }

            /// The object, if it is of this kind.
            #[allow(dead_code, reason = "some kinds never change")]
            pub(super) fn $get_mut(&mut self, id: u32) -> Result<&mut $type, Error> {
                match self.live_at_mut(id) {
                    Some(Entry { object: Object::$variant(object), .. }) => Ok(object),
                    _ => Err(Error::NoSuchObject(id)),
                }
            }
        )*
    };
}

impl Ids {
    /// An empty space of at most `limit` objects.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            limit: limit.min(MAX_ID),
        }
    }

    kinds! {
        ioas, ioas_mut, Ioas, ioas::Space;
        device, device_mut, Device, device::Bound;
        paging, paging_mut, Paging, hwpt::Paging;
        nested, nested_mut, Nested, nested::Nested;
        viommu, viommu_mut, Viommu, viommu::Slice;
        vdevice, vdevice_mut, Vdevice, vdevice::Name;
        veventq, veventq_mut, Veventq, veventq::Events;
        fault_queue, fault_queue_mut, FaultQueue, fault_queue::Requests;
        hw_queue, hw_queue_mut, HwQueue, hw_queue::Guest;
        access, access_mut, Access, access::Pins;
    }

    /// Takes the lowest free ID.
    pub(super) fn reserve(&mut self) -> Result<u32, Error> {
        let free = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        let at = free.unwrap_or(self.slots.len());
        if at >= self.limit as usize {
            return Err(Error::NoSpace);
        }
        if free.is_none() {
            room::reserve(&mut self.slots, 1)?;
            self.slots.push(Slot::Placeholder);
        } else {
            self.slots[at] = Slot::Placeholder;
        }
        Ok(at as u32 + 1)
    }

    /// Lets the object be found. Cannot fail.
    pub(super) fn publish(&mut self, id: u32, object: Object) {
        let slot = &mut self.slots[id as usize - 1];
        debug_assert!(matches!(slot, Slot::Placeholder));
        *slot = Slot::Live(Entry {
            users: 1,
            handles: 0,
            owner: Owner::Id,
            object,
        });
    }

    /// Gives a reserved ID back.
    pub(super) fn abort(&mut self, id: u32) {
        debug_assert!(matches!(self.slots[id as usize - 1], Slot::Placeholder));
        self.free(id);
    }

    fn free(&mut self, id: u32) {
        self.slots[id as usize - 1] = Slot::Free;
        while matches!(self.slots.last(), Some(Slot::Free)) {
            self.slots.pop();
        }
    }

    /// The live object of any kind.
    pub(super) fn entry(&self, id: u32) -> Result<&Entry, Error> {
        self.live_at(id).ok_or(Error::NoSuchObject(id))
    }

    /// The live object of any kind.
    pub(super) fn entry_mut(&mut self, id: u32) -> Result<&mut Entry, Error> {
        self.live_at_mut(id).ok_or(Error::NoSuchObject(id))
    }

    #[inline(never)]
    fn live_at(&self, id: u32) -> Option<&Entry> {
        match self.slots.get((id as usize).wrapping_sub(1)) {
            Some(Slot::Live(entry)) => Some(entry),
            _ => None,
        }
    }

    #[inline(never)]
    fn live_at_mut(&mut self, id: u32) -> Option<&mut Entry> {
        match self.slots.get_mut((id as usize).wrapping_sub(1)) {
            Some(Slot::Live(entry)) => Some(entry),
            _ => None,
        }
    }

    /// One more user of a live object.
    pub(super) fn grab(&mut self, id: u32) {
        let entry = self.entry_mut(id);
        debug_assert!(entry.is_ok(), "only what was just looked up is grabbed");
        if let Ok(entry) = entry {
            entry.users += 1;
        }
    }

    /// Takes the object out. `tombstone`: its ID stays taken.
    pub(super) fn take(&mut self, id: u32, tombstone: bool) -> Option<Entry> {
        let slot = self.slots.get_mut((id as usize).wrapping_sub(1))?;
        if !matches!(slot, Slot::Live(_)) {
            return None;
        }
        let Slot::Live(entry) = core::mem::replace(slot, Slot::Free) else {
            return None;
        };
        if tombstone {
            *slot = Slot::Tombstone(entry.handles > 0);
        } else {
            self.free(id);
        }
        Some(entry)
    }

    /// The handle on a tombstone is gone, and with it the last who believed in the ID.
    pub(super) fn forget_tombstone(&mut self, id: u32) {
        if let Some(Slot::Tombstone(true)) = self.slots.get((id as usize).wrapping_sub(1)) {
            self.free(id);
        }
    }

    /// IDs of live objects, lowest first.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = (u32, &Entry)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| match slot {
            Slot::Live(entry) => Some((at as u32 + 1, entry)),
            _ => None,
        })
    }

    /// No ID above this is taken.
    pub(super) fn highest(&self) -> u32 {
        self.slots.len() as u32
    }

    /// No live object is left: the tombstones go too.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.live().next().is_none());
        self.slots = Vec::new();
    }
}
