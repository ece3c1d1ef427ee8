//! What a device's requests go through: from its present entries to others (VT-d, 6.5.3.3).
//!
//! In scalable mode the context entry leads to the device's PASID directory as long as any PASID passes, and the entry of each
//! PASID says what of it; that of requests without is PASID 0's. Then one entry takes another's place by one store where it
//! can ([`PasidTables::replace`](super::pasid_tables::PasidTables::replace)), and no request in between is refused. A device
//! that is to be silent has a context entry that says so, whatever its PASIDs have.
//!
//! Whether a device may cache translations is said by its context entry, for all of its PASIDs (DTE, 9.4): all of them or none
//! are to be cached. Its TLB is emptied before that entry opens, and of a PASID when what that has goes. While the entry is not
//! there nothing that a device says to be translated passes.

use alloc::sync::Arc;

use super::Vtd;
use super::command::{Command, Contexts, Translations};
use super::entry::{ContextEntry, PasidEntry};
use super::pasid_tables::PASID_BITS;
use super::users::User;
use crate::hal::{Mmio, Platform};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{IommuError, StreamConfig};

/// Whether a device may cache what it is told of `config`.
fn caches(config: &StreamConfig) -> bool {
    match config {
        StreamConfig::StageTwo(stage) => stage.ats,
        StreamConfig::FirstStage { first, .. } | StreamConfig::FirstOnSecond { first, .. } => {
            first.ats
        }
        _ => false,
    }
}

/// What has to be forgotten of a PASID's entry that was present.
fn gone(pasid: u32, entry: &PasidEntry) -> [Command; 2] {
    let domain = entry.domain();
    // 6.5.3.3: a first stage of its own is forgotten by PASID, what has a second by domain.
    let translations = match entry.is_first_stage() {
        true => Command::FirstStage(domain, pasid, None),
        false => Command::Translations(Translations::Domain(domain)),
    };
    [Command::Pasid(domain, pasid), translations]
}

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// See [`PhysicalIommu::attach`](crate::physical::PhysicalIommu::attach).
    pub(super) fn configure(
        &mut self,
        device: DeviceId,
        config: StreamConfig,
    ) -> Result<(), IommuError> {
        self.tables.prepare(&self.platform, device)?;
        if self.scalable {
            return self.configure_whole(device, config);
        }
        let old = self.tables.read(device);
        let old = old.ok_or(IommuError::NoSuchDevice(device))?;
        let entry = ContextEntry::new(config, &self.features);
        let wanted = entry.unwrap_or(ContextEntry::REFUSED);
        if let Some(domain) = old.domain() {
            // Not present, then forgotten, the context first and then what was made of it.
            let shut = match wanted.is_present() {
                true => ContextEntry::SILENT,
                false => wanted,
            };
            self.tables.store(&self.platform, device, shut);
            self.be_sure()?;
            self.tell(&[
                Command::Contexts(Contexts::Device(device, domain)),
                Command::Translations(Translations::Domain(domain)),
            ])?;
        } else if !wanted.is_present() {
            self.tables.store(&self.platform, device, wanted);
        }
        // Nothing opens before all that was closed is.
        self.be_sure()?;
        if wanted.is_present() {
            self.tables.store(&self.platform, device, wanted);
        }
        entry.map(drop)
    }

    /// Closes the device where its PASIDs would be cached, or would not, against what `config` says. It opens again with that.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where other PASIDs are as it is.
    fn agree(
        &mut self,
        device: DeviceId,
        pasid: u32,
        config: &StreamConfig,
    ) -> Result<(), IommuError> {
        let entry = self.tables.read(device).unwrap_or(ContextEntry::REFUSED);
        if !entry.is_present() || entry.has_device_tlb() == caches(config) {
            return Ok(());
        }
        let others = match self.pasids.next(device, 0) {
            Some((first, _)) if first == pasid => self.pasids.next(device, pasid + 1).is_some(),
            other => other.is_some(),
        };
        match others {
            true => Err(IommuError::Unsupported),
            false => self.shut(device, ContextEntry::REFUSED),
        }
    }

    /// A device that does not forget is refused everything.
    pub(super) fn unless_deaf(
        &mut self,
        device: DeviceId,
        put: Result<(), IommuError>,
    ) -> Result<(), IommuError> {
        if matches!(put, Err(IommuError::DeviceTlb(_))) {
            self.shut_alone(device, ContextEntry::SILENT)?;
        }
        put
    }

    fn is_open(&mut self, device: DeviceId) -> bool {
        let entry = self.tables.read(device);
        entry.is_some_and(|entry| entry.is_present())
    }

    /// In scalable mode.
    fn configure_whole(
        &mut self,
        device: DeviceId,
        config: StreamConfig,
    ) -> Result<(), IommuError> {
        let entry = match config {
            StreamConfig::Abort => {
                self.shut(device, ContextEntry::SILENT)?;
                return self.put_pasid(device, 0, PasidEntry::REFUSED, false);
            }
            _ => PasidEntry::new(&config, &self.features),
        };
        let entry = match entry {
            Ok(entry) if entry.is_present() => self.agree(device, 0, &config).map(|()| entry),
            entry => entry,
        };
        let wanted = entry.unwrap_or(PasidEntry::REFUSED);
        if wanted.is_present() {
            self.pasids.prepare(&self.platform, device, 0)?;
        }
        let ats = caches(&config);
        let others = match self.pasids.next(device, 0) {
            Some((0, _)) => self.pasids.next(device, 1).is_some(),
            other => other.is_some(),
        };
        if !wanted.is_present() && !others {
            // The one entry goes with the context.
            self.shut(device, ContextEntry::REFUSED)?;
        }
        self.put_pasid(device, 0, wanted, ats)?;
        if self.pasids.any(device) {
            self.open(device)?;
        }
        entry.map(drop)
    }

    /// See [`PhysicalIommu::attach_pasid`](crate::physical::PhysicalIommu::attach_pasid).
    pub(super) fn configure_pasid(
        &mut self,
        device: DeviceId,
        pasid: u32,
        config: StreamConfig,
    ) -> Result<(), IommuError> {
        let bits = self.features.pasid_bits.min(PASID_BITS);
        if !self.scalable || pasid == 0 || pasid >> bits != 0 {
            return Err(IommuError::Unsupported);
        }
        self.tables.prepare(&self.platform, device)?;
        let entry = match PasidEntry::new(&config, &self.features) {
            Ok(entry) if entry.is_present() => self.agree(device, pasid, &config).map(|()| entry),
            entry => entry,
        };
        let wanted = entry.unwrap_or(PasidEntry::REFUSED);
        if wanted != PasidEntry::REFUSED {
            self.pasids.prepare(&self.platform, device, pasid)?;
        }
        self.put_pasid(device, pasid, wanted, caches(&config))?;
        let silent = self.tables.read(device) == Some(ContextEntry::SILENT);
        if self.pasids.any(device) && !silent {
            self.open(device)?;
        } else if !silent {
            self.shut(device, ContextEntry::REFUSED)?;
        }
        entry.map(drop)
    }

    /// Has the context entry lead to the PASIDs.
    fn open(&mut self, device: DeviceId) -> Result<(), IommuError> {
        if !self.is_open(device)
            && let Some(directory) = self.pasids.directory(device)
        {
            self.be_sure()?;
            let ats = self.users.caches(device);
            if ats {
                self.forget_device(device)?;
            }
            let entry = ContextEntry::of_directory(directory, &self.features, ats);
            self.tables.store(&self.platform, device, entry);
        }
        Ok(())
    }

    /// Tells a device to forget all that it has cached.
    fn forget_device(&mut self, device: DeviceId) -> Result<(), IommuError> {
        let of_pasids = Command::DeviceTlbOfPasids(device);
        let all = [Command::DeviceTlb(device, 0, None), of_pasids];
        self.tell(&all[..if self.features.pasid_bits != 0 { 2 } else { 1 }])
    }

    /// Has the context entry refuse everything, of all PASIDs. What is cached of them is gone on return, and what the device has
    /// asked for is answered (7.10).
    fn shut(&mut self, device: DeviceId, entry: ContextEntry) -> Result<(), IommuError> {
        let old = self.tables.read(device).unwrap_or(ContextEntry::REFUSED);
        self.shut_alone(device, entry)?;
        if old.has_device_tlb() && self.requests.is_some() {
            self.forget_device(device)?;
            self.end_requests(device, None)?;
        }
        Ok(())
    }

    /// The same without a word to the device.
    fn shut_alone(&mut self, device: DeviceId, entry: ContextEntry) -> Result<(), IommuError> {
        let was = self.is_open(device);
        self.tables.store(&self.platform, device, entry);
        self.be_sure()?;
        if !was {
            return Ok(());
        }
        let platform = Arc::clone(&self.platform);
        let mut batch = [Command::Contexts(Contexts::Device(device, CacheTag(0))); 31];
        let mut filled = 1;
        let mut from = Some(0);
        while let Some((pasid, old)) = from.and_then(|from| self.pasids.next(device, from)) {
            for command in gone(pasid, &old) {
                batch[filled] = command;
                filled += 1;
            }
            if filled + 2 > batch.len() {
                self.tell(&batch[..filled])?;
                filled = 0;
            }
            from = pasid.checked_add(1);
            if pasid == 0 {
                // It goes with the context.
                self.store_pasid(&platform, device, 0, &PasidEntry::REFUSED, None);
            }
        }
        self.tell(&batch[..filled])
    }

    /// Stores an entry, which `user` stands for in [`Users`](super::users::Users) from now on.
    fn store_pasid(
        &mut self,
        platform: &P,
        device: DeviceId,
        pasid: u32,
        entry: &PasidEntry,
        user: Option<User>,
    ) {
        self.pasids.store(platform, device, pasid, entry);
        self.users.retain(device, pasid, user);
    }

    /// Puts an entry in force for one PASID. After an error it is refused.
    fn put_pasid(
        &mut self,
        device: DeviceId,
        pasid: u32,
        wanted: PasidEntry,
        ats: bool,
    ) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let Some(old) = self.pasids.read(device, pasid) else {
            return Ok(());
        };
        if wanted == old {
            return self.be_sure();
        }
        let user = User {
            tag: wanted.domain(),
            pasid,
            device,
            first: wanted.has_first_stage(),
            ats: ats && wanted.is_present(),
        };
        let user = (user.first || user.ats).then_some(user);
        let room = user.map_or(Ok(()), |user| self.users.add(user));
        let (wanted, user) = match room {
            Ok(()) => (wanted, user),
            Err(_) => (PasidEntry::REFUSED, None),
        };
        let result = self.change_pasid(&platform, device, pasid, &old, &wanted, user);
        if result.is_err() {
            self.store_pasid(&platform, device, pasid, &PasidEntry::REFUSED, None);
        }
        result.and(room)
    }

    fn change_pasid(
        &mut self,
        platform: &P,
        device: DeviceId,
        pasid: u32,
        old: &PasidEntry,
        wanted: &PasidEntry,
        user: Option<User>,
    ) -> Result<(), IommuError> {
        // Nothing opens before all that was closed is.
        self.be_sure()?;
        if !old.is_present() {
            self.store_pasid(platform, device, pasid, wanted, user);
            return Ok(());
        }
        let context = self.tables.read(device);
        let cached = context.is_some_and(|context| context.has_device_tlb());
        // 6.5.2.5: the device is told after the unit's own caches are.
        let of_device = cached.then_some(Command::DeviceTlb(device, pasid, None));
        let [entry, translations] = gone(pasid, old);
        if wanted.is_present() && self.pasids.replace(platform, device, pasid, wanted) {
            self.users.retain(device, pasid, user);
            // The directory changed, of which entries are cached without a domain.
            let told = self.tell_all([Some(Command::Pasids), Some(translations), of_device]);
            self.pasids.settle(told.is_ok());
            return told;
        }
        let shut = match wanted.is_present() {
            true => PasidEntry::SILENT,
            false => *wanted,
        };
        self.store_pasid(platform, device, pasid, &shut, user);
        self.tell_all([Some(entry), Some(translations), of_device])?;
        if wanted.is_present() {
            self.store_pasid(platform, device, pasid, wanted, user);
        } else if cached {
            self.end_requests(device, Some(pasid))?;
        }
        Ok(())
    }

    fn tell_all(&mut self, commands: [Option<Command>; 3]) -> Result<(), IommuError> {
        let sent = self.send(&mut commands.into_iter().flatten());
        sent.map_err(|incomplete| incomplete.error)
    }
}
