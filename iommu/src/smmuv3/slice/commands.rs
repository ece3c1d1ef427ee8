//! Commands of a guest (IHI 0070, chapter 4): from two words to what leaves the host's caches.
//!
//! An allow-list by opcode: a bit that is not on it refuses the command, so that nothing a guest says can stop the
//! command queue that all share. Nothing is widened: the ASID, the address, the range, the leaf bit and the level that the
//! guest gave are those of the [`Invalidation`]. Where an address lies is not looked at: it is the guest's.

use tock_registers::LocalRegisterCopy;

use super::super::probe::Features;
use super::super::spec::command::{ATC_SIZE_ALL, CMD0, CMD1};
use crate::addr::{Iova, Span};
use crate::id::{CacheTag, DeviceId};
use crate::object::Error;
use crate::physical::{Granule, Invalidation};

use CMD0::OPCODE::Value as Opcode;

/// log2 of what CMD_ATC_INV counts in.
const ATC_PAGE: u64 = 12;

macro_rules! mask {
    ($($field:expr),* $(,)?) => { 0 $(| $field.mask << $field.shift)* };
}

/// The bits that a guest may set beside the opcode; `None` for an opcode that it does not have.
pub(super) fn allowed(opcode: Opcode, features: &Features) -> Option<[u64; 2]> {
    const VMID: u64 = mask!(CMD0::VMID);
    const STREAM: u64 = mask!(CMD0::STREAM_ID);
    const ADDRESS: u64 = mask!(CMD1::LEAF, CMD1::VA);
    let asid = if features.asid16 {
        mask!(CMD0::ASID)
    } else {
        0xff << CMD0::ASID.shift
    };
    let [range0, range1] = if features.range_invalidation {
        [mask!(CMD0::NUM, CMD0::SCALE), mask!(CMD1::TTL, CMD1::TG)]
    } else {
        [0, 0]
    };
    let of_substream = |bits| {
        if features.substream_bits != 0 {
            bits
        } else {
            0
        }
    };
    Some(match opcode {
        Opcode::TlbiNsnhAll => [0, 0],
        Opcode::TlbiNhAll => [VMID, 0],
        Opcode::TlbiNhAsid => [VMID | asid, 0],
        Opcode::TlbiNhVa => [VMID | asid | range0, ADDRESS | range1],
        Opcode::TlbiNhVaa => [VMID | range0, ADDRESS | range1],
        Opcode::AtcInv if features.ats => [
            STREAM | of_substream(mask!(CMD0::SSV, CMD0::SSID, CMD0::GLOBAL)),
            mask!(CMD1::SIZE, CMD1::VA),
        ],
        Opcode::CfgiCd => [STREAM | of_substream(mask!(CMD0::SSID)), mask!(CMD1::LEAF)],
        Opcode::CfgiCdAll => [STREAM, 0],
        _ => return None,
    })
}

/// What `words` ask for, of the slice under `tag`, whose devices `stream` finds by their virtual StreamIDs.
///
/// # Errors
/// [`Error::IllegalEntry`] with the first word.
pub(super) fn decode(
    words: [u64; 2],
    features: &Features,
    tag: CacheTag,
    stream: impl Fn(u64) -> Option<DeviceId>,
) -> Result<Invalidation, Error> {
    let illegal = Error::IllegalEntry(words[0]);
    let first = LocalRegisterCopy::<u64, CMD0::Register>::new(words[0]);
    let second = LocalRegisterCopy::<u64, CMD1::Register>::new(words[1]);
    let opcode: Opcode = first.read_as_enum(CMD0::OPCODE).ok_or(illegal)?;
    let [allowed0, allowed1] = allowed(opcode, features).ok_or(illegal)?;
    if words[0] & !(allowed0 | mask!(CMD0::OPCODE)) != 0 || words[1] & !allowed1 != 0 {
        return Err(illegal);
    }
    let device = || stream(first.read(CMD0::STREAM_ID)).ok_or(illegal);
    let substream = || {
        let substream = first.read(CMD0::SSID) as u32;
        let fits = substream >> features.substream_bits == 0;
        fits.then_some(substream).ok_or(illegal)
    };
    match opcode {
        Opcode::TlbiNsnhAll | Opcode::TlbiNhAll => Ok(Invalidation::StageOne(tag)),
        Opcode::TlbiNhAsid => Ok(Invalidation::AddressSpace {
            tag,
            asid: first.read(CMD0::ASID) as u16,
        }),
        Opcode::TlbiNhVa => {
            let asid = Some(first.read(CMD0::ASID) as u16);
            by_address(first, second, tag, asid).ok_or(illegal)
        }
        Opcode::TlbiNhVaa => by_address(first, second, tag, None).ok_or(illegal),
        Opcode::AtcInv => {
            let (device, pasid) = (device()?, substream()?);
            let range = device_range(second).ok_or(illegal)?;
            let tagged = first.is_set(CMD0::SSV);
            Ok(match (tagged, first.is_set(CMD0::GLOBAL)) {
                (true, true) => Invalidation::DeviceTlbOfPasids { device, range },
                // Without SSV the others do not count (§4.5.1).
                (tagged, _) => Invalidation::DeviceTlb {
                    device,
                    pasid: tagged.then_some(pasid),
                    range,
                },
            })
        }
        Opcode::CfgiCd => Ok(Invalidation::Context {
            device: device()?,
            pasid: substream()?,
            leaf: second.is_set(CMD1::LEAF),
        }),
        Opcode::CfgiCdAll => Ok(Invalidation::Contexts(device()?)),
        _ => Err(illegal),
    }
}

/// One entry, or a range (§4.4.1.1). `None` for what is reserved.
fn by_address(
    first: LocalRegisterCopy<u64, CMD0::Register>,
    second: LocalRegisterCopy<u64, CMD1::Register>,
    tag: CacheTag,
    asid: Option<u16>,
) -> Option<Invalidation> {
    let address = Iova(second.read(CMD1::VA) << CMD1::VA.shift);
    let leaf = second.is_set(CMD1::LEAF);
    let (num, scale) = (first.read(CMD0::NUM), first.read(CMD0::SCALE));
    let level = second.read(CMD1::TTL) as u8;
    let bare = num == 0 && scale == 0 && level == 0;
    let granule = match second.read_as_enum(CMD1::TG)? {
        CMD1::TG::Value::Single if bare => {
            return Some(Invalidation::StageOneAddress {
                tag,
                asid,
                address,
                leaf,
            });
        }
        CMD1::TG::Value::Single => return None,
        // A level 1 block of 16 KiB granules is one of 52-bit addresses.
        CMD1::TG::Value::Granule16K if level == 1 => return None,
        _ if bare => return None,
        CMD1::TG::Value::Granule4K => Granule::Size4K,
        CMD1::TG::Value::Granule16K => Granule::Size16K,
        CMD1::TG::Value::Granule64K => Granule::Size64K,
    };
    let base = address.align_down(1 << granule.log2());
    let len = ((num + 1) << scale) << granule.log2();
    // A range does not go on at 0; the last byte of all is in the granule before it.
    let range = Span {
        base,
        len: len.min(u64::MAX - base.0),
    };
    Some(Invalidation::StageOneRange {
        tag,
        asid,
        range,
        granule,
        level,
        leaf,
    })
}

/// The pages of a CMD_ATC_INV (§4.5.1): `Some(None)` is all of them, `None` a size that is reserved.
fn device_range(second: LocalRegisterCopy<u64, CMD1::Register>) -> Option<Option<Span<Iova>>> {
    match second.read(CMD1::SIZE) {
        ATC_SIZE_ALL => Some(None),
        size if size > ATC_SIZE_ALL => None,
        size => {
            let len = 1 << (size + ATC_PAGE);
            let base = Iova(second.read(CMD1::VA) << CMD1::VA.shift).align_down(len);
            Some(Some(Span {
                base,
                len: len.min(u64::MAX - base.0),
            }))
        }
    }
}

#[cfg(test)]
mod tests;
