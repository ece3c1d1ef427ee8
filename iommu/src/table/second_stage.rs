//! VT-d second stage, legacy and scalable mode: 3, 4 or 5 levels of 4 KiB tables (VT-d specification, 3.7 and 9.8).

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::format::{Entry, Format};
use super::spec::second_stage::{ADDRESS, ENTRY, OUTPUT_BITS};

/// What a second-stage mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondStageAttributes {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Execute requests are allowed, where the hardware knows them (ECAP.ERS).
    pub execute: bool,
    /// Accesses snoop caches whatever the request says. Only where ECAP.SC is 1: reserved otherwise.
    pub snoop: bool,
}

impl SecondStageAttributes {
    /// RAM of a partition, for its devices.
    pub const DMA: Self = Self {
        read: true,
        write: true,
        execute: false,
        snoop: false,
    };
}

/// The second stage. [`Shape::input_bits`](super::Shape::input_bits) up to 39, 48 or 57 take 3, 4 or 5 levels;
/// [`Shape::largest`](super::Shape::largest) says what CAP.SLLPS allows.
#[derive(Debug)]
pub enum SecondStage {}

/// Bits of `field` and no other.
const PRESENT: u64 = ENTRY::R::SET.value | ENTRY::W::SET.value;

/// PS, in leaves above the pages.
fn size(height: u8) -> u64 {
    if height == 0 { 0 } else { ENTRY::PS::SET.value }
}

impl Format for SecondStage {
    type Attributes = SecondStageAttributes;
    const PAGE_SHIFT: u32 = 12;
    const BLOCKS: u8 = 2;
    const INPUT: (u8, u8) = (32, 57);
    const OUTPUT: u8 = OUTPUT_BITS;
    const LEAST_TOP: u8 = 2;

    fn greatest_top(_output_bits: u8) -> u8 {
        4
    }

    fn check(attributes: SecondStageAttributes) -> Result<(), MapError> {
        // R = W = 0 is "not present" whatever X says.
        if !attributes.read && (attributes.execute || !attributes.write) {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn link(next: u64) -> u64 {
        // Permissions of all levels are combined, so those of a link are all there are.
        (next & ADDRESS) | PRESENT | ENTRY::X::SET.value
    }

    fn leaf(attributes: SecondStageAttributes, height: u8, output: u64) -> u64 {
        let fields = ENTRY::R.val(attributes.read.into())
            + ENTRY::W.val(attributes.write.into())
            + ENTRY::X.val(attributes.execute.into())
            + ENTRY::SNP.val(attributes.snoop.into());
        output | fields.value | size(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        (entry & !ENTRY::PS::SET.value) | size(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Invalid;
        }
        let big = entry & ENTRY::PS::SET.value != 0;
        match height {
            0 => Entry::Leaf(entry & ADDRESS),
            1 | 2 if big => Entry::Leaf(entry & ADDRESS & (u64::MAX << Self::shift(height))),
            _ if big => Entry::Reserved,
            _ => Entry::Table(entry & ADDRESS),
        }
    }

    fn attributes(entry: u64) -> SecondStageAttributes {
        let entry = LocalRegisterCopy::<u64, ENTRY::Register>::new(entry);
        SecondStageAttributes {
            read: entry.is_set(ENTRY::R),
            write: entry.is_set(ENTRY::W),
            execute: entry.is_set(ENTRY::X),
            snoop: entry.is_set(ENTRY::SNP),
        }
    }

    fn restrict(attributes: SecondStageAttributes, link: u64) -> SecondStageAttributes {
        let above = Self::attributes(link);
        SecondStageAttributes {
            read: attributes.read && above.read,
            write: attributes.write && above.write,
            execute: attributes.execute && above.execute,
            ..attributes
        }
    }

    fn replaceable(_from: SecondStageAttributes, _to: SecondStageAttributes) -> bool {
        true
    }

    fn accessed(_entry: u64) -> bool {
        // Hardware sets A by itself; no fault waits for it.
        true
    }

    fn tracked(entry: u64) -> u64 {
        entry & !ENTRY::D::SET.value
    }

    fn is_dirty(entry: u64) -> bool {
        entry & ENTRY::D::SET.value != 0
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & ENTRY::W::SET.value == 0 {
            entry
        } else {
            entry | ENTRY::D::SET.value
        }
    }
}
