//! What a unit can be told to forget, and to answer: as a descriptor of its queue (VT-d, 6.5.2), or by its registers (6.5.1).

use super::probe::Features;
use super::registers::invalidate;
use super::spec::descriptor::{
    CONTEXT_CACHE, DESCRIPTOR, DEVICE_TLB0, DEVICE_TLB1, INTERRUPT_ENTRY_CACHE, IOTLB0, IOTLB1,
    PAGE_GROUP0, PAGE_GROUP1, PASID_CACHE, PASID_DEVICE_TLB0, PASID_DEVICE_TLB1, PASID_IOTLB,
    WAIT0, WAIT1,
};
use super::spec::registers::{CCMD, CCMD_FIELDS, IOTLB, IOTLB_FIELDS, IVA};
use crate::addr::{Hpa, Iova};
use crate::hal::Mmio;
use crate::id::{CacheTag, DeviceId};
use crate::physical::{Answer, IommuError};

/// How much of the context cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contexts {
    /// All of it.
    All,
    /// That of one device, under the domain that its entry had; 0 in scalable mode, where it has none.
    Device(DeviceId, CacheTag),
}

/// How much of the IOTLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translations {
    /// All of it.
    All,
    /// Those of one domain.
    Domain(CacheTag),
    /// Those of some pages of a domain, by second stages.
    Pages {
        /// The domain.
        domain: CacheTag,
        /// Which.
        pages: Pages,
    },
}

/// Some pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// The first, a multiple of 2^`log2` pages.
    pub first: Iova,
    /// log2 of their number.
    pub log2: u8,
    /// Only last-level entries changed.
    pub leaf: bool,
}

/// Bits 63:12 of the first page where all of a device's TLB is meant, of S set (6.5.2.5).
const ALL_PAGES: u64 = 0x7fff_ffff_ffff_f000;
/// A device takes one invalidation at a time, whatever it says of its queue.
const PENDING: u64 = 1;

impl Pages {
    /// ADDR of a device TLB invalidation, and S (6.5.2.5).
    fn of_device(pages: Option<Self>) -> (u64, bool) {
        match pages {
            None => (ALL_PAGES, true),
            Some(Self { first, log2: 0, .. }) => (first.0, false),
            // Ones up to the bit below the size.
            Some(Self { first, log2, .. }) => (first.0 | ((1 << (log2 - 1)) - 1) << 12, true),
        }
    }

    fn word(&self) -> u64 {
        let how = IOTLB1::AM.val(self.log2.into()) + IOTLB1::IH.val(self.leaf.into());
        self.first.0 | how.value
    }
}

/// One thing to forget, or to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Context entries.
    Contexts(Contexts),
    /// Translations.
    Translations(Translations),
    /// Every PASID table entry, and what led there.
    Pasids,
    /// The entry of a PASID with this domain, of whatever source.
    Pasid(CacheTag, u32),
    /// What first stages took part in, under a domain and a PASID; `None` for all of it.
    FirstStage(CacheTag, u32, Option<Pages>),
    /// What a device has cached of some pages, `None` for all, by a PASID or (0) without one.
    DeviceTlb(DeviceId, u32, Option<Pages>),
    /// What a device has cached of every PASID.
    DeviceTlbOfPasids(DeviceId),
    /// Every interrupt remapping entry.
    Interrupts,
    /// One of them.
    Interrupt(u16),
    /// The answer to a group of page requests of a device, with a PASID or without.
    PageGroup(DeviceId, Option<u32>, u16, Answer),
}

impl Command {
    /// The descriptor.
    pub fn descriptor(&self, features: &Features) -> [u64; 2] {
        match *self {
            Self::Contexts(which) => {
                let which = match which {
                    Contexts::All => CONTEXT_CACHE::G::Global.value,
                    Contexts::Device(DeviceId(source), CacheTag(domain)) => {
                        (CONTEXT_CACHE::G::Device
                            + CONTEXT_CACHE::DID.val(domain.into())
                            + CONTEXT_CACHE::SID.val(source.into()))
                        .value
                    }
                };
                [DESCRIPTOR::TYPE::ContextCache.value | which, 0]
            }
            Self::Translations(which) => {
                let drains = IOTLB0::DR.val(features.drains_reads.into())
                    + IOTLB0::DW.val(features.drains_writes.into());
                let (granularity, domain, second) = match which {
                    Translations::All => (IOTLB0::G::Global, CacheTag(0), 0),
                    Translations::Domain(domain) => (IOTLB0::G::Domain, domain, 0),
                    Translations::Pages { domain, pages } => {
                        (IOTLB0::G::Page, domain, pages.word())
                    }
                };
                let fields = granularity + drains + IOTLB0::DID.val(domain.0.into());
                [DESCRIPTOR::TYPE::Iotlb.value | fields.value, second]
            }
            Self::Pasids => [
                DESCRIPTOR::TYPE::PasidCache.value | PASID_CACHE::G::Global.value,
                0,
            ],
            Self::Pasid(CacheTag(domain), pasid) => {
                let which = PASID_CACHE::G::Pasid
                    + PASID_CACHE::DID.val(domain.into())
                    + PASID_CACHE::PASID.val(pasid.into());
                [DESCRIPTOR::TYPE::PasidCache.value | which.value, 0]
            }
            Self::FirstStage(CacheTag(domain), pasid, pages) => {
                let granularity = match pages {
                    None => PASID_IOTLB::G::Pasid,
                    Some(_) => PASID_IOTLB::G::Page,
                };
                let which = granularity
                    + PASID_IOTLB::DID.val(domain.into())
                    + PASID_IOTLB::PASID.val(pasid.into());
                let second = pages.map_or(0, |pages| pages.word());
                [DESCRIPTOR::TYPE::PasidIotlb.value | which.value, second]
            }
            Self::DeviceTlb(DeviceId(source), 0, pages) => {
                let (address, more) = Pages::of_device(pages);
                let which = DEVICE_TLB0::MIP.val(PENDING) + DEVICE_TLB0::SID.val(source.into());
                let second = address | DEVICE_TLB1::S.val(more.into()).value;
                [DESCRIPTOR::TYPE::DeviceTlb.value | which.value, second]
            }
            Self::DeviceTlb(DeviceId(source), pasid, pages) => {
                let (address, more) = Pages::of_device(pages);
                let which = PASID_DEVICE_TLB0::MIP.val(PENDING)
                    + PASID_DEVICE_TLB0::SID.val(source.into())
                    + PASID_DEVICE_TLB0::PASID.val(pasid.into());
                let second = address | PASID_DEVICE_TLB1::S.val(more.into()).value;
                [DESCRIPTOR::TYPE::PasidDeviceTlb.value | which.value, second]
            }
            Self::DeviceTlbOfPasids(DeviceId(source)) => {
                let which =
                    PASID_DEVICE_TLB0::MIP.val(PENDING) + PASID_DEVICE_TLB0::SID.val(source.into());
                let how = PASID_DEVICE_TLB1::G::SET + PASID_DEVICE_TLB1::S::SET;
                let first = DESCRIPTOR::TYPE::PasidDeviceTlb.value | which.value;
                [first, ALL_PAGES | how.value]
            }
            Self::Interrupts => [DESCRIPTOR::TYPE::InterruptEntryCache.value, 0],
            Self::Interrupt(index) => {
                let which =
                    INTERRUPT_ENTRY_CACHE::G::SET + INTERRUPT_ENTRY_CACHE::IIDX.val(index.into());
                [DESCRIPTOR::TYPE::InterruptEntryCache.value | which.value, 0]
            }
            Self::PageGroup(DeviceId(source), pasid, group, answer) => {
                let code = match answer {
                    Answer::Success => PAGE_GROUP0::RC::Success,
                    Answer::Invalid => PAGE_GROUP0::RC::Invalid,
                };
                let who = PAGE_GROUP0::PP.val(pasid.is_some().into())
                    + PAGE_GROUP0::RID.val(source.into())
                    + PAGE_GROUP0::PASID.val(pasid.unwrap_or(0).into());
                let first = DESCRIPTOR::TYPE::PageGroupResponse.value | (who + code).value;
                [first, PAGE_GROUP1::PRGI.val(group.into()).value]
            }
        }
    }

    /// Does it by registers; complete on return. Only while there is no queue.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for what needs a queue; [`IommuError::Timeout`], [`IommuError::Gone`].
    pub(super) fn by_registers(
        &self,
        mmio: &impl Mmio,
        features: &Features,
        now_ns: &impl Fn() -> u64,
    ) -> Result<(), IommuError> {
        match *self {
            Self::Contexts(which) => {
                let which = match which {
                    Contexts::All => CCMD_FIELDS::CIRG::Global.value,
                    Contexts::Device(DeviceId(source), CacheTag(domain)) => {
                        (CCMD_FIELDS::CIRG::Device
                            + CCMD_FIELDS::DID.val(domain.into())
                            + CCMD_FIELDS::SID.val(source.into()))
                        .value
                    }
                };
                invalidate(mmio, now_ns, CCMD, CCMD_FIELDS::ICC::SET.value | which)
            }
            Self::Translations(which) => {
                let at = features.iotlb_registers;
                let (granularity, domain) = match which {
                    Translations::All => (IOTLB_FIELDS::IIRG::Global, CacheTag(0)),
                    Translations::Domain(domain) => (IOTLB_FIELDS::IIRG::Domain, domain),
                    Translations::Pages { domain, pages } => {
                        // IVA is as word 1 of the descriptor (11.4).
                        mmio.write64(at + IVA, pages.word());
                        (IOTLB_FIELDS::IIRG::Page, domain)
                    }
                };
                let fields = IOTLB_FIELDS::IVT::SET
                    + granularity
                    + IOTLB_FIELDS::DR.val(features.drains_reads.into())
                    + IOTLB_FIELDS::DW.val(features.drains_writes.into())
                    + IOTLB_FIELDS::DID.val(domain.0.into());
                invalidate(mmio, now_ns, at + IOTLB, fields.value)
            }
            // Scalable mode and interrupt remapping have a queue.
            _ => Err(IommuError::Unsupported),
        }
    }
}

/// A wait descriptor: `data` is written to `at`, a multiple of 4, once all before it is complete. `drains`: page requests that
/// came before what a device forgot are in their queue then (7.7).
pub(super) fn wait(at: Hpa, data: u32, drains: bool) -> [u64; 2] {
    let how = WAIT0::SW::SET + WAIT0::PD.val(drains.into()) + WAIT0::DATA.val(data.into());
    [
        DESCRIPTOR::TYPE::Wait.value | how.value,
        WAIT1::ADDR.val(at.0 >> WAIT1::ADDR.shift).value,
    ]
}
