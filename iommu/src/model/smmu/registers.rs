//! The register file (IHI 0070, chapter 6).

use alloc::format;

use super::{SmmuModel, State};
use crate::hal::Mmio;

/// A queue's registers.
#[derive(Clone, Copy, Default)]
pub(super) struct Queue {
    pub base: u64,
    pub prod: u32,
    pub cons: u32,
}

impl Queue {
    /// §6.3.26: more than IDR1 allows behaves as what it allows.
    pub(super) fn log2(&self, largest: u8) -> u32 {
        (self.base as u32 & 0x1f).min(largest.into())
    }

    pub(super) fn is_empty(&self, log2: u32) -> bool {
        (self.prod ^ self.cons) & ((2 << log2) - 1) == 0
    }

    pub(super) fn is_full(&self, log2: u32) -> bool {
        (self.prod ^ self.cons) & ((2 << log2) - 1) == 1 << log2
    }

    /// Entries between two positions.
    pub(super) fn between(from: u32, to: u32, log2: u32) -> u32 {
        to.wrapping_sub(from) & ((2 << log2) - 1)
    }

    pub(super) fn after(&self, position: u32, log2: u32) -> u32 {
        (position + 1) & ((2 << log2) - 1)
    }

    /// Where the entry at `position` is.
    pub(super) fn slot(&self, position: u32, log2: u32, bytes: u64) -> u64 {
        let size = (bytes << log2).max(32);
        let base = self.base & 0x000f_ffff_ffff_ffe0 & !(size - 1);
        base + u64::from(position & ((1 << log2) - 1)) * bytes
    }
}

/// Where an interrupt is written to.
#[derive(Clone, Copy, Default)]
pub(super) struct Message {
    pub address: u64,
    pub data: u32,
    pub attributes: u32,
}

/// A value that is in force some reads after it was written.
#[derive(Clone, Copy)]
pub(super) struct Update {
    pub value: u32,
    pub reads: u32,
}

#[derive(Default)]
pub(super) struct Registers {
    pub cr0: u32,
    pub cr0ack: u32,
    pub cr0_update: Option<Update>,
    cr1: u32,
    pub cr2: u32,
    pub gbpa: u32,
    pub gbpa_update: Option<Update>,
    pub irq_ctrl: u32,
    pub irq_ctrl_ack: u32,
    pub irq_update: Option<Update>,
    pub gerror: u32,
    pub gerrorn: u32,
    pub strtab_base: u64,
    pub strtab_config: u32,
    pub cmdq: Queue,
    pub eventq: Queue,
    pub priq: Queue,
    /// Global errors, events, page requests.
    pub messages: [Message; 3],
}

impl Registers {
    /// As out of reset: everything is off, and GBPA lets everything through with its incoming attributes.
    pub(super) fn reset() -> Self {
        Self {
            gbpa: 1 << 12,
            ..Self::default()
        }
    }
}

pub(super) const SMMUEN: u32 = 1;
pub(super) const PRIQEN: u32 = 2;
pub(super) const EVENTQEN: u32 = 4;
pub(super) const CMDQEN: u32 = 8;

impl State {
    /// One more read of an acknowledgement; the value that comes into force by it.
    fn update(update: &mut Option<Update>, deaf: bool) -> Option<u32> {
        let pending = update.as_mut()?;
        if deaf {
            return None;
        }
        if pending.reads > 0 {
            pending.reads -= 1;
            return None;
        }
        update.take().map(|update| update.value)
    }

    fn read(&mut self, offset: usize) -> u32 {
        self.accesses += 1;
        if self.faults.gone {
            return u32::MAX;
        }
        self.tick();
        let deaf = self.faults.deaf;
        let message = |index: usize, which: usize| match which {
            0 => self.registers.messages[index].address as u32,
            1 => (self.registers.messages[index].address >> 32) as u32,
            2 => self.registers.messages[index].data,
            _ => self.registers.messages[index].attributes,
        };
        match offset {
            0x00..=0x1c => self.config.id(offset),
            0x20 => self.registers.cr0,
            0x24 => {
                if let Some(value) = Self::update(&mut self.registers.cr0_update, deaf) {
                    self.control(value);
                }
                self.registers.cr0ack
            }
            0x28 => self.registers.cr1,
            0x2c => self.registers.cr2,
            0x44 => {
                if let Some(value) = Self::update(&mut self.registers.gbpa_update, deaf) {
                    self.registers.gbpa = value;
                }
                let updating = self.registers.gbpa_update.is_some();
                self.registers.gbpa | u32::from(updating) << 31
            }
            0x50 => self.registers.irq_ctrl,
            0x54 => {
                if let Some(value) = Self::update(&mut self.registers.irq_update, deaf) {
                    self.registers.irq_ctrl_ack = value;
                }
                self.registers.irq_ctrl_ack
            }
            0x60 => self.registers.gerror,
            0x64 => self.registers.gerrorn,
            0x68 | 0x6c | 0x70 | 0x74 => message(0, (offset - 0x68) / 4),
            0x80 => self.registers.strtab_base as u32,
            0x84 => (self.registers.strtab_base >> 32) as u32,
            0x88 => self.registers.strtab_config,
            0x90 => self.registers.cmdq.base as u32,
            0x94 => (self.registers.cmdq.base >> 32) as u32,
            0x98 => self.registers.cmdq.prod,
            0x9c => self.registers.cmdq.cons,
            0xa0 => self.registers.eventq.base as u32,
            0xa4 => (self.registers.eventq.base >> 32) as u32,
            0x1_00a8 => self.registers.eventq.prod,
            0x1_00ac => self.registers.eventq.cons,
            0xb0 | 0xb4 | 0xb8 | 0xbc => message(1, (offset - 0xb0) / 4),
            0xc0 => self.registers.priq.base as u32,
            0xc4 => (self.registers.priq.base >> 32) as u32,
            0x1_00c8 => self.registers.priq.prod,
            0x1_00cc => self.registers.priq.cons,
            0xd0 | 0xd4 | 0xd8 | 0xdc => message(2, (offset - 0xd0) / 4),
            0xa8 | 0xac | 0xc8 | 0xcc => {
                self.violation("6.2", format!("{offset:#x} is in page 1"));
                0
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        self.accesses += 1;
        if self.faults.gone {
            return;
        }
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        let registers = &self.registers;
        match offset {
            0x20 => self.write_cr0(value),
            0x28 => {
                self.only_while_off(SMMUEN | PRIQEN | EVENTQEN | CMDQEN, "6.3.11", "CR1");
                self.reserved(value, 0xfff, "6.3.11");
                self.registers.cr1 = value;
            }
            0x2c => {
                self.only_while_off(SMMUEN, "6.3.12", "CR2");
                self.reserved(value, if self.config.hyp { 7 } else { 6 }, "6.3.12");
                self.registers.cr2 = value;
            }
            0x44 => self.write_gbpa(value),
            0x50 => self.write_irq_ctrl(value),
            0x64 => self.write_gerrorn(value),
            0x68 | 0x6c | 0x70 | 0x74 => self.write_message(0, (offset - 0x68) / 4, value, 1),
            0x80 => self.write_strtab(low(registers.strtab_base)),
            0x84 => self.write_strtab(high(registers.strtab_base)),
            0x88 => self.write_strtab_config(value),
            0x90 => self.write_base(0, low(registers.cmdq.base)),
            0x94 => self.write_base(0, high(registers.cmdq.base)),
            0x98 => self.write_cmdq_prod(value),
            0x9c => {
                self.only_while_off(CMDQEN, "6.3.28", "CMDQ_CONS");
                self.registers.cmdq.cons = value;
            }
            0xa0 => self.write_base(1, low(registers.eventq.base)),
            0xa4 => self.write_base(1, high(registers.eventq.base)),
            0x1_00a8 => {
                self.only_while_off(EVENTQEN, "6.3.95", "EVENTQ_PROD");
                self.registers.eventq.prod = value;
            }
            0x1_00ac => {
                let log2 = self.config.event_queue_log2;
                let queue = self.checked_cons(self.registers.eventq, log2, value, EVENTQEN);
                self.registers.eventq = queue;
                self.retry_stall_records();
            }
            0xb0 | 0xb4 | 0xb8 | 0xbc => self.write_message(1, (offset - 0xb0) / 4, value, 4),
            0xc0 => self.write_base(2, low(registers.priq.base)),
            0xc4 => self.write_base(2, high(registers.priq.base)),
            0x1_00c8 => {
                self.only_while_off(PRIQEN, "6.3.97", "PRIQ_PROD");
                self.registers.priq.prod = value;
            }
            0x1_00cc => {
                let log2 = self.config.pri_queue_log2;
                let queue = self.checked_cons(self.registers.priq, log2, value, PRIQEN);
                self.registers.priq = queue;
            }
            0xd0 | 0xd4 | 0xd8 | 0xdc => self.write_message(2, (offset - 0xd0) / 4, value, 2),
            _ => self.violation("6.2", format!("a write of {value:#x} to {offset:#x}")),
        }
    }
}

fn inside(offset: usize, bytes: usize) {
    assert!(
        offset.is_multiple_of(bytes) && offset + bytes <= 0x2_0000,
        "an access to {offset:#x}"
    );
}

impl Mmio for SmmuModel {
    fn read32(&self, offset: usize) -> u32 {
        inside(offset, 4);
        self.state().read(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        inside(offset, 4);
        self.state().write(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        inside(offset, 8);
        let mut state = self.state();
        state.wide(offset);
        u64::from(state.read(offset)) | u64::from(state.read(offset + 4)) << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        inside(offset, 8);
        let mut state = self.state();
        state.wide(offset);
        match offset {
            _ if state.faults.gone => {}
            0x80 => state.write_strtab(value),
            0x90 => state.write_base(0, value),
            0xa0 => state.write_base(1, value),
            0xc0 => state.write_base(2, value),
            _ => {
                state.write(offset, value as u32);
                state.write(offset + 4, (value >> 32) as u32);
            }
        }
    }
}
