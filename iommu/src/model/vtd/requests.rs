//! Page requests (7.4 to 7.7): the queue of them, its event, and the groups that devices wait for.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::cache::Scope;
use super::device::Initiator;
use super::registers::{IM, IP, TES};
use super::translate::{Fault, Request, in_scalable};
use super::{State, VtdModel};

/// PRS.
pub(super) const PPR: u32 = 1;
pub(super) const PRO: u32 = 2;
/// Response codes (7.7, table 32).
const SUCCESS: u8 = 0;
const INVALID: u8 = 1;

/// What became of a page request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It is in the queue, or on its way there.
    Queued,
    /// The unit answered it by itself, with this code (table 31).
    Answered(u8),
    /// Nobody answers it, as it was not the last of its group, or is of no unit that has page requests.
    Dropped,
}

/// One page request.
#[derive(Clone, Copy)]
struct PageRequest {
    from: Initiator,
    address: u64,
    write: bool,
    group: u16,
    last: bool,
}

/// A group, by source, PASID and index.
type Group = (u16, Option<u32>, u16);

#[derive(Default)]
pub(super) struct Requests {
    /// Received, and not accepted (7.5).
    received: Vec<PageRequest>,
    /// Whose last request was queued, and is not answered.
    waiting: BTreeSet<Group>,
    /// Answers, by software and the unit, with their codes.
    responses: Vec<(u16, Option<u32>, u16, u8)>,
    /// Sources that were told to forget since the last wait.
    pub told: Vec<u16>,
}

/// What a page group response says.
#[derive(Clone, Copy)]
pub(super) struct Response {
    group: Group,
    code: u8,
}

impl Response {
    /// From a descriptor of which nothing reserved is set (7.6.1).
    pub fn of([first, second]: [u64; 2]) -> Option<Self> {
        let pasid = (first >> 4 & 1 != 0).then_some((first >> 32) as u32 & 0xf_ffff);
        let group = ((first >> 16) as u16, pasid, (second >> 3) as u16 & 0x1ff);
        let code = (first >> 12 & 0xf) as u8;
        matches!(code, 0 | 1 | 0xf).then_some(Self { group, code })
    }
}

impl State {
    /// Bytes of the queue.
    fn request_bytes(&self) -> u64 {
        4096 << (self.registers.pqa & 7)
    }

    /// Takes one from the devices to the queue, or answers it.
    fn accept(&mut self, request: &PageRequest) -> Asked {
        if !self.config.page_requests || !self.registers.is_on(TES) {
            return Asked::Dropped;
        }
        let (source, pasid, privileged) = request.from.parts();
        let space = match self.page_request_space(source, pasid) {
            Ok(space) => space,
            Err(Fault { reason, silent }) => {
                if !silent {
                    let address = request.address;
                    let asked = Request {
                        source,
                        pasid,
                        privileged,
                        address,
                        write: true,
                    };
                    self.record_page_request(reason, &asked);
                }
                return self.refuse(request, INVALID);
            }
        };
        if self.registers.prs & PRO != 0 {
            return self.refuse(request, SUCCESS);
        }
        let next = (self.registers.pqt + 32) % self.request_bytes();
        if next == self.registers.pqh {
            self.request_event(PRO);
            return self.refuse(request, SUCCESS);
        }
        // 6.5.3.1, table 27.
        let (first, last) = (request.address & !0xfff, request.address | 0xfff);
        let scope = match (space.first.is_some(), space.second.is_some()) {
            (true, false) => Scope::FirstStage {
                domain: space.domain,
                pasid: space.pasid,
                first,
                last,
                leaf: false,
            },
            (true, true) => Scope::Domain(space.domain),
            _ => Scope::Pages {
                domain: space.domain,
                first,
                last,
                leaf: false,
            },
        };
        self.forget(&scope);
        let mut words = [
            1 | u64::from(source) << 16,
            1 | u64::from(request.write) << 1
                | u64::from(request.last) << 2
                | u64::from(request.group & 0x1ff) << 3
                | first,
            0,
            0,
        ];
        if let Some(pasid) = pasid {
            words[0] |= 1 << 8 | u64::from(pasid) << 32 | u64::from(privileged) << 53;
        }
        let at = (self.registers.pqa & !0xfff) + self.registers.pqt;
        for (at, word) in (at..).step_by(8).zip(words) {
            let bytes = word.to_le_bytes();
            let coherent = self.config.coherent;
            if self
                .memory
                .device_write_bytes(at, &bytes, coherent)
                .is_err()
            {
                self.violation("7.4.1", alloc::format!("no memory at {at:#x}"));
            }
        }
        self.registers.pqt = next;
        if request.last {
            self.requests.waiting.insert((source, pasid, request.group));
        }
        self.request_event(PPR);
        Asked::Queued
    }

    /// Drops a request. The last of a group is answered by the unit itself (table 31).
    fn refuse(&mut self, request: &PageRequest, code: u8) -> Asked {
        if !request.last {
            return Asked::Dropped;
        }
        let (source, pasid, _) = request.from.parts();
        let answer = (source, pasid, request.group, code);
        self.requests.responses.push(answer);
        Asked::Answered(code)
    }

    /// What a page request is about (table 30): its context allows it.
    fn page_request_space(
        &mut self,
        source: u16,
        pasid: Option<u32>,
    ) -> Result<super::space::Space, Fault> {
        if !self.is_scalable() {
            return Err(0x32.into());
        }
        let [first, _] = self.context(source, true).map_err(|fault| Fault {
            reason: in_scalable(fault.reason),
            ..fault
        })?;
        if first >> 4 & 1 == 0 {
            return Err(Fault {
                reason: 0x47,
                silent: first >> 1 & 1 != 0,
            });
        }
        self.scalable_space(source, pasid).map(|(space, _)| space)
    }

    /// PPR or PRO is set (7.5).
    fn request_event(&mut self, bit: u32) {
        let registers = &mut self.registers;
        let first = registers.prs & (PPR | PRO) == 0;
        registers.prs |= bit;
        if !first {
            return;
        }
        if registers.pectl & IM != 0 {
            registers.pectl |= IP;
        } else {
            self.send_request_event();
        }
    }

    pub(super) fn send_request_event(&mut self) {
        let registers = &self.registers;
        let address = u64::from(registers.peuaddr) << 32 | u64::from(registers.peaddr);
        self.messages.push((address, registers.pedata));
    }

    /// A write of PQH, PQT or PQA.
    pub(super) fn write_request_queue(&mut self, offset: usize, value: u64) {
        if offset == 0xd0 {
            let mut contexts = self.cache.contexts.values();
            if contexts.any(|[first, _]| first >> 4 & 1 != 0) && self.is_scalable() {
                self.violation("7.4.1", "PQA is written while a device may ask".into());
            }
            self.registers.pqa = value;
            return;
        }
        if !value.is_multiple_of(32) || value >= self.request_bytes() {
            self.violation("11.4.11", alloc::format!("{value:#x} at {offset:#x}"));
        }
        match offset {
            0xc0 => self.registers.pqh = value,
            _ => self.registers.pqt = value,
        }
    }

    /// A write of PRS.
    pub(super) fn clear_request_status(&mut self, value: u32) {
        let registers = &mut self.registers;
        registers.prs &= !(value & (PPR | PRO));
        if registers.prs == 0 {
            registers.pectl &= !IP;
        }
    }

    /// A page group response reaches its device (7.6).
    pub(super) fn page_response(&mut self, response: Response) {
        let Response { group, code } = response;
        if !self.requests.waiting.remove(&group) {
            let what = alloc::format!("nobody waits as {group:x?}");
            self.violation("7.6", what);
        }
        let (source, pasid, index) = group;
        self.requests.responses.push((source, pasid, index, code));
    }

    /// A wait with PD is complete (7.7): what came before devices said that they have forgotten is in the queue.
    pub(super) fn drain_page_requests(&mut self, drains: bool) {
        let told = core::mem::take(&mut self.requests.told);
        if drains {
            self.accept_of(|source| told.contains(&source));
        }
    }

    fn accept_of(&mut self, which: impl Fn(u16) -> bool) {
        let received = core::mem::take(&mut self.requests.received);
        for request in received {
            match which(request.from.parts().0) {
                true => _ = self.accept(&request),
                false => self.requests.received.push(request),
            }
        }
    }
}

impl VtdModel {
    /// A device asks for a page to read, and to write, and waits for it once it has sent the last request of a group (PCIe PRI).
    pub fn page_request(
        &self,
        from: impl Into<Initiator>,
        address: u64,
        write: bool,
        group: u16,
        last: bool,
    ) -> Asked {
        let request = PageRequest {
            from: from.into(),
            address,
            write,
            group,
            last,
        };
        let mut state = self.0.lock();
        if state.config.late_requests {
            state.requests.received.push(request);
            return Asked::Queued;
        }
        state.accept(&request)
    }

    /// Page requests that are on their way arrive.
    pub fn arrive(&self) {
        self.0.lock().accept_of(|_| true);
    }

    /// Answers since the last call: source, PASID, group and code.
    pub fn page_responses(&self) -> Vec<(u16, Option<u32>, u16, u8)> {
        core::mem::take(&mut self.0.lock().requests.responses)
    }

    /// Groups that wait for an answer.
    pub fn waiting_groups(&self) -> usize {
        self.0.lock().requests.waiting.len()
    }
}
