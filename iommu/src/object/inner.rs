//! What the lock of a context protects, and how objects go: by ID, with their last use, or all at once.

use alloc::vec::Vec;

use super::event::Record;
use super::ids::{Ids, Object, Owner};
use super::ring::Ring;
use super::{Error, attach::Group, device};
use crate::physical::IommuError;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Inner {
    pub ids: Ids,
    /// Groups with a bound device.
    pub groups: Vec<Group>,
    /// What happened that no object could be told.
    pub records: Ring<Record>,
    pub closed: bool,
    /// Names this context to the drivers.
    pub key: usize,
}

impl Inner {
    pub(super) fn new(objects: u32, records: u32) -> Result<Self, Error> {
        Ok(Self {
            ids: Ids::new(objects),
            groups: Vec::new(),
            records: Ring::new(records)?,
            closed: false,
            key: 0,
        })
    }

    /// Takes an ID for an object to be.
    pub(super) fn reserve_id(&mut self) -> Result<u32, Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        self.ids.reserve()
    }

    /// Runs the fallible part of an object's making between the two steps of its publication.
    pub(super) fn publish_with(
        &mut self,
        make: impl FnOnce(&mut Self, u32) -> Result<Object, Error>,
    ) -> Result<u32, Error> {
        let id = self.reserve_id()?;
        match make(self, id) {
            Ok(object) => {
                self.ids.publish(id, object);
                Ok(id)
            }
            Err(error) => {
                self.ids.abort(id);
                Err(error)
            }
        }
    }

    /// One user less. Takes along what only existed for its uses.
    pub(super) fn put(&mut self, id: u32) {
        let Ok(entry) = self.ids.entry_mut(id) else {
            debug_assert!(false, "{id} is used and gone");
            return;
        };
        entry.users -= 1;
        if entry.users == 1 && entry.owner == Owner::Uses {
            self.end(id, false);
        }
    }

    /// Ends an object by its ID, as the outer ABI asks.
    pub(super) fn destroy(&mut self, id: u32) -> Result<(), Error> {
        if self.ids.entry(id)?.users != 1 {
            return Err(Error::InUse(id));
        }
        self.end(id, false);
        Ok(())
    }

    /// A typed handle on a new object.
    pub(super) fn adopt(&mut self, id: u32) {
        if let Ok(entry) = self.ids.entry_mut(id) {
            entry.users += 1;
            entry.handles += 1;
            entry.owner = Owner::Handle;
        }
    }

    /// A typed handle is gone; `owned`: it was the object's owner.
    pub(super) fn drop_handle(&mut self, id: u32, owned: bool) {
        let Ok(entry) = self.ids.entry_mut(id) else {
            self.ids.forget_tombstone(id);
            return;
        };
        if matches!(entry.object, Object::Device(_)) {
            if let Err(error) = self.unbind(id) {
                // The device may still reach memory: it, its tables and the memory stay.
                self.records.push(Record::Stuck { device: id, error });
            }
            return;
        }
        entry.handles -= 1;
        if owned {
            entry.owner = Owner::Uses;
        }
        if let Object::Access(_) = entry.object {
            self.unpin_all(id);
        }
        self.put(id);
    }

    /// Ends an object that nothing uses.
    pub(super) fn end(&mut self, id: u32, tombstone: bool) {
        let Some(entry) = self.ids.take(id, tombstone) else {
            return;
        };
        match entry.object {
            Object::Ioas(space) => Self::ioas_destroyed(space),
            Object::Paging(hwpt) => self.paging_destroyed(id, hwpt),
            Object::Nested(hwpt) => self.nested_destroyed(hwpt),
            Object::Viommu(slice) => self.viommu_destroyed(slice),
            Object::Vdevice(name) => self.vdevice_destroyed(&name),
            Object::Veventq(events) => self.veventq_destroyed(id, &events),
            Object::FaultQueue(requests) => requests.answer_all(),
            Object::HwQueue(queue) => self.hw_queue_destroyed(&queue),
            Object::Access(pins) => self.access_destroyed(&pins),
            Object::Device(bound) => device::forgotten(&bound),
        }
    }

    /// Ends everything: first all DMA, then the objects from the leaves up.
    ///
    /// # Errors
    /// The first of a device whose DMA could not be stopped. It, and all that it can reach, is left.
    pub(super) fn close(&mut self) -> Result<(), IommuError> {
        self.closed = true;
        let mut result = Ok(());
        let mut from = 0;
        let is_device = |entry: &super::ids::Entry| matches!(entry.object, Object::Device(_));
        while let Some(id) = self.next_live(from, is_device) {
            from = id;
            result = result.and(self.unbind(id));
        }
        loop {
            let unused =
                |entry: &super::ids::Entry| entry.users - entry.handles == 1 && !is_device(entry);
            let Some(id) = self.next_live(0, unused) else {
                break;
            };
            self.end(id, false);
        }
        if self.ids.live().next().is_none() {
            self.ids.clear();
        }
        result
    }

    fn next_live(&self, after: u32, which: impl Fn(&super::ids::Entry) -> bool) -> Option<u32> {
        let mut live = self.ids.live();
        live.find(|(id, entry)| *id > after && which(entry))
            .map(|(id, _)| id)
    }
}
