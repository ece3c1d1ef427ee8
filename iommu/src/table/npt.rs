//! AMD nested page tables, what the guest's CPU walks on SVM: 4 or 5 levels of 4 KiB tables, as the hypervisor's own
//! paging has (AMD64 Architecture Programmer's Manual, volume 2, 15.25 "Nested Paging").

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::pc::PcFormat;
use super::spec::npt::ENTRY;
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

impl PcFormat for Npt {
    type Attributes = Attributes;
    const LEAST_TOP: u8 = 3;
    const PRESENT: u64 = ENTRY::PRESENT::SET.value;
    const LINK: u64 = COMMON | Self::WRITE;
    const WRITE: u64 = ENTRY::WRITE::SET.value;
    const DIRTY: u64 = ENTRY::DIRTY::SET.value;

    fn check(attributes: Attributes) -> Result<(), MapError> {
        // What is present may be read.
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
        let fields = ENTRY::WRITE.val(attributes.write.into())
            + ENTRY::DIRTY.val(attributes.write.into())
            + ENTRY::NX.val((!attributes.execute).into())
            + memory;
        fields.value | COMMON
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

    fn below(attributes: Attributes, above: Attributes) -> Attributes {
        attributes.below(above)
    }

    fn replaceable(from: Attributes, to: Attributes) -> bool {
        from.memory == to.memory
    }
}
