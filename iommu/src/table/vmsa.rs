//! VMSAv8-64, stages 1 and 2, all three granules, up to 48 bits (DDI 0487, chapter D8).

use core::marker::PhantomData;

use tock_registers::LocalRegisterCopy;

use super::MapError;
use super::format::{Entry, Format};
use super::spec::vmsa::{ADDRESS, LEAF, LEAF1, OUTPUT_BITS, TABLE};

/// Size of pages and tables (DDI 0487, D8.2.8 to D8.2.10). FEAT_LPA and FEAT_LPA2 are not used.
pub trait Granule: 'static {
    /// log2 of it.
    const SHIFT: u32;
    /// Greatest height of a block descriptor.
    const BLOCKS: u8;
    /// Greatest height of a stage 2 start table where the output is `output_bits` wide: the initial lookup levels
    /// that R_SRKBC and R_DXBSH leave.
    fn stage_two_top(output_bits: u8) -> u8;
}

/// 4 KiB: blocks of 2 MiB and 1 GiB.
#[derive(Debug)]
pub enum Granule4K {}
/// 16 KiB: blocks of 32 MiB.
#[derive(Debug)]
pub enum Granule16K {}
/// 64 KiB: blocks of 512 MiB.
#[derive(Debug)]
pub enum Granule64K {}

impl Granule for Granule4K {
    const SHIFT: u32 = 12;
    const BLOCKS: u8 = 2;
    fn stage_two_top(output_bits: u8) -> u8 {
        if output_bits <= 42 { 2 } else { 3 }
    }
}

impl Granule for Granule16K {
    const SHIFT: u32 = 14;
    const BLOCKS: u8 = 1;
    fn stage_two_top(output_bits: u8) -> u8 {
        if output_bits <= 40 { 1 } else { 2 }
    }
}

impl Granule for Granule64K {
    const SHIFT: u32 = 16;
    const BLOCKS: u8 = 1;
    fn stage_two_top(output_bits: u8) -> u8 {
        if output_bits <= 42 { 1 } else { 2 }
    }
}

/// What kind of memory lies behind a mapping (DDI 0487, D8.6.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Normal, write-back cacheable, inner shareable. Write-back on x86.
    Normal,
    /// Device-nGnRE. Uncacheable on x86.
    Device,
}

/// What a mapping for a guest's CPU allows, and of which kind of memory: stage 2, NPT or EPT.
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

    /// What is left of these below a table that allows `above`.
    pub(super) fn below(self, above: Self) -> Self {
        Self {
            read: self.read && above.read,
            write: self.write && above.write,
            execute: self.execute && above.execute,
            ..self
        }
    }
}

/// The leaf form of bits 1:0 at `height` (D8.3.1.2).
fn kind(height: u8) -> u64 {
    if height == 0 {
        LEAF::TYPE::Page.value
    } else {
        LEAF::TYPE::Block.value
    }
}

/// Both stages: the address of a `G` table or page.
fn address<G: Granule>(entry: u64) -> u64 {
    entry & ADDRESS & (u64::MAX << G::SHIFT)
}

fn link(next: u64) -> u64 {
    (next & ADDRESS) | TABLE::TYPE::Table.value
}

/// Both stages: bits 1:0 and the levels that have blocks (D8.3.1). What a walker ignores is ignored here too.
fn decode<G: Granule>(entry: u64, height: u8) -> Entry {
    match (entry & 3, height) {
        (0 | 2, _) => Entry::Invalid,
        (3, 1..) => Entry::Table(address::<G>(entry)),
        (1, 0) => Entry::Reserved,
        (1, _) if height > G::BLOCKS => Entry::Reserved,
        _ => Entry::Leaf(
            address::<G>(entry) & (u64::MAX << (G::SHIFT + (G::SHIFT - 3) * u32::from(height))),
        ),
    }
}

/// Stage 2.
#[derive(Debug)]
pub struct StageTwo<G>(PhantomData<G>);

impl<G: Granule> Format for StageTwo<G> {
    type Attributes = Attributes;
    const PAGE_SHIFT: u32 = G::SHIFT;
    const BLOCKS: u8 = G::BLOCKS;
    const INPUT: (u8, u8) = (32, 48);
    const OUTPUT: u8 = OUTPUT_BITS;
    const LEAST_TOP: u8 = 1;
    const CONCATENATES: bool = true;

    fn greatest_top(output_bits: u8) -> u8 {
        G::stage_two_top(output_bits)
    }

    fn check(attributes: Attributes) -> Result<(), MapError> {
        if !attributes.read && (attributes.execute || !attributes.write) {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn link(next: u64) -> u64 {
        link(next)
    }

    fn leaf(attributes: Attributes, height: u8, output: u64) -> u64 {
        let memory = match attributes.memory {
            Memory::Normal => LEAF::MEM_ATTR::NormalWriteBack,
            Memory::Device => LEAF::MEM_ATTR::DeviceNGnRE,
        };
        let fields = LEAF::READ.val(attributes.read.into())
            + LEAF::WRITE.val(attributes.write.into())
            + LEAF::XN.val((!attributes.execute).into())
            + LEAF::AF::SET
            + LEAF::SH::Inner
            + memory;
        output | fields.value | kind(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        entry | kind(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        decode::<G>(entry, height)
    }

    fn attributes(entry: u64) -> Attributes {
        let entry = LocalRegisterCopy::<u64, LEAF::Register>::new(entry);
        Attributes {
            read: entry.is_set(LEAF::READ),
            write: entry.is_set(LEAF::WRITE) || entry.is_set(LEAF::DBM),
            execute: !entry.is_set(LEAF::XN),
            memory: if entry.read(LEAF::MEM_ATTR) >> 2 == 0 {
                Memory::Device
            } else {
                Memory::Normal
            },
        }
    }

    fn restrict(attributes: Attributes, _link: u64) -> Attributes {
        attributes
    }

    fn replaceable(from: Attributes, to: Attributes) -> bool {
        from.memory == to.memory
    }

    fn accessed(entry: u64) -> bool {
        entry & LEAF::AF::SET.value != 0
    }

    fn tracked(entry: u64) -> u64 {
        let written = LEAF::WRITE::SET.value;
        if entry & written == 0 {
            entry
        } else {
            (entry & !written) | LEAF::DBM::SET.value
        }
    }

    fn is_dirty(entry: u64) -> bool {
        let both = LEAF::WRITE::SET.value | LEAF::DBM::SET.value;
        entry & both == both
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & LEAF::DBM::SET.value == 0 {
            entry
        } else {
            entry | LEAF::WRITE::SET.value
        }
    }
}

/// What a stage 1 mapping allows. Privileged reads are always allowed (DDI 0487, D8.4.1.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageOneAttributes {
    /// Writes are allowed.
    pub write: bool,
    /// Unprivileged accesses are allowed.
    pub unprivileged: bool,
    /// Unprivileged instruction fetches are allowed.
    pub execute: bool,
    /// Privileged instruction fetches are allowed.
    pub privileged_execute: bool,
    /// The same for every ASID.
    pub global: bool,
    /// Which byte of MAIR says the memory type, 0 to 7.
    pub attr_index: u8,
}

impl StageOneAttributes {
    /// The MAIR that gives the indices below their meaning: 0 is normal write-back, 1 Device-nGnRE.
    pub const MAIR: u64 = 0x04ff;
    /// Memory for devices, whatever privilege they claim, in one ASID. (AttrIndx 0.)
    pub const DMA: Self = Self {
        write: true,
        unprivileged: true,
        execute: false,
        privileged_execute: false,
        global: false,
        attr_index: 0,
    };
    /// Registers of a device. (AttrIndx 1.)
    pub const DEVICE: Self = Self {
        attr_index: 1,
        ..Self::DMA
    };
}

/// Stage 1 of a regime with two privilege levels.
#[derive(Debug)]
pub struct StageOne<G>(PhantomData<G>);

impl<G: Granule> Format for StageOne<G> {
    type Attributes = StageOneAttributes;
    const PAGE_SHIFT: u32 = G::SHIFT;
    const BLOCKS: u8 = G::BLOCKS;
    const INPUT: (u8, u8) = (32, 48);
    const OUTPUT: u8 = OUTPUT_BITS;
    const LEAST_TOP: u8 = 1;

    fn greatest_top(_output_bits: u8) -> u8 {
        3
    }

    fn check(attributes: StageOneAttributes) -> Result<(), MapError> {
        if attributes.attr_index > 7 {
            return Err(MapError::Access);
        }
        Ok(())
    }

    fn link(next: u64) -> u64 {
        link(next)
    }

    fn leaf(attributes: StageOneAttributes, height: u8, output: u64) -> u64 {
        let fields = LEAF1::ATTR_INDEX.val(attributes.attr_index.into())
            + LEAF1::UNPRIVILEGED.val(attributes.unprivileged.into())
            + LEAF1::READ_ONLY.val((!attributes.write).into())
            + LEAF1::SH::Inner
            + LEAF1::AF::SET
            + LEAF1::NOT_GLOBAL.val((!attributes.global).into())
            + LEAF1::PXN.val((!attributes.privileged_execute).into())
            + LEAF1::UXN.val((!attributes.execute).into());
        output | fields.value | kind(height)
    }

    fn part(entry: u64, height: u8) -> u64 {
        entry | kind(height)
    }

    fn decode(entry: u64, height: u8) -> Entry {
        decode::<G>(entry, height)
    }

    fn attributes(entry: u64) -> StageOneAttributes {
        let entry = LocalRegisterCopy::<u64, LEAF1::Register>::new(entry);
        StageOneAttributes {
            write: !entry.is_set(LEAF1::READ_ONLY) || entry.is_set(LEAF1::DBM),
            unprivileged: entry.is_set(LEAF1::UNPRIVILEGED),
            execute: !entry.is_set(LEAF1::UXN),
            privileged_execute: !entry.is_set(LEAF1::PXN),
            global: !entry.is_set(LEAF1::NOT_GLOBAL),
            attr_index: entry.read(LEAF1::ATTR_INDEX) as u8,
        }
    }

    fn restrict(attributes: StageOneAttributes, link: u64) -> StageOneAttributes {
        let link = LocalRegisterCopy::<u64, TABLE::Register>::new(link);
        StageOneAttributes {
            write: attributes.write && !link.is_set(TABLE::AP_TABLE_READ_ONLY),
            unprivileged: attributes.unprivileged && !link.is_set(TABLE::AP_TABLE_PRIVILEGED),
            execute: attributes.execute && !link.is_set(TABLE::UXN_TABLE),
            privileged_execute: attributes.privileged_execute && !link.is_set(TABLE::PXN_TABLE),
            ..attributes
        }
    }

    fn replaceable(from: StageOneAttributes, to: StageOneAttributes) -> bool {
        from.attr_index == to.attr_index && from.global == to.global
    }

    fn accessed(entry: u64) -> bool {
        entry & LEAF1::AF::SET.value != 0
    }

    fn tracked(entry: u64) -> u64 {
        let clean = LEAF1::READ_ONLY::SET.value;
        if entry & clean != 0 {
            entry
        } else {
            entry | clean | LEAF1::DBM::SET.value
        }
    }

    fn is_dirty(entry: u64) -> bool {
        entry & (LEAF1::READ_ONLY::SET.value | LEAF1::DBM::SET.value) == LEAF1::DBM::SET.value
    }

    fn dirtied(entry: u64) -> u64 {
        if entry & LEAF1::DBM::SET.value == 0 {
            entry
        } else {
            entry & !LEAF1::READ_ONLY::SET.value
        }
    }
}
