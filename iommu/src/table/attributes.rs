//! What a mapping allows, and its form in a leaf descriptor.

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::spec::LEAF;

/// What kind of memory lies behind a mapping (DDI 0487, D8.6.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Normal, write-back cacheable, inner shareable.
    Normal,
    /// Device-nGnRE.
    Device,
}

/// What a mapping allows, and of which kind of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Instruction fetches are allowed (CPU only; needs `read`).
    pub execute: bool,
    /// Memory type.
    pub memory: Memory,
}

impl Attributes {
    /// RAM of a partition, for its CPUs.
    pub const RAM: Self = Self {
        read: true,
        write: true,
        execute: true,
        memory: Memory::Normal,
    };
    /// RAM of a partition, for its devices.
    pub const DMA: Self = Self {
        execute: false,
        ..Self::RAM
    };
    /// Registers of a device.
    pub const DEVICE: Self = Self {
        read: true,
        write: true,
        execute: false,
        memory: Memory::Device,
    };

    /// The descriptor at `level` for `output`.
    pub(super) fn leaf(self, level: u8, output: u64) -> u64 {
        let mut entry = LocalRegisterCopy::<u64, LEAF::Register>::new(output);
        entry.modify(
            LEAF::READ.val(self.read.into())
                + LEAF::WRITE.val(self.write.into())
                + LEAF::XN.val((!self.execute).into())
                + LEAF::AF::SET
                + LEAF::SH::Inner,
        );
        entry.modify(match self.memory {
            Memory::Normal => LEAF::MEM_ATTR::NormalWriteBack,
            Memory::Device => LEAF::MEM_ATTR::DeviceNGnRE,
        });
        entry.modify(if level == 3 {
            LEAF::TYPE::Page
        } else {
            LEAF::TYPE::Block
        });
        entry.get()
    }

    /// What a leaf descriptor says.
    pub(super) fn of(entry: u64) -> Self {
        let entry = LocalRegisterCopy::<u64, LEAF::Register>::new(entry);
        Self {
            read: entry.is_set(LEAF::READ),
            write: entry.is_set(LEAF::WRITE),
            execute: !entry.is_set(LEAF::XN),
            memory: if entry.matches_all(LEAF::MEM_ATTR::DeviceNGnRE) {
                Memory::Device
            } else {
                Memory::Normal
            },
        }
    }

    /// Whether this can be mapped at all.
    pub(super) fn check(self) -> Result<(), MapError> {
        if !self.read && (self.execute || !self.write) {
            return Err(MapError::Access);
        }
        Ok(())
    }
}
