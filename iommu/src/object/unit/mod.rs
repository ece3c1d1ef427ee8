//! A [`Driver`](super::driver::Driver) out of a physical IOMMU: groups and their owners, second stages of ours, and tags
//! that are forgotten before they are used again. What differs from one architecture to the next is its [`Backend`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::driver::{
    Format, HwInfo, Invalidator, PageTable, Requester, Root, StageOne, Target, UserData,
    ViommuDriver,
};
use super::mirror::{FirstTable, Table, refused};
use super::{Error, room};

use crate::hal::Platform;
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{
    Caps, ContextSetup, FirstStage, Granule, Incomplete, Invalidate, Invalidation, IommuError,
    PhysicalIommu, StageOneConfig, StageOneTable, StageTwo, StreamConfig,
};
use crate::smmuv3::CacheTagAllocator;
use crate::sync::Mutex;
use crate::table::{self, SecondStage, Shape, StageOneAttributes, StageTwoTable};

mod driver;

/// A physical IOMMU, and what it gives the objects that others do not have.
pub trait Backend: PhysicalIommu + 'static {
    /// As [`Driver::hw_info`](super::driver::Driver::hw_info).
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn hw_info(&self, kind: u32) -> Result<HwInfo, Error>;

    /// A slice for one VM, as [`Driver::alloc_viommu`](super::driver::Driver::alloc_viommu) wants it. What it does later, it does without the lock that this
    /// is under.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; the data rules of [`UserData`].
    fn slice(
        &self,
        kind: u32,
        _on: &NestParent<'_>,
        _data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        Err(Error::Unsupported(kind))
    }

    /// A guest's stage 1 without a slice, as [`Driver::alloc_nested`](super::driver::Driver::alloc_nested) wants it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; the data rules of [`UserData`].
    fn nested(
        &self,
        _on: &NestParent<'_>,
        data: UserData<'_>,
    ) -> Result<(StageOne, Box<dyn Invalidator>), Error> {
        Err(Error::Unsupported(data.kind))
    }
}

/// What a slice, or a guest's stage 1 without one, is on.
pub struct NestParent<'a> {
    /// The nest parent.
    pub root: &'a Root,
    /// The tag of what is cached of it there.
    pub tag: CacheTag,
    /// For invalidations later.
    pub invalidator: Arc<dyn Invalidate>,
}

/// Invalidation by whoever can wait for the IOMMU as a whole.
struct Locked<I>(Arc<Mutex<I>>);

impl<I: PhysicalIommu> Invalidate for Locked<I> {
    fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self.0.lock().submit(batch)
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

/// Makes an empty table.
type MakeTable<P> = fn(Arc<P>, Shape) -> Result<Box<dyn PageTable>, Error>;

/// See the module's description. Contexts share it.
pub struct Unit<P: Platform, I: Backend> {
    index: IommuIndex,
    platform: Arc<P>,
    /// Second stages as it makes them.
    shape: Shape,
    second_stages: (Format, MakeTable<P>),
    caps: Caps,
    /// How first stages of its own are made, where it has any.
    first_stages: Option<(Format, MakeTable<P>)>,
    /// Bytes of their largest page.
    first_largest: u64,
    physical: Arc<Mutex<I>>,
    /// For invalidations, beside whoever has `physical` where the IOMMU can do that.
    invalidator: Arc<dyn Invalidate>,
    tags: Mutex<CacheTagAllocator>,
    /// Address spaces of its own first stages, all under [`HOST`](crate::physical::HOST).
    spaces: Mutex<CacheTagAllocator>,
    groups: Mutex<GroupOwners>,
    /// Streams that are refused as they did not forget what they were told to.
    contained: Mutex<Vec<DeviceId>>,
}

impl<P: Platform + 'static, I: Backend> Unit<P, I> {
    /// The IOMMU `physical`, number `index`, whose tables translate `input_bits` of input address.
    pub fn new(index: IommuIndex, physical: I, platform: Arc<P>, input_bits: u8) -> Self {
        let caps = physical.caps();
        let beside = physical.invalidator();
        let physical = Arc::new(Mutex::new(physical));
        Self {
            index,
            platform,
            shape: Shape {
                coherent: caps.coherent,
                ..Shape::new(input_bits)
            },
            second_stages: (Format::ArmStageTwo, |platform, shape| {
                let table = StageTwoTable::with_shape(platform, shape);
                Ok(room::boxed(Table::new(table.map_err(refused)?))?)
            }),
            caps,
            first_stages: None,
            first_largest: u64::MAX,
            invalidator: beside.unwrap_or_else(|| Arc::new(Locked(Arc::clone(&physical)))),
            physical,
            tags: Mutex::new(CacheTagAllocator::new(caps.cache_tag_bits)),
            spaces: Mutex::new(CacheTagAllocator::new(caps.address_space_bits)),
            groups: Mutex::new(GroupOwners::default()),
            contained: Mutex::new(Vec::new()),
        }
    }

    /// The same with tables for PASIDs, where the IOMMU has first stages. Whoever gives no device a PASID does without their
    /// code.
    #[must_use]
    pub fn with_pasids(self) -> Self {
        Self {
            first_stages: Some((Format::ArmStageOne, |platform, shape| {
                let table = FirstTable::with_shape(platform, shape);
                Ok(room::boxed(Table::new(table.map_err(refused)?))?)
            })),
            ..self
        }
    }

    /// The same with second stages of VT-d, of pages of at most `largest` bytes.
    #[must_use]
    pub fn with_second_stages_of_vtd(self, largest: u64) -> Self {
        Self {
            shape: Shape {
                output_bits: self.caps.output_bits.min(52),
                largest,
                ..self.shape
            },
            second_stages: (Format::VtdSecondStage, |platform, shape| {
                let table = table::PageTable::<_, SecondStage>::with_shape(platform, shape);
                Ok(room::boxed(Table::new(table.map_err(refused)?))?)
            }),
            ..self
        }
    }

    /// The hardware itself, for its faults and errors.
    pub fn physical(&self) -> &Mutex<I> {
        &self.physical
    }

    /// The same with first stages of VT-d for PASIDs, of pages of at most `largest` bytes.
    #[must_use]
    pub fn with_first_stages_of_vtd(self, largest: u64) -> Self {
        Self {
            first_stages: Some((Format::VtdFirstStage, |platform, shape| {
                let table = table::PageTable::<_, table::Npt>::with_shape(platform, shape);
                Ok(room::boxed(Table::new(table.map_err(refused)?))?)
            })),
            first_largest: largest,
            ..self
        }
    }

    /// Whether its walks snoop CPU caches. Tables that others made for walks that do not are good for it too.
    pub fn is_coherent(&self) -> bool {
        self.caps.coherent
    }

    /// Invalidates, with no lock over the wait where the hardware allows. One that lost its state is told again once it
    /// has it back. A device that does not answer is refused everything, and the others need not care.
    fn invalidate(&self, entry: Invalidation) -> Result<(), IommuError> {
        let mut again = false;
        loop {
            match self.submit(entry) {
                Err(IommuError::Timeout) if !again && self.physical.lock().check()? => {
                    again = true;
                }
                // There are fewer of them each time.
                Err(IommuError::DeviceTlb(stream)) => {
                    let mut physical = self.physical.lock();
                    physical.attach(stream, StreamConfig::Abort)?;
                    drop(physical);
                    self.note_contained(stream);
                }
                result => return result,
            }
        }
    }

    fn note_contained(&self, stream: DeviceId) {
        let mut contained = self.contained.lock();
        if !contained.contains(&stream) && contained.try_reserve(1).is_ok() {
            contained.push(stream);
        }
    }

    /// See [`Driver::attach`](super::driver::Driver::attach).
    fn put(&self, from: &Requester, pasid: u32, target: &Target) -> Result<(), Error> {
        // Never for a device that its owner does not trust, whatever a guest asks for.
        let ats = from.ats && self.caps.ats;
        let context = |table: Option<&StageOneTable>| {
            let mut physical = self.physical.lock();
            let with = ContextSetup {
                pasid_bits: from.pasid_bits,
                ats,
            };
            physical.attach_context(from.stream, pasid, with, table)
        };
        if let Target::Paging { tag, root } = target
            && root.format == Format::ArmStageOne
        {
            return Ok(context(Some(&StageOneTable {
                asid: tag.0,
                root: root.root,
                input_bits: root.input_bits,
                granule: Granule::Size4K,
                attributes: StageOneAttributes::MAIR,
            }))?);
        }
        let each = self.second_stages.0 == Format::VtdSecondStage;
        if pasid != 0 && !each {
            context(None)?;
            return match target {
                Target::Refuse | Target::Abort => Ok(()),
                _ => Err(Error::Incompatible),
            };
        }
        let stage_two = |tag: &CacheTag, root: &Root, ats: bool| StageTwo {
            tag: *tag,
            root: root.root,
            input_bits: root.input_bits,
            ats,
        };
        let config = match target {
            Target::Refuse => StreamConfig::Refuse,
            Target::Abort => StreamConfig::Abort,
            Target::Paging { tag, root } if root.format == Format::VtdFirstStage => {
                StreamConfig::FirstStage {
                    tag: *tag,
                    first: FirstStage {
                        root: root.root.0,
                        input_bits: root.input_bits,
                        ats,
                        ..FirstStage::default()
                    },
                }
            }
            Target::Paging { tag, root } => StreamConfig::StageTwo(stage_two(tag, root, ats)),
            Target::Nested {
                tag,
                parent,
                stage_one,
                ..
            } => match stage_one {
                StageOne::Refuse => StreamConfig::Refuse,
                StageOne::Abort => StreamConfig::Abort,
                StageOne::Bypass => {
                    // A guest whose entry has no ATS does not tell the device what to forget; where one bit is for all of a
                    // device's PASIDs the driver does (VT-d, 9.4).
                    StreamConfig::StageTwo(stage_two(tag, parent, each && ats))
                }
                StageOne::Translate(stage_one) => StreamConfig::Nested {
                    stage_two: stage_two(tag, parent, false),
                    stage_one: StageOneConfig {
                        ats: ats && stage_one.ats,
                        ..*stage_one
                    },
                },
                StageOne::Table(first) => StreamConfig::FirstOnSecond {
                    second: stage_two(tag, parent, false),
                    first: FirstStage {
                        // One bit for all PASIDs, which is the host's to say.
                        ats,
                        ..*first
                    },
                },
            },
        };
        let mut physical = self.physical.lock();
        Ok(match pasid {
            0 => physical.attach(from.stream, config),
            _ => physical.attach_pasid(from.stream, pasid, config),
        }?)
    }

    fn nest_parent<'a>(&self, root: &'a Root, tag: CacheTag) -> NestParent<'a> {
        NestParent {
            root,
            tag,
            invalidator: Arc::clone(&self.invalidator),
        }
    }

    fn tags_of(&self, format: Format) -> &Mutex<CacheTagAllocator> {
        match format {
            Format::ArmStageOne => &self.spaces,
            _ => &self.tags,
        }
    }

    fn submit(&self, entry: Invalidation) -> Result<(), IommuError> {
        let submitted = self.invalidator.submit(&[entry]);
        submitted.map_err(|incomplete| incomplete.error)
    }
}

impl<P: Platform, I: Backend> fmt::Debug for Unit<P, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iommu{}", self.index.0)
    }
}
