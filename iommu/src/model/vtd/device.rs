//! What devices behind the unit do.

use alloc::vec;
use alloc::vec::Vec;

use super::interrupt::{Delivered, Refused};
use super::translate::{INTERRUPTS, Request};
use super::{State, VtdModel};

/// Who sends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Initiator {
    source: u16,
    pasid: Option<u32>,
    privileged: bool,
}

impl From<u16> for Initiator {
    fn from(source: u16) -> Self {
        Self {
            source,
            pasid: None,
            privileged: false,
        }
    }
}

impl Initiator {
    /// With a PASID.
    pub fn with_pasid(self, pasid: u32) -> Self {
        Self {
            pasid: Some(pasid),
            ..self
        }
    }

    /// Source, PASID, and whether it is privileged.
    pub(super) fn parts(self) -> (u16, Option<u32>, bool) {
        (self.source, self.pasid, self.privileged)
    }

    /// As a privileged one.
    pub fn privileged(self) -> Self {
        Self {
            privileged: true,
            ..self
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// A fault, by its reason (7.1.3).
    Fault(u8),
    /// Protected memory, before translation was on.
    Protected,
    /// It reads where interrupts are, or writes there what is none.
    Interrupt,
    /// Translated, to where nothing is.
    Bus,
}

/// A write that was translated and is not in memory yet.
pub(super) struct Write {
    at: u64,
    bytes: Vec<u8>,
}

impl State {
    /// Writes on their way arrive.
    pub(super) fn land(&mut self) {
        for Write { at, bytes } in core::mem::take(&mut self.in_flight) {
            let _ = self.memory.device_write_bytes(at, &bytes, true);
        }
    }
}

/// The pieces of `[iova, iova + len)` that one translation each is enough for.
fn pieces(iova: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        (done < len).then(|| {
            let at = iova + done as u64;
            let count = (4096 - (at % 4096) as usize).min(len - done);
            let piece = (at, done, count);
            done += count;
            piece
        })
    })
}

impl VtdModel {
    /// Where a request of `source` goes.
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn translate(&self, source: u16, address: u64, write: bool) -> Result<u64, Denied> {
        self.translate_as(source.into(), address, write)
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn translate_as(&self, from: Initiator, address: u64, write: bool) -> Result<u64, Denied> {
        let Initiator {
            source,
            pasid,
            privileged,
        } = from;
        // 3.15: without PASID this is where interrupts are.
        if pasid.is_none() && INTERRUPTS.contains(&address) {
            return Err(Denied::Interrupt);
        }
        self.0.lock().translate(Request {
            source,
            pasid,
            privileged,
            address,
            write,
        })
    }

    /// A device asks for a translation, and keeps it (PCIe ATS).
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn ask(&self, from: Initiator, address: u64, write: bool) -> Result<u64, Denied> {
        self.0.lock().allows_translated(from.source)?;
        let to = self.translate_as(from, address, write)?;
        let key = (from.source, from.pasid, address & !0xfff);
        self.0.lock().cache.devices.insert(key, to & !0xfff);
        Ok(to)
    }

    /// Where a write goes that the device has a translation for, as it says itself; asked for first where it has none.
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn translated(&self, from: Initiator, address: u64) -> Result<u64, Denied> {
        let key = (from.source, from.pasid, address & !0xfff);
        let held = self.0.lock().cache.devices.get(&key).copied();
        match held {
            None => self.ask(from, address, true),
            Some(page) => {
                self.0.lock().allows_translated(from.source)?;
                Ok(page | address & 0xfff)
            }
        }
    }

    /// A read.
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn dma_read(&self, source: u16, iova: u64, len: usize) -> Result<Vec<u8>, Denied> {
        let mut bytes = vec![0; len];
        for (address, from, count) in pieces(iova, len) {
            let at = self.translate(source, address, false)?;
            let mut state = self.0.lock();
            // A read does not pass a write of its own (PCIe ordering).
            state.land();
            let part = &mut bytes[from..from + count];
            let read = state.memory.device_read_bytes(at, part, true);
            read.map_err(|_| Denied::Bus)?;
        }
        Ok(bytes)
    }

    /// A write. What is translated before a part that is refused arrives.
    ///
    /// # Errors
    /// [`Denied`], after its record.
    pub fn dma_write(&self, source: u16, iova: u64, bytes: &[u8]) -> Result<(), Denied> {
        for (address, from, count) in pieces(iova, bytes.len()) {
            if INTERRUPTS.contains(&address) {
                let data = bytes.try_into().map_err(|_| Denied::Interrupt)?;
                let message = self.message(source, address as u32, u32::from_le_bytes(data));
                return message
                    .map(drop)
                    .map_err(|Refused(reason)| Denied::Fault(reason));
            }
            let at = self.translate(source, address, true)?;
            let mut state = self.0.lock();
            let bytes = bytes[from..from + count].to_vec();
            state.in_flight.push(Write { at, bytes });
            if !state.config.late_writes {
                state.land();
            }
        }
        Ok(())
    }

    /// A message: a write of 32 bits to where interrupts are.
    ///
    /// # Errors
    /// [`Refused`], after its record.
    pub fn message(&self, source: u16, address: u32, data: u32) -> Result<Delivered, Refused> {
        self.0.lock().interrupt(source, address, data)
    }

    /// Writes of devices that are on their way arrive.
    pub fn land(&self) {
        self.0.lock().land();
    }
}
