//! What devices behind the SMMU do.

use alloc::vec;
use alloc::vec::Vec;

use super::translate::{Denied, Request};
use super::walk::Use;
use super::{SmmuModel, State};
use crate::model::memory::BusError;

/// Who sends a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Initiator {
    /// StreamID.
    pub stream: u32,
    /// SubstreamID (PASID), if there is one.
    pub substream: Option<u32>,
    /// PnU.
    pub privileged: bool,
    /// InD, for reads.
    pub instruction: bool,
}

impl From<u32> for Initiator {
    /// Unprivileged data without a substream.
    fn from(stream: u32) -> Self {
        Self {
            stream,
            substream: None,
            privileged: false,
            instruction: false,
        }
    }
}

impl Initiator {
    /// The same with a substream.
    pub fn with_substream(self, substream: u32) -> Self {
        Self {
            substream: Some(substream),
            ..self
        }
    }

    pub(super) fn request(self, iova: u64, write: bool) -> Request {
        Request {
            sid: self.stream,
            ssid: self.substream,
            iova,
            how: Use {
                write,
                execute: self.instruction && !write,
                privileged: self.privileged,
            },
        }
    }
}

/// A transaction that waits for CMD_RESUME.
#[derive(Clone, Copy)]
pub(super) struct Stall {
    pub tag: u16,
    pub request: Request,
}

/// A write that was translated and is not in memory yet.
pub(super) struct Write {
    at: u64,
    bytes: Vec<u8>,
}

/// The pieces of `[iova, iova + len)` that one translation each is enough for.
pub(super) fn pieces(iova: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = iova + done as u64;
        let count = (4096 - (at % 4096) as usize).min(len - done);
        let piece = (at, done, count);
        done += count;
        Some(piece)
    })
}

impl State {
    /// Holds a transaction, if there is room for it; its tag.
    pub(super) fn stall(&mut self, request: &Request) -> Option<u16> {
        if self.stalls.len() >= self.config.stall_max.into() {
            return None;
        }
        let tag = (0..=u16::MAX).find(|tag| self.stalls.iter().all(|stall| stall.tag != *tag))?;
        self.stalls.push(Stall {
            tag,
            request: *request,
        });
        Some(tag)
    }

    /// Writes on their way arrive.
    pub(super) fn land(&mut self) {
        let snoop = true;
        for Write { at, bytes } in core::mem::take(&mut self.in_flight) {
            let _ = self.memory.device_write_bytes(at, &bytes, snoop);
        }
    }
}

impl SmmuModel {
    /// A device reads.
    ///
    /// # Errors
    /// Each [`Denied`], at the first page that is refused.
    pub fn dma_read(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        len: usize,
    ) -> Result<Vec<u8>, Denied> {
        let from = from.into();
        let mut bytes = vec![0; len];
        let mut state = self.state();
        for (at, done, count) in pieces(iova, len) {
            let pa = state.translate(&from.request(at, false), false)?;
            let piece = &mut bytes[done..done + count];
            state
                .memory
                .device_read_bytes(pa, piece, true)
                .map_err(Denied::Bus)?;
        }
        Ok(bytes)
    }

    /// A device writes. What comes before the first page that is refused is in memory.
    ///
    /// # Errors
    /// Each [`Denied`].
    pub fn dma_write(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        bytes: &[u8],
    ) -> Result<(), Denied> {
        let from = from.into();
        let mut state = self.state();
        for (at, done, count) in pieces(iova, bytes.len()) {
            let pa = state.translate(&from.request(at, true), false)?;
            state
                .memory
                .device_write_bytes(pa, &bytes[done..done + count], true)
                .map_err(Denied::Bus)?;
        }
        Ok(())
    }

    /// A device writes; the SMMU translates now, and memory has the bytes when a CMD_SYNC says so, or translation is
    /// turned off, and not before.
    ///
    /// # Errors
    /// Each [`Denied`] but that of memory.
    pub fn posted_write(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        bytes: &[u8],
    ) -> Result<(), Denied> {
        let from = from.into();
        let mut state = self.state();
        for (at, done, count) in pieces(iova, bytes.len()) {
            let pa = state.translate(&from.request(at, true), false)?;
            state.in_flight.push(Write {
                at: pa,
                bytes: bytes[done..done + count].to_vec(),
            });
        }
        Ok(())
    }

    /// Where a transaction would go, without memory being touched.
    ///
    /// # Errors
    /// Each [`Denied`].
    pub fn translate(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        write: bool,
    ) -> Result<u64, Denied> {
        let request = from.into().request(iova, write);
        self.state().translate(&request, false)
    }

    /// A page request (§8). `false`: it was not recorded.
    pub fn page_request(
        &self,
        from: impl Into<Initiator>,
        iova: u64,
        write: bool,
        group: u16,
        last: bool,
    ) -> bool {
        let from = from.into();
        let substream = from
            .substream
            .map_or(0, |substream| u64::from(substream) << 32 | 1 << 63);
        let first = u64::from(from.stream)
            | substream
            | u64::from(from.privileged) << 58
            | u64::from(from.instruction) << 59
            | 1 << 60
            | u64::from(write) << 61
            | u64::from(last) << 62;
        let second = iova & !0xfff | u64::from(group & 0x1ff);
        let mut state = self.state();
        state.config.pri && !state.stopped() && state.record_request([first, second])
    }

    /// Answers to page requests: stream, group, response; taken out.
    pub fn page_responses(&self) -> Vec<(u32, u16, u8)> {
        core::mem::take(&mut self.state().responses)
    }

    /// Stalled transactions that were answered: tag, and whether the device may try again; taken out.
    pub fn resumed(&self) -> Vec<(u16, bool)> {
        let resumed = core::mem::take(&mut self.state().resumed);
        resumed
            .into_iter()
            .map(|(tag, _, retry)| (tag, retry))
            .collect()
    }

    /// Stalled transactions that wait.
    pub fn stalled(&self) -> usize {
        self.state().stalls.len()
    }

    /// Memory as a device that snoops would find it, with no SMMU in between.
    ///
    /// # Errors
    /// Each [`BusError`].
    pub fn physical_read(&self, at: u64) -> Result<u64, BusError> {
        self.state().memory.device_read(at, true)
    }
}
