//! Stalled transactions and page requests that wait for the guest (IHI 0070, §3.12.2, §4.5.2, §4.7, §8).
//!
//! A stall becomes an event with a tag of the guest's own, and ends with CMD_RESUME or CMD_STALL_TERM; a group of page
//! requests goes to the queue for them, and ends with CMD_PRI_RESP. Either ends as wrong if the guest does not answer
//! in time, so that no guest holds what the hardware has few of.

use super::effect::{Effect, Interrupts};
use super::events::Put;
use super::spec::{OVERFLOW, PRIQ_ABT_ERR};
use super::{Slice, VirtSmmu};
use crate::fault::FaultReason;
use crate::guest::waiting::Ended;
use crate::hal::{GuestMemory, Platform};
use crate::object::PageRequest;
use crate::object::driver::Answer;
use crate::smmuv3::spec::event::{EVENT0, EVENT1, kind};
use crate::smmuv3::spec::page_request::{PAGE_REQUEST_WORDS, REQUEST0, REQUEST1};
use crate::smmuv3::spec::registers::{PRIQ_CONS, PRIQ_PROD};

/// Bytes of a record of a page request.
const PRI_BYTES: usize = PAGE_REQUEST_WORDS * 8;

/// What waits. Its place in the list is its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    device: usize,
    /// Number of the group, for page requests; none for a stall.
    group: Option<u16>,
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// Tells the guest of stalls and page requests, as long as there is room. Whether there is more to do now.
    pub(super) fn page_requests(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        while self.requests.exist() {
            if *budget == 0 || !self.outbox.has_room() {
                return true;
            }
            *budget -= 1;
            if !self.requests.is_holding() && !self.take_group() {
                return false;
            }
            let Some(tag) = self.requests.free() else {
                return false;
            };
            let first = self.requests.held()[0];
            let put = match self.requester(&first) {
                Some(device) if !first.stalled => {
                    (device, Some(first.group), self.put_group(memory, effect))
                }
                Some(device) => {
                    let put = self.put_stall(memory, device, tag, effect);
                    if put == Some(Put::Full) {
                        // A stall is not lost: its record waits for room (§7.4).
                        return false;
                    }
                    (device, None, put)
                }
                None => (0, None, None),
            };
            match put {
                (device, group, Some(Put::Written)) => {
                    self.requests.told(tag, Asked { device, group });
                }
                _ => {
                    self.counters.requests.refused += 1;
                    let cookie = self.requests.let_go();
                    self.slice.respond(cookie, Answer::Invalid);
                }
            }
        }
        false
    }

    /// Holds the next group of the slice's. Whether there is one.
    fn take_group(&mut self) -> bool {
        let now = self.platform.now_ns();
        let counters = &mut self.counters.requests;
        self.requests.take(&mut self.slice, now, counters)
    }

    /// Whose a request is.
    fn requester(&self, request: &PageRequest) -> Option<usize> {
        let device = self.slice.device_of(request);
        device.filter(|device| *device < self.streams.len())
    }

    /// The record of a stall. `None` where there is no queue for it.
    fn put_stall(
        &mut self,
        memory: &dyn GuestMemory,
        device: usize,
        tag: usize,
        effect: &mut Effect,
    ) -> Option<Put> {
        let queue = self.registers.events()?;
        let request = self.requests.held()[0];
        let stream = self.streams[device].behind.stream.0;
        // What stalls has one of these (§7.3.13 to §7.3.16).
        let number = match request.reason {
            Some(FaultReason::AddressSize) => kind::F_ADDR_SIZE,
            Some(FaultReason::AccessFlag) => kind::F_ACCESS,
            Some(FaultReason::Permission) => kind::F_PERMISSION,
            _ => kind::F_TRANSLATION,
        };
        let mut first = EVENT0::TYPE.val(number.into()) + EVENT0::STREAM_ID.val(stream.into());
        if let Some(pasid) = request.pasid {
            first += EVENT0::SSV::SET + EVENT0::SUBSTREAM_ID.val(pasid.into());
        }
        let access = |bit: u32| u64::from(request.access & bit != 0);
        let second = EVENT1::STAG.val(tag as u64)
            + EVENT1::STALL::SET
            + EVENT1::PNU.val(access(8))
            + EVENT1::IND.val(access(4))
            + EVENT1::RNW.val(1 - access(2))
            + EVENT1::CLASS::Input;
        let record = [first.value, second.value, request.address, 0];
        Some(self.put_event(memory, &queue, record, effect))
    }

    /// The records of a group of page requests, all or none (§8). `None` where there is no queue for them.
    fn put_group(&mut self, memory: &dyn GuestMemory, effect: &mut Effect) -> Option<Put> {
        let queue = self.registers.requests()?;
        let requests = self.requests.held();
        let device = self.requester(&requests[0])?;
        let stream = u64::from(self.streams[device].behind.stream.0);
        let prod = self.registers.get(PRIQ_PROD);
        // Unlike events, nothing is added until an overflow is acknowledged (§8.1).
        let overflow = (prod ^ self.registers.get(PRIQ_CONS)) & OVERFLOW != 0;
        if overflow || (queue.room() as usize) < requests.len() {
            if !overflow {
                self.registers.set(PRIQ_PROD, prod ^ OVERFLOW);
            }
            return Some(Put::Full);
        }
        let mut position = queue.prod;
        for request in requests {
            let access = |bit: u32| u64::from(request.access & bit != 0);
            let mut first = REQUEST0::STREAM_ID.val(stream)
                + REQUEST0::PRIVILEGED.val(access(8))
                + REQUEST0::EXECUTE.val(access(4))
                + REQUEST0::WRITE.val(access(2))
                + REQUEST0::READ.val(access(1))
                + REQUEST0::LAST.val(request.last.into());
            if let Some(pasid) = request.pasid {
                first += REQUEST0::SSV::SET + REQUEST0::SUBSTREAM_ID.val(pasid.into());
            }
            let second = REQUEST1::PRGI.val(request.group.into())
                + REQUEST1::ADDRESS.val(request.address >> REQUEST1::ADDRESS.shift);
            let mut bytes = [0; PRI_BYTES];
            bytes[..8].copy_from_slice(&first.value.to_le_bytes());
            bytes[8..].copy_from_slice(&second.value.to_le_bytes());
            if memory
                .write(queue.slot(position, PRI_BYTES), &bytes)
                .is_err()
            {
                self.raise(memory, PRIQ_ABT_ERR, effect);
                return Some(Put::Aborted);
            }
            position = position.next();
        }
        self.platform.write_barrier();
        self.registers
            .set(PRIQ_PROD, prod & OVERFLOW | position.register());
        if queue.is_empty() {
            self.interrupt(memory, Interrupts::REQUESTS, effect);
        }
        Some(Put::Written)
    }

    /// The stream of `device`, as the guest calls it.
    fn is(&self, device: usize, stream: u32) -> bool {
        self.streams[device].behind.stream.0 == stream
    }

    fn finish(&mut self, tag: usize, answer: Answer) {
        if let Some(cookie) = self.requests.finish(tag) {
            self.counters.requests.answered += 1;
            self.slice.respond(cookie, answer);
            // A tag is free: what waits for one can be told.
            self.knocked |= self.requests.is_holding();
        }
    }

    fn ended(&mut self, ended: Ended) -> u64 {
        self.knocked |= ended.look;
        ended.count
    }

    /// CMD_RESUME. A tag or a stream that does not fit has no effect (§4.7.1).
    pub(super) fn answer_stall(&mut self, stream: u32, tag: u16, answer: Answer) {
        if let Some(asked) = self.requests.at(tag.into())
            && asked.group.is_none()
            && self.is(asked.device, stream)
        {
            self.finish(tag.into(), answer);
        }
    }

    /// CMD_STALL_TERM.
    pub(super) fn end_stalls(&mut self, stream: u32) {
        let (slice, streams) = (&mut self.slice, &self.streams);
        let which = |asked: &Asked| {
            asked.group.is_none() && streams[asked.device].behind.stream.0 == stream
        };
        let respond = |cookie| slice.respond(cookie, Answer::Invalid);
        let ended = self.requests.end(which, false, respond);
        self.counters.requests.answered += self.ended(ended);
    }

    /// CMD_PRI_RESP. A group that does not wait has no effect.
    pub(super) fn answer_group(&mut self, stream: u32, group: u16, answer: Answer) {
        let which = |asked: &Asked| asked.group == Some(group) && self.is(asked.device, stream);
        if let Some(tag) = self.requests.find(which) {
            self.finish(tag, answer);
        }
    }

    /// The stream has another configuration: what waited under the old one was answered with it.
    pub(super) fn drop_requests(&mut self, device: usize) {
        let held = self.requests.held().first();
        let held = held.is_some_and(|first| self.requester(first) == Some(device));
        let slice = &mut self.slice;
        let respond = |cookie| slice.respond(cookie, Answer::Invalid);
        let which = |asked: &Asked| asked.device == device;
        let ended = self.requests.end(which, held, respond);
        self.counters.requests.dropped += self.ended(ended);
    }

    /// The guest is gone.
    pub(super) fn drop_all_requests(&mut self) {
        let now = self.platform.now_ns();
        let counters = &mut self.counters.requests;
        self.requests.drop_all(&mut self.slice, now, counters);
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
