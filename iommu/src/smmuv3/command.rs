//! The commands that this driver sends, each built whole (IHI 0070, chapter 4).

use super::spec::command::{CFGI_ALL_RANGE, CMD0, CMD1, TLBI_NUM_MAX};
use crate::addr::{Iova, PAGE_SIZE, Span};
use crate::id::{CacheTag, DeviceId};

/// One command as it stands in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub [u64; 2]);

impl Command {
    /// CMD_CFGI_STE (§4.3.1). Not `leaf`: the level 1 descriptor too.
    pub fn cfgi_ste(device: DeviceId, leaf: bool) -> Self {
        Self([
            (CMD0::OPCODE::CfgiSte + CMD0::STREAM_ID.val(device.0.into())).value,
            CMD1::LEAF.val(leaf.into()).value,
        ])
    }

    /// CMD_CFGI_ALL (§4.3.2).
    pub fn cfgi_all() -> Self {
        Self([
            CMD0::OPCODE::CfgiSteRange.value,
            CMD1::RANGE.val(CFGI_ALL_RANGE).value,
        ])
    }

    /// CMD_TLBI_NSNH_ALL (§4.4.4): everything that is neither secure nor EL2's.
    pub fn tlbi_nsnh_all() -> Self {
        Self([CMD0::OPCODE::TlbiNsnhAll.value, 0])
    }

    /// CMD_TLBI_EL2_ALL (§4.4.3); only where IDR0.HYP is 1.
    pub fn tlbi_el2_all() -> Self {
        Self([CMD0::OPCODE::TlbiEl2All.value, 0])
    }

    /// CMD_TLBI_S12_VMALL (§4.4.2): both stages of one VMID.
    pub fn tlbi_s12_vmall(tag: CacheTag) -> Self {
        Self([
            (CMD0::OPCODE::TlbiS12Vmall + CMD0::VMID.val(tag.0.into())).value,
            0,
        ])
    }

    /// CMD_TLBI_S2_IPA (§4.4.2) of one page.
    fn tlbi_s2_page(tag: CacheTag, address: u64, leaf: bool) -> Self {
        Self([
            (CMD0::OPCODE::TlbiS2Ipa + CMD0::VMID.val(tag.0.into())).value,
            (CMD1::LEAF.val(leaf.into()) + CMD1::ADDRESS.val(address >> 12)).value,
        ])
    }

    /// CMD_TLBI_S2_IPA of `number` (1 to 32) units of 2^`scale` pages, entries of any level (§4.4.1.1).
    fn tlbi_s2_range(tag: CacheTag, address: u64, scale: u64, number: u64, leaf: bool) -> Self {
        let Self([first, second]) = Self::tlbi_s2_page(tag, address, leaf);
        Self([
            first | (CMD0::NUM.val(number - 1) + CMD0::SCALE.val(scale)).value,
            second | CMD1::TG::Granule4K.value,
        ])
    }

    /// CMD_SYNC that signals by being consumed (§4.7.3).
    pub fn sync() -> Self {
        Self([(CMD0::OPCODE::Sync + CMD0::CS::None).value, 0])
    }
}

/// Largest TLBI.SCALE (§4.4.1.1).
const SCALE_MAX: u32 = 31;

/// Pages that are invalidated one by one where there is no range command; more, and the whole tag goes.
const SINGLE_PAGES: u64 = 64;

/// The commands that remove stage 2 entries of `range` from the TLBs.
///
/// With range commands an exact cover: windows of 5 bits from the lowest set bit of the page count upwards. A single page
/// is never a range command, because TG with NUM, SCALE and TTL all 0 is reserved (§4.4.1.1).
///
/// This removes stage 2 entries. Entries that combine both stages survive it; a stream with a stage 1 of its own needs
/// CMD_TLBI_NH_ALL for the VMID as well (§4.4.2), which `StreamConfig` cannot ask for yet.
pub struct StageTwoCover {
    tag: CacheTag,
    address: u64,
    pages: u64,
    leaf: bool,
    ranges: bool,
    all: bool,
}

impl StageTwoCover {
    /// A cover of `range`, rounded outwards to pages. `ranges`: IDR3.RIL.
    pub fn new(tag: CacheTag, range: Span<Iova>, leaf: bool, ranges: bool) -> Self {
        let address = range.base.0 & !(PAGE_SIZE - 1);
        let end = range.base.0.saturating_add(range.len);
        let pages = (end - address).div_ceil(PAGE_SIZE);
        let pages = if range.len == 0 { 0 } else { pages };
        Self {
            tag,
            address,
            pages,
            leaf,
            ranges,
            all: !ranges && pages > SINGLE_PAGES,
        }
    }
}

impl Iterator for StageTwoCover {
    type Item = Command;

    fn next(&mut self) -> Option<Command> {
        if self.pages == 0 {
            return None;
        }
        if self.all {
            self.pages = 0;
            return Some(Command::tlbi_s12_vmall(self.tag));
        }
        let (scale, number) = if self.ranges {
            let scale = u64::from(self.pages.trailing_zeros().min(SCALE_MAX));
            let units = self.pages >> scale;
            // What is left after the low 5 bits goes by a larger unit, as long as there is one.
            let low = units & TLBI_NUM_MAX;
            (
                scale,
                if low != 0 {
                    low
                } else {
                    units.min(TLBI_NUM_MAX + 1)
                },
            )
        } else {
            (0, 1)
        };
        let (address, pages) = (self.address, number << scale);
        self.address += pages * PAGE_SIZE;
        self.pages -= pages;
        Some(if pages == 1 {
            Command::tlbi_s2_page(self.tag, address, self.leaf)
        } else {
            Command::tlbi_s2_range(self.tag, address, scale, number, self.leaf)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base and pages that a command covers, by the formula of §4.4.1.1.
    fn covered(command: Command) -> (u64, u64) {
        let [first, second] = command.0;
        assert_eq!(first & 0xff, 0x2a);
        let address = second & 0x000f_ffff_ffff_f000;
        let (num, scale, tg) = (first >> 12 & 31, first >> 20 & 31, second >> 10 & 3);
        if tg == 0 {
            assert_eq!((num, scale), (0, 0));
            return (address, 1);
        }
        assert_eq!(tg, 1);
        assert!(num != 0 || scale != 0, "reserved");
        (address, (num + 1) << scale)
    }

    fn cover(base: u64, pages: u64, ranges: bool) -> StageTwoCover {
        let range = Span::<Iova>::new(Iova(base), pages * PAGE_SIZE).unwrap();
        StageTwoCover::new(CacheTag(7), range, true, ranges)
    }

    #[test]
    fn the_cover_is_exact_for_every_number_of_pages() {
        let big = [
            1 << 18,
            (1 << 20) - 1,
            (1 << 27) + 5,
            1 << 36,
            (1 << 39) + 7,
        ];
        for pages in (1..70_000).chain(big) {
            let mut at = 0x1000;
            for command in cover(at, pages, true) {
                let (base, len) = covered(command);
                assert_eq!(base, at);
                at += len * PAGE_SIZE;
            }
            assert_eq!(at, 0x1000 + pages * PAGE_SIZE);
        }
    }

    #[test]
    fn the_cover_is_short() {
        assert_eq!(cover(0, 512, true).count(), 1);
        assert_eq!(cover(0, 33, true).count(), 2);
        assert_eq!(cover(0, 1, true).count(), 1);
        assert_eq!(cover(0, 1 << 18, true).count(), 1);
        assert_eq!(cover(0, 0, true).count(), 0);
    }

    #[test]
    fn without_ranges_few_pages_go_singly_and_many_by_tag() {
        assert_eq!(cover(0, 64, false).count(), 64);
        assert!(cover(0, 64, false).all(|command| covered(command).1 == 1));
        let many: alloc::vec::Vec<_> = cover(0, 65, false).collect();
        assert_eq!(many, [Command([0x28 | 7 << 32, 0])]);
    }

    #[test]
    fn a_range_off_page_bounds_is_rounded_outwards() {
        let range = Span::<Iova>::new(Iova(0x1fff), 2).unwrap();
        let all: alloc::vec::Vec<_> = StageTwoCover::new(CacheTag(1), range, false, true).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(covered(all[0]), (0x1000, 2));
    }
}
