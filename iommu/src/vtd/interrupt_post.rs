//! Posted interrupts (VT-d, 5.2): entries that lead to the descriptor of a virtual CPU instead of a vector of a physical one.
//! The unit notes each interrupt in the descriptor, and sends a notification where none is on its way.

use super::interrupt_remap::{Destinations, Source};
use super::spec::irte::{IRTE0, IRTE1, POSTED, POSTED_BYTES};
use crate::addr::Hpa;
use crate::physical::IommuError;

/// Where an interrupt is posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posting {
    /// The descriptor: 64 bytes, aligned to them, that CPUs cache and no device can write.
    pub descriptor: Hpa,
    /// The guest's vector, 16 at least.
    pub vector: u8,
    /// It is told whatever the descriptor's SN says.
    pub urgent: bool,
    /// Who may send it.
    pub source: Source,
}

impl Posting {
    /// The entry (9.10).
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a descriptor that is not aligned, a vector below 16, or a source that is none.
    pub fn entry(&self) -> Result<[u64; 2], IommuError> {
        if !self.descriptor.is_aligned(POSTED_BYTES as u64) || self.vector < 16 {
            return Err(IommuError::Unsupported);
        }
        let who = self.source.fields()?;
        let (high, low) = (self.descriptor.0 >> 32, self.descriptor.0 & 0xffff_ffff);
        let how = IRTE0::P::SET
            + IRTE0::IM::SET
            + IRTE0::URG.val(self.urgent.into())
            + IRTE0::V.val(self.vector.into())
            + IRTE0::PDAL.val(low >> 6);
        Ok([how.value, (who + IRTE1::PDAH.val(high)).value])
    }
}

/// Where notifications of a descriptor go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notification {
    /// Local APIC, in physical mode.
    pub destination: u32,
    /// Vector, 16 at least.
    pub vector: u8,
    /// There is none but of urgent interrupts.
    pub suppressed: bool,
}

impl Notification {
    /// The word of the descriptor behind PIR (9.11), with no notification on its way. Whoever changes it while an entry
    /// leads there does so in one atomic operation that keeps ON.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a destination that is too wide, or a vector below 16.
    pub fn word(&self, destinations: Destinations) -> Result<u64, IommuError> {
        let destination = match destinations {
            Destinations::Wide => POSTED::NDST.val(self.destination.into()),
            Destinations::Narrow if self.destination < 0x100 => {
                POSTED::NDST_XAPIC.val(self.destination.into())
            }
            Destinations::Narrow => return Err(IommuError::Unsupported),
        };
        if self.vector < 16 {
            return Err(IommuError::Unsupported);
        }
        let how = POSTED::SN.val(self.suppressed.into()) + POSTED::NV.val(self.vector.into());
        Ok((how + destination).value)
    }
}
