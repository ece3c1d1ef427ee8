//! The MSI-X table as the guest has it, where the device's own holds what its unit translates (PCIe §7.7.2).

use crate::vdev::msi::Msi;
use alloc::vec::Vec;

/// Bytes of an entry.
pub const ENTRY: u64 = 16;
/// Vector control: the entry is masked.
const MASKED: u32 = 1;

/// Address, upper address, data, and vector control.
type Entry = [u32; 4];
const RESET: Entry = [0, 0, 0, MASKED];

/// See the module's description.
#[derive(Clone, Debug)]
pub struct MessageTable(Vec<Entry>);

impl MessageTable {
    /// As after reset: `count` entries, all of them masked.
    pub fn new(count: u16) -> Self {
        Self(alloc::vec![RESET; count.into()])
    }

    /// As after reset.
    pub fn reset(&mut self) {
        self.0.fill(RESET);
    }

    /// A load of 4 or 8 bytes at `offset`, aligned; 0 for any other one, which has no meaning (§7.7.2), and behind the end.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let mut value = 0;
        for (at, shift) in words(offset, size) {
            if let Some(word) = self.word(at) {
                value |= u64::from(word) << shift;
            }
        }
        value
    }

    /// A store of 4 or 8 bytes at `offset`. The entry whose mask the device has to get anew, if there is one.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<u16> {
        let mut control = None;
        for (at, shift) in words(offset, size) {
            let (entry, word) = (at / 4, at % 4);
            let Some(entry) = self.0.get_mut(entry) else {
                continue;
            };
            let value = (value >> shift) as u32;
            entry[word] = match word {
                0 => value & !3,
                3 => value & MASKED,
                _ => value,
            };
            if word == 3 {
                control = Some((at / 4) as u16);
            }
        }
        control
    }

    /// Whether entry `index` is masked.
    pub fn is_masked(&self, index: u16) -> bool {
        let entry = self.0.get(usize::from(index));
        entry.is_none_or(|entry| entry[3] & MASKED != 0)
    }

    /// What the guest wants of entry `index`. That of a masked one may be on its way still.
    pub fn message(&self, index: u16) -> Option<Msi> {
        let [low, high, data, _] = *self.0.get(usize::from(index))?;
        Some(Msi {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(self.0.get(at / 4)?[at % 4])
    }
}

/// The words that an access touches, and where in its value each is.
fn words(offset: u64, size: u8) -> impl Iterator<Item = (usize, u32)> {
    let whole = matches!(size, 4 | 8) && offset.is_multiple_of(size.into());
    let first = (offset / 4) as usize;
    let count = if whole { usize::from(size / 4) } else { 0 };
    (first..first + count).zip([0, 32])
}

#[cfg(test)]
mod tests {
    use super::MessageTable;
    use crate::vdev::msi::Msi;

    #[test]
    fn an_entry_is_what_was_written_and_says_when_its_mask_is() {
        let mut table = MessageTable::new(2);
        assert!(table.is_masked(0) && table.is_masked(1) && table.is_masked(2));
        assert_eq!(table.read(12, 4), 1);
        assert_eq!(table.write(16, 4, 0xfee0_1003), None);
        assert_eq!(table.write(20, 4, 0), None);
        assert_eq!(table.write(24, 8, 0xffff_fffe_0000_4061), Some(1));
        assert!(!table.is_masked(1));
        let expected = Msi {
            address: 0xfee0_1000,
            data: 0x4061,
        };
        assert_eq!(table.message(1), Some(expected));
        assert_eq!(table.read(16, 8), 0xfee0_1000);
        assert_eq!(table.read(24, 8), 0x4061);
        assert_eq!(table.message(2), None);
        table.reset();
        assert!(table.is_masked(1));
        assert_eq!(table.read(16, 8), 0);
    }

    #[test]
    fn accesses_of_other_sizes_or_places_mean_nothing() {
        let mut table = MessageTable::new(1);
        for (offset, size) in [(0, 1), (2, 2), (4, 8), (16, 4), (1 << 20, 8)] {
            assert_eq!(table.write(offset, size, !0), None);
            assert_eq!(table.read(offset, size), 0, "{offset} {size}");
        }
        assert_eq!(table.read(0, 8), 0);
        // Half of it is behind the end of nothing: the control word is the last one.
        assert_eq!(table.write(8, 8, 0), Some(0));
    }
}
