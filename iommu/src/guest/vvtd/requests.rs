//! Page requests that wait for the guest (VT-d, 7.4 to 7.7).
//!
//! A group goes to the guest's queue under the source that the guest knows, and ends with a page group response of the guest's. It
//! ends as wrong if the guest cannot be told or does not answer in time, so that no guest holds what the hardware has few of. That
//! is so for a full queue too, where hardware would have the device ask again (table 31), without an end.

use alloc::vec::Vec;

use super::contexts::may_ask;
use super::effect::{Effect, Interrupts};
use super::faults::GuestFault;
use super::spec::POINTER;
use super::{EVENT_COST, Slice, VirtVtd};
use crate::addr::Gpa;
use crate::guest::vsmmu::GROUP;
use crate::hal::{GuestMemory, Platform};
use crate::object::PageRequest;
use crate::object::driver::Answer;
use crate::vtd::spec::fault::FAULT1;
use crate::vtd::spec::page_request::{REQUEST_BYTES, REQUEST0, REQUEST1};
use crate::vtd::spec::registers::{PQA, PQA_FIELDS, PQH, PQT, PRS, PRS_FIELDS};

/// What the guest was told of and has to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiting {
    cookie: u32,
    device: usize,
    pasid: Option<u32>,
    group: u16,
    deadline: u64,
}

pub(super) struct Requests {
    waiting: Vec<Option<Waiting>>,
    patience_ns: u64,
    /// A group that was taken from the slice, and is to be told: its requests, how many, until when.
    group: Vec<PageRequest>,
    held: usize,
    held_until: u64,
    /// There may be some in the slice.
    pub knocked: bool,
}

impl Requests {
    /// Room for `waiting` at once; `None` without memory.
    pub fn new(waiting: u16, patience_ns: u64) -> Option<Self> {
        let (mut list, mut group) = (Vec::new(), Vec::new());
        list.try_reserve_exact(waiting.into()).ok()?;
        list.resize(waiting.into(), None);
        if waiting > 0 {
            group.try_reserve_exact(GROUP).ok()?;
            group.resize(GROUP, PageRequest::default());
        }
        Some(Self {
            waiting: list,
            patience_ns,
            group,
            held: 0,
            held_until: 0,
            knocked: false,
        })
    }

    /// Whether there are any at all.
    pub fn exist(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Tells the guest of page requests, as long as there is room.
    pub(super) fn page_requests(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) {
        while self.requests.knocked && *budget > 0 && effect.has_room() {
            *budget = budget.saturating_sub(EVENT_COST);
            if self.requests.held == 0 {
                // The slice has no group that does not fit, as its queue is not longer.
                let count = self.slice.requests(&mut self.requests.group).unwrap_or(0);
                if count == 0 {
                    self.requests.knocked = false;
                    return;
                }
                self.counters.requests.taken += 1;
                self.requests.held = count;
                let now = self.platform.now_ns();
                self.requests.held_until = now.saturating_add(self.requests.patience_ns);
            }
            let Some(free) = self.requests.waiting.iter().position(Option::is_none) else {
                // Until one is answered.
                self.requests.knocked = false;
                return;
            };
            let first = self.requests.group[0];
            let device = self.slice.device_of(&first);
            let device = device.filter(|device| *device < self.devices.len());
            let told = device.filter(|device| self.put_group(memory, *device, effect));
            self.requests.held = 0;
            match told {
                Some(device) => {
                    self.requests.waiting[free] = Some(Waiting {
                        cookie: first.cookie,
                        device,
                        pasid: first.pasid,
                        group: first.group,
                        deadline: self.requests.held_until,
                    });
                }
                None => {
                    self.counters.requests.refused += 1;
                    self.slice.respond(first.cookie, Answer::Invalid);
                }
            }
        }
    }

    /// Writes the descriptors of a group, all or none (7.4.1). Whether it did.
    fn put_group(&mut self, memory: &dyn GuestMemory, device: usize, effect: &mut Effect) -> bool {
        let source = self.devices[device].behind.source.0 as u16;
        let first = self.requests.group[0];
        if !self.registers.translation {
            return false;
        }
        let root = self.registers.root;
        if let Err((reason, silent)) = may_ask(memory, &self.rules, root, source, first.pasid) {
            let pasid = first.pasid.map_or(0, |pasid| {
                (FAULT1::PP::SET + FAULT1::PV.val(pasid.into())).value
            });
            if !silent {
                let fault = GuestFault {
                    source,
                    reason,
                    information: first.address & POINTER,
                    write: true,
                    // T2 without T1: a page request.
                    more: pasid | FAULT1::T2::SET.value,
                };
                self.record(&fault, effect);
            }
            return false;
        }
        let overflow = PRS_FIELDS::PRO::SET.value;
        if self.registers.get(PRS) & overflow != 0 {
            return false;
        }
        let queue = self.registers.get64(PQA);
        let size = 4096u64 << (queue & PQA_FIELDS::PQS.mask);
        let (head, mut tail) = (self.registers.get64(PQH), self.registers.get64(PQT));
        let step = REQUEST_BYTES as u64;
        // All but one place (7.4.1).
        let room = (head.wrapping_sub(tail).wrapping_sub(step) & (size - 1)) / step;
        if room < self.requests.held as u64 {
            self.raise_request(overflow, effect);
            return false;
        }
        for request in &self.requests.group[..self.requests.held] {
            let access = |bit: u32| u64::from(request.access & bit != 0);
            let mut first = REQUEST0::TYPE::PageRequest + REQUEST0::RID.val(source.into());
            if let Some(pasid) = request.pasid {
                first += REQUEST0::PP::SET
                    + REQUEST0::PASID.val(pasid.into())
                    + REQUEST0::EXR.val(access(4))
                    + REQUEST0::PMR.val(access(8));
            }
            let second = REQUEST1::RDR.val(access(1))
                + REQUEST1::WRR.val(access(2))
                + REQUEST1::LPIG.val(request.last.into())
                + REQUEST1::PRGI.val(request.group.into())
                + REQUEST1::ADDRESS.val(request.address >> REQUEST1::ADDRESS.shift);
            let mut bytes = [0; REQUEST_BYTES];
            bytes[..8].copy_from_slice(&first.value.to_le_bytes());
            bytes[8..16].copy_from_slice(&second.value.to_le_bytes());
            if memory.write(Gpa((queue & POINTER) + tail), &bytes).is_err() {
                // A queue that is not in the guest's memory.
                self.counters.misuse += 1;
                return false;
            }
            tail = (tail + step) & (size - 1);
        }
        self.platform.write_barrier();
        self.registers.set64(PQT, tail);
        self.raise_request(PRS_FIELDS::PPR::SET.value, effect);
        true
    }

    /// PPR or PRO is set, and the guest told if neither was (7.5).
    fn raise_request(&mut self, bit: u32, effect: &mut Effect) {
        let before = self.registers.get(PRS);
        self.registers.set(PRS, before | bit);
        if before == 0 {
            self.interrupt(Interrupts::REQUESTS, effect);
        }
    }

    fn finish_request(&mut self, at: usize, answer: Answer) {
        if let Some(waiting) = self.requests.waiting[at].take() {
            self.slice.respond(waiting.cookie, answer);
            // A place is free: what waits for one can be told.
            self.requests.knocked |= self.requests.held > 0;
        }
    }

    fn drop_held(&mut self) {
        self.requests.held = 0;
        self.slice
            .respond(self.requests.group[0].cookie, Answer::Invalid);
        // There may be others behind it.
        self.requests.knocked = true;
    }

    /// A page group response. Of a group that does not wait it has no effect.
    pub(super) fn answer_group(
        &mut self,
        source: u16,
        pasid: Option<u32>,
        group: u16,
        answer: Answer,
    ) {
        let Some(device) = self.find(source) else {
            return;
        };
        let found = self.requests.waiting.iter().position(|waiting| {
            waiting.is_some_and(|it| (it.device, it.pasid, it.group) == (device, pasid, group))
        });
        if let Some(at) = found {
            self.counters.requests.answered += 1;
            self.finish_request(at, answer);
        }
    }

    /// A PASID of a source, or what comes without one, goes through something else: what it had asked for was answered with that.
    pub(super) fn drop_requests(&mut self, device: usize, pasid: u32) {
        let same = |of: Option<u32>| of.unwrap_or(0) == pasid;
        for at in 0..self.requests.waiting.len() {
            if self.requests.waiting[at].is_some_and(|it| it.device == device && same(it.pasid)) {
                self.counters.requests.dropped += 1;
                self.finish_request(at, Answer::Invalid);
            }
        }
        if self.requests.held > 0 {
            let first = self.requests.group[0];
            if self.slice.device_of(&first) == Some(device) && same(first.pasid) {
                self.counters.requests.dropped += 1;
                self.drop_held();
            }
        }
    }

    /// The guest is gone.
    pub(super) fn drop_all_requests(&mut self) {
        for at in 0..self.requests.waiting.len() {
            if self.requests.waiting[at].is_some() {
                self.counters.requests.dropped += 1;
                self.finish_request(at, Answer::Invalid);
            }
        }
        while self.requests.exist() {
            if self.requests.held == 0 {
                let count = self.slice.requests(&mut self.requests.group).unwrap_or(0);
                if count == 0 {
                    break;
                }
                self.counters.requests.taken += 1;
            }
            self.counters.requests.dropped += 1;
            self.drop_held();
        }
        self.requests.knocked = false;
    }

    /// Ends what has waited too long; [`run`](Self::run) may have more to do then. Returns when to call this again:
    /// nanoseconds of the platform's clock, or `None` while nothing waits.
    pub fn expire(&mut self) -> Option<u64> {
        let now = self.platform.now_ns();
        if self.requests.held > 0 && self.requests.held_until <= now {
            self.counters.requests.expired += 1;
            self.drop_held();
        }
        for at in 0..self.requests.waiting.len() {
            if self.requests.waiting[at].is_some_and(|it| it.deadline <= now) {
                self.counters.requests.expired += 1;
                self.finish_request(at, Answer::Invalid);
            }
        }
        let waiting = self.requests.waiting.iter().flatten();
        let held = (self.requests.held > 0).then_some(self.requests.held_until);
        waiting.map(|it| it.deadline).chain(held).min()
    }
}
