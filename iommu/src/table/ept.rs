//! Intel extended page tables, what the guest's CPU walks on VMX: 4 or 5 levels of 4 KiB tables (Intel SDM, volume 3,
//! "The Extended Page Table Mechanism (EPT)").

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::pc::PcFormat;
use super::spec::ept::ENTRY;
use super::vmsa::{Attributes, Memory};

/// Extended page tables. [`Shape::input_bits`](super::Shape::input_bits) up to 48 takes 4 levels, more takes 5;
/// IA32_VMX_EPT_VPID_CAP says which of them, and of the sizes in [`Shape::largest`](super::Shape::largest), the CPU has.
///
/// Mappings that can be executed but not read are not made: not every CPU has them. A mapping that may be read only
/// (`write` off) keeps a guest from having page tables of its own there where EPTP has the access flags on.
#[derive(Debug)]
pub enum Ept {}

const READ: u64 = ENTRY::R::SET.value;

impl PcFormat for Ept {
    type Attributes = Attributes;
    const LEAST_TOP: u8 = 3;
    const PRESENT: u64 = READ | Self::WRITE | ENTRY::X::SET.value;
    const LINK: u64 = Self::PRESENT | ENTRY::ACCESSED::SET.value;
    const WRITE: u64 = ENTRY::W::SET.value;
    const DIRTY: u64 = ENTRY::DIRTY::SET.value;

    fn check(attributes: Attributes) -> Result<(), MapError> {
        if !attributes.read {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn page(attributes: Attributes) -> u64 {
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
        fields.value
    }

    fn is_reserved(entry: u64) -> bool {
        entry & (READ | Self::WRITE) == Self::WRITE
    }

    fn is_reserved_leaf(entry: u64) -> bool {
        let entry = LocalRegisterCopy::<u64, ENTRY::Register>::new(entry);
        matches!(entry.read(ENTRY::TYPE), 2 | 3 | 7)
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

    fn below(attributes: Attributes, above: Attributes) -> Attributes {
        attributes.below(above)
    }

    fn replaceable(from: Attributes, to: Attributes) -> bool {
        from.memory == to.memory
    }
}
