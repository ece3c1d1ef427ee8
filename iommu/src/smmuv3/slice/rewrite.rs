//! The short way of a guest's commands (IHI 0070, chapter 4): from the guest's words to the hardware's.
//!
//! The same allow-list as that of [`commands`](super::commands), looked up once; what is left to do for a command that is
//! on it is to put the slice's tag or the stream of the device into it. Whatever needs more thought, or is illegal, goes
//! the other way, which has the last word on it. Both lead to the same in the caches.

use super::super::probe::Features;
use super::super::spec::command::{CMD0, CMD1};
use super::commands::allowed;
use crate::id::{CacheTag, DeviceId};

use CMD0::OPCODE::Value as Opcode;

/// log2 of the block that a single entry is widened to where the hardware forgets parts of one: 1 GiB.
const BLOCK: u32 = 30;
const PAGE: u32 = 12;

const NH_ALL: u8 = Opcode::TlbiNhAll as u8;
const NH_ASID: u8 = Opcode::TlbiNhAsid as u8;
const NH_VA: u8 = Opcode::TlbiNhVa as u8;
const NH_VAA: u8 = Opcode::TlbiNhVaa as u8;
const NSNH_ALL: u8 = Opcode::TlbiNsnhAll as u8;
const CFGI_CD: u8 = Opcode::CfgiCd as u8;
const CFGI_CD_ALL: u8 = Opcode::CfgiCdAll as u8;

const VMID: u64 = CMD0::VMID.mask << CMD0::VMID.shift;
const STREAM: u64 = CMD0::STREAM_ID.mask << CMD0::STREAM_ID.shift;
const RANGE: u64 = CMD0::NUM.mask << CMD0::NUM.shift | CMD0::SCALE.mask << CMD0::SCALE.shift;
const TTL: u64 = CMD1::TTL.mask << CMD1::TTL.shift;
const TTL_ONE: u64 = 1 << CMD1::TTL.shift;

/// What one opcode may have beside itself; an opcode that is not there may have nothing, and is looked for.
#[derive(Clone, Copy)]
struct Refused([u64; 2]);

/// See the module's description.
pub(super) struct Rewriter {
    /// Of CMD_TLBI_NH_ALL, _ASID, _VA, _VAA.
    stage_one: [Refused; 4],
    contexts: [Refused; 2],
    /// The tag in its place.
    tag: u64,
    substream_bits: u8,
    blocks_in_pieces: bool,
    ranges: bool,
}

impl Rewriter {
    /// The command after which nothing of the first stage is left.
    pub(super) const WHOLE: u8 = NH_ALL;

    pub(super) fn new(features: &Features, tag: CacheTag) -> Self {
        let refused = |opcode: Opcode| {
            let [first, second] = allowed(opcode, features).unwrap_or([0, 0]);
            Refused([!(first | 0xff), !second])
        };
        Self {
            stage_one: [
                Opcode::TlbiNhAll,
                Opcode::TlbiNhAsid,
                Opcode::TlbiNhVa,
                Opcode::TlbiNhVaa,
            ]
            .map(refused),
            contexts: [Opcode::CfgiCd, Opcode::CfgiCdAll].map(refused),
            tag: u64::from(tag.0) << CMD0::VMID.shift,
            substream_bits: features.substream_bits,
            blocks_in_pieces: features.errata.blocks_in_pieces,
            ranges: features.range_invalidation,
        }
    }

    /// The hardware's command for one of the guest's; `None` for what goes the other way.
    #[inline(always)]
    pub(super) fn rewrite(
        &self,
        words: [u64; 2],
        stream: impl Fn(u64) -> Option<DeviceId>,
    ) -> Option<[u64; 2]> {
        let [first, second] = words;
        let opcode = first as u8;
        let Some(Refused(refused)) = self.stage_one.get(usize::from(opcode.wrapping_sub(NH_ALL)))
        else {
            return self.others(words, stream);
        };
        if first & refused[0] | second & refused[1] != 0 {
            return None;
        }
        let head = first & !VMID | self.tag;
        if opcode < NH_VA {
            return Some([head, second]);
        }
        self.by_address([head, second])
    }

    /// One entry, or a range (§4.4.1.1).
    #[inline(always)]
    fn by_address(&self, [head, second]: [u64; 2]) -> Option<[u64; 2]> {
        let granule = second >> CMD1::TG.shift & CMD1::TG.mask;
        let bare = head & RANGE | second & TTL == 0;
        if granule == 0 {
            return match (bare, self.blocks_in_pieces) {
                (false, _) => None,
                (true, false) => Some([head, second]),
                (true, true) => self.block([head, second]),
            };
        }
        // What is reserved, a level that there may not be, and a range that does not end goes the other way.
        let reserved = bare || granule != 1 && second & TTL == TTL_ONE;
        let log2 = PAGE + 2 * (granule as u32 - 1);
        let base = second & (u64::MAX << log2);
        let count = (head >> CMD0::NUM.shift & CMD0::NUM.mask) + 1;
        let scale = (head >> CMD0::SCALE.shift & CMD0::SCALE.mask) as u32;
        if reserved || base.checked_add(count << (scale + log2)).is_none() {
            return None;
        }
        Some([head, base | second & ((1 << PAGE) - 1)])
    }

    /// Whatever block the address is in, as in `invalidation`.
    #[inline(always)]
    fn block(&self, [head, second]: [u64; 2]) -> Option<[u64; 2]> {
        if !self.ranges {
            return None;
        }
        let leaf = second & CMD1::LEAF::SET.value;
        let range = CMD0::SCALE.val((BLOCK - PAGE).into()).value;
        let granule = CMD1::TG::Granule4K.value;
        Some([head | range, second & (u64::MAX << BLOCK) | granule | leaf])
    }

    fn others(
        &self,
        [first, second]: [u64; 2],
        stream: impl Fn(u64) -> Option<DeviceId>,
    ) -> Option<[u64; 2]> {
        let Refused(refused) = match first as u8 {
            NSNH_ALL if first == NSNH_ALL.into() && second == 0 => {
                return Some([u64::from(NH_ALL) | self.tag, 0]);
            }
            CFGI_CD => self.contexts[0],
            CFGI_CD_ALL => self.contexts[1],
            _ => return None,
        };
        let substream = first >> CMD0::SSID.shift & CMD0::SSID.mask;
        if first & refused[0] | second & refused[1] != 0 || substream >> self.substream_bits != 0 {
            return None;
        }
        let stream = stream(first >> CMD0::STREAM_ID.shift)?;
        let stream = u64::from(stream.0) << CMD0::STREAM_ID.shift;
        Some([first & !STREAM | stream, second])
    }
}

const _: () = assert!(NH_ASID == NH_ALL + 1 && NH_VA == NH_ALL + 2 && NH_VAA == NH_ALL + 3);

#[cfg(test)]
mod tests {
    use super::super::super::invalidation;
    use super::super::commands::decode;
    use super::*;
    use crate::physical::Invalidation;
    use crate::smmuv3::Identity;
    use crate::smmuv3::command::Command;
    use alloc::vec::Vec;

    const TAG: CacheTag = CacheTag(0x42);

    fn stream(name: u64) -> Option<DeviceId> {
        (name < 4).then_some(DeviceId(0x90 + name as u32))
    }

    /// Range invalidation, 16-bit ASIDs and 20 bits of substreams, or not; the emulator, or not.
    fn features(rich: bool, iidr: u32) -> Features {
        let rich = u32::from(rich);
        let identity = Identity {
            idr: [
                0x40b | rich << 12 | 1 << 18,
                16 | (rich * 20) << 6 | 8 << 16 | 8 << 21,
                0,
                rich << 10,
                0,
                0x10,
            ],
            iidr,
            ..Identity::default()
        };
        Features::of(&identity).unwrap()
    }

    /// Granules and their number, as the words of a range say.
    fn range(words: [u64; 2]) -> (u64, u64, u32) {
        let log2 = [0, 12, 14, 16][(words[1] >> 10 & 3) as usize];
        let units = (words[0] >> 12 & 31) + 1;
        (
            words[1] & !0xfff,
            units << (words[0] >> 20 & 31) << log2,
            log2,
        )
    }

    /// Both ways lead to the same commands, or to a range of the same addresses, and what is illegal is left to the other.
    #[test]
    fn the_short_way_leads_where_the_long_one_does() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let (mut short, mut ranges) = (0, 0);
        for round in 0..400_000 {
            let features = features(round & 1 == 0, if round & 2 == 0 { 0 } else { 0x1000_0001 });
            let rewriter = Rewriter::new(&features, TAG);
            let opcode = [
                0x10,
                0x11,
                0x12,
                0x12,
                0x13,
                0x30,
                0x05,
                0x06,
                roll() & 0xff,
            ][(roll() >> 20) as usize % 9];
            let mask = match opcode {
                0x05 => [0x0000_0003_ffff_f000, 1],
                0x06 => [0x0000_0003_0000_0000, 0],
                0x30 => [0, 0],
                _ => [0xffff_ffff_01f1_f000, 0xffff_ffff_ffff_ff01],
            };
            // Mostly bits that may be set, sparse ones, and now and then any.
            let mut words = [opcode | roll() & mask[0], roll() & mask[1]];
            if roll() & 3 == 0 {
                words = [opcode | words[0] & !0x01f1_f000, words[1] & !0xf00];
            }
            if opcode == 0x10 || opcode == 0x11 {
                words = [words[0] & !0x01f1_f000, 0];
            }
            if roll() & 31 == 0 {
                words[(roll() & 1) as usize] ^= 1 << (roll() & 63);
            }
            let Some(own) = rewriter.rewrite(words, stream) else {
                continue;
            };
            short += 1;
            let decoded = decode(words, &features, TAG, stream);
            let decoded = decoded.expect("what is illegal goes the other way");
            if let Invalidation::StageOneRange {
                range: wanted,
                leaf,
                asid,
                level,
                ..
            } = decoded
            {
                ranges += 1;
                let (base, len, log2) = range(own);
                assert_eq!((base, len), (wanted.base.0, wanted.len), "{words:x?}");
                assert_eq!(base % (1 << log2), 0);
                assert_eq!(own[1] & 1 != 0, leaf);
                assert_eq!(own[1] >> 8 & 3, u64::from(level));
                assert_eq!(own[0] >> 32 & 0xffff, 0x42);
                assert_eq!(own[0] >> 48, asid.unwrap_or(0).into());
                assert_eq!(own[0] & 0xff, words[0] & 0xff);
                continue;
            }
            let commands = invalidation::commands(&decoded, &features);
            let Ok(commands) = commands else {
                panic!("{words:x?}: the SMMU does not have it");
            };
            let commands: Vec<_> = commands.collect();
            assert_eq!(commands, [Command(own)], "{words:x?}");
        }
        assert!(short > 150_000 && ranges > 10_000, "{short} {ranges}");
    }
}
