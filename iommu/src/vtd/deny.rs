//! The first thing that happens to a unit.

use tock_registers::LocalRegisterCopy;

use super::StartError;
use super::registers::{command, invalidate, status, switch, wait};
use super::spec::registers::{
    CAP, CAP_FIELDS, CCMD, CCMD_FIELDS, ECAP, ECAP_FIELDS, GCMD_FIELDS, IOTLB, IOTLB_FIELDS, IRTA,
    IRTA_FIELDS, PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN, PMEN_FIELDS, RTADDR, RTADDR_FIELDS,
    VER,
};
use crate::addr::Hpa;
use crate::hal::Mmio;
use crate::physical::IommuError;

/// Bytes of zeros that [`deny_all`] and [`deny_interrupts`] need.
pub const ZEROS_BYTES: usize = 4096;

/// IRTA.S of a table of [`ZEROS_BYTES`]: 2^(7 + 1) entries of 16 bytes.
const ZEROS_SIZE: u64 = 7;

/// Bytes that protected low memory covers at most (11.4, PLMLIMIT).
const LOW: u64 = 1 << 32;

/// Makes a unit refuse all DMA, whatever it did before. Meant to come before anything else does.
///
/// `zeros` is [`ZEROS_BYTES`] of zeros, aligned to their size, that nobody ever writes: the root table, in which no bus has
/// a context. They are in memory, not only in a cache, as the unit may not snoop. Where there is protected memory, all of
/// it is protected meanwhile, so that nothing passes a unit that firmware left off. One that it left on goes from its old
/// tables to refusing everything with nothing in between: the root table pointer is changed with translation on (11.4,
/// GCMD.SRTP), in the mode that it has; another one gets the mode that [`Vtd::start`](super::Vtd::start) uses.
///
/// A write to 0xFEEx_xxxx is no DMA but an interrupt: [`deny_interrupts`] is for those.
///
/// `now_ns` is a monotonic clock, for the deadline of each wait.
///
/// # Errors
/// [`StartError::NotThere`] and [`StartError::Hardware`]: DMA may pass.
#[inline(never)]
pub fn deny_all(mmio: &impl Mmio, zeros: Hpa, now_ns: impl Fn() -> u64) -> Result<(), StartError> {
    let (cap, ecap) = capabilities(mmio)?;
    deny_with(mmio, zeros, scales(ecap), (cap, ecap), &now_ns)
}

/// Whether the driver uses scalable mode of a unit by itself: wherever second stages can be had in it, as PASIDs and first
/// stages of guests need it.
pub(super) fn scales(ecap: Ecap) -> bool {
    let needed = [ECAP_FIELDS::QI, ECAP_FIELDS::SMTS, ECAP_FIELDS::SSTS];
    needed.into_iter().all(|field| ecap.is_set(field))
}

/// Whether a unit that translates does so in scalable mode.
pub(super) fn in_force(mmio: &impl Mmio) -> Result<Option<bool>, IommuError> {
    let on = status(mmio)? & GCMD_FIELDS::TE::SET.value != 0;
    let root = LocalRegisterCopy::<u64, RTADDR_FIELDS::Register>::new(mmio.read64(RTADDR));
    Ok(on.then(|| root.matches_all(RTADDR_FIELDS::TTM::Scalable)))
}

/// [`deny_all`] in the mode that the unit is to have later, unless it has another one and translates.
pub(super) fn deny_with(
    mmio: &impl Mmio,
    zeros: Hpa,
    scalable: bool,
    (cap, ecap): (Cap, Ecap),
    now_ns: &impl Fn() -> u64,
) -> Result<(), StartError> {
    protect(mmio, cap, now_ns)?;
    if cap.is_set(CAP_FIELDS::RWBF) {
        command(mmio, now_ns, GCMD_FIELDS::WBF::SET)?;
    }
    // Registers invalidate only while there is no queue (6.5.1).
    switch(mmio, now_ns, GCMD_FIELDS::QIE::SET, false)?;
    // No bus has a context in either mode.
    let scalable = in_force(mmio)?.unwrap_or(scalable);
    let mode = if scalable {
        RTADDR_FIELDS::TTM::Scalable
    } else {
        RTADDR_FIELDS::TTM::Legacy
    };
    mmio.write64(RTADDR, zeros.0 | mode.value);
    command(mmio, now_ns, GCMD_FIELDS::SRTP::SET)?;
    if !cap.is_set(CAP_FIELDS::ESRTPS) {
        forget(mmio, ecap, now_ns)?;
    }
    switch(mmio, now_ns, GCMD_FIELDS::TE::SET, true)?;
    Ok(())
}

/// Makes a unit refuse all interrupts of devices, I/O APICs and timers: no index leads to an entry, and messages in the
/// compatibility format are blocked. `zeros` as for [`deny_all`], and may be the same. What the unit had cached of
/// entries before is forgotten when [`Vtd::start`](super::Vtd::start) remaps interrupts: that takes a queue.
///
/// Returns whether destinations can have 32 bits (ECAP.EIM): CPUs stay in xAPIC mode where not.
///
/// # Errors
/// [`StartError::NoInterruptRemapping`], [`StartError::NotThere`], [`StartError::Hardware`]: interrupts may pass.
#[inline(never)]
pub fn deny_interrupts(
    mmio: &impl Mmio,
    zeros: Hpa,
    now_ns: impl Fn() -> u64,
) -> Result<bool, StartError> {
    let (_, ecap) = capabilities(mmio)?;
    if !ecap.is_set(ECAP_FIELDS::IR) {
        return Err(StartError::NoInterruptRemapping(ecap.get()));
    }
    // Where destinations were wide they stay so: the CPUs' mode does not change here.
    let old = LocalRegisterCopy::<u64, IRTA_FIELDS::Register>::new(mmio.read64(IRTA));
    let wide = IRTA_FIELDS::EIME.val(old.read(IRTA_FIELDS::EIME)).value;
    mmio.write64(IRTA, zeros.0 | wide | ZEROS_SIZE);
    command(mmio, &now_ns, GCMD_FIELDS::SIRTP::SET)?;
    switch(mmio, &now_ns, GCMD_FIELDS::CFI::SET, false)?;
    switch(mmio, &now_ns, GCMD_FIELDS::IRE::SET, true)?;
    Ok(ecap.is_set(ECAP_FIELDS::EIM))
}

pub(super) type Cap = LocalRegisterCopy<u64, CAP_FIELDS::Register>;
pub(super) type Ecap = LocalRegisterCopy<u64, ECAP_FIELDS::Register>;

/// CAP and ECAP of a unit that is there.
pub(super) fn capabilities(mmio: &impl Mmio) -> Result<(Cap, Ecap), StartError> {
    let version = mmio.read32(VER);
    if version == 0 || version == u32::MAX {
        return Err(StartError::NotThere(version));
    }
    let cap = mmio.read64(CAP);
    let ecap = mmio.read64(ECAP);
    Ok((Cap::new(cap), Ecap::new(ecap)))
}

/// Forgets everything, without a queue: contexts, then translations, as the latter are made of the former (6.5.3.3).
pub(super) fn forget(
    mmio: &impl Mmio,
    ecap: Ecap,
    now_ns: &impl Fn() -> u64,
) -> Result<(), StartError> {
    let contexts = CCMD_FIELDS::ICC::SET + CCMD_FIELDS::CIRG::Global;
    invalidate(mmio, now_ns, CCMD, contexts.value)?;
    let translations = IOTLB_FIELDS::IVT::SET
        + IOTLB_FIELDS::IIRG::Global
        + IOTLB_FIELDS::DR::SET
        + IOTLB_FIELDS::DW::SET;
    let at = 16 * ecap.read(ECAP_FIELDS::IRO) as usize + IOTLB;
    invalidate(mmio, now_ns, at, translations.value)?;
    Ok(())
}

/// Protects all of memory where the unit can, for as long as it does not translate (11.4, PMEN).
fn protect(mmio: &impl Mmio, cap: Cap, now_ns: &impl Fn() -> u64) -> Result<(), StartError> {
    let (low, high) = (cap.is_set(CAP_FIELDS::PLMR), cap.is_set(CAP_FIELDS::PHMR));
    if !low && !high {
        return Ok(());
    }
    let on = || mmio.read32(PMEN) & PMEN_FIELDS::PRS::SET.value != 0;
    if on() {
        // Firmware's ranges are not to change while they are in force, and to lift them would let more through.
        return Ok(());
    }
    if low {
        mmio.write32(PLMBASE, 0);
        mmio.write32(PLMLIMIT, u32::MAX);
    }
    if high {
        mmio.write64(PHMBASE, if low { LOW } else { 0 });
        mmio.write64(PHMLIMIT, u64::MAX);
    }
    mmio.write32(PMEN, PMEN_FIELDS::EPM::SET.value);
    Ok(wait(now_ns, || Ok(on()))?)
}

/// Protects nothing any more: a unit that translates may go on to apply it to what it has translated.
pub(super) fn unprotect(
    mmio: &impl Mmio,
    cap: Cap,
    now_ns: &impl Fn() -> u64,
) -> Result<(), StartError> {
    if !cap.is_set(CAP_FIELDS::PLMR) && !cap.is_set(CAP_FIELDS::PHMR) {
        return Ok(());
    }
    mmio.write32(PMEN, 0);
    let off = || mmio.read32(PMEN) & PMEN_FIELDS::PRS::SET.value == 0;
    Ok(wait(now_ns, || Ok(off()))?)
}
