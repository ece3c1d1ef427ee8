//! Writes of the guest's to its registers: which bits there are, when they can be written, and what follows.

use super::registers::{RegisterFile, is_wide, well_formed};
use super::spec::{
    ATSCHK, CMDQ_ERR, CMDQ_ERR_FIELD, CMDQEN, CR1_QUEUES, CR1_TABLES, CR2_WRITABLE,
    EVENTQ_IRQ_CFG1, EVENTQ_IRQ_CFG2, EVENTQ_IRQEN, EVENTQEN, GBPA_ABORT, GBPA_SHCFG, GBPA_UPDATE,
    GERROR_IRQ_CFG1, GERROR_IRQ_CFG2, GERROR_IRQEN, INDEX, MESSAGE_ADDRESS, MESSAGE_ATTRIBUTES,
    OVERFLOW, PRIQ_IRQ_CFG1, PRIQ_IRQ_CFG2, PRIQ_IRQEN, PRIQEN, QUEUE_BASE_WRITABLE, SMMUEN,
    STRTAB_BASE_CFG_WRITABLE, STRTAB_BASE_WRITABLE,
};
use crate::hal::DmaBuffer;
use crate::smmuv3::spec::registers::{
    CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, CR0ACK, CR1, CR2, EVENTQ_BASE, EVENTQ_CONS,
    EVENTQ_IRQ_CFG0, EVENTQ_PROD, GBPA, GERROR_IRQ_CFG0, GERRORN, IDR0_FIELDS, IRQ_CTRL,
    IRQ_CTRLACK, PRIQ_BASE, PRIQ_CONS, PRIQ_IRQ_CFG0, PRIQ_PROD, STRTAB_BASE, STRTAB_BASE_CFG,
};

/// What a write sets off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Asked {
    /// All streams are to be configured anew.
    pub streams: bool,
    /// The command queue was turned off.
    pub halt: bool,
    /// There may be room in the event queue or in that of page requests.
    pub room: bool,
}

/// A register that cannot be written (now).
struct Ignored;

impl<B: DmaBuffer> RegisterFile<B> {
    fn has(&self, field: tock_registers::fields::Field<u32, IDR0_FIELDS::Register>) -> bool {
        self.identity().idr[0] >> field.shift & field.mask != 0
    }

    fn while_off(&self, bits: u32) -> Result<(), Ignored> {
        if self.enabled(bits) == 0 {
            Ok(())
        } else {
            Err(Ignored)
        }
    }

    fn while_silent(&self, bit: u32) -> Result<(), Ignored> {
        let on = (self.get(IRQ_CTRL) | self.get(IRQ_CTRLACK)) & bit != 0;
        if self.has(IDR0_FIELDS::MSI) && !on {
            Ok(())
        } else {
            Err(Ignored)
        }
    }

    fn if_pri(&self) -> Result<(), Ignored> {
        if self.has(IDR0_FIELDS::PRI) {
            Ok(())
        } else {
            Err(Ignored)
        }
    }

    /// A write of the guest's. `None` where it is not carried out although it would change something: of a register that
    /// is not there or read-only, that is guarded by what is on, or of a wrong size.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<Asked> {
        if !well_formed(offset, size) {
            return None;
        }
        let offset = offset as usize;
        let done = if size == 8 && is_wide(offset) {
            self.write_wide(offset, value)
        } else if size == 8 {
            return None;
        } else if is_wide(offset & !7) {
            let shift = (offset & 4) * 8;
            let other = self.get64(offset & !7) & !(0xffff_ffff << shift);
            self.write_wide(offset & !7, other | (value & 0xffff_ffff) << shift)
        } else {
            self.write_narrow(offset, value as u32)
        };
        match done {
            Ok(asked) => Some(asked),
            Err(Ignored) if self.read(offset as u64, size) == Some(value) => Some(Asked::default()),
            Err(Ignored) => None,
        }
    }

    fn write_wide(&mut self, offset: usize, value: u64) -> Result<Asked, Ignored> {
        let mask = match offset {
            STRTAB_BASE => self.while_off(SMMUEN).map(|()| STRTAB_BASE_WRITABLE),
            CMDQ_BASE => self.while_off(CMDQEN).map(|()| QUEUE_BASE_WRITABLE),
            EVENTQ_BASE => self.while_off(EVENTQEN).map(|()| QUEUE_BASE_WRITABLE),
            PRIQ_BASE => self
                .if_pri()
                .and(self.while_off(PRIQEN))
                .map(|()| QUEUE_BASE_WRITABLE),
            GERROR_IRQ_CFG0 => self.while_silent(GERROR_IRQEN).map(|()| MESSAGE_ADDRESS),
            EVENTQ_IRQ_CFG0 => self.while_silent(EVENTQ_IRQEN).map(|()| MESSAGE_ADDRESS),
            PRIQ_IRQ_CFG0 => self
                .if_pri()
                .and(self.while_silent(PRIQ_IRQEN))
                .map(|()| MESSAGE_ADDRESS),
            _ => Err(Ignored),
        }?;
        self.set64(offset, value & mask);
        Ok(Asked::default())
    }

    fn write_narrow(&mut self, offset: usize, value: u32) -> Result<Asked, Ignored> {
        let mask = match offset {
            CR0 => return Ok(self.write_control(value)),
            GBPA => return self.write_bypass(value),
            GERRORN => return self.acknowledge(value),
            IRQ_CTRL => {
                let requests = self.if_pri().map_or(0, |()| PRIQ_IRQEN);
                let value = value & (GERROR_IRQEN | EVENTQ_IRQEN | requests);
                self.set(IRQ_CTRLACK, value);
                value
            }
            CR1 => {
                let queues = self.enabled(CMDQEN | EVENTQEN | PRIQEN) == 0;
                let tables = self.enabled(SMMUEN) == 0;
                let open =
                    if queues { CR1_QUEUES } else { 0 } | if tables { CR1_TABLES } else { 0 };
                self.set(CR1, self.get(CR1) & !open | value & open);
                let kept = (CR1_QUEUES | CR1_TABLES) & !open;
                return if (self.get(CR1) ^ value) & kept == 0 {
                    Ok(Asked::default())
                } else {
                    Err(Ignored)
                };
            }
            CR2 => self.while_off(SMMUEN).map(|()| CR2_WRITABLE)?,
            STRTAB_BASE_CFG => self.while_off(SMMUEN).map(|()| STRTAB_BASE_CFG_WRITABLE)?,
            CMDQ_PROD => {
                self.ring(value);
                return Ok(Asked::default());
            }
            CMDQ_CONS => self.while_off(CMDQEN).map(|()| INDEX | CMDQ_ERR_FIELD)?,
            EVENTQ_PROD => self.while_off(EVENTQEN).map(|()| INDEX | OVERFLOW)?,
            EVENTQ_CONS => INDEX | OVERFLOW,
            PRIQ_PROD => self
                .if_pri()
                .and(self.while_off(PRIQEN))
                .map(|()| INDEX | OVERFLOW)?,
            PRIQ_CONS => self.if_pri().map(|()| INDEX | OVERFLOW)?,
            GERROR_IRQ_CFG1 => self.while_silent(GERROR_IRQEN).map(|()| u32::MAX)?,
            GERROR_IRQ_CFG2 => self
                .while_silent(GERROR_IRQEN)
                .map(|()| MESSAGE_ATTRIBUTES)?,
            EVENTQ_IRQ_CFG1 => self.while_silent(EVENTQ_IRQEN).map(|()| u32::MAX)?,
            EVENTQ_IRQ_CFG2 => self
                .while_silent(EVENTQ_IRQEN)
                .map(|()| MESSAGE_ATTRIBUTES)?,
            PRIQ_IRQ_CFG1 => self
                .if_pri()
                .and(self.while_silent(PRIQ_IRQEN))
                .map(|()| u32::MAX)?,
            PRIQ_IRQ_CFG2 => self
                .if_pri()
                .and(self.while_silent(PRIQ_IRQEN))
                .map(|()| MESSAGE_ATTRIBUTES)?,
            _ => return Err(Ignored),
        };
        self.set(offset, value & mask);
        Ok(Asked {
            room: matches!(offset, EVENTQ_CONS | PRIQ_CONS),
            ..Asked::default()
        })
    }

    /// CR0 (§6.3.9). All but SMMUEN are in force at once: queues are worked on in this very trap. SMMUEN is
    /// acknowledged when the last stream has followed ([`translation_follows`](Self::translation_follows)).
    fn write_control(&mut self, value: u32) -> Asked {
        let optional = [(IDR0_FIELDS::PRI, PRIQEN), (IDR0_FIELDS::ATS, ATSCHK)];
        let mut fields = SMMUEN | EVENTQEN | CMDQEN;
        for (field, bit) in optional {
            fields |= if self.has(field) { bit } else { 0 };
        }
        let (old, ack, new) = (self.get(CR0), self.get(CR0ACK), value & fields);
        self.set(CR0, new);
        self.set(CR0ACK, new & !SMMUEN | ack & SMMUEN);
        Asked {
            streams: (old ^ new) & SMMUEN != 0,
            halt: old & !new & CMDQEN != 0,
            room: new & !old & (EVENTQEN | PRIQEN) != 0,
        }
    }

    /// GBPA (§6.3.14): without UPDATE, or while one is under way, nothing happens.
    fn write_bypass(&mut self, value: u32) -> Result<Asked, Ignored> {
        if value & GBPA_UPDATE == 0 || self.get(GBPA) & GBPA_UPDATE != 0 {
            return Err(Ignored);
        }
        let value = value & (GBPA_ABORT | GBPA_SHCFG);
        // It decides only while translation is off.
        let streams = !self.translates() && (value ^ self.get(GBPA)) & GBPA_ABORT != 0;
        self.set(GBPA, value | if streams { GBPA_UPDATE } else { 0 });
        Ok(Asked {
            streams,
            ..Asked::default()
        })
    }

    /// Every stream has followed CR0.SMMUEN and GBPA.
    pub fn translation_follows(&mut self) {
        let (control, ack) = (self.get(CR0), self.get(CR0ACK));
        self.set(CR0ACK, ack & !SMMUEN | control & SMMUEN);
        self.set(GBPA, self.get(GBPA) & !GBPA_UPDATE);
    }

    /// GERRORN (§6.3.20): an active error is acknowledged by toggling its bit; no other can be toggled.
    fn acknowledge(&mut self, value: u32) -> Result<Asked, Ignored> {
        let (old, active) = (self.get(GERRORN), self.active_errors());
        self.set(GERRORN, old ^ (old ^ value) & active);
        if (old ^ value) & !active == 0 {
            Ok(Asked::default())
        } else {
            Err(Ignored)
        }
    }

    /// The command queue stopped, and waits for an acknowledgement.
    pub fn commands_stopped(&self) -> bool {
        self.active_errors() & CMDQ_ERR != 0
    }
}
