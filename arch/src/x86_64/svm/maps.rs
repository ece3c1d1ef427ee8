//! Which registers and ports a guest reaches itself: the permission maps (15.10.1, 15.11). Deny by default.

use crate::x86_64::vcpu::PASSED_MSRS;
use alloc::boxed::Box;
use alloc::vec;

/// A page of the maps.
#[repr(C, align(4096))]
#[derive(Clone, Debug)]
struct Page([u8; 4096]);

const MSR_PAGES: usize = 2;
/// A word at the last port reaches past the ports.
const IO_PAGES: usize = 3;

/// Both maps. One bit allows where it is 0; all ports and all registers exit but [`PASSED_MSRS`].
#[derive(Debug)]
pub struct Maps(Box<[Page]>);

impl Maps {
    /// The maps that every guest has.
    pub fn new() -> Self {
        let mut maps = Self(vec![Page([0xff; 4096]); MSR_PAGES + IO_PAGES].into_boxed_slice());
        for msr in PASSED_MSRS {
            maps.pass(msr);
        }
        maps
    }

    /// Lets guests read and write `msr`: two bits each, of which the lower is for reads.
    fn pass(&mut self, msr: u32) {
        let range = match msr >> 16 {
            0 => 0,
            0xc000 => 0x800,
            0xc001 => 0x1000,
            _ => return,
        };
        let bit = (msr & 0xffff) * 2;
        // 0x2000 registers a range.
        if bit >= 0x4000 {
            return;
        }
        let at = range + bit as usize / 8;
        self.0[at / 4096].0[at % 4096] &= !(3 << (bit % 8));
    }

    /// Physical address of the map of registers.
    pub(super) fn msr(&self) -> u64 {
        (&raw const self.0[0]).expose_provenance() as u64
    }

    /// Physical address of the map of ports.
    pub(super) fn io(&self) -> u64 {
        (&raw const self.0[MSR_PAGES]).expose_provenance() as u64
    }
}

impl Default for Maps {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{IO_PAGES, MSR_PAGES, Maps};
    use std::collections::BTreeSet;

    /// Bytes and bits as 15.11 counts them, by hand.
    #[test]
    fn what_is_not_listed_exits() {
        let maps = Maps::new();
        let bytes = |pages: core::ops::Range<usize>| -> Vec<u8> {
            maps.0[pages].iter().flat_map(|page| page.0).collect()
        };
        let msrs = bytes(0..MSR_PAGES);
        let clear: BTreeSet<(usize, u8)> = msrs
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != 0xff)
            .map(|(at, byte)| (at, *byte))
            .collect();
        let expected = [
            // 0x174 to 0x176: bits 0x2e8 to 0x2ed.
            (0x5d, 0b1100_0000),
            // 0x277: bits 0x4ee and 0x4ef.
            (0x9d, 0b0011_1111),
            // C000_0081 to C000_0083 in the same byte, _0084 in the next.
            (0x820, 0b0000_0011),
            (0x821, 0b1111_1100),
            // C000_0100 to C000_0102.
            (0x840, 0b1100_0000),
        ];
        assert_eq!(clear, BTreeSet::from(expected));
        assert!(
            bytes(MSR_PAGES..MSR_PAGES + IO_PAGES)
                .iter()
                .all(|byte| *byte == 0xff)
        );
        assert_eq!(maps.io() - maps.msr(), 0x2000);
        assert_eq!(maps.msr() % 4096, 0);
    }

    #[test]
    fn a_register_outside_of_the_map_stays_denied() {
        let mut maps = Maps::new();
        let before = maps.0.iter().map(|page| page.0).collect::<Vec<_>>();
        for msr in [
            0x2000,
            0xffff,
            0xc000_2000,
            0xc001_2000,
            0xc002_0000,
            0x4000_0000,
        ] {
            maps.pass(msr);
        }
        assert!(maps.0.iter().map(|page| page.0).eq(before));
        maps.pass(0xc001_1fff);
        assert_eq!(maps.0[1].0[0x7ff], 0x3f);
    }
}
