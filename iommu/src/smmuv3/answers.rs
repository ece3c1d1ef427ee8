//! Answers to transactions that wait: stalled ones and page requests (IHI 0070, §3.12, §4.5, §4.6).

use super::Smmu;
use super::command::{Command, PageResponse, Resume};
use crate::hal::{Mmio, Platform};
use crate::id::DeviceId;
use crate::physical::IommuError;

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Answers a stalled transaction (§4.6.1): `tag` is that of its event.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where nothing can stall; those of the command queue.
    pub fn resume(&self, device: DeviceId, tag: u16, action: Resume) -> Result<(), IommuError> {
        if !self.features.stalls.possible() {
            return Err(IommuError::Unsupported);
        }
        self.tell(&[Command::resume(device, tag, action)])
    }

    /// Ends every stalled transaction of `device` (§4.6.2), which refuses new ones already.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where nothing can stall; those of the command queue.
    pub fn end_stalls(&self, device: DeviceId) -> Result<(), IommuError> {
        if !self.features.stalls.possible() {
            return Err(IommuError::Unsupported);
        }
        self.tell(&[Command::stall_term(device)])
    }

    /// Answers a group of page requests (§4.5.2).
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where there are none; those of the command queue.
    pub fn answer_page_request(
        &self,
        device: DeviceId,
        pasid: Option<u32>,
        group: u16,
        response: PageResponse,
    ) -> Result<(), IommuError> {
        if !self.features.pri || group >> 9 != 0 {
            return Err(IommuError::Unsupported);
        }
        self.tell(&[Command::pri_resp(device, pasid, group, response)])
    }
}
