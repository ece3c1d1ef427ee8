//! Which registers a guest reaches itself: the MSR bitmaps ("MSR-Bitmap Address"). Deny by default.

use crate::x86_64::vcpu::PASSED_MSRS;

/// The end of an interrupt, in x2APIC mode.
const X2APIC_EOI: u32 = 0x80b;

/// One set: reads of low and of high registers, then writes of both, 1 KiB each. A register exits where its bit is 1, and
/// all do but [`PASSED_MSRS`].
#[repr(C, align(4096))]
#[derive(Debug)]
struct Bitmap([u8; 4096]);

/// Those that every guest has.
#[derive(Debug)]
pub struct Bitmaps {
    all: Bitmap,
    /// The same for one that ends interrupts by itself.
    ending: Bitmap,
}

/// Bytes from those of reads to those of writes.
const WRITES: usize = 0x800;

impl Bitmap {
    fn new() -> Self {
        let mut bitmap = Self([0xff; 4096]);
        for msr in PASSED_MSRS {
            bitmap.pass(msr, 0);
            bitmap.pass(msr, WRITES);
        }
        bitmap
    }

    fn pass(&mut self, msr: u32, access: usize) {
        let range = match msr {
            0..0x2000 => 0,
            0xc000_0000..0xc000_2000 => 0x400,
            _ => return,
        };
        let bit = msr & 0x1fff;
        self.0[range + access + bit as usize / 8] &= !(1 << (bit % 8));
    }
}

impl Bitmaps {
    /// All of them.
    pub fn new() -> Self {
        let mut ending = Bitmap::new();
        ending.pass(X2APIC_EOI, WRITES);
        Self {
            all: Bitmap::new(),
            ending,
        }
    }

    /// Physical address of those of a guest that ends interrupts by itself, which only a CPU with a virtual x2APIC may have,
    /// or of one that does not.
    pub(super) fn address(&self, ends: bool) -> u64 {
        let bitmap = match ends {
            true => &self.ending,
            false => &self.all,
        };
        (&raw const *bitmap).expose_provenance() as u64
    }
}

impl Default for Bitmaps {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bitmap, Bitmaps, WRITES};
    use std::collections::BTreeSet;

    /// Bytes and bits as the SDM counts them, by hand.
    #[test]
    fn what_is_not_listed_exits() {
        let mut bitmap = Bitmap::new();
        let clear = |bitmap: &Bitmap| -> BTreeSet<(usize, u8)> {
            let bytes = bitmap.0.iter().enumerate();
            let bytes = bytes.filter(|(_, byte)| **byte != 0xff);
            bytes.map(|(at, byte)| (at, *byte)).collect()
        };
        // 0x174 to 0x176, 0x277; C000_0081 to C000_0084, C000_0100 to C000_0102; and the same for writes.
        let reads = [
            (0x2e, 0b1000_1111),
            (0x4e, 0b0111_1111),
            (0x410, 0b1110_0001),
            (0x420, 0b1111_1000),
        ];
        let expected: BTreeSet<(usize, u8)> = reads
            .iter()
            .flat_map(|(at, byte)| [(*at, *byte), (at + 0x800, *byte)])
            .collect();
        assert_eq!(clear(&bitmap), expected);
        for msr in [0x2000, 0xc000_2000, 0xc001_0015, 0x4000_0000] {
            bitmap.pass(msr, 0);
            bitmap.pass(msr, WRITES);
        }
        assert_eq!(clear(&bitmap), expected);
        bitmap.pass(0xc000_1fff, 0);
        assert_eq!((bitmap.0[0x7ff], bitmap.0[0xfff]), (0x7f, 0xff));
        // Writes of 0x80b, and only they.
        let all = Bitmaps::new();
        assert_eq!(clear(&all.all), expected);
        let mut ending = expected;
        ending.insert((0x901, 0b1111_0111));
        assert_eq!(clear(&all.ending), ending);
        let [of_all, of_ending] = [false, true].map(|ends| all.address(ends));
        assert_eq!((of_all % 4096, of_ending % 4096), (0, 0));
        assert_ne!(of_all, of_ending);
    }
}
