//! The stream table (IHI 0070, §3.3, §5.1, §5.2): its one writer.
//!
//! Closed by default: a stream without a level 2 table, with an entry never written, or that was given back (V = 0) is
//! refused and its attempts are recorded. Refused silently (Config = abort) is only what somebody asked for.

use alloc::vec::Vec;

use tock_registers::LocalRegisterCopy;

use super::hitless::{WORDS, Words};
use super::probe::Features;
use super::registers::Registers;
use super::spec::registers::{
    STRTAB_BASE, STRTAB_BASE_CFG, STRTAB_BASE_CFG_FIELDS, STRTAB_BASE_RA,
};
use super::spec::ste::{L1STD, STE_BYTES};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::held::{Held, span};
use crate::id::DeviceId;
use crate::physical::IommuError;

/// StreamID bits that index a level 2 table: a PCI bus, and 16 KiB.
const SPLIT: u8 = 8;
/// Largest StreamID width that a two-level table is made for: 512 KiB of level 1. Streams past it are refused (§3.3.1).
const TWO_LEVEL_BITS: u8 = 24;
/// The same for a linear table: 4 MiB.
const LINEAR_BITS: u8 = 16;

enum Tables<B> {
    Linear(Held<B>),
    TwoLevel {
        first: Held<B>,
        /// Level 2 tables by level 1 index, in order.
        second: Vec<(u32, Held<B>)>,
    },
}

pub(super) struct StreamTable<P: Platform> {
    tables: Tables<P::Buffer>,
    log2_streams: u8,
    coherent: bool,
}

impl<P: Platform> StreamTable<P> {
    pub(super) fn new(platform: &P, features: &Features) -> Option<Self> {
        let two_level = features.two_level && features.stream_bits > SPLIT;
        let log2_streams = features.stream_bits.min(if two_level {
            TWO_LEVEL_BITS
        } else {
            LINEAR_BITS
        });
        let bytes = if two_level {
            8usize << (log2_streams - SPLIT)
        } else {
            STE_BYTES << log2_streams
        };
        let buffer = platform.allocate(bytes.max(4096))?;
        if !features.coherent {
            buffer.clean(0, buffer.len());
        }
        let buffer = Held::new(buffer);
        let tables = if two_level {
            Tables::TwoLevel {
                first: buffer,
                second: Vec::new(),
            }
        } else {
            Tables::Linear(buffer)
        };
        Some(Self {
            tables,
            log2_streams,
            coherent: features.coherent,
        })
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> u64 {
        match &self.tables {
            Tables::Linear(buffer) => buffer.len() as u64,
            Tables::TwoLevel { first, second } => {
                let second: usize = second.iter().map(|(_, buffer)| buffer.len()).sum();
                (first.len() + second) as u64
            }
        }
    }

    /// The table that STRTAB_BASE points to.
    pub(super) fn base(&self) -> Span<Hpa> {
        let (Tables::Linear(buffer) | Tables::TwoLevel { first: buffer, .. }) = &self.tables;
        span(&**buffer)
    }

    pub(super) fn is_two_level(&self) -> bool {
        matches!(self.tables, Tables::TwoLevel { .. })
    }

    /// Bits of a StreamID that the table covers.
    pub(super) fn stream_bits(&self) -> u8 {
        self.log2_streams
    }

    pub(super) fn lose(&mut self) {
        match &mut self.tables {
            Tables::Linear(buffer) => buffer.lose(),
            Tables::TwoLevel { first, second } => {
                first.lose();
                second.iter_mut().for_each(|(_, buffer)| buffer.lose());
            }
        }
    }

    /// Tells a disabled SMMU where the table is.
    pub(super) fn program<M: Mmio>(&self, registers: &Registers<M>) {
        let mut config = LocalRegisterCopy::<u32, STRTAB_BASE_CFG_FIELDS::Register>::new(0);
        config.modify(STRTAB_BASE_CFG_FIELDS::LOG2SIZE.val(self.log2_streams.into()));
        let base = match &self.tables {
            Tables::Linear(buffer) => {
                config.modify(STRTAB_BASE_CFG_FIELDS::FMT::Linear);
                buffer.hpa()
            }
            Tables::TwoLevel { first, .. } => {
                config.modify(
                    STRTAB_BASE_CFG_FIELDS::FMT::TwoLevel
                        + STRTAB_BASE_CFG_FIELDS::SPLIT.val(SPLIT.into()),
                );
                first.hpa()
            }
        };
        registers.write64(STRTAB_BASE, STRTAB_BASE_RA | base.0);
        registers.write(STRTAB_BASE_CFG, config.get());
    }

    /// Makes sure that `device` has an entry. Returns whether a level 1 descriptor changed.
    pub(super) fn prepare(&mut self, platform: &P, device: DeviceId) -> Result<bool, IommuError> {
        if u64::from(device.0) >> self.log2_streams != 0 {
            return Err(IommuError::NoSuchDevice(device));
        }
        let Tables::TwoLevel { first, second } = &mut self.tables else {
            return Ok(false);
        };
        let index = device.0 >> SPLIT;
        let Err(place) = second.binary_search_by_key(&index, |(at, _)| *at) else {
            return Ok(false);
        };
        second.try_reserve(1).map_err(|_| IommuError::OutOfMemory)?;
        let buffer = platform
            .allocate(STE_BYTES << SPLIT)
            .ok_or(IommuError::OutOfMemory)?;
        if !self.coherent {
            buffer.clean(0, buffer.len());
        }
        let entry = L1STD::SPAN.val(u64::from(SPLIT) + 1) + L1STD::L2PTR.val(buffer.hpa().0 >> 6);
        // The zeroes are visible before the descriptor that leads to them.
        platform.write_barrier();
        let offset = index as usize * 8;
        first.write64(offset, entry.value);
        if !self.coherent {
            first.clean(offset, 8);
        }
        second.insert(place, (index, Held::new(buffer)));
        Ok(true)
    }

    /// The buffer that holds the entry of `device`, and its offset there.
    fn slot(&mut self, device: DeviceId) -> Option<(&mut P::Buffer, usize)> {
        match &mut self.tables {
            Tables::Linear(buffer) => Some((&mut **buffer, device.0 as usize * STE_BYTES)),
            Tables::TwoLevel { second, .. } => {
                let index = device.0 >> SPLIT;
                let place = second.binary_search_by_key(&index, |(at, _)| *at).ok()?;
                let within = (device.0 & ((1 << SPLIT) - 1)) as usize;
                Some((&mut *second[place].1, within * STE_BYTES))
            }
        }
    }

    /// The entry of a device as it is in memory.
    pub(super) fn read(&mut self, device: DeviceId) -> Option<Words> {
        let (buffer, offset) = self.slot(device)?;
        Some(read(buffer, offset))
    }

    /// Stores words of an entry, those of `image` that have a bit in `changes`, in ascending order; visible to the SMMU on
    /// return.
    pub(super) fn store(&mut self, platform: &P, device: DeviceId, image: &Words, changes: u8) {
        let coherent = self.coherent;
        if let Some((buffer, offset)) = self.slot(device) {
            store(platform, buffer, offset, image, changes, coherent);
        }
    }
}

/// The words of a structure at `offset`.
pub(crate) fn read(buffer: &impl DmaBuffer, offset: usize) -> Words {
    let mut words = [0; WORDS];
    buffer.read64_words(offset, &mut words);
    words
}

/// Stores words of a structure at `offset`: those of `image` that have a bit in `changes`.
pub(crate) fn store<P: Platform>(
    platform: &P,
    buffer: &mut P::Buffer,
    offset: usize,
    image: &Words,
    changes: u8,
    coherent: bool,
) {
    let mut left = changes;
    while left != 0 {
        let word = left.trailing_zeros() as usize % WORDS;
        left &= left - 1;
        buffer.write64(offset + word * 8, image[word]);
    }
    if !coherent {
        buffer.clean(offset, core::mem::size_of_val(image));
    }
    platform.write_barrier();
}
