//! What a guest sees of an event (IHI 0070, §7.3): a record with the guest's StreamID and only what the guest knows
//! itself.
//!
//! | event | what of it |
//! |---|---|
//! | C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID, C_BAD_CD | the stream and substream |
//! | F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION of stage 1 | also the input address, PnU, InD, RnW, CLASS |
//! | F_WALK_EABT of stage 1 | the same; the address of the fetch is the host's, and 0 here |
//! | F_CD_FETCH | stream and substream; the address of the fetch is the host's, and 0 here |
//!
//! Whatever else there is concerns the host's tables, or the host alone: it is none of the guest's. A stalled
//! transaction is a page request, not an event.

use tock_registers::LocalRegisterCopy;

use super::super::spec::event::{EVENT0, EVENT1, kind};
use crate::fault::{Fault, Stage};

macro_rules! mask {
    ($($field:expr),* $(,)?) => { 0 $(| $field.mask << $field.shift)* };
}

/// The record of `fault` as a guest that calls the device `stream` gets it, if it is for a guest at all.
pub fn guest_record(fault: &Fault, stream: u32) -> Option<[u64; 4]> {
    /// Stream and substream.
    const WHO: u64 = mask!(EVENT0::TYPE, EVENT0::SSV, EVENT0::SUBSTREAM_ID);
    /// What the transaction was.
    const HOW: u64 = mask!(EVENT1::PNU, EVENT1::IND, EVENT1::RNW, EVENT1::CLASS);
    if fault.stage == Stage::Two || fault.stalled {
        return None;
    }
    let [first, second, input, _] = fault.raw;
    let mut record = LocalRegisterCopy::<u64, EVENT0::Register>::new(first & WHO);
    record.modify(EVENT0::STREAM_ID.val(stream.into()));
    if !record.is_set(EVENT0::SSV) {
        record.modify(EVENT0::SUBSTREAM_ID.val(0));
    }
    match record.read(EVENT0::TYPE) as u8 {
        kind::C_BAD_STE
        | kind::F_STREAM_DISABLED
        | kind::C_BAD_SUBSTREAMID
        | kind::C_BAD_CD
        | kind::F_CD_FETCH => Some([record.get(), 0, 0, 0]),
        kind::F_TRANSLATION
        | kind::F_ADDR_SIZE
        | kind::F_ACCESS
        | kind::F_PERMISSION
        | kind::F_WALK_EABT => Some([record.get(), second & HOW, input, 0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IommuIndex;
    use crate::smmuv3::event::decode;

    /// As hardware could write it: every field that a record of this type can have, and all others.
    fn full(number: u64, s2: bool) -> Fault {
        let second = !(1 << 31) & !(u64::from(!s2) << 39) & !(1 << 40);
        decode(
            IommuIndex(0),
            [!0xff | number, second, 0x1234_5678_9abc_def0, u64::MAX],
        )
    }

    #[test]
    fn a_record_holds_the_guests_name_and_nothing_of_the_hosts() {
        // SSV and SUBSTREAM_ID; the name above.
        let first = |number| 0x5_ffff_f800 | number;
        for number in [0x04, 0x06, 0x08, 0x09, 0x0a] {
            let record = guest_record(&full(number, false), 5);
            assert_eq!(record, Some([first(number), 0, 0, 0]), "{number:#x}");
        }
        // PnU, InD, RnW, CLASS = IN.
        let how = 7 << 33 | 2 << 40;
        for number in [0x0b, 0x10, 0x11, 0x12, 0x13] {
            let record = guest_record(&full(number, false), 5);
            let wanted = [first(number), how, 0x1234_5678_9abc_def0, 0];
            assert_eq!(record, Some(wanted), "{number:#x}");
        }
    }

    #[test]
    fn what_is_the_hosts_stays_with_the_host() {
        let guests = [0x04, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13];
        for number in (0..=0xff).filter(|number| !guests.contains(number)) {
            assert_eq!(guest_record(&full(number, false), 5), None, "{number:#x}");
        }
        for number in [0x0b, 0x10, 0x11, 0x12, 0x13] {
            assert_eq!(guest_record(&full(number, true), 5), None, "{number:#x}");
        }
        // A stage 1 table that stage 2 does not have, as QEMU says it: S2 = 0, CLASS = TT.
        let fetch = decode(IommuIndex(0), [0x10, 1 << 40, 0, 0x4000_0000]);
        assert_eq!(guest_record(&fetch, 5), None);
        let stalled = decode(IommuIndex(0), [0x10, 2 << 40 | 1 << 31 | 7, 0, 0]);
        assert_eq!(guest_record(&stalled, 5), None);
    }
}
