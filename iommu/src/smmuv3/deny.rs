//! The first thing that happens to an SMMU.

use tock_registers::LocalRegisterCopy;

use super::StartError;
use super::registers::DEADLINE_NS;
use super::spec::registers::{CR0, CR0_FIELDS, CR0ACK, GBPA, GBPA_FIELDS};
use crate::hal::Mmio;
use crate::physical::IommuError;

/// Makes an SMMU refuse all DMA, whatever it did before. Needs no memory; meant to come before anything else does.
///
/// An SMMU as it comes out of reset takes three accesses. One that firmware left on goes from its old translations to
/// refusing everything with nothing in between, as GBPA takes over when SMMUEN falls (§6.3.14).
///
/// `now_ns` is a monotonic clock, for the deadline.
///
/// # Errors
/// [`StartError::NotThere`] and [`StartError::Hardware`] with a timeout: DMA may pass.
#[inline(never)]
pub fn deny_all(mmio: &impl Mmio, now_ns: impl Fn() -> u64) -> Result<(), StartError> {
    let start = now_ns();
    let in_time = || {
        if now_ns().saturating_sub(start) > DEADLINE_NS {
            return Err(StartError::Hardware(IommuError::Timeout));
        }
        Ok(())
    };
    let abort = GBPA_FIELDS::UPDATE::SET + GBPA_FIELDS::ABORT::SET + GBPA_FIELDS::SHCFG::Incoming;
    loop {
        mmio.write32(GBPA, abort.value);
        let seen = loop {
            let seen = LocalRegisterCopy::<u32, GBPA_FIELDS::Register>::new(mmio.read32(GBPA));
            if seen.get() == u32::MAX {
                return Err(StartError::NotThere(seen.get()));
            }
            if !seen.is_set(GBPA_FIELDS::UPDATE) {
                break seen;
            }
            in_time()?;
        };
        if seen.is_set(GBPA_FIELDS::ABORT) {
            break;
        }
        // A write that meets an update in progress is ignored (§6.3.14): once more.
        in_time()?;
    }
    let enabled = CR0_FIELDS::SMMUEN::SET.value;
    if mmio.read32(CR0) & enabled != 0 {
        mmio.write32(CR0, 0);
        while mmio.read32(CR0ACK) & enabled != 0 {
            in_time()?;
        }
    }
    Ok(())
}
