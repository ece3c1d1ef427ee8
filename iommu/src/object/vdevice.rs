//! A device's name in a slice. It lives at most as long as its device and its slice.

use super::device::Bound;
use super::ids::Object;
use super::inner::Inner;
use super::viommu::Named;
use super::{Error, room};

/// See the module's description.
#[derive(Debug)]
pub(super) struct Name {
    pub viommu: u32,
    pub device: u32,
    pub virt_id: u64,
}

impl Inner {
    /// Names a device in a slice.
    pub(super) fn vdevice_alloc(
        &mut self,
        viommu: u32,
        device: u32,
        virt_id: u64,
    ) -> Result<u32, Error> {
        let slice = self.ids.viommu(viommu)?;
        let bound = self.ids.device(device)?;
        if bound.stuck {
            return Err(Error::NoSuchObject(device));
        }
        if bound.driver.index() != slice.driver.index() {
            return Err(Error::OtherIommu);
        }
        if bound.vdevice.is_some() {
            return Err(Error::Exists(u64::from(device)));
        }
        let at = slice.names.binary_search_by_key(&virt_id, |it| it.virt_id);
        let Err(at) = at else {
            return Err(Error::Exists(virt_id));
        };
        let streams = room::copy(&bound.streams)?;
        let id = self.publish_with(|inner, id| {
            let slice = inner.ids.viommu_mut(viommu)?;
            room::reserve(&mut slice.names, 1)?;
            slice.ops.vdevice(&streams, virt_id)?;
            let named = Named {
                virt_id,
                vdevice: id,
                stream: streams[0],
            };
            slice.names.insert(at, named);
            Ok(Object::Vdevice(Name {
                viommu,
                device,
                virt_id,
            }))
        })?;
        self.ids.grab(viommu);
        self.ids.grab(device);
        self.ids.device_mut(device)?.vdevice = Some(id);
        Ok(id)
    }

    pub(super) fn vdevice_destroyed(&mut self, name: &Name) {
        let streams = match self.ids.device_mut(name.device) {
            Ok(bound) => {
                bound.vdevice = None;
                core::mem::take(&mut bound.streams)
            }
            Err(_) => alloc::vec::Vec::new(),
        };
        if let Ok(slice) = self.ids.viommu_mut(name.viommu) {
            slice.ops.vdevice_gone(&streams, name.virt_id);
            slice.names.retain(|it| it.virt_id != name.virt_id);
        }
        if let Ok(bound) = self.ids.device_mut(name.device) {
            bound.streams = streams;
        }
        self.put(name.viommu);
        self.put(name.device);
    }

    /// What a slice calls a device.
    pub(super) fn virt_id(&self, device: &Bound, viommu: u32) -> Option<u64> {
        let name = self.ids.vdevice(device.vdevice?).ok()?;
        (name.viommu == viommu).then_some(name.virt_id)
    }
}
