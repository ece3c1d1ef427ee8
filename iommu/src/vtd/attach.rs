//! What a device's requests go through: from its present entries to others (VT-d, 6.5.3.3).
//!
//! In scalable mode the context entry leads to the device's PASID directory as long as any PASID passes, and the entry of each
//! PASID says what of it; that of requests without is PASID 0's. Then one entry takes another's place by one store where it
//! can ([`PasidTables::replace`](super::pasid_tables::PasidTables::replace)), and no request in between is refused. A device
//! that is to be silent has a context entry that says so, whatever its PASIDs have.

use alloc::sync::Arc;

use super::Vtd;
use super::command::{Command, Contexts, Translations};
use super::entry::{ContextEntry, PasidEntry};
use super::pasid_tables::PASID_BITS;
use super::users::User;
use crate::hal::{Mmio, Platform};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{IommuError, StreamConfig};

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
                return self.put_pasid(device, 0, PasidEntry::REFUSED);
            }
            _ => PasidEntry::new(&config, &self.features),
        };
        let wanted = entry.unwrap_or(PasidEntry::REFUSED);
        if wanted.is_present() {
            self.pasids.prepare(&self.platform, device, 0)?;
        }
        let others = match self.pasids.next(device, 0) {
            Some((0, _)) => self.pasids.next(device, 1).is_some(),
            other => other.is_some(),
        };
        if !wanted.is_present() && !others {
            // The one entry goes with the context.
            self.shut(device, ContextEntry::REFUSED)?;
        }
        self.put_pasid(device, 0, wanted)?;
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
        let entry = PasidEntry::new(&config, &self.features);
        let wanted = entry.unwrap_or(PasidEntry::REFUSED);
        if wanted != PasidEntry::REFUSED {
            self.pasids.prepare(&self.platform, device, pasid)?;
        }
        self.put_pasid(device, pasid, wanted)?;
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
            let entry = ContextEntry::of_directory(directory, &self.features);
            self.tables.store(&self.platform, device, entry);
        }
        Ok(())
    }

    /// Has the context entry refuse everything, of all PASIDs. What is cached of them is gone on return.
    fn shut(&mut self, device: DeviceId, entry: ContextEntry) -> Result<(), IommuError> {
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
                self.store_pasid(&platform, device, 0, &old, &PasidEntry::REFUSED);
            }
        }
        self.tell(&batch[..filled])
    }

    fn store_pasid(
        &mut self,
        platform: &P,
        device: DeviceId,
        pasid: u32,
        old: &PasidEntry,
        entry: &PasidEntry,
    ) {
        self.pasids.store(platform, device, pasid, entry);
        self.note(device, pasid, old, entry);
    }

    /// Keeps [`Users`](super::users::Users): `entry` is in force in place of `old`. The room was made before.
    fn note(&mut self, device: DeviceId, pasid: u32, old: &PasidEntry, entry: &PasidEntry) {
        let user = |entry: &PasidEntry| User {
            tag: entry.domain(),
            pasid,
            device,
        };
        let kept = entry.has_first_stage() && entry.domain() == old.domain();
        if old.has_first_stage() && !kept {
            self.users.remove(user(old));
        }
    }

    /// Puts an entry in force for one PASID. After an error it is refused.
    fn put_pasid(
        &mut self,
        device: DeviceId,
        pasid: u32,
        wanted: PasidEntry,
    ) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let Some(old) = self.pasids.read(device, pasid) else {
            return Ok(());
        };
        if wanted == old {
            return self.be_sure();
        }
        let room = match wanted.has_first_stage() {
            true => self.users.add(User {
                tag: wanted.domain(),
                pasid,
                device,
            }),
            false => Ok(()),
        };
        let wanted = room.map_or(PasidEntry::REFUSED, |()| wanted);
        let result = self.change_pasid(&platform, device, pasid, &old, &wanted);
        if result.is_err() {
            let now = self.pasids.read(device, pasid).unwrap_or_default();
            self.store_pasid(&platform, device, pasid, &now, &PasidEntry::REFUSED);
            self.note(device, pasid, &wanted, &PasidEntry::REFUSED);
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
    ) -> Result<(), IommuError> {
        // Nothing opens before all that was closed is.
        self.be_sure()?;
        if !old.is_present() {
            self.store_pasid(platform, device, pasid, old, wanted);
            return Ok(());
        }
        let forgotten = gone(pasid, old);
        if wanted.is_present() && self.pasids.replace(platform, device, pasid, wanted) {
            self.note(device, pasid, old, wanted);
            // The directory changed, of which entries are cached without a domain.
            let told = self.tell(&[Command::Pasids, forgotten[1]]);
            self.pasids.settle(told.is_ok());
            return told;
        }
        let shut = match wanted.is_present() {
            true => PasidEntry::SILENT,
            false => *wanted,
        };
        self.store_pasid(platform, device, pasid, old, &shut);
        self.tell(&forgotten)?;
        if wanted.is_present() {
            self.store_pasid(platform, device, pasid, &shut, wanted);
        }
        Ok(())
    }
}
