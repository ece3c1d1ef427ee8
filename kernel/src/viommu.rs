//! The SMMUs that a partition sees: one for each physical one that its functions are behind, on the partition's slice of it.
//!
//! [`VirtSmmu`] decides, under the lock of its own; what it asks for outside comes back as an [`Effect`] and is carried out
//! here: interrupts of the guest, and work that is left for the next time.
//!
//! Messages of its devices pass both stages. The guest is told of an ITS at [`guest_map::ITS`] (`msi-map` in a device tree,
//! MADT and IORT in ACPI) and maps the page of its `GITS_TRANSLATER` in stage 1 wherever it wants, as Linux does; stage 2 has
//! that page at the same guest address, alone, to be written by devices and not by CPUs: not the control frame. So there is
//! nothing to reserve (no RMR, no identity window). The hardware takes a message's DeviceID from who writes it. What a guest
//! says to its ITS names DeviceIDs of its own numbering; one that is none of its devices' is refused
//! ([`crate::vdev::vits`]).

use crate::guest_map::{self, CONTEXTS_STRIDE, SMMU_INTIDS, SMMU_STRIDE};
use crate::guest_ram::GuestRam;
use crate::irq::KICK;
use crate::lock::Mutex;
use crate::machine::{Buffer, Host, Iommu};
use crate::partition::Partition;
use crate::say;
use crate::system::System;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu::addr::{Hpa, Iova, PAGE_SIZE, Span};
use iommu::guest::vsmmu::spec::PAGE_ONE;
use iommu::guest::vsmmu::{
    self, ContextCopies, Counters, Effect, Interrupts, ObjectSlice, SetupError,
};
use iommu::hal::{DmaBuffer, Platform};
use iommu::id::IommuIndex;
use iommu::object::driver::{Access, Memory};
use iommu::object::{Error, Ioas};
use iommu::smmuv3::Offer;
use iommu::smmuv3::slice::VIOMMU;
use iommu::smmuv3::spec::command::COMMAND_BYTES;

/// What a guest sees of one physical SMMU.
pub type VirtSmmu = vsmmu::VirtSmmu<Host, ObjectSlice>;
/// How it is made.
pub type Setup = vsmmu::Setup<Buffer>;

/// What one trap of a guest does at most, in invalidations: so many are within 5,000 instructions, all that comes with a trap
/// included (B22 of `cargo xtask bench`).
const BUDGET: u32 = 6;
/// Events that wait for a guest's SMMU at most, in its slice.
pub const EVENTS: u32 = 256;
/// Entries of the largest queues of a guest's SMMU, log2.
const COMMAND_QUEUE: u8 = 19;
const EVENT_QUEUE: u8 = 8;
/// Bits of a guest's StreamIDs: its requester IDs.
const STREAM_BITS: u8 = 16;
/// Entries of the page request queue, log2.
const REQUEST_QUEUE: u8 = 7;
/// Stalls and groups of page requests that can wait for a guest's SMMU at once.
const WAITING: u16 = 32;
/// Time that a guest has to answer one of them.
pub const PATIENCE_NS: u64 = 1_000_000_000;
/// Bytes for copies of contexts, 64 each.
const COPIES: usize = CONTEXTS_STRIDE as usize;
/// What a guest reads of each of its SMMUs without a trap: the page's place in the registers, and in the image.
pub const READABLE: [(u64, u64); 2] = [(0, 0), (PAGE_ONE, vsmmu::IMAGE_PAGE_ONE as u64)];
/// Wires of one SMMU, in the order of the guest's device tree: eventq, priq, cmdq-sync, gerror.
const WIRES: [Interrupts; 4] = [
    Interrupts::EVENTS,
    Interrupts::REQUESTS,
    Interrupts::SYNC,
    Interrupts::ERRORS,
];

/// One of them.
pub struct Viommu {
    /// Which physical one it is on.
    pub iommu: IommuIndex,
    smmu: Mutex<VirtSmmu>,
    /// Stalls or page requests are offered.
    answers: bool,
    /// It has work left; written under its lock.
    busy: AtomicBool,
}

impl Viommu {
    /// On the SMMU `iommu`. `answers`: stalls or page requests are offered.
    pub fn new(iommu: IommuIndex, smmu: VirtSmmu, answers: bool) -> Self {
        Self {
            iommu,
            smmu: Mutex::new(smmu),
            answers,
            busy: AtomicBool::new(false),
        }
    }

    /// What it did so far, and how many events wait for it.
    pub fn counters(&self) -> (Counters, u64) {
        let smmu = self.smmu.lock();
        (smmu.counters(), smmu.waiting())
    }

    /// Where what it reads as is in memory: [`vsmmu::IMAGE_BYTES`], for as long as this lives.
    pub fn image(&self) -> Hpa {
        self.smmu.lock().image().hpa()
    }

    /// Puts all its streams in abort and its registers to what they are out of reset.
    pub fn stop(&self) {
        let mut smmu = self.smmu.lock();
        if let Err(error) = smmu.stop() {
            panic!("cannot stop the DMA of a device: {error}");
        }
        self.busy.store(false, Ordering::Release);
    }

    /// Lets the guest's streams do what an SMMU out of reset lets them do.
    pub fn start(&self, ram: &GuestRam) {
        // Out of reset it is silent: nothing follows from this but the streams.
        let _ = self.smmu.lock().start(ram);
    }
}

impl Partition {
    /// An access at `offset` of [`guest_map::SMMU`] (`value`: a store); `None` where there is none.
    pub fn access_smmu(
        &self,
        system: &System,
        offset: u64,
        size: u8,
        value: Option<u64>,
    ) -> Option<u64> {
        let index = (offset / SMMU_STRIDE) as usize;
        let unit = self.devices.dma.viommus().get(index)?;
        let offset = offset % SMMU_STRIDE;
        let mut smmu = unit.smmu.lock();
        let Some(value) = value else {
            return Some(smmu.read(offset, size));
        };
        let effect = smmu.write(&self.ram, offset, size, value);
        self.follow(system, index, unit, &effect);
        Some(0)
    }

    /// A store at `address` to what the guest can only read of its SMMUs; `false` where nothing of them is.
    pub fn store_smmu(&self, system: &System, address: u64, size: u8, value: u64) -> bool {
        let Some(offset) = address.checked_sub(guest_map::SMMU.base.0) else {
            return false;
        };
        let page = (offset % SMMU_STRIDE) & !(PAGE_SIZE - 1);
        READABLE.iter().any(|(readable, _)| *readable == page)
            && self
                .access_smmu(system, offset, size, Some(value))
                .is_some()
    }

    /// Goes on with what the guest has asked its SMMUs for, a bounded amount a call.
    pub fn serve_smmus(&self, system: &System) {
        for (index, unit) in self.devices.dma.viommus().iter().enumerate() {
            // Whoever has it goes on with it, and says so if there is more.
            if unit.busy.load(Ordering::Acquire)
                && let Some(mut smmu) = unit.smmu.try_lock()
            {
                let effect = smmu.run(&self.ram);
                self.follow(system, index, unit, &effect);
            }
        }
    }

    /// Ends what the guest has not answered in time.
    pub fn expire_smmus(&self, system: &System) {
        for (index, unit) in self.devices.dma.viommus().iter().enumerate() {
            if !unit.answers {
                continue;
            }
            let mut smmu = unit.smmu.lock();
            smmu.expire();
            if smmu.has_work() {
                let effect = smmu.run(&self.ram);
                self.follow(system, index, unit, &effect);
            }
        }
    }

    /// There are events of `iommu` for the guest.
    pub fn notify_viommus(&self, system: &System, iommu: IommuIndex) {
        let units = self.devices.dma.viommus().iter().enumerate();
        for (index, unit) in units.filter(|(_, unit)| unit.iommu == iommu) {
            let mut smmu = unit.smmu.lock();
            let effect = smmu.deliver(&self.ram);
            self.follow(system, index, unit, &effect);
        }
    }

    /// Carries out what a call of `unit` has brought, under its lock, so that two calls do not overtake each other.
    fn follow(&self, system: &System, index: usize, unit: &Viommu, effect: &Effect) {
        let first = SMMU_INTIDS.start + (index * WIRES.len()) as u32;
        for (intid, wire) in (first..).zip(WIRES) {
            if effect.interrupts.contains(wire) {
                let mut vgic = self.vgic.lock();
                // An edge (IHI 0070, §3.18).
                let up = vgic.set_line(intid, true);
                let down = vgic.set_line(intid, false);
                drop(vgic);
                system.kick(self, up);
                system.kick(self, down);
            }
        }
        if let Some(error) = effect.failed {
            say!("{}: smmu{}: {error}", self.name(), unit.iommu.0);
        }
        unit.busy.store(effect.more, Ordering::Release);
        if effect.more {
            // A CPU of the partition comes back out of its guest for the rest, once it has served who else waits for it:
            // the one that asked, unless it is another's that has taken an interrupt.
            let here = arch::cpu::index();
            let cpu = if self.cpus.contains(&here) {
                here
            } else {
                self.cpus[0]
            };
            let _ = system.gic.send_sgi(cpu, KICK);
        }
    }
}

/// What of `iommu` needs answers of the guest, and can be offered: it has to be there. Page requests are for devices that
/// have ATS, which none has been given yet.
pub fn offer(iommu: &Iommu) -> Offer {
    let features = iommu.physical().lock().features();
    Offer {
        address_bits: guest_map::IPA_BITS,
        stalls: features.stalls.optional(),
        ..Offer::default()
    }
}

/// How many requests of devices may wait for the guest in its slice, where it is offered that.
pub fn requests(offer: &Offer) -> u32 {
    match offer.stalls || offer.pri {
        true => WAITING.into(),
        false => 0,
    }
}

/// How the SMMU of a guest with so much `ram`, its `index`th, on `iommu` is made.
///
/// # Errors
/// Those of the address space; no memory.
pub fn setup(
    space: &Ioas,
    host: &Arc<Host>,
    iommu: &Iommu,
    index: usize,
    offer: Offer,
    ram: u64,
) -> Result<Setup, Error> {
    let physical = iommu.physical().lock();
    let (hardware, errata) = (physical.identity(), physical.features().errata);
    drop(physical);
    let contexts = match errata.copied_contexts {
        true => Some(copies(space, host, index)?),
        false => None,
    };
    Ok(Setup {
        hardware,
        budget: BUDGET,
        offer,
        messages: false,
        wake: false,
        stream_bits: STREAM_BITS,
        command_queue_log2: command_queue(ram),
        event_queue_log2: EVENT_QUEUE,
        request_queue_log2: if offer.pri { REQUEST_QUEUE } else { 0 },
        waiting: requests(&offer) as u16,
        patience_ns: PATIENCE_NS,
        contexts,
    })
}

/// log2 of the entries of the largest command queue of a guest with so much RAM: an eighth of it.
fn command_queue(ram: u64) -> u8 {
    let entries = (ram / 8 / COMMAND_BYTES as u64).max(2);
    COMMAND_QUEUE.min(entries.ilog2() as u8)
}

/// Memory for copies of contexts, mapped for the devices that they are of.
fn copies(space: &Ioas, host: &Host, index: usize) -> Result<ContextCopies<Buffer>, Error> {
    let buffer = host.allocate(COPIES).ok_or(Error::OutOfMemory)?;
    let at = guest_map::CONTEXTS.base + (index * COPIES) as u64;
    let memory = Copies(Span {
        base: buffer.hpa(),
        len: COPIES as u64,
    });
    space.map(Iova(at.0), Arc::new(memory), 0, COPIES as u64, Access::READ)?;
    Ok(ContextCopies { buffer, at })
}

/// The pages of some [`ContextCopies`].
#[derive(Debug)]
struct Copies(Span<Hpa>);

impl Memory for Copies {
    fn size(&self) -> u64 {
        self.0.len
    }

    fn writable(&self) -> bool {
        false
    }

    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        let len = self.0.len.checked_sub(offset).filter(|len| *len > 0)?;
        let base = self.0.base + offset;
        Some(Span { base, len })
    }
}

/// Why the SMMU of a guest cannot be.
pub fn refused(error: SetupError) -> Error {
    match error {
        SetupError::NoStageOne(_) => Error::Unsupported(VIOMMU),
        SetupError::Size(size) => Error::Invalid(size.into()),
        SetupError::Stream(stream) => Error::Exists(stream.0.into()),
        SetupError::Devices(_) => Error::NoSpace,
        SetupError::Budget => Error::Invalid(0),
        SetupError::OutOfMemory => Error::OutOfMemory,
    }
}
