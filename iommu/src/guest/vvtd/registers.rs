//! The register file of a guest's VT-d unit (VT-d, chapter 11): values, and a copy of them in memory that a guest can be given
//! read-only, so that no read has to trap. No register of a unit has a side effect when it is read.
//!
//! The copy is written, cleaned to memory and never read back.

use super::spec::{FAULT_RECORDS, IOTLB_REGISTERS, POINTER, REGION_BYTES, REGISTERS_END, VERSION};
use crate::addr::Gpa;
use crate::hal::DmaBuffer;
use crate::vtd::spec::descriptor::{NARROW_LOG2, WIDE_LOG2};
use crate::vtd::spec::page_request::REQUEST_BYTES;
use crate::vtd::spec::registers::{
    CAP, CCMD, ECAP, ECAP_FIELDS, FECTL, FECTL_FIELDS, FRCD_BYTES, FRCD_F, FRCD_LAST, FSTS,
    FSTS_FIELDS, GCMD_FIELDS, GSTS, IECTL, IOTLB, IQ_FIELDS, IQA, IQA_FIELDS, IQERCD, IQH, IQT,
    IRTA, IVA, PECTL, PQA, PQA_FIELDS, PQH, PQT, RTADDR, VER,
};

/// Bytes of the readable copy.
pub const IMAGE_BYTES: usize = REGION_BYTES as usize;

/// The invalidation queue that the guest has set up, as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue {
    base: u64,
    /// Bytes of it, and log2 of those of a descriptor.
    size: u64,
    pub log2: u8,
    head: u64,
    tail: u64,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Where the descriptor at the head is.
    pub fn slot(&self) -> Gpa {
        Gpa(self.base + self.head)
    }

    /// The queue as it is after one descriptor.
    pub fn after(&self) -> Self {
        Self {
            head: self.next(),
            ..*self
        }
    }

    /// The head after one descriptor.
    pub fn next(&self) -> u64 {
        (self.head + (1 << self.log2)) & (self.size - 1)
    }
}

pub(super) struct RegisterFile<B: DmaBuffer> {
    words: [u32; REGISTERS_END / 4],
    image: B,
    capabilities: (u64, u64),
    records: u8,
    /// Translation, as the guest commands it; GSTS has what is in force.
    pub translation: bool,
    /// RTADDR and IRTA as they were latched.
    pub root: u64,
    pub interrupts: u64,
}

impl<B: DmaBuffer> RegisterFile<B> {
    /// Out of reset. `image` is zeroed and has [`IMAGE_BYTES`].
    pub fn new(image: B, capabilities: (u64, u64), records: u8) -> Self {
        let mut file = Self {
            words: [0; REGISTERS_END / 4],
            image,
            capabilities,
            records,
            translation: false,
            root: 0,
            interrupts: 0,
        };
        file.image.clean(0, IMAGE_BYTES);
        file.reset();
        file
    }

    /// Reset values.
    pub fn reset(&mut self) {
        for offset in (0..REGISTERS_END).step_by(8) {
            self.set64(offset, 0);
        }
        self.set(VER, VERSION);
        self.set64(CAP, self.capabilities.0);
        self.set64(ECAP, self.capabilities.1);
        for control in [FECTL, IECTL] {
            self.set(control, FECTL_FIELDS::IM::SET.value);
        }
        if self.offers(ECAP_FIELDS::PRS) {
            self.set(PECTL, FECTL_FIELDS::IM::SET.value);
        }
        self.translation = false;
        self.root = 0;
        self.interrupts = 0;
    }

    /// The copy, for whoever maps it.
    pub fn image(&self) -> &B {
        &self.image
    }

    /// CAP and ECAP.
    pub fn capabilities(&self) -> (u64, u64) {
        self.capabilities
    }

    /// What a guest reads at `offset`, a multiple of 4.
    pub fn get(&self, offset: usize) -> u32 {
        self.words.get(offset / 4).copied().unwrap_or(0)
    }

    /// As [`get`](Self::get), of a 64-bit register.
    pub fn get64(&self, offset: usize) -> u64 {
        u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32
    }

    /// Sets a register that is there, and its copy.
    pub fn set(&mut self, offset: usize, value: u32) {
        if let Some(word) = self.words.get_mut(offset / 4) {
            *word = value;
            self.publish(offset);
        }
    }

    /// As [`set`](Self::set), of a 64-bit register.
    pub fn set64(&mut self, offset: usize, value: u64) {
        if let Some([low, high]) = self.words.get_mut(offset / 4..offset / 4 + 2) {
            *low = value as u32;
            *high = (value >> 32) as u32;
            self.publish(offset);
        }
    }

    /// Registers come in pairs, which are one word of the copy.
    fn publish(&mut self, offset: usize) {
        let pair = offset & !7;
        let both = self.get64(pair);
        self.image.write64(pair, both);
        self.image.clean(pair, 8);
    }

    /// A read of the guest's: `None` for a size or an alignment that no register has, or past the end.
    pub fn read(&self, offset: u64, size: u8) -> Option<u64> {
        if !well_formed(offset, size) {
            return None;
        }
        match size {
            4 => Some(self.get(offset as usize).into()),
            _ => Some(self.get64(offset as usize)),
        }
    }

    /// Whether a bit of GSTS is set.
    pub fn is_on(
        &self,
        bit: tock_registers::fields::FieldValue<u32, GCMD_FIELDS::Register>,
    ) -> bool {
        self.get(GSTS) & bit.value != 0
    }

    /// Sets or clears bits of GSTS.
    pub fn state(&mut self, bits: u32, on: bool) {
        let old = self.get(GSTS);
        self.set(GSTS, if on { old | bits } else { old & !bits });
    }

    /// The invalidation queue, if it is on.
    pub fn queue(&self) -> Option<Queue> {
        if !self.is_on(GCMD_FIELDS::QIE::SET) {
            return None;
        }
        let queue = self.get64(IQA);
        let wide = queue & IQA_FIELDS::DW::SET.value != 0;
        Some(Queue {
            base: queue & POINTER,
            size: 4096 << (queue & IQA_FIELDS::QS.mask),
            log2: if wide { WIDE_LOG2 } else { NARROW_LOG2 },
            head: self.get64(IQH),
            tail: self.get64(IQT),
        })
    }

    /// Bits of IQT that a queue of this size has.
    pub fn tail_bits(&self) -> u64 {
        let queue = self.get64(IQA);
        let size = 4096u64 << (queue & IQA_FIELDS::QS.mask);
        let wide = queue & IQA_FIELDS::DW::SET.value != 0;
        let step = 1 << if wide { WIDE_LOG2 } else { NARROW_LOG2 };
        (size - 1) & !(step - 1) & (IQ_FIELDS::INDEX.mask << IQ_FIELDS::INDEX.shift)
    }

    /// Bits of PQH and PQT that a queue of this size has.
    pub fn request_bits(&self) -> u64 {
        let size = 4096u64 << (self.get64(PQA) & PQA_FIELDS::PQS.mask);
        (size - 1) & !(REQUEST_BYTES as u64 - 1)
    }

    /// The queue has stopped, and waits for an acknowledgement.
    pub fn queue_stopped(&self) -> bool {
        self.get(FSTS) & FSTS_FIELDS::IQE::SET.value != 0
    }

    /// Something is in FSTS that interrupts.
    pub fn has_fault_status(&self) -> bool {
        let conditions = FSTS_FIELDS::PFO::SET
            + FSTS_FIELDS::PPF::SET
            + FSTS_FIELDS::IQE::SET
            + FSTS_FIELDS::ICE::SET
            + FSTS_FIELDS::ITE::SET;
        self.get(FSTS) & conditions.value != 0
    }

    /// The number of fault records.
    pub fn records(&self) -> u8 {
        self.records
    }

    /// Whether fault record `index` holds a fault.
    pub fn is_recorded(&self, index: u8) -> bool {
        self.get(record(index) + FRCD_LAST) & FRCD_F != 0
    }

    /// PPF: whether any does.
    pub fn settle_records(&mut self) {
        let any = (0..self.records).any(|index| self.is_recorded(index));
        let pending = FSTS_FIELDS::PPF::SET.value;
        let old = self.get(FSTS);
        self.set(FSTS, if any { old | pending } else { old & !pending });
    }
}

/// Where fault record `index` is.
pub(super) fn record(index: u8) -> usize {
    FAULT_RECORDS + usize::from(index) * FRCD_BYTES
}

/// Whether an access is one that registers can have.
pub(super) fn well_formed(offset: u64, size: u8) -> bool {
    matches!(size, 4 | 8) && offset.is_multiple_of(size.into()) && offset < REGION_BYTES
}

/// Whether the register at `offset` has 64 bits and can be written.
pub(super) fn is_wide(offset: usize) -> bool {
    const IVA_AT: usize = IOTLB_REGISTERS + IVA;
    const IOTLB_AT: usize = IOTLB_REGISTERS + IOTLB;
    matches!(
        offset,
        RTADDR | CCMD | IQH | IQT | IQA | IQERCD | IRTA | PQH | PQT | PQA | IVA_AT | IOTLB_AT
    )
}
