//! Where a fault goes: to the guest as an event of its slice, to a fault queue as a page request, or to the owner of
//! the context as a record. None is silent.

use alloc::sync::Arc;

use super::Error;
use super::driver::{Answer, Waiting};
use super::fault_queue::PageRequest;
use super::ids::Object;
use super::inner::Inner;
use super::nested::Parent;
use crate::fault::{Fault, Stage};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{IommuError, PriRequest};

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
    /// A fault queue was full, and the group was answered as wrong; or an IOMMU dropped a part of a group.
    RequestsLost {
        /// The queue's ID.
        fault_queue: u32,
    },
    /// Requests of a fault queue were not answered in time: they were answered as wrong.
    RequestsExpired {
        /// The queue's ID.
        fault_queue: u32,
    },
    /// A page request of a device of this context without a queue to go to: it was answered as wrong.
    Request(PriRequest),
    /// An IOMMU dropped fault records, which may have been of this context's devices.
    FaultsLost(IommuIndex),
    /// A hardware queue of a slice stopped with the driver's own error.
    QueueError {
        /// The slice's ID.
        viommu: u32,
        /// The driver's word.
        error: u64,
    },
    /// A device could not be put back where it was, or does not forget what it has cached ([`IommuError::DeviceTlb`]). It
    /// is refused DMA.
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
    /// Nobody has to know, and nobody waits.
    Ignored,
}

/// Access that a page request asks for.
const READ: u32 = 1;
const WRITE: u32 = 2;
const EXECUTE: u32 = 4;
const PRIVILEGED: u32 = 8;

/// The bits of what is asked for.
fn access(asked: &[(bool, u32)]) -> u32 {
    let bits = asked.iter().filter(|(is, _)| *is);
    bits.fold(0, |all, (_, bit)| all | bit)
}

impl Inner {
    /// Takes one fault of a physical IOMMU.
    pub(super) fn deliver(&mut self, fault: &Fault) -> Delivery {
        let Some(device) = self.device_of(fault.iommu, fault.device) else {
            return Delivery::NotMine;
        };
        if fault.stalled {
            return self.stalled(device, fault);
        }
        // A second stage of a shadow is the guest's own.
        let guests = fault.stage != Stage::Two || self.shadows(device).is_some();
        if guests && let Some(veventq) = self.give_guest(device, fault) {
            return Delivery::Event(veventq);
        }
        self.records.push(Record::Fault(*fault));
        Delivery::Record
    }

    /// The device that has a stream.
    fn device_of(&self, iommu: IommuIndex, stream: DeviceId) -> Option<u32> {
        let mut live = self.ids.live();
        let found = live.find(|(_, entry)| match &entry.object {
            Object::Device(bound) => {
                bound.driver.index() == iommu && bound.streams.contains(&stream)
            }
            _ => false,
        });
        found.map(|(device, _)| device)
    }

    /// Puts a fault into the event queue of the device's slice, if it has a name there and there is a queue.
    fn give_guest(&mut self, device: u32, fault: &Fault) -> Option<u32> {
        let name = self
            .ids
            .vdevice(self.ids.device(device).ok()?.vdevice?)
            .ok()?;
        let (viommu, virt_id) = (name.viommu, name.virt_id);
        // Only while the guest's own stage 1 is in force is the fault the guest's.
        let hwpt = fault
            .pasid
            .and_then(|pasid| self.attached(device, pasid))
            .or_else(|| self.attached(device, 0))?;
        let nested = self.ids.nested(hwpt).map(|nested| nested.parent);
        if nested != Ok(Parent::Viommu(viommu)) && self.shadows(device) != Some(viommu) {
            return None;
        }
        let slice = self.ids.viommu(viommu).ok()?;
        let (kind, event) = slice.ops.event(fault, virt_id)?;
        let (_, veventq) = *slice.events.iter().find(|(known, _)| *known == kind)?;
        self.push_event(veventq, event);
        Some(veventq)
    }

    /// The slice whose shadow a device goes through.
    fn shadows(&self, device: u32) -> Option<u32> {
        let hwpt = self.attached(device, 0)?;
        self.ids.paging(hwpt).ok()?.shadow
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

    /// A stalled transaction: to the fault queue of what the device goes through.
    fn stalled(&mut self, device: u32, fault: &Fault) -> Delivery {
        let request = PageRequest {
            device,
            pasid: fault.pasid,
            group: fault.tag,
            stalled: true,
            last: true,
            access: access(&[
                (!fault.write, READ),
                (fault.write, WRITE),
                (fault.instruction, EXECUTE),
                (fault.privileged, PRIVILEGED),
            ]),
            reason: Some(fault.reason),
            address: fault.iova.map_or(0, |iova| iova.0),
            cookie: 0,
        };
        if let Some(fault_queue) = self.give_queue(fault.device, request) {
            return Delivery::PageRequest(fault_queue);
        }
        let waiting = Waiting::Stall(fault.tag);
        self.refuse(device, fault.device, waiting);
        self.records.push(Record::Fault(*fault));
        Delivery::Record
    }

    /// Takes one page request of a physical IOMMU.
    pub(super) fn deliver_request(&mut self, asked: &PriRequest) -> Delivery {
        let Some(device) = self.device_of(asked.iommu, asked.device) else {
            return Delivery::NotMine;
        };
        if asked.is_stop_marker() {
            return Delivery::Ignored;
        }
        let request = PageRequest {
            device,
            pasid: asked.pasid,
            group: asked.group,
            stalled: false,
            last: asked.last,
            access: access(&[
                (asked.read, READ),
                (asked.write, WRITE),
                (asked.execute, EXECUTE),
                (asked.privileged, PRIVILEGED),
            ]),
            reason: None,
            address: asked.address.0,
            cookie: 0,
        };
        if let Some(fault_queue) = self.give_queue(asked.device, request) {
            return Delivery::PageRequest(fault_queue);
        }
        if !asked.last {
            return Delivery::Ignored;
        }
        let waiting = Waiting::Pages {
            pasid: asked.pasid,
            group: asked.group,
        };
        self.refuse(device, asked.device, waiting);
        self.records.push(Record::Request(*asked));
        Delivery::Record
    }

    fn refuse(&self, device: u32, stream: DeviceId, waiting: Waiting) {
        if let Ok(bound) = self.ids.device(device) {
            // A device that cannot be answered keeps waiting, which harms nobody else.
            let _ = bound.driver.respond(stream, waiting, Answer::Invalid);
        }
    }

    /// Puts a page request into the fault queue of what its device goes through; a full one answers it. The queue, if
    /// there is one.
    fn give_queue(&mut self, stream: DeviceId, request: PageRequest) -> Option<u32> {
        let device = request.device;
        let driver = Arc::clone(&self.ids.device(device).ok()?.driver);
        // A guest that owns the PASID table gets them all through requests without one.
        let at = request.pasid.unwrap_or(0);
        let (at, hwpt) = match self.attached(device, at) {
            Some(hwpt) => (at, hwpt),
            None => (0, self.attached(device, 0)?),
        };
        let fault_queue = self.fault_queue_of(hwpt)?;
        let queue = self.ids.fault_queue_mut(fault_queue).ok()?;
        if !queue.push(&driver, stream, at, request) {
            self.records.push(Record::RequestsLost { fault_queue });
        }
        Some(fault_queue)
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
