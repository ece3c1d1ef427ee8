//! A slice of a VT-d unit for one VM: events in the guest's terms.
//!
//! IOMMUFD has no vIOMMU of VT-d (Linux 7.3): the types are ours.
//!
//! | type | what |
//! |---|---|
//! | [`VIOMMU`] | the slice itself; it takes no data |
//! | [`EVENTS`] | a fault record (VT-d, 11.4, FRCD) without F, 16 bytes, with the source that the guest knows |
//!
//! A guest's own translation is a shadow ([`HwptShadow`](crate::object::HwptShadow)), of which nothing is cached under other names
//! than ours; or, where the unit nests, a first stage of the guest's on our second ([`nested`](super::nested)), each with its
//! own invalidations. There are none of the slice as a whole.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use super::nested::{NestedTable, Rules};
use super::spec::fault::{FAULT0, FAULT1};
use crate::fault::{Fault, FaultReason};
use crate::id::{CacheTag, DeviceId};
use crate::object::driver::{
    Entry, EntryRule, HwptFlags, Invalidator, StageOne, UserData, ViommuDriver, VirtIds,
};
use crate::object::{Error, room};
use crate::physical::{Incomplete, Invalidate, Invalidation};

/// The slice: none of Linux's types.
pub const VIOMMU: u32 = 0x8000_0001;
/// Fault records: none of Linux's types.
pub const EVENTS: u32 = 0x8000_0001;

/// See the module's description.
pub struct Slice {
    rules: Rules,
    invalidator: Arc<dyn Invalidate>,
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slice")
    }
}

impl Slice {
    /// A slice, of the unit that `invalidator` reaches.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another type; [`Error::DataLength`] for any data.
    pub(super) fn new(
        kind: u32,
        data: UserData<'_>,
        rules: Rules,
        invalidator: Arc<dyn Invalidate>,
    ) -> Result<Self, Error> {
        if kind != VIOMMU {
            return Err(Error::Unsupported(kind));
        }
        if !data.bytes.is_empty() {
            return Err(Error::DataLength(data.bytes.len()));
        }
        Ok(Self { rules, invalidator })
    }
}

impl Invalidator for Slice {
    fn entry_rule(&self, _kind: u32) -> Option<EntryRule> {
        None
    }

    fn decode(
        &self,
        kind: u32,
        _entry: &Entry,
        _devices: &VirtIds<'_>,
    ) -> Result<Invalidation, Error> {
        Err(Error::DataType(kind))
    }

    fn submit(&mut self, _batch: &[Invalidation]) -> Result<(), Incomplete> {
        Ok(())
    }
}

impl ViommuDriver for Slice {
    fn decode_nested(&mut self, flags: HwptFlags, data: UserData<'_>) -> Result<StageOne, Error> {
        if !HwptFlags::PASID.contains(flags) {
            return Err(Error::Unsupported(flags.bits()));
        }
        Ok(StageOne::Table(self.rules.decode(data)?))
    }

    fn check_nested(&mut self, stage_one: &StageOne) -> Result<(), Error> {
        match stage_one {
            StageOne::Table(first) => self.rules.check(first),
            StageOne::Translate(_) => Err(Error::IllegalStageOne),
            _ => Ok(()),
        }
    }

    fn has_own_tags(&self) -> bool {
        true
    }

    fn invalidator(&self, tag: CacheTag) -> Result<Box<dyn Invalidator>, Error> {
        let table = NestedTable::new(tag, Arc::clone(&self.invalidator));
        Ok(room::boxed(table)?)
    }

    /// A name is a source ID, and for one source.
    fn vdevice(&mut self, streams: &[DeviceId], virt_id: u64) -> Result<(), Error> {
        if streams.len() != 1 {
            return Err(Error::Unsupported(streams.len() as u32));
        }
        if virt_id > 0xffff {
            return Err(Error::Invalid(virt_id));
        }
        Ok(())
    }

    fn has_events(&self, kind: u32) -> bool {
        kind == EVENTS
    }

    /// What a guest's tables can bring about. Tables that could not be read, and interrupts, are ours.
    fn event(&self, fault: &Fault, virt_id: u64) -> Option<(u32, Entry)> {
        use FaultReason as R;
        match fault.reason {
            R::BadDeviceEntry | R::BadContext | R::Translation | R::AddressSize | R::Permission => {
            }
            _ => return None,
        }
        let kept = FAULT1::FR.mask << FAULT1::FR.shift
            | FAULT1::T1.mask << FAULT1::T1.shift
            | FAULT1::T2.mask << FAULT1::T2.shift
            | FAULT1::PP.mask << FAULT1::PP.shift
            | FAULT1::PV.mask << FAULT1::PV.shift
            | FAULT1::PRIV.mask << FAULT1::PRIV.shift;
        let source = FAULT1::SID.val(virt_id).value;
        let address = fault.raw[0] & FAULT0::FI.mask << FAULT0::FI.shift;
        Some((EVENTS, [address, fault.raw[1] & kept | source, 0, 0]))
    }
}
