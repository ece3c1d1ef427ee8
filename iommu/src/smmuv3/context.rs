//! Context descriptors (IHI 0070, §5.4) for tables that the host owns: stage 1 with one table, from address 0 up.

use super::hitless::Words;
use super::probe::{Features, Stalls};
use super::spec::cd::{CD_BYTES, CD_WORDS, CD0, CD1};
use super::stream_table::store;
use crate::addr::Hpa;
use crate::hal::{DmaBuffer, Platform};
use crate::physical::{Granule, IommuError, StageOneConfig};

/// A first-stage table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageOneTable {
    /// Its address space.
    pub asid: u16,
    /// Root table.
    pub root: Hpa,
    /// Input address width in bits.
    pub input_bits: u8,
    /// Its granule.
    pub granule: Granule,
    /// Memory attributes that its leaves index (MAIR).
    pub attributes: u64,
}

/// One descriptor as it stands in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextDescriptor(pub [u64; CD_WORDS]);

impl ContextDescriptor {
    /// Refuses every transaction, with an event.
    pub const fn invalid() -> Self {
        Self([0; CD_WORDS])
    }

    /// The descriptor of `table`. Faults are recorded and terminated with an abort.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where the SMMU has no such stage 1.
    pub fn new(table: StageOneTable, features: &Features) -> Result<Self, IommuError> {
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

/// A linear table of descriptors, of the host's own. A stream that uses it is put in abort before it is dropped.
pub struct ContextTable<P: Platform> {
    buffer: P::Buffer,
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
        let bytes = (CD_BYTES << log2).max(4096);
        let buffer = platform.allocate(bytes).ok_or(IommuError::OutOfMemory)?;
        if !features.coherent {
            buffer.clean(0, buffer.len());
        }
        platform.write_barrier();
        Ok(Self {
            buffer,
            log2,
            coherent: features.coherent,
        })
    }

    /// What a device's entry says to use it. Transactions without a PASID use descriptor 0.
    pub fn stage_one(&self) -> StageOneConfig {
        let (cacheable, shareability) = if self.coherent { (1, 3) } else { (0, 2) };
        StageOneConfig {
            contexts: self.buffer.hpa().0,
            contexts_log2: self.log2,
            default_context: if self.log2 == 0 { 0 } else { 2 },
            inner: cacheable,
            outer: cacheable,
            shareability,
            ..StageOneConfig::default()
        }
    }

    /// The descriptor of `substream`, which the table has.
    pub(super) fn read(&self, substream: u32) -> Option<Words> {
        if u64::from(substream) >> self.log2 != 0 {
            return None;
        }
        let offset = substream as usize * CD_BYTES;
        Some(core::array::from_fn(|word| {
            self.buffer.read64(offset + word * 8)
        }))
    }

    /// Stores what differs from `image`; visible to the SMMU on return. Whether anything did.
    pub(super) fn store(&mut self, platform: &P, substream: u32, image: &Words) -> bool {
        let offset = substream as usize * CD_BYTES;
        store(platform, &mut self.buffer, offset, image, self.coherent)
    }
}
