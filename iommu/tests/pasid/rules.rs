//! Which tables go together.

use super::{BAD_CONTEXT, Own, STREAM, device, fault, pasids, reach};
use crate::vm::{GUEST, RAM, Space, Vm, entry, nested};
use iommu::id::DeviceId;
use iommu::model::smmu::Config;
use iommu::object::driver::{Driver, HwptFlags, Requester, Target, UserData};
use iommu::object::{Errno, Error};
use iommu::physical::IommuError;
use iommu::table::StageOneAttributes;

#[test]
fn which_tables_go_together_is_as_iommufd_says() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let driver = vm.iommus[0].driver();
    let own = Own::new(&vm, 1);
    let errno = |result: Result<u32, Error>| result.map_err(Error::errno);
    // No such PASID, no table for PASIDs, an address space's automatic table.
    assert_eq!(errno(device.attach(16, &own.hwpt)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &own.ioas)), Err(Errno::EINVAL));
    // Beside a second stage alone, and beside a guest's first stage.
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EINVAL));
    device.detach(0).expect("detached");
    let slice = vm.slice(0);
    let vdevice = slice.vdevice(&device, 7).expect("named");
    let space = Space::plain(&vm, 1);
    let contexts = vm.take(64);
    space.place(&vm, contexts);
    let guests = nested(&slice, entry(contexts, 0), None);
    device.attach(0, &guests).expect("attached");
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &guests)), Err(Errno::EINVAL));
    device.detach(0).expect("detached");
    // And the other way round.
    device.attach(1, &own.hwpt).expect("attached");
    assert_eq!(errno(device.attach(0, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(0, &guests)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(0, &own.ioas)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EBUSY));
    assert_eq!(reach(&vm, 1), Ok(own.page));
    device.attach(0, &own.hwpt).expect("attached");
    assert_eq!(errno(device.replace(0, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(reach(&vm, 0), Ok(own.page));
    assert_eq!(device.detach(2), Ok(()));
    // Alone it may become a second stage, and a first one again.
    device.detach(1).expect("detached");
    device.replace(0, &vm.parent).expect("replaced");
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    device.replace(0, &own.hwpt).expect("replaced");
    assert_eq!(reach(&vm, 0), Ok(own.page));
    // A nest parent is a second stage.
    let both = HwptFlags::PASID | HwptFlags::NEST_PARENT;
    let refused = own.ioas.paging(&driver, both, None).map(|it| it.id());
    assert_eq!(errno(refused), Err(Errno::EOPNOTSUPP));
    let slice = own.hwpt.viommu(&driver, 1, UserData::default());
    assert_eq!(errno(slice.map(|it| it.id())), Err(Errno::EINVAL));
    drop(vdevice);
}

#[test]
fn an_smmu_without_a_first_stage_or_without_pasids_has_no_tables_for_them() {
    let vm = Vm::one(Config {
        stage_one: false,
        substream_bits: 0,
        ..Config::default()
    });
    let refused = vm
        .ioas
        .paging(&vm.iommus[0].driver(), HwptFlags::PASID, None);
    let refused = refused.map(|it| it.id()).map_err(Error::errno);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    // The device has PASIDs, its SMMU has not: only what comes without one.
    let vm = Vm::one(Config::default());
    let device = device(&vm, STREAM, 4);
    let own = Own::new(&vm, 1);
    let refused = device.attach(1, &own.hwpt).map_err(Error::errno);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    device.attach(0, &own.hwpt).expect("attached");
    assert_eq!(reach(&vm, 0), Ok(own.page));
}

#[test]
fn the_driver_itself_refuses_what_the_objects_never_ask_for() {
    let vm = Vm::one(pasids());
    let unit = &vm.iommus[0].unit;
    let from = Requester {
        stream: DeviceId(STREAM),
        pasid_bits: 4,
        ats: false,
    };
    let own = Own::new(&vm, 1);
    let device = device(&vm, STREAM, 4);
    // A second stage at a PASID.
    device.attach(0, &vm.parent).expect("attached");
    let root = iommu::object::driver::Root {
        format: iommu::object::driver::Format::ArmStageTwo,
        root: iommu::addr::Hpa(0x1000),
        input_bits: 39,
        output_bits: 48,
        largest: 1 << 30,
        cleaned: true,
    };
    let tag = iommu::id::CacheTag(9);
    let second = Target::Paging { tag, root };
    assert_eq!(unit.attach(&from, 1, &second), Err(Error::Incompatible));
    // A PASID beside a second stage; that stays.
    let table = iommu::physical::StageOneTable {
        asid: 9,
        root: iommu::addr::Hpa(0x1000),
        input_bits: 39,
        granule: iommu::physical::Granule::Size4K,
        attributes: StageOneAttributes::MAIR,
    };
    let put = |pasid, table| {
        use iommu::physical::PhysicalIommu;
        let mut smmu = unit.physical().lock();
        let with = iommu::physical::ContextSetup {
            pasid_bits: 4,
            ats: false,
        };
        smmu.attach_context(DeviceId(STREAM), pasid, with, table)
    };
    assert_eq!(put(1, Some(&table)), Err(IommuError::Unsupported));
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    device.detach(0).expect("detached");
    // A second stage beside a PASID; that stays too.
    device.attach(1, &own.hwpt).expect("attached");
    assert_eq!(unit.attach(&from, 0, &second), Err(Error::Unsupported(0)));
    assert_eq!((reach(&vm, 0), reach(&vm, 1)), (BAD_CONTEXT, Ok(own.page)));
    // An address space that the SMMU's tables cannot have.
    let wide = iommu::physical::StageOneTable {
        root: iommu::addr::Hpa(1 << 50),
        ..table
    };
    assert_eq!(put(1, Some(&wide)), Err(IommuError::Unsupported));
    assert_eq!(reach(&vm, 1), fault(0x04), "the last one is refused");
}
