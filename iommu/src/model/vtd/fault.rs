//! Fault records (7.2.1).

use super::State;
use super::registers::PFO;
use super::translate::Request;

impl State {
    /// Records a request that was refused.
    pub(super) fn record_request(&mut self, reason: u8, request: &Request) {
        let pasid = request.pasid.map_or(0, |pasid| {
            u64::from(pasid) << 40 | 1 << 31 | u64::from(request.privileged) << 29
        });
        let page = request.address & !0xfff;
        self.record_as(request.source, reason, page, request.write, pasid);
    }

    /// Records a page request that was refused.
    pub(super) fn record_page_request(&mut self, reason: u8, request: &Request) {
        let pasid = request.pasid.map_or(0, |pasid| {
            u64::from(pasid) << 40 | 1 << 31 | u64::from(request.privileged) << 29
        });
        let page = request.address & !0xfff;
        // T2 without T1 (11.4, FRCD).
        self.record_as(request.source, reason, page, true, pasid | 1 << 28);
    }

    /// Records a fault, if there is room and its source has not one already.
    pub(super) fn record(&mut self, source: u16, reason: u8, information: u64, write: bool) {
        self.record_as(source, reason, information, write, 0);
    }

    fn record_as(&mut self, source: u16, reason: u8, information: u64, write: bool, more: u64) {
        self.counters.faults += 1;
        if self.registers.fsts & PFO != 0 {
            return;
        }
        let first = self.registers.fsts == 0 && !self.registers.pending();
        let held = |record: &[u64; 2]| record[1] >> 63 != 0 && record[1] as u16 == source;
        if self.config.collapse && self.registers.records.iter().any(held) {
            return;
        }
        let index = self.registers.next_record;
        if self.registers.records[index][1] >> 63 != 0 {
            self.registers.fsts |= PFO;
            return self.raise_event(first);
        }
        if !self.registers.pending() {
            self.registers.fri = index;
        }
        let second =
            1 << 63 | u64::from(!write) << 62 | u64::from(reason) << 32 | u64::from(source) | more;
        self.registers.records[index] = [information, second];
        self.registers.next_record = (index + 1) % self.registers.records.len();
        self.counters.records += 1;
        self.raise_event(first);
    }
}
