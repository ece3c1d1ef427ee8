//! Stalled transactions and page requests that wait for the guest (IHI 0070, §3.12.2, §4.5.2, §4.7, §8).
//!
//! A stall becomes an event with a tag of the guest's own, and ends with CMD_RESUME or CMD_STALL_TERM; a group of page
//! requests goes to the queue for them, and ends with CMD_PRI_RESP. Either ends as wrong if the guest does not answer
//! in time, so that no guest holds what the hardware has few of.

use alloc::vec::Vec;

use super::effect::{Effect, Interrupts};
use super::events::Put;
use super::spec::{OVERFLOW, PRIQ_ABT_ERR};
use super::{GROUP, Slice, VirtSmmu};
use crate::fault::FaultReason;
use crate::hal::{GuestMemory, Platform};
use crate::object::PageRequest;
use crate::object::driver::Answer;
use crate::smmuv3::spec::event::{EVENT0, EVENT1, kind};
use crate::smmuv3::spec::page_request::{PAGE_REQUEST_WORDS, REQUEST0, REQUEST1};
use crate::smmuv3::spec::registers::{PRIQ_CONS, PRIQ_PROD};

/// Bytes of a record of a page request.
const PRI_BYTES: usize = PAGE_REQUEST_WORDS * 8;

/// What the guest was told of and has to answer. Its place in the list is its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiting {
    cookie: u32,
    device: usize,
    /// Number of the group, for page requests; none for a stall.
    group: Option<u16>,
    deadline: u64,
}

pub(super) struct Requests {
    waiting: Vec<Option<Waiting>>,
    patience_ns: u64,
    /// A group that was taken from the slice, and is to be told: its requests, how many, until when.
    group: Vec<PageRequest>,
    held: usize,
    held_until: u64,
}

impl Requests {
    /// Room for `waiting` at once; `None` without memory.
    pub fn new(waiting: u16, patience_ns: u64) -> Option<Self> {
        let mut list = Vec::new();
        let mut group = Vec::new();
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
        })
    }

    /// A group waits for room in a queue or for a tag.
    pub fn blocked(&self) -> bool {
        self.held > 0
    }

    fn free(&self) -> Option<usize> {
        self.waiting.iter().position(Option::is_none)
    }
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// Tells the guest of stalls and page requests, as long as there is room. Whether there is more to do now.
    pub(super) fn page_requests(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        while !self.requests.waiting.is_empty() {
            if *budget == 0 || !self.outbox.has_room() {
                return true;
            }
            *budget -= 1;
            if self.requests.held == 0 {
                // The slice has no group that does not fit, as its queue is not longer.
                let count = self.slice.requests(&mut self.requests.group).unwrap_or(0);
                if count == 0 {
                    return false;
                }
                self.counters.requests.taken += 1;
                self.requests.held = count;
                self.requests.held_until = self
                    .platform
                    .now_ns()
                    .saturating_add(self.requests.patience_ns);
            }
            let Some(tag) = self.requests.free() else {
                return false;
            };
            let first = self.requests.group[0];
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
            self.requests.held = 0;
            match put {
                (device, group, Some(Put::Written)) => {
                    self.requests.waiting[tag] = Some(Waiting {
                        cookie: first.cookie,
                        device,
                        group,
                        deadline: self.requests.held_until,
                    });
                }
                _ => {
                    self.counters.requests.refused += 1;
                    self.slice.respond(first.cookie, Answer::Invalid);
                }
            }
        }
        false
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
        let request = self.requests.group[0];
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
        let requests = &self.requests.group[..self.requests.held];
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
        if let Some(waiting) = self.requests.waiting[tag].take() {
            self.slice.respond(waiting.cookie, answer);
            // A tag is free: what waits for one can be told.
            self.knocked |= self.requests.blocked();
        }
    }

    /// CMD_RESUME. A tag or a stream that does not fit has no effect (§4.7.1).
    pub(super) fn answer_stall(&mut self, stream: u32, tag: u16, answer: Answer) {
        let waiting = self.requests.waiting.get(usize::from(tag)).copied();
        if let Some(Some(waiting)) = waiting
            && waiting.group.is_none()
            && self.is(waiting.device, stream)
        {
            self.counters.requests.answered += 1;
            self.finish(tag.into(), answer);
        }
    }

    /// CMD_STALL_TERM.
    pub(super) fn end_stalls(&mut self, stream: u32) {
        for tag in 0..self.requests.waiting.len() {
            if let Some(waiting) = self.requests.waiting[tag]
                && waiting.group.is_none()
                && self.is(waiting.device, stream)
            {
                self.counters.requests.answered += 1;
                self.finish(tag, Answer::Invalid);
            }
        }
    }

    /// CMD_PRI_RESP. A group that does not wait has no effect.
    pub(super) fn answer_group(&mut self, stream: u32, group: u16, answer: Answer) {
        let tag = self.requests.waiting.iter().position(|waiting| {
            waiting.is_some_and(|waiting| {
                waiting.group == Some(group) && self.is(waiting.device, stream)
            })
        });
        if let Some(tag) = tag {
            self.counters.requests.answered += 1;
            self.finish(tag, answer);
        }
    }

    /// The stream has another configuration: what waited under the old one was answered with it.
    pub(super) fn drop_requests(&mut self, device: usize) {
        for tag in 0..self.requests.waiting.len() {
            if self.requests.waiting[tag].is_some_and(|it| it.device == device) {
                self.counters.requests.dropped += 1;
                self.finish(tag, Answer::Invalid);
            }
        }
        if self.requests.blocked() && self.requester(&self.requests.group[0]) == Some(device) {
            self.requests.held = 0;
            self.knocked = true;
            self.counters.requests.dropped += 1;
            let cookie = self.requests.group[0].cookie;
            self.slice.respond(cookie, Answer::Invalid);
        }
    }

    /// The guest is gone.
    pub(super) fn drop_all_requests(&mut self) {
        for tag in 0..self.requests.waiting.len() {
            if self.requests.waiting[tag].is_some() {
                self.counters.requests.dropped += 1;
                self.finish(tag, Answer::Invalid);
            }
        }
        while !self.requests.group.is_empty() {
            if self.requests.held == 0 {
                let count = self.slice.requests(&mut self.requests.group).unwrap_or(0);
                if count == 0 {
                    return;
                }
                self.counters.requests.taken += 1;
            }
            self.requests.held = 0;
            self.counters.requests.dropped += 1;
            let cookie = self.requests.group[0].cookie;
            self.slice.respond(cookie, Answer::Invalid);
        }
    }

    /// Ends what has waited too long; [`run`](Self::run) may have more to do then. Returns when to call this again:
    /// nanoseconds of the platform's clock, or `None` while nothing waits.
    pub fn expire(&mut self) -> Option<u64> {
        let now = self.platform.now_ns();
        if self.requests.blocked() && self.requests.held_until <= now {
            self.requests.held = 0;
            // There may be others behind it.
            self.knocked = true;
            self.counters.requests.expired += 1;
            let cookie = self.requests.group[0].cookie;
            self.slice.respond(cookie, Answer::Invalid);
        }
        for tag in 0..self.requests.waiting.len() {
            if self.requests.waiting[tag].is_some_and(|it| it.deadline <= now) {
                self.counters.requests.expired += 1;
                self.finish(tag, Answer::Invalid);
            }
        }
        let waiting = self.requests.waiting.iter().flatten();
        let held = self.requests.blocked().then_some(self.requests.held_until);
        waiting.map(|it| it.deadline).chain(held).min()
    }
}
