//! What devices may have cached of translations (ATS, IHI 0070, §3.9), and how they are told that it is gone.
//!
//! A device whose entry has EATS on keeps what it was told, and the SMMU lets what it says to be translated pass. So what
//! leaves a table leaves these caches too: after the TLBs, with a CMD_SYNC in between, as a device could otherwise ask again
//! for what is not gone yet (§3.9.1). A cache is empty whenever EATS goes on, and known here for as long as it is on. A
//! device that does not answer within the SMMU's time makes CMD_SYNC fail for all who wait (§7.1, CERROR_ATC_INV_SYNC): each
//! device in question is asked alone then, and the one is named.
//!
//! With EATS off nothing that a device says to be translated passes, as CR0.ATSCHK is on: its cache does not matter.

use alloc::vec::Vec;

use super::command::Command;
use super::command_queue::SYNC;
use super::invalidation::device_range;
use super::shared::Shared;
use super::spec::command::cerror;
use crate::addr::{Iova, Span};
use crate::hal::{Mmio, Platform};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{HOST, Invalidation, IommuError, StreamConfig};

/// Times that a device is asked, as the silence of another may be taken for its own.
const TRIES: u8 = 3;

/// What of one table a device may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct DeviceCache {
    tag: CacheTag,
    /// Of a first stage of the host's; `None` for a second stage.
    asid: Option<u16>,
    device: DeviceId,
    pasid: Option<u32>,
    /// There is a guest's stage 1 in between: which of its addresses lead to what is gone is not known.
    whole: bool,
}

impl DeviceCache {
    /// What a device may have with this configuration. Contexts of the host's are not looked at: see [`Self::context`].
    pub(super) fn of(config: &StreamConfig, device: DeviceId) -> Option<Self> {
        let (tag, whole) = match config {
            StreamConfig::StageTwo(two) if two.ats => (two.tag, false),
            StreamConfig::Nested {
                stage_two,
                stage_one,
            } if stage_one.ats => (stage_two.tag, true),
            _ => return None,
        };
        Some(Self {
            tag,
            asid: None,
            device,
            pasid: None,
            whole,
        })
    }

    /// The same with a context of the host's; PASID 0 is without one.
    pub(super) fn context(device: DeviceId, pasid: u32, asid: u16) -> Self {
        Self {
            tag: HOST,
            asid: Some(asid),
            device,
            pasid: (pasid != 0).then_some(pasid),
            whole: false,
        }
    }

    /// Whether it is one of those.
    pub(super) fn is_context(&self) -> bool {
        self.asid.is_some()
    }

    /// Whether some of it goes with `entry`. What a guest does to its own stage 1 is for the guest to tell the device.
    pub(super) fn is_cut(&self, entry: &Invalidation) -> bool {
        match *entry {
            Invalidation::StageTwoRange { tag, .. } => tag == self.tag && self.asid.is_none(),
            Invalidation::Tag(tag) => tag == self.tag,
            Invalidation::StageOne(tag) => tag == self.tag && self.asid.is_some(),
            Invalidation::AddressSpace { tag, asid } => tag == self.tag && self.asid == Some(asid),
            Invalidation::StageOneAddress { tag, asid, .. }
            | Invalidation::StageOneRange { tag, asid, .. } => {
                tag == self.tag && self.asid.is_some() && (asid.is_none() || asid == self.asid)
            }
            _ => false,
        }
    }

    /// The command for what goes of it with `entry`.
    pub(super) fn command(&self, entry: &Invalidation) -> Command {
        let range = match *entry {
            _ if self.whole => None,
            Invalidation::StageTwoRange { range, .. }
            | Invalidation::StageOneRange { range, .. } => device_range_of(range),
            _ => None,
        };
        Command::atc_inv(self.device, self.pasid, range)
    }

    /// What else goes where all of it does: the guest's PASIDs.
    pub(super) fn others(&self, substreams: bool) -> Option<Command> {
        (self.whole && substreams).then(|| Command::atc_inv_global(self.device, None))
    }

    /// Whether `batch` has to do with the device.
    fn concerns(&self, batch: &[Invalidation]) -> bool {
        batch.iter().any(|entry| match *entry {
            Invalidation::DeviceTlb { device, .. }
            | Invalidation::DeviceTlbOfPasids { device, .. } => device == self.device,
            _ => self.is_cut(entry),
        })
    }
}

fn device_range_of(range: Span<Iova>) -> Option<(Iova, u8)> {
    if range.len == 0 {
        // Nothing is more than asked for.
        return Some((range.base.align_down(4096), 0));
    }
    device_range(range)
}

/// All of them.
#[derive(Default, Debug)]
pub(super) struct DeviceCaches(Vec<DeviceCache>);

impl DeviceCaches {
    /// Whether it is new here.
    pub(super) fn add(&mut self, cache: DeviceCache) -> Result<bool, IommuError> {
        if self.0.contains(&cache) {
            return Ok(false);
        }
        self.0.try_reserve(1).map_err(|_| IommuError::OutOfMemory)?;
        self.0.push(cache);
        Ok(true)
    }

    /// `device` has only what `keep` says.
    pub(super) fn retain(&mut self, device: DeviceId, keep: impl Fn(&DeviceCache) -> bool) {
        self.0.retain(|it| it.device != device || keep(it));
    }

    /// At `pasid`, `device` has only what is of `asid`.
    pub(super) fn retain_context(&mut self, device: DeviceId, pasid: u32, asid: Option<u16>) {
        let pasid = (pasid != 0).then_some(pasid);
        self.retain(device, |it| {
            it.pasid != pasid || it.asid.is_none() || asid.is_some() && it.asid == asid
        });
    }

    /// Whether it may have anything.
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.0.iter().any(|it| it.device == device)
    }

    /// What comes after `last` among the `wanted`.
    pub(super) fn next(
        &self,
        last: Option<DeviceCache>,
        wanted: impl Fn(&DeviceCache) -> bool,
    ) -> Option<DeviceCache> {
        let caches = self.0.iter().copied();
        caches
            .filter(|it| last.is_none_or(|last| *it > last) && wanted(it))
            .min()
    }

    /// The same by devices.
    fn next_device(&self, last: Option<DeviceId>, batch: &[Invalidation]) -> Option<DeviceId> {
        let caches = self.0.iter().filter(|it| it.concerns(batch));
        let devices = caches.map(|it| it.device);
        devices
            .filter(|it| last.is_none_or(|last| *it > last))
            .min()
    }
}

impl<P: Platform, M: Mmio> Shared<P, M> {
    /// `device` has nothing of `pasid` on return (0: of what comes without one); `None`: nothing at all.
    ///
    /// # Errors
    /// [`IommuError::DeviceTlb`], those of the command queue.
    pub(super) fn forget_device(
        &self,
        device: DeviceId,
        pasid: Option<u32>,
    ) -> Result<(), IommuError> {
        let tagged = pasid.filter(|pasid| *pasid != 0);
        let commands = [
            Command::atc_inv_global(device, None),
            Command::atc_inv(device, tagged, None),
            Command(SYNC),
        ]
        .map(|command| command.0);
        let all = pasid.is_none() && self.features.substream_bits != 0;
        let commands = &commands[if all { 0 } else { 1 }..];
        for _ in 0..TRIES {
            match self.tell(commands) {
                Err(IommuError::Command(cerror::ATC_INV_SYNC)) => {}
                result => return result,
            }
        }
        Err(IommuError::DeviceTlb(device))
    }

    /// The first of the devices that have to do with `batch` that does not answer, asked alone.
    pub(super) fn silent_device(&self, batch: &[Invalidation]) -> Option<DeviceId> {
        let mut last = None;
        loop {
            let next = self.lock().caches.next_device(last, batch);
            let device = next?;
            if self.forget_device(device, None) == Err(IommuError::DeviceTlb(device)) {
                return Some(device);
            }
            last = Some(device);
        }
    }
}

#[cfg(test)]
mod tests;
