//! A guest's fault records and the interrupts of its unit (VT-d, 7.2, 7.3, 11.4).

use super::contexts::{Tables, Wanted, find, is_scalable};
use super::effect::{Effect, Interrupts, Message};
use super::registers::record;
use super::shadow::{Ahead, Walk};
use super::spec::{IEADDR, IEDATA, IEUADDR, PEADDR, PEDATA, PEUADDR};
use super::{Current, EVENT_COST, Slice, VirtVtd};
use crate::addr::{Gpa, Iova, PAGE_SIZE};
use crate::hal::{GuestMemory, Platform};
use crate::id::VirtDeviceId;
use crate::object::driver::Access;
use crate::object::{Event, Item, MAX_SEQUENCE};
use crate::vtd::spec::fault::{FAULT0, FAULT1, reason};
use crate::vtd::spec::registers::{
    FEADDR, FECTL, FECTL_FIELDS, FEDATA, FEUADDR, FSTS, FSTS_FIELDS, IECTL, PECTL,
};

/// One fault as the guest is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GuestFault {
    pub source: u16,
    pub reason: u8,
    /// The page, or the index of an interrupt in 63:48.
    pub information: u64,
    pub write: bool,
    /// PP, PV, PRIV and T2 of the record.
    pub more: u64,
}

/// What of a record is about the PASID.
const PASID_FIELDS: u64 = FAULT1::PP::SET.value
    | FAULT1::PV.mask << FAULT1::PV.shift
    | FAULT1::PRIV.mask << FAULT1::PRIV.shift;

/// Reasons of the hardware's that are those of a guest's first stage.
const OWN: [u8; 7] = [
    reason::SUPERVISOR_REQUEST,
    reason::FIRST_NOT_PRESENT,
    reason::FIRST_RESERVED,
    reason::NOT_CANONICAL,
    reason::SUPERVISOR_ONLY,
    reason::SCALABLE_WRITE,
    reason::SCALABLE_READ,
];

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Fetches faults from the slice. What is left of `budget`.
    pub(super) fn faults(
        &mut self,
        memory: &dyn GuestMemory,
        mut budget: u32,
        effect: &mut Effect,
    ) -> u32 {
        while self.knocked && budget > 0 && effect.has_room() {
            budget = budget.saturating_sub(EVENT_COST);
            match self.slice.event() {
                None => self.knocked = false,
                Some(Item::Record { sequence, record }) => {
                    self.note_lost(sequence, effect);
                    self.deliver_fault(memory, &record, effect);
                }
                Some(Item::Lost { sequence }) => {
                    self.note_lost(sequence.wrapping_add(1) & MAX_SEQUENCE, effect);
                }
            }
        }
        budget
    }

    /// The next fault has this number: those before it that did not come were lost.
    fn note_lost(&mut self, sequence: u32, effect: &mut Effect) {
        let lost = sequence.wrapping_sub(self.sequence) & MAX_SEQUENCE;
        self.sequence = sequence;
        if lost > 0 {
            self.counters.faults.recorded += u64::from(lost);
            self.counters.faults.lost += u64::from(lost);
            self.raise(FSTS_FIELDS::PFO::SET.value, effect);
        }
    }

    /// One fault of a device, in the hardware's words but for the source.
    fn deliver_fault(&mut self, memory: &dyn GuestMemory, event: &Event, effect: &mut Effect) {
        self.sequence = self.sequence.wrapping_add(1) & MAX_SEQUENCE;
        self.counters.faults.recorded += 1;
        let [first, second, ..] = *event;
        let source = (second >> FAULT1::SID.shift & FAULT1::SID.mask) as u16;
        let number = (second >> FAULT1::FR.shift & FAULT1::FR.mask) as u8;
        let read = second & FAULT1::T1::SET.value != 0 && second & FAULT1::T2::SET.value == 0;
        let page = first & FAULT0::FI.mask << FAULT0::FI.shift;
        let device = self.find(source);
        let has_pasid = second & FAULT1::PP::SET.value != 0;
        let pasid = (second >> FAULT1::PV.shift & FAULT1::PV.mask) as u32;
        let (number, silent) = match device {
            Some(device) if has_pasid => self.reason_of_pasid(memory, device, pasid, number),
            Some(device) => {
                let number = self.own_reason(memory, device, number, page, !read);
                (number, self.devices[device].found.silent)
            }
            None => (None, true),
        };
        match number {
            Some(reason) if !silent => {
                self.counters.faults.recorded -= 1;
                let fault = GuestFault {
                    source,
                    reason,
                    information: page,
                    write: !read,
                    more: match has_pasid {
                        true => second & PASID_FIELDS,
                        false => 0,
                    },
                };
                self.record(&fault, effect);
            }
            _ => self.counters.faults.silent += 1,
        }
    }

    /// The reason that the guest's own tables have for what the hardware's had `number` for. `None` where they have none any
    /// more.
    fn own_reason(
        &self,
        memory: &dyn GuestMemory,
        device: usize,
        number: u8,
        page: u64,
        write: bool,
    ) -> Option<u8> {
        let device = &self.devices[device];
        if let Some(Current::Shadow(at)) = device.current
            && self.shadows[at].is_some_and(|shadow| shadow.nested)
        {
            // The hardware has walked the guest's own tables: its reason is the guest's, if it is one of those.
            return OWN.contains(&number).then_some(number);
        }
        let scalable = is_scalable(self.registers.root);
        let beyond = match number {
            reason::BEYOND_WIDTH
            | reason::NOT_CANONICAL
            | reason::SCALABLE_BEYOND
            | reason::SECOND_BEYOND => true,
            reason::WRITE | reason::READ | reason::SECOND_PERMISSION => false,
            _ => {
                // Of the entries that lead to tables.
                return match (device.current, device.found.wanted) {
                    (Some(Current::Refused), Wanted::Refused(reason)) => Some(reason),
                    _ => None,
                };
            }
        };
        let (Some(Current::Shadow(_)), Wanted::Through(tables)) =
            (device.current, device.found.wanted)
        else {
            // Past what a guest has, whose addresses go straight to its memory.
            return Some(if scalable {
                reason::SECOND_BEYOND
            } else {
                reason::BEYOND_WIDTH
            });
        };
        // Shadows may be wider than the guest's tables.
        let beyond = beyond || page >> tables.input_bits != 0;
        Some(match (scalable, tables.first) {
            (false, _) if beyond => reason::BEYOND_WIDTH,
            (false, _) if write => reason::WRITE,
            (false, _) => reason::READ,
            (true, true) if beyond => reason::NOT_CANONICAL,
            (true, true) => self.reason_of_first(memory, tables, page, write),
            (true, false) if beyond => reason::SECOND_BEYOND,
            (true, false) => reason::SECOND_PERMISSION,
        })
    }

    /// The same for a request with PASID, and whether nobody is told of it.
    fn reason_of_pasid(
        &self,
        memory: &dyn GuestMemory,
        device: usize,
        pasid: u32,
        number: u8,
    ) -> (Option<u8>, bool) {
        let source = self.devices[device].behind.source.0 as u16;
        let found = find(
            memory,
            &self.rules,
            self.registers.root,
            source,
            Some(pasid),
        );
        let mut places = self.places.iter();
        let place = places.find(|it| (it.device, it.pasid) == (device, pasid));
        let reason = match (place.and_then(|it| it.current), found.wanted) {
            (Some(Current::Shadow(at)), Wanted::Through(tables)) => {
                let nested = self.shadows[at].is_some_and(|shadow| shadow.nested);
                match number {
                    _ if nested => OWN.contains(&number).then_some(number),
                    reason::SCALABLE_BEYOND | reason::SECOND_BEYOND => Some(reason::SECOND_BEYOND),
                    reason::SECOND_PERMISSION if !tables.first => Some(reason::SECOND_PERMISSION),
                    _ => None,
                }
            }
            (None | Some(Current::Refused), Wanted::Refused(reason)) => Some(reason),
            (Some(Current::PassThrough), _) => Some(reason::SECOND_BEYOND),
            // What the guest has changed by now.
            _ => None,
        };
        (reason, found.silent)
    }

    /// Where the guest's own tables lead a request of `source` at `at`, if they allow it and a shadow stands for them. A fault of
    /// such a request, where that is no memory of the guest's, is none that they know of: it is the owner's, and not for
    /// [`deliver`](Self::deliver).
    pub fn leads(
        &self,
        memory: &dyn GuestMemory,
        source: VirtDeviceId,
        at: Iova,
        write: bool,
    ) -> Option<Gpa> {
        let device = &self.devices[self.find(source.0.try_into().ok()?)?];
        let (Some(Current::Shadow(shadow)), Wanted::Through(tables)) =
            (device.current, device.found.wanted)
        else {
            return None;
        };
        if self.shadows[shadow].is_none_or(|shadow| shadow.nested) || at.0 >> tables.input_bits != 0
        {
            return None;
        }
        let (to, rights) = walk(memory, tables, at.0)?;
        let wanted = if write { Access::WRITE } else { Access::READ };
        rights.contains(wanted).then_some(to)
    }

    /// First stages tell "not there" from "not allowed" (7.1.3).
    fn reason_of_first(
        &self,
        memory: &dyn GuestMemory,
        tables: Tables,
        page: u64,
        write: bool,
    ) -> u8 {
        match walk(memory, tables, page) {
            None => reason::FIRST_NOT_PRESENT,
            Some((_, rights)) if write && !rights.contains(Access::WRITE) => reason::SCALABLE_WRITE,
            Some(_) => reason::FIRST_NOT_PRESENT,
        }
    }

    /// Writes a fault record, or says that there was no room (7.2.1).
    pub(super) fn record(&mut self, fault: &GuestFault, effect: &mut Effect) {
        self.counters.faults.recorded += 1;
        let overflow = FSTS_FIELDS::PFO::SET.value;
        let index = self.next_record % self.registers.records();
        // Nothing is recorded while an overflow is not acknowledged.
        if self.registers.get(FSTS) & overflow != 0 || self.registers.is_recorded(index) {
            self.counters.faults.overflowed += 1;
            self.raise(overflow, effect);
            return;
        }
        self.counters.faults.delivered += 1;
        let fields = FAULT1::SID.val(fault.source.into())
            + FAULT1::FR.val(fault.reason.into())
            + FAULT1::T1.val((!fault.write).into())
            + FAULT1::F::SET;
        let second = fields.value | fault.more;
        let at = record(index);
        self.registers.set64(at, fault.information);
        self.registers.set64(at + 8, second);
        self.next_record = (index + 1) % self.registers.records();
        let status = self.registers.get(FSTS);
        let pending = FSTS_FIELDS::PPF::SET.value;
        let mut raised = pending;
        if status & pending == 0 {
            let first = FSTS_FIELDS::FRI.mask << FSTS_FIELDS::FRI.shift;
            self.registers.set(FSTS, status & !first);
            raised |= FSTS_FIELDS::FRI.val(index.into()).value;
        }
        self.raise(raised, effect);
    }

    /// Sets bits of FSTS, and interrupts if none of those that do was set before (11.4, FECTL).
    pub(super) fn raise(&mut self, bits: u32, effect: &mut Effect) {
        let before = self.registers.has_fault_status();
        let status = self.registers.get(FSTS);
        self.registers.set(FSTS, status | bits);
        if !before {
            self.interrupt(Interrupts::FAULT, effect);
        }
    }

    /// One of the unit's own interrupts, unless it is masked: then it waits.
    pub(super) fn interrupt(&mut self, source: Interrupts, effect: &mut Effect) {
        let (control, data, address, upper) = match source {
            Interrupts::FAULT => (FECTL, FEDATA, FEADDR, FEUADDR),
            Interrupts::REQUESTS => (PECTL, PEDATA, PEADDR, PEUADDR),
            _ => (IECTL, IEDATA, IEADDR, IEUADDR),
        };
        let register = self.registers.get(control);
        let pending = FECTL_FIELDS::IP::SET.value;
        let masked = register & FECTL_FIELDS::IM::SET.value != 0;
        let address =
            u64::from(self.registers.get(address)) | u64::from(self.registers.get(upper)) << 32;
        let message = Message {
            source,
            address,
            data: self.registers.get(data),
        };
        if masked || !effect.push(message) {
            self.registers.set(control, register | pending);
            return;
        }
        self.counters.interrupts += 1;
    }
}

/// Where a guest's tables lead `at`, and what they allow there.
fn walk(memory: &dyn GuestMemory, tables: Tables, at: u64) -> Option<(Gpa, Access)> {
    let page = at & !(PAGE_SIZE - 1);
    let mut found = None;
    let end = page.saturating_add(PAGE_SIZE);
    let mut ahead = Ahead::new();
    let _ = Walk::new(memory, tables, &mut ahead).step(
        page,
        end,
        &mut super::Counters::default(),
        |piece| {
            let inside = at - piece.range.base.0;
            found = piece
                .to
                .and_then(|(to, rights)| Some((Gpa(to.0.checked_add(inside)?), rights)));
            Ok::<u64, ()>(piece.end())
        },
    );
    found
}
