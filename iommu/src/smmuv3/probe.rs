//! What an SMMU has, from its ID registers (IHI 0070, §6.3.1 to §6.3.6), and which ones are refused.

use super::StartError;
use super::registers::Registers;
use super::spec::registers::{
    IDR0, IDR0_FIELDS, IDR1, IDR1_FIELDS, IDR3, IDR3_FIELDS, IDR5, IDR5_FIELDS,
};
use crate::hal::Mmio;

/// The features that this driver's choices depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Table walks, queue and stream table accesses snoop CPU caches.
    pub coherent: bool,
    /// Stage 1 as well.
    pub stage_one: bool,
    /// There is an EL2 stream world with TLB entries of its own.
    pub el2: bool,
    /// Its own interrupts can be messages, which it writes to memory itself.
    pub msi: bool,
    /// 16-bit VMIDs, not 8-bit ones.
    pub vmid16: bool,
    /// Two-level stream tables.
    pub two_level: bool,
    /// Bits of a StreamID.
    pub stream_bits: u8,
    /// log2 of the largest command queue.
    pub command_queue_log2: u8,
    /// log2 of the largest event queue.
    pub event_queue_log2: u8,
    /// TLB invalidation by range.
    pub range_invalidation: bool,
    /// IDR5.OAS as it is encoded.
    pub output_size: u8,
}

impl Features {
    /// Output address width in bits, at most the 48 of our descriptors.
    pub fn output_bits(&self) -> u8 {
        match self.output_size {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }

    /// Reads them. Refuses an SMMU that is not there or that cannot do this driver's job.
    pub(super) fn probe<M: Mmio>(registers: &Registers<M>) -> Result<Self, StartError> {
        let idr0 = registers.read::<IDR0_FIELDS::Register>(IDR0);
        let idr1 = registers.read::<IDR1_FIELDS::Register>(IDR1);
        let idr3 = registers.read::<IDR3_FIELDS::Register>(IDR3);
        let idr5 = registers.read::<IDR5_FIELDS::Register>(IDR5);
        if idr0.get() == u32::MAX || idr1.get() == u32::MAX || (idr0.get() | idr1.get()) == 0 {
            return Err(StartError::NotThere(idr0.get()));
        }
        if !idr0.is_set(IDR0_FIELDS::S2P) {
            return Err(StartError::NoStageTwo(idr0.get()));
        }
        let formats = idr0.read(IDR0_FIELDS::TTF);
        if formats & IDR0_FIELDS::TTF::AArch64.value >> IDR0_FIELDS::TTF.shift == 0 {
            return Err(StartError::NoAArch64Tables(idr0.get()));
        }
        if idr0.matches_all(IDR0_FIELDS::TTENDIAN::Big) {
            return Err(StartError::BigEndian(idr0.get()));
        }
        if !idr5.is_set(IDR5_FIELDS::GRAN4K) {
            return Err(StartError::No4KibGranule(idr5.get()));
        }
        if idr1.is_set(IDR1_FIELDS::TABLES_PRESET) || idr1.is_set(IDR1_FIELDS::QUEUES_PRESET) {
            return Err(StartError::PresetTables(idr1.get()));
        }
        let features = Self {
            coherent: idr0.is_set(IDR0_FIELDS::COHACC),
            stage_one: idr0.is_set(IDR0_FIELDS::S1P),
            el2: idr0.is_set(IDR0_FIELDS::HYP),
            msi: idr0.is_set(IDR0_FIELDS::MSI),
            vmid16: idr0.is_set(IDR0_FIELDS::VMID16),
            two_level: idr0.matches_all(IDR0_FIELDS::ST_LEVEL::LinearAndTwoLevel),
            stream_bits: idr1.read(IDR1_FIELDS::SIDSIZE) as u8,
            command_queue_log2: idr1.read(IDR1_FIELDS::CMDQS) as u8,
            event_queue_log2: idr1.read(IDR1_FIELDS::EVENTQS) as u8,
            range_invalidation: idr3.is_set(IDR3_FIELDS::RIL),
            output_size: idr5.read(IDR5_FIELDS::OAS) as u8,
        };
        // §6.3.2: at most 32 bits and 2^19 entries. One entry of a command queue always waits for CMD_SYNC.
        if features.stream_bits > 32
            || !(1..=19).contains(&features.command_queue_log2)
            || features.event_queue_log2 > 19
        {
            return Err(StartError::BadSizes(idr1.get()));
        }
        Ok(features)
    }
}
