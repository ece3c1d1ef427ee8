//! A slice of an SMMU for one VM: what a guest may say to it, in the guest's own words.
//!
//! Everything that a guest names is checked here and made the host's: the VMID of a TLBI becomes the slice's tag, a
//! virtual StreamID the device's own. What comes out are values ([`StageOne`], [`Invalidation`], an event record); the
//! SMMU is told by way of [`Invalidate`], which several CPUs use at once and which holds no lock while it waits.
//!
//! What a guest invalidates mostly goes a shorter way ([`rewrite`]): a command of the guest's is one of the hardware's, but
//! for its names.
//!
//! | type | what |
//! |---|---|
//! | [`VIOMMU`] | the slice itself; it takes no data |
//! | [`STAGE_ONE`] | words 0 and 1 of a stream table entry, 16 bytes |
//! | [`COMMANDS`] | a command as it stands in the guest's queue, 16 bytes |
//! | [`EVENTS`] | an event record as it goes into the guest's queue, 32 bytes |

use alloc::sync::Arc;
use core::fmt;

use super::command_queue::SYNC;
use super::entry;
use super::guest_entry::GuestEntry;
use super::probe::Features;
use crate::fault::Fault;
use crate::id::{CacheTag, DeviceId};
use crate::object::driver::{
    Entry, EntryRule, HwptFlags, Invalidator, StageOne, UserData, ViommuDriver, VirtIds,
};
use crate::object::{BATCH, Error};
use crate::physical::{Incomplete, Invalidate, Invalidation, StageOneConfig};

mod commands;
mod events;
mod rewrite;

pub use events::guest_record;
use rewrite::Rewriter;

/// IOMMU_VIOMMU_TYPE_ARM_SMMUV3.
pub const VIOMMU: u32 = 1;
/// IOMMU_HWPT_DATA_ARM_SMMUV3.
pub const STAGE_ONE: u32 = 2;
/// IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3.
pub const COMMANDS: u32 = 1;
/// IOMMU_VEVENTQ_TYPE_ARM_SMMUV3.
pub const EVENTS: u32 = 1;
/// Bytes of a stage 1.
const STAGE_ONE_BYTES: usize = 16;
/// Bytes of a command.
const COMMAND_BYTES: usize = 16;
/// Bits of a StreamID at most.
const STREAM_BITS: u32 = 32;

/// See the module's description.
pub struct Slice {
    features: Features,
    tag: CacheTag,
    /// Whether `invalidator` takes commands as they are.
    native: bool,
    invalidator: Arc<dyn Invalidate>,
    rewriter: Rewriter,
    /// Commands on their way, and one of the driver's.
    own: [[u64; 2]; BATCH + 1],
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slice").field(&self.tag).finish()
    }
}

impl Slice {
    /// A slice under `tag` of the SMMU that `invalidator` reaches.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another type, and for an SMMU that does not nest; [`Error::DataLength`] for any data.
    pub fn new(
        kind: u32,
        data: UserData<'_>,
        features: Features,
        tag: CacheTag,
        invalidator: Arc<dyn Invalidate>,
    ) -> Result<Self, Error> {
        if kind != VIOMMU || !features.nested {
            return Err(Error::Unsupported(kind));
        }
        if !data.bytes.is_empty() {
            return Err(Error::DataLength(data.bytes.len()));
        }
        Ok(Self {
            features,
            tag,
            native: invalidator.is_native(),
            invalidator,
            rewriter: Rewriter::new(&features, tag),
            own: [[0; 2]; BATCH + 1],
        })
    }
}

impl Invalidator for Slice {
    fn entry_rule(&self, kind: u32) -> Option<EntryRule> {
        (kind == COMMANDS).then_some(EntryRule {
            len: COMMAND_BYTES,
            extend: true,
        })
    }

    fn decode(
        &self,
        _kind: u32,
        entry: &Entry,
        devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        let command = [entry[0], entry[1]];
        commands::decode(command, &self.features, self.tag, |virt_id| {
            devices.stream(virt_id)
        })
    }

    fn submit(&mut self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        self.invalidator.submit(batch)
    }

    fn pass(
        &mut self,
        kind: u32,
        entries: &[Entry],
        devices: &VirtIds<'_>,
    ) -> Option<Result<(), Incomplete>> {
        if !self.native || kind != COMMANDS {
            return None;
        }
        let own = self.own.get_mut(..=entries.len())?;
        let mut whole = false;
        for (own, entry) in own.iter_mut().zip(entries) {
            let command = [entry[0], entry[1]];
            *own = self
                .rewriter
                .rewrite(command, |virt_id| devices.stream(virt_id))?;
            whole |= own[0] as u8 == Rewriter::WHOLE;
        }
        own[entries.len()] = SYNC;
        Some(self.invalidator.send(own, whole.then_some(self.tag)))
    }
}

impl ViommuDriver for Slice {
    /// Guests keep their PASIDs in a table of their own: there is no flag for them.
    fn decode_nested(&mut self, flags: HwptFlags, data: UserData<'_>) -> Result<StageOne, Error> {
        if !flags.is_empty() {
            return Err(Error::Unsupported(flags.bits()));
        }
        if data.kind != STAGE_ONE {
            return Err(Error::DataType(data.kind));
        }
        let (words, rest) = data.bytes.as_chunks::<8>();
        let &[first, second] = words else {
            return Err(Error::DataLength(data.bytes.len()));
        };
        if !rest.is_empty() {
            return Err(Error::DataLength(STAGE_ONE_BYTES + rest.len()));
        }
        let words = [first, second].map(u64::from_le_bytes);
        let stage_one = match GuestEntry::read(words).map_err(|_| Error::IllegalStageOne)? {
            GuestEntry::Abort { invalid: true } => StageOne::Refuse,
            GuestEntry::Abort { invalid: false } => StageOne::Abort,
            GuestEntry::Bypass => StageOne::Bypass,
            // Asked for; whether it is on depends on whether the device is trusted with it.
            GuestEntry::Translate { stage_one, ats } => StageOne::Translate(StageOneConfig {
                ats: ats && self.features.ats,
                ..stage_one
            }),
        };
        self.check_nested(&stage_one)?;
        Ok(stage_one)
    }

    /// Whatever would make the entry ILLEGAL on this SMMU (§5.2).
    fn check_nested(&mut self, stage_one: &StageOne) -> Result<(), Error> {
        let stage_one = match stage_one {
            StageOne::Translate(stage_one) => stage_one,
            StageOne::Table(_) => return Err(Error::IllegalStageOne),
            _ => return Ok(()),
        };
        match entry::stage_one_words(stage_one, &self.features) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::IllegalStageOne),
        }
    }

    /// A name is for one stream, or an invalidation by name would leave the others out.
    fn vdevice(&mut self, streams: &[DeviceId], virt_id: u64) -> Result<(), Error> {
        if streams.len() != 1 {
            return Err(Error::Unsupported(streams.len() as u32));
        }
        if virt_id >> STREAM_BITS != 0 {
            return Err(Error::Invalid(virt_id));
        }
        Ok(self.invalidator.expect_nested(self.tag)?)
    }

    fn vdevice_gone(&mut self, _streams: &[DeviceId], _virt_id: u64) {
        self.invalidator.expect_no_more(self.tag);
    }

    fn has_events(&self, kind: u32) -> bool {
        kind == EVENTS
    }

    fn event(&self, fault: &Fault, virt_id: u64) -> Option<(u32, Entry)> {
        Some((EVENTS, guest_record(fault, virt_id as u32)?))
    }
}
