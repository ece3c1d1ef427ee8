//! Where a fault goes: to the guest as an event of its slice, to a fault queue as a page request, or to the owner of
//! the context as a record. None is silent.

use alloc::sync::Arc;

use super::Error;
use super::driver::Answer;
use super::fault_queue::PageRequest;
use super::hwpt::Parent;
use super::ids::Object;
use super::inner::Inner;
use crate::fault::{Fault, Stage};
use crate::id::IommuIndex;
use crate::physical::IommuError;

/// What the owner of a context is told, because no object could be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Record {
    /// A fault of a device of this context that is not for its guest: of our stage 2, or without a queue to go to.
    Fault(Fault),
    /// An event queue was full, or was told of a loss.
    EventsLost {
        /// The queue's ID.
        veventq: u32,
    },
    /// A fault queue was full: the group was answered as wrong.
    RequestsLost {
        /// The queue's ID.
        fault_queue: u32,
    },
    /// An IOMMU dropped fault records, which may have been of this context's devices.
    FaultsLost(IommuIndex),
    /// A hardware queue of a slice stopped with the driver's own error.
    QueueError {
        /// The slice's ID.
        viommu: u32,
        /// The driver's word.
        error: u64,
    },
    /// A device could not be put back where it was. It is refused DMA.
    Contained {
        /// The device's ID.
        device: u32,
        /// Why.
        error: Error,
    },
    /// The DMA of a device could not be stopped. It, and what it can reach, stay.
    Stuck {
        /// The device's ID.
        device: u32,
        /// Why.
        error: IommuError,
    },
}

/// Where a fault went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The device is not of this context.
    NotMine,
    /// To the event queue with this ID.
    Event(u32),
    /// To the fault queue with this ID.
    PageRequest(u32),
    /// To the owner.
    Record,
}

impl Inner {
    /// Takes one fault of a physical IOMMU.
    pub(super) fn deliver(&mut self, fault: &Fault) -> Delivery {
        let found = self.ids.live().find(|(_, entry)| match &entry.object {
            Object::Device(bound) => {
                bound.driver.index() == fault.iommu && bound.streams.contains(&fault.device)
            }
            _ => false,
        });
        let Some((device, _)) = found else {
            return Delivery::NotMine;
        };
        if fault.stalled {
            return self.request(device, fault);
        }
        if fault.stage != Stage::Two
            && let Some(veventq) = self.give_guest(device, fault)
        {
            return Delivery::Event(veventq);
        }
        self.records.push(Record::Fault(*fault));
        Delivery::Record
    }

    /// Puts a fault into the event queue of the device's slice, if it has a name there and there is a queue.
    fn give_guest(&mut self, device: u32, fault: &Fault) -> Option<u32> {
        let name = self
            .ids
            .vdevice(self.ids.device(device).ok()?.vdevice?)
            .ok()?;
        let (viommu, virt_id) = (name.viommu, name.virt_id);
        // Only while the guest's own stage 1 is in force is the fault the guest's.
        let hwpt = self.attached(device, 0)?;
        if self.ids.nested(hwpt).ok()?.parent != Parent::Viommu(viommu) {
            return None;
        }
        let slice = self.ids.viommu(viommu).ok()?;
        let (kind, event) = slice.ops.event(fault, virt_id)?;
        let (_, veventq) = *slice.events.iter().find(|(known, _)| *known == kind)?;
        self.push_event(veventq, event);
        Some(veventq)
    }

    fn push_event(&mut self, veventq: u32, event: super::veventq::Event) {
        let Ok(events) = self.ids.veventq_mut(veventq) else {
            return;
        };
        if !events.ring.push(event) {
            self.records.push(Record::EventsLost { veventq });
        }
    }

    /// Puts an event of a slice into its queue of that type.
    pub(super) fn report_event(
        &mut self,
        viommu: u32,
        kind: u32,
        event: super::veventq::Event,
    ) -> Result<(), Error> {
        let events = &self.ids.viommu(viommu)?.events;
        let queue = events.iter().find(|(known, _)| *known == kind);
        let (_, veventq) = *queue.ok_or(Error::Unsupported(kind))?;
        self.push_event(veventq, event);
        Ok(())
    }

    /// The IOMMU dropped records: every event queue behind it says so, and so does the owner's list.
    pub(super) fn faults_lost(&mut self, iommu: IommuIndex) {
        for id in 1..=self.ids.highest() {
            let Ok(events) = self.ids.veventq(id) else {
                continue;
            };
            let slice = self.ids.viommu(events.viommu);
            if slice.is_ok_and(|slice| slice.driver.index() == iommu)
                && let Ok(events) = self.ids.veventq_mut(id)
            {
                events.ring.push_lost();
                self.records.push(Record::EventsLost { veventq: id });
            }
        }
        self.records.push(Record::FaultsLost(iommu));
    }

    /// A page request: to the fault queue of what the device goes through.
    fn request(&mut self, device: u32, fault: &Fault) -> Delivery {
        let Ok(bound) = self.ids.device(device) else {
            return Delivery::NotMine;
        };
        let driver = Arc::clone(&bound.driver);
        // A guest that owns the PASID table gets them all through requests without one.
        let at = fault.pasid.unwrap_or(0);
        let through = match self.attached(device, at) {
            Some(hwpt) => Some((at, hwpt)),
            None => self.attached(device, 0).map(|hwpt| (0, hwpt)),
        };
        let queue = through.and_then(|(at, hwpt)| Some((at, self.fault_queue_of(hwpt)?)));
        let Some((at, fault_queue)) = queue else {
            let group = fault.tag.into();
            let _ = driver.respond(fault.device, fault.pasid, group, Answer::Invalid);
            self.records.push(Record::Fault(*fault));
            return Delivery::Record;
        };
        let request = PageRequest {
            device,
            pasid: fault.pasid,
            group: fault.tag.into(),
            last: true,
            access: if fault.write { 2 } else { 1 },
            address: fault.iova.map_or(0, |iova| iova.0),
            cookie: 0,
        };
        self.push_request(fault_queue, &driver, fault.device, at, request);
        Delivery::PageRequest(fault_queue)
    }

    /// Puts a page request into a queue; a full one answers it.
    pub(super) fn push_request(
        &mut self,
        fault_queue: u32,
        driver: &Arc<dyn super::driver::Driver>,
        stream: crate::id::DeviceId,
        at: u32,
        request: PageRequest,
    ) {
        let Ok(queue) = self.ids.fault_queue_mut(fault_queue) else {
            return;
        };
        if !queue.push(driver, stream, at, request) {
            self.records.push(Record::RequestsLost { fault_queue });
        }
    }
}

impl Inner {
    /// A page request of a device that came through its attachment at PASID `at`.
    pub(super) fn page_request(
        &mut self,
        device: u32,
        at: u32,
        request: PageRequest,
    ) -> Result<(), Error> {
        let bound = self.ids.device(device)?;
        let (driver, stream) = (Arc::clone(&bound.driver), bound.streams[0]);
        let hwpt = self.attached(device, at).ok_or(Error::NotAttached(at))?;
        let fault_queue = self.fault_queue_of(hwpt).ok_or(Error::NotAttached(at))?;
        let request = PageRequest {
            device,
            cookie: 0,
            ..request
        };
        self.push_request(fault_queue, &driver, stream, at, request);
        Ok(())
    }

    /// The fault queue of a HWPT.
    pub(super) fn fault_queue_of(&self, hwpt: u32) -> Option<u32> {
        match &self.ids.entry(hwpt).ok()?.object {
            Object::Paging(paging) => paging.fault,
            Object::Nested(nested) => nested.fault,
            _ => None,
        }
    }
}
