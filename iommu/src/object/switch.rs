//! Moving devices from one HWPT to another, in hardware first and in the record last.

use alloc::sync::Arc;

use super::device::Bound;
use super::driver::Target;
use super::event::Record;
use super::ids::Object;
use super::inner::Inner;
use super::nested::Parent;
use super::{Error, device};
use crate::id::DeviceId;
use crate::physical::IommuError;

/// One move of the devices of a group.
pub(super) struct Move {
    pub pasid: u32,
    /// What they leave; nothing is refused DMA.
    pub from: Option<u32>,
    pub to: u32,
    /// The address space in which their reserved ranges are to hold, where they do not yet.
    pub reserve: Option<u32>,
    /// The one in which they hold no more.
    pub unreserve: Option<u32>,
}

impl Inner {
    /// What a device's streams go through with this HWPT, whose tag was taken.
    fn target(&self, device: &Bound, hwpt: u32) -> Result<Target, Error> {
        let nested = match &self.ids.entry(hwpt)?.object {
            Object::Nested(nested) => nested,
            Object::Paging(paging) => {
                let tag = paging.tag(&device.driver).ok_or(Error::NoSpace)?;
                let root = paging.root();
                return Ok(Target::Paging { tag, root });
            }
            _ => return Err(Error::NoSuchObject(hwpt)),
        };
        let parent = self.ids.paging(self.nest_parent_of(nested.parent)?)?;
        let virt_id = match nested.parent {
            Parent::Viommu(viommu) => self.virt_id(device, viommu),
            Parent::Paging(_) => None,
        };
        Ok(Target::Nested {
            tag: nested.tag,
            parent: parent.root(),
            stage_one: nested.stage_one,
            virt_id,
        })
    }

    /// Takes the tag that an attachment needs; a guest's stage 1 has one.
    fn take_tag(&mut self, device: u32, hwpt: u32) -> Result<(), Error> {
        if self.ids.paging(hwpt).is_err() {
            return Ok(());
        }
        let driver = Arc::clone(&self.ids.device(device)?.driver);
        self.ids.paging_mut(hwpt)?.take_tag(&driver)
    }

    fn put_tag(&mut self, device: u32, hwpt: u32) {
        if self.ids.paging(hwpt).is_err() {
            return;
        }
        let driver = self.ids.device(device).map(|it| Arc::clone(&it.driver));
        if let Ok(driver) = driver
            && let Ok(paging) = self.ids.paging_mut(hwpt)
        {
            paging.put_tag(&driver);
        }
    }

    fn unreserve_for(&mut self, device: u32, pasid: u32, ioas: Option<u32>) {
        if let Some(ioas) = ioas
            && let Ok(space) = self.ids.ioas_mut(ioas)
        {
            space.unreserve(device::owner(device, pasid));
        }
    }

    /// The n-th stream of a device that no other device of its attachment has put through it.
    fn own_stream(&self, device: u32, pasid: u32, n: usize) -> Option<DeviceId> {
        let bound = self.ids.device(device).ok()?;
        let group = &self.groups[self.group_of(device).ok()?];
        let others = group.at(pasid).map_or(&[][..], |it| &it.devices);
        let shared = |stream: &DeviceId| {
            let mut others = others.iter().filter(|other| **other != device);
            others.any(|other| {
                let other = self.ids.device(*other);
                other.is_ok_and(|other| other.streams.contains(stream))
            })
        };
        let mut own = bound.streams.iter().filter(|stream| !shared(stream));
        own.nth(n).copied()
    }

    /// The n-th stream to program in a move. In place of another HWPT all go along, shared ones more than once.
    fn stream(&self, device: u32, bound: &Bound, way: &Move, n: usize) -> Option<DeviceId> {
        match way.from {
            Some(_) => bound.streams.get(n).copied(),
            None => self.own_stream(device, way.pasid, n),
        }
    }

    /// Moves one device. After an error it is where it was.
    pub(super) fn switch(&mut self, device: u32, way: &Move) -> Result<(), Error> {
        if let Some(ioas) = way.reserve {
            self.reserve_for(device, way.pasid, ioas)?;
        }
        let result = self.take_tag(device, way.to).and_then(|()| {
            let result = self.drive(device, way);
            if result.is_err() {
                self.put_tag(device, way.to);
            }
            result
        });
        if result.is_err() {
            self.unreserve_for(device, way.pasid, way.reserve);
        }
        result
    }

    /// Programs the streams of one device. After an error all of them are where they were.
    fn drive(&mut self, device: u32, way: &Move) -> Result<(), Error> {
        let bound = self.ids.device(device)?;
        let target = self.target(bound, way.to)?;
        let mut n = 0;
        while let Some(stream) = self.stream(device, bound, way, n) {
            n += 1;
            if let Err(error) = self.program(bound, stream, way.pasid, &target) {
                self.restore(device, way, n);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts one stream of a device through `target`: nothing, if a device that has it is silenced.
    fn program(
        &self,
        device: &Bound,
        stream: DeviceId,
        pasid: u32,
        target: &Target,
    ) -> Result<(), Error> {
        let silenced = pasid == 0 && self.is_silenced(device, stream);
        let target = if silenced { &Target::Abort } else { target };
        device
            .driver
            .attach(&device.requester(stream), pasid, target)
    }

    /// Puts the first `count` streams of a device back.
    fn restore(&mut self, device: u32, way: &Move, count: usize) {
        for n in 0..count {
            let Ok(bound) = self.ids.device(device) else {
                return;
            };
            let Some(stream) = self.stream(device, bound, way, n) else {
                return;
            };
            let old = way.from.map(|from| self.target(bound, from));
            let target = old.and_then(Result::ok).unwrap_or(Target::Refuse);
            if let Err(error) = self.program(bound, stream, way.pasid, &target) {
                // The driver leaves it refused: contained, but not what its owner believes.
                self.records.push(Record::Contained { device, error });
            }
        }
    }

    /// Undoes [`switch`](Self::switch).
    pub(super) fn switch_back(&mut self, device: u32, way: &Move) {
        let streams = self.ids.device(device).map_or(0, |it| it.streams.len());
        self.restore(device, way, streams);
        self.put_tag(device, way.to);
        self.unreserve_for(device, way.pasid, way.reserve);
    }

    /// A device has left a HWPT in hardware.
    pub(super) fn left(&mut self, device: u32, pasid: u32, hwpt: u32, unreserve: Option<u32>) {
        self.answer_left(device, pasid, hwpt);
        self.put_tag(device, hwpt);
        self.unreserve_for(device, pasid, unreserve);
        self.put(hwpt);
    }

    /// Whether a device that has the stream is silenced.
    fn is_silenced(&self, device: &Bound, stream: DeviceId) -> bool {
        let silenced = |device: &u32| {
            let it = self.ids.device(*device);
            it.is_ok_and(|it| it.silenced && it.streams.contains(&stream))
        };
        // Devices that share a stream are of one group.
        let group = self.group_index(device.driver.index(), device.group);
        group.is_some_and(|at| self.groups[at].devices.iter().any(silenced))
    }

    /// Refuses all requests of a device's streams, without a record, whatever it is attached to.
    ///
    /// # Errors
    /// That of the hardware: the device may still reach memory.
    pub(super) fn silence(&mut self, device: u32) -> Result<(), Error> {
        let bound = self.ids.device_mut(device)?;
        bound.silenced = true;
        for stream in &bound.streams {
            let requester = bound.requester(*stream);
            bound.driver.attach(&requester, 0, &Target::Abort)?;
        }
        Ok(())
    }

    /// Devices that drivers refuse everything since they do not forget what they have cached: they are silenced, and their
    /// owner is told.
    pub(super) fn find_contained(&mut self) {
        loop {
            let found = self.ids.live().find_map(|(id, entry)| match &entry.object {
                Object::Device(it) if !it.silenced => {
                    let stream = it
                        .streams
                        .iter()
                        .find(|stream| it.driver.is_contained(**stream));
                    stream.map(|stream| (id, *stream))
                }
                _ => None,
            });
            let Some((device, stream)) = found else {
                return;
            };
            if let Ok(bound) = self.ids.device_mut(device) {
                bound.silenced = true;
            }
            let error = Error::Hardware(IommuError::DeviceTlb(stream));
            self.records.push(Record::Contained { device, error });
        }
    }

    /// Ends a device's silence: each of its streams goes through what it would have without.
    fn unsilence(&mut self, device: u32) -> Result<(), Error> {
        self.ids.device_mut(device)?.silenced = false;
        let mut n = 0;
        loop {
            let bound = self.ids.device(device)?;
            let Some(stream) = bound.streams.get(n).copied() else {
                return Ok(());
            };
            n += 1;
            let target = self.user(device, stream).and_then(|(user, hwpt)| {
                let user = self.ids.device(user).ok()?;
                self.target(user, hwpt).ok()
            });
            let target = target.unwrap_or(Target::Refuse);
            if let Err(error) = self.program(bound, stream, 0, &target) {
                self.records.push(Record::Contained { device, error });
            }
        }
    }

    /// A device of the group that is attached and has the stream, and to what.
    fn user(&self, device: u32, stream: DeviceId) -> Option<(u32, u32)> {
        let attachment = self.groups[self.group_of(device).ok()?].at(0)?;
        let has = |it: &&u32| {
            let other = self.ids.device(**it);
            other.is_ok_and(|other| other.streams.contains(&stream))
        };
        let user = attachment.devices.iter().find(has)?;
        Some((*user, attachment.hwpt))
    }

    /// Refuses a device's requests at one PASID, and records them from then on: a silence ends. Nothing to do where it is
    /// not attached.
    ///
    /// # Errors
    /// That of the hardware: the device may still reach memory, and stays attached.
    pub(super) fn detach(&mut self, device: u32, pasid: u32) -> Result<(), Error> {
        let index = self.group_of(device)?;
        let silenced = pasid == 0 && self.ids.device(device)?.silenced;
        if let Some(hwpt) = self.attached(device, pasid) {
            self.cut(device, pasid)?;
            let ioas = self.facts(hwpt)?.ioas;
            let group = &mut self.groups[index];
            if let Some(attachment) = group.at_mut(pasid) {
                attachment.devices.retain(|it| *it != device);
            }
            group.attachments.retain(|it| !it.devices.is_empty());
            self.left(device, pasid, hwpt, Some(ioas));
            self.put(device);
        }
        if silenced {
            self.unsilence(device)
        } else {
            Ok(())
        }
    }

    /// Refuses what only this device uses.
    fn cut(&self, device: u32, pasid: u32) -> Result<(), Error> {
        let bound = self.ids.device(device)?;
        let mut n = 0;
        while let Some(stream) = self.own_stream(device, pasid, n) {
            self.program(bound, stream, pasid, &Target::Refuse)?;
            n += 1;
        }
        Ok(())
    }
}
