//! Context entries (VT-d, 9.3), built whole.

use super::probe::Features;
use super::spec::context::{CONTEXT0, CONTEXT1};
use crate::id::CacheTag;
use crate::physical::{IommuError, StreamConfig};

/// A context entry in legacy mode, as it is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextEntry(pub [u64; 2]);

impl ContextEntry {
    /// Refuses every request, and has that recorded.
    pub const REFUSED: Self = Self([0; 2]);
    /// Refuses every request without a record: FPD counts whether the entry is present or not (9.3).
    pub const SILENT: Self = Self([CONTEXT0::FPD::SET.value, 0]);

    /// The entry for `config`.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what the unit, or this mode, does not have.
    pub fn new(config: StreamConfig, features: &Features) -> Result<Self, IommuError> {
        let stage = match config {
            StreamConfig::Refuse => return Ok(Self::REFUSED),
            StreamConfig::Abort => return Ok(Self::SILENT),
            StreamConfig::StageTwo(stage) => stage,
            _ => return Err(IommuError::Unsupported),
        };
        let width = features.width(stage.input_bits);
        let fits = stage.input_bits <= features.input_bits
            && u32::from(stage.tag.0) >> features.domain_bits == 0
            && stage.tag.0 != 0
            && stage.root.is_aligned(4096)
            && features.reaches(stage.root)
            && !stage.ats;
        match width {
            Some(width) if fits => Ok(Self([
                (CONTEXT0::P::SET + CONTEXT0::TT::SecondStage).value | stage.root.0,
                (CONTEXT1::AW.val(width.into()) + CONTEXT1::DID.val(stage.tag.0.into())).value,
            ])),
            _ => Err(IommuError::Unsupported),
        }
    }

    /// Whether requests can pass.
    pub fn is_present(&self) -> bool {
        self.0[0] & CONTEXT0::P::SET.value != 0
    }

    /// Its domain, if it is present.
    pub fn domain(&self) -> Option<CacheTag> {
        let domain = self.0[1] >> CONTEXT1::DID.shift & CONTEXT1::DID.mask;
        self.is_present().then_some(CacheTag(domain as u16))
    }
}
