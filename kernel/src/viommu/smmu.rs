//! SMMUs of guests.
//!
//! Messages of their devices pass both stages. The guest is told of an ITS at [`guest_map::ITS`] (`msi-map` in a device tree,
//! MADT and IORT in ACPI) and maps the page of its `GITS_TRANSLATER` in stage 1 wherever it wants, as Linux does; stage 2 has
//! that page at the same guest address, alone, to be written by devices and not by CPUs: not the control frame. So there is
//! nothing to reserve (no RMR, no identity window). The hardware takes a message's DeviceID from who writes it. What a guest
//! says to its ITS names DeviceIDs of its own numbering; one that is none of its devices' is refused
//! ([`crate::vdev::vits`]).

use super::{EVENTS, Parts};
use crate::guest_map::{self, CONTEXTS_STRIDE, SMMU_INTIDS, SMMU_STRIDE};
use crate::machine::{Buffer, Host, Iommu};
use crate::partition::Partition;
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::addr::{Hpa, Iova, PAGE_SIZE, Span};
use iommu::fault::Fault;
use iommu::guest::vsmmu::spec::PAGE_ONE;
use iommu::guest::vsmmu::{self, Behind, ContextCopies, Interrupts, ObjectSlice, SetupError};
pub use iommu::guest::vsmmu::{Counters, Effect};
use iommu::hal::{DmaBuffer, Platform};
use iommu::id::VirtDeviceId;
use iommu::object::driver::{Access, Driver, Memory};
use iommu::object::{Device, Error};
use iommu::smmuv3::Offer;
use iommu::smmuv3::slice::VIOMMU;
use iommu::smmuv3::spec::command::COMMAND_BYTES;

/// What a guest sees of one physical SMMU.
pub type VirtSmmu = vsmmu::VirtSmmu<Host, ObjectSlice>;
/// How it is made.
type Setup = vsmmu::Setup<Buffer>;

/// What one trap of a guest does at most, in invalidations: so many are within 5,000 instructions, all that comes with a trap
/// included (B22 of `cargo xtask bench`).
const BUDGET: u32 = 12;
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
/// From one SMMU of a guest to the next.
pub(super) const STRIDE: u64 = SMMU_STRIDE;
/// What a guest reads of each of its SMMUs without a trap: the page's place in the registers, and in the image.
pub const READABLE: [(u64, u64); 2] = [(0, 0), (PAGE_ONE, vsmmu::IMAGE_PAGE_ONE as u64)];
/// Wires of one SMMU, in the order of the guest's device tree: eventq, priq, cmdq-sync, gerror.
const WIRES: [Interrupts; 4] = [
    Interrupts::EVENTS,
    Interrupts::REQUESTS,
    Interrupts::SYNC,
    Interrupts::ERRORS,
];

impl Partition {
    /// Whether a fault that seems the guest's own is against the partition: the hardware walks both stages, and says which.
    pub fn is_astray(&self, _: &Fault) -> bool {
        false
    }

    /// Whether `fault` is of a message that the guest's own unit refuses: messages are DMA here.
    pub fn refuses_message(&self, _: &System, _: &Fault) -> bool {
        false
    }

    /// A store at `address` to what the guest can only read of its SMMUs; `false` where nothing of them is.
    pub fn store_smmu(&self, system: &System, address: u64, size: u8, value: u64) -> bool {
        let Some(offset) = address.checked_sub(guest_map::SMMU.base.0) else {
            return false;
        };
        let (index, offset) = ((offset / SMMU_STRIDE) as usize, offset % SMMU_STRIDE);
        let page = offset & !(PAGE_SIZE - 1);
        READABLE.iter().any(|(readable, _)| *readable == page)
            && self.store_viommu(system, index, offset, size, value)
    }

    /// Ends what the guest has not answered in time.
    pub fn expire_smmus(&self, system: &System) {
        for (index, viommu) in self.devices.dma.viommus().iter().enumerate() {
            if !viommu.answers {
                continue;
            }
            let mut smmu = viommu.unit.lock();
            smmu.expire();
            if smmu.has_work() {
                let effect = smmu.run(&self.ram);
                self.follow(system, index, viommu, &effect);
            }
        }
    }

    /// Interrupts of the guest's SMMU number `index`.
    #[inline(always)]
    pub(super) fn interrupt_by(&self, system: &System, index: usize, effect: &Effect) {
        if !effect.interrupts.is_empty() {
            self.pulse(system, index, effect.interrupts);
        }
    }

    #[inline(never)]
    fn pulse(&self, system: &System, index: usize, interrupts: Interrupts) {
        let first = SMMU_INTIDS.start + (index * WIRES.len()) as u32;
        for (intid, wire) in (first..).zip(WIRES) {
            if interrupts.contains(wire) {
                let mut vgic = self.vgic.lock();
                // An edge (IHI 0070, §3.18).
                let up = vgic.set_line(intid, true);
                let down = vgic.set_line(intid, false);
                drop(vgic);
                system.kick(self, up);
                system.kick(self, down);
            }
        }
    }
}

/// An SMMU before `behind`, and whether it offers what needs answers.
///
/// # Errors
/// Those of the objects.
pub(super) fn make(
    parts: &Parts<'_>,
    behind: Vec<(Arc<Device>, VirtDeviceId)>,
) -> Result<(VirtSmmu, bool), Error> {
    let offer = offer(parts.unit);
    let requests = requests(&offer);
    let driver = Arc::clone(parts.unit) as Arc<dyn Driver>;
    let mut slice = ObjectSlice::new(parts.context, parts.table, &driver, EVENTS, requests)?;
    let mut list = Vec::new();
    for (device, virt) in behind {
        slice.add(device, virt.0)?;
        list.push(Behind {
            stream: virt,
            ats: false,
        });
    }
    let setup = setup(parts, offer)?;
    let smmu = VirtSmmu::new(Arc::clone(parts.host), setup, slice, &list);
    Ok((smmu.map_err(refused)?, requests > 0))
}

/// What of `iommu` needs answers of the guest, and can be offered: it has to be there. Page requests are for devices that
/// have ATS, which none has been given yet.
fn offer(iommu: &Iommu) -> Offer {
    let features = iommu.physical().lock().features();
    Offer {
        address_bits: guest_map::IPA_BITS,
        stalls: features.stalls.optional(),
        ..Offer::default()
    }
}

/// How many requests of devices may wait for the guest in its slice, where it is offered that.
fn requests(offer: &Offer) -> u32 {
    match offer.stalls || offer.pri {
        true => WAITING.into(),
        false => 0,
    }
}

/// How the SMMU of a guest is made.
fn setup(parts: &Parts<'_>, offer: Offer) -> Result<Setup, Error> {
    let physical = parts.unit.physical().lock();
    let (hardware, errata) = (physical.identity(), physical.features().errata);
    drop(physical);
    let contexts = match errata.copied_contexts {
        true => Some(copies(parts)?),
        false => None,
    };
    Ok(Setup {
        hardware,
        budget: BUDGET,
        offer,
        messages: false,
        wake: false,
        stream_bits: STREAM_BITS,
        command_queue_log2: command_queue(parts.ram.size()),
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
fn copies(parts: &Parts<'_>) -> Result<ContextCopies<Buffer>, Error> {
    let buffer = parts.host.allocate(COPIES).ok_or(Error::OutOfMemory)?;
    let at = guest_map::CONTEXTS.base + (parts.index * COPIES) as u64;
    let memory = Copies(Span {
        base: buffer.hpa(),
        len: COPIES as u64,
    });
    parts
        .space
        .map(Iova(at.0), Arc::new(memory), 0, COPIES as u64, Access::READ)?;
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
fn refused(error: SetupError) -> Error {
    match error {
        SetupError::NoStageOne(_) => Error::Unsupported(VIOMMU),
        SetupError::Size(size) => Error::Invalid(size.into()),
        SetupError::Stream(stream) => Error::Exists(stream.0.into()),
        SetupError::Devices(_) => Error::NoSpace,
        SetupError::Budget => Error::Invalid(0),
        SetupError::OutOfMemory => Error::OutOfMemory,
    }
}
