//! Event records (IHI 0070, §7.3), the event and PRI queues (§7.4, §8), global errors (§7.5) and interrupts (§3.18).

use super::State;
use super::walk::{Class, Fault, Use, WALK_ABORT};

/// GERROR bits (§6.3.19).
pub(super) const CMDQ_ERR: u32 = 1;
pub(super) const EVENTQ_ABT: u32 = 1 << 2;
pub(super) const PRIQ_ABT: u32 = 1 << 3;
pub(super) const MSI_CMDQ_ABT: u32 = 1 << 4;
pub(super) const SFM_ERR: u32 = 1 << 8;

/// Overflow flag of PROD and its acknowledgement in CONS (§7.4, §8.1).
const OVERFLOW: u32 = 1 << 31;

/// An interrupt of the SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// GERROR.
    GlobalError,
    /// The event queue is not empty any more.
    Events,
    /// The PRI queue is not empty any more.
    PageRequests,
    /// A CMD_SYNC asked for it.
    Sync,
}

/// Interrupts so far, by wire or by message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interrupts {
    /// Global errors.
    pub global_error: u64,
    /// Event queue.
    pub events: u64,
    /// PRI queue.
    pub page_requests: u64,
    /// CMD_SYNC.
    pub sync: u64,
    /// Events of CMD_SYNC (SIG_SEV).
    pub sev: u64,
    /// How many of them were messages.
    pub messages: u64,
}

/// One record before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub words: [u64; 4],
}

impl Event {
    /// A record with nothing but the stream.
    pub(super) fn of(number: u8, sid: u32, ssid: Option<u32>) -> Self {
        let substream = ssid.map_or(0, |ssid| 1 << 11 | u64::from(ssid) << 12);
        Self {
            words: [
                u64::from(number) | substream | u64::from(sid) << 32,
                0,
                0,
                0,
            ],
        }
    }

    /// FetchAddr, bits [51:3] of the last word.
    pub(super) fn with_fetch(mut self, at: u64) -> Self {
        self.words[3] = at & 0x000f_ffff_ffff_fff8;
        self
    }

    /// InputAddr, PnU, InD, RnW.
    pub(super) fn with_input(mut self, iova: u64, how: Use) -> Self {
        self.words[1] |= u64::from(how.privileged) << 33
            | u64::from(how.execute) << 34
            | u64::from(!how.write) << 35;
        self.words[2] = iova;
        self
    }

    /// A fault of translation.
    pub(super) fn of_fault(
        fault: &Fault,
        sid: u32,
        ssid: Option<u32>,
        iova: u64,
        how: Use,
    ) -> Self {
        let mut event = Self::of(fault.number, sid, ssid).with_input(iova, how);
        event.words[1] |= u64::from(fault.two) << 39 | (fault.class as u64) << 40;
        if fault.number == WALK_ABORT {
            return event.with_fetch(fault.fetch);
        }
        if fault.two {
            event.words[3] = fault.ipa & 0x000f_ffff_ffff_f000;
        }
        debug_assert!(fault.class != Class::Cd || fault.two);
        event
    }

    /// STALL and STAG.
    pub(super) fn stalled(mut self, tag: u16) -> Self {
        self.words[1] |= u64::from(tag) | 1 << 31;
        self
    }

    pub(super) fn number(&self) -> u8 {
        self.words[0] as u8
    }
}

impl State {
    /// Records `event`, if there is a queue and room.
    pub(super) fn record(&mut self, event: Event) {
        self.counters.events += 1;
        if self.registers.cr0ack & 1 << 2 == 0 {
            self.counters.events_dropped += 1;
            return;
        }
        let queue = self.registers.eventq;
        let log2 = queue.log2(self.config.event_queue_log2);
        if queue.is_full(log2) {
            // A stall record is not lost: its transaction waits, and so does it (§7.4).
            if event.words[1] >> 31 & 1 != 0 {
                self.counters.events -= 1;
                self.waiting_stalls.push_back(event);
                return;
            }
            self.counters.events_lost += 1;
            if (queue.prod ^ queue.cons) & OVERFLOW == 0 {
                self.registers.eventq.prod ^= OVERFLOW;
            }
            return;
        }
        let at = queue.slot(queue.prod, log2, 32);
        let snoop = self.config.coherent;
        for (index, word) in event.words.iter().enumerate() {
            let at = at + index as u64 * 8;
            if self.memory.device_write(at, *word, snoop).is_err() {
                self.counters.events_lost += 1;
                self.raise(EVENTQ_ABT);
                return;
            }
        }
        self.counters.events_written += 1;
        let was_empty = queue.is_empty(log2);
        self.registers.eventq.prod = queue.after(queue.prod, log2) | queue.prod & OVERFLOW;
        if was_empty {
            self.interrupt(Interrupt::Events);
        }
    }

    /// Records of stalls that found no room, now that there may be some.
    pub(super) fn retry_stall_records(&mut self) {
        for _ in 0..self.waiting_stalls.len() {
            if let Some(event) = self.waiting_stalls.pop_front() {
                self.record(event);
            }
        }
    }

    /// Writes a page request. `false`: there is no room or no queue, and the device is answered instead (§8.1).
    pub(super) fn record_request(&mut self, words: [u64; 2]) -> bool {
        if self.registers.cr0ack & 1 << 1 == 0 {
            return false;
        }
        let queue = self.registers.priq;
        let log2 = queue.log2(self.config.pri_queue_log2);
        // §8.1: after an overflow nothing is written before it is acknowledged.
        if (queue.prod ^ queue.cons) & OVERFLOW != 0 {
            return false;
        }
        if queue.is_full(log2) {
            self.registers.priq.prod ^= OVERFLOW;
            return false;
        }
        let at = queue.slot(queue.prod, log2, 16);
        let snoop = self.config.coherent;
        for (index, word) in words.iter().enumerate() {
            let at = at + index as u64 * 8;
            if self.memory.device_write(at, *word, snoop).is_err() {
                self.raise(PRIQ_ABT);
                return false;
            }
        }
        let was_empty = queue.is_empty(log2);
        self.registers.priq.prod = queue.after(queue.prod, log2) | queue.prod & OVERFLOW;
        if was_empty {
            self.interrupt(Interrupt::PageRequests);
        }
        true
    }

    /// Makes a global error active.
    pub(super) fn raise(&mut self, bit: u32) {
        if (self.registers.gerror ^ self.registers.gerrorn) & bit == 0 {
            self.registers.gerror ^= bit;
            self.interrupt(Interrupt::GlobalError);
        }
    }

    /// Whether a global error is active.
    pub(super) fn active(&self, bit: u32) -> bool {
        (self.registers.gerror ^ self.registers.gerrorn) & bit != 0
    }

    pub(super) fn interrupt(&mut self, interrupt: Interrupt) {
        let (enable, message, abort) = match interrupt {
            Interrupt::GlobalError => (1, Some(0), 1 << 7),
            Interrupt::Events => (4, Some(1), 1 << 5),
            Interrupt::PageRequests => (2, Some(2), 1 << 6),
            Interrupt::Sync => (0, None, 0),
        };
        if self.registers.irq_ctrl_ack & enable != enable {
            return;
        }
        if let Some(index) = message
            && self.config.msi
            && self.registers.messages[index].address != 0
        {
            let message = self.registers.messages[index];
            self.message(message.address, message.data, abort);
        }
        let count = match interrupt {
            Interrupt::GlobalError => &mut self.interrupts.global_error,
            Interrupt::Events => &mut self.interrupts.events,
            Interrupt::PageRequests => &mut self.interrupts.page_requests,
            Interrupt::Sync => &mut self.interrupts.sync,
        };
        *count += 1;
    }

    /// Writes 32 bits for an interrupt or a CMD_SYNC; an abort is an error of its own (§7.5).
    pub(super) fn message(&mut self, address: u64, data: u32, abort: u32) {
        self.interrupts.messages += 1;
        let snoop = self.config.coherent;
        let bytes = data.to_le_bytes();
        let written = self.memory.device_write_bytes(address, &bytes, snoop);
        // An abort of the message for global errors cannot raise itself without end.
        if written.is_err() && !self.active(abort) {
            self.registers.gerror ^= abort;
            if abort != 1 << 7 {
                self.interrupt(Interrupt::GlobalError);
            }
        }
    }
}
