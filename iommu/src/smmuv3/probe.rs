//! What an SMMU has, from its ID registers (IHI 0070, §6.3.1 to §6.3.7), and which ones are refused.
//!
//! | register | field | used for |
//! |---|---|---|
//! | IDR0 | S2P | must be 1 |
//! | | S1P | stage 1; with S2P and no erratum, nesting |
//! | | TTF | must have AArch64; with AArch32 stage 2 inputs have 40 bits at least |
//! | | COHACC | attributes of walks and queues; cleaning of what we write |
//! | | HYP | whether EL2 entries are invalidated at the start |
//! | | ATS, PRI | `StageOneConfig::ats`, device TLB invalidation, page request responses |
//! | | ASID16, VMID16 | widths of tags |
//! | | MSI | registers for messages are cleared: interrupts are wires |
//! | | SEV | told; a CMD_SYNC is polled for |
//! | | CD2L | two-level context tables |
//! | | TTENDIAN | must allow little-endian |
//! | | STALL_MODEL | S1STALLD, CMD_RESUME; tables of ours are refused where faults must stall |
//! | | ST_LEVEL | two-level stream table |
//! | IDR1 | SIDSIZE, SSIDSIZE | widths of identities |
//! | | CMDQS, EVENTQS, PRIQS | queue sizes |
//! | | QUEUES_PRESET, TABLES_PRESET | must be 0 |
//! | IDR3 | FWB, BBML | told, not used: our leaves have their attributes, our tables break before they make |
//! | | RIL | range invalidation |
//! | IDR5 | OAS | output width |
//! | | GRAN4K, 16K, 64K | 4 KiB must be there; the others for stage 1 |
//! | IIDR | all | [`errata`](super::errata) |
//!
//! Not used: BTM (CR2.PTM keeps broadcasts out), HTTU, ATOS, VATOS, MPAM, E0PD, secure state.

use tock_registers::LocalRegisterCopy;

use super::StartError;
use super::errata::Errata;
use super::identity::Identity;
use super::spec::registers::{IDR0_FIELDS, IDR1_FIELDS, IDR3_FIELDS, IDR5_FIELDS, IIDR_FIELDS};

/// What a fault can do to a transaction (IDR0.STALL_MODEL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stalls {
    /// End it or stall it.
    Optional,
    /// End it.
    Never,
    /// Stall it, for streams that can.
    Always,
}

impl Stalls {
    /// Whether an entry has a choice.
    pub const fn optional(self) -> bool {
        matches!(self, Self::Optional)
    }

    /// Whether anything can stall.
    pub const fn possible(self) -> bool {
        !matches!(self, Self::Never)
    }
}

/// The features that this driver's choices depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Table walks, queue and stream table accesses snoop CPU caches.
    pub coherent: bool,
    /// Stage 1 as well.
    pub stage_one: bool,
    /// Stage 1 of the guest's on a stage 2 of ours: both stages, and no erratum against it.
    pub nested: bool,
    /// There is an EL2 stream world with TLB entries of its own.
    pub el2: bool,
    /// Its own interrupts and the end of a CMD_SYNC can be messages, which it writes to memory itself.
    pub msi: bool,
    /// 16-bit VMIDs, not 8-bit ones.
    pub vmid16: bool,
    /// 16-bit ASIDs, not 8-bit ones.
    pub asid16: bool,
    /// ATS translation requests.
    pub ats: bool,
    /// Page requests.
    pub pri: bool,
    /// Faults that stall.
    pub stalls: Stalls,
    /// CMD_SYNC can wake CPUs.
    pub wake: bool,
    /// Two-level context tables.
    pub two_level_contexts: bool,
    /// Two-level stream tables.
    pub two_level: bool,
    /// Bits of a StreamID.
    pub stream_bits: u8,
    /// Bits of a SubstreamID (PASID); 0 without substreams.
    pub substream_bits: u8,
    /// log2 of the largest command queue.
    pub command_queue_log2: u8,
    /// log2 of the largest event queue.
    pub event_queue_log2: u8,
    /// log2 of the largest page request queue.
    pub pri_queue_log2: u8,
    /// TLB invalidation by range.
    pub range_invalidation: bool,
    /// Stage 2 can force write-back attributes.
    pub force_write_back: bool,
    /// IDR3.BBML: 0 to 2.
    pub break_before_make_level: u8,
    /// AArch32 tables as well, whose 40-bit inputs widen those of stage 2.
    pub aarch32: bool,
    /// IDR5.OAS as it is encoded.
    pub output_size: u8,
    /// 16 KiB granules in stage 1.
    pub granule_16k: bool,
    /// 64 KiB granules in stage 1.
    pub granule_64k: bool,
    /// What this implementation gets wrong.
    pub errata: Errata,
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

    /// Stage 2 input width in bits (IAS, §3.4).
    pub fn input_bits(&self) -> u8 {
        self.output_bits().max(if self.aarch32 { 40 } else { 0 })
    }

    /// What the ID registers say. Refuses an SMMU that is not there or that cannot do this driver's job.
    ///
    /// # Errors
    /// Each [`StartError`] that names a register.
    pub fn of(identity: &Identity) -> Result<Self, StartError> {
        let [idr0, idr1, _, idr3, _, idr5] = identity.idr;
        let idr0 = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(idr0);
        let idr1 = LocalRegisterCopy::<u32, IDR1_FIELDS::Register>::new(idr1);
        let idr3 = LocalRegisterCopy::<u32, IDR3_FIELDS::Register>::new(idr3);
        let idr5 = LocalRegisterCopy::<u32, IDR5_FIELDS::Register>::new(idr5);
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
        let errata = Errata::of(LocalRegisterCopy::<u32, IIDR_FIELDS::Register>::new(
            identity.iidr,
        ));
        let stage_one = idr0.is_set(IDR0_FIELDS::S1P);
        let stalls = match idr0.read_as_enum(IDR0_FIELDS::STALL_MODEL) {
            Some(IDR0_FIELDS::STALL_MODEL::Value::Both) => Stalls::Optional,
            Some(IDR0_FIELDS::STALL_MODEL::Value::Stall) => Stalls::Always,
            _ => Stalls::Never,
        };
        let features = Self {
            coherent: idr0.is_set(IDR0_FIELDS::COHACC),
            stage_one,
            nested: stage_one && !errata.no_nesting,
            el2: idr0.is_set(IDR0_FIELDS::HYP),
            msi: idr0.is_set(IDR0_FIELDS::MSI),
            vmid16: idr0.is_set(IDR0_FIELDS::VMID16),
            asid16: idr0.is_set(IDR0_FIELDS::ASID16),
            ats: idr0.is_set(IDR0_FIELDS::ATS),
            pri: idr0.is_set(IDR0_FIELDS::PRI),
            stalls,
            wake: idr0.is_set(IDR0_FIELDS::SEV) && !errata.no_wake,
            two_level_contexts: idr0.is_set(IDR0_FIELDS::CD2L),
            two_level: idr0.matches_all(IDR0_FIELDS::ST_LEVEL::LinearAndTwoLevel),
            stream_bits: idr1.read(IDR1_FIELDS::SIDSIZE) as u8,
            substream_bits: idr1.read(IDR1_FIELDS::SSIDSIZE) as u8,
            command_queue_log2: idr1.read(IDR1_FIELDS::CMDQS) as u8,
            event_queue_log2: idr1.read(IDR1_FIELDS::EVENTQS) as u8,
            pri_queue_log2: idr1.read(IDR1_FIELDS::PRIQS) as u8,
            range_invalidation: idr3.is_set(IDR3_FIELDS::RIL),
            force_write_back: idr3.is_set(IDR3_FIELDS::FWB),
            break_before_make_level: idr3.read(IDR3_FIELDS::BBML) as u8,
            aarch32: idr0.matches_all(IDR0_FIELDS::TTF::AArch32And64),
            output_size: idr5.read(IDR5_FIELDS::OAS) as u8,
            granule_16k: idr5.is_set(IDR5_FIELDS::GRAN16K),
            granule_64k: idr5.is_set(IDR5_FIELDS::GRAN64K),
            errata,
        };
        // §6.3.2: at most 32 bits and 2^19 entries. One entry of a command queue always waits for CMD_SYNC.
        if features.stream_bits > 32
            || !(1..=19).contains(&features.command_queue_log2)
            || features.event_queue_log2 > 19
            || features.pri && features.pri_queue_log2 > 19
        {
            return Err(StartError::BadSizes(idr1.get()));
        }
        Ok(features)
    }
}
