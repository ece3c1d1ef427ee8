//! The physical interrupt translation service: a device's (DeviceID, EventID) becomes an LPI at a CPU (IHI 0069, ch. 5).
//!
//! [`Its::new`] gives it tables, a command queue and one collection a CPU. A device that is assigned gets its
//! translation table by [`map_device`](Its::map_device), each of its events an LPI by [`map_event`](Its::map_event).
//! [`unmap_device`](Its::unmap_device) takes all of it back: events are discarded, with what is pending of them, the
//! table is unmapped, and only when the ITS has said that this is done is its memory free.
//!
//! `spec` has the layouts, `setup` turns it on and off, `table` is its own memory, `queue` the ring of commands. Every
//! method waits until the ITS has executed what it sent, or one second. Any number of CPUs may call; they take turns.

mod error;
#[cfg(test)]
mod fake;
mod queue;
mod setup;
mod spec;
mod table;
#[cfg(test)]
mod tests;

pub use error::ItsError;

use super::gic::Intid;
use super::gic::spec::{FIRST_LPI, INNER_SHAREABLE, InnerCache};
use crate::memory::{FramePool, Frames};
use crate::mmio::MmioRegion;
use alloc::vec;
use alloc::vec::Vec;
use queue::CommandQueue;
use spec::{Command, TRANSLATION_PAGE};
use spin::mutex::TicketMutex;
use table::Table;

/// Bits of an EventID at most: MSI-X has 2,048 vectors a function (PCIe 7.7.2).
pub const MAX_EVENT_BITS: u8 = 11;
/// Devices at most.
pub const MAX_DEVICES: usize = 1024;
/// Discards that are sent together.
const BATCH: usize = 32;

/// How an ITS names the CPU of a collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Physical address of its Redistributor (GITS_TYPER.PTA = 1).
    pub redistributor: u64,
    /// GICR_TYPER.Processor_Number (GITS_TYPER.PTA = 0).
    pub processor: u16,
}

/// How the ITS reaches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shareable {
    /// Write-back, Inner Shareable: it sees the caches.
    Inner,
    /// Non-cacheable: what it reads must be cleaned.
    Non,
}

impl Shareable {
    fn inner_cache(self) -> u64 {
        match self {
            Self::Inner => InnerCache::WriteBack as u64,
            Self::Non => InnerCache::NonCacheable as u64,
        }
    }

    fn shareability(self) -> u64 {
        match self {
            Self::Inner => INNER_SHAREABLE,
            Self::Non => 0,
        }
    }
}

/// One ITS.
#[derive(Debug)]
pub struct Its {
    registers: MmioRegion,
    pool: &'static FramePool,
    /// What commands call the Redistributor of each CPU; the collection of a CPU has its index.
    targets: Vec<u64>,
    lpis: u32,
    event_bits: u8,
    device_ids: u64,
    itt_entry_len: u64,
    state: TicketMutex<State>,
}

#[derive(Debug)]
struct State {
    queue: CommandQueue,
    /// By identity, in order.
    devices: Vec<(u32, Device)>,
    /// `None`: the ITS has its own memory for them.
    device_table: Option<Table>,
    _collection_table: Option<Table>,
}

#[derive(Debug)]
struct Device {
    /// Its translation table. The ITS writes to it until MAPD with V = 0 is done.
    _itt: Frames,
    /// By EventID.
    events: Vec<Option<Event>>,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    lpi: Intid,
    cpu: u16,
}

impl Its {
    /// Physical address of the page with GITS_TRANSLATER (at 0x40 in it), which devices write their EventID to.
    pub fn translater(&self) -> u64 {
        self.registers.base() + TRANSLATION_PAGE
    }

    /// Bits of an EventID that [`map_device`](Self::map_device) takes at most.
    pub fn event_bits(&self) -> u8 {
        self.event_bits
    }

    /// Lets `device` have 2^`event_bits` events, none of them mapped.
    pub fn map_device(&self, device: u32, event_bits: u8) -> Result<(), ItsError> {
        if !(1..=self.event_bits).contains(&event_bits) {
            return Err(ItsError::EventBits(event_bits));
        }
        if u64::from(device) >= self.device_ids {
            return Err(ItsError::TableRange(device));
        }
        let mut state = self.state.lock();
        let Err(place) = find(&state.devices, device) else {
            return Err(ItsError::DeviceMapped(device));
        };
        if state.devices.len() >= MAX_DEVICES {
            return Err(ItsError::TooManyDevices(device));
        }
        if let Some(table) = &mut state.device_table {
            table.cover(self.pool, device)?;
        }
        let events = 1usize << event_bits;
        // Frames are page-aligned, which is more than the 256 bytes that MAPD asks for.
        let itt = self
            .pool
            .allocate(events as u64 * self.itt_entry_len, 0x1000)
            .ok_or(ItsError::NoMemory)?;
        // No register says how the ITS reaches this memory, so no line of it stays in a cache.
        itt.clean_invalidate(0, itt.len() as usize);
        crate::barrier::dma_write();
        let map = Command::mapd(device, event_bits, itt.base());
        // Kept even where the command fails: whether the ITS has the table is then unknown.
        let events = vec![None; events];
        let entry = Device { _itt: itt, events };
        state.devices.insert(place, (device, entry));
        let done = self.run(&mut state, &[map, Command::sync(self.targets[0])]);
        if let Err(ItsError::Rejected(_)) = done {
            state.devices.remove(place);
        }
        done
    }

    /// Takes back all events of `device`, with what is pending of them, and its table. On an error the device stays
    /// mapped and its memory is not given back.
    pub fn unmap_device(&self, device: u32) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let State { queue, devices, .. } = &mut *state;
        let place = find(devices, device).map_err(|_| ItsError::DeviceUnmapped(device))?;
        let entry = &mut devices[place].1;
        let filler = self.filler();
        for (index, chunk) in entry.events.chunks_mut(BATCH).enumerate() {
            let mut batch = [filler; BATCH];
            let mut filled = 0;
            for (offset, _) in chunk
                .iter()
                .enumerate()
                .filter(|(_, event)| event.is_some())
            {
                batch[filled] = Command::discard(device, (index * BATCH + offset) as u32);
                filled += 1;
            }
            queue.run(&self.registers, &batch[..filled], filler)?;
            chunk.fill(None);
        }
        // Discarded events are gone at the Redistributors, too, before the table is.
        for target in &self.targets {
            queue.run(&self.registers, &[Command::sync(*target)], filler)?;
        }
        let remove = [Command::mapd_remove(device), Command::sync(self.targets[0])];
        queue.run(&self.registers, &remove, filler)?;
        devices.remove(place);
        Ok(())
    }

    /// Makes `event` of `device` the LPI `lpi` at CPU `cpu`. An LPI belongs to one event at a time: the caller's duty,
    /// across all ITSs.
    pub fn map_event(
        &self,
        device: u32,
        event: u32,
        lpi: Intid,
        cpu: usize,
    ) -> Result<(), ItsError> {
        let target = self.target(cpu)?;
        if !(FIRST_LPI..FIRST_LPI + self.lpis).contains(&lpi.0) {
            return Err(ItsError::Lpi(lpi));
        }
        let mut state = self.state.lock();
        let slot = slot(&mut state, device, event)?;
        if slot.is_some() {
            return Err(ItsError::EventMapped(event));
        }
        // Set first: after a failure whether it is mapped is unknown, and a discard is harmless.
        *slot = Some(Event {
            lpi,
            cpu: cpu as u16,
        });
        let map = Command::mapti(device, event, lpi.0, cpu as u16);
        let done = self.run(
            &mut state,
            &[map, Command::inv(device, event), Command::sync(target)],
        );
        if let Err(ItsError::Rejected(_)) = done {
            *self::slot(&mut state, device, event)? = None;
        }
        done
    }

    /// Takes `event` back, with what is pending of it; its LPI is free on return.
    pub fn unmap_event(&self, device: u32, event: u32) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let target = self.mapped(&mut state, device, event)?;
        self.run(
            &mut state,
            &[Command::discard(device, event), Command::sync(target)],
        )?;
        *slot(&mut state, device, event)? = None;
        Ok(())
    }

    /// Sends `event` to CPU `cpu` from now on, a pending one as well.
    pub fn move_event(&self, device: u32, event: u32, cpu: usize) -> Result<(), ItsError> {
        let new = self.target(cpu)?;
        let mut state = self.state.lock();
        let old = self.mapped(&mut state, device, event)?;
        let movement = Command::movi(device, event, cpu as u16);
        self.run(
            &mut state,
            &[movement, Command::sync(old), Command::sync(new)],
        )?;
        if let Some(mapping) = slot(&mut state, device, event)? {
            mapping.cpu = cpu as u16;
        }
        Ok(())
    }

    /// Makes what [`Gic::set_lpi`](super::gic::Gic::set_lpi) wrote for the LPI of `event` count.
    pub fn invalidate(&self, device: u32, event: u32) -> Result<(), ItsError> {
        self.of_event(device, event, Command::inv(device, event))
    }

    /// As [`invalidate`](Self::invalidate), for all LPIs at CPU `cpu`.
    pub fn invalidate_all(&self, cpu: usize) -> Result<(), ItsError> {
        let target = self.target(cpu)?;
        let mut state = self.state.lock();
        self.run(
            &mut state,
            &[Command::invall(cpu as u16), Command::sync(target)],
        )
    }

    /// Acts as if `device` had sent `event`.
    pub fn set_pending(&self, device: u32, event: u32) -> Result<(), ItsError> {
        self.of_event(device, event, Command::int(device, event))
    }

    /// Forgets an `event` that was sent and not yet taken.
    pub fn clear_pending(&self, device: u32, event: u32) -> Result<(), ItsError> {
        self.of_event(device, event, Command::clear(device, event))
    }

    /// The LPI and CPU of `event`, if it is mapped.
    pub fn lookup(&self, device: u32, event: u32) -> Option<(Intid, usize)> {
        let mapping = (*slot(&mut self.state.lock(), device, event).ok()?)?;
        Some((mapping.lpi, mapping.cpu.into()))
    }

    fn of_event(&self, device: u32, event: u32, command: Command) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let target = self.mapped(&mut state, device, event)?;
        self.run(&mut state, &[command, Command::sync(target)])
    }

    /// The target of an event that is mapped.
    fn mapped(&self, state: &mut State, device: u32, event: u32) -> Result<u64, ItsError> {
        let mapping = slot(state, device, event)?.ok_or(ItsError::EventUnmapped(event))?;
        self.target(mapping.cpu.into())
    }

    fn target(&self, cpu: usize) -> Result<u64, ItsError> {
        self.targets.get(cpu).copied().ok_or(ItsError::Cpu(cpu))
    }

    fn run(&self, state: &mut State, commands: &[Command]) -> Result<(), ItsError> {
        state.queue.run(&self.registers, commands, self.filler())
    }

    /// A command that changes nothing.
    fn filler(&self) -> Command {
        Command::sync(self.targets[0])
    }
}

impl Drop for Its {
    /// Turns it off before its tables are memory like any other. Panics if it does not stop: they would be written to.
    fn drop(&mut self) {
        assert!(
            setup::turn_off(&self.registers).is_ok(),
            "the ITS at {:#x} does not stop",
            self.registers.base()
        );
    }
}

/// The place of a device in the list, or where it would be.
fn find(devices: &[(u32, Device)], device: u32) -> Result<usize, usize> {
    devices.binary_search_by_key(&device, |(id, _)| *id)
}

/// The place of an event in its device.
fn slot(state: &mut State, device: u32, event: u32) -> Result<&mut Option<Event>, ItsError> {
    let place = find(&state.devices, device).map_err(|_| ItsError::DeviceUnmapped(device))?;
    let device = &mut state.devices[place].1;
    device
        .events
        .get_mut(event as usize)
        .ok_or(ItsError::EventRange(event))
}
