//! What the DMA of one partition goes through, as objects of [`iommu::object`]: an address space with its RAM and the
//! doorbell of its messages, one table of that which every IOMMU in front of its devices walks, a slice at each of
//! these, and the devices themselves. Where the guest has IOMMUs of its own, these say what is put on the table.

mod viommus;

use crate::gate::Gate;
use crate::gather::Gather;
use crate::machine::Iommu;
use crate::messages;
use crate::monitor::Sender;
use crate::viommu;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Hpa, Iova, Span};
use iommu::fault::Fault;
use iommu::id::{DeviceId, IommuIndex, VirtDeviceId};
use iommu::object::driver::{Access, DeviceInfo, Driver, Memory, UserData};
use iommu::object::{
    Context, Delivery, Device, Error, HwptPaging, Ioas, Item, Record, Vdevice, Viommu,
};
use iommu::physical::PhysicalIommu;
use iommu::physical::PriRequest;

/// Objects of one partition at most.
const OBJECTS: u32 = 1024;
/// What a slice is called where there are some beside those of guests' own IOMMUs.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
const SLICE: Option<u32> = Some(iommu::smmuv3::slice::VIOMMU);
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
const SLICE: Option<u32> = None;
/// Records that wait for us at most; they are taken whenever there may be some.
const RECORDS: u32 = 64;

/// A partition's part of one IOMMU.
pub struct Slice {
    /// Which.
    pub iommu: IommuIndex,
    /// What a guest's own translation is put on, where the IOMMU can do that.
    pub viommu: Option<Viommu>,
}

/// A device that does DMA, as the IOMMUs in front of it see it.
pub struct Master {
    /// Who.
    pub sender: Sender,
    /// What the guest calls it, if it has a name for it.
    pub virt: Option<VirtDeviceId>,
    /// Those of one number cannot be told apart, or reach each other.
    pub group: u32,
    /// It is trusted with ATS.
    pub ats: bool,
    /// Its identities.
    pub streams: Vec<(IommuIndex, DeviceId)>,
}

/// One device at one IOMMU.
struct Bound {
    iommu: IommuIndex,
    device: Arc<Device>,
    /// A guest's IOMMU says what it goes through.
    behind_guests: bool,
    /// What its guest calls it in its slice, if it has one.
    _name: Option<Vdevice>,
}

/// See the module's description. The fields are in the order in which they end: DMA first, then whatever it went through.
pub struct Dma {
    /// By slot.
    masters: Vec<Vec<Bound>>,
    /// By slot.
    senders: Vec<Sender>,
    /// What the guest sees of the slices, if it sees any; each has its slice to itself.
    viommus: Vec<viommu::Viommu>,
    /// By IOMMU.
    pub slices: Vec<Slice>,
    /// There where a device is.
    table: Option<HwptPaging>,
    space: Ioas,
    context: Context,
}

impl Dma {
    /// Takes `masters`, by slot, all of them refused. They will reach `windows` of `memory`, each from an offset of it on,
    /// what messages are written to, and `reserved` memory where the machine has it. With `behind_guests`, what those go through that the guest has a name for is said by
    /// IOMMUs that it sees. What a failure has left is undone.
    ///
    /// # Errors
    /// Those of the objects.
    pub fn new(
        gate: &Gate,
        memory: &Arc<dyn Memory>,
        windows: &[(Span<Gpa>, u64)],
        reserved: &[(Hpa, Arc<dyn Memory>)],
        masters: &[Master],
        behind_guests: bool,
    ) -> Result<Self, Error> {
        let context = Context::new(OBJECTS, RECORDS)?;
        let space = context.ioas()?;
        for (window, offset) in windows {
            let access = Access::READ | Access::WRITE;
            space.map(
                Iova(window.base.0),
                Arc::clone(memory),
                *offset,
                window.len,
                access,
            )?;
        }
        for (at, region) in reserved {
            let access = Access::READ | Access::WRITE;
            space.map(Iova(at.0), Arc::clone(region), 0, region.size(), access)?;
        }
        messages::let_through(gate, &space)?;
        let iommus = iommus(masters);
        // One whose walks do not snoop has its tables cleaned, which does for the others.
        let unit = |iommu: &IommuIndex| &gate.unit(*iommu).iommu;
        let maker = iommus
            .iter()
            .map(unit)
            .min_by_key(|iommu| iommu.is_coherent());
        let table = maker
            .map(|iommu| space.nest_parent(&driver(iommu)))
            .transpose()?;
        let mut slices = Vec::new();
        if let Some(table) = &table {
            for iommu in &iommus {
                // A guest's IOMMU has a slice of its own.
                let made = match (behind_guests, SLICE) {
                    (false, Some(kind)) => unless_unsupported(table.viommu(
                        &driver(unit(iommu)),
                        kind,
                        UserData::default(),
                    ))?,
                    _ => None,
                };
                slices.push(Slice {
                    iommu: *iommu,
                    viommu: made,
                });
            }
        }
        let bound = masters
            .iter()
            .map(|master| bind(&context, gate, &slices, master, behind_guests));
        Ok(Self {
            masters: bound.try_gather()?,
            viommus: Vec::new(),
            senders: masters.iter().map(|master| master.sender).gather(),
            slices,
            table,
            space,
            context,
        })
    }

    /// How many devices it was made for.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether it was made for none.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Whose `slot` is.
    pub fn sender(&self, slot: usize) -> Sender {
        self.senders[slot]
    }

    /// The slot of a device, if it is one of these.
    pub fn slot(&self, sender: Sender) -> Option<usize> {
        self.senders.iter().position(|other| *other == sender)
    }

    /// What devices reach at `at`.
    pub fn reaches(&self, at: Gpa) -> Option<Hpa> {
        self.table.as_ref()?.walk(Iova(at.0))
    }

    /// The ID of an object that would be made now.
    #[cfg(test)]
    pub fn next_object(&self) -> Result<u32, Error> {
        Ok(self.context.fault_queue(1)?.id())
    }

    /// Lets the DMA of the device of `slot` through; after an error all of it is refused.
    ///
    /// # Errors
    /// Those of the objects.
    pub fn open(&self, slot: usize) -> Result<(), Error> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        let opened = self.masters[slot].iter().try_for_each(|bound| {
            // It may have been silenced since it was closed.
            bound.device.detach(0)?;
            if bound.behind_guests {
                // `start` is when the guest's IOMMUs let it through.
                return Ok(());
            }
            bound.device.attach(0, table).map(drop)
        });
        if opened.is_err() {
            self.close(slot);
        }
        opened
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.context.objects()
    }

    /// Refuses the DMA of the device of `slot`, and records what it tries. With the last device nothing of the
    /// partition is on its way any more, and in no cache of an IOMMU.
    ///
    /// # Panics
    /// It cannot be stopped.
    pub fn close(&self, slot: usize) {
        for bound in &self.masters[slot] {
            stopped(bound.device.detach(0));
        }
    }

    /// Refuses the DMA of the device of `slot` without a record until it is closed.
    ///
    /// # Panics
    /// It cannot be stopped.
    pub fn silence(&self, slot: usize) {
        for bound in &self.masters[slot] {
            stopped(bound.device.silence());
        }
    }

    /// Takes a fault, if it is of one of its devices.
    pub fn deliver(&self, fault: &Fault) -> Delivery {
        self.context.deliver(fault)
    }

    /// Takes a page request, if it is of one of its devices.
    pub fn deliver_request(&self, request: &PriRequest) -> Delivery {
        self.context.deliver_request(request)
    }

    /// An IOMMU has lost page requests.
    pub fn requests_lost(&self, iommu: IommuIndex) {
        self.context.requests_lost(iommu);
    }

    /// What has waited for an answer since the time before last is answered as wrong.
    pub fn age_requests(&self) {
        self.context.age_requests();
    }

    /// An IOMMU has lost records.
    pub fn faults_lost(&self, iommu: IommuIndex) {
        self.context.faults_lost(iommu);
    }

    /// The oldest of what is for us and not for the guest.
    pub fn record(&self) -> Option<Item<Record>> {
        self.context.record()
    }
}

/// A device that cannot be stopped may write anywhere from here on.
fn stopped(result: Result<(), Error>) {
    if let Err(error) = result {
        panic!("cannot stop the DMA of a device: {error}");
    }
}

fn driver(iommu: &Arc<Iommu>) -> Arc<dyn Driver> {
    Arc::clone(iommu) as Arc<dyn Driver>
}

/// The IOMMUs that devices are behind, each once.
fn iommus(masters: &[Master]) -> Vec<IommuIndex> {
    let streams = masters.iter().flat_map(|master| &master.streams);
    let mut iommus = Vec::new();
    for (iommu, _) in streams {
        if let Err(place) = iommus.binary_search(iommu) {
            iommus.insert(place, *iommu);
        }
    }
    iommus
}

/// Takes one device at each IOMMU that it is behind, and gives it its name there.
fn bind(
    context: &Context,
    gate: &Gate,
    slices: &[Slice],
    master: &Master,
    viommu: bool,
) -> Result<Vec<Bound>, Error> {
    let behind_guests = viommu && master.virt.is_some();
    let mut all = Vec::new();
    for iommu in iommus(core::slice::from_ref(master)) {
        let streams = master.streams.iter().filter(|stream| stream.0 == iommu);
        let streams: Vec<_> = streams.map(|stream| stream.1).gather();
        let unit = &gate.unit(iommu).iommu;
        if master.ats && !unit.physical().lock().caps().ats {
            return Err(Error::Incompatible);
        }
        let device = context.bind(&DeviceInfo {
            driver: driver(unit),
            streams: &streams,
            group: master.group,
            pasid_bits: 0,
            ats: master.ats,
            reserved: messages::RESERVED,
            // Or its guest knows that it does not, from its device tree.
            coherent: true,
            isolated_messages: messages::are_isolated(gate, iommu),
            shares_page_requests: false,
        })?;
        let slice = slices.iter().find(|slice| slice.iommu == iommu);
        let viommu = slice.and_then(|slice| slice.viommu.as_ref());
        let name = match viommu.zip(master.virt) {
            Some((viommu, virt)) => unless_unsupported(viommu.vdevice(&device, virt.0.into()))?,
            None => None,
        };
        all.push(Bound {
            iommu,
            device: Arc::new(device),
            behind_guests,
            _name: name,
        });
    }
    Ok(all)
}

/// What an IOMMU does not have is not there, and no error.
fn unless_unsupported<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Unsupported(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
