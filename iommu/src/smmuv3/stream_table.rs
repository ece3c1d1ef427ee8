//! The stream table (IHI 0070, §3.3, §5.1, §5.2): its one writer.
//!
//! Closed by default: a stream without a level 2 table, or with an entry never written, is refused and its attempts are
//! recorded. A stream that was given back is refused silently (Config = abort), as its owner was told already.

use alloc::vec::Vec;

use tock_registers::LocalRegisterCopy;

use super::held::Held;
use super::probe::Features;
use super::registers::Registers;
use super::spec::registers::{
    STRTAB_BASE, STRTAB_BASE_CFG, STRTAB_BASE_CFG_FIELDS, STRTAB_BASE_RA,
};
use super::spec::ste::{L1STD, STE_BYTES, STE_WORDS, STE0, STE1, STE2, STE3};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::id::DeviceId;
use crate::physical::{IommuError, StageTwo};

/// StreamID bits that index a level 2 table: a PCI bus, and 16 KiB.
const SPLIT: u8 = 8;
/// Largest StreamID width that a two-level table is made for: 512 KiB of level 1. Streams past it are refused (§3.3.2).
const TWO_LEVEL_BITS: u8 = 24;
/// The same for a linear table: 4 MiB.
const LINEAR_BITS: u8 = 16;

/// One entry as it stands in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamTableEntry(pub [u64; STE_WORDS]);

impl StreamTableEntry {
    /// Aborts everything, without an event.
    pub fn abort() -> Self {
        let mut words = [0; STE_WORDS];
        words[0] = (STE0::V::SET + STE0::CONFIG::Abort).value;
        Self(words)
    }

    /// Stage 2 only: the device sees the addresses that `two` translates from.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where `two` does not fit the SMMU.
    pub fn stage_two(two: StageTwo, features: &Features) -> Result<Self, IommuError> {
        let tag_fits = features.vmid16 || two.tag.0 < 1 << 8;
        let root_fits = two.root.is_aligned(4096) && two.root.0 >> features.output_bits() == 0;
        // Start level 0 needs at least 40 bits without concatenation, level 1 at least 31; and an input is never wider
        // than an output (§3.4.1).
        let width_fits =
            (32..=48).contains(&two.input_bits) && two.input_bits <= features.output_bits().max(40);
        if !tag_fits || !root_fits || !width_fits {
            return Err(IommuError::Unsupported);
        }
        let start_level = if two.input_bits > 39 { 0 } else { 1 };
        let mut stage_two = LocalRegisterCopy::<u64, STE2::Register>::new(0);
        stage_two.modify(
            STE2::S2VMID.val(two.tag.0.into())
                + STE2::S2T0SZ.val(64 - u64::from(two.input_bits))
                + STE2::S2SL0.val(2 - start_level)
                + STE2::S2TG::Granule4K
                // 52-bit output needs other descriptors; ours have 48.
                + STE2::S2PS.val(features.output_size.min(5).into())
                + STE2::S2AA64::SET
                + STE2::S2ENDI::CLEAR
                + STE2::S2AFFD::SET
                + STE2::S2PTW::SET
                + STE2::S2S::CLEAR
                + STE2::S2R::SET,
        );
        stage_two.modify(if features.coherent {
            STE2::S2IR0::WriteBackAllocate + STE2::S2OR0::WriteBackAllocate + STE2::S2SH0::Inner
        } else {
            STE2::S2IR0::NonCacheable + STE2::S2OR0::NonCacheable + STE2::S2SH0::Outer
        });
        let mut words = [0; STE_WORDS];
        words[0] = (STE0::V::SET + STE0::CONFIG::StageTwo).value;
        words[1] = (STE1::SHCFG::Incoming + STE1::EATS.val(0)).value;
        words[2] = stage_two.get();
        words[3] = STE3::S2TTB.val(two.root.0 >> 4).value;
        Ok(Self(words))
    }
}

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

    /// Whether the SMMU may use more of the entry than its first word.
    pub(super) fn is_open(&mut self, device: DeviceId) -> bool {
        self.slot(device).is_some_and(|(buffer, offset)| {
            let first = LocalRegisterCopy::<u64, STE0::Register>::new(buffer.read64(offset));
            first.is_set(STE0::V) && !first.matches_all(STE0::CONFIG::Abort)
        })
    }

    /// Closes an entry by one store to its first word; the others stay as they are.
    pub(super) fn close(&mut self, platform: &P, device: DeviceId) {
        let coherent = self.coherent;
        if let Some((buffer, offset)) = self.slot(device) {
            buffer.write64(offset, StreamTableEntry::abort().0[0]);
            if !coherent {
                buffer.clean(offset, 8);
            }
        }
        platform.write_barrier();
    }

    /// Writes a closed entry: all words but the first, then the first (§3.21.3.1: an SMMU reads it at any time).
    pub(super) fn open(&mut self, platform: &P, device: DeviceId, entry: StreamTableEntry) {
        let coherent = self.coherent;
        let Some((buffer, offset)) = self.slot(device) else {
            return;
        };
        for (word, value) in entry.0.iter().enumerate().skip(1) {
            buffer.write64(offset + word * 8, *value);
        }
        if !coherent {
            buffer.clean(offset, STE_BYTES);
        }
        platform.write_barrier();
        buffer.write64(offset, entry.0[0]);
        if !coherent {
            buffer.clean(offset, 8);
        }
        platform.write_barrier();
    }
}
