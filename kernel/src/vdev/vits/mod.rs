//! Virtual ITS (IHI 0069, chapter 5): the guest's commands, on top of the physical ITS.
//!
//! The guest's tables are never looked at: what is mapped is kept here, with room for the vectors of the devices that
//! the partition has, and for nothing else. From guest memory come commands and LPI properties, each read once.
//!
//! A device's write to the translation register is not seen here: it goes through the SMMU to the physical ITS, which
//! raises a physical LPI; the core asks [`Vits::translate`] what that means and gives the answer to
//! [`Vgic::inject_lpi`]. Commands run in [`Vits::poll`], a bounded number a call.
//!
//! * [`spec`]: registers and commands; `registers`: the control frame; `commands`: what each command does.

mod commands;
mod registers;
pub mod spec;
#[cfg(test)]
mod tests;

use crate::vdev::CpuSet;
use crate::vdev::vgic::Vgic;
use crate::vdev::vgic::spec::{LPI_BASE, LPI_END};
use alloc::{vec, vec::Vec};
use iommu::addr::Gpa;
use iommu::hal::GuestMemory;
use iommu::id::VirtDeviceId;
use spec::{CBASER_ADDRESS, COLLECTIONS, COMMAND_BYTES, CTLR_ENABLED, Command, ID_BITS, VALID};

pub use commands::CommandError;

/// Work that one [`Vits::poll`] does: a command costs one, and one more for each event that it touches. The last
/// command of a call may go over, by the partition's number of events at most.
const BUDGET: usize = 64;

/// Why there is no such ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VitsError {
    /// A device twice, or with an identity of more than 16 bits.
    Device(VirtDeviceId),
    /// More events than there are LPIs.
    Events(usize),
    /// This many vCPUs: none, or more than 64.
    Cpus(usize),
}

/// The physical side of an event that could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendError {
    /// No physical LPI is left.
    NoLpi,
    /// The physical ITS did not do it in time.
    Hardware,
}

/// The physical ITS, for the partition's own devices. It is asked to map an event only while it is not mapped, and
/// everything else only while it is. Where nothing is returned, a failure is the implementor's to contain.
pub trait ItsBackend {
    /// Gives `event` of `device` a physical LPI, disabled, near vCPU `cpu`.
    fn map_event(
        &mut self,
        device: VirtDeviceId,
        event: u32,
        cpu: usize,
    ) -> Result<(), BackendError>;
    /// Takes the physical LPI away; it is no longer pending afterwards.
    fn unmap_event(&mut self, device: VirtDeviceId, event: u32);
    /// Moves the physical LPI near vCPU `cpu`.
    fn move_event(&mut self, device: VirtDeviceId, event: u32, cpu: usize);
    /// Lets the physical LPI fire, or stay pending.
    fn set_enabled(&mut self, device: VirtDeviceId, event: u32, enabled: bool);
    /// Makes the physical LPI not pending.
    fn clear_event(&mut self, device: VirtDeviceId, event: u32);
}

/// What an event of a device means to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// For [`Vgic::inject_lpi`], which knows its CPU, priority and whether it is enabled.
    pub slot: usize,
    /// INTID.
    pub lpi: u32,
    /// The vCPU of its collection.
    pub cpu: usize,
}

/// One assigned device.
struct Device {
    id: VirtDeviceId,
    /// Its first event in `Vits::events`, which is its LPI slot too.
    first: usize,
    /// Vectors that the device has.
    events: u32,
    /// EventIDs that the guest mapped it with, exclusive: zero while it is not mapped.
    limit: u32,
}

impl Device {
    /// The slot of `event`, if the guest has mapped the device with so many.
    #[inline(always)]
    fn slot(&self, event: u32) -> Option<usize> {
        (event < self.limit.min(self.events)).then(|| self.first + event as usize)
    }
}

/// What the guest mapped an event to.
#[derive(Clone, Copy)]
struct Event {
    /// Zero: nothing.
    lpi: u32,
    collection: u16,
}

const UNMAPPED: Event = Event {
    lpi: 0,
    collection: 0,
};

/// A partition's ITS.
pub struct Vits {
    /// Sorted by identity.
    devices: Vec<Device>,
    events: Vec<Event>,
    /// One bit an INTID: it has an event.
    used: Vec<u64>,
    /// The CPU of each collection.
    collections: [Option<u8>; COLLECTIONS],
    cpus: usize,
    control: u32,
    cbaser: u64,
    creadr: u64,
    cwriter: u64,
    stalled: bool,
    /// Devices, collections.
    basers: [u64; 2],
    /// The device table was replaced: everything is to be unmapped before anything else.
    forget: bool,
    errors: u64,
    last_error: Option<CommandError>,
    misuse: u64,
}

impl Vits {
    /// An ITS for `devices`, each with its number of vectors, and `cpus` vCPUs.
    pub fn new(devices: &[(VirtDeviceId, u32)], cpus: usize) -> Result<Self, VitsError> {
        if cpus == 0 || cpus > COLLECTIONS {
            return Err(VitsError::Cpus(cpus));
        }
        let mut sorted: Vec<(VirtDeviceId, u32)> = Vec::with_capacity(devices.len());
        for &device in devices {
            sorted.insert(sorted.partition_point(|other| *other <= device), device);
        }
        let mut list = Vec::with_capacity(sorted.len());
        let mut first = 0usize;
        for (n, &(id, events)) in sorted.iter().enumerate() {
            let twice = n > 0 && sorted[n - 1].0 == id;
            if twice || id.0 >> ID_BITS != 0 {
                return Err(VitsError::Device(id));
            }
            list.push(Device {
                id,
                first,
                events,
                limit: 0,
            });
            first = first.saturating_add(events as usize);
        }
        if first > (LPI_END - LPI_BASE) as usize {
            return Err(VitsError::Events(first));
        }
        Ok(Self {
            devices: list,
            events: vec![UNMAPPED; first],
            used: vec![0; LPI_END as usize / 64],
            collections: [None; COLLECTIONS],
            cpus,
            control: 0,
            cbaser: 0,
            creadr: 0,
            cwriter: 0,
            stalled: false,
            basers: [spec::BASER_DEVICES, spec::BASER_COLLECTIONS],
            forget: false,
            errors: 0,
            last_error: None,
            misuse: 0,
        })
    }

    /// LPI slots that the [`Vgic`] needs.
    pub fn lpi_slots(&self) -> usize {
        self.events.len()
    }

    /// Commands so far that could not be carried out, and were ignored.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// The last one's reason.
    pub fn last_error(&self) -> Option<CommandError> {
        self.last_error
    }

    /// Accesses so far that the architecture does not allow.
    pub fn misuse(&self) -> u64 {
        self.misuse
    }

    /// What `event` of `device` means, if the guest has mapped all of the way.
    pub fn translate(&self, device: VirtDeviceId, event: u32) -> Option<Translation> {
        if self.control & CTLR_ENABLED == 0 || self.forget {
            return None;
        }
        let slot = self.devices[self.device(device.0)?].slot(event)?;
        let Event { lpi, collection } = self.events[slot];
        if lpi == 0 {
            return None;
        }
        let cpu = self.collections[usize::from(collection)]?;
        Some(Translation {
            slot,
            lpi,
            cpu: usize::from(cpu),
        })
    }

    /// Whether [`Vits::poll`] has something to do: after each write of a register, and before each entry.
    pub fn has_work(&self) -> bool {
        let queued = self.cbaser & VALID != 0 && self.creadr != self.cwriter && !self.stalled;
        self.forget || (self.control & CTLR_ENABLED != 0 && queued)
    }

    /// Carries out commands, up to a bound; `CREADR` is exactly past those that are done. Returns whom to kick.
    pub fn poll(
        &mut self,
        vgic: &mut Vgic,
        memory: &dyn GuestMemory,
        backend: &mut dyn ItsBackend,
    ) -> CpuSet {
        let mut work = Work::new(vgic, memory, backend);
        if self.forget {
            self.forget_mappings(&mut work);
        }
        while work.done < BUDGET && self.has_work() {
            let Some(words) = self.fetch(work.memory) else {
                // As an access that fails would leave real hardware: software may retry by `CWRITER`.
                self.fail(CommandError::Queue(self.creadr));
                self.stalled = true;
                break;
            };
            work.done += 1;
            let outcome = Command::decode(words)
                .map_err(CommandError::Opcode)
                .and_then(|command| self.execute(command, &mut work));
            if let Err(error) = outcome {
                self.fail(error);
            }
            self.creadr = (self.creadr + COMMAND_BYTES) % self.queue_bytes();
        }
        work.kick
    }

    /// Reads all properties again: after [`super::vgic::Effects::reload_lpis`].
    pub fn reload(
        &mut self,
        vgic: &mut Vgic,
        memory: &dyn GuestMemory,
        backend: &mut dyn ItsBackend,
    ) -> CpuSet {
        let mut work = Work::new(vgic, memory, backend);
        self.for_each_mapped(&mut work, |_| true, Self::read_property);
        work.kick
    }

    /// Unmaps everything, here and in the physical ITS; all registers as after reset.
    pub fn reset(
        &mut self,
        vgic: &mut Vgic,
        memory: &dyn GuestMemory,
        backend: &mut dyn ItsBackend,
    ) -> CpuSet {
        let mut work = Work::new(vgic, memory, backend);
        self.forget_mappings(&mut work);
        self.control = 0;
        self.cbaser = 0;
        self.creadr = 0;
        self.cwriter = 0;
        self.stalled = false;
        self.basers = [spec::BASER_DEVICES, spec::BASER_COLLECTIONS];
        work.kick
    }

    fn queue_bytes(&self) -> u64 {
        ((self.cbaser & 0xff) + 1) * 4096
    }

    /// The next command, read once.
    fn fetch(&self, memory: &dyn GuestMemory) -> Option<[u64; 4]> {
        let at = Gpa(self.cbaser & CBASER_ADDRESS).checked_add(self.creadr)?;
        let mut bytes = [0; COMMAND_BYTES as usize];
        memory.read(at, &mut bytes).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        Some(core::array::from_fn(|n| u64::from_le_bytes(words[n])))
    }

    fn fail(&mut self, error: CommandError) {
        self.errors = self.errors.saturating_add(1);
        self.last_error = Some(error);
    }

    fn refuse(&mut self) {
        self.misuse = self.misuse.saturating_add(1);
    }
}

/// What a command works on, and how much has been done.
struct Work<'a> {
    vgic: &'a mut Vgic,
    memory: &'a dyn GuestMemory,
    backend: &'a mut dyn ItsBackend,
    kick: CpuSet,
    done: usize,
}

impl<'a> Work<'a> {
    fn new(
        vgic: &'a mut Vgic,
        memory: &'a dyn GuestMemory,
        backend: &'a mut dyn ItsBackend,
    ) -> Self {
        Self {
            vgic,
            memory,
            backend,
            kick: CpuSet::NONE,
            done: 0,
        }
    }
}
