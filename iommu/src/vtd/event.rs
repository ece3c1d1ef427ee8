//! From a fault record to a [`Fault`] (VT-d, 7.1.3 and 11.4, FRCD).

use tock_registers::LocalRegisterCopy;

use super::quirks;
use super::spec::fault::{FAULT0, FAULT1, reason};
use crate::addr::Iova;
use crate::fault::{Fault, FaultReason, Stage};
use crate::id::{DeviceId, IommuIndex};

/// What a reason means.
fn meaning(number: u8) -> (FaultReason, Stage) {
    use FaultReason as R;
    match number {
        reason::ROOT_NOT_PRESENT
        | reason::CONTEXT_NOT_PRESENT
        | reason::CONTEXT_INVALID
        | reason::ROOT_RESERVED
        | reason::CONTEXT_RESERVED => (R::BadDeviceEntry, Stage::None),
        reason::ROOT_ACCESS | reason::CONTEXT_ACCESS => (R::FetchAbort, Stage::None),
        reason::BEYOND_WIDTH => (R::AddressSize, Stage::Two),
        // "No mapping" and "not for this" have one number: an entry with neither right is not present.
        reason::WRITE | reason::READ => (R::Translation, Stage::Two),
        reason::TABLE_ACCESS => (R::FetchAbort, Stage::Two),
        reason::BLOCKED => (R::Unsupported, Stage::None),
        reason::SCALABLE_ROOT | reason::SCALABLE_CONTEXT => (R::FetchAbort, Stage::None),
        reason::SCALABLE_FIRST..reason::PASID => (R::BadDeviceEntry, Stage::None),
        reason::PASID..=reason::PASID_LAST => (R::BadContext, Stage::None),
        reason::FIRST_ACCESS | reason::FIRST_ROOT_ACCESS => (R::FetchAbort, Stage::One),
        // An entry that says what there is not leads nowhere.
        reason::FIRST_NOT_PRESENT | reason::FIRST_RESERVED => (R::Translation, Stage::One),
        reason::FIRST_FLAGS => (R::AccessFlag, Stage::One),
        // Of a guest's table, which the second stage has not, or not for this.
        reason::FIRST_BEYOND => (R::AddressSize, Stage::Two),
        reason::FIRST_ROOT_READ | reason::FIRST_READ | reason::FIRST_WRITE => {
            (R::Translation, Stage::Two)
        }
        reason::SECOND_ACCESS => (R::FetchAbort, Stage::Two),
        reason::SECOND_PERMISSION => (R::Translation, Stage::Two),
        reason::NOT_CANONICAL => (R::AddressSize, Stage::One),
        reason::SCALABLE_BEYOND | reason::SECOND_BEYOND => (R::AddressSize, Stage::Two),
        reason::SUPERVISOR_ONLY | reason::SCALABLE_WRITE | reason::SCALABLE_READ => {
            (R::Permission, Stage::One)
        }
        _ => (R::Other(number), Stage::None),
    }
}

/// Decodes one record of `iommu`.
pub fn decode(iommu: IommuIndex, raw: [u64; 2]) -> Fault {
    let second = LocalRegisterCopy::<u64, FAULT1::Register>::new(raw[1]);
    let number = second.read(FAULT1::FR) as u8;
    let (reason, stage) = meaning(number);
    let interrupt = (reason::INTERRUPT_FIRST..=reason::INTERRUPT_LAST).contains(&number);
    let pasid = quirks::has_pasid(number, second);
    // T1 and T2 are both set for an atomic operation; T2 alone is a page request, which is neither.
    let write = second.is_set(FAULT1::T1) == second.is_set(FAULT1::T2);
    Fault {
        iommu,
        device: DeviceId(second.read(FAULT1::SID) as u32),
        pasid: pasid.then(|| second.read(FAULT1::PV) as u32),
        reason,
        stage,
        iova: (!interrupt).then_some(Iova(raw[0] & (FAULT0::FI.mask << FAULT0::FI.shift))),
        ipa: None,
        write: !interrupt && write,
        privileged: pasid && second.is_set(FAULT1::PRIV),
        instruction: pasid && second.is_set(FAULT1::EXE),
        stalled: false,
        tag: 0,
        raw: [raw[0], raw[1], 0, 0],
    }
}

/// The index of an interrupt that was refused, in the records that have one (5.1.4.1).
pub fn interrupt_index(raw: [u64; 4]) -> Option<u16> {
    let number = (raw[1] >> FAULT1::FR.shift & FAULT1::FR.mask) as u8;
    let interrupt = (reason::INTERRUPT_FIRST..=reason::INTERRUPT_LAST).contains(&number);
    interrupt.then_some((raw[0] >> 48) as u16)
}
