//! Stream table entries (IHI 0070, §5.2), each built whole: what a [`StreamConfig`] is on one SMMU.

use tock_registers::LocalRegisterCopy;

use super::probe::{Features, Stalls};
use super::spec::ste::{STE_WORDS, STE0, STE1, STE2, STE3};
use crate::physical::{IommuError, StageOneConfig, StageTwo, StreamConfig};

/// One entry as it stands in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamTableEntry(pub [u64; STE_WORDS]);

impl StreamTableEntry {
    /// The entry for `config`.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where it does not fit the SMMU.
    pub fn new(config: StreamConfig, features: &Features) -> Result<Self, IommuError> {
        match config {
            StreamConfig::Refuse => Ok(Self::invalid()),
            StreamConfig::Abort => Ok(Self::abort()),
            StreamConfig::StageTwo(two) => Self::stage_two(two, features),
            StreamConfig::StageOne { tag, stage_one } => {
                if !tag_fits(tag.0, features) || stage_one.contexts >> features.output_bits() != 0 {
                    return Err(IommuError::Unsupported);
                }
                let (first, second) = stage_one_words(&stage_one, features)?;
                let mut words = [0; STE_WORDS];
                words[0] = first | (STE0::V::SET + STE0::CONFIG::StageOne).value;
                words[1] = second | STE1::SHCFG::Incoming.value;
                // Tags the entries of stage 1 too, wherever there is a stage 2 at all (§5.2).
                words[2] = STE2::S2VMID.val(tag.0.into()).value;
                Ok(Self(words))
            }
            StreamConfig::Nested {
                stage_two,
                stage_one,
            } => {
                if !features.nested {
                    return Err(IommuError::Unsupported);
                }
                let (first, second) = stage_one_words(&stage_one, features)?;
                let without = StageTwo {
                    ats: false,
                    ..stage_two
                };
                let Self(mut words) = Self::stage_two(without, features)?;
                words[0] = first | (STE0::V::SET + STE0::CONFIG::Nested).value;
                // A guest that faults on purpose costs fewer records: like ones may be merged.
                words[1] |= second | STE1::MEV::SET.value;
                Ok(Self(words))
            }
            _ => Err(IommuError::Unsupported),
        }
    }

    /// Refuses everything with C_BAD_STE (§7.3.5), as an entry that was never written does.
    pub fn invalid() -> Self {
        Self([0; STE_WORDS])
    }

    /// Aborts everything, without an event.
    pub fn abort() -> Self {
        let mut words = [0; STE_WORDS];
        words[0] = (STE0::V::SET + STE0::CONFIG::Abort).value;
        Self(words)
    }

    /// Stage 2 only: the device sees the addresses that `two` translates from.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where `two` does not fit the SMMU.
    pub fn stage_two(two: StageTwo, features: &Features) -> Result<Self, IommuError> {
        let root_fits = two.root.is_aligned(4096) && two.root.0 >> features.output_bits() == 0;
        // Start level 0 needs at least 40 bits without concatenation, level 1 at least 31; and an input is never wider
        // than an output (§3.4.1).
        let width_fits =
            (32..=48).contains(&two.input_bits) && two.input_bits <= features.input_bits();
        // S2S = 0 is ILLEGAL where every fault stalls (§5.2), and a stall that nobody answers holds the device for ever.
        let ends = features.stalls != Stalls::Always;
        let ats = !two.ats || features.ats;
        if !tag_fits(two.tag.0, features) || !root_fits || !width_fits || !ends || !ats {
            return Err(IommuError::Unsupported);
        }
        let start_level = if two.input_bits > 39 { 0 } else { 1 };
        let mut stage_two = LocalRegisterCopy::<u64, STE2::Register>::new(0);
        stage_two.modify(
            STE2::S2VMID.val(two.tag.0.into())
                + STE2::S2T0SZ.val(64 - u64::from(two.input_bits))
                + STE2::S2SL0.val(2 - start_level)
                + STE2::S2TG::Granule4K
                // 52-bit output needs other descriptors; ours have 48.
                + STE2::S2PS.val(features.output_size.min(5).into())
                + STE2::S2AA64::SET
                + STE2::S2ENDI::CLEAR
                + STE2::S2AFFD::SET
                + STE2::S2PTW::SET
                + STE2::S2S::CLEAR
                + STE2::S2R::SET,
        );
        stage_two.modify(if features.coherent {
            STE2::S2IR0::WriteBackAllocate + STE2::S2OR0::WriteBackAllocate + STE2::S2SH0::Inner
        } else {
            STE2::S2IR0::NonCacheable + STE2::S2OR0::NonCacheable + STE2::S2SH0::Outer
        });
        let mut words = [0; STE_WORDS];
        words[0] = (STE0::V::SET + STE0::CONFIG::StageTwo).value;
        let eats = if two.ats {
            STE1::EATS::Full
        } else {
            STE1::EATS::Abort
        };
        words[1] = (STE1::SHCFG::Incoming + eats).value;
        words[2] = stage_two.get();
        words[3] = STE3::S2TTB.val(two.root.0 >> 4).value;
        Ok(Self(words))
    }
}

/// Whether transactions go through a stage 1 of this entry.
pub(super) fn has_stage_one(words: &[u64; STE_WORDS]) -> bool {
    let first = LocalRegisterCopy::<u64, STE0::Register>::new(words[0]);
    let one = first.matches_all(STE0::CONFIG::StageOne) || first.matches_all(STE0::CONFIG::Nested);
    first.is_set(STE0::V) && one
}

/// Whether transactions go through anything at all.
pub(super) fn translates(words: &[u64; STE_WORDS]) -> bool {
    let first = LocalRegisterCopy::<u64, STE0::Register>::new(words[0]);
    first.is_set(STE0::V) && !first.matches_all(STE0::CONFIG::Abort)
}

/// Whether the device of this entry may cache translations.
pub(super) fn has_ats(words: &[u64; STE_WORDS]) -> bool {
    let second = LocalRegisterCopy::<u64, STE1::Register>::new(words[1]);
    translates(words) && second.read(STE1::EATS) != 0
}

/// Where the contexts of an entry with a stage 1 are.
pub(super) fn context_table(words: &[u64; STE_WORDS]) -> u64 {
    let first = LocalRegisterCopy::<u64, STE0::Register>::new(words[0]);
    first.read(STE0::S1CONTEXTPTR) << STE0::S1CONTEXTPTR.shift
}

fn tag_fits(tag: u16, features: &Features) -> bool {
    features.vmid16 || tag < 1 << 8
}

/// The fields of stage 1 in words 0 and 1, without V and Config. Whatever makes an entry ILLEGAL (§5.2) is refused here,
/// so that a guest gets an answer for its own entry instead of an event for ours.
pub(super) fn stage_one_words(
    one: &StageOneConfig,
    features: &Features,
) -> Result<(u64, u64), IommuError> {
    let several = one.contexts_log2 != 0;
    let formats = one.format == 0 || (one.format <= 2 && features.two_level_contexts);
    let fits = features.stage_one
        && one.contexts_log2 <= features.substream_bits
        && (formats || !several)
        && one.format <= 2
        && one.default_context <= 2
        && one.inner <= 3
        && one.outer <= 3
        && one.shareability <= 3
        && one.contexts & 0x3f == 0
        && one.contexts >> 52 == 0
        // RES0 where faults cannot stall, ILLEGAL where they must.
        && (!one.no_stall || features.stalls.optional())
        && (!one.ats || features.ats);
    if !fits {
        return Err(IommuError::Unsupported);
    }
    // Format and default are IGNORED with one context (§5.2): written as 0.
    let (format, default) = if several {
        (one.format, one.default_context)
    } else {
        (0, 0)
    };
    let first = STE0::S1FMT.val(format.into())
        + STE0::S1CONTEXTPTR.val(one.contexts >> 6)
        + STE0::S1CDMAX.val(one.contexts_log2.into());
    let mut second = STE1::S1DSS.val(default.into())
        + STE1::S1CIR.val(one.inner.into())
        + STE1::S1COR.val(one.outer.into())
        + STE1::S1CSH.val(one.shareability.into());
    if one.no_stall {
        second += STE1::S1STALLD::SET;
    }
    if one.ats {
        second += STE1::EATS::Full;
    }
    Ok((first.value, second.value))
}
