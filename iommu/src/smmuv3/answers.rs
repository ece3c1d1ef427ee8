//! Transactions and pages that wait, and their answers (IHI 0070, §3.12, §4.5, §4.7, §8).
//!
//! Page requests come by a queue of their own, where the SMMU has one: it is there from the start, and empty as long as no
//! device has page requests turned on. When it is full the SMMU answers by itself that the device is to ask again (§8.1),
//! until the loss is acknowledged; a group of which a part was lost is never complete.

use tock_registers::LocalRegisterCopy;

use super::Smmu;
use super::command::{Command, PageResponse, Resume};
use super::record_queue::QueueRegisters;
use super::spec::page_request::{REQUEST0, REQUEST1};
use super::spec::registers::{PRIQ_BASE, PRIQ_CONS, PRIQ_PROD};
use crate::addr::Iova;
use crate::hal::{Mmio, Platform};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{Answer, Drained, IommuError, PriRequest, Waiting};

pub(super) const PRI_QUEUE: QueueRegisters = QueueRegisters {
    base: PRIQ_BASE,
    prod: PRIQ_PROD,
    cons: PRIQ_CONS,
};

/// Decodes one record of `iommu`'s page request queue (§8).
pub fn decode_request(iommu: IommuIndex, raw: [u64; 2]) -> PriRequest {
    let first = LocalRegisterCopy::<u64, REQUEST0::Register>::new(raw[0]);
    let second = LocalRegisterCopy::<u64, REQUEST1::Register>::new(raw[1]);
    let pasid = first.is_set(REQUEST0::SSV);
    PriRequest {
        iommu,
        device: DeviceId(first.read(REQUEST0::STREAM_ID) as u32),
        pasid: pasid.then(|| first.read(REQUEST0::SUBSTREAM_ID) as u32),
        address: Iova(second.read(REQUEST1::ADDRESS) << REQUEST1::ADDRESS.shift),
        group: second.read(REQUEST1::PRGI) as u16,
        last: first.is_set(REQUEST0::LAST),
        read: first.is_set(REQUEST0::READ),
        write: first.is_set(REQUEST0::WRITE),
        execute: first.is_set(REQUEST0::EXECUTE),
        privileged: first.is_set(REQUEST0::PRIVILEGED),
    }
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Answers a stalled transaction (§4.7.1): `tag` is that of its event.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where nothing can stall; those of the command queue.
    pub fn resume(&self, device: DeviceId, tag: u16, action: Resume) -> Result<(), IommuError> {
        if !self.features.stalls.possible() {
            return Err(IommuError::Unsupported);
        }
        self.shared.tell_one(Command::resume(device, tag, action))
    }

    /// Ends every stalled transaction of `device` (§4.7.2), which refuses new ones already.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where nothing can stall; those of the command queue.
    pub fn end_stalls(&self, device: DeviceId) -> Result<(), IommuError> {
        if !self.features.stalls.possible() {
            return Err(IommuError::Unsupported);
        }
        self.shared.tell_one(Command::stall_term(device))
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
        self.shared
            .tell_one(Command::pri_resp(device, pasid, group, response))
    }

    pub(super) fn answer(
        &self,
        device: DeviceId,
        waiting: Waiting,
        answer: Answer,
    ) -> Result<(), IommuError> {
        match (waiting, answer) {
            (Waiting::Stall(tag), Answer::Success) => self.resume(device, tag, Resume::Retry),
            (Waiting::Stall(tag), Answer::Invalid) => self.resume(device, tag, Resume::Abort),
            (Waiting::Pages { pasid, group }, answer) => {
                let response = match answer {
                    Answer::Success => PageResponse::Success,
                    Answer::Invalid => PageResponse::Invalid,
                };
                self.answer_page_request(device, pasid, group, response)
            }
        }
    }

    pub(super) fn take_requests(&mut self, requests: &mut [PriRequest]) -> Drained {
        let Some(queue) = &mut self.requests else {
            return Drained::default();
        };
        let index = self.index;
        let core = self.shared.lock();
        let decode = |raw| decode_request(index, raw);
        queue.drain(&self.platform, &core.registers, decode, requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_field_by_field() {
        let all = decode_request(IommuIndex(2), [u64::MAX, u64::MAX]);
        assert_eq!(
            (all.device, all.pasid),
            (DeviceId(u32::MAX), Some(0xf_ffff))
        );
        assert_eq!((all.address, all.group), (Iova(!0xfff), 0x1ff));
        assert!(all.last && all.read && all.write && all.execute && all.privileged);
        let none = decode_request(IommuIndex(2), [0, 0]);
        assert_eq!((none.pasid, none.address.0, none.group), (None, 0, 0));
        for (bit, is) in [
            (58, (false, false, false, false, true)),
            (59, (false, false, false, true, false)),
            (60, (false, true, false, false, false)),
            (61, (false, false, true, false, false)),
            (62, (true, false, false, false, false)),
        ] {
            let one = decode_request(IommuIndex(0), [1 << bit | 0x123, 0]);
            let found = (one.last, one.read, one.write, one.execute, one.privileged);
            assert_eq!((found, one.device), (is, DeviceId(0x123)));
        }
        let tagged = decode_request(IommuIndex(0), [1 << 63 | 0x54321 << 32, 0x1234_5007]);
        assert_eq!((tagged.pasid, tagged.group), (Some(0x54321), 7));
        assert_eq!(tagged.address, Iova(0x1234_5000));
    }
}
