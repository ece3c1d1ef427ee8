//! Tables of the host: what leaves them leaves the devices.

use super::{NO_REQUEST, NO_TRANSLATED, STREAM, VA, ask, ats, device, map, unmap, write};
use crate::vm::{GUEST, PAGE, Piece, RAM, Vm};
use iommu::addr::Iova;
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Initiator};
use iommu::object::Error;
use iommu::object::driver::{Access, DeviceInfo, HwptFlags};

#[test]
fn what_leaves_a_table_leaves_the_device_after_the_tlbs() {
    for range_invalidation in [true, false] {
        let vm = Vm::one(Config {
            range_invalidation,
            ..ats()
        });
        let device = device(&vm, STREAM, true);
        device.attach(0, &vm.parent).expect("attached");
        assert_eq!(ask(&vm, STREAM, GUEST + 8), Ok(RAM + 8));
        assert_eq!(write(&vm, STREAM, RAM + 8), Ok(()));
        map(&vm, 0x1000_0000, RAM + 5 * PAGE);
        assert_eq!(ask(&vm, STREAM, 0x1000_0000), Ok(RAM + 5 * PAGE));
        vm.model().commands();
        unmap(&vm, 0x1000_0000, PAGE);
        let told = vm.model().commands();
        let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
        assert_eq!(codes, [0x2a, 0x46, 0x40, 0x46]);
        // One page, of what has no PASID.
        assert_eq!(told[2], [0x40 | u64::from(STREAM) << 32, 0x1000_0000]);
        assert!(ask(&vm, STREAM, 0x1000_0000).is_err());
        assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM), "it has kept the rest");
    }
}

#[test]
fn who_is_not_trusted_is_refused_and_costs_no_command() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, false);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), NO_REQUEST);
    assert_eq!(write(&vm, STREAM, RAM), NO_TRANSLATED);
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    map(&vm, 0x1000_0000, RAM);
    vm.model().commands();
    unmap(&vm, 0x1000_0000, PAGE);
    device.detach(0).expect("detached");
    let told = vm.model().commands();
    assert!(!told.iter().any(|it| it[0] as u8 == 0x40), "{told:x?}");
    // Nor is one that shares the other's stream.
    let info = DeviceInfo {
        ats: true,
        group: STREAM,
        ..vm.iommus[0].info(&[DeviceId(STREAM)])
    };
    let shared = vm.context.bind(&info).map(|it| it.id());
    assert_eq!(shared, Err(Error::Incompatible));
}

#[test]
fn an_attachment_starts_and_ends_with_an_empty_cache() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    // Another table in place of this one.
    let other = vm.context.ioas().expect("memory");
    let memory = std::sync::Arc::new(Piece(RAM + 7 * PAGE, PAGE));
    let access = Access::READ | Access::WRITE;
    other
        .map(Iova(GUEST), memory, 0, PAGE, access)
        .expect("mapped");
    let hwpt = other
        .paging(&vm.iommus[0].driver(), HwptFlags::empty(), None)
        .expect("a table");
    device.replace(0, &hwpt).expect("replaced");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM + 7 * PAGE));
    // What it has is worth nothing once it is detached.
    device.detach(0).expect("detached");
    assert_eq!(write(&vm, STREAM, RAM + 7 * PAGE), NO_TRANSLATED);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    vm.model().commands();
    device.silence().expect("silent");
    assert!(write(&vm, STREAM, RAM).is_err());
    let told = vm.model().commands();
    let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
    assert_eq!(codes[codes.len() - 3..], [0x40, 0x40, 0x46]);
}

#[test]
fn pasids_of_the_hosts_are_told_one_by_one() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    let driver = vm.iommus[0].driver();
    let spaces = [1, 2].map(|page| {
        let ioas = vm.context.ioas().expect("memory");
        let memory = std::sync::Arc::new(Piece(RAM + page * PAGE, PAGE));
        let access = Access::READ | Access::WRITE;
        ioas.map(Iova(VA), memory, 0, PAGE, access).expect("mapped");
        let hwpt = ioas.paging(&driver, HwptFlags::PASID, None);
        (ioas, hwpt.expect("a table"))
    });
    let with = |pasid| Initiator::from(STREAM).with_substream(pasid);
    device.attach(1, &spaces[0].1).expect("attached");
    device.attach(2, &spaces[1].1).expect("attached");
    device.attach(0, &spaces[1].1).expect("attached");
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    assert_eq!(ask(&vm, with(2), VA), Ok(RAM + 2 * PAGE));
    assert_eq!(ask(&vm, STREAM, VA), Ok(RAM + 2 * PAGE));
    vm.model().commands();
    spaces[1].0.unmap_all().expect("unmapped");
    let told = vm.model().commands();
    let told: Vec<_> = told.iter().filter(|it| it[0] as u8 == 0x40).collect();
    let stream = u64::from(STREAM) << 32;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0][0], 0x40 | stream);
    assert_eq!(told[1][0], 0x40 | stream | 1 << 11 | 2 << 12);
    assert!(ask(&vm, with(2), VA).is_err() && ask(&vm, STREAM, VA).is_err());
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    // A table in place of another, and none.
    device.replace(1, &spaces[1].1).expect("replaced");
    assert!(ask(&vm, with(1), VA).is_err());
    device.replace(1, &spaces[0].1).expect("replaced");
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    device.detach(1).expect("detached");
    assert!(ask(&vm, with(1), VA).is_err());
}

/// An invalidation that was sent without it, by who did not know of it, is complete before it may ask.
#[test]
fn who_may_cache_a_context_is_told_of_what_comes_after() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    let driver = vm.iommus[0].driver();
    let ioas = vm.context.ioas().expect("memory");
    let hwpt = ioas
        .paging(&driver, HwptFlags::PASID, None)
        .expect("a table");
    device.attach(1, &hwpt).expect("attached");
    vm.model().commands();
    device.attach(2, &hwpt).expect("attached");
    let told = vm.model().commands();
    let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
    // CMD_SYNC alone, then CMD_CFGI_CD after the words and after V.
    assert_eq!(codes, [0x46, 0x05, 0x46, 0x05, 0x46]);
}
