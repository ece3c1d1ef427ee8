//! Devices that do not answer.

use super::{NO_TRANSLATED, OTHER, STREAM, VA, ask, ats, contained, device, map, unmap, write};
use crate::vm::{GUEST, PAGE, Piece, RAM, Vm};
use iommu::addr::Iova;
use iommu::id::DeviceId;
use iommu::model::smmu::{Denied, Initiator};
use iommu::object::Error;
use iommu::object::driver::{Access, HwptFlags};
use iommu::physical::IommuError;

#[test]
fn a_device_that_does_not_answer_is_refused_and_the_others_do_not_notice() {
    let vm = Vm::one(ats());
    let devices = [STREAM, OTHER].map(|stream| device(&vm, stream, true));
    for (device, stream) in devices.iter().zip([STREAM, OTHER]) {
        device.attach(0, &vm.parent).expect("attached");
        assert_eq!(ask(&vm, stream, GUEST), Ok(RAM));
    }
    map(&vm, 0x1000_0000, RAM);
    vm.model().mute(STREAM, true);
    // The unmapping is complete: the one who does not forget reaches nothing.
    unmap(&vm, 0x1000_0000, PAGE);
    assert_eq!(write(&vm, STREAM, RAM), NO_TRANSLATED);
    assert_eq!(
        vm.model().translate(STREAM, GUEST, true),
        Err(Denied::StreamAbort)
    );
    assert_eq!(ask(&vm, OTHER, GUEST), Ok(RAM));
    assert_eq!(write(&vm, OTHER, RAM), Ok(()));
    let why = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
    assert_eq!(contained(&vm), [(devices[0].id(), why)]);
    assert_eq!(contained(&vm), []);
    // Its owner may take it back, once it answers.
    devices[0].detach(0).expect("detached");
    let refused = devices[0].attach(0, &vm.parent);
    assert_eq!(refused, Err(why));
    assert!(write(&vm, STREAM, RAM).is_err());
    vm.model().mute(STREAM, false);
    devices[0].attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    // Detaching one that does not answer is no error: it reaches nothing.
    vm.model().mute(STREAM, true);
    devices[0].detach(0).expect("detached");
    assert!(write(&vm, STREAM, RAM).is_err());
}

#[test]
fn a_pasid_that_a_device_does_not_forget_ends_the_device() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    let ioas = vm.context.ioas().expect("memory");
    let memory = std::sync::Arc::new(Piece(RAM, PAGE));
    let access = Access::READ | Access::WRITE;
    ioas.map(Iova(VA), memory, 0, PAGE, access).expect("mapped");
    let hwpt = ioas.paging(&vm.iommus[0].driver(), HwptFlags::PASID, None);
    let hwpt = hwpt.expect("a table");
    device.attach(1, &hwpt).expect("attached");
    device.attach(2, &hwpt).expect("attached");
    let with = |pasid| Initiator::from(STREAM).with_substream(pasid);
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM));
    vm.model().mute(STREAM, true);
    device.detach(1).expect("refused, with everything else");
    for pasid in [1, 2] {
        let refused = vm.model().translated_write(with(pasid), RAM, &[0]);
        assert_eq!(refused, NO_TRANSLATED);
        assert!(vm.model().translate(with(pasid), VA, true).is_err());
    }
    let why = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
    assert_eq!(contained(&vm), [(device.id(), why)]);
    drop(device);
    // A mapping change meets nobody any more.
    ioas.unmap_all().expect("unmapped");
}

#[test]
fn what_a_device_did_not_forget_is_not_held_against_its_next_owner() {
    let vm = Vm::one(ats());
    let driver = vm.iommus[0].driver();
    let ioas = vm.context.ioas().expect("memory");
    let access = Access::READ | Access::WRITE;
    let page = || std::sync::Arc::new(Piece(RAM, PAGE));
    ioas.map(Iova(VA), page(), 0, PAGE, access).expect("mapped");
    let hwpt = ioas.paging(&driver, HwptFlags::PASID, None);
    let hwpt = hwpt.expect("a table");
    let with = Initiator::from(STREAM).with_substream(1);
    let first = device(&vm, STREAM, true);
    first.attach(1, &hwpt).expect("attached");
    assert_eq!(ask(&vm, with, VA), Ok(RAM));
    vm.model().mute(STREAM, true);
    ioas.unmap_all().expect("unmapped");
    drop(first);
    vm.model().mute(STREAM, false);
    ioas.map(Iova(VA), page(), 0, PAGE, access).expect("mapped");
    let next = device(&vm, STREAM, true);
    next.attach(1, &hwpt).expect("attached");
    assert_eq!(vm.model().translate(with, VA, true), Ok(RAM));
    assert_eq!(contained(&vm).len(), 1, "the first one's");
}
