//! A [`Driver`] out of a physical IOMMU: groups and their owners, second stages of ours, and tags that are forgotten
//! before they are used again. What differs from one architecture to the next is its [`Backend`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::driver::{
    Access, Answer, Driver, Flush, Format, HwInfo, HwptFlags, PageTable, Root, StageOne, Stale,
    Target, UserData, ViommuDriver, Waiting,
};
use super::{Error, room};
use crate::addr::{Hpa, Iova, PAGE_SIZE, Span};
use crate::hal::Platform;
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{
    Invalidate, Invalidated, Invalidation, IommuError, PhysicalIommu, StageTwo, StreamConfig,
};
use crate::smmuv3::CacheTagAllocator;
use crate::sync::Mutex;
use crate::table::{Attributes, MapError, Memory, StageTwoTable};

/// A physical IOMMU, and what it gives the objects that others do not have.
pub trait Backend: PhysicalIommu {
    /// As [`Driver::hw_info`].
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error>;

    /// A slice for one VM, as [`Driver::alloc_viommu`] wants it. What it does later, it does without the lock that this
    /// is under.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; the data rules of [`UserData`].
    fn slice(
        &self,
        kind: u32,
        _tag: CacheTag,
        _data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        Err(Error::Unsupported(kind))
    }
}

/// Who has each group: the group, its owner, and how many of its devices are bound.
#[derive(Debug, Default)]
struct GroupOwners(Vec<(u32, usize, u32)>);

impl GroupOwners {
    fn claim(&mut self, group: u32, owner: usize) -> Result<(), Error> {
        match self.0.iter_mut().find(|it| it.0 == group) {
            Some(claim) if claim.1 == owner => claim.2 += 1,
            Some(_) => return Err(Error::GroupOwned(group)),
            None => {
                room::reserve(&mut self.0, 1)?;
                self.0.push((group, owner, 1));
            }
        }
        Ok(())
    }

    fn release(&mut self, group: u32, owner: usize) {
        if let Some(claim) = self.0.iter_mut().find(|it| (it.0, it.1) == (group, owner)) {
            claim.2 -= 1;
        }
        self.0.retain(|it| it.2 > 0);
    }
}

/// See the module's description. Contexts share it.
pub struct Unit<P: Platform, I: Backend> {
    index: IommuIndex,
    platform: Arc<P>,
    /// Width of the tables it makes.
    input_bits: u8,
    coherent: bool,
    output_bits: u8,
    physical: Mutex<I>,
    /// For invalidations beside whoever has `physical`.
    invalidator: Option<Arc<dyn Invalidate>>,
    tags: Mutex<CacheTagAllocator>,
    groups: Mutex<GroupOwners>,
}

impl<P: Platform, I: Backend> Unit<P, I> {
    /// The IOMMU `physical`, number `index`, whose tables translate `input_bits` of input address.
    pub fn new(index: IommuIndex, physical: I, platform: Arc<P>, input_bits: u8) -> Self {
        let caps = physical.caps();
        Self {
            index,
            platform,
            input_bits,
            coherent: caps.coherent,
            output_bits: caps.output_bits,
            invalidator: physical.invalidator(),
            physical: Mutex::new(physical),
            tags: Mutex::new(CacheTagAllocator::new(caps.cache_tag_bits)),
            groups: Mutex::new(GroupOwners::default()),
        }
    }

    /// The hardware itself, for its faults and errors.
    pub fn physical(&self) -> &Mutex<I> {
        &self.physical
    }

    /// Whether its walks snoop CPU caches. Tables that others made for walks that do not are good for it too.
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// Invalidates, with no lock over the wait where the hardware allows. One that lost its state is told again once it
    /// has it back.
    fn invalidate(&self, entry: Invalidation) -> Result<(), IommuError> {
        match self.submit(entry) {
            Err(IommuError::Timeout) if self.physical.lock().check()? => self.submit(entry),
            result => result,
        }
    }

    fn submit(&self, entry: Invalidation) -> Result<(), IommuError> {
        let submitted = match &self.invalidator {
            Some(invalidator) => invalidator.submit(&[entry]),
            None => self.physical.lock().submit(&[entry]),
        };
        submitted.map_err(|incomplete| incomplete.error)
    }
}

impl<P: Platform, I: Backend> fmt::Debug for Unit<P, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iommu{}", self.index.0)
    }
}

impl<P: Platform + 'static, I: Backend> Driver for Unit<P, I> {
    fn index(&self) -> IommuIndex {
        self.index
    }

    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error> {
        self.physical.lock().hw_info(kind)
    }

    fn claim_group(&self, group: u32, owner: usize) -> Result<(), Error> {
        self.groups.lock().claim(group, owner)
    }

    fn release_group(&self, group: u32, owner: usize) {
        self.groups.lock().release(group, owner);
    }

    fn alloc_table(
        &self,
        flags: HwptFlags,
        data: UserData<'_>,
    ) -> Result<Box<dyn PageTable>, Error> {
        if !HwptFlags::NEST_PARENT.contains(flags) {
            return Err(Error::Unsupported(flags.bits()));
        }
        if data.kind != 0 {
            return Err(Error::Unsupported(data.kind));
        }
        let platform = Arc::clone(&self.platform);
        let table = StageTwoTable::new(platform, self.input_bits, self.coherent);
        Ok(room::boxed(Table {
            table: Some(table.map_err(refused)?),
            cleaned: !self.coherent,
        })?)
    }

    fn accepts(&self, root: &Root) -> Result<(), Error> {
        let walks = root.format == Format::ArmStageTwo
            && root.input_bits <= self.output_bits
            && (self.coherent || root.cleaned);
        if walks {
            Ok(())
        } else {
            Err(Error::Incompatible)
        }
    }

    fn alloc_tag(&self) -> Result<CacheTag, Error> {
        self.tags.lock().allocate().ok_or(Error::NoSpace)
    }

    fn free_tag(&self, tag: CacheTag) -> Result<(), IommuError> {
        self.invalidate(Invalidation::Tag(tag))?;
        self.tags.lock().free(tag, Invalidated::complete());
        Ok(())
    }

    fn flush(&self, tag: CacheTag, stale: Stale, _nested: bool) -> Result<(), IommuError> {
        // What is cached of both stages goes along: see `Invalidation`.
        self.invalidate(Invalidation::StageTwoRange {
            tag,
            range: stale.range,
            leaf: stale.leaf,
        })
    }

    fn attach(&self, stream: DeviceId, pasid: u32, target: &Target) -> Result<(), Error> {
        if pasid != 0 {
            return Err(Error::Unsupported(pasid));
        }
        let stage_two = |tag: &CacheTag, root: &Root| StageTwo {
            tag: *tag,
            root: root.root,
            input_bits: root.input_bits,
        };
        let config = match target {
            Target::Refuse => StreamConfig::Refuse,
            Target::Abort => StreamConfig::Abort,
            Target::Paging { tag, root } => StreamConfig::StageTwo(stage_two(tag, root)),
            Target::Nested {
                tag,
                parent,
                stage_one,
                ..
            } => match stage_one {
                StageOne::Refuse => StreamConfig::Refuse,
                StageOne::Abort => StreamConfig::Abort,
                StageOne::Bypass => StreamConfig::StageTwo(stage_two(tag, parent)),
                StageOne::Translate(stage_one) => StreamConfig::Nested {
                    stage_two: stage_two(tag, parent),
                    stage_one: *stage_one,
                },
            },
        };
        Ok(self.physical.lock().attach(stream, config)?)
    }

    fn alloc_viommu(
        &self,
        kind: u32,
        _parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        self.physical.lock().slice(kind, tag, data)
    }

    fn respond(
        &self,
        stream: DeviceId,
        waiting: Waiting,
        answer: Answer,
    ) -> Result<(), IommuError> {
        self.physical.lock().respond(stream, waiting, answer)
    }
}

fn refused(error: MapError) -> Error {
    match error {
        MapError::OutOfMemory => Error::OutOfMemory,
        MapError::Misaligned(at) => Error::Misaligned(at),
        MapError::Mapped(at) => Error::Occupied(at),
        MapError::InputTooWide(at) | MapError::OutputTooWide(at) => Error::Invalid(at),
        MapError::Width(bits) => Error::Unsupported(bits.into()),
        MapError::Empty => Error::Empty,
        _ => Error::Access,
    }
}

/// A second stage of ours. Lost unless it is retired.
struct Table<P: Platform> {
    table: Option<StageTwoTable<P>>,
    cleaned: bool,
}

impl<P: Platform> fmt::Debug for Table<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("counters", &self.get().counters())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Table<P> {
    fn get(&self) -> &StageTwoTable<P> {
        let Some(table) = &self.table else {
            unreachable!("nothing is asked of a retired table");
        };
        table
    }

    fn get_mut(&mut self) -> &mut StageTwoTable<P> {
        let Some(table) = &mut self.table else {
            unreachable!("nothing is asked of a retired table");
        };
        table
    }
}

impl<P: Platform> PageTable for Table<P> {
    fn root(&self) -> Root {
        let table = self.get();
        Root {
            format: Format::ArmStageTwo,
            root: table.root(),
            input_bits: table.input_bits(),
            output_bits: 48,
            cleaned: self.cleaned,
        }
    }

    fn page_size(&self) -> u64 {
        PAGE_SIZE
    }

    fn map(&mut self, range: Span<Iova>, to: Hpa, access: Access) -> Result<(), Error> {
        let attributes = Attributes {
            read: access.contains(Access::READ),
            write: access.contains(Access::WRITE),
            execute: false,
            memory: if access.contains(Access::DEVICE) {
                Memory::Device
            } else {
                Memory::Normal
            },
        };
        self.get_mut().map(range, to, attributes).map_err(refused)
    }

    fn unmap(&mut self, range: Span<Iova>, flush: &mut Flush<'_>) -> Result<(), IommuError> {
        let table = self.get_mut();
        let cut = table.unmap(range);
        if cut.is_empty() {
            return Ok(());
        }
        flush(Stale {
            range: cut.stale(),
            leaf: cut.leaf_only(),
        })?;
        table.release(cut, Invalidated::complete());
        Ok(())
    }

    fn walk(&self, iova: Iova) -> Option<Hpa> {
        Some(self.get().walk(iova)?.output)
    }

    fn retire(&mut self) {
        if let Some(table) = self.table.take() {
            table.retire(Invalidated::complete());
        }
    }
}
