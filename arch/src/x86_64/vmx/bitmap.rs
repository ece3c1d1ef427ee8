//! Which registers a guest reaches itself: the MSR bitmaps ("MSR-Bitmap Address"). Deny by default.

use crate::x86_64::vcpu::PASSED_MSRS;

/// The bitmaps: reads of low and of high registers, then writes of both, 1 KiB each. A register exits where its bit is 1, and
/// all do but [`PASSED_MSRS`].
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Bitmap([u8; 4096]);

impl Bitmap {
    /// The bitmaps that every guest has.
    pub fn new() -> Self {
        let mut bitmap = Self([0xff; 4096]);
        for msr in PASSED_MSRS {
            bitmap.pass(msr);
        }
        bitmap
    }

    fn pass(&mut self, msr: u32) {
        let range = match msr {
            0..0x2000 => 0,
            0xc000_0000..0xc000_2000 => 0x400,
            _ => return,
        };
        let bit = msr & 0x1fff;
        for at in [range, range + 0x800] {
            self.0[at + bit as usize / 8] &= !(1 << (bit % 8));
        }
    }

    /// Physical address.
    pub(super) fn address(&self) -> u64 {
        (&raw const *self).expose_provenance() as u64
    }
}

impl Default for Bitmap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;
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
            bitmap.pass(msr);
        }
        assert_eq!(clear(&bitmap), expected);
        bitmap.pass(0xc000_1fff);
        assert_eq!((bitmap.0[0x7ff], bitmap.0[0xfff]), (0x7f, 0x7f));
        assert_eq!(bitmap.address() % 4096, 0);
    }
}
