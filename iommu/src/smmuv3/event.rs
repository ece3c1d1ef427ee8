//! From an event record to a [`Fault`] (IHI 0070, §7.3).

use tock_registers::LocalRegisterCopy;

use super::quirks;
use super::spec::event::{EVENT0, EVENT1, EVENT3, kind};
use crate::addr::{Gpa, Hpa, Iova};
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};

/// Which fields a record of one type has beside the stream.
struct Shape {
    reason: FaultReason,
    /// InputAddr, RnW, PnU, InD.
    address: bool,
    /// S2, CLASS, and IPA where S2 is set.
    stage: bool,
    /// STALL and STAG.
    stall: bool,
}

fn shape(number: u8) -> Shape {
    use FaultReason as R;
    let (reason, address, stage, stall) = match number {
        kind::F_UUT => (R::Unsupported, true, false, false),
        kind::C_BAD_STREAMID | kind::C_BAD_STE => (R::BadDeviceEntry, false, false, false),
        kind::F_STE_FETCH | kind::F_CD_FETCH | kind::F_VMS_FETCH => {
            (R::FetchAbort, false, false, false)
        }
        kind::F_BAD_ATS_TREQ | kind::F_TRANSL_FORBIDDEN => (R::Unsupported, true, false, false),
        kind::F_STREAM_DISABLED => (R::Unsupported, false, false, false),
        kind::C_BAD_SUBSTREAMID | kind::C_BAD_CD => (R::BadContext, false, false, false),
        kind::F_WALK_EABT => (R::FetchAbort, true, true, false),
        kind::F_TRANSLATION => (R::Translation, true, true, true),
        kind::F_ADDR_SIZE => (R::AddressSize, true, true, true),
        kind::F_ACCESS => (R::AccessFlag, true, true, true),
        kind::F_PERMISSION => (R::Permission, true, true, true),
        kind::F_TLB_CONFLICT => (R::Other(number), true, true, false),
        kind::E_PAGE_REQUEST => (R::Other(number), true, false, false),
        _ => (R::Other(number), false, false, false),
    };
    Shape {
        reason,
        address,
        stage,
        stall,
    }
}

/// Decodes one record of `iommu`.
pub fn decode(iommu: IommuIndex, raw: [u64; 4]) -> Fault {
    let first = LocalRegisterCopy::<u64, EVENT0::Register>::new(raw[0]);
    let second = LocalRegisterCopy::<u64, EVENT1::Register>::new(raw[1]);
    let number = first.read(EVENT0::TYPE) as u8;
    let shape = shape(number);
    let stage = if !shape.stage {
        Stage::None
    } else if quirks::is_stage_two(number, second) {
        Stage::Two
    } else {
        Stage::One
    };
    // F_WALK_EABT has the address of the descriptor, not an IPA, in its last word.
    let has_ipa = stage == Stage::Two && number != kind::F_WALK_EABT;
    let stalled = shape.stall && second.is_set(EVENT1::STALL);
    Fault {
        iommu,
        device: DeviceId(first.read(EVENT0::STREAM_ID) as u32),
        pasid: first
            .is_set(EVENT0::SSV)
            .then(|| first.read(EVENT0::SUBSTREAM_ID) as u32),
        reason: shape.reason,
        stage,
        iova: shape.address.then_some(Iova(raw[2])),
        ipa: has_ipa.then(|| Gpa(raw[3] & (EVENT3::IPA.mask << EVENT3::IPA.shift))),
        write: shape.address && !second.is_set(EVENT1::RNW),
        privileged: shape.address && second.is_set(EVENT1::PNU),
        instruction: shape.address && second.is_set(EVENT1::IND),
        stalled,
        tag: if stalled {
            second.read(EVENT1::STAG) as u16
        } else {
            0
        },
        raw,
    }
}

/// The physical address that the SMMU could not read, in the records that have one.
pub fn fetch_address(raw: [u64; 4]) -> Option<Hpa> {
    /// FetchAddr, bits [51:3] (§7.3.4).
    const FETCH: u64 = 0x000f_ffff_ffff_fff8;
    match raw[0] as u8 {
        kind::F_STE_FETCH | kind::F_WALK_EABT | kind::F_VMS_FETCH => Some(Hpa(raw[3] & FETCH)),
        kind::F_CD_FETCH => Some(Hpa(quirks::cd_fetch_word(raw) & FETCH)),
        _ => None,
    }
}
