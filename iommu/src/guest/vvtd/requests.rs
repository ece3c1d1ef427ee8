//! Page requests that wait for the guest (VT-d, 7.4 to 7.7).
//!
//! A group goes to the guest's queue under the source that the guest knows, and ends with a page group response of the guest's. It
//! ends as wrong if the guest cannot be told or does not answer in time, so that no guest holds what the hardware has few of. That
//! is so for a full queue too, where hardware would have the device ask again (table 31), without an end.

use super::contexts::may_ask;
use super::effect::{Effect, Interrupts};
use super::faults::GuestFault;
use super::spec::POINTER;
use super::{EVENT_COST, Slice, VirtVtd};
use crate::addr::Gpa;
use crate::guest::waiting::Ended;
use crate::hal::{GuestMemory, Platform};
use crate::object::PageRequest;
use crate::object::driver::Answer;
use crate::vtd::spec::fault::FAULT1;
use crate::vtd::spec::page_request::{REQUEST_BYTES, REQUEST0, REQUEST1};
use crate::vtd::spec::registers::{PQA, PQA_FIELDS, PQH, PQT, PRS, PRS_FIELDS};

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    device: usize,
    pasid: Option<u32>,
    group: u16,
}

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Tells the guest of page requests, as long as there is room.
    pub(super) fn page_requests(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) {
        while self.asked && *budget > 0 && effect.has_room() {
            *budget = budget.saturating_sub(EVENT_COST);
            if !self.requests.is_holding() && !self.take_group() {
                self.asked = false;
                return;
            }
            let Some(free) = self.requests.free() else {
                // Until one is answered.
                self.asked = false;
                return;
            };
            let first = self.requests.held()[0];
            let device = self.slice.device_of(&first);
            let device = device.filter(|device| *device < self.devices.len());
            let told = device.filter(|device| self.put_group(memory, *device, effect));
            match told {
                Some(device) => {
                    let PageRequest { pasid, group, .. } = first;
                    let asked = Asked {
                        device,
                        pasid,
                        group,
                    };
                    self.requests.told(free, asked);
                }
                None => {
                    self.counters.requests.refused += 1;
                    let cookie = self.requests.let_go();
                    self.slice.respond(cookie, Answer::Invalid);
                }
            }
        }
    }

    /// Holds the next group of the slice's. Whether there is one.
    fn take_group(&mut self) -> bool {
        let now = self.platform.now_ns();
        let counters = &mut self.counters.requests;
        self.requests.take(&mut self.slice, now, counters)
    }

    /// Writes the descriptors of a group, all or none (7.4.1). Whether it did.
    fn put_group(&mut self, memory: &dyn GuestMemory, device: usize, effect: &mut Effect) -> bool {
        let source = self.devices[device].behind.source.0 as u16;
        let first = self.requests.held()[0];
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
        if room < self.requests.held().len() as u64 {
            self.raise_request(overflow, effect);
            return false;
        }
        for request in self.requests.held() {
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

    fn ended(&mut self, ended: Ended) -> u64 {
        self.asked |= ended.look;
        ended.count
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
        let it = Asked {
            device,
            pasid,
            group,
        };
        let found = self.requests.find(|asked| *asked == it);
        if let Some(cookie) = found.and_then(|place| self.requests.finish(place)) {
            self.counters.requests.answered += 1;
            self.slice.respond(cookie, answer);
            // A place is free: what waits for one can be told.
            self.asked |= self.requests.is_holding();
        }
    }

    /// A PASID of a source, or what comes without one, goes through something else: what it had asked for was answered with that.
    pub(super) fn drop_requests(&mut self, device: usize, pasid: u32) {
        let same = |of: Option<u32>| of.unwrap_or(0) == pasid;
        let held =
            self.requests.held().first().is_some_and(|first| {
                self.slice.device_of(first) == Some(device) && same(first.pasid)
            });
        let slice = &mut self.slice;
        let respond = |cookie| slice.respond(cookie, Answer::Invalid);
        let which = |asked: &Asked| asked.device == device && same(asked.pasid);
        let ended = self.requests.end(which, held, respond);
        self.counters.requests.dropped += self.ended(ended);
    }

    /// The guest is gone.
    pub(super) fn drop_all_requests(&mut self) {
        let now = self.platform.now_ns();
        let counters = &mut self.counters.requests;
        self.requests.drop_all(&mut self.slice, now, counters);
        self.asked = false;
    }

    /// Ends what has waited too long; [`run`](Self::run) may have more to do then. Returns when to call this again:
    /// nanoseconds of the platform's clock, or `None` while nothing waits.
    pub fn expire(&mut self) -> Option<u64> {
        let (slice, now) = (&mut self.slice, self.platform.now_ns());
        let respond = |cookie| slice.respond(cookie, Answer::Invalid);
        let ended = self.requests.expire(now, respond);
        self.counters.requests.expired += self.ended(ended);
        self.requests.next_ns()
    }
}
