//! Slices of the mock, and its stage 1 without a slice.

use alloc::sync::Arc;
use core::fmt;
use std::sync::Mutex;

use super::super::Error;
use super::super::driver::{
    Entry, EntryRule, HwptFlags, Invalidator, StageOne, UserData, ViommuDriver, VirtIds,
};
use super::super::room::step;
use super::State;
use crate::addr::{Hpa, Iova};
use crate::fault::{Fault, Stage};
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Incomplete, Invalidation, IommuError, StageOneConfig};

/// Type of the slices.
pub(crate) const SLICE: u32 = 0xdead_beef;
/// Type of a stage 1 on a slice: 8 bytes; 0 abort, 1 bypass, [`ILLEGAL`], else the table.
pub(crate) const NESTED_DATA: u32 = 0xdead;
/// Type of a stage 1 without a slice: 8 bytes.
pub(crate) const DIRECT_DATA: u32 = 0xd1ec;
/// A stage 1 that no hardware would take.
pub(crate) const ILLEGAL: u64 = u64::MAX;
/// Type of invalidation entries of a slice: 16 bytes, operation and argument.
pub(crate) const ENTRY: u32 = 0xdead_beef;
/// Operation: forget an address.
pub(crate) const OP_TLB: u64 = 1;
/// Operation: forget at a device, by its name.
pub(crate) const OP_ATC: u64 = 2;
/// Type of events.
pub(crate) const EVENTS: u32 = 0xbeef_beef;
/// Type of hardware queues.
pub(crate) const QUEUES: u32 = 0xdead_beef;

fn forget(tag: CacheTag, address: u64) -> Invalidation {
    Invalidation::StageOneAddress {
        tag,
        asid: None,
        address: Iova(address),
        leaf: true,
    }
}

/// A stage 1 with its contexts there.
pub(crate) fn translate(contexts: u64) -> StageOne {
    StageOne::Translate(StageOneConfig {
        contexts,
        ..StageOneConfig::default()
    })
}

fn submit(state: &Mutex<State>, batch: &[Invalidation]) -> Result<(), Incomplete> {
    let mut state = state.lock().unwrap();
    state.submissions += 1;
    let room = match state.submit_fails {
        Some(limit) => limit.saturating_sub(state.submitted.len()),
        None => usize::MAX,
    };
    let complete = room.min(batch.len());
    state.submitted.extend_from_slice(&batch[..complete]);
    if complete < batch.len() {
        return Err(Incomplete {
            complete,
            error: IommuError::Command(1),
        });
    }
    Ok(())
}

pub(super) struct MockSlice {
    state: Arc<Mutex<State>>,
    tag: CacheTag,
}

impl fmt::Debug for MockSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.tag)
    }
}

impl MockSlice {
    pub(super) fn new(state: Arc<Mutex<State>>, tag: CacheTag) -> Self {
        Self { state, tag }
    }
}

impl Invalidator for MockSlice {
    fn entry_rule(&self, kind: u32) -> Option<EntryRule> {
        (kind == ENTRY).then_some(EntryRule {
            len: 16,
            extend: true,
        })
    }

    fn decode(
        &self,
        _kind: u32,
        entry: &Entry,
        devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        match entry[0] {
            OP_TLB => Ok(forget(self.tag, entry[1])),
            OP_ATC => {
                let stream = devices.stream(entry[1]);
                let stream = stream.ok_or(Error::IllegalEntry(entry[1]))?;
                Ok(Invalidation::Context {
                    device: stream,
                    pasid: 0,
                    leaf: true,
                })
            }
            other => Err(Error::IllegalEntry(other)),
        }
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        submit(&self.state, batch)
    }
}

impl ViommuDriver for MockSlice {
    fn decode_nested(&mut self, flags: HwptFlags, data: UserData<'_>) -> Result<StageOne, Error> {
        step()?;
        if !flags.is_empty() {
            return Err(Error::Unsupported(flags.bits()));
        }
        if data.kind != NESTED_DATA {
            return Err(Error::DataType(data.kind));
        }
        let bytes = data.bytes.try_into();
        let bytes = bytes.map_err(|_| Error::DataLength(data.bytes.len()))?;
        match u64::from_le_bytes(bytes) {
            0 => Ok(StageOne::Abort),
            1 => Ok(StageOne::Bypass),
            ILLEGAL => Err(Error::IllegalStageOne),
            contexts => Ok(translate(contexts)),
        }
    }

    fn check_nested(&mut self, stage_one: &StageOne) -> Result<(), Error> {
        step()?;
        match stage_one {
            StageOne::Translate(it) if it.contexts == ILLEGAL => Err(Error::IllegalStageOne),
            _ => Ok(()),
        }
    }

    fn vdevice(&mut self, streams: &[DeviceId], virt_id: u64) -> Result<(), Error> {
        step()?;
        if streams.len() != 1 {
            return Err(Error::Unsupported(streams.len() as u32));
        }
        if virt_id >> 20 != 0 {
            return Err(Error::Invalid(virt_id));
        }
        let key = u64::from(self.tag.0) << 32 | virt_id;
        let old = self.state.lock().unwrap().names.insert(key, streams.into());
        assert!(old.is_none());
        Ok(())
    }

    fn vdevice_gone(&mut self, streams: &[DeviceId], virt_id: u64) {
        let key = u64::from(self.tag.0) << 32 | virt_id;
        let old = self.state.lock().unwrap().names.remove(&key);
        assert_eq!(old.as_deref(), Some(streams));
    }

    fn has_events(&self, kind: u32) -> bool {
        kind == EVENTS
    }

    fn event(&self, fault: &Fault, virt_id: u64) -> Option<(u32, Entry)> {
        assert_ne!(fault.stage, Stage::Two);
        let at = fault.iova.map_or(0, |iova| iova.0);
        Some((EVENTS, [virt_id, at, 0, 0]))
    }

    fn has_queues(&self, kind: u32) -> Result<(), Error> {
        if kind == QUEUES {
            Ok(())
        } else {
            Err(Error::Unsupported(kind))
        }
    }

    fn hw_queue(
        &mut self,
        _kind: u32,
        index: u32,
        base: Hpa,
        len: u64,
    ) -> Result<Option<u32>, Error> {
        step()?;
        let mut state = self.state.lock().unwrap();
        if index >= 4 || !len.is_power_of_two() {
            return Err(Error::Invalid(index.into()));
        }
        let before = index.checked_sub(1);
        if before.is_some_and(|before| !state.queues.contains_key(&before)) {
            return Err(Error::QueueOrder(index - 1));
        }
        assert!(state.queues.insert(index, (base, len)).is_none());
        Ok(before)
    }

    fn hw_queue_gone(&mut self, _kind: u32, index: u32) {
        let mut state = self.state.lock().unwrap();
        assert!(!state.queues.contains_key(&(index + 1)));
        assert!(state.queues.remove(&index).is_some());
    }

    fn destroy(&mut self) {
        self.state.lock().unwrap().order.push("slice");
    }
}

/// Entries are of type 0 and 24 bytes, no more and no less; an address that is no page's is refused.
pub(super) struct MockNested {
    state: Arc<Mutex<State>>,
    tag: CacheTag,
}

impl fmt::Debug for MockNested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.tag)
    }
}

impl MockNested {
    pub(super) fn new(state: Arc<Mutex<State>>, tag: CacheTag) -> Self {
        Self { state, tag }
    }
}

impl Invalidator for MockNested {
    fn entry_rule(&self, kind: u32) -> Option<EntryRule> {
        (kind == 0).then_some(EntryRule {
            len: 24,
            extend: false,
        })
    }

    fn decode(
        &self,
        _kind: u32,
        entry: &Entry,
        _devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        if entry[0] & 0xfff != 0 {
            return Err(Error::Misaligned(entry[0]));
        }
        if entry[2] >> 1 != 0 {
            return Err(Error::ReservedWord(entry[2] as u32));
        }
        Ok(forget(self.tag, entry[0]))
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        submit(&self.state, batch)
    }
}
