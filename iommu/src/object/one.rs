//! A boxed value is a box of an array of one (see `room`): the array is whatever its element is.

use alloc::boxed::Box;

use super::Error;
use super::driver::{
    Access, Entry, EntryRule, Flush, HwptFlags, Invalidator, PageTable, Root, StageOne, UserData,
    ViommuDriver, VirtIds,
};
use crate::addr::{Hpa, Iova, Span};
use crate::fault::Fault;
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Incomplete, Invalidation, IommuError};

impl<T: PageTable> PageTable for [T; 1] {
    fn root(&self) -> Root {
        self[0].root()
    }
    fn page_size(&self) -> u64 {
        self[0].page_size()
    }
    fn map(&mut self, range: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error> {
        self[0].map(range, to, access)
    }
    fn refuse_read_only(&mut self) {
        self[0].refuse_read_only();
    }
    fn unmap(&mut self, range: Span<Iova>, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        self[0].unmap(range, flush)
    }
    fn clear(&mut self, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        self[0].clear(flush)
    }
    fn free(&mut self) -> bool {
        self[0].free()
    }
    fn walk(&self, iova: Iova) -> Option<Hpa> {
        self[0].walk(iova)
    }
    fn leaf(&self, iova: Iova) -> Option<Span<Iova>> {
        self[0].leaf(iova)
    }

    fn agrees(&self, range: Span<Iova>, to: Hpa, access: Access) -> Option<(bool, Iova)> {
        self[0].agrees(range, to, access)
    }
    fn next(&self, from: Iova) -> Option<Iova> {
        self[0].next(from)
    }
    fn bytes(&self) -> u64 {
        self[0].bytes()
    }
    fn stores(&self) -> u64 {
        self[0].stores()
    }
    fn set_dirty_tracking(&mut self, on: bool) -> Result<(), Error> {
        self[0].set_dirty_tracking(on)
    }
    fn read_dirty(
        &mut self,
        range: Span<Iova>,
        clear: bool,
        dirty: &mut dyn FnMut(Span<Iova>),
    ) -> Result<(), Error> {
        self[0].read_dirty(range, clear, dirty)
    }
    fn retire(&mut self) {
        self[0].retire();
    }
}

impl<T: Invalidator> Invalidator for [T; 1] {
    fn entry_rule(&self, kind: u32) -> Option<EntryRule> {
        self[0].entry_rule(kind)
    }
    fn decode(
        &self,
        kind: u32,
        entry: &Entry,
        devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        self[0].decode(kind, entry, devices)
    }
    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self[0].submit(batch)
    }
    fn pass(
        &mut self,
        kind: u32,
        entries: &[Entry],
        devices: &VirtIds<'_>,
    ) -> Option<Result<(), Incomplete>> {
        self[0].pass(kind, entries, devices)
    }
}

impl<T: ViommuDriver> ViommuDriver for [T; 1] {
    fn decode_nested(&mut self, flags: HwptFlags, data: UserData<'_>) -> Result<StageOne, Error> {
        self[0].decode_nested(flags, data)
    }
    fn check_nested(&mut self, stage_one: &StageOne) -> Result<(), Error> {
        self[0].check_nested(stage_one)
    }
    fn has_own_tags(&self) -> bool {
        self[0].has_own_tags()
    }
    fn invalidator(&self, tag: CacheTag) -> Result<Box<dyn Invalidator>, Error> {
        self[0].invalidator(tag)
    }
    fn vdevice(&mut self, streams: &[DeviceId], virt_id: u64) -> Result<(), Error> {
        self[0].vdevice(streams, virt_id)
    }
    fn vdevice_gone(&mut self, streams: &[DeviceId], virt_id: u64) {
        self[0].vdevice_gone(streams, virt_id);
    }
    fn has_events(&self, kind: u32) -> bool {
        self[0].has_events(kind)
    }
    fn event(&self, fault: &Fault, virt_id: u64) -> Option<(u32, Entry)> {
        self[0].event(fault, virt_id)
    }
    fn has_queues(&self, kind: u32) -> Result<(), Error> {
        self[0].has_queues(kind)
    }
    fn hw_queue(
        &mut self,
        kind: u32,
        index: u32,
        base: Hpa,
        len: u64,
    ) -> Result<Option<u32>, Error> {
        self[0].hw_queue(kind, index, base, len)
    }
    fn hw_queue_gone(&mut self, kind: u32, index: u32) {
        self[0].hw_queue_gone(kind, index);
    }
    fn destroy(&mut self) {
        self[0].destroy();
    }
}
