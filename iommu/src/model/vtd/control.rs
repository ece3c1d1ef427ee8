//! Global commands (11.4, GCMD), and invalidation by registers (6.5.1).

use super::State;
use super::cache::Scope;
use super::registers::{CFIS, IRES, IRTPS, QIES, RTPS, TES, WBFS};

/// Bits that GCMD repeats.
const STATE: u32 = TES | 1 << 28 | QIES | IRES | CFIS;
/// Bits that are commands.
const ONCE: u32 = RTPS | 1 << 29 | WBFS | IRTPS;

impl State {
    /// A write of GCMD.
    pub(super) fn command(&mut self, value: u32) {
        if self.faults.deaf {
            return;
        }
        let old = self.registers.status;
        let changed = (value ^ old) & STATE;
        let once = value & ONCE;
        if changed.count_ones() + once.count_ones() > 1 {
            self.violation(
                "11.4, GCMD",
                alloc::format!("{old:#x} to {value:#x} at once"),
            );
        }
        if self.registers.shown.is_some_and(|(left, _)| left > 0) {
            self.violation("11.4, GCMD", "a change before the last one is done".into());
        }
        let mut status = old & !STATE | value & STATE;
        if once & RTPS != 0 {
            self.take_root(old);
            status |= RTPS;
        }
        if once & IRTPS != 0 {
            self.registers.interrupts_in_force = self.registers.interrupts;
            if self.config.pointer_forgets {
                self.cache.interrupts.clear();
            }
            status |= IRTPS;
        }
        self.counters.turned_off += u64::from(changed & !value & TES != 0);
        if changed & value & TES != 0 && status & RTPS == 0 {
            self.violation("11.4, GCMD.TE", "no root table".into());
        }
        if changed & value & IRES != 0 && status & IRTPS == 0 {
            self.violation("11.4, GCMD.IRE", "no interrupt table".into());
        }
        if changed & QIES != 0 {
            if value & QIES == 0 && self.registers.iqh != self.registers.iqt {
                self.violation(
                    "6.5.2",
                    "the queue is turned off with descriptors in it".into(),
                );
            }
            self.registers.iqh = 0;
            self.waiting.clear();
        }
        // What is read first is that nothing has happened yet; of a buffer flush, that it has begun.
        let shown = match once {
            RTPS | IRTPS => old & !once,
            WBFS => old | WBFS,
            _ => old,
        };
        self.registers.shown = Some((self.config.update_reads, shown));
        self.registers.status = status;
        if changed & value & QIES != 0 {
            self.serve_queue();
        }
    }

    fn take_root(&mut self, status: u32) {
        let (old, new) = (self.registers.root_in_force, self.registers.root);
        if status & TES != 0 && old >> 10 & 3 != new >> 10 & 3 {
            self.violation("11.4, RTADDR.TTM", "changed with translation on".into());
        }
        self.registers.root_in_force = new;
        if self.config.pointer_forgets {
            self.cache.contexts.clear();
            self.cache.pasids.clear();
            self.cache.directories.clear();
            self.cache.forget_translations(&Scope::Everything);
        }
    }

    /// A write of CCMD, or of IOTLB.
    pub(super) fn by_register(&mut self, value: u64, iotlb: bool) {
        if value >> 63 == 0 {
            return;
        }
        if self.registers.is_on(QIES) {
            self.violation("6.5.1", "a register invalidates beside the queue".into());
        }
        self.registers.invalidation_reads = self.config.update_reads;
        *if iotlb {
            &mut self.registers.iotlb
        } else {
            &mut self.registers.ccmd
        } = value;
    }

    /// A read of CCMD, or of IOTLB: done after a while.
    pub(super) fn finish_by_register(&mut self, iotlb: bool) -> u64 {
        let value = match iotlb {
            true => self.registers.iotlb,
            false => self.registers.ccmd,
        };
        if value >> 63 == 0 || self.faults.deaf {
            return value;
        }
        if self.registers.invalidation_reads > 0 {
            // Two halves of one register are two reads here.
            self.registers.invalidation_reads -= 1;
            return value;
        }
        let scope = match iotlb {
            true => {
                let iva = self.registers.iva;
                Scope::translations(value >> 60 & 3, value >> 32, iva, self.config.page_mask)
            }
            false => Scope::contexts(value >> 61 & 3, value, value >> 16, value >> 32 & 3),
        };
        match scope {
            Some(scope) => self.forget(&scope),
            None => self.violation("6.5.1", alloc::format!("a reserved request {value:#x}")),
        }
        if iotlb {
            self.land();
            // IAIG: what was done.
            self.registers.iotlb = value & !(1 << 63) | (value >> 60 & 3) << 57;
            self.registers.iotlb
        } else {
            self.registers.ccmd = value & !(1 << 63) | (value >> 61 & 3) << 59;
            self.registers.ccmd
        }
    }
}
