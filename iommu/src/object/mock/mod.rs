//! A driver without hardware, for tests: it keeps what hardware would hold, and any of its steps can be made to fail.
//!
//! Each fallible call is a step of `room::inject`. What only hardware can fail (aborts, flushes, tags, submissions) has a
//! switch in [`State`].

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::sync::{Mutex, MutexGuard};

use super::Error;
use super::driver::{
    Access, Answer, Driver, Format, HwInfo, HwptFlags, Invalidator, Memory, PageTable, Requester,
    Root, StageOne, Stale, Target, UserData, ViommuDriver, Waiting,
};
use super::room::{self, step};
use crate::addr::{Hpa, Iova, Span};
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{Invalidation, IommuError};

mod slice;
mod table;

#[allow(unused_imports, reason = "for tests elsewhere")]
pub(crate) use slice::{
    DIRECT_DATA, ENTRY, EVENTS, ILLEGAL, NESTED_DATA, OP_ATC, OP_TLB, QUEUES, SLICE, translate,
};
use slice::{MockNested, MockSlice};
use table::MockTable;

/// What the hardware holds, and what goes wrong.
#[derive(Default)]
pub(crate) struct State {
    pub tags: BTreeSet<u16>,
    pub tag_limit: u16,
    pub attached: BTreeMap<(u32, u32), Target>,
    groups: BTreeMap<u32, (usize, u32)>,
    pub names: BTreeMap<u64, Vec<DeviceId>>,
    pub queues: BTreeMap<u32, (Hpa, u64)>,
    pub tables: usize,
    pub lost_tables: usize,
    // Notes of what was done, no part of the hardware.
    pub flushes: Vec<(CacheTag, Stale, bool)>,
    pub submitted: Vec<Invalidation>,
    pub submissions: usize,
    pub answers: Vec<(DeviceId, u16, Answer)>,
    pub order: Vec<&'static str>,
    // What goes wrong.
    pub abort_fails: bool,
    pub flush_fails: bool,
    pub free_tag_fails: bool,
    /// The attachment after this many fails.
    pub attach_fails: Option<usize>,
    /// Every attachment fails.
    pub attach_broken: bool,
    /// The submission that would pass this number of commands in all stops there.
    pub submit_fails: Option<usize>,
    // What the hardware is.
    pub no_dirty: bool,
    pub direct_nested: bool,
    pub no_slices: bool,
    pub refuses: bool,
    pub input_bits: u8,
    next_table: u64,
}

/// See the module's description.
pub(crate) struct Mock {
    index: IommuIndex,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mock {}", self.index.0)
    }
}

impl Mock {
    pub(crate) fn new(index: u8) -> Arc<Self> {
        let state = State {
            tag_limit: 256,
            input_bits: 48,
            ..State::default()
        };
        Arc::new(Self {
            index: IommuIndex(index),
            state: Arc::new(Mutex::new(state)),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// All that hardware holds, to be compared.
    pub(crate) fn hardware(&self) -> String {
        let state = self.state();
        let open = state.attached.iter();
        let open: Vec<_> = open.filter(|(_, it)| **it != Target::Refuse).collect();
        let held = (&state.tags, &state.groups, &state.names, &state.queues);
        format!("{open:?} {held:?} {} {}", state.tables, state.lost_tables)
    }
}

impl Driver for Mock {
    fn index(&self) -> IommuIndex {
        self.index
    }

    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        step()?;
        if kind != 0 && kind != 0xfeed_beef {
            return Err(Error::Unsupported(kind));
        }
        Ok(HwInfo {
            kind: 0xfeed_beef,
            words: [0x5e1f, 0, 0, 0, 0],
            len: 8,
            dirty_tracking: !self.state().no_dirty,
        })
    }

    fn claim_group(&self, group: u32, owner: usize) -> Result<(), Error> {
        step()?;
        let mut state = self.state();
        let claim = state.groups.entry(group).or_insert((owner, 0));
        if claim.0 != owner {
            return Err(Error::GroupOwned(group));
        }
        claim.1 += 1;
        Ok(())
    }

    fn release_group(&self, group: u32, owner: usize) {
        let mut state = self.state();
        let claim = state.groups.get_mut(&group).expect("claimed");
        assert_eq!(claim.0, owner);
        claim.1 -= 1;
        if claim.1 == 0 {
            state.groups.remove(&group);
        }
    }

    fn alloc_table(
        &self,
        flags: HwptFlags,
        data: UserData<'_>,
    ) -> Result<Box<dyn PageTable>, Error> {
        step()?;
        assert!(!flags.contains(HwptFlags::FAULT));
        if data.kind != 0 {
            return Err(Error::Unsupported(data.kind));
        }
        if flags.contains(HwptFlags::DIRTY_TRACKING) && self.state().no_dirty {
            return Err(Error::Unsupported(flags.bits()));
        }
        let (root, input_bits) = {
            let mut state = self.state();
            state.next_table += 1;
            (Hpa(state.next_table << 12), state.input_bits)
        };
        let table = MockTable::new(Arc::clone(&self.state), root, input_bits, flags);
        Ok(room::boxed(table)?)
    }

    fn accepts(&self, root: &Root) -> Result<(), Error> {
        step()?;
        if root.format != Format::Mock || self.state().refuses {
            return Err(Error::Incompatible);
        }
        Ok(())
    }

    fn alloc_tag(&self, format: Format) -> Result<CacheTag, Error> {
        step()?;
        assert_eq!(format, Format::Mock);
        let mut state = self.state();
        let limit = state.tag_limit;
        let free = (1..limit).find(|tag| !state.tags.contains(tag));
        let tag = free.ok_or(Error::NoSpace)?;
        state.tags.insert(tag);
        Ok(CacheTag(tag))
    }

    fn free_tag(&self, tag: CacheTag, _format: Format) -> Result<(), IommuError> {
        let mut state = self.state();
        state.order.push("tag");
        let used = |target: &Target| match target {
            Target::Refuse | Target::Abort => false,
            Target::Paging { tag: it, .. } | Target::Nested { tag: it, .. } => *it == tag,
        };
        assert!(
            !state.attached.values().any(used),
            "a tag is freed while a stream uses it"
        );
        if state.free_tag_fails {
            return Err(IommuError::Timeout);
        }
        assert!(state.tags.remove(&tag.0), "a tag is freed twice");
        Ok(())
    }

    fn flush(
        &self,
        tag: CacheTag,
        _format: Format,
        stale: Stale,
        nested: bool,
    ) -> Result<(), IommuError> {
        let mut state = self.state();
        assert!(state.tags.contains(&tag.0));
        state.flushes.push((tag, stale, nested));
        if state.flush_fails {
            return Err(IommuError::Timeout);
        }
        Ok(())
    }

    fn attach(&self, from: &Requester, pasid: u32, target: &Target) -> Result<(), Error> {
        let mut state = self.state();
        let key = (from.stream.0, pasid);
        if matches!(target, Target::Refuse | Target::Abort) {
            state.order.push("abort");
            if state.abort_fails {
                return Err(Error::Hardware(IommuError::Timeout));
            }
            state.attached.insert(key, *target);
            return Ok(());
        }
        // What fails is refused.
        state.attached.insert(key, Target::Refuse);
        step()?;
        if state.attach_broken {
            return Err(Error::Hardware(IommuError::Command(1)));
        }
        match &mut state.attach_fails {
            Some(0) => {
                state.attach_fails = None;
                return Err(Error::Hardware(IommuError::Command(1)));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        state.attached.insert(key, *target);
        Ok(())
    }

    fn alloc_viommu(
        &self,
        kind: u32,
        _parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        step()?;
        if kind != SLICE || self.state().no_slices {
            return Err(Error::Unsupported(kind));
        }
        if !data.bytes.is_empty() && data.bytes.len() != 8 {
            return Err(Error::DataLength(data.bytes.len()));
        }
        Ok(room::boxed(MockSlice::new(Arc::clone(&self.state), tag))?)
    }

    fn alloc_nested(
        &self,
        _parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<(StageOne, Box<dyn Invalidator>), Error> {
        step()?;
        if !self.state().direct_nested {
            return Err(Error::Unsupported(data.kind));
        }
        if data.kind != DIRECT_DATA {
            return Err(Error::DataType(data.kind));
        }
        if data.bytes.len() != 8 {
            return Err(Error::DataLength(data.bytes.len()));
        }
        let nested = room::boxed(MockNested::new(Arc::clone(&self.state), tag))?;
        Ok((slice::translate(1), nested))
    }

    fn respond(
        &self,
        stream: DeviceId,
        waiting: Waiting,
        answer: Answer,
    ) -> Result<(), IommuError> {
        let number = match waiting {
            Waiting::Stall(tag) => tag,
            Waiting::Pages { group, .. } => group,
        };
        self.state().answers.push((stream, number, answer));
        Ok(())
    }
}

/// Memory in pieces, which counts its pins.
#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: Vec<Span<Hpa>>,
    writable: bool,
    pub pins: Mutex<usize>,
}

impl Pieces {
    /// One piece of writable memory.
    pub(crate) fn whole(base: u64, len: u64) -> Arc<Self> {
        Self::new(&[(base, len)], true)
    }

    pub(crate) fn new(pieces: &[(u64, u64)], writable: bool) -> Arc<Self> {
        let span = |(base, len): &(u64, u64)| Span {
            base: Hpa(*base),
            len: *len,
        };
        Arc::new(Self {
            pieces: pieces.iter().map(span).collect(),
            writable,
            pins: Mutex::new(0),
        })
    }
}

impl Memory for Pieces {
    fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn piece(&self, mut offset: u64) -> Option<Span<Hpa>> {
        for piece in &self.pieces {
            if offset < piece.len {
                return Some(Span {
                    base: piece.base + offset,
                    len: piece.len - offset,
                });
            }
            offset -= piece.len;
        }
        None
    }

    fn pin(&self, _offset: u64, _len: u64) -> Result<(), Error> {
        step().map_err(|_| Error::PinFailed)?;
        *self.pins.lock().unwrap() += 1;
        Ok(())
    }

    fn unpin(&self, _offset: u64, _len: u64) {
        let mut pins = self.pins.lock().unwrap();
        *pins = pins.checked_sub(1).expect("pinned before");
    }
}

fn range_end(range: Span<Iova>) -> u64 {
    range.base.0 + (range.len - 1)
}

/// What a mapping allows, as the tables note it.
type Mapping = (u64, Hpa, Access);
