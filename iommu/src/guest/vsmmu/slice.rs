//! What a guest's SMMU needs of a slice, and the objects as just that.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::guest::{GROUP, Requests, put};
use crate::object::driver::{Answer, Entry, StageOne};
use crate::object::{
    Context, Delivery, Device, Error, Event, FaultQueue, HwptNested, HwptPaging, Item, PageRequest,
    Progress, Vdevice, Veventq, Viommu,
};
use crate::smmuv3::slice::{COMMANDS, EVENTS, VIOMMU};

/// What [`VirtSmmu`](super::VirtSmmu) sits on: one physical SMMU for one VM. Devices are named by the order in which they
/// were added.
pub trait Slice: Requests {
    /// Puts `stage_one`, on top of the slice's stage 2, in place of what the DMA of `device` goes through; hitless where
    /// the hardware can.
    ///
    /// # Errors
    /// Those of the objects. The device is in abort then, or, where even that failed ([`Error::Hardware`]), stuck: what
    /// it goes through is still on the slice's own stage 2.
    fn attach(&mut self, device: usize, stage_one: StageOne) -> Result<(), Error>;
    /// Invalidations in the guest's own format ([`COMMANDS`]), in order; at most [`BATCH`](crate::object::BATCH). What is counted is complete in
    /// the hardware.
    fn invalidate(&mut self, entries: &[Entry]) -> Progress;
    /// Takes the oldest event, in the guest's own format ([`EVENTS`]).
    fn event(&mut self) -> Option<Item<Event>>;
    /// The sequence number of the next event that there will be.
    fn sequence(&self) -> u32;
}

/// One device behind the guest's SMMU.
struct Attached {
    device: Arc<Device>,
    _name: Vdevice,
    /// Stages 1 of its own: one that it goes through, and one to take that one's place.
    stage_ones: [HwptNested; 2],
    /// Which of them was put in force last.
    used: usize,
}

/// [`Slice`] by the objects.
pub struct ObjectSlice {
    viommu: Viommu,
    events: Veventq,
    requests: Option<FaultQueue>,
    /// Refuses everything, and the guest is told.
    refuse: HwptNested,
    /// Aborts everything.
    abort: HwptNested,
    /// Stage 2 only.
    bypass: HwptNested,
    devices: Vec<Attached>,
}

impl ObjectSlice {
    /// A slice of `driver`'s SMMU on the nest parent `parent`, with a queue of `events` events and, if not 0, one of
    /// `requests` page requests.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`GROUP`] page requests; those of [`HwptPaging::viommu`], [`Viommu::veventq`], [`Context::fault_queue`] and [`Viommu::nested`].
    pub fn new(
        context: &Context,
        parent: &HwptPaging,
        driver: &Arc<dyn crate::object::driver::Driver>,
        events: u32,
        requests: u32,
    ) -> Result<Self, Error> {
        if requests as usize > GROUP {
            return Err(Error::Invalid(requests.into()));
        }
        let viommu = parent.viommu(driver, VIOMMU, Default::default())?;
        let events = viommu.veventq(EVENTS, events)?;
        let requests = match requests {
            0 => None,
            depth => Some(context.fault_queue(depth)?),
        };
        Ok(Self {
            refuse: viommu.nested(StageOne::Refuse, None)?,
            abort: viommu.nested(StageOne::Abort, None)?,
            bypass: viommu.nested(StageOne::Bypass, None)?,
            viommu,
            events,
            requests,
            devices: Vec::new(),
        })
    }

    /// Names a device; its number here is the number of devices before. Its DMA stays as it is until a guest's SMMU says
    /// otherwise. Devices of one group go through the same, whichever was told last.
    ///
    /// # Errors
    /// Those of [`Viommu::vdevice`]; [`Error::OutOfMemory`].
    pub fn add(&mut self, device: Arc<Device>, virt_id: u32) -> Result<(), Error> {
        self.devices
            .try_reserve(1)
            .map_err(|_| Error::OutOfMemory)?;
        let name = self.viommu.vdevice(&device, virt_id.into())?;
        let stage_one = || self.viommu.nested(StageOne::Abort, self.requests.as_ref());
        self.devices.push(Attached {
            device,
            _name: name,
            stage_ones: [stage_one()?, stage_one()?],
            used: 0,
        });
        Ok(())
    }

    /// Whether a fault that went there is for the guest's SMMU to deliver.
    pub fn holds(&self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::Event(queue) => queue == self.events.id(),
            Delivery::PageRequest(queue) => {
                let requests = self.requests.as_ref();
                requests.is_some_and(|requests| queue == requests.id())
            }
            _ => false,
        }
    }

    /// The slice itself.
    pub fn viommu(&self) -> &Viommu {
        &self.viommu
    }
}

impl Slice for ObjectSlice {
    fn attach(&mut self, device: usize, stage_one: StageOne) -> Result<(), Error> {
        let at = &mut self.devices[device];
        let result = match stage_one {
            StageOne::Refuse => put(&at.device, 0, &self.refuse),
            StageOne::Abort => put(&at.device, 0, &self.abort),
            StageOne::Bypass => put(&at.device, 0, &self.bypass),
            StageOne::Translate(_) | StageOne::Table(_) => {
                // The device does not go through this one, nor does another of its group.
                at.used ^= 1;
                let free = &at.stage_ones[at.used];
                free.renew(stage_one)
                    .and_then(|()| put(&at.device, 0, free))
            }
        };
        // What was in force may be what the guest has just taken away.
        if result.is_err()
            && stage_one != StageOne::Abort
            && put(&at.device, 0, &self.abort).is_err()
        {
            at.device.detach(0)?;
        }
        result
    }

    // From one place on the way of a guest's commands.
    #[inline(always)]
    fn invalidate(&mut self, entries: &[Entry]) -> Progress {
        self.viommu.invalidate(COMMANDS, entries)
    }

    fn event(&mut self) -> Option<Item<Event>> {
        self.events.pop()
    }

    fn sequence(&self) -> u32 {
        self.events.sequence()
    }
}

impl Requests for ObjectSlice {
    fn requests(&mut self, out: &mut [PageRequest]) -> Result<usize, Error> {
        match &self.requests {
            Some(queue) => queue.read(out),
            None => Ok(0),
        }
    }

    fn device_of(&self, request: &PageRequest) -> Option<usize> {
        let mut devices = self.devices.iter();
        devices.position(|at| at.device.id() == request.device)
    }

    fn respond(&mut self, cookie: u32, answer: Answer) {
        if let Some(queue) = &self.requests {
            // A group that is not there any more was answered when its device left.
            let _ = queue.respond(cookie, answer);
        }
    }
}
