//! Writes of the guest's to its registers: which bits there are, when they can be written, and what follows.

use super::registers::{RegisterFile, is_wide, record, well_formed};
use super::spec::{
    FAULT_RECORDS, ICS, ICS_FIELDS, IEADDR, IEDATA, IEUADDR, IOTLB_REGISTERS, PEADDR, PEDATA,
    PEUADDR, POINTER,
};
use crate::hal::DmaBuffer;
use crate::vtd::spec::registers::{
    CCMD, CCMD_FIELDS, ECAP_FIELDS, FEADDR, FECTL, FECTL_FIELDS, FEDATA, FEUADDR, FRCD_BYTES,
    FRCD_F, FRCD_LAST, FSTS, FSTS_FIELDS, GCMD, GCMD_FIELDS, IECTL, IOTLB, IOTLB_FIELDS, IQA,
    IQA_FIELDS, IQERCD, IQH, IQT, IRTA, IRTA_FIELDS, IVA, PECTL, PQA, PQA_FIELDS, PQH, PQT, PRS,
    PRS_FIELDS, RTADDR, RTADDR_FIELDS,
};

const IVA_AT: usize = IOTLB_REGISTERS + IVA;
const IOTLB_AT: usize = IOTLB_REGISTERS + IOTLB;
/// Bits of a message's address: a whole word.
const MESSAGE_ADDRESS: u32 = !3;
/// Bits of a message's data: the upper half is for modes that there are not.
const MESSAGE_DATA: u32 = 0xffff;

/// What a write sets off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Asked {
    /// Translation is to be turned on or off.
    pub translation: bool,
    /// The queue was turned off.
    pub halt: bool,
    /// A context command is to be done.
    pub contexts: bool,
    /// An IOTLB command is to be done.
    pub translations: bool,
    /// All interrupt entries may be others.
    pub interrupts: bool,
    /// FECTL was unmasked with a message pending.
    pub fault_event: bool,
    /// IECTL was.
    pub invalidation_event: bool,
    /// PECTL was.
    pub request_event: bool,
}

/// A register that cannot be written (now).
struct Ignored;

impl<B: DmaBuffer> RegisterFile<B> {
    pub(super) fn offers(
        &self,
        field: tock_registers::fields::Field<u64, ECAP_FIELDS::Register>,
    ) -> bool {
        self.capabilities().1 >> field.shift & field.mask != 0
    }

    /// A write of the guest's. `None` where it is not carried out although it would change something: of a register that
    /// is not there or read-only, that is guarded by what is on, or of a wrong size.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<Asked> {
        if !well_formed(offset, size) {
            return None;
        }
        let offset = offset as usize;
        let done = match (size, is_wide(offset & !7)) {
            (8, true) => self.write_wide(offset, value),
            (8, false) => {
                // Two registers at once: what one write could do alone.
                let low = self.write_narrow(offset, value as u32);
                let high = self.write_narrow(offset + 4, (value >> 32) as u32);
                match (low, high) {
                    (Err(Ignored), Err(Ignored)) => Err(Ignored),
                    (low, high) => Ok(low.unwrap_or_default().and(high.unwrap_or_default())),
                }
            }
            (_, true) => {
                let shift = (offset & 4) * 8;
                let pair = offset & !7;
                let mut other = self.get64(pair) & !(0xffff_ffff << shift);
                if shift == 0 {
                    // A command begins with its upper half.
                    other &= !CCMD_FIELDS::ICC::SET.value;
                }
                self.write_wide(pair, other | (value & 0xffff_ffff) << shift)
            }
            _ => self.write_narrow(offset, value as u32),
        };
        match done {
            Ok(asked) => Some(asked),
            Err(Ignored) if self.read(offset as u64, size) == Some(value) => Some(Asked::default()),
            Err(Ignored) => None,
        }
    }

    fn write_wide(&mut self, offset: usize, value: u64) -> Result<Asked, Ignored> {
        let mut asked = Asked::default();
        let value = match offset {
            RTADDR => value & (POINTER | RTADDR_FIELDS::TTM.mask << RTADDR_FIELDS::TTM.shift),
            // A command on its way is not changed.
            CCMD if self.get64(CCMD) & CCMD_FIELDS::ICC::SET.value != 0 => return Err(Ignored),
            CCMD => {
                asked.contexts = value & CCMD_FIELDS::ICC::SET.value != 0;
                value
            }
            IVA_AT => value,
            IOTLB_AT if self.get64(IOTLB_AT) & IOTLB_FIELDS::IVT::SET.value != 0 => {
                return Err(Ignored);
            }
            IOTLB_AT => {
                asked.translations = value & IOTLB_FIELDS::IVT::SET.value != 0;
                value
            }
            IQT => value & self.tail_bits(),
            IQA if self.is_on(GCMD_FIELDS::QIE::SET) => return Err(Ignored),
            IQA => {
                let wide = match self.offers(ECAP_FIELDS::SMTS) {
                    true => IQA_FIELDS::DW::SET.value,
                    false => 0,
                };
                value & (POINTER | IQA_FIELDS::QS.mask | wide)
            }
            IRTA if self.offers(ECAP_FIELDS::IR) => {
                let extended = match self.offers(ECAP_FIELDS::EIM) {
                    true => IRTA_FIELDS::EIME::SET.value,
                    false => 0,
                };
                value & (POINTER | IRTA_FIELDS::S.mask | extended)
            }
            PQH | PQT if self.offers(ECAP_FIELDS::PRS) => value & self.request_bits(),
            PQA if self.offers(ECAP_FIELDS::PRS) => value & (POINTER | PQA_FIELDS::PQS.mask),
            IQH | IQERCD => return Err(Ignored),
            _ => return Err(Ignored),
        };
        self.set64(offset, value);
        Ok(asked)
    }

    fn write_narrow(&mut self, offset: usize, value: u32) -> Result<Asked, Ignored> {
        let mask = match offset {
            GCMD => return Ok(self.command(value)),
            FSTS => return Ok(self.acknowledge(value)),
            FECTL | IECTL => return Ok(self.mask(offset, value)),
            PECTL if self.offers(ECAP_FIELDS::PRS) => return Ok(self.mask(offset, value)),
            PRS if self.offers(ECAP_FIELDS::PRS) => {
                let both = PRS_FIELDS::PPR::SET + PRS_FIELDS::PRO::SET;
                self.set(PRS, self.get(PRS) & !(value & both.value));
                if self.get(PRS) == 0 {
                    self.forget_pending(PECTL);
                }
                return Ok(Asked::default());
            }
            PEDATA if self.offers(ECAP_FIELDS::PRS) => MESSAGE_DATA,
            PEADDR if self.offers(ECAP_FIELDS::PRS) => MESSAGE_ADDRESS,
            PEUADDR if self.offers(ECAP_FIELDS::PRS) => u32::MAX,
            ICS => {
                if value & ICS_FIELDS::IWC::SET.value != 0 {
                    self.set(ICS, 0);
                    self.forget_pending(IECTL);
                }
                return Ok(Asked::default());
            }
            FEDATA | IEDATA => MESSAGE_DATA,
            FEADDR | IEADDR => MESSAGE_ADDRESS,
            FEUADDR | IEUADDR => u32::MAX,
            _ => return self.clear_record(offset, value),
        };
        self.set(offset, value & mask);
        Ok(Asked::default())
    }

    /// GCMD (11.4). All but translation are in force at once: queues are worked on in this very trap.
    fn command(&mut self, value: u32) -> Asked {
        let mut asked = Asked::default();
        let has = |bit: tock_registers::fields::FieldValue<u32, GCMD_FIELDS::Register>| {
            value & bit.value != 0
        };
        if has(GCMD_FIELDS::SRTP::SET) {
            self.root = self.get64(RTADDR);
            self.state(GCMD_FIELDS::SRTP::SET.value, true);
        }
        if self.offers(ECAP_FIELDS::IR) {
            if has(GCMD_FIELDS::SIRTP::SET) {
                self.interrupts = self.get64(IRTA);
                self.state(GCMD_FIELDS::SIRTP::SET.value, true);
                asked.interrupts = true;
            }
            for bit in [GCMD_FIELDS::IRE::SET, GCMD_FIELDS::CFI::SET] {
                asked.interrupts |= has(bit) != self.is_on(bit);
                self.state(bit.value, has(bit));
            }
        }
        let queue = GCMD_FIELDS::QIE::SET;
        if has(queue) != self.is_on(queue) {
            asked.halt = !has(queue);
            self.set64(IQH, 0);
            self.state(queue.value, has(queue));
        }
        asked.translation = has(GCMD_FIELDS::TE::SET) != self.translation;
        self.translation = has(GCMD_FIELDS::TE::SET);
        asked
    }

    /// Every source has followed GCMD.TE.
    pub fn translation_follows(&mut self) {
        self.state(GCMD_FIELDS::TE::SET.value, self.translation);
    }

    /// FSTS: errors are cleared by writing 1, PPF by the records.
    fn acknowledge(&mut self, value: u32) -> Asked {
        let errors = FSTS_FIELDS::PFO::SET
            + FSTS_FIELDS::IQE::SET
            + FSTS_FIELDS::ICE::SET
            + FSTS_FIELDS::ITE::SET;
        self.set(FSTS, self.get(FSTS) & !(value & errors.value));
        if !self.has_fault_status() {
            self.forget_pending(FECTL);
        }
        Asked::default()
    }

    /// FECTL, IECTL and PECTL: a message that waits is sent when the mask goes.
    fn mask(&mut self, control: usize, value: u32) -> Asked {
        let (masked, pending) = (FECTL_FIELDS::IM::SET.value, FECTL_FIELDS::IP::SET.value);
        let send = value & masked == 0 && self.get(control) & pending != 0;
        let kept = match send {
            true => 0,
            false => self.get(control) & pending,
        };
        self.set(control, value & masked | kept);
        Asked {
            fault_event: send && control == FECTL,
            invalidation_event: send && control == IECTL,
            request_event: send && control == PECTL,
            ..Asked::default()
        }
    }

    fn forget_pending(&mut self, control: usize) {
        let pending = FECTL_FIELDS::IP::SET.value;
        self.set(control, self.get(control) & !pending);
    }

    /// F of a fault record: writing 1 clears it. No other part of a record can be written.
    fn clear_record(&mut self, offset: usize, value: u32) -> Result<Asked, Ignored> {
        let records = FAULT_RECORDS..record(self.records());
        if !records.contains(&offset) || offset % FRCD_BYTES != FRCD_LAST {
            return Err(Ignored);
        }
        if value & FRCD_F != 0 {
            self.set(offset, self.get(offset) & !FRCD_F);
            self.settle_records();
            if !self.has_fault_status() {
                self.forget_pending(FECTL);
            }
        }
        Ok(Asked::default())
    }
}

impl Asked {
    fn and(self, other: Self) -> Self {
        Self {
            translation: self.translation | other.translation,
            halt: self.halt | other.halt,
            contexts: self.contexts | other.contexts,
            translations: self.translations | other.translations,
            interrupts: self.interrupts | other.interrupts,
            fault_event: self.fault_event | other.fault_event,
            invalidation_event: self.invalidation_event | other.invalidation_event,
            request_event: self.request_event | other.request_event,
        }
    }
}
