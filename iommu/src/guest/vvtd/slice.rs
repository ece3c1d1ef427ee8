//! What a guest's VT-d unit needs of a slice, and the objects as just that.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{Gpa, Iova, Span};
use crate::guest::GROUP;
use crate::guest::{Requests, put};
use crate::object::driver::{Access, Answer, Driver, Entry, StageOne};
use crate::object::{
    Context, Delivery, Device, Error, Event, FaultQueue, HwptNested, HwptPaging, HwptShadow, Item,
    PageRequest, Set, Vdevice, Veventq, Viommu, room,
};
use crate::physical::FirstStage;
use crate::vtd::nested::INVALIDATE;
use crate::vtd::slice::{EVENTS, VIOMMU};

/// What the DMA of a source goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Through {
    /// Every request is refused, and the guest is told.
    Refuse,
    /// Every request is refused without a word.
    Abort,
    /// Guest physical addresses, straight into the slice's own table.
    Bypass,
    /// The shadow, or the guest's first stage, with this number.
    Shadow(usize),
}

/// What [`VirtVtd`](super::VirtVtd) sits on: one physical unit for one VM. Devices are named by the order in which they were
/// added, shadows by numbers that [`open`](Self::open) gives. PASID 0 is what comes without one.
pub trait Slice: Requests {
    /// Puts `through` in place of what the DMA of `device` with `pasid` goes through. No request that starts later uses the old one.
    ///
    /// # Errors
    /// Those of the objects. The device, or the PASID, is in abort then, or, where even that failed ([`Error::Hardware`]), stuck: what it
    /// goes through is still the slice's own.
    fn attach(&mut self, device: usize, pasid: u32, through: Through) -> Result<(), Error>;
    /// A new, empty shadow.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OutOfMemory`].
    fn open(&mut self) -> Result<usize, Error>;
    /// A guest's first stage on the slice's own table, as the hardware walks it; its number is one of those of shadows.
    ///
    /// # Errors
    /// [`Error::IllegalStageOne`], [`Error::Unsupported`], [`Error::NoSpace`], [`Error::OutOfMemory`].
    fn open_first_stage(&mut self, first: FirstStage) -> Result<usize, Error>;
    /// Has the hardware forget of a guest's first stage what entries in the format of [`INVALIDATE`] say: all of it before
    /// this returns.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where there is no such first stage; [`Error::Hardware`].
    fn forget(&mut self, first_stage: usize, entries: &[Entry]) -> Result<(), Error>;
    /// A shadow, or a first stage, that no device goes through any more is gone.
    fn close(&mut self, shadow: usize);
    /// Makes the start of `range` of a shadow lead to the guest's memory from the address on, or nowhere: as much of it as a few
    /// tables hold. What is so already costs nothing. What was otherwise is in no cache when this returns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: nothing is mapped. [`Error::Hardware`].
    fn set(
        &mut self,
        shadow: usize,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<Set, Error>;
    /// Empties a shadow at once, and frees a few of the tables that held what was there. Whether there were any.
    ///
    /// # Errors
    /// [`Error::Hardware`].
    fn clear(&mut self, shadow: usize) -> Result<bool, Error>;
    /// The page or block of a shadow that `at` is in.
    fn leaf(&self, shadow: usize, at: Iova) -> Option<Span<Iova>>;
    /// Bytes of all shadows' tables.
    fn bytes(&self) -> u64;
    /// Takes the oldest event, in the format of [`EVENTS`].
    fn event(&mut self) -> Option<Item<Event>>;
    /// The sequence number of the next event that there will be.
    fn sequence(&self) -> u32;
}

/// One device behind the guest's unit.
struct Attached {
    device: Arc<Device>,
    _name: Vdevice,
}

/// What tables of the guest's became.
enum Opened {
    Shadow(HwptShadow),
    FirstStage(HwptNested),
}

/// [`Slice`] by the objects.
pub struct ObjectSlice {
    viommu: Viommu,
    events: Veventq,
    requests: Option<FaultQueue>,
    refuse: HwptNested,
    abort: HwptNested,
    bypass: HwptNested,
    opened: Vec<Option<Opened>>,
    devices: Vec<Attached>,
}

impl ObjectSlice {
    /// A slice of `driver`'s unit on the nest parent `parent`, with a queue of `events` events.
    ///
    /// # Errors
    /// Those of [`HwptPaging::viommu`], [`Viommu::veventq`] and [`Viommu::nested`].
    pub fn new(parent: &HwptPaging, driver: &Arc<dyn Driver>, events: u32) -> Result<Self, Error> {
        let viommu = parent.viommu(driver, VIOMMU, Default::default())?;
        Ok(Self {
            events: viommu.veventq(EVENTS, events)?,
            requests: None,
            refuse: viommu.nested_for_pasids(StageOne::Refuse, None)?,
            abort: viommu.nested_for_pasids(StageOne::Abort, None)?,
            bypass: viommu.nested_for_pasids(StageOne::Bypass, None)?,
            viommu,
            opened: Vec::new(),
            devices: Vec::new(),
        })
    }

    /// The same with a queue of `requests` page requests, of devices that go through first stages of the guest's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`GROUP`] page requests; those of [`Context::fault_queue`].
    pub fn with_requests(self, context: &Context, requests: u32) -> Result<Self, Error> {
        if requests as usize > GROUP {
            return Err(Error::Invalid(requests.into()));
        }
        Ok(Self {
            requests: Some(context.fault_queue(requests)?),
            ..self
        })
    }

    /// Names a device; its number here is the number of devices before. Its DMA stays as it is until a guest's unit says
    /// otherwise. Devices of one group go through the same, whichever was told last.
    ///
    /// # Errors
    /// Those of [`Viommu::vdevice`]; [`Error::OutOfMemory`].
    pub fn add(&mut self, device: Arc<Device>, virt_id: u32) -> Result<(), Error> {
        room::reserve(&mut self.devices, 1)?;
        let name = self.viommu.vdevice(&device, virt_id.into())?;
        self.devices.push(Attached {
            device,
            _name: name,
        });
        Ok(())
    }

    /// Whether a fault that went there is for the guest's unit to deliver.
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

    /// A shadow that is open.
    pub fn shadow(&self, shadow: usize) -> Option<&HwptShadow> {
        match self.opened.get(shadow)? {
            Some(Opened::Shadow(shadow)) => Some(shadow),
            _ => None,
        }
    }

    /// A place for what is opened next.
    fn place(&mut self) -> Result<usize, Error> {
        if let Some(free) = self.opened.iter().position(Option::is_none) {
            return Ok(free);
        }
        room::reserve(&mut self.opened, 1)?;
        self.opened.push(None);
        Ok(self.opened.len() - 1)
    }
}

impl Slice for ObjectSlice {
    fn attach(&mut self, device: usize, pasid: u32, through: Through) -> Result<(), Error> {
        let device = &self.devices[device].device;
        let result = match through {
            // A PASID that nothing is attached at is refused.
            Through::Refuse | Through::Abort if pasid != 0 => match device.detach(pasid) {
                Err(Error::NotAttached(_)) => Ok(()),
                result => result,
            },
            Through::Refuse => put(device, pasid, &self.refuse),
            Through::Abort => put(device, pasid, &self.abort),
            Through::Bypass => put(device, pasid, &self.bypass),
            Through::Shadow(number) => match self.opened.get(number) {
                Some(Some(Opened::Shadow(shadow))) => put(device, pasid, shadow),
                Some(Some(Opened::FirstStage(nested))) => put(device, pasid, nested),
                _ => Err(Error::NoSpace),
            },
        };
        if pasid != 0 {
            if result.is_err() {
                device.detach(pasid)?;
            }
            return result;
        }
        if result.is_err() && through != Through::Abort && put(device, 0, &self.abort).is_err() {
            // What was in force may be what the guest has just taken away.
            device.detach(0)?;
        }
        result
    }

    fn open(&mut self) -> Result<usize, Error> {
        let at = self.place()?;
        self.opened[at] = Some(Opened::Shadow(self.viommu.shadow()?));
        Ok(at)
    }

    fn open_first_stage(&mut self, first: FirstStage) -> Result<usize, Error> {
        let at = self.place()?;
        let nested = self
            .viommu
            .nested_for_pasids(StageOne::Table(first), self.requests.as_ref())?;
        self.opened[at] = Some(Opened::FirstStage(nested));
        Ok(at)
    }

    fn forget(&mut self, first_stage: usize, entries: &[Entry]) -> Result<(), Error> {
        match self.opened.get(first_stage) {
            Some(Some(Opened::FirstStage(nested))) => nested.invalidate(INVALIDATE, entries).result,
            _ => Err(Error::NoSpace),
        }
    }

    fn close(&mut self, shadow: usize) {
        if let Some(slot) = self.opened.get_mut(shadow) {
            *slot = None;
        }
    }

    fn set(
        &mut self,
        shadow: usize,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<Set, Error> {
        let shadow = self.shadow(shadow).ok_or(Error::NoSpace)?;
        shadow.set(range, to)
    }

    fn clear(&mut self, shadow: usize) -> Result<bool, Error> {
        self.shadow(shadow).ok_or(Error::NoSpace)?.clear()
    }

    fn leaf(&self, shadow: usize, at: Iova) -> Option<Span<Iova>> {
        self.shadow(shadow)?.leaf(at)
    }

    fn bytes(&self) -> u64 {
        let opened = self.opened.iter().flatten();
        let bytes = opened.map(|it| match it {
            Opened::Shadow(shadow) => shadow.bytes(),
            // In the guest's own memory.
            Opened::FirstStage(_) => 0,
        });
        bytes.sum()
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
        self.requests
            .as_ref()
            .map_or(Ok(0), |queue| queue.read(out))
    }

    fn device_of(&self, request: &PageRequest) -> Option<usize> {
        let mut devices = self.devices.iter();
        devices.position(|at| at.device.id() == request.device)
    }

    fn respond(&mut self, cookie: u32, answer: Answer) {
        if let Some(queue) = &self.requests {
            let _ = queue.respond(cookie, answer);
        }
    }
}
