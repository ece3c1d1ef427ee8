//! What a unit has, from its capability registers (VT-d, 11.4), and which ones are refused.
//!
//! | register | field | used for |
//! |---|---|---|
//! | CAP | ND | bits of a domain ID |
//! | | RWBF, CM | must be 0: a table that is filled is not told to the driver |
//! | | PLMR, PHMR | protected memory until translation is on |
//! | | SAGAW, MGAW | levels and width of second stages |
//! | | FRO, NFR | fault records |
//! | | SSLPS | largest second-stage pages |
//! | | PSI, MAMV | invalidation by page |
//! | | DWD, DRD | drains, with every invalidation of translations |
//! | | PI | posted interrupts |
//! | | ESRTPS | no invalidation after a root table pointer |
//! | ECAP | C | cleaning of what we write |
//! | | QI, IRO | invalidation by queue, or by register |
//! | | IR, EIM | interrupt remapping, and 32-bit destinations |
//! | | SMTS, SSTS | scalable mode, where it is asked for |
//! | | SMPWCS | PWSNP of PASID table entries |
//! | | NEST, PASID, FSTS, SRS, EAFS; CAP.FS5LP | PASIDs, first stages, and what their entries may say |
//! | | PRS, PDS | page requests of devices that have such a TLB, and their drain |
//! | | DT, DIT | device TLBs, in scalable mode and where there is no DIT: it wants to know of physical functions |
//! | | SC | told |
//!
//! Not used: advanced fault logging (AFL), pass-through (PT), memory types (MTS), abort-DMA mode (ADMS),
//! performance counters.

use tock_registers::LocalRegisterCopy;

use super::StartError;
use super::spec::registers::{CAP_FIELDS, ECAP_FIELDS, FRCD_BYTES};
use crate::addr::Hpa;

/// The features that this driver's choices depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Walks and the queue snoop CPU caches.
    pub coherent: bool,
    /// Invalidation by queue.
    pub queue: bool,
    /// Interrupt remapping, which needs a queue.
    pub interrupt_remapping: bool,
    /// Interrupts with 32-bit destinations.
    pub wide_destinations: bool,
    /// Posted interrupts.
    pub posted_interrupts: bool,
    /// Snoop control.
    pub snoop_control: bool,
    /// Scalable mode.
    pub scalable: bool,
    /// Second stages in scalable mode.
    pub scalable_second_stage: bool,
    /// Walks of scalable mode snoop where their entry says so.
    pub walks_snoop_on_demand: bool,
    /// Bits of a PASID; 0 without.
    pub pasid_bits: u8,
    /// First stages.
    pub first_stage: bool,
    /// First stages of 5 levels.
    pub first_stage_5_levels: bool,
    /// Privileged requests through first stages.
    pub supervisor: bool,
    /// Extended accessed flags in first stages.
    pub extended_accessed: bool,
    /// First stages of guests on second stages of ours.
    pub nested: bool,
    /// Device TLBs, told of by their source alone.
    pub device_tlbs: bool,
    /// Page requests, of devices with a TLB.
    pub page_requests: bool,
    /// Waits may wait for them too.
    pub drains_page_requests: bool,
    /// Bits of a domain ID.
    pub domain_bits: u8,
    /// Levels that second stages can have: bit 1 is 3, bit 2 is 4, bit 3 is 5.
    pub levels: u8,
    /// Input address width in bits.
    pub input_bits: u8,
    /// Output address width in bits, as firmware says it.
    pub output_bits: u8,
    /// Largest second-stage page in bytes.
    pub largest: u64,
    /// Invalidation by page, at most 2^this many; `None` without.
    pub page_mask: Option<u8>,
    /// Reads on their way can be drained.
    pub drains_reads: bool,
    /// Writes on their way can be drained.
    pub drains_writes: bool,
    /// A new root table pointer forgets everything by itself.
    pub pointer_forgets: bool,
    /// Where fault records are, and how many.
    pub fault_records: (usize, u16),
    /// Where IVA and IOTLB are.
    pub iotlb_registers: usize,
}

impl Features {
    /// What the capability registers say. `output_bits`: the host address width (DMAR, VT-d 8.1). Refuses a unit that
    /// cannot do this driver's job.
    ///
    /// # Errors
    /// Each [`StartError`] that names a register.
    pub fn of(cap: u64, ecap: u64, output_bits: u8) -> Result<Self, StartError> {
        let caps = LocalRegisterCopy::<u64, CAP_FIELDS::Register>::new(cap);
        let more = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(ecap);
        if cap == u64::MAX || ecap == u64::MAX {
            return Err(StartError::NotThere(u32::MAX));
        }
        if caps.is_set(CAP_FIELDS::RWBF) || caps.is_set(CAP_FIELDS::CM) {
            return Err(StartError::NeedsToldOfMaps(cap));
        }
        let levels = caps.read(CAP_FIELDS::SAGAW) as u8 & 0b1110;
        if levels == 0 {
            return Err(StartError::NoSecondStage(cap));
        }
        let widest = match levels.ilog2() {
            3 => 57,
            2 => 48,
            _ => 39,
        };
        let domain_bits = 4 + 2 * caps.read(CAP_FIELDS::ND) as u8;
        let records = 16 * caps.read(CAP_FIELDS::FRO) as usize;
        let count = caps.read(CAP_FIELDS::NFR) as u16 + 1;
        let iotlb = 16 * more.read(ECAP_FIELDS::IRO) as usize;
        // Neither may lie over the registers that every unit has (11.4), and domain IDs have 16 bits at most.
        if records < 0x100 || iotlb < 0xf0 || domain_bits > 16 || output_bits > 64 {
            return Err(StartError::BadSizes(cap));
        }
        let queue = more.is_set(ECAP_FIELDS::QI);
        let scalable = more.is_set(ECAP_FIELDS::SMTS) && queue;
        let first_stage = scalable && more.is_set(ECAP_FIELDS::FSTS);
        let both = more.is_set(ECAP_FIELDS::SSTS) && first_stage;
        let pasids = scalable && more.is_set(ECAP_FIELDS::PASID);
        let device_tlbs =
            scalable && more.is_set(ECAP_FIELDS::DT) && !more.is_set(ECAP_FIELDS::DIT);
        let page_requests = device_tlbs && more.is_set(ECAP_FIELDS::PRS);
        let sizes = caps.read(CAP_FIELDS::SLLPS);
        Ok(Self {
            coherent: more.is_set(ECAP_FIELDS::C),
            queue,
            interrupt_remapping: more.is_set(ECAP_FIELDS::IR) && queue,
            wide_destinations: more.is_set(ECAP_FIELDS::EIM),
            posted_interrupts: caps.is_set(CAP_FIELDS::PI),
            snoop_control: more.is_set(ECAP_FIELDS::SC),
            scalable,
            scalable_second_stage: scalable && more.is_set(ECAP_FIELDS::SSTS),
            walks_snoop_on_demand: more.is_set(ECAP_FIELDS::SMPWCS),
            pasid_bits: if pasids {
                more.read(ECAP_FIELDS::PSS) as u8 + 1
            } else {
                0
            },
            first_stage,
            first_stage_5_levels: first_stage && caps.is_set(CAP_FIELDS::FS5LP),
            supervisor: first_stage && more.is_set(ECAP_FIELDS::SRS),
            extended_accessed: first_stage && more.is_set(ECAP_FIELDS::EAFS),
            nested: scalable && both && more.is_set(ECAP_FIELDS::NEST),
            device_tlbs,
            page_requests,
            drains_page_requests: page_requests && more.is_set(ECAP_FIELDS::PDS),
            domain_bits,
            levels,
            input_bits: (caps.read(CAP_FIELDS::MGAW) as u8 + 1).min(widest),
            output_bits,
            largest: match sizes & 0b11 {
                0b11 => 1 << 30,
                0b01 => 1 << 21,
                _ => 1 << 12,
            },
            page_mask: caps
                .is_set(CAP_FIELDS::PSI)
                .then(|| caps.read(CAP_FIELDS::MAMV) as u8),
            drains_reads: caps.is_set(CAP_FIELDS::DRD),
            drains_writes: caps.is_set(CAP_FIELDS::DWD),
            pointer_forgets: caps.is_set(CAP_FIELDS::ESRTPS),
            fault_records: (records, count),
            iotlb_registers: iotlb,
        })
    }

    /// Input address width in bits, 48 at most, and bytes of the largest page of second stages that all of these units walk.
    pub fn shared(units: impl Iterator<Item = Self>) -> (u8, u64) {
        units.fold((48, 1 << 30), |(bits, largest), unit| {
            (bits.min(unit.input_bits), largest.min(unit.largest))
        })
    }

    /// AW of a second stage of `input_bits` (9.3), where the unit has such tables; their levels less two.
    pub fn width(&self, input_bits: u8) -> Option<u8> {
        let aw = match input_bits {
            0..=39 => 1,
            40..=48 => 2,
            49..=57 => 3,
            _ => return None,
        };
        (self.levels >> aw & 1 != 0).then_some(aw)
    }

    /// Bytes of registers that are used.
    pub fn register_bytes(&self) -> usize {
        let (records, count) = self.fault_records;
        (records + usize::from(count) * FRCD_BYTES).max(self.iotlb_registers + 16)
    }

    /// Whether an address can be reached.
    pub(super) fn reaches(&self, address: Hpa) -> bool {
        self.output_bits >= 64 || address.0 >> self.output_bits == 0
    }
}
