//! What a device goes through: stages, and what a driver makes an entry of.

use crate::addr::Hpa;
use crate::id::CacheTag;

/// A second-stage table as a device entry needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageTwo {
    /// The slice's tag.
    pub tag: CacheTag,
    /// Root table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// ATS is on: the device may cache what it is told, and is told when that is gone. With a first stage on it, that one's
    /// `ats` counts.
    pub ats: bool,
}

/// A first stage as a device entry needs it, field by field: what a guest asked for, canonicalised, or the host's own.
/// The values are those of the architecture's entry; a driver checks them against its hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageOneConfig {
    /// Format of the context table: one descriptor or a linear table (0), two levels of 4 KiB (1), of 64 KiB (2) leaves.
    pub format: u8,
    /// Address of the context table: an IPA under a second stage, a host physical address without one.
    pub contexts: u64,
    /// log2 of the number of contexts.
    pub contexts_log2: u8,
    /// What a transaction without a PASID does where there are several contexts: aborts (0), bypasses (1), uses context
    /// 0 (2).
    pub default_context: u8,
    /// Inner cacheability of context fetches.
    pub inner: u8,
    /// Outer cacheability of context fetches.
    pub outer: u8,
    /// Shareability of context fetches.
    pub shareability: u8,
    /// Faults never stall, whatever a context says.
    pub no_stall: bool,
    /// ATS is on. The host's decision, never copied from a guest: what the device says to be translated is believed. A
    /// guest whose stage 1 this is tells the device itself what to forget of that.
    pub ats: bool,
}

/// A first stage whose table the device's entry names itself (VT-d, 9.6), field by field: a guest's, canonicalised, or the
/// host's own. A driver checks them against its hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstStage {
    /// Root table: a guest physical address on a second stage, a host physical address without one.
    pub root: u64,
    /// Input address width in bits: 48 or 57.
    pub input_bits: u8,
    /// Privileged requests are allowed (SRE).
    pub supervisor: bool,
    /// Privileged writes obey R/W too (WPE).
    pub write_protect: bool,
    /// Extended accessed flags are set (EAFE).
    pub extended_accessed: bool,
    /// ATS is on, as with [`StageTwo::ats`]: the host's decision, whatever a guest asks for, as a device's entry says it for all
    /// PASIDs at once.
    pub ats: bool,
}

/// A first-stage table of the host's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageOneTable {
    /// Its address space.
    pub asid: u16,
    /// Root table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// Its granule.
    pub granule: Granule,
    /// Memory attributes that its leaves index (MAIR).
    pub attributes: u64,
}

/// How a device uses first-stage tables of the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextSetup {
    /// Bits of its PASIDs.
    pub pasid_bits: u8,
    /// ATS is on, as with [`StageTwo::ats`].
    pub ats: bool,
}

/// What a device's DMA goes through. A driver never parses a guest's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StreamConfig {
    /// Nobody's: every transaction is refused, and recorded as one of a device without an entry.
    Refuse,
    /// Every transaction is refused without a record, as a guest asked for or because there were too many.
    Abort,
    /// Our second stage only.
    StageTwo(StageTwo),
    /// A first stage whose tables are in host physical memory: only for tables that the host itself writes.
    StageOne {
        /// Tag of its cache entries.
        tag: CacheTag,
        /// The first stage.
        stage_one: StageOneConfig,
    },
    /// A first stage of the guest's on our second stage.
    Nested {
        /// Ours.
        stage_two: StageTwo,
        /// The guest's.
        stage_one: StageOneConfig,
    },
    /// A first stage that the entry names, of the host's own. Nothing else has the tag.
    FirstStage {
        /// Tag of its cache entries.
        tag: CacheTag,
        /// The first stage.
        first: FirstStage,
    },
    /// A first stage that the entry names, of the guest's, on our second stage. No other first stage has the tag, as what is
    /// cached of two would not be told apart.
    FirstOnSecond {
        /// Ours; its tag is for what is cached of both.
        second: StageTwo,
        /// The guest's.
        first: FirstStage,
    },
}

/// Granule of a first stage, which its range invalidations are counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of its bytes.
    pub const fn log2(self) -> u8 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }
}
