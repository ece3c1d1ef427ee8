//! From an [`Invalidation`] to the commands of one SMMU.

use super::command::{Command, Range, Scope};
use super::cover::Cover;
use super::probe::Features;
use crate::addr::{Iova, Span};
use crate::id::DeviceId;
use crate::physical::{Invalidation, IommuError};

/// log2 of 4 KiB, what stage 2 and ATS count in.
const PAGE: u8 = 12;
/// log2 of 4 KiB pages of the largest block of any granule: 1 GiB.
const BLOCK: u8 = 18;

/// The commands of one entry.
pub(super) enum Commands {
    One(Option<Command>),
    Cover(Cover),
}

impl Iterator for Commands {
    type Item = Command;

    fn next(&mut self) -> Option<Command> {
        match self {
            Self::One(command) => command.take(),
            Self::Cover(cover) => cover.next(),
        }
    }
}

/// What one entry takes. Nothing that comes from here is illegal on the SMMU.
///
/// # Errors
/// [`IommuError::Unsupported`] for what the SMMU does not have, [`IommuError::NoSuchDevice`].
pub(super) fn commands(entry: &Invalidation, features: &Features) -> Result<Commands, IommuError> {
    let ranges = features.range_invalidation;
    let tags = |tag: u16, asid: Option<u16>| {
        let fits = (features.vmid16 || tag < 1 << 8)
            && asid.is_none_or(|asid| features.asid16 || asid < 1 << 8);
        fits.then_some(()).ok_or(IommuError::Unsupported)
    };
    // §4.4.2: stage 1 commands are illegal where there is no stage 1.
    let stage_one = || {
        let there = features.stage_one.then_some(());
        there.ok_or(IommuError::Unsupported)
    };
    let stream = |device: DeviceId| {
        let fits = u64::from(device.0) >> features.stream_bits == 0;
        fits.then_some(()).ok_or(IommuError::NoSuchDevice(device))
    };
    let substream = |pasid: u32| {
        let fits = pasid >> features.substream_bits == 0;
        fits.then_some(()).ok_or(IommuError::Unsupported)
    };
    let one = |command| Ok(Commands::One(Some(command)));
    match *entry {
        Invalidation::Tag(tag) => {
            tags(tag.0, None)?;
            one(Command::tlbi_s12_vmall(tag))
        }
        Invalidation::StageTwoRange { tag, range, leaf } => {
            tags(tag.0, None)?;
            let cover = Cover::new(Scope::Ipa(tag), range, PAGE, 0, leaf, ranges);
            Ok(Commands::Cover(cover))
        }
        Invalidation::StageOne(tag) => {
            stage_one()?;
            tags(tag.0, None)?;
            one(Command::tlbi_nh_all(tag))
        }
        Invalidation::AddressSpace { tag, asid } => {
            stage_one()?;
            tags(tag.0, Some(asid))?;
            one(Command::tlbi_nh_asid(tag, asid))
        }
        Invalidation::StageOneAddress {
            tag,
            asid,
            address,
            leaf,
        } => {
            stage_one()?;
            tags(tag.0, asid)?;
            let scope = asid.map_or(Scope::Vaa(tag), |asid| Scope::Va(tag, asid));
            if !features.errata.blocks_in_pieces {
                return one(Command::tlbi_address(scope, address, leaf));
            }
            if !ranges {
                return one(asid.map_or(Command::tlbi_nh_all(tag), |asid| {
                    Command::tlbi_nh_asid(tag, asid)
                }));
            }
            // Whatever block the address is in.
            let block = address.align_down(1 << (PAGE + BLOCK));
            let range = Range {
                granule: PAGE,
                num: 0,
                scale: BLOCK,
                level: 0,
            };
            one(Command::tlbi_range(scope, block, range, leaf))
        }
        Invalidation::StageOneRange {
            tag,
            asid,
            range,
            granule,
            level,
            leaf,
        } => {
            stage_one()?;
            tags(tag.0, asid)?;
            let scope = asid.map_or(Scope::Vaa(tag), |asid| Scope::Va(tag, asid));
            let cover = Cover::new(scope, range, granule.log2(), level, leaf, ranges);
            Ok(Commands::Cover(cover))
        }
        Invalidation::Context {
            device,
            pasid,
            leaf,
        } => {
            stage_one()?;
            stream(device)?;
            substream(pasid)?;
            one(Command::cfgi_cd(device, pasid, leaf))
        }
        Invalidation::Contexts(device) => {
            stage_one()?;
            stream(device)?;
            one(Command::cfgi_cd_all(device))
        }
        Invalidation::Device(device) => {
            stream(device)?;
            one(Command::cfgi_ste(device, true))
        }
        Invalidation::DeviceTlb {
            device,
            pasid,
            range,
        } => {
            stream(device)?;
            pasid.map_or(Ok(()), |pasid| {
                if features.substream_bits == 0 {
                    return Err(IommuError::Unsupported);
                }
                substream(pasid)
            })?;
            if !features.ats {
                return Err(IommuError::Unsupported);
            }
            Ok(Commands::One(match range {
                Some(range) if range.len == 0 => None,
                range => Some(Command::atc_inv(
                    device,
                    pasid,
                    range.and_then(device_range),
                )),
            }))
        }
        Invalidation::DeviceTlbOfPasids { device, range } => {
            stream(device)?;
            if !features.ats || features.substream_bits == 0 {
                return Err(IommuError::Unsupported);
            }
            Ok(Commands::One(match range {
                Some(range) if range.len == 0 => None,
                range => Some(Command::atc_inv_global(
                    device,
                    range.and_then(device_range),
                )),
            }))
        }
    }
}

/// The smallest naturally aligned power of two of pages that holds `range`: first address, log2; `None` for everything.
pub(super) fn device_range(range: Span<Iova>) -> Option<(Iova, u8)> {
    let first = range.base.0 >> PAGE;
    let last = range.base.0.saturating_add(range.len - 1) >> PAGE;
    let log2 = u64::BITS - (first ^ last).leading_zeros();
    if log2 >= u64::BITS - u32::from(PAGE) {
        return None;
    }
    Some((Iova(first >> log2 << log2 << PAGE), log2 as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_range_holds_all_pages_and_is_the_smallest() {
        let range = |base, len| device_range(Span::<Iova>::new(Iova(base), len).unwrap());
        assert_eq!(range(0x1000, 0x1000), Some((Iova(0x1000), 0)));
        assert_eq!(range(0x1fff, 2), Some((Iova(0), 2)));
        assert_eq!(range(0x2000, 0x2000), Some((Iova(0x2000), 1)));
        assert_eq!(range(0x3000, 0x2000), Some((Iova(0), 3)));
        assert_eq!(range(0, u64::MAX), None);
        assert_eq!(range(1 << 62, 1 << 62), Some((Iova(1 << 62), 50)));
    }
}
