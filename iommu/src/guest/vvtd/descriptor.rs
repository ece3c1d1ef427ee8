//! What a guest's descriptor asks for (VT-d, 6.5.2).

use super::job::Which;
use super::spec::{ADDRESS_MASK, INDEX_MASK, descriptor, error};
use crate::object::driver::Answer;
use crate::vtd::spec::descriptor::{
    CONTEXT_CACHE, DESCRIPTOR, INTERRUPT_ENTRY_CACHE, IOTLB0, IOTLB1, PAGE_GROUP0, PAGE_GROUP1,
    PASID_CACHE, PASID_IOTLB, WAIT0,
};
use crate::vtd::spec::registers::ECAP_FIELDS;

/// What a descriptor asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decoded {
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
    /// What a device has cached. It left the device with what the guest had the unit forget before, of the same tables.
    DeviceTlb,
    /// A group of page requests is answered.
    Answer {
        source: u16,
        pasid: Option<u32>,
        group: u16,
        answer: Answer,
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
pub(super) struct Illegal(pub u64);

pub(super) const RESERVED: Illegal = Illegal(error::RESERVED);
pub(super) const ALL: (u64, u64, bool) = (0, u64::MAX, false);

/// The pages of an invalidation by page, aligned to their number, and IH (6.5.2.3).
pub(super) fn pages(word: u64) -> Result<(u64, u64, bool), Illegal> {
    let log2 = word >> IOTLB1::AM.shift & IOTLB1::AM.mask;
    if log2 > ADDRESS_MASK.into() {
        return Err(RESERVED);
    }
    let size = 4096u64 << log2;
    let first = word & !(size - 1);
    let leaf = word & IOTLB1::IH::SET.value != 0;
    Ok((first, first + (size - 1), leaf))
}

pub(super) fn field<R: tock_registers::RegisterLongName>(
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
pub(super) fn decode(words: [u64; 2], wide: bool, ecap: u64) -> Result<Decoded, Illegal> {
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
    if is(Type::DeviceTlb) && offers(ECAP_FIELDS::DT) {
        within(words, descriptor::DEVICE_TLB)?;
        return Ok(Decoded::DeviceTlb);
    }
    if is(Type::PasidDeviceTlb) && offers(ECAP_FIELDS::DT) && offers(ECAP_FIELDS::PASID) {
        within(words, descriptor::PASID_DEVICE_TLB)?;
        return Ok(Decoded::DeviceTlb);
    }
    // 7.6: of 256 bits.
    if is(Type::PageGroupResponse) && offers(ECAP_FIELDS::PRS) && wide {
        within(words, descriptor::PAGE_GROUP)?;
        type Code = PAGE_GROUP0::RC::Value;
        let answer = match field(first, PAGE_GROUP0::RC) {
            code if code == Code::Success as u64 => Answer::Success,
            code if code == Code::Invalid as u64 || code == Code::Failure as u64 => Answer::Invalid,
            _ => return Err(RESERVED),
        };
        let pasid = field(first, PAGE_GROUP0::PASID) as u32;
        return Ok(Decoded::Answer {
            source: field(first, PAGE_GROUP0::RID) as u16,
            pasid: (field(first, PAGE_GROUP0::PP) != 0).then_some(pasid),
            group: field(second, PAGE_GROUP1::PRGI) as u16,
            answer,
        });
    }
    Err(Illegal(error::TYPE))
}
