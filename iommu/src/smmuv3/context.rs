//! Context descriptors (IHI 0070, §5.4) for tables that the host owns: stage 1 with one table, from address 0 up.

use alloc::vec::Vec;
use core::mem::replace;

use tock_registers::LocalRegisterCopy;

use super::hitless::Words;
use super::probe::{Features, Stalls};
use super::spec::cd::{CD_BYTES, CD_WORDS, CD0, CD1, L1CD};
use super::stream_table::store;
use crate::hal::{DmaBuffer, Platform};
use crate::held::Held;
use crate::physical::{Granule, IommuError, StageOneConfig, StageOneTable};

/// One descriptor as it stands in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextDescriptor(pub [u64; CD_WORDS]);

impl ContextDescriptor {
    /// Refuses every transaction, with an event.
    pub const fn invalid() -> Self {
        Self([0; CD_WORDS])
    }

    /// Its address space, if it is valid.
    pub(super) fn asid(&self) -> Option<u16> {
        let first = LocalRegisterCopy::<u64, CD0::Register>::new(self.0[0]);
        first.is_set(CD0::V).then(|| first.read(CD0::ASID) as u16)
    }

    /// The descriptor of `table`. Faults are recorded and terminated with an abort.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where the SMMU has no such stage 1.
    pub fn new(table: &StageOneTable, features: &Features) -> Result<Self, IommuError> {
        let granule_fits = match table.granule {
            Granule::Size4K => true,
            Granule::Size16K => features.granule_16k,
            Granule::Size64K => features.granule_64k,
        };
        let fits = features.stage_one
            && granule_fits
            && (25..=48).contains(&table.input_bits)
            && table.root.is_aligned(1 << table.granule.log2())
            && table.root.0 >> features.output_bits() == 0
            && (features.asid16 || table.asid < 1 << 8)
            // S = 0 is ILLEGAL where every fault stalls (§5.4).
            && features.stalls != Stalls::Always;
        if !fits {
            return Err(IommuError::Unsupported);
        }
        let mut first = CD0::T0SZ.val(64 - u64::from(table.input_bits))
            + match table.granule {
                Granule::Size4K => CD0::TG0::Granule4K,
                Granule::Size16K => CD0::TG0::Granule16K,
                Granule::Size64K => CD0::TG0::Granule64K,
            }
            + CD0::EPD1::SET
            + CD0::V::SET
            + CD0::IPS.val(features.output_size.min(5).into())
            + CD0::AFFD::SET
            + CD0::AA64::SET
            + CD0::R::SET
            + CD0::A::SET
            + CD0::ASET::SET
            + CD0::ASID.val(table.asid.into());
        first += if features.coherent {
            CD0::IR0::WriteBackAllocate + CD0::OR0::WriteBackAllocate + CD0::SH0::Inner
        } else {
            CD0::IR0::NonCacheable + CD0::OR0::NonCacheable + CD0::SH0::Outer
        };
        let mut words = [0; CD_WORDS];
        words[0] = first.value;
        words[1] = CD1::TTB.val(table.root.0 >> 4).value;
        words[3] = table.attributes;
        Ok(Self(words))
    }
}

/// Most bytes that are copied for one descriptor: the level 1 table of 2^20 PASIDs, 2,048 descriptors of a linear table.
const MOST_COPIED: usize = 128 << 10;

/// log2 of the descriptors in a level 2 table: one of 4 KiB.
const SPLIT: u8 = 6;

enum Tables<B> {
    Linear(Held<B>),
    TwoLevel {
        first: Held<B>,
        /// Level 2 tables by level 1 index, in order.
        second: Vec<(u32, Held<B>)>,
    },
}

/// A table of descriptors, of the host's own: linear as long as that is one page or there is nothing else, then of two
/// levels, the second ones made as they are needed. A stream that uses it is put in abort before it is dropped.
pub struct ContextTable<P: Platform> {
    tables: Tables<P::Buffer>,
    log2: u8,
    coherent: bool,
}

impl<P: Platform> ContextTable<P> {
    /// 2^`log2` invalid descriptors.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for more than the SMMU has substreams, [`IommuError::OutOfMemory`].
    pub fn new(platform: &P, log2: u8, features: &Features) -> Result<Self, IommuError> {
        if !features.stage_one || log2 > features.substream_bits {
            return Err(IommuError::Unsupported);
        }
        let two_level = features.two_level_contexts && log2 > SPLIT;
        let bytes = if two_level {
            8 << (log2 - SPLIT)
        } else {
            CD_BYTES << log2
        };
        let buffer = fresh(platform, bytes.max(4096), features.coherent)?;
        let tables = if two_level {
            Tables::TwoLevel {
                first: buffer,
                second: Vec::new(),
            }
        } else {
            Tables::Linear(buffer)
        };
        platform.write_barrier();
        Ok(Self {
            tables,
            log2,
            coherent: features.coherent,
        })
    }

    /// What a device's entry says to use it. Transactions without a PASID use descriptor 0.
    pub fn stage_one(&self) -> StageOneConfig {
        let (cacheable, shareability) = if self.coherent { (1, 3) } else { (0, 2) };
        let (format, base) = match &self.tables {
            Tables::Linear(buffer) => (0, buffer),
            Tables::TwoLevel { first, .. } => (1, first),
        };
        StageOneConfig {
            format,
            contexts: base.hpa().0,
            contexts_log2: self.log2,
            default_context: if self.log2 == 0 { 0 } else { 2 },
            inner: cacheable,
            outer: cacheable,
            shareability,
            ..StageOneConfig::default()
        }
    }

    /// Whether it has a descriptor for `substream`.
    pub(super) fn holds(&self, substream: u32) -> bool {
        u64::from(substream) >> self.log2 == 0
    }

    /// Makes sure that `substream`, which the table holds, has its descriptor in memory. Returns whether a level 1
    /// descriptor changed.
    pub(super) fn prepare(&mut self, platform: &P, substream: u32) -> Result<bool, IommuError> {
        let Tables::TwoLevel { first, second } = &mut self.tables else {
            return Ok(false);
        };
        let index = substream >> SPLIT;
        let Err(place) = second.binary_search_by_key(&index, |(at, _)| *at) else {
            return Ok(false);
        };
        second.try_reserve(1).map_err(|_| IommuError::OutOfMemory)?;
        let buffer = fresh(platform, CD_BYTES << SPLIT, self.coherent)?;
        let entry = L1CD::V::SET + L1CD::L2PTR.val(buffer.hpa().0 >> 12);
        // The zeroes are visible before the descriptor that leads to them.
        platform.write_barrier();
        let offset = index as usize * 8;
        first.write64(offset, entry.value);
        if !self.coherent {
            first.clean(offset, 8);
        }
        platform.write_barrier();
        second.insert(place, (index, buffer));
        Ok(true)
    }

    /// The buffer that holds the descriptor of `substream`, and its offset there.
    fn slot(&mut self, substream: u32) -> Option<(&mut P::Buffer, usize)> {
        if !self.holds(substream) {
            return None;
        }
        match &mut self.tables {
            Tables::Linear(buffer) => Some((&mut **buffer, substream as usize * CD_BYTES)),
            Tables::TwoLevel { second, .. } => {
                let index = substream >> SPLIT;
                let place = second.binary_search_by_key(&index, |(at, _)| *at).ok()?;
                let within = (substream & ((1 << SPLIT) - 1)) as usize;
                Some((&mut *second[place].1, within * CD_BYTES))
            }
        }
    }

    /// The descriptor of `substream`; `None` if it has none in memory.
    pub(super) fn read(&mut self, substream: u32) -> Option<Words> {
        let (buffer, offset) = self.slot(substream)?;
        Some(core::array::from_fn(|word| {
            buffer.read64(offset + word * 8)
        }))
    }

    /// Stores words of a descriptor, those of `image` that have a bit in `changes`; visible to the SMMU on return.
    pub(super) fn store(&mut self, platform: &P, substream: u32, image: &Words, changes: u8) {
        let coherent = self.coherent;
        if let Some((buffer, offset)) = self.slot(substream) {
            store(platform, buffer, offset, image, changes, coherent);
        }
    }

    /// Makes it a copy of itself, in memory that no SMMU knows yet, with `image` as the descriptor of `substream`. What led
    /// to the table leads to what it was.
    ///
    /// # Errors
    /// [`IommuError::OutOfMemory`]; [`IommuError::Unsupported`] for a table that is too large to be copied.
    pub(super) fn renew(
        &mut self,
        platform: &P,
        substream: u32,
        image: &Words,
    ) -> Result<Former<P::Buffer>, IommuError> {
        let coherent = self.coherent;
        let (buffer, offset) = self.slot(substream).ok_or(IommuError::Unsupported)?;
        let leaf = copy(platform, buffer, offset, image, coherent)?;
        let former = match &mut self.tables {
            Tables::Linear(buffer) => Former {
                first: replace(buffer, leaf),
                second: None,
            },
            Tables::TwoLevel { first, second } => {
                let index = substream >> SPLIT;
                let place = second.binary_search_by_key(&index, |(at, _)| *at);
                let place = place.map_err(|_| IommuError::Unsupported)?;
                let entry = L1CD::V::SET + L1CD::L2PTR.val(leaf.hpa().0 >> 12);
                let offset = index as usize * 8;
                let renewed = copy(platform, first, offset, &[entry.value], coherent)?;
                Former {
                    first: replace(first, renewed),
                    second: Some((place, replace(&mut second[place].1, leaf))),
                }
            }
        };
        platform.write_barrier();
        Ok(former)
    }

    /// Takes a copy back that no SMMU was told of.
    pub(super) fn restore(&mut self, former: Former<P::Buffer>) {
        match &mut self.tables {
            Tables::Linear(buffer) => *buffer = former.first,
            Tables::TwoLevel { first, second } => {
                *first = former.first;
                if let Some((place, leaf)) = former.second {
                    second[place].1 = leaf;
                }
            }
        }
    }

    /// The SMMU may still read it when it is dropped.
    pub(super) fn lose(&mut self) {
        match &mut self.tables {
            Tables::Linear(buffer) => buffer.lose(),
            Tables::TwoLevel { first, second } => {
                first.lose();
                second.iter_mut().for_each(|(_, buffer)| buffer.lose());
            }
        }
    }
}

/// What a copy stands in for, until the SMMU has forgotten it.
pub(super) struct Former<B> {
    first: Held<B>,
    /// The level 2 table, with its place among these.
    second: Option<(usize, Held<B>)>,
}

impl<B> Former<B> {
    /// The SMMU may still read it when it is dropped.
    pub(super) fn lose(mut self) {
        self.first.lose();
        if let Some((_, leaf)) = &mut self.second {
            leaf.lose();
        }
    }
}

/// The words of `from`, but for `image` at `offset`. A barrier makes it visible.
fn copy<P: Platform>(
    platform: &P,
    from: &P::Buffer,
    offset: usize,
    image: &[u64],
    coherent: bool,
) -> Result<Held<P::Buffer>, IommuError> {
    if from.len() > MOST_COPIED {
        return Err(IommuError::Unsupported);
    }
    let buffer = platform.allocate(from.len());
    let mut buffer = buffer.ok_or(IommuError::OutOfMemory)?;
    for at in (0..from.len()).step_by(8) {
        let changed = at.checked_sub(offset).and_then(|at| image.get(at / 8));
        let word = changed.copied().unwrap_or_else(|| from.read64(at));
        if word != 0 {
            buffer.write64(at, word);
        }
    }
    if !coherent {
        buffer.clean(0, buffer.len());
    }
    Ok(Held::new(buffer))
}

/// Zeroes that an SMMU sees as such.
fn fresh<P: Platform>(
    platform: &P,
    bytes: usize,
    coherent: bool,
) -> Result<Held<P::Buffer>, IommuError> {
    let buffer = platform.allocate(bytes).ok_or(IommuError::OutOfMemory)?;
    if !coherent {
        buffer.clean(0, buffer.len());
    }
    Ok(Held::new(buffer))
}
