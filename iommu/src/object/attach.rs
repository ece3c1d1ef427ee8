//! What the DMA of a group goes through: attach, replace and detach, for each PASID.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::device::Bound;
use super::driver::{HwptFlags, ReservedKind, StageOne};
use super::ids::Object;
use super::inner::Inner;
use super::nested::Parent;
use super::switch::Move;
use super::{Error, device, room};
use crate::id::IommuIndex;

/// Devices that are not isolated from each other: at each PASID, all of them or none go through the same table.
#[derive(Debug)]
pub(super) struct Group {
    pub iommu: IommuIndex,
    pub group: u32,
    pub devices: Vec<u32>,
    pub attachments: Vec<Attachment>,
    /// A function of it is being reset: no attachment changes.
    pub in_reset: bool,
}

/// What one PASID of a group goes through. PASID 0 is requests without one.
#[derive(Debug)]
pub(super) struct Attachment {
    pub pasid: u32,
    pub hwpt: u32,
    pub devices: Vec<u32>,
}

impl Group {
    pub(super) fn new(iommu: IommuIndex, group: u32) -> Self {
        Self {
            iommu,
            group,
            devices: Vec::new(),
            attachments: Vec::new(),
            in_reset: false,
        }
    }

    pub(super) fn at(&self, pasid: u32) -> Option<&Attachment> {
        self.attachments.iter().find(|it| it.pasid == pasid)
    }

    pub(super) fn at_mut(&mut self, pasid: u32) -> Option<&mut Attachment> {
        self.attachments.iter_mut().find(|it| it.pasid == pasid)
    }
}

/// What a HWPT means for an attachment.
pub(super) struct Facts {
    pub ioas: u32,
    pub flags: HwptFlags,
    pub has_fault_queue: bool,
}

impl Inner {
    pub(super) fn group_index(&self, iommu: IommuIndex, group: u32) -> Option<usize> {
        let mut groups = self.groups.iter();
        groups.position(|it| it.iommu == iommu && it.group == group)
    }

    /// The group of a bound device.
    pub(super) fn group_of(&self, device: u32) -> Result<usize, Error> {
        self.group_of_bound(device, self.ids.device(device)?)
    }

    fn group_of_bound(&self, device: u32, bound: &Bound) -> Result<usize, Error> {
        self.group_index(bound.driver.index(), bound.group)
            .ok_or(Error::NoSuchObject(device))
    }

    /// The HWPT that a device is attached to.
    pub(super) fn attached(&self, device: u32, pasid: u32) -> Option<u32> {
        let group = &self.groups[self.group_of(device).ok()?];
        let attachment = group.at(pasid)?;
        attachment
            .devices
            .contains(&device)
            .then_some(attachment.hwpt)
    }

    /// A PASID that the device is attached at; requests without one come last.
    pub(super) fn next_pasid(&self, device: u32) -> Option<u32> {
        let group = &self.groups[self.group_of(device).ok()?];
        let mine = group.attachments.iter();
        let mine = mine.filter(|it| it.devices.contains(&device));
        mine.map(|it| it.pasid).max()
    }

    /// No attachment of the device's group changes while one of its functions is being reset.
    pub(super) fn set_in_reset(&mut self, device: u32, in_reset: bool) -> Result<(), Error> {
        let group = self.group_of(device)?;
        self.groups[group].in_reset = in_reset;
        Ok(())
    }

    /// Attaches a device to a HWPT, or to a fitting automatic one of an address space, and returns which.
    pub(super) fn attach(&mut self, device: u32, pasid: u32, to: u32) -> Result<u32, Error> {
        self.connect(device, pasid, to, false)
    }

    /// Puts another HWPT in place of the one that the device's group is attached to.
    pub(super) fn replace(&mut self, device: u32, pasid: u32, to: u32) -> Result<u32, Error> {
        self.connect(device, pasid, to, true)
    }

    fn connect(&mut self, device: u32, pasid: u32, to: u32, replace: bool) -> Result<u32, Error> {
        match self.ids.entry(to).map(|entry| &entry.object) {
            Ok(Object::Paging(_) | Object::Nested(_)) => {
                self.connect_hwpt(device, pasid, to, replace)?;
                Ok(to)
            }
            Ok(Object::Ioas(_)) => self.connect_ioas(device, pasid, to, replace),
            // Of two that are wrong, the device is named, as by those.
            other => {
                self.ids.device(device)?;
                Err(other.err().unwrap_or(Error::WrongKind(to)))
            }
        }
    }

    fn connect_ioas(
        &mut self,
        device: u32,
        pasid: u32,
        ioas: u32,
        replace: bool,
    ) -> Result<u32, Error> {
        self.check_state(device, pasid, replace, None)?;
        let driver = Arc::clone(&self.ids.device(device)?.driver);
        for which in 0..self.ids.ioas(ioas)?.hwpts.len() {
            let hwpt = self.ids.ioas(ioas)?.hwpts[which];
            if !self.is_auto(hwpt) {
                continue;
            }
            match self.connect_hwpt(device, pasid, hwpt, replace) {
                Ok(()) => return Ok(hwpt),
                Err(Error::Incompatible) => {}
                Err(error) => return Err(error),
            }
        }
        let hwpt = self.auto_paging(ioas, &driver)?;
        if let Err(error) = self.connect_hwpt(device, pasid, hwpt, replace) {
            self.end(hwpt, false);
            return Err(error);
        }
        Ok(hwpt)
    }

    /// What an attachment must find before it looks at the HWPT. Returns the group.
    fn check_state(
        &self,
        device: u32,
        pasid: u32,
        replace: bool,
        hwpt: Option<u32>,
    ) -> Result<usize, Error> {
        let bound = self.ids.device(device)?;
        if pasid != 0 && u64::from(pasid) >> bound.pasid_bits != 0 {
            return Err(Error::PasidRange(pasid));
        }
        let index = self.group_of_bound(device, bound)?;
        let group = &self.groups[index];
        if group.in_reset {
            return Err(Error::GroupInReset(group.group));
        }
        let attachment = group.at(pasid);
        let joined = attachment.is_some_and(|it| it.devices.contains(&device));
        match (replace, joined) {
            (true, false) => return Err(Error::NotAttached(pasid)),
            (false, true) => return Err(Error::AlreadyAttached(pasid)),
            _ => {}
        }
        if let (false, Some(hwpt), Some(attachment)) = (replace, hwpt, attachment)
            && attachment.hwpt != hwpt
        {
            return Err(Error::OtherAttachment(pasid));
        }
        Ok(index)
    }

    /// PASIDs are only mixed with tables that allow it.
    fn check_pasid(&self, group: usize, pasid: u32, facts: &Facts) -> Result<(), Error> {
        let compatible = facts.flags.contains(HwptFlags::PASID);
        let group = &self.groups[group];
        if pasid == 0 {
            let others = group.attachments.iter().any(|it| it.pasid != 0);
            return if others && !compatible {
                Err(Error::PasidMix(pasid))
            } else {
                Ok(())
            };
        }
        let rid = match group.at(0) {
            Some(rid) => self.facts(rid.hwpt)?.flags.contains(HwptFlags::PASID),
            None => true,
        };
        if compatible && rid {
            Ok(())
        } else {
            Err(Error::PasidMix(pasid))
        }
    }

    pub(super) fn facts(&self, hwpt: u32) -> Result<Facts, Error> {
        match &self.ids.entry(hwpt)?.object {
            Object::Paging(paging) => Ok(Facts {
                ioas: paging.ioas,
                flags: paging.flags,
                has_fault_queue: paging.fault.is_some(),
            }),
            Object::Nested(nested) => Ok(Facts {
                ioas: nested.ioas,
                flags: nested.flags,
                has_fault_queue: nested.fault.is_some(),
            }),
            _ => Err(Error::WrongKind(hwpt)),
        }
    }

    pub(super) fn nest_parent_of(&self, parent: Parent) -> Result<u32, Error> {
        match parent {
            Parent::Paging(paging) => Ok(paging),
            Parent::Viommu(viommu) => Ok(self.ids.viommu(viommu)?.parent),
        }
    }

    /// Whether a device may go through a HWPT at all.
    fn check_fit(&self, device: u32, hwpt: u32, facts: &Facts) -> Result<(), Error> {
        let bound = self.ids.device(device)?;
        if facts.has_fault_queue && bound.shares_page_requests {
            return Err(Error::Incompatible);
        }
        if facts.flags.contains(HwptFlags::DIRTY_TRACKING) && !bound.dirty_tracking {
            return Err(Error::Incompatible);
        }
        match &self.ids.entry(hwpt)?.object {
            Object::Paging(paging) => bound.driver.accepts(&paging.root()),
            Object::Nested(nested) => {
                if nested.driver.index() != bound.driver.index() {
                    return Err(Error::OtherIommu);
                }
                let translates = matches!(
                    nested.stage_one,
                    StageOne::Translate(_) | StageOne::Table(_)
                );
                if let Parent::Viommu(viommu) = nested.parent
                    && translates
                    && self.virt_id(bound, viommu).is_none()
                {
                    return Err(Error::NoVdevice(device));
                }
                Ok(())
            }
            _ => Err(Error::WrongKind(hwpt)),
        }
    }

    /// A device's reserved ranges hold for the address space it can reach.
    pub(super) fn reserve_for(&mut self, device: u32, pasid: u32, ioas: u32) -> Result<(), Error> {
        let owner = device::owner(device, pasid);
        let mut window = false;
        let mut result = Ok(());
        for index in 0..self.ids.device(device)?.reserved.len() {
            let region = self.ids.device(device)?.reserved[index];
            let space = self.ids.ioas_mut(ioas)?;
            result = match region.kind {
                ReservedKind::DirectRelaxable => Ok(()),
                ReservedKind::SoftwareMsi if space.window.is_some() => Ok(()),
                ReservedKind::SoftwareMsi => {
                    window = true;
                    space.set_window(region.first, region.last)
                }
                _ => space.reserve(region.first, region.last, owner),
            };
            if result.is_err() {
                break;
            }
        }
        if result.is_err() {
            let space = self.ids.ioas_mut(ioas)?;
            space.unreserve(owner);
            if window {
                space.drop_window();
            }
        }
        result
    }

    fn connect_hwpt(
        &mut self,
        device: u32,
        pasid: u32,
        hwpt: u32,
        replace: bool,
    ) -> Result<(), Error> {
        let index = self.check_state(device, pasid, replace, Some(hwpt))?;
        let attachment = self.groups[index].at(pasid).filter(|_| replace);
        let old = attachment.map(|it| it.hwpt);
        if old == Some(hwpt) {
            return Ok(());
        }
        // In place of another, the whole group goes along.
        let count = attachment.map_or(1, |it| it.devices.len());
        let facts = self.facts(hwpt)?;
        self.check_pasid(index, pasid, &facts)?;
        for n in 0..count {
            self.check_fit(self.moved(index, pasid, n, count, device), hwpt, &facts)?;
        }
        let new = match old {
            None => self.make_room(index, pasid, device)?,
            Some(_) => Vec::new(),
        };

        let old_ioas = match old {
            Some(old) => Some(self.facts(old)?.ioas),
            None => None,
        };
        let way = Move {
            pasid,
            from: old,
            to: hwpt,
            // What a device reserves holds already where the address space stays the same.
            reserve: (old_ioas != Some(facts.ioas)).then_some(facts.ioas),
            unreserve: old_ioas.filter(|old| *old != facts.ioas),
        };
        // A window comes with what is reserved.
        let had_window = match way.reserve {
            Some(ioas) => self.ids.ioas(ioas)?.window.is_some(),
            None => true,
        };
        let mut done = 0;
        let mut result = Ok(());
        while done < count && result.is_ok() {
            result = self.switch(self.moved(index, pasid, done, count, device), &way);
            done += usize::from(result.is_ok());
        }
        if let Err(error) = result {
            for n in 0..done {
                self.switch_back(self.moved(index, pasid, n, count, device), &way);
            }
            if !had_window && let Ok(space) = self.ids.ioas_mut(facts.ioas) {
                space.drop_window();
            }
            return Err(error);
        }
        match old {
            Some(from) => {
                for n in 0..count {
                    self.ids.grab(hwpt);
                    let device = self.moved(index, pasid, n, count, device);
                    self.left(device, pasid, from, way.unreserve);
                }
                if let Some(attachment) = self.groups[index].at_mut(pasid) {
                    attachment.hwpt = hwpt;
                }
            }
            None => self.join(index, &way, device, new),
        }
        Ok(())
    }

    /// The n-th of the `count` devices of a move: those that leave a HWPT together, or `device` alone.
    fn moved(&self, group: usize, pasid: u32, n: usize, count: usize, device: u32) -> u32 {
        if count == 1 {
            return device;
        }
        let attachment = self.groups[group].at(pasid);
        let moved = attachment.and_then(|it| it.devices.get(n));
        moved.copied().unwrap_or(device)
    }

    /// Records that a device is attached. Cannot fail: the room was made before.
    fn join(&mut self, group: usize, way: &Move, device: u32, new: Vec<u32>) {
        self.ids.grab(way.to);
        self.ids.grab(device);
        let group = &mut self.groups[group];
        match group.at_mut(way.pasid) {
            Some(attachment) => attachment.devices.push(device),
            None => group.attachments.push(Attachment {
                pasid: way.pasid,
                hwpt: way.to,
                devices: new,
            }),
        }
    }

    /// Room for one device more in an attachment; the devices of it, where there is none yet.
    fn make_room(&mut self, group: usize, pasid: u32, device: u32) -> Result<Vec<u32>, Error> {
        let group = &mut self.groups[group];
        match group.at_mut(pasid) {
            Some(attachment) => {
                room::reserve(&mut attachment.devices, 1)?;
                Ok(Vec::new())
            }
            None => {
                room::reserve(&mut group.attachments, 1)?;
                room::copy(&[device])
            }
        }
    }
}
