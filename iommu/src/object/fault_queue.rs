//! Page requests that wait for an answer. A group of requests is one: it is read as a whole and answered once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::driver::{Answer, Driver, Waiting};
use super::ids::Object;
use super::inner::Inner;
use super::{Error, Record, room};
use crate::fault::FaultReason;
use crate::id::{DeviceId, IommuIndex};

/// Requests that one queue holds at most.
pub const MAX_DEPTH: u32 = 1 << 12;

/// One page that a device waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageRequest {
    /// The device's object ID. Its owner knows it by that, whatever a guest calls it.
    pub device: u32,
    /// PASID, if the request had one.
    pub pasid: Option<u32>,
    /// The device's number for the group, or the tag of a stalled transaction.
    pub group: u16,
    /// The IOMMU holds the transaction; else the device does.
    pub stalled: bool,
    /// Nothing of the group comes after this.
    pub last: bool,
    /// Why a stalled transaction could not go on; page requests do not say.
    pub reason: Option<FaultReason>,
    /// Access asked for: 1 read, 2 write, 4 execute, 8 privileged.
    pub access: u32,
    /// Address of the page.
    pub address: u64,
    /// Names the group in the answer; 0 until it is read.
    pub cookie: u32,
}

/// Where a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The group is not complete.
    Parked,
    /// To be read.
    Ready,
    /// Read, and to be answered.
    Delivered,
}

#[derive(Clone, Debug)]
struct Held {
    driver: Arc<dyn Driver>,
    stream: DeviceId,
    /// PASID of the attachment that it came through.
    at: u32,
    state: State,
    /// It has seen one [`Requests::age`].
    aged: bool,
    request: PageRequest,
}

impl Held {
    fn same_group(&self, other: &Self) -> bool {
        let key = |it: &Self| {
            let request = &it.request;
            (
                request.device,
                request.pasid,
                request.group,
                request.stalled,
            )
        };
        self.state == other.state
            && key(self) == key(other)
            && self.request.cookie == other.request.cookie
    }

    fn answer(&self, answer: Answer) {
        // A device that cannot be answered keeps waiting, which harms nobody else.
        let request = &self.request;
        let waiting = if request.stalled {
            Waiting::Stall(request.group)
        } else {
            Waiting::Pages {
                pasid: request.pasid,
                group: request.group,
            }
        };
        let _ = self.driver.respond(self.stream, waiting, answer);
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Requests {
    /// In the order they came. All room is taken when the queue is made.
    waiting: Vec<Held>,
    depth: usize,
    next_cookie: u32,
}

impl Requests {
    fn new(depth: u32) -> Result<Self, Error> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(Error::Invalid(depth.into()));
        }
        let mut waiting = Vec::new();
        room::reserve(&mut waiting, depth as usize)?;
        Ok(Self {
            waiting,
            depth: depth as usize,
            next_cookie: 1,
        })
    }

    /// Takes a request. Where there is no room, false is returned, and with the last of a group all of it is answered as
    /// wrong; a group that lacks others is served without them, and the device asks for those again.
    pub(super) fn push(
        &mut self,
        driver: &Arc<dyn Driver>,
        stream: DeviceId,
        at: u32,
        request: PageRequest,
    ) -> bool {
        let held = Held {
            driver: Arc::clone(driver),
            stream,
            at,
            state: State::Parked,
            aged: false,
            request,
        };
        let last = request.last;
        if self.waiting.len() == self.depth {
            if last {
                self.waiting.retain(|it| !it.same_group(&held));
                held.answer(Answer::Invalid);
            }
            return false;
        }
        self.waiting.push(held.clone());
        if last {
            for it in self.waiting.iter_mut().filter(|it| it.same_group(&held)) {
                it.state = State::Ready;
            }
        }
        true
    }

    /// Ends what has waited since the call before the last one; how many groups. A group that never became complete has
    /// nobody who waits for an answer.
    fn age(&mut self) -> usize {
        let old = |it: &Held| it.aged;
        self.waiting
            .retain(|it| !(old(it) && it.state == State::Parked));
        let ended = self.answer(old);
        self.waiting.iter_mut().for_each(|it| it.aged = true);
        ended
    }

    /// Drops the groups of devices behind an IOMMU that are not complete, and never will be.
    fn drop_parked(&mut self, iommu: IommuIndex) -> bool {
        let before = self.waiting.len();
        self.waiting
            .retain(|it| it.state != State::Parked || it.driver.index() != iommu);
        self.waiting.len() != before
    }

    /// Reads the oldest complete group, if `out` has room for it, and returns its length.
    pub(super) fn read(&mut self, out: &mut [PageRequest]) -> Result<usize, Error> {
        let mut ready = self.waiting.iter();
        let Some(first) = ready.find(|it| it.state == State::Ready).cloned() else {
            return Ok(0);
        };
        let members = self.waiting.iter();
        let count = members.filter(|it| it.same_group(&first)).count();
        if count > out.len() {
            return Err(Error::Invalid(count as u64));
        }
        let cookie = self.fresh_cookie();
        let members = self.waiting.iter_mut().filter(|it| it.same_group(&first));
        for (it, out) in members.zip(out) {
            it.request.cookie = cookie;
            it.state = State::Delivered;
            *out = it.request;
        }
        Ok(count)
    }

    /// A cookie that no group has.
    fn fresh_cookie(&mut self) -> u32 {
        loop {
            let cookie = self.next_cookie;
            self.next_cookie = cookie.wrapping_add(1).max(1);
            if self.waiting.iter().all(|it| it.request.cookie != cookie) {
                return cookie;
            }
        }
    }

    /// Answers the group that was read under `cookie`.
    pub(super) fn respond(&mut self, cookie: u32, answer: Answer) -> Result<(), Error> {
        let mut waiting = self.waiting.iter();
        let group = waiting.find(|it| it.state == State::Delivered && it.request.cookie == cookie);
        let group = group.ok_or(Error::Invalid(cookie.into()))?;
        group.answer(answer);
        self.waiting.retain(|it| it.request.cookie != cookie);
        Ok(())
    }

    /// Answers whatever came through one attachment.
    fn answer_of(&mut self, device: u32, pasid: u32) {
        self.answer(|it| it.request.device == device && it.at == pasid);
    }

    fn answer(&mut self, which: impl Fn(&Held) -> bool) -> usize {
        let mut groups = 0;
        while let Some(at) = self.waiting.iter().position(&which) {
            let group = self.waiting[at].clone();
            // Of a group that is not complete nobody waits for an answer (PCIe PRI).
            if group.state != State::Parked {
                group.answer(Answer::Invalid);
                groups += 1;
            }
            self.waiting.retain(|it| !it.same_group(&group));
        }
        groups
    }

    /// The queue goes.
    pub(super) fn answer_all(mut self) {
        self.answer(|_| true);
    }
}

impl Inner {
    /// A queue of `depth` page requests.
    pub(super) fn fault_queue_alloc(&mut self, depth: u32) -> Result<u32, Error> {
        self.publish_with(|_, _| Ok(Object::FaultQueue(Requests::new(depth)?)))
    }

    /// A device has left a HWPT: whatever it asked for through it is answered.
    pub(super) fn answer_left(&mut self, device: u32, pasid: u32, hwpt: u32) {
        if let Some(fault) = self.fault_queue_of(hwpt)
            && let Ok(queue) = self.ids.fault_queue_mut(fault)
        {
            queue.answer_of(device, pasid);
        }
    }

    /// Ends requests that have waited for one to two of the periods that the caller calls this in.
    pub(super) fn age_requests(&mut self) {
        for id in 1..=self.ids.highest() {
            if let Ok(queue) = self.ids.fault_queue_mut(id)
                && queue.age() > 0
            {
                let record = Record::RequestsExpired { fault_queue: id };
                self.records.push(record);
            }
        }
    }

    /// An IOMMU dropped page requests.
    pub(super) fn requests_lost(&mut self, iommu: IommuIndex) {
        for id in 1..=self.ids.highest() {
            if let Ok(queue) = self.ids.fault_queue_mut(id)
                && queue.drop_parked(iommu)
            {
                self.records.push(Record::RequestsLost { fault_queue: id });
            }
        }
    }
}
