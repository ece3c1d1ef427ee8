//! Registers that the distributor has for SPIs and each redistributor for SGIs and PPIs, at the same offsets.

use super::spec::PRIORITY_MASK;
use super::{Effects, Read, Vgic};
use crate::vdev::CpuSet;

/// What one bit of a register stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bit {
    Group,
    Enable(bool),
    Pending(bool),
    Active(bool),
}

/// One access to one such register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Banked {
    /// 32 interrupts from `first`.
    Bits { bit: Bit, first: u32 },
    /// The priorities of `count` interrupts from `first`.
    Priority { first: u32, count: u32 },
    /// 16 interrupts from `first`.
    Trigger { first: u32 },
}

impl Banked {
    /// What an access of `size` bytes at `offset` is, if it is one of these and the architecture allows it.
    pub const fn decode(offset: u64, size: u8) -> Option<Self> {
        let word = size == 4 && offset.is_multiple_of(4);
        let first = (offset & 0x7f) as u32 * 8;
        let bit = match offset {
            0x080..=0x0ff => Bit::Group,
            0x100..=0x17f => Bit::Enable(true),
            0x180..=0x1ff => Bit::Enable(false),
            0x200..=0x27f => Bit::Pending(true),
            0x280..=0x2ff => Bit::Pending(false),
            0x300..=0x37f => Bit::Active(true),
            0x380..=0x3ff => Bit::Active(false),
            0x400..=0x7fb if word || size == 1 => {
                return Some(Self::Priority {
                    first: (offset - 0x400) as u32,
                    count: size as u32,
                });
            }
            0xc00..=0xcff if word => {
                return Some(Self::Trigger {
                    first: (offset - 0xc00) as u32 * 4,
                });
            }
            _ => return None,
        };
        if word {
            Some(Self::Bits { bit, first })
        } else {
            None
        }
    }

    /// First INTID, and how many.
    pub const fn range(self) -> (u32, u32) {
        match self {
            Self::Bits { first, .. } => (first, 32),
            Self::Priority { first, count } => (first, count),
            Self::Trigger { first } => (first, 16),
        }
    }
}

impl Vgic {
    /// Reads `register`, whose first interrupt is `id`.
    pub(super) fn read_banked(&self, register: Banked, id: usize) -> Read {
        let (_, count) = register.range();
        let mut read = Read::default();
        for (index, irq) in (0u32..).zip(&self.irqs[id..id + count as usize]) {
            let (bits, value) = match register {
                Banked::Bits { bit, .. } => {
                    if matches!(bit, Bit::Pending(_) | Bit::Active(_)) && irq.is_resident() {
                        read.kick = read.kick.union(CpuSet::one(usize::from(irq.resident)));
                    }
                    let set = match bit {
                        Bit::Group => irq.group1,
                        Bit::Enable(_) => irq.enabled,
                        Bit::Pending(_) => irq.reads_pending(),
                        Bit::Active(_) => irq.reads_active(),
                    };
                    (1, u64::from(set))
                }
                Banked::Priority { .. } => (8, u64::from(irq.priority)),
                Banked::Trigger { .. } => (2, u64::from(irq.edge) << 1),
            };
            read.value |= value << (index * bits);
        }
        read
    }

    /// Writes `register`, whose first interrupt is `id`, for `cpu`.
    pub(super) fn write_banked(
        &mut self,
        cpu: usize,
        register: Banked,
        id: usize,
        value: u64,
    ) -> Effects {
        let mut effects = Effects::default();
        let (first, count) = register.range();
        for index in 0..count {
            let id = id + index as usize;
            match register {
                Banked::Bits {
                    bit: Bit::Group, ..
                } => {
                    let group1 = value >> index & 1 != 0;
                    if self.irqs[id].group1 != group1 {
                        self.irqs[id].group1 = group1;
                        self.update(id, &mut effects);
                    }
                }
                Banked::Bits { .. } if value >> index & 1 == 0 => {}
                Banked::Bits {
                    bit: Bit::Enable(set),
                    ..
                } => self.set_enabled(id, set, &mut effects),
                Banked::Bits {
                    bit: Bit::Pending(set),
                    ..
                } => self.set_pending(id, set, &mut effects),
                Banked::Bits {
                    bit: Bit::Active(set),
                    ..
                } => self.set_active(id, cpu, set, &mut effects),
                Banked::Priority { .. } => {
                    let priority = (value >> (8 * index)) as u8 & PRIORITY_MASK;
                    if self.irqs[id].priority != priority {
                        self.irqs[id].priority = priority;
                        self.update(id, &mut effects);
                    }
                }
                // SGIs are edge-triggered for good.
                Banked::Trigger { .. } if first + index < 16 => {}
                Banked::Trigger { .. } => {
                    let edge = value >> (2 * index + 1) & 1 != 0;
                    if self.irqs[id].edge != edge {
                        self.irqs[id].edge = edge;
                        self.update(id, &mut effects);
                    }
                }
            }
        }
        effects
    }
}

/// The part of a 64-bit register that an access of `size` bytes sees, `offset` bytes into it.
pub(in crate::vdev) const fn part(register: u64, offset: u64, size: u8) -> u64 {
    if size == 8 {
        register
    } else {
        register >> (8 * (offset & 4)) & 0xffff_ffff
    }
}

/// The register after such a write.
pub(in crate::vdev) const fn merge(register: u64, offset: u64, size: u8, value: u64) -> u64 {
    if size == 8 {
        value
    } else {
        let shift = 8 * (offset & 4);
        register & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift
    }
}

/// Whether such an access is one to a 64-bit register: whole, or one of its words.
pub(in crate::vdev) const fn is_wide(offset: u64, size: u8) -> bool {
    (size == 4 || size == 8) && offset.is_multiple_of(size as u64)
}
