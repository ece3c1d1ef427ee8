//! Guests' first stages: on a slice, or on a nest parent alone.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::driver::{Driver, Format, HwptFlags, Invalidator, StageOne, UserData};
use super::hwpt::Tagged;
use super::ids::Object;
use super::inner::Inner;
use super::{Error, room};
use crate::id::CacheTag;

/// What a guest's stage 1 is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parent {
    Viommu(u32),
    /// A nest parent itself, where the hardware has no slices.
    Paging(u32),
}

/// A guest's stage 1. It never changes while something is attached.
#[derive(Debug)]
pub(super) struct Nested {
    pub parent: Parent,
    /// The address space of the nest parent.
    pub ioas: u32,
    pub stage_one: StageOne,
    pub flags: HwptFlags,
    pub fault: Option<u32>,
    pub driver: Arc<dyn Driver>,
    /// The slice's, or its own where there is no slice.
    pub tag: CacheTag,
    /// Where the tag is its own.
    pub invalidator: Option<Box<dyn Invalidator>>,
}

/// A guest's stage 1 as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum StageOneSource<'a> {
    Data(UserData<'a>),
    Decoded(StageOne),
}

const NESTED_FLAGS: HwptFlags = HwptFlags::FAULT.union(HwptFlags::PASID);

impl Inner {
    /// A guest's stage 1, for devices behind `driver`.
    pub(super) fn nested_alloc(
        &mut self,
        parent: Parent,
        driver: &Arc<dyn Driver>,
        flags: HwptFlags,
        source: StageOneSource<'_>,
        fault: Option<u32>,
    ) -> Result<u32, Error> {
        if !NESTED_FLAGS.contains(flags) {
            return Err(Error::Unsupported((flags - NESTED_FLAGS).bits()));
        }
        if let StageOneSource::Data(data) = source
            && data.bytes.is_empty()
        {
            return Err(Error::Unsupported(data.kind));
        }
        let id = match parent {
            Parent::Viommu(viommu) => self.nested_on_viommu(viommu, driver, flags, source, fault),
            Parent::Paging(paging) => self.nested_on_parent(paging, driver, flags, source, fault),
        }?;
        match parent {
            Parent::Viommu(parent) | Parent::Paging(parent) => self.ids.grab(parent),
        }
        if flags.contains(HwptFlags::FAULT)
            && let Some(fault) = fault
        {
            self.ids.grab(fault);
        }
        Ok(id)
    }

    fn nested_on_viommu(
        &mut self,
        viommu: u32,
        driver: &Arc<dyn Driver>,
        flags: HwptFlags,
        source: StageOneSource<'_>,
        fault: Option<u32>,
    ) -> Result<u32, Error> {
        let slice = self.ids.viommu(viommu)?;
        if slice.driver.index() != driver.index() {
            return Err(Error::OtherIommu);
        }
        let (shared, parent) = (slice.tag, slice.parent);
        let paging = self.ids.paging(parent)?;
        let (format, ioas) = (paging.format, paging.ioas);
        let fault = self.fault_of(flags, fault)?;
        self.publish_with(|inner, _| {
            let slice = inner.ids.viommu_mut(viommu)?;
            let stage_one = match source {
                StageOneSource::Data(data) => {
                    slice.ops.decode_nested(flags - HwptFlags::FAULT, data)?
                }
                StageOneSource::Decoded(stage_one) => {
                    slice.ops.check_nested(&stage_one)?;
                    stage_one
                }
            };
            let own = slice.ops.has_own_tags() && matches!(stage_one, StageOne::Table(_));
            let (tag, invalidator) = match own {
                true => inner.under_own_tag(parent, driver, format, |inner, tag| {
                    inner.ids.viommu(viommu)?.ops.invalidator(tag).map(Some)
                })?,
                false => (shared, None),
            };
            Ok(Object::Nested(Nested {
                parent: Parent::Viommu(viommu),
                ioas,
                stage_one,
                flags,
                fault,
                driver: Arc::clone(driver),
                tag,
                invalidator,
            }))
        })
    }

    /// What `make` makes, under a tag of its own on the nest parent.
    fn under_own_tag<T>(
        &mut self,
        parent: u32,
        driver: &Arc<dyn Driver>,
        format: Format,
        make: impl FnOnce(&mut Self, CacheTag) -> Result<T, Error>,
    ) -> Result<(CacheTag, T), Error> {
        room::reserve(&mut self.ids.paging_mut(parent)?.tags, 1)?;
        let tag = driver.alloc_tag(format)?;
        let made = make(self, tag);
        let parent = self.ids.paging_mut(parent)?;
        match made {
            Ok(made) => {
                parent.tags.push(Tagged {
                    driver: Arc::clone(driver),
                    tag,
                    nested: true,
                    users: 1,
                });
                Ok((tag, made))
            }
            Err(error) => {
                parent.free_tag(driver, tag);
                Err(error)
            }
        }
    }

    fn nested_on_parent(
        &mut self,
        paging: u32,
        driver: &Arc<dyn Driver>,
        flags: HwptFlags,
        source: StageOneSource<'_>,
        fault: Option<u32>,
    ) -> Result<u32, Error> {
        let parent = self.ids.paging(paging)?;
        if self.is_auto(paging) || !parent.flags.contains(HwptFlags::NEST_PARENT) {
            return Err(Error::NotNestParent(paging));
        }
        let (root, ioas) = (parent.root(), parent.ioas);
        driver.accepts(&root)?;
        let StageOneSource::Data(data) = source else {
            return Err(Error::Unsupported(0));
        };
        let fault = self.fault_of(flags, fault)?;
        self.publish_with(|inner, _| {
            let (tag, (stage_one, invalidator)) =
                inner.under_own_tag(paging, driver, root.format, |_, tag| {
                    driver.alloc_nested(&root, tag, data)
                })?;
            Ok(Object::Nested(Nested {
                parent: Parent::Paging(paging),
                ioas,
                stage_one,
                flags,
                fault,
                driver: Arc::clone(driver),
                tag,
                invalidator: Some(invalidator),
            }))
        })
    }

    /// Another stage 1 in place of that of a table on a slice that nothing goes through: as if it was destroyed, and one
    /// made anew under the same ID.
    pub(super) fn nested_renew(&mut self, id: u32, stage_one: StageOne) -> Result<(), Error> {
        let entry = self.ids.entry(id)?;
        if entry.users != 1 + entry.handles {
            return Err(Error::InUse(id));
        }
        let Object::Nested(nested) = &entry.object else {
            return Err(Error::NoSuchObject(id));
        };
        let Parent::Viommu(viommu) = nested.parent else {
            return Err(Error::Unsupported(0));
        };
        // What has a tag of its own keeps it, and nothing else needs one.
        if nested.invalidator.is_some() != matches!(stage_one, StageOne::Table(_)) {
            return Err(Error::Unsupported(0));
        }
        self.ids.viommu_mut(viommu)?.ops.check_nested(&stage_one)?;
        self.ids.nested_mut(id)?.stage_one = stage_one;
        Ok(())
    }

    pub(super) fn nested_destroyed(&mut self, hwpt: Nested) {
        match hwpt.parent {
            Parent::Viommu(viommu) => {
                if hwpt.invalidator.is_some()
                    && let Ok(parent) = self.nest_parent_of(hwpt.parent)
                    && let Ok(parent) = self.ids.paging_mut(parent)
                {
                    parent.drop_nested_tag(&hwpt.driver, hwpt.tag);
                }
                self.put(viommu);
            }
            Parent::Paging(paging) => {
                if let Ok(parent) = self.ids.paging_mut(paging) {
                    parent.drop_nested_tag(&hwpt.driver, hwpt.tag);
                }
                self.put(paging);
            }
        }
        if let Some(fault) = hwpt.fault {
            self.put(fault);
        }
    }
}
