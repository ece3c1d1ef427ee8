//! The consumer of a guest's invalidation queue (VT-d, 6.5.2), and its invalidations by register (6.5.1).

use super::descriptor::{ALL, Decoded, Illegal, RESERVED, decode, field, pages};
use super::effect::{Effect, Interrupts};
use super::job::Pasids;
use super::registers::Queue;
use super::spec::{CCMD_DONE, ICS, ICS_FIELDS, IOTLB_DONE, IOTLB_REGISTERS, error};
use super::work::forgotten;
use super::{DESCRIPTOR_COST, Job, Slice, Then, VirtVtd, Which};
use crate::addr::Gpa;
use crate::hal::{GuestMemory, Platform};
use crate::object::BATCH;
use crate::object::driver::Entry;
use crate::vtd::spec::descriptor::WIDE_LOG2;
use crate::vtd::spec::registers::{
    CCMD, CCMD_FIELDS, FSTS_FIELDS, IOTLB, IOTLB_FIELDS, IQERCD, IQERCD_FIELDS, IQH, IVA,
};

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Takes the descriptor at the head, and does it or begins it. `false`: there is none, or the queue has stopped.
    pub(super) fn descriptor(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        let Some(queue) = self.registers.queue() else {
            return false;
        };
        if queue.is_empty() || self.registers.queue_stopped() {
            return false;
        }
        match self.read_descriptor(memory, &queue) {
            Err(illegal) => return self.stop_queue(illegal, effect),
            Ok(Decoded::Translations {
                domain: Some(domain),
                first,
                last,
                leaf,
            }) if self.is_nested(domain) => {
                let begun = forgotten(first, last, leaf);
                self.forget_run(memory, queue, (domain, begun), budget, effect);
            }
            Ok(Decoded::Pasid(pasid)) => {
                let one = Pasids::One(pasid);
                self.job = Some(Job::entries(Which::All, one, Then::Descriptor));
            }
            Ok(Decoded::Contexts(which)) => self.job = Some(Job::devices(which, Then::Descriptor)),
            Ok(Decoded::Translations {
                domain,
                first,
                last,
                ..
            }) => self.job = Some(Job::tables(domain, first, last, Then::Descriptor)),
            Ok(Decoded::DeviceTlb) => self.consumed(),
            Ok(Decoded::Answer {
                source,
                pasid,
                group,
                answer,
            }) => {
                self.answer_group(source, pasid, group, answer);
                self.consumed();
            }
            Ok(Decoded::Interrupts(first, last)) => {
                effect.changed(first, last);
                self.consumed();
            }
            Ok(Decoded::Wait { status, interrupt }) => {
                if let Some((at, data)) = status
                    && memory.write(Gpa(at), &data.to_le_bytes()).is_err()
                {
                    self.counters.misuse += 1;
                }
                self.counters.waits += 1;
                self.consumed();
                if interrupt && self.registers.get(ICS) & ICS_FIELDS::IWC::SET.value == 0 {
                    self.registers.set(ICS, ICS_FIELDS::IWC::SET.value);
                    self.interrupt(Interrupts::INVALIDATION, effect);
                }
            }
        }
        true
    }

    /// What the descriptor at the head of `queue` asks for.
    fn read_descriptor(&self, memory: &dyn GuestMemory, queue: &Queue) -> Result<Decoded, Illegal> {
        let mut words = [0; 4];
        let length = 1usize << (queue.log2 - 3);
        let read = memory.read_words(queue.slot(), &mut words[..length]);
        read.map_err(|_| Illegal(error::UNREADABLE))?;
        let [first, second, third, fourth] = words;
        match third | fourth {
            0 => {
                let wide = queue.log2 == WIDE_LOG2;
                decode([first, second], wide, self.registers.capabilities().1)
            }
            _ => Err(RESERVED),
        }
    }

    /// Whether a domain has first stages that the hardware walks, and nothing else.
    fn is_nested(&self, domain: u16) -> bool {
        let mut of = self.shadows.iter().flatten();
        let mut any = false;
        let all = of.all(|shadow| {
            let same = shadow.tables.domain == domain;
            any |= same;
            !same || shadow.nested
        });
        all && any
    }

    /// Does the descriptor at the head, of which the first entry is, and those of the same kind that follow it, with one wait
    /// for all of them.
    fn forget_run(
        &mut self,
        memory: &dyn GuestMemory,
        mut queue: Queue,
        (domain, begun): (u16, Entry),
        budget: &mut u32,
        effect: &mut Effect,
    ) {
        let mut entries = [begun; BATCH];
        let mut count = 1;
        loop {
            queue = queue.after();
            if count == BATCH || *budget == 0 || queue.is_empty() {
                break;
            }
            *budget = budget.saturating_sub(DESCRIPTOR_COST);
            match self.read_descriptor(memory, &queue) {
                Ok(Decoded::Translations {
                    domain: Some(of),
                    first,
                    last,
                    leaf,
                }) if of == domain => entries[count] = forgotten(first, last, leaf),
                // It is read anew when it is at the head.
                _ => break,
            }
            count += 1;
        }
        for shadow in 0..self.shadows.len() {
            if self.shadows[shadow].is_some_and(|it| it.tables.domain == domain) {
                self.forget(shadow, &entries[..count], effect);
            }
        }
        for _ in 0..count {
            self.consumed();
        }
    }

    /// The descriptor at the head is complete.
    pub(super) fn consumed(&mut self) {
        self.counters.descriptors += 1;
        if let Some(queue) = self.registers.queue() {
            self.registers.set64(IQH, queue.next());
        }
    }

    /// 6.5.2.11: the head stays at the descriptor.
    fn stop_queue(&mut self, Illegal(code): Illegal, effect: &mut Effect) -> bool {
        self.counters.errors += 1;
        self.registers
            .set64(IQERCD, IQERCD_FIELDS::IQEI.val(code).value);
        self.raise(FSTS_FIELDS::IQE::SET.value, effect);
        false
    }

    /// What CCMD asks for.
    pub(super) fn context_command(&mut self) {
        let value = self.registers.get64(CCMD);
        let device = CCMD_FIELDS::CIRG::Device.value;
        let which = match value & CCMD_FIELDS::CIRG.mask << CCMD_FIELDS::CIRG.shift {
            kind if kind == device => Which::of(
                field(value, CCMD_FIELDS::SID) as u16,
                field(value, CCMD_FIELDS::FM) as u8,
            ),
            _ => Which::All,
        };
        self.job = Some(Job::devices(which, Then::ContextCommand));
    }

    /// What IOTLB asks for. What is none is done as more than it could mean.
    pub(super) fn translation_command(&mut self) {
        let value = self.registers.get64(IOTLB_REGISTERS + IOTLB);
        let domain = field(value, IOTLB_FIELDS::DID) as u16;
        let kind = value & IOTLB_FIELDS::IIRG.mask << IOTLB_FIELDS::IIRG.shift;
        let (domain, (first, last, _)) = if kind == IOTLB_FIELDS::IIRG::Page.value {
            let range = pages(self.registers.get64(IOTLB_REGISTERS + IVA));
            (Some(domain), range.unwrap_or(ALL))
        } else if kind == IOTLB_FIELDS::IIRG::Domain.value {
            (Some(domain), ALL)
        } else {
            (None, ALL)
        };
        self.job = Some(Job::tables(domain, first, last, Then::TranslationCommand));
    }

    /// CCMD is done: what was asked for was.
    pub(super) fn context_command_done(&mut self) {
        let value = self.registers.get64(CCMD);
        let actual = CCMD_DONE::CAIG.val(field(value, CCMD_FIELDS::CIRG));
        let cleared = CCMD_FIELDS::ICC::SET.value | CCMD_DONE::CAIG.mask << CCMD_DONE::CAIG.shift;
        self.registers.set64(CCMD, value & !cleared | actual.value);
    }

    /// IOTLB is done: what was asked for was.
    pub(super) fn translation_command_done(&mut self) {
        let at = IOTLB_REGISTERS + IOTLB;
        let value = self.registers.get64(at);
        let actual = IOTLB_DONE::IAIG.val(field(value, IOTLB_FIELDS::IIRG));
        let cleared =
            IOTLB_FIELDS::IVT::SET.value | IOTLB_DONE::IAIG.mask << IOTLB_DONE::IAIG.shift;
        self.registers.set64(at, value & !cleared | actual.value);
    }
}
