//! From the slice's events to the guest's event queue (IHI 0070, §7.2, §7.4).

use super::effect::{Effect, Interrupts};
use super::registers::Queue;
use super::spec::{EVENTQ_ABT_ERR, OVERFLOW};
use super::{EVENT_COST, Slice, VirtSmmu};
use crate::hal::{GuestMemory, Platform};
use crate::object::{Event, Item, MAX_SEQUENCE};
use crate::smmuv3::spec::event::EVENT_WORDS;
use crate::smmuv3::spec::registers::{EVENTQ_CONS, EVENTQ_PROD};

/// Bytes of a record.
const EVENT_BYTES: usize = EVENT_WORDS * 8;

/// What became of a record for a guest's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Written,
    /// No room.
    Full,
    /// The queue is not in the guest's memory.
    Aborted,
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// Moves events and page requests on, for at most `budget`; what is left of it.
    pub(super) fn events(
        &mut self,
        memory: &dyn GuestMemory,
        mut budget: u32,
        effect: &mut Effect,
    ) -> u32 {
        while self.knocked && budget > 0 && self.outbox.has_room() {
            let Some(item) = self.slice.event() else {
                self.knocked = self.page_requests(memory, &mut budget, effect);
                break;
            };
            budget = budget.saturating_sub(EVENT_COST);
            match item {
                Item::Lost { sequence } => {
                    self.missing(memory, sequence, 1, effect);
                }
                Item::Record { sequence, record } => {
                    self.missing(memory, sequence, 0, effect);
                    let record = self.by_the_guests_tables(record);
                    self.counters.events.recorded += 1;
                    self.record(memory, record, effect);
                }
            }
        }
        budget
    }

    /// The next event is `sequence`: those before it that did not come, and `more`, were lost.
    fn missing(&mut self, memory: &dyn GuestMemory, sequence: u32, more: u64, effect: &mut Effect) {
        let lost = u64::from(sequence.wrapping_sub(self.sequence) & MAX_SEQUENCE) + more;
        self.sequence = sequence.wrapping_add(1) & MAX_SEQUENCE;
        if lost == 0 {
            return;
        }
        self.counters.events.recorded += lost;
        self.counters.events.lost += lost;
        if let Some(queue) = self.registers.events() {
            self.overflow();
            if queue.is_empty() {
                self.interrupt(memory, Interrupts::EVENTS, effect);
            }
        }
    }

    /// Enters the overflow condition, unless it is there already (§7.4).
    fn overflow(&mut self) {
        let prod = self.registers.get(EVENTQ_PROD);
        if (prod ^ self.registers.get(EVENTQ_CONS)) & OVERFLOW == 0 {
            self.registers.set(EVENTQ_PROD, prod ^ OVERFLOW);
        }
    }

    /// A record for the guest's event queue, in the guest's own terms.
    fn record(&mut self, memory: &dyn GuestMemory, record: Event, effect: &mut Effect) {
        let Some(queue) = self.registers.events() else {
            self.counters.events.disabled += 1;
            return;
        };
        match self.put_event(memory, &queue, record, effect) {
            Put::Written => self.counters.events.delivered += 1,
            Put::Aborted => self.counters.events.aborted += 1,
            Put::Full => {
                self.counters.events.overflowed += 1;
                self.overflow();
            }
        }
    }

    /// Writes a record, and says so: by PROD, and by an interrupt if it is the first.
    pub(super) fn put_event(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &Queue,
        record: Event,
        effect: &mut Effect,
    ) -> Put {
        if queue.room() == 0 {
            return Put::Full;
        }
        let mut bytes = [0; EVENT_BYTES];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(record) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let at = queue.slot(queue.prod, EVENT_BYTES);
        if memory.write(at, &bytes).is_err() {
            self.raise(memory, EVENTQ_ABT_ERR, effect);
            return Put::Aborted;
        }
        // The record is there before the index that names it.
        self.platform.write_barrier();
        let flag = self.registers.get(EVENTQ_PROD) & OVERFLOW;
        let next = queue.prod.next().register();
        self.registers.set(EVENTQ_PROD, flag | next);
        if queue.is_empty() {
            self.interrupt(memory, Interrupts::EVENTS, effect);
        }
        Put::Written
    }

    /// Drops whatever waits for the guest, which is gone.
    pub(super) fn discard(&mut self) {
        while let Some(item) = self.slice.event() {
            let (sequence, lost) = match item {
                Item::Record { sequence, .. } => (sequence, 0),
                Item::Lost { sequence } => (sequence, 1),
            };
            let missing = u64::from(sequence.wrapping_sub(self.sequence) & MAX_SEQUENCE) + lost;
            self.sequence = sequence.wrapping_add(1) & MAX_SEQUENCE;
            self.counters.events.lost += missing;
            self.counters.events.disabled += 1 - lost;
            self.counters.events.recorded += missing + 1 - lost;
        }
        self.drop_all_requests();
        self.knocked = false;
    }
}
