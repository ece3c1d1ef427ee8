//! Messages of assigned functions: what a partition's virtual ITS asks for, done on the physical one, and the way of a
//! physical LPI back to the guest.
//!
//! Each function has a range of LPIs of its own from the start, one an event, so nothing is handed out while guests run.

use crate::devices::Devices;
use crate::gate::Gate;
use crate::guest_map;
use crate::lock::Guard;
use crate::partition::Partition;
use crate::say;
use crate::system::System;
use crate::vdev::CpuSet;
use crate::vdev::vgic::{Line, Vgic};
use crate::vdev::vits::{BackendError, ItsBackend};
use alloc::sync::Arc;
use arch::gic::{DEFAULT_PRIORITY, Intid};
use arch::its::{Its, ItsError};
use core::sync::atomic::Ordering;
use iommu::addr::{Hpa, Iova, PAGE_SIZE};
use iommu::id::{IommuIndex, VirtDeviceId};
use iommu::object::driver::ReservedRegion;
use iommu::object::{self, Ioas};

/// What the messages of all functions share.
pub struct Shared {
    /// The ITS that they go to.
    pub its: Option<Arc<Its>>,
    /// Its phandle in the device tree, which identities name.
    pub its_phandle: u32,
    /// How many LPIs are given away.
    pub lpis: u32,
}

/// What no address space may use: the ITS is where the guest is told that it is.
pub const RESERVED: &[ReservedRegion] = &[];

/// Lets messages out of `space`.
///
/// # Errors
/// Those of the objects.
pub fn let_through(gate: &Gate, space: &Ioas) -> Result<(), object::Error> {
    let Some(its) = &gate.messages.its else {
        return Ok(());
    };
    // The page with GITS_TRANSLATER and nothing else (IHI 0069, 12.18): the control frame is no device's.
    let page = Iova(guest_map::ITS_TRANSLATION.base.0);
    space.set_message_window(page, page + (PAGE_SIZE - 1))?;
    space.doorbell(Hpa(its.translater()))?;
    Ok(())
}

/// Whether a device cannot send another's messages: the ITS tells senders apart by their DeviceID, and without one there is
/// no doorbell.
pub const fn are_isolated(_: &Gate, _: IommuIndex) -> bool {
    true
}

/// One function's events at the physical ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// What the guest calls it.
    pub virt: VirtDeviceId,
    /// What the physical ITS calls it.
    pub device: u32,
    /// LPI of event 0.
    pub first: u32,
    /// Events.
    pub count: u32,
}

/// A function's table at the physical ITS. It goes with this.
pub struct Mapped {
    its: Arc<Its>,
    device: u32,
}

impl Mapped {
    /// Lets `device` have `events` events.
    ///
    /// # Errors
    /// Those of the ITS.
    pub fn new(its: &Arc<Its>, device: u32, events: u32) -> Result<Self, ItsError> {
        // MAPD takes at least one bit (IHI 0069, §5.3).
        let bits = events.next_power_of_two().ilog2().max(1) as u8;
        its.map_device(device, bits)?;
        let its = Arc::clone(its);
        Ok(Self { its, device })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(error) = self.its.unmap_device(self.device) {
            // The ITS keeps the table then.
            say!("ITS: device {:#x} stays mapped: {error}", self.device);
        }
    }
}

impl Devices {
    /// Messages that they can send, each an LPI.
    pub fn messages(&self) -> u32 {
        self.sources.iter().map(|source| source.count).sum()
    }

    /// Messages that the physical ITS has mapped for them.
    pub fn mapped_messages(&self, gate: &Gate) -> usize {
        let Some(its) = &gate.messages.its else {
            return 0;
        };
        let mapped = |source: &Source| {
            let is_mapped = |event: &u32| its.lookup(source.device, *event).is_some();
            (0..source.count).filter(is_mapped).count()
        };
        self.sources.iter().map(mapped).sum()
    }
}

/// The physical ITS for one partition.
pub struct Backend<'a> {
    system: &'a System,
    partition: &'a Partition,
}

impl<'a> Backend<'a> {
    /// For `partition`'s functions.
    pub fn new(system: &'a System, partition: &'a Partition) -> Self {
        Self { system, partition }
    }

    /// The ITS, the function's DeviceID there and the LPI of `event`.
    #[inline(never)]
    fn find(&self, device: VirtDeviceId, event: u32) -> Option<(&Its, u32, Intid)> {
        let source = self
            .partition
            .devices
            .sources
            .iter()
            .find(|source| source.virt == device)?;
        let lpi = Intid(source.first + event);
        (event < source.count).then_some((
            self.system.gate.messages.its.as_ref()?,
            source.device,
            lpi,
        ))
    }

    /// Runs `action`; a message that the ITS does not take back stays with its function, which can reach nobody else.
    fn command(
        &self,
        device: VirtDeviceId,
        event: u32,
        action: impl FnOnce(&Its, u32, Intid) -> Result<(), ItsError>,
    ) -> Result<(), BackendError> {
        let Some((its, physical, lpi)) = self.find(device, event) else {
            return Err(BackendError::NoLpi);
        };
        action(its, physical, lpi).map_err(|error| self.failed(error))
    }

    #[inline(never)]
    fn failed(&self, error: ItsError) -> BackendError {
        say!("{}: ITS: {error}", self.partition.name());
        BackendError::Hardware
    }

    fn set_lpi(&self, lpi: Intid, enabled: bool) {
        // The range was laid out within the tables.
        let _ = self.system.gic.set_lpi(lpi, enabled, DEFAULT_PRIORITY);
    }
}

impl ItsBackend for Backend<'_> {
    fn map_event(
        &mut self,
        device: VirtDeviceId,
        event: u32,
        cpu: usize,
    ) -> Result<(), BackendError> {
        let cpu = self.partition.cpus[cpu];
        self.command(device, event, |its, physical, lpi| {
            self.set_lpi(lpi, false);
            its.map_event(physical, event, lpi, cpu)?;
            its.invalidate(physical, event)
        })
    }

    fn unmap_event(&mut self, device: VirtDeviceId, event: u32) {
        let _ = self.command(device, event, |its, physical, _| {
            its.unmap_event(physical, event)
        });
    }

    fn move_event(&mut self, device: VirtDeviceId, event: u32, cpu: usize) {
        let cpu = self.partition.cpus[cpu];
        let _ = self.command(device, event, |its, physical, _| {
            its.move_event(physical, event, cpu)
        });
    }

    fn set_enabled(&mut self, device: VirtDeviceId, event: u32, enabled: bool) {
        let _ = self.command(device, event, |its, physical, lpi| {
            self.set_lpi(lpi, enabled);
            its.invalidate(physical, event)
        });
    }

    fn clear_event(&mut self, device: VirtDeviceId, event: u32) {
        let _ = self.command(device, event, |its, physical, _| {
            its.clear_pending(physical, event)
        });
    }
}

impl Partition {
    /// Physical LPI `lpi` is a message of one of its functions: the guest's LPI becomes pending. Whether it is.
    pub fn take_message(&self, system: &System, lpi: Intid) -> bool {
        let source = self.devices.sources.iter().find(|source| {
            lpi.0
                .checked_sub(source.first)
                .is_some_and(|event| event < source.count)
        });
        let Some(source) = source else { return false };
        // The guest may have unmapped it since it was sent.
        let target = self
            .vits
            .lock()
            .translate(source.virt, lpi.0 - source.first);
        let Some(target) = target else { return true };
        let mut vgic = self.vgic.lock();
        if !self.renew(&mut vgic, Line::Lpi(target.slot as u32)) {
            self.inject_message(system, target.slot, vgic);
        }
        true
    }

    /// As [`renew`](Self::renew), where something is in its way.
    #[inline(never)]
    fn inject_message(&self, system: &System, slot: usize, mut vgic: Guard<'_, Vgic>) {
        let kick = vgic.inject_lpi(slot);
        drop(vgic);
        system.kick(self, kick);
    }

    /// Carries on with the commands that the guest has given its ITS, a bounded number a call.
    #[inline(always)]
    pub fn serve_its(&self, system: &System) {
        // Every exit comes here, and nearly none has a command.
        if self.its_busy.load(Ordering::Acquire) {
            self.poll_its(system);
        }
    }

    #[inline(never)]
    fn poll_its(&self, system: &System) {
        let mut vits = self.vits.lock();
        let kick = vits.poll(
            &mut self.vgic.lock(),
            &self.ram,
            &mut Backend::new(system, self),
        );
        self.its_busy.store(vits.has_work(), Ordering::Release);
        drop(vits);
        system.kick(self, kick);
    }

    /// Reads the properties of its LPIs again: a vCPU has turned LPIs on.
    pub fn reload_messages(&self, system: &System) {
        let kick = self.vits.lock().reload(
            &mut self.vgic.lock(),
            &self.ram,
            &mut Backend::new(system, self),
        );
        system.kick(self, kick);
    }

    /// Unmaps all its messages.
    pub fn reset_messages(&self, system: &System) {
        let _: CpuSet = self.vits.lock().reset(
            &mut self.vgic.lock(),
            &self.ram,
            &mut Backend::new(system, self),
        );
    }
}
