//! Context entries (VT-d, 9.3) and PASID table entries (9.6), built whole.

use super::probe::Features;
use super::spec::context::{CONTEXT0, CONTEXT1, SCALABLE0};
use super::spec::pasid::{PASID_BYTES, PASID0, PASID1};
use crate::addr::Hpa;
use crate::id::CacheTag;
use crate::physical::{IommuError, StageTwo, StreamConfig};

/// A context entry, as it is in memory. In scalable mode there are two words more, which are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextEntry(pub [u64; 2]);

impl ContextEntry {
    /// Refuses every request, and has that recorded.
    pub const REFUSED: Self = Self([0; 2]);
    /// Refuses every request without a record: FPD counts whether the entry is present or not (9.3).
    pub const SILENT: Self = Self([CONTEXT0::FPD::SET.value, 0]);

    /// The entry that leads to a PASID directory of the least size, in scalable mode (9.4). Requests without PASID are those
    /// of PASID 0.
    pub fn of_directory(directory: Hpa) -> Self {
        Self([SCALABLE0::P::SET.value | directory.0, 0])
    }

    /// The entry for `config`, in legacy mode.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what the unit, or this mode, does not have.
    pub fn new(config: StreamConfig, features: &Features) -> Result<Self, IommuError> {
        match config {
            StreamConfig::Refuse => Ok(Self::REFUSED),
            StreamConfig::Abort => Ok(Self::SILENT),
            StreamConfig::StageTwo(stage) => {
                let width = width(&stage, features)?;
                let domain = CONTEXT1::DID.val(stage.tag.0.into());
                Ok(Self([
                    (CONTEXT0::P::SET + CONTEXT0::TT::SecondStage).value | stage.root.0,
                    (CONTEXT1::AW.val(width.into()) + domain).value,
                ]))
            }
            _ => Err(IommuError::Unsupported),
        }
    }

    /// Whether requests can pass.
    pub fn is_present(&self) -> bool {
        self.0[0] & CONTEXT0::P::SET.value != 0
    }

    /// Its domain, if it is present, in legacy mode.
    pub fn domain(&self) -> Option<CacheTag> {
        let domain = self.0[1] >> CONTEXT1::DID.shift & CONTEXT1::DID.mask;
        self.is_present().then_some(CacheTag(domain as u16))
    }
}

/// AW of a second stage that the unit can walk.
fn width(stage: &StageTwo, features: &Features) -> Result<u8, IommuError> {
    let fits = stage.input_bits <= features.input_bits
        && u32::from(stage.tag.0) >> features.domain_bits == 0
        && stage.tag.0 != 0
        && stage.root.is_aligned(4096)
        && features.reaches(stage.root)
        && !stage.ats;
    let width = features.width(stage.input_bits);
    width.filter(|_| fits).ok_or(IommuError::Unsupported)
}

/// A PASID table entry, as it is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PasidEntry(pub [u64; PASID_BYTES / 8]);

impl PasidEntry {
    /// The entry for a second stage of ours. Walks snoop where the unit does by default (ECAP.C), or is told to.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what the unit does not have.
    pub fn second_stage(stage: &StageTwo, features: &Features) -> Result<Self, IommuError> {
        if !features.scalable_second_stage {
            return Err(IommuError::Unsupported);
        }
        let width = width(stage, features)?;
        let how = PASID0::P::SET + PASID0::PGTT::SecondStage + PASID0::AW.val(width.into());
        let snoop = features.coherent && features.walks_snoop_on_demand;
        let second = PASID1::DID.val(stage.tag.0.into()) + PASID1::PWSNP.val(snoop.into());
        Ok(Self([
            how.value | stage.root.0,
            second.value,
            0,
            0,
            0,
            0,
            0,
            0,
        ]))
    }

    /// Its domain.
    pub fn domain(&self) -> CacheTag {
        CacheTag((self.0[1] >> PASID1::DID.shift & PASID1::DID.mask) as u16)
    }
}
