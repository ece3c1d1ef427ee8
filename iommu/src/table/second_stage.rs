//! VT-d second stage, legacy and scalable mode: 3, 4 or 5 levels of 4 KiB tables (VT-d specification, 3.7 and 9.8).

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::pc::PcFormat;
use super::spec::second_stage::ENTRY;

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

impl PcFormat for SecondStage {
    type Attributes = SecondStageAttributes;
    const LEAST_TOP: u8 = 2;
    const PRESENT: u64 = ENTRY::R::SET.value | Self::WRITE;
    const LINK: u64 = Self::PRESENT | ENTRY::X::SET.value;
    const WRITE: u64 = ENTRY::W::SET.value;
    const DIRTY: u64 = ENTRY::D::SET.value;

    fn check(attributes: SecondStageAttributes) -> Result<(), MapError> {
        // R = W = 0 is "not present" whatever X says.
        if !attributes.read && (attributes.execute || !attributes.write) {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn page(attributes: SecondStageAttributes) -> u64 {
        let fields = ENTRY::R.val(attributes.read.into())
            + ENTRY::W.val(attributes.write.into())
            + ENTRY::X.val(attributes.execute.into())
            + ENTRY::SNP.val(attributes.snoop.into());
        fields.value
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

    fn below(
        attributes: SecondStageAttributes,
        above: SecondStageAttributes,
    ) -> SecondStageAttributes {
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
}
