//! What a guest's VT-d unit needs of a slice, and the objects as just that.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{Gpa, Iova, Span};
use crate::guest::put;
use crate::object::driver::{Access, Driver, StageOne};
use crate::object::{
    Delivery, Device, Error, Event, HwptNested, HwptPaging, HwptShadow, Item, Vdevice, Veventq,
    Viommu, room,
};
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
    /// The shadow with this number.
    Shadow(usize),
}

/// What [`VirtVtd`](super::VirtVtd) sits on: one physical unit for one VM. Devices are named by the order in which they were
/// added, shadows by numbers that [`open`](Self::open) gives.
pub trait Slice {
    /// Puts `through` in place of what the DMA of `device` goes through. No request that starts later uses the old one.
    ///
    /// # Errors
    /// Those of the objects. The device is in abort then, or, where even that failed ([`Error::Hardware`]), stuck: what it
    /// goes through is still the slice's own.
    fn attach(&mut self, device: usize, through: Through) -> Result<(), Error>;
    /// A new, empty shadow.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OutOfMemory`].
    fn open(&mut self) -> Result<usize, Error>;
    /// A shadow that no device goes through any more is gone.
    fn close(&mut self, shadow: usize);
    /// Makes `range` of a shadow lead to the guest's memory from the address on, or nowhere. What is so already costs nothing.
    /// What was otherwise is in no cache when this returns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: the range is there in part. [`Error::Hardware`].
    fn set(
        &mut self,
        shadow: usize,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<(), Error>;
    /// The first address of a shadow from `from` on that is mapped.
    fn next(&self, shadow: usize, from: Iova) -> Option<Iova>;
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

/// [`Slice`] by the objects.
pub struct ObjectSlice {
    viommu: Viommu,
    events: Veventq,
    refuse: HwptNested,
    abort: HwptNested,
    bypass: HwptNested,
    shadows: Vec<Option<HwptShadow>>,
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
            refuse: viommu.nested(StageOne::Refuse, None)?,
            abort: viommu.nested(StageOne::Abort, None)?,
            bypass: viommu.nested(StageOne::Bypass, None)?,
            viommu,
            shadows: Vec::new(),
            devices: Vec::new(),
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
        matches!(delivery, Delivery::Event(queue) if queue == self.events.id())
    }

    /// The slice itself.
    pub fn viommu(&self) -> &Viommu {
        &self.viommu
    }

    /// A shadow that is open.
    pub fn shadow(&self, shadow: usize) -> Option<&HwptShadow> {
        self.shadows.get(shadow)?.as_ref()
    }
}

impl Slice for ObjectSlice {
    fn attach(&mut self, device: usize, through: Through) -> Result<(), Error> {
        let device = &self.devices[device].device;
        let result = match through {
            Through::Refuse => put(device, &self.refuse),
            Through::Abort => put(device, &self.abort),
            Through::Bypass => put(device, &self.bypass),
            Through::Shadow(shadow) => match self.shadow(shadow) {
                Some(shadow) => put(device, shadow),
                None => Err(Error::NoSpace),
            },
        };
        if result.is_err() && through != Through::Abort && put(device, &self.abort).is_err() {
            // What was in force may be what the guest has just taken away.
            device.detach(0)?;
        }
        result
    }

    fn open(&mut self) -> Result<usize, Error> {
        let free = self.shadows.iter().position(Option::is_none);
        if free.is_none() {
            room::reserve(&mut self.shadows, 1)?;
        }
        let shadow = self.viommu.shadow()?;
        let at = free.unwrap_or(self.shadows.len());
        match self.shadows.get_mut(at) {
            Some(slot) => *slot = Some(shadow),
            None => self.shadows.push(Some(shadow)),
        }
        Ok(at)
    }

    fn close(&mut self, shadow: usize) {
        if let Some(slot) = self.shadows.get_mut(shadow) {
            *slot = None;
        }
    }

    fn set(
        &mut self,
        shadow: usize,
        range: Span<Iova>,
        to: Option<(Gpa, Access)>,
    ) -> Result<(), Error> {
        let shadow = self.shadow(shadow).ok_or(Error::NoSpace)?;
        shadow.set(range, to)
    }

    fn next(&self, shadow: usize, from: Iova) -> Option<Iova> {
        self.shadow(shadow)?.next(from)
    }

    fn leaf(&self, shadow: usize, at: Iova) -> Option<Span<Iova>> {
        self.shadow(shadow)?.leaf(at)
    }

    fn bytes(&self) -> u64 {
        let shadows = self.shadows.iter().flatten();
        shadows.map(HwptShadow::bytes).sum()
    }

    fn event(&mut self) -> Option<Item<Event>> {
        self.events.pop()
    }

    fn sequence(&self) -> u32 {
        self.events.sequence()
    }
}
