//! Context entries (VT-d, 9.3) and PASID table entries (9.6), built whole.

use super::probe::Features;
use super::spec::context::{CONTEXT0, CONTEXT1, SCALABLE0};
use super::spec::pasid::{PASID_BYTES, PASID0, PASID1, PASID2};
use crate::addr::Hpa;
use crate::id::CacheTag;
use crate::physical::{FirstStage, IommuError, StageTwo, StreamConfig};

/// A context entry, as it is in memory. In scalable mode there are two words more, which are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextEntry(pub [u64; 2]);

impl ContextEntry {
    /// Refuses every request, and has that recorded.
    pub const REFUSED: Self = Self([0; 2]);
    /// Refuses every request without a record: FPD counts whether the entry is present or not (9.3).
    pub const SILENT: Self = Self([CONTEXT0::FPD::SET.value, 0]);

    /// The entry that leads to a PASID directory of one page, in scalable mode (9.4). Requests without PASID are those of
    /// PASID 0.
    /// `ats`: its device may cache translations, and what it says to be translated passes; it may ask for pages then.
    pub fn of_directory(directory: Hpa, features: &Features, ats: bool) -> Self {
        let pasids = features.pasid_bits != 0;
        let fields = SCALABLE0::P::SET
            + SCALABLE0::DTE.val(ats.into())
            + SCALABLE0::PRE.val((ats && features.page_requests).into())
            + SCALABLE0::PASIDE.val(pasids.into())
            + SCALABLE0::PDTS.val(if pasids { DIRECTORY_SIZE } else { 0 });
        Self([fields.value | directory.0, 0])
    }

    /// The entry for `config`, in legacy mode.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what the unit, or this mode, does not have.
    pub fn new(config: StreamConfig, features: &Features) -> Result<Self, IommuError> {
        match config {
            StreamConfig::Refuse => Ok(Self::REFUSED),
            StreamConfig::Abort => Ok(Self::SILENT),
            StreamConfig::StageTwo(stage) if !stage.ats => {
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

    /// Whether its device may cache translations, in scalable mode.
    pub fn has_device_tlb(&self) -> bool {
        self.is_present() && self.0[0] & SCALABLE0::DTE::SET.value != 0
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

/// PDTS of a directory of one page: 2^(2 + 7) entries.
const DIRECTORY_SIZE: u64 = 2;

/// Whether a domain is one of the unit's. 0 is nobody's.
fn fits(tag: CacheTag, features: &Features) -> bool {
    tag.0 != 0 && u32::from(tag.0) >> features.domain_bits == 0
}

/// AW of a second stage that the unit can walk.
fn width(stage: &StageTwo, features: &Features) -> Result<u8, IommuError> {
    let fits = stage.input_bits <= features.input_bits
        && fits(stage.tag, features)
        && stage.root.is_aligned(4096)
        && features.reaches(stage.root)
        && (features.device_tlbs || !stage.ats);
    let width = features.width(stage.input_bits);
    width.filter(|_| fits).ok_or(IommuError::Unsupported)
}

/// A PASID table entry, as it is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PasidEntry(pub [u64; PASID_BYTES / 8]);

impl PasidEntry {
    /// Refuses every request, and has that recorded.
    pub const REFUSED: Self = Self([0; PASID_BYTES / 8]);
    /// Refuses every request without a record: FPD counts whether the entry is present or not (9.6).
    pub const SILENT: Self = Self([PASID0::FPD::SET.value, 0, 0, 0, 0, 0, 0, 0]);

    /// The entry for `config`.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what the unit does not have.
    pub fn new(config: &StreamConfig, features: &Features) -> Result<Self, IommuError> {
        match config {
            StreamConfig::Refuse => Ok(Self::REFUSED),
            StreamConfig::Abort => Ok(Self::SILENT),
            StreamConfig::StageTwo(stage) => Self::second_stage(stage, features),
            StreamConfig::FirstStage { tag, first } => Self::first_stage(*tag, first, features),
            StreamConfig::FirstOnSecond { second, first } => {
                Self::first_on_second(second, first, features)
            }
            _ => Err(IommuError::Unsupported),
        }
    }

    /// The entry for a second stage of ours. Walks snoop where the unit does by default (ECAP.C), or is told to.
    fn second_stage(stage: &StageTwo, features: &Features) -> Result<Self, IommuError> {
        if !features.scalable_second_stage {
            return Err(IommuError::Unsupported);
        }
        let width = width(stage, features)?;
        let how = PASID0::P::SET + PASID0::PGTT::SecondStage + PASID0::AW.val(width.into());
        let first = how.value | stage.root.0;
        Ok(Self([first, domain(stage.tag, features), 0, 0, 0, 0, 0, 0]))
    }

    /// The entry for a first stage of the host's own.
    fn first_stage(
        tag: CacheTag,
        first: &FirstStage,
        features: &Features,
    ) -> Result<Self, IommuError> {
        if !fits(tag, features) || !features.reaches(Hpa(first.root)) {
            return Err(IommuError::Unsupported);
        }
        let how = PASID0::P::SET + PASID0::PGTT::FirstStage;
        let third = first_words(first, features)?;
        let second = domain(tag, features);
        Ok(Self([how.value, second, third, 0, 0, 0, 0, 0]))
    }

    /// The entry for a first stage of a guest's on a second stage of ours.
    fn first_on_second(
        second: &StageTwo,
        first: &FirstStage,
        features: &Features,
    ) -> Result<Self, IommuError> {
        let inside = first.root >> second.input_bits.min(63) == 0;
        if !features.nested || !inside {
            return Err(IommuError::Unsupported);
        }
        let entry = Self::second_stage(second, features)?;
        let [word, second, ..] = entry.0;
        let kind = PASID0::PGTT::Nested.value;
        let word = word & !(PASID0::PGTT.mask << PASID0::PGTT.shift) | kind;
        let third = first_words(first, features)?;
        Ok(Self([word, second, third, 0, 0, 0, 0, 0]))
    }

    /// Whether requests can pass.
    pub fn is_present(&self) -> bool {
        self.0[0] & PASID0::P::SET.value != 0
    }

    /// Its domain.
    pub fn domain(&self) -> CacheTag {
        CacheTag((self.0[1] >> PASID1::DID.shift & PASID1::DID.mask) as u16)
    }

    fn kind(&self) -> u64 {
        self.0[0] & PASID0::PGTT.mask << PASID0::PGTT.shift
    }

    /// Whether there is a first stage.
    pub fn has_first_stage(&self) -> bool {
        self.is_present() && self.kind() != PASID0::PGTT::SecondStage.value
    }

    /// Whether there is a first stage and no second.
    pub fn is_first_stage(&self) -> bool {
        self.is_present() && self.kind() == PASID0::PGTT::FirstStage.value
    }
}

/// Word 1 of an entry.
fn domain(tag: CacheTag, features: &Features) -> u64 {
    let snoop = features.coherent && features.walks_snoop_on_demand;
    (PASID1::DID.val(tag.0.into()) + PASID1::PWSNP.val(snoop.into())).value
}

/// Word 2 of an entry with a first stage that the unit can walk.
///
/// # Errors
/// [`IommuError::Unsupported`].
pub(super) fn first_words(first: &FirstStage, features: &Features) -> Result<u64, IommuError> {
    let levels = match first.input_bits {
        48 => 0,
        57 if features.first_stage_5_levels => 1,
        _ => return Err(IommuError::Unsupported),
    };
    let fits = features.first_stage
        && first.root.is_multiple_of(4096)
        && (features.supervisor || !first.supervisor)
        && (features.extended_accessed || !first.extended_accessed)
        && (features.device_tlbs || !first.ats);
    if !fits {
        return Err(IommuError::Unsupported);
    }
    let fields = PASID2::SRE.val(first.supervisor.into())
        + PASID2::FSPM.val(levels)
        // For privileged writes, which there are none of without SRE.
        + PASID2::WPE.val((first.supervisor && first.write_protect).into())
        + PASID2::EAFE.val(first.extended_accessed.into());
    Ok(fields.value | first.root)
}
