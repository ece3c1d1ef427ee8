//! The consumer of a guest's invalidation queue (VT-d, 6.5.2), and its invalidations by register (6.5.1).

use super::effect::{Effect, Interrupts};
use super::job::Pasids;
use super::registers::Queue;
use super::spec::{
    ADDRESS_MASK, CCMD_DONE, ICS, ICS_FIELDS, INDEX_MASK, IOTLB_DONE, IOTLB_REGISTERS, descriptor,
    error,
};
use super::work::forgotten;
use super::{DESCRIPTOR_COST, Job, Slice, Then, VirtVtd, Which};
use crate::addr::Gpa;
use crate::hal::{GuestMemory, Platform};
use crate::object::BATCH;
use crate::object::driver::Entry;
use crate::vtd::spec::descriptor::{
    CONTEXT_CACHE, DESCRIPTOR, INTERRUPT_ENTRY_CACHE, IOTLB0, IOTLB1, PASID_CACHE, PASID_IOTLB,
    WAIT0,
};
use crate::vtd::spec::registers::{
    CCMD, CCMD_FIELDS, ECAP_FIELDS, FSTS_FIELDS, IOTLB, IOTLB_FIELDS, IQERCD, IQERCD_FIELDS, IQH,
    IVA,
};

/// What a descriptor asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decoded {
    /// Entries of sources are read anew.
    Contexts(Which),
    /// That of one PASID is, of all sources.
    Pasid(u32),
    /// Tables are: of one domain or all of them, and the pages.
    Translations {
        domain: Option<u16>,
        first: u64,
        last: u64,
        /// Only last-level entries changed.
        leaf: bool,
    },
    /// Interrupt entries may be others.
    Interrupts(u16, u16),
    Wait {
        status: Option<(u64, u32)>,
        interrupt: bool,
    },
}

/// IQERCD.IQEI of what is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Illegal(u64);

const RESERVED: Illegal = Illegal(error::RESERVED);
const ALL: (u64, u64, bool) = (0, u64::MAX, false);

/// The pages of an invalidation by page, aligned to their number, and IH (6.5.2.3).
fn pages(word: u64) -> Result<(u64, u64, bool), Illegal> {
    let log2 = word >> IOTLB1::AM.shift & IOTLB1::AM.mask;
    if log2 > ADDRESS_MASK.into() {
        return Err(RESERVED);
    }
    let size = 4096u64 << log2;
    let first = word & !(size - 1);
    let leaf = word & IOTLB1::IH::SET.value != 0;
    Ok((first, first + (size - 1), leaf))
}

fn field<R: tock_registers::RegisterLongName>(
    word: u64,
    field: tock_registers::fields::Field<u64, R>,
) -> u64 {
    word >> field.shift & field.mask
}

fn within(words: [u64; 2], fields: [u64; 2]) -> Result<(), Illegal> {
    match words[0] & !fields[0] | words[1] & !fields[1] {
        0 => Ok(()),
        _ => Err(RESERVED),
    }
}

/// Checks a descriptor of the first two words. Every bit that is not a field is reserved.
fn decode(words: [u64; 2], ecap: u64) -> Result<Decoded, Illegal> {
    let [first, second] = words;
    let offers = |field: tock_registers::fields::Field<u64, ECAP_FIELDS::Register>| {
        ecap >> field.shift & field.mask != 0
    };
    let (scalable, interrupts) = (offers(ECAP_FIELDS::SMTS), offers(ECAP_FIELDS::IR));
    type Type = DESCRIPTOR::TYPE::Value;
    let is = |kind: Type| field(first, DESCRIPTOR::TYPE) == kind as u64;
    let translations = |domain: u64, (first, last, leaf): (u64, u64, bool)| Decoded::Translations {
        domain: Some(domain as u16),
        first,
        last,
        leaf,
    };
    if is(Type::ContextCache) {
        within(words, descriptor::CONTEXT_CACHE)?;
        type Granularity = CONTEXT_CACHE::G::Value;
        let granularity = field(first, CONTEXT_CACHE::G);
        return match granularity {
            // What the source had before is known only to its own entry: all are looked at.
            _ if granularity == Granularity::Global as u64
                || granularity == Granularity::Domain as u64 =>
            {
                Ok(Decoded::Contexts(Which::All))
            }
            _ if granularity == Granularity::Device as u64 => {
                let source = field(first, CONTEXT_CACHE::SID) as u16;
                let functions = field(first, CONTEXT_CACHE::FM) as u8;
                Ok(Decoded::Contexts(Which::of(source, functions)))
            }
            _ => Err(RESERVED),
        };
    }
    if is(Type::Iotlb) {
        within(words, descriptor::IOTLB)?;
        type Granularity = IOTLB0::G::Value;
        let granularity = field(first, IOTLB0::G);
        let domain = field(first, IOTLB0::DID);
        return match granularity {
            _ if granularity == Granularity::Global as u64 => Ok(Decoded::Translations {
                domain: None,
                first: ALL.0,
                last: ALL.1,
                leaf: ALL.2,
            }),
            _ if granularity == Granularity::Domain as u64 => Ok(translations(domain, ALL)),
            _ if granularity == Granularity::Page as u64 => {
                Ok(translations(domain, pages(second)?))
            }
            _ => Err(RESERVED),
        };
    }
    if is(Type::InterruptEntryCache) && interrupts {
        within(words, descriptor::INTERRUPTS)?;
        if field(first, INTERRUPT_ENTRY_CACHE::G) == 0 {
            return Ok(Decoded::Interrupts(0, u16::MAX));
        }
        let log2 = field(first, INTERRUPT_ENTRY_CACHE::IM);
        if log2 > INDEX_MASK.into() {
            return Err(RESERVED);
        }
        let count = (1u32 << log2) - 1;
        let index = field(first, INTERRUPT_ENTRY_CACHE::IIDX) as u16 & !(count as u16);
        return Ok(Decoded::Interrupts(index, index | count as u16));
    }
    if is(Type::Wait) {
        within(words, descriptor::WAIT)?;
        let writes = field(first, WAIT0::SW) != 0;
        return Ok(Decoded::Wait {
            status: writes.then_some((second, field(first, WAIT0::DATA) as u32)),
            interrupt: field(first, WAIT0::IF) != 0,
        });
    }
    if is(Type::PasidIotlb) && scalable {
        within(words, descriptor::PASID_IOTLB)?;
        type Granularity = PASID_IOTLB::G::Value;
        let granularity = field(first, PASID_IOTLB::G);
        let domain = field(first, PASID_IOTLB::DID);
        return match granularity {
            _ if granularity == Granularity::Pasid as u64 => Ok(translations(domain, ALL)),
            _ if granularity == Granularity::Page as u64 => {
                Ok(translations(domain, pages(second)?))
            }
            _ => Err(RESERVED),
        };
    }
    if is(Type::PasidCache) && scalable {
        within(words, descriptor::PASID_CACHE)?;
        type Granularity = PASID_CACHE::G::Value;
        let granularity = field(first, PASID_CACHE::G);
        if granularity == Granularity::Pasid as u64 {
            // Whose domain it was is known only to its own entry.
            return Ok(Decoded::Pasid(field(first, PASID_CACHE::PASID) as u32));
        }
        let known = [Granularity::Domain, Granularity::Global];
        let known = known.map(|kind| kind as u64).contains(&granularity);
        return match known {
            true => Ok(Decoded::Contexts(Which::All)),
            false => Err(RESERVED),
        };
    }
    Err(Illegal(error::TYPE))
}

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
            0 => decode([first, second], self.registers.capabilities().1),
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
