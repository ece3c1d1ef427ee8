//! What the objects ask a [`Unit`] for.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::super::Error;
use super::super::driver::{
    Answer, Driver, Format, HwInfo, HwptFlags, Invalidator, PageTable, Requester, Root, StageOne,
    Stale, Target, UserData, ViommuDriver, Waiting,
};
use super::{Backend, Unit};
use crate::hal::Platform;
use crate::id::{CacheTag, DeviceId, IommuIndex};
use crate::physical::{Granule, HOST, Invalidated, Invalidation, IommuError, StreamConfig};
use crate::table::Shape;

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
        // What PASIDs go through is a first stage, what guests' first stages go on is a second.
        let each = self.second_stages.0 == Format::VtdSecondStage;
        let first = flags == HwptFlags::PASID
            && self.first_stages.is_some()
            && (each || self.caps.address_space_bits != 0);
        // Where each PASID has a table of its own kind, it may be a second stage as well.
        let second = match each && self.caps.pasid_bits != 0 {
            true => HwptFlags::NEST_PARENT | HwptFlags::PASID,
            false => HwptFlags::NEST_PARENT,
        };
        if !first && !second.contains(flags) {
            return Err(Error::Unsupported(flags.bits()));
        }
        if data.kind != 0 {
            return Err(Error::Unsupported(data.kind));
        }
        let platform = Arc::clone(&self.platform);
        if let (true, Some((format, make))) = (first, self.first_stages) {
            let shape = Shape {
                output_bits: self.caps.output_bits.min(48),
                ..self.shape
            };
            let shape = match format {
                Format::VtdFirstStage => Shape {
                    input_bits: 48,
                    largest: self.first_largest,
                    ..shape
                },
                _ => shape,
            };
            return make(platform, shape);
        }
        let (_, make) = self.second_stages;
        let mut table = make(platform, self.shape)?;
        // Erratum 772415 of Intel's: flags of a guest's first stage are set in memory that the second has read-only. No register
        // says which units have it.
        if each && self.caps.nested && flags.contains(HwptFlags::NEST_PARENT) {
            table.refuse_read_only();
        }
        Ok(table)
    }

    fn accepts(&self, root: &Root) -> Result<(), Error> {
        let fits = match root.format {
            format @ (Format::ArmStageTwo | Format::VtdSecondStage)
                if format != self.second_stages.0 =>
            {
                false
            }
            Format::ArmStageTwo => root.input_bits <= self.caps.output_bits,
            // Its levels are for the unit to say, when it is attached.
            Format::VtdSecondStage => {
                root.output_bits <= self.shape.output_bits && root.largest <= self.shape.largest
            }
            Format::ArmStageOne => {
                self.caps.address_space_bits != 0 && root.output_bits <= self.caps.output_bits
            }
            Format::VtdFirstStage => {
                let own = matches!(self.first_stages, Some((Format::VtdFirstStage, _)));
                own && root.output_bits <= self.caps.output_bits
                    && root.largest <= self.first_largest
            }
            _ => false,
        };
        if fits && (self.caps.coherent || root.cleaned) {
            Ok(())
        } else {
            Err(Error::Incompatible)
        }
    }

    fn alloc_tag(&self, format: Format) -> Result<CacheTag, Error> {
        let tag = self.tags_of(format).lock().allocate();
        tag.ok_or(Error::NoSpace)
    }

    fn free_tag(&self, tag: CacheTag, format: Format) -> Result<(), IommuError> {
        self.invalidate(match format {
            Format::ArmStageOne => Invalidation::AddressSpace {
                tag: HOST,
                asid: tag.0,
            },
            _ => Invalidation::Tag(tag),
        })?;
        let tags = self.tags_of(format);
        tags.lock().free(tag, Invalidated::complete());
        Ok(())
    }

    fn flush(
        &self,
        tag: CacheTag,
        format: Format,
        stale: Stale,
        nested: bool,
    ) -> Result<(), IommuError> {
        let Stale { range, leaf } = stale;
        self.invalidate(match format {
            Format::ArmStageOne => Invalidation::StageOneRange {
                tag: HOST,
                asid: Some(tag.0),
                range,
                granule: Granule::Size4K,
                level: 0,
                leaf,
            },
            Format::VtdFirstStage => Invalidation::StageOneRange {
                tag,
                asid: None,
                range,
                granule: Granule::Size4K,
                level: 0,
                leaf,
            },
            // Tables on the way through a guest's first stage are known by what this table says of them.
            Format::VtdSecondStage => Invalidation::StageTwoRange {
                tag,
                range,
                leaf: leaf && !nested,
            },
            // What is cached of both stages goes along: see `Invalidation`.
            _ => Invalidation::StageTwoRange { tag, range, leaf },
        })
    }

    fn attach(&self, from: &Requester, pasid: u32, target: &Target) -> Result<(), Error> {
        match self.put(from, pasid, target) {
            // It is refused as a whole. What was to be refused is.
            Err(Error::Hardware(IommuError::DeviceTlb(stream))) => {
                self.note_contained(stream);
                match target {
                    Target::Refuse | Target::Abort => Ok(()),
                    _ => Err(Error::Hardware(IommuError::DeviceTlb(stream))),
                }
            }
            Ok(()) if pasid == 0 => {
                self.contained.lock().retain(|it| *it != from.stream);
                Ok(())
            }
            result => result,
        }
    }
    fn alloc_viommu(
        &self,
        kind: u32,
        parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<Box<dyn ViommuDriver>, Error> {
        let on = self.nest_parent(parent, tag);
        self.physical.lock().slice(kind, &on, data)
    }

    fn alloc_nested(
        &self,
        parent: &Root,
        tag: CacheTag,
        data: UserData<'_>,
    ) -> Result<(StageOne, Box<dyn Invalidator>), Error> {
        let on = self.nest_parent(parent, tag);
        self.physical.lock().nested(&on, data)
    }

    fn contain(&self, stream: DeviceId) {
        let attached = self.physical.lock().attach(stream, StreamConfig::Abort);
        if attached.is_ok() {
            self.note_contained(stream);
        }
    }

    fn is_contained(&self, stream: DeviceId) -> bool {
        self.contained.lock().contains(&stream)
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
