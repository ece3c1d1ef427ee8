//! AMD nested page tables, what the guest's CPU walks on SVM: 4 or 5 levels of 4 KiB tables, as the hypervisor's own
//! paging has (AMD64 Architecture Programmer's Manual, volume 2, 15.25 "Nested Paging").

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::format::{Entry, Format};
use super::spec::npt::{ADDRESS, ENTRY, OUTPUT_BITS};
use super::vmsa::{Attributes, Memory};

/// Nested page tables. [`Shape::input_bits`](super::Shape::input_bits) up to 48 takes 4 levels, more takes 5 and a
/// hypervisor with CR4.LA57; [`Shape::largest`](super::Shape::largest) says what CPUID 8000_0001 EDX.Page1GB allows.
///
/// A mapping that may be read only (`write` off) keeps a guest from having page tables of its own there: a CPU walks
/// those with writes (15.25.5).
#[derive(Debug)]
pub enum Npt {}

/// In every entry: no walk of a table has to store the access flag.
const COMMON: u64 = ENTRY::PRESENT::SET.value | ENTRY::USER::SET.value | ENTRY::ACCESSED::SET.value;

/// PS, in leaves above the pages.
fn size(height: u8) -> u64 {
    if height == 0 {
        0
    } else {
        ENTRY::SIZE::SET.value
    }
}

impl Format for Npt {
    type Attributes = Attributes;
    const PAGE_SHIFT: u32 = 12;
    const BLOCKS: u8 = 2;
    const INPUT: (u8, u8) = (32, 57);
    const OUTPUT: u8 = OUTPUT_BITS;
    const LEAST_TOP: u8 = 3;

    fn greatest_top(_output_bits: u8) -> u8 {
        4
    }

    fn check(attributes: Attributes) -> Result<(), MapError> {
        // What is present may be read.
        if !attributes.read {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn link(next: u64) -> u64 {
        // Permissions of all levels are combined, so those of a link are all there are.
        (next & ADDRESS) | COMMON | ENTRY::WRITE::SET.value
    }

    fn leaf(attributes: Attributes, height: u8, output: u64) -> u64 {
        let memory = match attributes.memory {
            Memory::Normal => ENTRY::TYPE::WriteBack,
            Memory::Device => ENTRY::TYPE::Uncacheable,
        };
        let fields = ENTRY::WRITE.val(attributes.write.into())
            + ENTRY::DIRTY.val(attributes.write.into())
            + ENTRY::NX.val((!attributes.execute).into())
            + memory;
        output | fields.value | COMMON | size(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        (entry & !ENTRY::SIZE::SET.value) | size(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        if entry & ENTRY::PRESENT::SET.value == 0 {
            return Entry::Invalid;
        }
        let big = entry & ENTRY::SIZE::SET.value != 0;
        match height {
            0 => Entry::Leaf(entry & ADDRESS),
            1 | 2 if big => Entry::Leaf(entry & ADDRESS & (u64::MAX << Self::shift(height))),
            _ if big => Entry::Reserved,
            _ => Entry::Table(entry & ADDRESS),
        }
    }

    fn attributes(entry: u64) -> Attributes {
        let entry = LocalRegisterCopy::<u64, ENTRY::Register>::new(entry);
        let user = entry.is_set(ENTRY::USER);
        Attributes {
            read: user,
            write: user && entry.is_set(ENTRY::WRITE),
            execute: user && !entry.is_set(ENTRY::NX),
            memory: if entry.read(ENTRY::TYPE) < 2 {
                Memory::Normal
            } else {
                Memory::Device
            },
        }
    }

    fn restrict(attributes: Attributes, link: u64) -> Attributes {
        let above = Self::attributes(link);
        Attributes {
            read: attributes.read && above.read,
            write: attributes.write && above.write,
            execute: attributes.execute && above.execute,
            ..attributes
        }
    }

    fn replaceable(from: Attributes, to: Attributes) -> bool {
        from.memory == to.memory
    }

    fn accessed(_entry: u64) -> bool {
        // Hardware sets A by itself; no fault waits for it.
        true
    }

    fn tracked(entry: u64) -> u64 {
        entry & !ENTRY::DIRTY::SET.value
    }

    fn is_dirty(entry: u64) -> bool {
        entry & ENTRY::DIRTY::SET.value != 0
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & ENTRY::WRITE::SET.value == 0 {
            entry
        } else {
            entry | ENTRY::DIRTY::SET.value
        }
    }
}
