//! What each command does (IHI 0069, §5.3). One that names what the partition does not have, or has not mapped, is
//! ignored and counted: `GITS_TYPER.SEIS` is zero.

use super::spec::{COLLECTIONS, Command, ID_BITS, table_entries};
use super::{BackendError, Event, UNMAPPED, Vits, Work};
use crate::vdev::vgic::spec::{LPI_BASE, LPI_END, LpiProperty};
use iommu::addr::Gpa;
use iommu::id::VirtDeviceId;

/// Why a command was ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// No command could be read at this offset of the queue: it waits for a retry.
    Queue(u64),
    /// No such command.
    Opcode(u8),
    /// Not a device of this partition, not mapped, or past the end of the device table.
    Device(u32),
    /// More bits of EventID than there can be.
    EventBits(u32),
    /// Past what the device has or was mapped with, or not mapped.
    Event(u32),
    /// Not an LPI, past the configuration table, or another event's.
    Lpi(u32),
    /// Past the collections that there are or the collection table, or not mapped.
    Collection(u16),
    /// No such vCPU.
    Cpu(u64),
    /// The physical ITS.
    Backend(BackendError),
}

impl Vits {
    pub(super) fn execute(
        &mut self,
        command: Command,
        work: &mut Work<'_>,
    ) -> Result<(), CommandError> {
        match command {
            Command::MapDevice {
                device,
                event_bits,
                valid,
            } => self.map_device(device, event_bits, valid, work),
            Command::MapCollection {
                collection,
                cpu,
                valid,
            } => self.map_collection(collection, cpu, valid, work),
            Command::MapEvent {
                device,
                event,
                lpi,
                collection,
            } => self.map_event(device, event, lpi, collection, work),
            Command::Move {
                device,
                event,
                collection,
            } => {
                let slot = self.mapped(device, event)?;
                let cpu = self.target(collection)?;
                self.events[slot].collection = collection;
                self.move_event(slot, cpu, work);
                Ok(())
            }
            Command::Trigger { device, event } => {
                let slot = self.mapped(device, event)?;
                self.target(self.events[slot].collection)?;
                work.kick = work.kick.union(work.vgic.inject_lpi(slot));
                Ok(())
            }
            Command::Clear { device, event } => {
                let slot = self.mapped(device, event)?;
                work.backend.clear_event(VirtDeviceId(device), event);
                work.kick = work.kick.union(work.vgic.clear_lpi(slot));
                Ok(())
            }
            Command::Discard { device, event } => {
                let slot = self.mapped(device, event)?;
                self.discard(slot, work);
                Ok(())
            }
            Command::Invalidate { device, event } => {
                let slot = self.mapped(device, event)?;
                self.read_property(slot, work);
                Ok(())
            }
            Command::InvalidateAll { collection } => {
                self.target(collection)?;
                self.for_each_mapped(
                    work,
                    |event| event.collection == collection,
                    Self::read_property,
                );
                Ok(())
            }
            Command::MoveAll { from, to } => {
                let (from, to) = (self.cpu(from)?, self.cpu(to)?);
                work.done += self.events.len();
                work.kick = work
                    .kick
                    .union(work.vgic.move_lpis(usize::from(from), usize::from(to)));
                Ok(())
            }
            Command::Sync => Ok(()),
        }
    }

    fn map_device(
        &mut self,
        id: u32,
        bits: u32,
        valid: bool,
        work: &mut Work<'_>,
    ) -> Result<(), CommandError> {
        let n = self.device(id).ok_or(CommandError::Device(id))?;
        if valid && bits > ID_BITS {
            return Err(CommandError::EventBits(bits));
        }
        if u64::from(id) >= table_entries(self.basers[0]) {
            return Err(CommandError::Device(id));
        }
        self.unmap_device(n, work);
        if valid {
            self.devices[n].limit = 1 << bits;
        }
        Ok(())
    }

    fn map_collection(
        &mut self,
        collection: u16,
        cpu: u64,
        valid: bool,
        work: &mut Work<'_>,
    ) -> Result<(), CommandError> {
        let n = self.collection(collection)?;
        if !valid {
            self.collections[n] = None;
            return Ok(());
        }
        let cpu = self.cpu(cpu)?;
        if self.collections[n].replace(cpu) != Some(cpu) {
            self.for_each_mapped(
                work,
                |event| event.collection == collection,
                |vits, slot, work| vits.move_event(slot, cpu, work),
            );
        }
        Ok(())
    }

    fn map_event(
        &mut self,
        device: u32,
        event: u32,
        lpi: u32,
        collection: u16,
        work: &mut Work<'_>,
    ) -> Result<(), CommandError> {
        let slot = self.slot(device, event)?;
        let n = self.collection(collection)?;
        let end = work.vgic.lpi_table().map_or(LPI_END, |(_, bits)| {
            LPI_END.min(1u32.checked_shl(bits).unwrap_or(LPI_END))
        });
        if !(LPI_BASE..end).contains(&lpi) || (self.is_used(lpi) && self.events[slot].lpi != lpi) {
            return Err(CommandError::Lpi(lpi));
        }
        if self.events[slot].lpi != 0 {
            self.discard(slot, work);
        }
        // A collection that is not mapped yet has no CPU; until it is, nothing is translated.
        let cpu = usize::from(self.collections[n].unwrap_or(0));
        work.backend
            .map_event(VirtDeviceId(device), event, cpu)
            .map_err(CommandError::Backend)?;
        self.events[slot] = Event { lpi, collection };
        self.set_used(lpi, true);
        work.kick = work
            .kick
            .union(work.vgic.map_lpi(slot, lpi, cpu, LpiProperty::default()));
        self.read_property(slot, work);
        Ok(())
    }

    /// Unmaps all events of the device at `n`, and the device.
    fn unmap_device(&mut self, n: usize, work: &mut Work<'_>) {
        let first = self.devices[n].first;
        for slot in first..first + self.devices[n].events as usize {
            if self.events[slot].lpi != 0 {
                work.done += 1;
                self.discard(slot, work);
            }
        }
        self.devices[n].limit = 0;
    }

    pub(super) fn forget_mappings(&mut self, work: &mut Work<'_>) {
        for n in 0..self.devices.len() {
            self.unmap_device(n, work);
        }
        self.collections = [None; COLLECTIONS];
        self.forget = false;
    }

    fn discard(&mut self, slot: usize, work: &mut Work<'_>) {
        let (device, event) = self.name(slot);
        self.set_used(self.events[slot].lpi, false);
        self.events[slot] = UNMAPPED;
        work.backend.unmap_event(device, event);
        work.kick = work.kick.union(work.vgic.unmap_lpi(slot));
    }

    fn move_event(&mut self, slot: usize, cpu: u8, work: &mut Work<'_>) {
        let (device, event) = self.name(slot);
        work.backend.move_event(device, event, usize::from(cpu));
        work.kick = work.kick.union(work.vgic.move_lpi(slot, usize::from(cpu)));
    }

    /// Reads the property of a mapped event, one byte, once. What cannot be read is disabled.
    pub(super) fn read_property(&mut self, slot: usize, work: &mut Work<'_>) {
        let (device, event) = self.name(slot);
        let lpi = self.events[slot].lpi;
        let mut byte = [0];
        let at = match work.vgic.lpi_table() {
            Some((base, bits)) if lpi >> bits.min(31) == 0 => {
                Gpa(base).checked_add(u64::from(lpi - LPI_BASE))
            }
            _ => None,
        };
        if at.is_none_or(|at| work.memory.read(at, &mut byte).is_err()) {
            byte = [0];
        }
        let property = LpiProperty(byte[0]);
        work.kick = work.kick.union(work.vgic.set_lpi(slot, property));
        work.backend.set_enabled(device, event, property.enabled());
    }

    /// Does `act` to every mapped event that `wanted` picks.
    pub(super) fn for_each_mapped(
        &mut self,
        work: &mut Work<'_>,
        wanted: impl Fn(&Event) -> bool,
        act: impl Fn(&mut Self, usize, &mut Work<'_>),
    ) {
        work.done += self.events.len() / 64;
        for slot in 0..self.events.len() {
            if self.events[slot].lpi != 0 && wanted(&self.events[slot]) {
                work.done += 1;
                act(self, slot, work);
            }
        }
    }

    pub(super) fn device(&self, id: u32) -> Option<usize> {
        let found = self.devices.binary_search_by_key(&id, |device| device.id.0);
        found.ok()
    }

    /// The slot of `event` of the mapped device `id`.
    pub(super) fn slot(&self, id: u32, event: u32) -> Result<usize, CommandError> {
        let device = self.device(id).map(|at| &self.devices[at]);
        let device = device.filter(|device| device.limit != 0);
        let device = device.ok_or(CommandError::Device(id))?;
        device.slot(event).ok_or(CommandError::Event(event))
    }

    /// The same, for an event that is mapped.
    fn mapped(&self, id: u32, event: u32) -> Result<usize, CommandError> {
        let slot = self.slot(id, event)?;
        match self.events[slot].lpi {
            0 => Err(CommandError::Event(event)),
            _ => Ok(slot),
        }
    }

    /// The inverse of [`Self::slot`].
    fn name(&self, slot: usize) -> (VirtDeviceId, u32) {
        let after = self.devices.partition_point(|device| device.first <= slot);
        // Slot 0 is the first device's, so there is one; of several that start here, the last has events.
        let device = &self.devices[after - 1];
        (device.id, (slot - device.first) as u32)
    }

    fn collection(&self, collection: u16) -> Result<usize, CommandError> {
        let n = usize::from(collection);
        if n < COLLECTIONS && u64::from(collection) < table_entries(self.basers[1]) {
            Ok(n)
        } else {
            Err(CommandError::Collection(collection))
        }
    }

    /// The CPU of a mapped collection.
    fn target(&self, collection: u16) -> Result<u8, CommandError> {
        let n = self.collection(collection)?;
        self.collections[n].ok_or(CommandError::Collection(collection))
    }

    fn cpu(&self, cpu: u64) -> Result<u8, CommandError> {
        if cpu < self.cpus as u64 {
            Ok(cpu as u8)
        } else {
            Err(CommandError::Cpu(cpu))
        }
    }

    fn is_used(&self, lpi: u32) -> bool {
        self.used[lpi as usize / 64] >> (lpi % 64) & 1 != 0
    }

    fn set_used(&mut self, lpi: u32, used: bool) {
        let word = &mut self.used[lpi as usize / 64];
        *word = *word & !(1 << (lpi % 64)) | u64::from(used) << (lpi % 64);
    }
}
