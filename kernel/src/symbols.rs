//! Names for addresses in the image: the symbol table that is packed into the bundle, for backtraces.
//!
//! Little endian: a count of symbols, then for each its offset from the start of the image and the offset of its name,
//! sorted by the former, then the names, each ended by the next one's offset. All words have 32 bits.

use alloc::vec::Vec;

const ENTRY: usize = 8;

/// A symbol table in memory. Whatever its bytes are, it only finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbols<'a> {
    entries: &'a [[u8; ENTRY]],
    names: &'a [u8],
}

impl<'a> Symbols<'a> {
    /// The table at the start of `bytes`, or `None` if it does not fit in them.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (entries, names) = rest.split_at_checked(count.checked_mul(ENTRY)?)?;
        let (entries, _) = entries.as_chunks();
        Some(Self { entries, names })
    }

    /// The last symbol at or before `offset` bytes from the start of the image, and how far before.
    pub fn find(&self, offset: u32) -> Option<(&'a str, u32)> {
        let after = self
            .entries
            .partition_point(|entry| word(entry, 0) <= offset);
        let index = after.checked_sub(1)?;
        let entry = self.entries.get(index)?;
        let start = word(entry, 4) as usize;
        let end = match self.entries.get(after) {
            Some(next) => word(next, 4) as usize,
            None => self.names.len(),
        };
        let name = core::str::from_utf8(self.names.get(start..end)?).ok()?;
        Some((name, offset.checked_sub(word(entry, 0))?))
    }
}

fn word(entry: &[u8; ENTRY], at: usize) -> u32 {
    u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
}

/// The table of `symbols`: offset from the start of the image in bytes, and name. Any order; of several symbols at one
/// offset, the last is kept.
pub fn encode(symbols: &[(u32, &str)]) -> Vec<u8> {
    let sorted: alloc::collections::BTreeMap<u32, &str> = symbols.iter().copied().collect();
    let mut out = Vec::new();
    let mut names = Vec::new();
    out.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    for (offset, name) in sorted {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&(names.len() as u32).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
    }
    out.append(&mut names);
    out
}

#[cfg(test)]
mod tests {
    use super::{Symbols, encode};

    #[test]
    fn an_address_belongs_to_the_symbol_before_it() {
        let table = encode(&[(0x40, "b"), (0x10, "first"), (0x100, "kernel::start")]);
        let symbols = Symbols::parse(&table).unwrap();
        assert_eq!(symbols.find(0xf), None);
        assert_eq!(symbols.find(0x10), Some(("first", 0)));
        assert_eq!(symbols.find(0x3f), Some(("first", 0x2f)));
        assert_eq!(symbols.find(0x40), Some(("b", 0)));
        assert_eq!(
            symbols.find(u32::MAX),
            Some(("kernel::start", u32::MAX - 0x100))
        );
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = [
            2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, b'h', b'i', b'y', b'o',
            b'u',
        ];
        assert_eq!(encode(&[(4, "hi"), (8, "you")]), bytes);
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let table = encode(&[]);
        assert_eq!(Symbols::parse(&table).unwrap().find(1), None);
    }

    #[test]
    fn damaged_tables_find_nothing_or_something_but_do_not_fail() {
        let table = encode(&[(0x40, "b"), (0x10, "first"), (0x100, "kernel::start")]);
        for len in 0..table.len() {
            let _ = Symbols::parse(&table[..len]).and_then(|symbols| symbols.find(0x100));
        }
        for index in 0..table.len() {
            let mut damaged = table.clone();
            damaged[index] ^= 0xff;
            let symbols = Symbols::parse(&damaged);
            for offset in [0, 0x10, 0x50, 0x100, u32::MAX] {
                let _ = symbols.and_then(|symbols| symbols.find(offset));
            }
        }
        assert_eq!(Symbols::parse(&[0xff; 4]), None);
    }
}
