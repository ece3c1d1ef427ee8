//! Messages of functions. On VT-d they are no DMA: the unit of a function translates each into a vector of the CPU that runs
//! a vCPU of its owner, and from nobody else. What the function sends is ours; what the guest wants instead is looked up
//! once the vector is there, and goes to its local APICs.
//!
//! Each message has its entry and its vector from the start, so nothing is handed out while guests run. Entries are present
//! only while their function is open.
//!
//! Where units and CPUs post interrupts, a message that has come is posted from then on: straight to the vCPU and as the
//! vector that the guest wants, with nobody of ours on the way, until the guest may want something else.

use super::irq::POSTED;
use super::partition::{Materials, Partition};
use super::system::System;
use super::units;
use crate::devices::Owned;
use crate::gate::Gate;
use crate::lock::Mutex;
use crate::machine::Iommu;
use crate::msix_table::MsixTable;
use crate::pci::FunctionInfo;
use crate::say;
use crate::vdev::msi::{Interrupt, Msi};
use crate::vdev::vpci::VirtualPci;
use crate::vectors::{Owner, Vectors};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::mmio::MmioError;
use core::fmt;
use iommu::addr::Hpa;
use iommu::id::IommuIndex;
use iommu::object::driver::{ReservedKind, ReservedRegion};
use iommu::object::{Error as ObjectError, Ioas};
use iommu::physical::IommuError;
use iommu::vtd::interrupt_post::{Notification, Posting};
use iommu::vtd::interrupt_remap::{Message, Route, Source as Sender};

/// What the messages of all functions share.
pub struct Shared {
    /// Local APIC ID of each CPU.
    pub cpus: Vec<u32>,
    /// Whose their vectors are.
    pub vectors: Vectors,
}

impl Shared {
    /// The word of a descriptor that says how CPU `cpu` is notified.
    pub fn notification(&self, cpu: usize) -> u64 {
        let notification = Notification {
            destination: self.cpus[cpu],
            vector: POSTED,
            suppressed: false,
        };
        let word = notification.word(units::destinations());
        word.expect("a local APIC ID is as wide as its mode has it")
    }
}

/// Why a function cannot have its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Entries of the unit.
    Entries(IommuError),
    /// The registers around the function's MSI-X table.
    Registers(MmioError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(error) => write!(f, "interrupt remapping: {error}"),
            Self::Registers(error) => write!(f, "MSI-X table: {error}"),
        }
    }
}

/// One function's messages.
pub struct Source {
    /// Which function.
    pub slot: usize,
    iommu: IommuIndex,
    /// Entry of message 0.
    first: u16,
    /// Where each goes, and from whom.
    routes: Vec<Route>,
    /// Those that are posted. Whoever changes what the guest wants looks here after that.
    posted: Mutex<Vec<u16>>,
    /// Its MSI-X table, if it has one.
    pub table: Option<MsixTable>,
}

/// A function's entries in the table of its unit. They go with this.
pub struct Mapped {
    iommu: Arc<Iommu>,
    first: u16,
    count: u16,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let mut unit = self.iommu.physical().lock();
        if let Err(error) = unit.give_interrupts(self.first, self.count) {
            // They stay taken then.
            say!("entries {:#x} and up stay: {error}", self.first);
        }
    }
}

/// Writes to these are messages, whatever a table says (VT-d, 3.15).
pub const RESERVED: &[ReservedRegion] = &[ReservedRegion {
    first: 0xfee0_0000,
    last: 0xfeef_ffff,
    kind: ReservedKind::Msi,
}];

/// Lets messages out of `space`: they do not pass it.
///
/// # Errors
/// None here.
pub const fn let_through(_: &Gate, _: &Ioas) -> Result<(), ObjectError> {
    Ok(())
}

/// Whether a device cannot send another's messages: its unit knows who may use which entry.
pub fn are_isolated(gate: &Gate, iommu: IommuIndex) -> bool {
    let physical = gate.unit(iommu).iommu.physical().lock();
    physical.layout().interrupts.is_some()
}

impl Source {
    /// The messages of `owned`, function `slot` of partition `partition` on `cpus`, which is `info`; none if it can send
    /// none. All are blocked.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        (partition, slot): (usize, usize),
        cpus: &[u16],
        owned: &Owned,
        info: &FunctionInfo,
        materials: &Materials<'_>,
    ) -> Result<Option<(Self, Mapped)>, Error> {
        let vectors = info.capabilities.vectors();
        let (Some(&(index, _)), Some(&sender)) = (owned.streams.first(), info.requester_ids.last())
        else {
            return Ok(None);
        };
        let mut routes = Vec::new();
        let shared = &materials.gate.messages;
        for number in 0..vectors {
            let owner = Owner {
                partition,
                slot,
                number,
            };
            let Some((cpu, vector)) = shared.vectors.take(cpus, owner) else {
                say!(
                    "{}: {number} of its {vectors} messages; no vector is left for more",
                    info.address
                );
                break;
            };
            routes.push(Route {
                destination: shared.cpus[cpu],
                vector,
                level: false,
                // A bridge that replaces the requester ID does so for messages too.
                source: Sender::Requester {
                    id: sender,
                    phantom: 0,
                },
            });
        }
        if routes.is_empty() {
            return Ok(None);
        }
        let iommu = &materials.gate.unit(index).iommu;
        // One MSI with several messages names the first; all follow in a row.
        let count = (routes.len() as u16).next_power_of_two();
        let first = iommu.physical().lock().take_interrupts(count);
        let first = first.map_err(Error::Entries)?;
        let mapped = Mapped {
            iommu: Arc::clone(iommu),
            first,
            count,
        };
        let table = MsixTable::new(info, &mut materials.mmio.lock()).map_err(Error::Registers)?;
        let source = Self {
            slot,
            iommu: index,
            first,
            routes,
            posted: Mutex::new(Vec::new()),
            table,
        };
        Ok(Some((source, mapped)))
    }

    /// What the function sends by MSI.
    pub fn tell(&self, bus: &mut VirtualPci) {
        let Message { address, data } = Message::new(self.first);
        bus.set_message(self.slot, address, data);
    }

    /// Lets its messages through, or no more.
    fn set_open(&self, gate: &Gate, open: bool) -> Result<(), IommuError> {
        let mut posted = self.posted.lock();
        posted.clear();
        posted.reserve(self.routes.len());
        let mut unit = gate.unit(self.iommu).iommu.physical().lock();
        for (index, route) in (self.first..).zip(&self.routes) {
            match open {
                true => unit.route_interrupt(index, route)?,
                false => unit.block_interrupt(index)?,
            }
        }
        Ok(())
    }

    /// Has message `number` posted, if what the guest wants of it is an interrupt for one vCPU.
    fn post(&self, partition: &Partition, system: &System, number: u16) {
        let mut posted = self.posted.lock();
        if posted.contains(&number) {
            // It was on its way before.
            return;
        }
        let message = match self.wanted(&partition.assigned().bus.lock(), number) {
            Some(msi) => msi.decode(),
            None => None,
        };
        let Some(Interrupt::Message(message)) = message else {
            return;
        };
        let devices = partition.devices.lock();
        let Some((vcpu, vector)) = devices.interrupts.local.posts_to(&message) else {
            return;
        };
        drop(devices);
        let posting = Posting {
            descriptor: Hpa(partition.posted[vcpu].address()),
            vector,
            urgent: false,
            source: self.routes[usize::from(number)].source,
        };
        let mut unit = system.gate.unit(self.iommu).iommu.physical().lock();
        // Above 4 GiB both words of the entry would change, with an interrupt lost between them.
        let can = unit.features().posted_interrupts && posting.descriptor.0 >> 32 == 0;
        if can && unit.post_interrupt(self.first + number, &posting).is_ok() {
            posted.push(number);
        }
    }

    /// What the guest wants may be something else from here on: all come to us first.
    pub fn stop_posting(&self, gate: &Gate) {
        let mut posted = self.posted.lock();
        if posted.is_empty() {
            return;
        }
        let mut unit = gate.unit(self.iommu).iommu.physical().lock();
        for number in posted.drain(..) {
            let route = &self.routes[usize::from(number)];
            if let Err(error) = unit.route_interrupt(self.first + number, route) {
                // It is blocked.
                say!("message {number} of a function is lost: {error}");
            }
        }
    }

    /// A store to the pages of its table.
    pub fn write(&self, offset: u64, size: u8, value: u64) {
        if let Some(table) = &self.table {
            table.write(offset, size, value, self.first, self.routes.len());
        }
    }

    /// The guest's table is as after reset.
    fn forget(&self) {
        if let Some(table) = &self.table {
            table.forget();
        }
    }

    /// What the guest wants of message `number`, as its function has it.
    fn wanted(&self, bus: &VirtualPci, number: u16) -> Option<Msi> {
        if bus.has_msix_on(self.slot) {
            return self.table.as_ref()?.message(number);
        }
        let (address, data) = bus.message(self.slot, number)?;
        Some(Msi { address, data })
    }
}

impl Partition {
    /// Its functions may send messages, once they are its own.
    pub fn open_messages(&self, system: &System) {
        for source in &self.assigned().sources {
            if let Err(error) = source.set_open(&system.gate, true) {
                let function = self.assigned().dma.sender(source.slot);
                say!("{}: {function} has no interrupts: {error}", self.name());
            }
        }
    }

    /// No message of its functions arrives any more, and the guest has none programmed.
    ///
    /// # Panics
    /// They cannot be stopped.
    pub fn close_messages(&self, system: &System) {
        for source in &self.assigned().sources {
            if let Err(error) = source.set_open(&system.gate, false) {
                panic!("cannot stop the messages of a device: {error}");
            }
            source.forget();
        }
    }

    /// The function of `slot` is reset.
    pub fn forget_messages(&self, slot: usize) {
        let mut sources = self.assigned().sources.iter();
        if let Some(source) = sources.find(|source| source.slot == slot) {
            source.forget();
        }
    }

    /// Message `number` of the function of `slot` has come: to the local APIC that the guest has written down.
    fn take_message(&self, system: &System, slot: usize, number: u16) {
        let devices = self.assigned();
        let mut sources = devices.sources.iter();
        let source = sources.find(|source| source.slot == slot);
        let wanted = source.and_then(|source| source.wanted(&devices.bus.lock(), number));
        let from = source.map(|source| (source.iommu, devices.owned[slot].virt.0 as u16));
        // The guest may have turned it off since it was sent.
        if let Some(msi) = wanted {
            self.send_message(system, from, msi);
        }
        // What a guest's own unit remaps is that unit's to say.
        let posts = system.technology.delivers() && self.dma().viommus().is_empty();
        if let Some(source) = source.filter(|_| posts) {
            source.post(self, system, number);
        }
    }

    /// What the guest wants of its functions' messages, or which of its local APICs listen, may have changed.
    pub fn stop_posting(&self, system: &System) {
        for source in &self.assigned().sources {
            source.stop_posting(&system.gate);
        }
    }
}

impl System {
    /// `vector` has come to this CPU, and is none of our own.
    pub fn message(&self, vector: u8) {
        let owner = self.gate.messages.vectors.owner(arch::cpu::index(), vector);
        let partition = owner.and_then(|owner| {
            self.partitions
                .iter()
                .find(|it| it.index == owner.partition)
        });
        if let Some((owner, partition)) = owner.zip(partition) {
            partition.take_message(self, owner.slot, owner.number);
        }
    }
}
