//! Pages that wait, and their answers (VT-d, 7.4 to 7.10).
//!
//! Page requests come by a queue of their own, where the unit has one: it is there from the start, and empty as long as no
//! device has page requests turned on. Who may cache translations may ask for pages (PRE, 9.4). What a device has asked for by
//! an entry that is gone is answered as wrong before it can be anybody else's.

use tock_registers::LocalRegisterCopy;

use super::Vtd;
use super::command::Command;
use super::request_queue::Raw;
use super::spec::page_request::{REQUEST0, REQUEST1};
use crate::addr::Iova;
use crate::hal::{Mmio, Platform};
use crate::id::{DeviceId, IommuIndex};
use crate::physical::{Answer, Drained, IommuError, PriRequest, Waiting};

/// Decodes one descriptor of `iommu`'s page request queue (7.4.1.1).
pub fn decode_request(iommu: IommuIndex, raw: [u64; 2]) -> PriRequest {
    let first = LocalRegisterCopy::<u64, REQUEST0::Register>::new(raw[0]);
    let second = LocalRegisterCopy::<u64, REQUEST1::Register>::new(raw[1]);
    let pasid = first.is_set(REQUEST0::PP);
    let read = second.is_set(REQUEST1::RDR);
    PriRequest {
        iommu,
        device: DeviceId(first.read(REQUEST0::RID) as u32),
        pasid: pasid.then(|| first.read(REQUEST0::PASID) as u32),
        address: Iova(second.read(REQUEST1::ADDRESS) << REQUEST1::ADDRESS.shift),
        group: second.read(REQUEST1::PRGI) as u16,
        last: second.is_set(REQUEST1::LPIG),
        read,
        write: second.is_set(REQUEST1::WRR),
        execute: pasid && read && first.is_set(REQUEST0::EXR),
        privileged: pasid && first.is_set(REQUEST0::PMR),
    }
}

impl<P: Platform, M: Mmio> Vtd<P, M> {
    pub(super) fn answer(
        &mut self,
        device: DeviceId,
        waiting: Waiting,
        answer: Answer,
    ) -> Result<(), IommuError> {
        let Waiting::Pages { pasid, group } = waiting else {
            return Err(IommuError::Unsupported);
        };
        if self.requests.is_none() || group >> 9 != 0 || device.0 >> 16 != 0 {
            return Err(IommuError::Unsupported);
        }
        self.tell(&[Command::PageGroup(device, pasid, group, answer)])
    }

    pub(super) fn take_requests(&mut self, requests: &mut [PriRequest]) -> Drained {
        let Some(queue) = &mut self.requests else {
            return Drained::default();
        };
        let index = self.index;
        let decode = |raw| decode_request(index, raw);
        queue.drain(&self.platform, &self.registers, decode, requests)
    }

    /// Answers what a device has asked for, by one PASID (0 is without) or by any, and is not drained yet. Its entry is gone, and
    /// it was told to forget what it has cached of that: nothing of before is still on its way (7.10).
    pub(super) fn end_requests(
        &mut self,
        device: DeviceId,
        pasid: Option<u32>,
    ) -> Result<(), IommuError> {
        let Some(mut queue) = self.requests.take() else {
            return Ok(());
        };
        let index = self.index;
        let gone = |raw: Raw| {
            let request = decode_request(index, raw);
            let at = request.pasid.unwrap_or(0);
            request.device == device && pasid.is_none_or(|pasid| pasid == at)
        };
        let mut result = Ok(());
        let mut from = None;
        while let Some((raw, next)) = queue.take(&self.platform, &self.registers, from, gone) {
            from = Some(next);
            let request = decode_request(index, raw);
            if request.last && !request.is_stop_marker() && result.is_ok() {
                let answer = Answer::Invalid;
                let command = Command::PageGroup(device, request.pasid, request.group, answer);
                result = self.tell(&[command]);
            }
        }
        self.requests = Some(queue);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_field_by_field() {
        let all = decode_request(IommuIndex(2), [u64::MAX, u64::MAX]);
        assert_eq!((all.device, all.pasid), (DeviceId(0xffff), Some(0xf_ffff)));
        assert_eq!((all.address, all.group), (Iova(!0xfff), 0x1ff));
        assert!(all.last && all.read && all.write && all.execute && all.privileged);
        let none = decode_request(IommuIndex(2), [1, 0]);
        assert_eq!((none.pasid, none.address.0, none.group), (None, 0, 0));
        for (bit, is) in [
            (0, (true, false, false)),
            (1, (false, true, false)),
            (2, (false, false, true)),
        ] {
            let one = decode_request(IommuIndex(0), [0x123 << 16 | 1, 1 << bit]);
            let found = (one.read, one.write, one.last);
            assert_eq!((found, one.device), (is, DeviceId(0x123)));
        }
        // Without a PASID, and without RDR, the bits beside it mean nothing.
        let other = decode_request(IommuIndex(0), [1 << 53 | 1 << 52 | 1, 1]);
        assert!(!other.execute && !other.privileged);
        let other = decode_request(IommuIndex(0), [1 << 53 | 1 << 52 | 1 << 8, 2]);
        assert!(!other.execute && other.privileged);
        let tagged = decode_request(IommuIndex(0), [0x54321 << 32 | 1 << 8, 0x1234_5038]);
        assert_eq!((tagged.pasid, tagged.group), (Some(0x54321), 7));
        assert_eq!(tagged.address, Iova(0x1234_5000));
    }
}
