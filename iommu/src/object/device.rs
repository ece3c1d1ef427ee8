//! Devices: bound with their whole group, and unbound with everything that hangs on them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::attach::Group;
use super::driver::{DeviceInfo, Driver, HwInfo, Requester, ReservedKind, ReservedRegion};
use super::ids::Object;
use super::inner::Inner;
use super::{Error, room};
use crate::id::DeviceId;
use crate::physical::IommuError;

/// A device whose DMA is ours.
#[derive(Debug)]
pub(super) struct Bound {
    pub driver: Arc<dyn Driver>,
    pub streams: Vec<DeviceId>,
    pub group: u32,
    pub pasid_bits: u8,
    pub ats: bool,
    pub reserved: Vec<ReservedRegion>,
    pub shares_page_requests: bool,
    pub dirty_tracking: bool,
    /// At most one, of any slice.
    pub vdevice: Option<u32>,
    /// Its streams are refused without a record, whatever it is attached to.
    pub silenced: bool,
    /// Its DMA could not be stopped.
    pub stuck: bool,
}

impl Bound {
    /// What drivers are told of one of its streams.
    pub(super) fn requester(&self, stream: DeviceId) -> Requester {
        Requester {
            stream,
            pasid_bits: self.pasid_bits,
            ats: self.ats,
        }
    }
}

/// The owner of what a device reserves in the address space it is attached to at one PASID.
pub(super) fn owner(device: u32, pasid: u32) -> u64 {
    u64::from(device) << 32 | u64::from(pasid)
}

/// A device's record goes when it was unbound already.
pub(super) fn forgotten(bound: &Bound) {
    debug_assert!(bound.vdevice.is_none());
}

impl Inner {
    /// Takes a device. It is refused DMA until it is attached.
    pub(super) fn bind(&mut self, info: &DeviceInfo<'_>) -> Result<u32, Error> {
        if info.streams.is_empty() {
            return Err(Error::NoIommu);
        }
        if !info.coherent {
            return Err(Error::NotCoherent);
        }
        if !info.isolated_messages {
            return Err(Error::NotPermitted);
        }
        let of_kind = |kind| info.reserved.iter().filter(move |it| it.kind == kind);
        let software = of_kind(ReservedKind::SoftwareMsi).count();
        if software > 1 || software == 1 && of_kind(ReservedKind::Msi).next().is_some() {
            return Err(Error::Invalid(software as u64));
        }
        if let Some(bad) = info.reserved.iter().find(|it| it.first > it.last) {
            return Err(Error::Invalid(bad.first));
        }
        let index = info.driver.index();
        let key = self.key;
        let taken = self.ids.live().any(|(_, entry)| match &entry.object {
            Object::Device(other) => {
                other.driver.index() == index
                    && other.group != info.group
                    && other.streams.iter().any(|it| info.streams.contains(it))
            }
            _ => false,
        });
        if taken {
            return Err(Error::GroupOwned(info.group));
        }
        // Who shares a stream would be trusted with the other.
        let mixed = self.ids.live().any(|(_, entry)| match &entry.object {
            Object::Device(other) => {
                other.driver.index() == index
                    && other.ats != info.ats
                    && other.streams.iter().any(|it| info.streams.contains(it))
            }
            _ => false,
        });
        if mixed {
            return Err(Error::Incompatible);
        }
        self.publish_with(|inner, id| {
            let streams = room::copy(info.streams)?;
            let reserved = room::copy(info.reserved)?;
            let dirty_tracking = info.driver.hw_info(0)?.dirty_tracking;
            let known = inner.group_index(index, info.group);
            match known {
                Some(at) => room::reserve(&mut inner.groups[at].devices, 1)?,
                None => room::reserve(&mut inner.groups, 1)?,
            }
            let mut fresh = Group::new(index, info.group);
            room::reserve(&mut fresh.devices, 1)?;
            info.driver.claim_group(info.group, key)?;
            match known {
                Some(at) => inner.groups[at].devices.push(id),
                None => {
                    fresh.devices.push(id);
                    inner.groups.push(fresh);
                }
            }
            Ok(Object::Device(Bound {
                driver: Arc::clone(&info.driver),
                streams,
                group: info.group,
                pasid_bits: info.pasid_bits,
                ats: info.ats,
                reserved,
                shares_page_requests: info.shares_page_requests,
                dirty_tracking,
                vdevice: None,
                silenced: false,
                stuck: false,
            }))
        })
    }

    /// Gives a device back: its DMA stops, it leaves its slice, and its record goes.
    ///
    /// # Errors
    /// Its DMA could not be stopped. It stays then, with all that it is attached to.
    pub(super) fn unbind(&mut self, device: u32) -> Result<(), IommuError> {
        // One that its driver has refused everything is refused only what its next owner does not attach.
        self.find_contained();
        let Ok(bound) = self.ids.device(device) else {
            return Ok(());
        };
        let (driver, group) = (Arc::clone(&bound.driver), bound.group);
        let vdevice = bound.vdevice;
        let mut result = Ok(());
        while let Some(pasid) = self.next_pasid(device) {
            result = self.detach(device, pasid);
            if result.is_err() {
                break;
            }
        }
        // It may be silenced without being attached.
        result = result.and_then(|()| self.detach(device, 0));
        if let Err(error) = result {
            if let Ok(bound) = self.ids.device_mut(device) {
                bound.stuck = true;
            }
            return Err(match error {
                Error::Hardware(error) => error,
                _ => IommuError::Timeout,
            });
        }
        if let Some(vdevice) = vdevice {
            // Whoever made it still believes in its ID.
            self.end(vdevice, true);
        }
        if let Some(at) = self.group_index(driver.index(), group) {
            self.groups[at].devices.retain(|it| *it != device);
            if self.groups[at].devices.is_empty() {
                self.groups.swap_remove(at);
            }
        }
        self.end(device, false);
        driver.release_group(group, self.key);
        Ok(())
    }

    /// What the hardware in front of a device is.
    pub(super) fn hw_info(&self, device: u32, kind: u32) -> Result<(HwInfo, u8), Error> {
        let bound = self.ids.device(device)?;
        Ok((bound.driver.hw_info(kind)?, bound.pasid_bits))
    }
}
