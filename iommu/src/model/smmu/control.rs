//! Writes of registers that do something, and which of them are not allowed when (IHI 0070, chapter 6).

use alloc::format;

use super::State;
use super::event::CMDQ_ERR;
use super::registers::{CMDQEN, EVENTQEN, PRIQEN, Queue, SMMUEN, Update};

impl State {
    /// CR0 as it comes into force.
    pub(super) fn control(&mut self, value: u32) {
        let before = self.registers.cr0ack;
        self.registers.cr0ack = value;
        if before & SMMUEN != 0 && value & SMMUEN == 0 {
            // §6.3.9: complete once transactions that were translated are.
            self.land();
        }
        if before & SMMUEN == 0 && value & SMMUEN != 0 {
            self.images.clear();
            self.note_level_one();
        }
        self.doorbell();
    }

    pub(super) fn enabled(&self) -> u32 {
        self.registers.cr0 | self.registers.cr0ack
    }

    pub(super) fn only_while_off(&mut self, bits: u32, section: &'static str, name: &str) {
        if self.enabled() & bits != 0 {
            let on = self.enabled() & bits;
            self.violation(section, format!("{name} is written while CR0 has {on:#x}"));
        }
    }

    pub(super) fn reserved(&mut self, value: u32, mask: u32, section: &'static str) {
        if value & !mask != 0 {
            self.violation(section, format!("reserved bits in {value:#x}"));
        }
    }

    pub(super) fn write_cr0(&mut self, value: u32) {
        let config = &self.config;
        let optional = u32::from(config.pri) << 1 | u32::from(config.ats) << 4;
        self.reserved(value, SMMUEN | EVENTQEN | CMDQEN | optional, "6.3.9");
        if self.registers.cr0_update.is_some() {
            self.violation("6.3.9", format!("CR0 = {value:#x} before CR0ACK"));
        }
        self.registers.cr0 = value;
        if value != self.registers.cr0ack {
            let reads = self.config.update_reads;
            self.registers.cr0_update = Some(Update { value, reads });
        }
    }

    pub(super) fn write_irq_ctrl(&mut self, value: u32) {
        self.reserved(value, if self.config.pri { 7 } else { 5 }, "6.3.16");
        if self.registers.irq_update.is_some() {
            self.violation(
                "6.3.16",
                format!("IRQ_CTRL = {value:#x} before IRQ_CTRLACK"),
            );
        }
        self.registers.irq_ctrl = value;
        if value != self.registers.irq_ctrl_ack {
            let reads = self.config.update_reads;
            self.registers.irq_update = Some(Update { value, reads });
        }
    }

    pub(super) fn write_gbpa(&mut self, value: u32) {
        self.reserved(value, 0x801f_3f1f, "6.3.14");
        // Without UPDATE, or while an update is in progress, it is ignored.
        if value >> 31 != 0 && self.registers.gbpa_update.is_none() {
            self.registers.gbpa_update = Some(Update {
                value: value & !(1 << 31),
                reads: self.config.update_reads,
            });
        }
    }

    pub(super) fn write_gerrorn(&mut self, value: u32) {
        let toggled = value ^ self.registers.gerrorn;
        let active = self.registers.gerror ^ self.registers.gerrorn;
        if toggled & !active != 0 {
            let what = format!(
                "errors {:#x} acknowledged that are not active",
                toggled & !active
            );
            self.violation("6.3.20", what);
        }
        self.registers.gerrorn = value;
        if toggled & active & CMDQ_ERR != 0 {
            self.doorbell();
        }
    }

    pub(super) fn write_message(&mut self, index: usize, word: usize, value: u32, enable: u32) {
        if (self.registers.irq_ctrl | self.registers.irq_ctrl_ack) & enable != 0 {
            self.violation(
                "6.3.21",
                format!("IRQ_CFG of an interrupt that is on: {value:#x}"),
            );
        }
        if !self.config.msi && value != 0 {
            self.violation("6.3.21", format!("IRQ_CFG without IDR0.MSI: {value:#x}"));
        }
        let message = &mut self.registers.messages[index];
        let value64 = u64::from(value);
        match word {
            0 => message.address = message.address & !0xffff_ffff | value64 & !3,
            1 => message.address = message.address & 0xffff_ffff | (value64 & 0xf_ffff) << 32,
            2 => message.data = value,
            _ => message.attributes = value,
        }
    }

    pub(super) fn write_strtab(&mut self, value: u64) {
        self.only_while_off(SMMUEN, "6.3.24", "STRTAB_BASE");
        if value & !0x400f_ffff_ffff_ffc0 != 0 {
            self.violation("6.3.24", format!("reserved bits in {value:#x}"));
        }
        self.registers.strtab_base = value;
    }

    pub(super) fn write_strtab_config(&mut self, value: u32) {
        self.only_while_off(SMMUEN, "6.3.25", "STRTAB_BASE_CFG");
        self.reserved(value, 0x3_07ff, "6.3.25");
        let two_level = value >> 16 & 3 == 1;
        let split = value >> 6 & 0x1f;
        if value >> 16 & 3 > 1 || two_level && !self.config.two_level {
            self.violation("6.3.25", format!("FMT in {value:#x}"));
        }
        if two_level && !matches!(split, 6 | 8 | 10) {
            self.violation("6.3.25", format!("SPLIT in {value:#x}"));
        }
        if value & 0x3f > self.config.stream_bits.into() {
            self.violation("6.3.25", format!("LOG2SIZE in {value:#x}"));
        }
        self.registers.strtab_config = value;
    }

    pub(super) fn write_base(&mut self, index: usize, value: u64) {
        let (enable, largest, bytes) = match index {
            0 => (CMDQEN, self.config.command_queue_log2, 16u64),
            1 => (EVENTQEN, self.config.event_queue_log2, 32),
            _ => (PRIQEN, self.config.pri_queue_log2, 16),
        };
        self.only_while_off(enable, "6.3.26", "the base of a queue");
        let log2 = value & 0x1f;
        let size = (bytes << log2.min(20)).max(32);
        if value & !0x400f_ffff_ffff_ffff != 0
            || log2 > largest.into()
            || value & 0x000f_ffff_ffff_ffe0 & (size - 1) != 0
        {
            self.violation("6.3.26", format!("queue base {value:#x}"));
        }
        match index {
            0 => self.registers.cmdq.base = value,
            1 => self.registers.eventq.base = value,
            _ => self.registers.priq.base = value,
        }
    }

    pub(super) fn write_cmdq_prod(&mut self, value: u32) {
        let queue = self.registers.cmdq;
        let log2 = queue.log2(self.config.command_queue_log2);
        if self.enabled() & CMDQEN != 0 {
            self.reserved(value, (2 << log2) - 1, "6.3.27");
            let added = Queue::between(queue.prod, value, log2);
            let held = Queue::between(queue.cons, queue.prod, log2);
            if held + added > 1 << log2 {
                self.violation(
                    "3.5.1",
                    format!("CMDQ_PROD = {value:#x} past CONS {:#x}", queue.cons),
                );
            }
        }
        self.registers.cmdq.prod = value;
        self.doorbell();
    }

    pub(super) fn checked_cons(
        &mut self,
        mut queue: Queue,
        largest: u8,
        value: u32,
        enable: u32,
    ) -> Queue {
        let log2 = queue.log2(largest);
        if self.enabled() & enable != 0 {
            self.reserved(value, 1 << 31 | ((2 << log2) - 1), "6.3.96");
            let left = Queue::between(queue.cons, queue.prod, log2);
            if Queue::between(queue.cons, value, log2) > left {
                self.violation(
                    "3.5.1",
                    format!("CONS = {value:#x} past PROD {:#x}", queue.prod),
                );
            }
            // §7.4: OVACKFLG changes only to what OVFLG is.
            if (value ^ queue.cons) & (value ^ queue.prod) >> 31 << 31 != 0 {
                self.violation("7.4", format!("OVACKFLG in {value:#x} without an overflow"));
            }
        }
        queue.cons = value;
        queue
    }

    pub(super) fn wide(&mut self, offset: usize) {
        assert!(
            offset.is_multiple_of(8),
            "a misaligned access to {offset:#x}"
        );
        if !matches!(offset, 0x68 | 0x80 | 0x90 | 0xa0 | 0xb0 | 0xc0 | 0xd0) {
            self.violation("6.2", format!("64 bits of {offset:#x}, which has 32"));
        }
    }
}
