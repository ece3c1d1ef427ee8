//! A table as a list of what was mapped.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::super::Error;
use super::super::driver::{Access, Flush, Format, HwptFlags, PageTable, Root, Stale};
use super::super::room::step;
use super::{Mapping, State, range_end};
use crate::addr::{Hpa, Iova, Span};
use crate::physical::IommuError;

/// See the module's description.
pub(super) struct MockTable {
    state: Arc<Mutex<State>>,
    root: Hpa,
    input_bits: u8,
    flags: HwptFlags,
    pages: BTreeMap<u64, Mapping>,
    tracking: bool,
    retired: bool,
    /// Somebody may walk it.
    published: AtomicBool,
}

impl fmt::Debug for MockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {}", self.flags, self.pages, self.tracking)
    }
}

impl MockTable {
    pub(super) fn new(
        state: Arc<Mutex<State>>,
        root: Hpa,
        input_bits: u8,
        flags: HwptFlags,
    ) -> Self {
        state.lock().unwrap().tables += 1;
        Self {
            state,
            root,
            input_bits,
            flags,
            pages: BTreeMap::new(),
            tracking: false,
            retired: false,
            published: AtomicBool::new(false),
        }
    }
}

impl PageTable for MockTable {
    fn root(&self) -> Root {
        self.published.store(true, Ordering::Relaxed);
        Root {
            format: Format::Mock,
            root: self.root,
            input_bits: self.input_bits,
            output_bits: 48,
            largest: 1 << 30,
            cleaned: true,
        }
    }

    fn page_size(&self) -> u64 {
        0x1000
    }

    fn refuse_read_only(&mut self) {
        unreachable!("a unit asks it of its own tables");
    }

    fn map(&mut self, range: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error> {
        step()?;
        assert_eq!((range.base.0 | range.len | to.0) & 0xfff, 0);
        assert!(range_end(range) >> self.input_bits == 0);
        let before = self.pages.range(..=range_end(range)).next_back();
        assert!(before.is_none_or(|(at, page)| at + page.0 <= range.base.0));
        self.pages.insert(range.base.0, (range.len, to, access));
        Ok(())
    }

    fn unmap(&mut self, range: Span<Iova>, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        let mut any = false;
        while let Some((&at, page)) = self.pages.range(range.base.0..=range_end(range)).next() {
            assert!(at + page.0 <= range.base.0 + range.len, "a mapping is cut");
            self.pages.remove(&at);
            any = true;
        }
        if any {
            flush(Stale { range, leaf: true })?;
        }
        Ok(())
    }

    fn clear(&mut self, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        let len = 1 << self.input_bits;
        self.unmap(Span { base: Iova(0), len }, flush)
    }

    fn free(&mut self) -> bool {
        false
    }

    fn walk(&self, iova: Iova) -> Option<Hpa> {
        let (at, (len, to, _)) = self.pages.range(..=iova.0).next_back()?;
        (iova.0 - at < *len).then(|| *to + (iova.0 - at))
    }

    fn leaf(&self, iova: Iova) -> Option<Span<Iova>> {
        let (at, (len, ..)) = self.pages.range(..=iova.0).next_back()?;
        let base = Iova(*at);
        (iova.0 - at < *len).then_some(Span { base, len: *len })
    }

    fn agrees(&self, range: Span<Iova>, to: Hpa, access: Access) -> Option<(bool, Iova)> {
        let Span { base, len } = self.leaf(range.base)?;
        let (_, _, rights) = self.pages[&base.0];
        let agrees = self.walk(range.base) == Some(to) && rights == access;
        Some((agrees, Iova(range.base.0 + range.len).min(base + len)))
    }

    fn next(&self, from: Iova) -> Option<Iova> {
        if self.walk(from).is_some() {
            return Some(from);
        }
        self.pages.range(from.0..).next().map(|(at, _)| Iova(*at))
    }

    fn bytes(&self) -> u64 {
        0x1000
    }

    fn stores(&self) -> u64 {
        self.pages.len() as u64
    }

    fn set_dirty_tracking(&mut self, on: bool) -> Result<(), Error> {
        step()?;
        if !self.flags.contains(HwptFlags::DIRTY_TRACKING) {
            return Err(Error::Unsupported(2));
        }
        self.tracking = on;
        Ok(())
    }

    /// Everything mapped writable counts as written.
    fn read_dirty(
        &mut self,
        range: Span<Iova>,
        _clear: bool,
        dirty: &mut dyn FnMut(Span<Iova>),
    ) -> Result<(), Error> {
        if !self.flags.contains(HwptFlags::DIRTY_TRACKING) {
            return Err(Error::Unsupported(2));
        }
        for (at, (len, _, access)) in self.pages.range(..=range_end(range)) {
            if at + len > range.base.0 && access.contains(Access::WRITE) {
                let base = Iova(*at);
                dirty(Span { base, len: *len });
            }
        }
        Ok(())
    }

    fn retire(&mut self) {
        self.retired = true;
    }
}

impl Drop for MockTable {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.tables -= 1;
        state.order.push("table");
        if !self.retired && *self.published.get_mut() {
            state.lost_tables += 1;
        }
    }
}
