//! VT-d units of guests.
//!
//! Messages are looked up in the guest's interrupt remapping table as they come: the machine's entries lead to us
//! ([`messages`](crate::messages)) whatever the guest has in its own, so that nothing follows from a change of these. What its
//! I/O APIC sends goes through the first unit, as the guest's DMAR says; the units' own messages are not remapped (VT-d, 5.1.3).

use super::{EVENTS, Parts, Viommu};
use crate::guest_acpi::x86_64::IO_APIC_REQUESTER;
use crate::guest_map::x86_64::{MAX_VTD_UNITS, VTD, VTD_STRIDE};
use crate::machine::Host;
use crate::partition::Partition;
use crate::system::System;
use crate::vdev::msi::{self, Msi};
use crate::x86_64::devices::address_bits;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu::addr::Gpa;
use iommu::fault::Fault;
use iommu::guest::vvtd::{self, Behind, FirstStages, MOST_RECORDS, ObjectSlice, Setup, SetupError};
pub use iommu::guest::vvtd::{Counters, Effect};
use iommu::id::{IommuIndex, VirtDeviceId};
use iommu::object::driver::Driver;
use iommu::object::{Device, Error};
use iommu::vtd::spec::registers::ECAP_FIELDS;

/// What a guest sees of one physical unit.
pub type VirtVtd = vvtd::VirtVtd<Host, ObjectSlice>;

/// From one unit of a guest to the next.
pub(super) const STRIDE: u64 = VTD_STRIDE;
/// What one trap of a guest does at most, as [`Setup::budget`] counts: an unmap of a page and the wait behind it take 15 of it.
const BUDGET: u32 = 16;
/// Bits of input address of a guest's tables at most: four levels.
const INPUT_BITS: u8 = 48;
/// A guest's shadows may take this part of its RAM, and at least so many bytes: tables for pages take a 512th of what they map.
const SHADOW_PART: u64 = 64;
const SHADOW_LEAST: u64 = 1 << 20;

/// A unit before `behind`. None offers what needs answers.
///
/// # Errors
/// Those of the objects.
pub(super) fn make(
    parts: &Parts<'_>,
    behind: Vec<(Arc<Device>, VirtDeviceId)>,
) -> Result<(VirtVtd, bool), Error> {
    if parts.index >= MAX_VTD_UNITS {
        return Err(Error::NoSpace);
    }
    let driver = Arc::clone(parts.unit) as Arc<dyn Driver>;
    let mut slice = ObjectSlice::new(parts.table, &driver, EVENTS)?;
    let mut list = Vec::new();
    for (device, source) in behind {
        slice.add(device, source.0)?;
        list.push(Behind { source });
    }
    let physical = parts.unit.physical().lock();
    let ((cap, ecap), bits) = (physical.capabilities(), physical.features().input_bits);
    drop(physical);
    let setup = Setup {
        // Its interrupts are ours to deliver, to local APICs that have both modes.
        hardware: (cap, ecap | ECAP_FIELDS::EIM::SET.value),
        input_bits: bits.min(INPUT_BITS),
        address_bits: address_bits(),
        scalable: true,
        first_stages: FirstStages::Nested,
        // QEMU's unit has none of these.
        pasids: 0,
        device_tlbs: false,
        page_requests: 0,
        patience_ns: 0,
        interrupts: true,
        shadow_bytes: (parts.ram.size() / SHADOW_PART).max(SHADOW_LEAST),
        records: MOST_RECORDS,
        budget: BUDGET,
    };
    let unit = VirtVtd::new(parts.host, &setup, slice, &list);
    Ok((unit.map_err(refused)?, false))
}

/// Why the unit of a guest cannot be.
fn refused(error: SetupError) -> Error {
    match error {
        SetupError::Size(size) => Error::Invalid(size.into()),
        SetupError::Budget => Error::Invalid(0),
        SetupError::Source(source) => Error::Exists(source.0.into()),
        SetupError::OutOfMemory => Error::OutOfMemory,
    }
}

impl Partition {
    /// An access of the guest at `at` (`value`: a store); `None` where no unit is. Loads of registers need none, but as a
    /// part of an instruction that stores.
    pub fn access_vtd(
        &self,
        system: &System,
        at: Gpa,
        size: u8,
        value: Option<u64>,
    ) -> Option<u64> {
        let offset = at.0.checked_sub(VTD.base.0).filter(|at| *at < VTD.len)?;
        self.access_viommu(system, offset, size, value)
    }

    /// Whether the guest's own tables lead a request that was refused past what its functions reach: the fault is against the
    /// partition, and none of the guest's.
    pub fn is_astray(&self, fault: &Fault) -> bool {
        if fault.pasid.is_some() {
            // Those are for hardware that walks the guest's own tables.
            return false;
        }
        let mut viommus = self.dma().viommus().iter();
        let viommu = viommus.find(|viommu| viommu.iommu == fault.iommu);
        let (Some(source), Some(viommu), Some(at)) = (self.name_of(fault), viommu, fault.iova)
        else {
            return false;
        };
        // A shadow has one stage for two.
        let unit = viommu.unit.lock();
        let to = unit.leads(&self.ram, source, at, fault.write);
        to.is_some_and(|to| self.dma().reaches(to).is_none())
    }

    /// Whether `fault` is of a message that the guest's own unit refuses as the hardware did: then the guest is told of it.
    pub fn refuses_message(&self, system: &System, fault: &Fault) -> bool {
        let Some(source) = self.name_of(fault) else {
            return false;
        };
        let mut viommus = self.dma().viommus().iter().enumerate();
        let Some((index, viommu)) = viommus.find(|(_, viommu)| viommu.iommu == fault.iommu) else {
            return false;
        };
        let mut unit = viommu.unit.lock();
        let effect = unit.refuse(&self.ram, source, fault);
        if let Some(effect) = &effect {
            self.follow(system, index, viommu, effect);
        }
        effect.is_some()
    }

    /// What the guest calls the function that a fault is of.
    fn name_of(&self, fault: &Fault) -> Option<VirtDeviceId> {
        let stream = (fault.iommu, fault.device);
        let mut owned = self.assigned().owned.iter();
        let function = owned.find(|owned| owned.streams.contains(&stream))?;
        Some(function.virt)
    }

    /// The interrupts of a unit.
    pub(super) fn interrupt_by(&self, system: &System, _: usize, effect: &Effect) {
        for message in effect.messages() {
            self.deliver_message(
                system,
                Msi {
                    address: message.address,
                    data: message.data,
                },
            );
        }
    }

    fn deliver_message(&self, system: &System, msi: Msi) {
        let effects = self.devices.lock().interrupts.send(msi);
        self.apply(system, &effects);
    }

    /// A message `msi` of a function that the guest calls `source` and that is behind `iommu`, or of its I/O APIC: to its local
    /// APICs, by the guest's own unit if there is one in front of it.
    pub fn send_message(&self, system: &System, from: Option<(IommuIndex, u16)>, msi: Msi) {
        let mut viommus = self.dma().viommus().iter().enumerate();
        let unit = match from {
            None => viommus.next(),
            Some((iommu, _)) => viommus.find(|(_, viommu)| viommu.iommu == iommu),
        };
        let source = from.map_or(IO_APIC_REQUESTER, |(_, source)| source);
        match unit.filter(|_| msi.is_interrupt()) {
            None => self.deliver_message(system, msi),
            Some((index, viommu)) => self.remap(system, (index, viommu), source, msi),
        }
    }

    fn remap(&self, system: &System, (index, viommu): (usize, &Viommu), source: u16, msi: Msi) {
        let mut unit = viommu.unit.lock();
        let (found, effect) = unit.remap(&self.ram, source, msi.address as u32, msi.data);
        if let Some(found) = found {
            let message = msi::remapped(&found);
            let effects = self.devices.lock().interrupts.deliver(message);
            self.apply(system, &effects);
        }
        self.follow(system, index, viommu, &effect);
    }
}
