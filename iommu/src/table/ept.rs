//! Intel extended page tables, what the guest's CPU walks on VMX: 4 or 5 levels of 4 KiB tables (Intel SDM, volume 3,
//! "The Extended Page Table Mechanism (EPT)").

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::format::{Entry, Format};
use super::spec::ept::{ADDRESS, ENTRY, OUTPUT_BITS};
use super::vmsa::{Attributes, Memory};

/// Extended page tables. [`Shape::input_bits`](super::Shape::input_bits) up to 48 takes 4 levels, more takes 5;
/// IA32_VMX_EPT_VPID_CAP says which of them, and of the sizes in [`Shape::largest`](super::Shape::largest), the CPU has.
///
/// Mappings that can be executed but not read are not made: not every CPU has them. A mapping that may be read only
/// (`write` off) keeps a guest from having page tables of its own there where EPTP has the access flags on.
#[derive(Debug)]
pub enum Ept {}

const PRESENT: u64 = ENTRY::R::SET.value | ENTRY::W::SET.value | ENTRY::X::SET.value;

/// The bit of a leaf, above the pages.
fn size(height: u8) -> u64 {
    if height == 0 {
        0
    } else {
        ENTRY::SIZE::SET.value
    }
}

/// A leaf of a memory type that there is.
fn leaf(entry: u64, address: u64) -> Entry {
    match LocalRegisterCopy::<u64, ENTRY::Register>::new(entry).read(ENTRY::TYPE) {
        2 | 3 | 7 => Entry::Reserved,
        _ => Entry::Leaf(address),
    }
}

impl Format for Ept {
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
        if !attributes.read {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn link(next: u64) -> u64 {
        // Permissions of all levels are combined, so those of a link are all there are.
        (next & ADDRESS) | PRESENT | ENTRY::ACCESSED::SET.value
    }

    fn leaf(attributes: Attributes, height: u8, output: u64) -> u64 {
        let memory = match attributes.memory {
            Memory::Normal => ENTRY::TYPE::WriteBack,
            Memory::Device => ENTRY::TYPE::Uncacheable,
        };
        // A and D: no walk has to store them.
        let fields = ENTRY::R.val(attributes.read.into())
            + ENTRY::W.val(attributes.write.into())
            + ENTRY::X.val(attributes.execute.into())
            + ENTRY::ACCESSED::SET
            + ENTRY::DIRTY.val(attributes.write.into())
            + memory;
        output | fields.value | size(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        (entry & !ENTRY::SIZE::SET.value) | size(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        match entry & PRESENT {
            0 => return Entry::Invalid,
            // W without R.
            2 | 6 => return Entry::Reserved,
            _ => {}
        }
        let big = entry & ENTRY::SIZE::SET.value != 0;
        match height {
            0 => leaf(entry, entry & ADDRESS),
            1 | 2 if big => leaf(entry, entry & ADDRESS & (u64::MAX << Self::shift(height))),
            _ if big => Entry::Reserved,
            _ => Entry::Table(entry & ADDRESS),
        }
    }

    fn attributes(entry: u64) -> Attributes {
        let entry = LocalRegisterCopy::<u64, ENTRY::Register>::new(entry);
        Attributes {
            read: entry.is_set(ENTRY::R),
            write: entry.is_set(ENTRY::W),
            execute: entry.is_set(ENTRY::X),
            memory: if entry.read(ENTRY::TYPE) == 0 {
                Memory::Device
            } else {
                Memory::Normal
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
        // Hardware sets the flag by itself; no fault waits for it.
        true
    }

    fn tracked(entry: u64) -> u64 {
        entry & !ENTRY::DIRTY::SET.value
    }

    fn is_dirty(entry: u64) -> bool {
        entry & ENTRY::DIRTY::SET.value != 0
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & ENTRY::W::SET.value == 0 {
            entry
        } else {
            entry | ENTRY::DIRTY::SET.value
        }
    }
}
