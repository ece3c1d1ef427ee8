//! What a guest's VT-d unit is made of: what there is, what of it is offered, and the capability registers that say so.

use super::spec::{ADDRESS_MASK, FAULT_RECORDS, INDEX_MASK, IOTLB_REGISTERS, REGISTERS_END};
use crate::id::VirtDeviceId;
use crate::vtd::spec::registers::{CAP_FIELDS, ECAP_FIELDS, FRCD_BYTES};
use tock_registers::LocalRegisterCopy;

/// Most fault records.
pub const MOST_RECORDS: u8 = ((REGISTERS_END - FAULT_RECORDS) / FRCD_BYTES) as u8;

/// What a guest's unit is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// CAP and ECAP of the hardware.
    pub hardware: (u64, u64),
    /// Bits of input address of the slice's tables (39 to 57): what shadows can hold.
    pub input_bits: u8,
    /// Bits of the guest's physical addresses.
    pub address_bits: u8,
    /// Scalable mode is offered: second stages for requests without PASID. It is emulated whole, so that the hardware need
    /// not have it.
    pub scalable: bool,
    /// And first stages, by this.
    pub first_stages: FirstStages,
    /// PASIDs of the guest's that are in use at once, over all sources; those past it are refused. Requests with PASID are
    /// offered for so many, where the hardware has them and walks first stages of guests'; 0 for none.
    pub pasids: u16,
    /// Devices of the slice are trusted to cache translations. Device TLBs are offered then, where the hardware has them and walks
    /// first stages of guests'. What leaves such a device's tables leaves the device with that.
    pub device_tlbs: bool,
    /// Groups of page requests that the guest is told of at once. Page requests are offered for so many, where the hardware has
    /// them and device TLBs are; 0 for none.
    pub page_requests: u16,
    /// How long the guest has to answer one, in nanoseconds.
    pub patience_ns: u64,
    /// Interrupt remapping is offered, where the hardware has it.
    pub interrupts: bool,
    /// Bytes of tables that the guest's shadows may take together. Whoever goes through one that would take more is in
    /// abort, until its entry is read anew.
    pub shadow_bytes: u64,
    /// Fault records: 1 to [`MOST_RECORDS`].
    pub records: u8,
    /// What one call does at most, at least 1, in units of 32 entries of a guest's tables that are alike, or of a descriptor. The
    /// entry of a source counts as 16, a fault as 4; a run that a shadow has to hold as 2, as 8 more where caches have to
    /// forget what was there, as 8 more where tables are freed, and as 2 more for each table that is new. What is more than the
    /// whole is done by itself.
    pub budget: u32,
}

/// How guests' first stages are had, if scalable mode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstStages {
    /// Not at all.
    Absent,
    /// By shadows. Caching mode is not about first stages (6.1): a driver of the document, and Linux's, does not say when an
    /// entry becomes present, which a shadow has to be told. So this is for guests that do say it.
    Shadowed,
    /// By the hardware, on the slice's own table, where it has that and its walks snoop; elsewhere not at all.
    Nested,
}

/// One device of the slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// Its source ID for the guest.
    pub source: VirtDeviceId,
}

/// Why there is no such unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// A size or a number that registers do not have.
    Size(u8),
    /// No budget.
    Budget,
    /// A source twice, or wider than source IDs are.
    Source(VirtDeviceId),
    /// No memory.
    OutOfMemory,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::Size(size) => ("a size that registers do not have:", Some(size.into())),
            Self::Budget => ("no budget", None),
            Self::Source(source) => ("a source twice, or too wide:", Some(source.0.into())),
            Self::OutOfMemory => ("out of memory", None),
        };
        crate::text::write(f, what, value)
    }
}

impl core::error::Error for SetupError {}

/// Whether guests' first stages are for the hardware to walk.
pub(super) fn nests(setup: &Setup) -> bool {
    let ecap = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(setup.hardware.1);
    let all = [
        ECAP_FIELDS::C,
        ECAP_FIELDS::SMTS,
        ECAP_FIELDS::FSTS,
        ECAP_FIELDS::SSTS,
        ECAP_FIELDS::NEST,
    ];
    let has = all.into_iter().all(|field| ecap.is_set(field));
    setup.scalable && setup.first_stages == FirstStages::Nested && has
}

/// Bits of a PASID at most: of what a guest has in its tables all is looked at, one after the other.
const PASID_BITS: u8 = 15;

/// Bits of a PASID of the guest's; 0 where there are no requests with one.
pub(super) fn pasid_bits(setup: &Setup) -> u8 {
    let ecap = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(setup.hardware.1);
    let has = nests(setup) && setup.pasids > 0 && ecap.is_set(ECAP_FIELDS::PASID);
    match has {
        true => (ecap.read(ECAP_FIELDS::PSS) as u8 + 1).min(PASID_BITS),
        false => 0,
    }
}

/// Whether device TLBs are offered.
pub(super) fn device_tlbs(setup: &Setup) -> bool {
    let ecap = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(setup.hardware.1);
    let has = ecap.is_set(ECAP_FIELDS::DT) && !ecap.is_set(ECAP_FIELDS::DIT);
    nests(setup) && setup.device_tlbs && has
}

/// Groups of page requests that the guest is told of at once; 0 where there are none.
pub(super) fn page_requests(setup: &Setup) -> u16 {
    let ecap = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(setup.hardware.1);
    match device_tlbs(setup) && ecap.is_set(ECAP_FIELDS::PRS) {
        true => setup.page_requests,
        false => 0,
    }
}

/// CAP and ECAP of the guest's unit. Caching mode is always on: shadows have to be told what becomes present (6.1).
pub(super) fn capabilities(setup: &Setup) -> Result<(u64, u64), SetupError> {
    let sizes = [
        (setup.input_bits, 39, 57),
        (setup.address_bits, 32, 52),
        (setup.records, 1, MOST_RECORDS),
    ];
    let wrong = |(size, least, most): &(u8, u8, u8)| !(least..=most).contains(&size);
    if let Some((size, ..)) = sizes.iter().find(|it| wrong(it)) {
        return Err(SetupError::Size(*size));
    }
    if setup.budget == 0 {
        return Err(SetupError::Budget);
    }
    let cap = LocalRegisterCopy::<u64, CAP_FIELDS::Register>::new(setup.hardware.0);
    let ecap = LocalRegisterCopy::<u64, ECAP_FIELDS::Register>::new(setup.hardware.1);
    let wide = setup.input_bits >= 48;
    let nests = nests(setup);
    let shadowed = setup.scalable && setup.first_stages == FirstStages::Shadowed;
    let first = u64::from(nests || shadowed);
    // Pages of 1 GiB are the hardware's to have where it walks.
    let large = u64::from(shadowed || nests && cap.is_set(CAP_FIELDS::FS1GP));
    // 39 bits and, where shadows hold them, 48. Domains of 16 bits are names of the guest's only.
    let own = CAP_FIELDS::ND.val(6)
        + CAP_FIELDS::CM::SET
        + CAP_FIELDS::SAGAW.val(0b10 | u64::from(wide) << 2)
        + CAP_FIELDS::MGAW.val(if wide { 47 } else { 38 })
        + CAP_FIELDS::ZLR.val(cap.read(CAP_FIELDS::ZLR))
        + CAP_FIELDS::FRO.val(FAULT_RECORDS as u64 / 16)
        + CAP_FIELDS::NFR.val(u64::from(setup.records) - 1)
        + CAP_FIELDS::SLLPS.val(0b11)
        + CAP_FIELDS::PSI::SET
        + CAP_FIELDS::MAMV.val(ADDRESS_MASK.into())
        + CAP_FIELDS::DWD.val(cap.read(CAP_FIELDS::DWD))
        + CAP_FIELDS::DRD.val(cap.read(CAP_FIELDS::DRD))
        + CAP_FIELDS::FS1GP.val(large);
    let pasid_bits = u64::from(pasid_bits(setup));
    let requests = u64::from(page_requests(setup) > 0);
    let interrupts = setup.interrupts && ecap.is_set(ECAP_FIELDS::IR);
    let scalable = u64::from(setup.scalable);
    // Its tables are read by CPUs: walks are coherent.
    let more = ECAP_FIELDS::C::SET
        + ECAP_FIELDS::QI::SET
        + ECAP_FIELDS::IR.val(interrupts.into())
        + ECAP_FIELDS::EIM.val((interrupts && ecap.is_set(ECAP_FIELDS::EIM)).into())
        + ECAP_FIELDS::PT::SET
        + ECAP_FIELDS::IRO.val(IOTLB_REGISTERS as u64 / 16)
        + ECAP_FIELDS::MHMV.val(INDEX_MASK.into())
        + ECAP_FIELDS::DT.val(device_tlbs(setup).into())
        + ECAP_FIELDS::PRS.val(requests)
        + ECAP_FIELDS::PDS.val(requests)
        + ECAP_FIELDS::PASID.val(pasid_bits.min(1))
        + ECAP_FIELDS::PSS.val(pasid_bits.saturating_sub(1))
        + ECAP_FIELDS::SMTS.val(scalable)
        + ECAP_FIELDS::SSTS.val(scalable)
        + ECAP_FIELDS::FSTS.val(first);
    Ok((own.value, more.value))
}
