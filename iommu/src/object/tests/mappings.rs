//! Mappings of address spaces: each row of IOAS_MAP, IOAS_COPY and IOAS_UNMAP, and where automatic IOVAs go.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::by_id::MapRequest;
use super::super::driver::HwptFlags;
use super::super::mock::Pieces;
use super::super::{Errno, Error};
use super::{Access, K4, M2, RW, World, errno, memory, span};
use crate::addr::{Hpa, Iova};

const FIXED: MapRequest = MapRequest {
    flags: 7,
    ioas: 1,
    reserved: 0,
    length: K4,
    iova: 0x10_0000,
};

#[test]
fn ioas_map_rows_in_order() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let driver = world.driver();
    let _hwpt = ioas.paging(&driver, HwptFlags::empty(), None).unwrap();
    let ram = memory(0x1000_0000, 16 * K4);
    let map = |change: &dyn Fn(&mut MapRequest), offset| {
        let mut request = FIXED;
        change(&mut request);
        by_id.ioas_map(&request, Arc::clone(&ram), offset)
    };
    let refused = |change: &dyn Fn(&mut MapRequest), offset| errno(map(change, offset));
    assert_eq!(refused(&|it| it.flags = 8, 0), Errno::EOPNOTSUPP);
    assert_eq!(refused(&|it| it.reserved = 1, 0), Errno::EOPNOTSUPP);
    assert_eq!(refused(&|it| it.iova = u64::MAX, 0), Errno::EOVERFLOW);
    let unfixed = |it: &mut MapRequest| (it.flags, it.iova) = (6, u64::MAX);
    assert_eq!(refused(&unfixed, 0), Errno::EOVERFLOW);
    assert_eq!(refused(&|it| it.length = u64::MAX, 0), Errno::EOVERFLOW);
    let mute = |it: &mut MapRequest| (it.flags, it.ioas) = (1, 99);
    assert_eq!(refused(&mute, 0), Errno::EINVAL, "before the look-up");
    assert_eq!(refused(&|it| it.ioas = 99, 0), Errno::ENOENT);
    assert_eq!(refused(&|_| {}, u64::MAX), Errno::EOVERFLOW, "the offset");
    assert_eq!(refused(&|it| it.length = 0, 0), Errno::EINVAL);
    assert_eq!(
        refused(&|it| it.length = 17 * K4, 0),
        Errno::EINVAL,
        "past its end"
    );
    assert_eq!(refused(&|it| it.length = 0x800, 0), Errno::EINVAL);
    assert_eq!(refused(&|it| it.iova = 0x800, 0), Errno::EINVAL);
    assert_eq!(
        refused(&|_| {}, 0x800),
        Errno::EINVAL,
        "the source's offset"
    );
    let high = |it: &mut MapRequest| it.iova = u64::MAX - 0xfff;
    assert_eq!(refused(&high, 0), Errno::EOVERFLOW);
    let aperture = |it: &mut MapRequest| it.iova = 1 << 48;
    assert_eq!(map(&aperture, 0), Err(Error::InReserved(1 << 48)));
    assert_eq!(refused(&aperture, 0), Errno::EINVAL, "reserved");

    assert_eq!(map(&|it| it.length = 2 * K4, 0), Ok(0x10_0000));
    assert_eq!(
        map(&|it| it.iova = 0x10_1000, 0),
        Err(Error::Occupied(0x10_1000))
    );
    assert_eq!(refused(&|it| it.iova = 0x10_1000, 0), Errno::EEXIST);
    // Read-only memory.
    let rom = Pieces::new(&[(0, K4)], false);
    let written = by_id.ioas_map(&MapRequest { iova: 0, ..FIXED }, rom.clone(), 0);
    assert_eq!(errno(written), Errno::EFAULT);
    let read = MapRequest {
        flags: 5,
        iova: 0,
        ..FIXED
    };
    assert_eq!(by_id.ioas_map(&read, rom, 0), Ok(0), "0 can be asked for");
}

#[test]
fn ioas_map_automatic_rows() {
    let world = World::new();
    let ioas = world.ioas();
    let driver = world.driver();
    let odd = memory(0x1000_0010, 2 * K4);
    // Before a table is there, the page offset of the source is kept.
    let at = ioas.map_anywhere(Arc::clone(&odd), 0, 0x20, RW).unwrap();
    assert_eq!(at.0 & 0xfff, 0x10);
    ioas.unmap_all().unwrap();
    let _hwpt = ioas.paging(&driver, HwptFlags::empty(), None).unwrap();
    let unaligned = ioas.map_anywhere(odd, 0, K4, RW);
    assert_eq!(
        errno(unaligned),
        Errno::EINVAL,
        "the alignment is below the space's"
    );
    let huge = Pieces::new(&[(0, 1 << 63)], true);
    let long = ioas.map_anywhere(huge, 0, 1 << 63, RW);
    assert_eq!(errno(long), Errno::EOVERFLOW);
    ioas.allow(&[(0x10_0000, 0x10_1fff)]).unwrap();
    let ram = memory(0, 16 * K4);
    let wide = ioas.map_anywhere(Arc::clone(&ram), 0, 4 * K4, RW);
    assert_eq!(errno(wide), Errno::ENOSPC);
    assert_eq!(ioas.map_anywhere(ram, 0, 2 * K4, RW), Ok(Iova(0x10_0000)));
}

#[test]
fn ioas_map_chooses_the_lowest_iova_that_suits_the_largest_blocks() {
    let world = World::new();
    let ioas = world.ioas();
    let four = memory(0x4000_0000, 4 * M2);
    let place = |offset, len| {
        ioas.map_anywhere(Arc::clone(&four), offset, len, RW)
            .unwrap()
            .0
    };
    // Never 0; aligned as its source and its length are.
    assert_eq!(place(0, K4), K4);
    assert_eq!(place(0, M2), M2);
    // The hole before the first block is too small, then its own alignment is that of its source.
    assert_eq!(place(K4, M2), 2 * M2);
    assert_eq!(place(M2, 2 * M2), 3 * M2);
    assert_eq!(place(0, 3 * K4), 4 * K4);
}

#[test]
fn ioas_map_efault_when_memory_cannot_be_pinned() {
    let world = World::new();
    let ioas = world.ioas();
    let ram = memory(0, K4);
    let before = world.snapshot();
    // The only step that pins fails.
    let mut seen = Vec::new();
    for n in 0..20 {
        let map = || ioas.map(Iova(0), Arc::clone(&ram), 0, K4, RW);
        let (result, failed) = super::super::room::inject::at(n, map);
        if !failed {
            break;
        }
        assert_eq!(world.snapshot(), before);
        seen.push(errno(result));
    }
    assert!(seen.contains(&Errno::EFAULT) && seen.contains(&Errno::ENOMEM));
}

#[test]
fn ioas_map_without_huge_pages_maps_pages() {
    let world = World::new();
    let ioas = world.ioas();
    ioas.set_huge_pages(false).unwrap();
    let hwpt = ioas
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    ioas.map(Iova(0), memory(M2, M2), 0, M2, RW).unwrap();
    assert_eq!(hwpt.walk(Iova(0x1234)), Some(Hpa(M2 + 0x1234)));
    let text = world.snapshot();
    assert!(text.contains("4096: (4096,"), "{text}");
}

#[test]
fn ioas_copy_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let (from, to) = (world.ioas(), world.ioas());
    from.map(Iova(0x1000), memory(0x9000, K4), 0, K4, RW)
        .unwrap();
    from.map(Iova(0x2000), memory(0x5000, K4), 0, K4, Access::READ)
        .unwrap();
    let request = MapRequest {
        flags: 5,
        ioas: to.id(),
        length: 2 * K4,
        iova: 0x8000,
        reserved: 0,
    };
    let copy = |request: MapRequest, at| by_id.ioas_copy(&request, from.id(), at);
    assert_eq!(
        errno(copy(
            MapRequest {
                flags: 9,
                ..request
            },
            0x1000
        )),
        Errno::EOPNOTSUPP
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                reserved: 9,
                ..request
            },
            0x1000
        )),
        Errno::EOPNOTSUPP
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                iova: u64::MAX,
                ..request
            },
            0x1000
        )),
        Errno::EOVERFLOW
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                length: u64::MAX,
                ..request
            },
            0x1000
        )),
        Errno::EOVERFLOW
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                flags: 1,
                ..request
            },
            0x1000
        )),
        Errno::EINVAL
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                length: 0,
                ..request
            },
            0x1000
        )),
        Errno::EINVAL
    );
    assert_eq!(errno(copy(request, u64::MAX - 5)), Errno::EOVERFLOW);
    assert_eq!(
        errno(by_id.ioas_copy(&request, 99, 0x1000)),
        Errno::ENOENT,
        "source"
    );
    assert_eq!(errno(copy(request, 0x2000)), Errno::ENOENT, "not covered");
    assert_eq!(errno(copy(request, 0)), Errno::ENOENT, "not covered");
    assert_eq!(
        errno(copy(
            MapRequest {
                ioas: 99,
                ..request
            },
            0x1000
        )),
        Errno::ENOENT,
        "destination"
    );
    assert_eq!(
        errno(copy(
            MapRequest {
                flags: 7,
                ..request
            },
            0x1000
        )),
        Errno::EPERM
    );
    assert_eq!(copy(request, 0x1000), Ok(0x8000));
    assert_eq!(errno(copy(request, 0x1000)), Errno::EEXIST);
    // A part of an area will do, also in the same space.
    assert_eq!(
        from.copy(None, &from, span(0x1800, 0x100), RW),
        Ok(Iova(0x3800))
    );
    let hwpt = to
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    assert_eq!(hwpt.walk(Iova(0x9004)), Some(Hpa(0x5004)));
    // The memory is shared: it outlives the mapping that it was copied from.
    drop(from);
    assert_eq!(hwpt.walk(Iova(0x8004)), Some(Hpa(0x9004)));
}

#[test]
fn ioas_unmap_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let id = ioas.id();
    let unmap = |iova, len| by_id.ioas_unmap(id, iova, len);
    assert_eq!(errno(unmap(u64::MAX, 1)), Errno::EOVERFLOW);
    assert_eq!(errno(unmap(1, u64::MAX)), Errno::EOVERFLOW);
    assert_eq!(errno(unmap(3, u64::MAX - 1)), Errno::EOVERFLOW);
    assert_eq!(errno(unmap(0, 0)), Errno::EINVAL);
    assert_eq!(errno(by_id.ioas_unmap(99, 0, K4)), Errno::ENOENT);
    assert_eq!(errno(unmap(0, K4)), Errno::ENOENT, "nothing in range");
    assert_eq!(unmap(0, u64::MAX), Ok(0), "everything, which is nothing");
    for at in [0x1000, 0x3000, 0x5000] {
        ioas.map(Iova(at), memory(at, 2 * K4), 0, 2 * K4, RW)
            .unwrap();
    }
    assert_eq!(unmap(0x2000, 0x1000), Err(Error::CutsArea(0x1000)));
    assert_eq!(
        errno(unmap(0x1000, 0x3000)),
        Errno::ENOENT,
        "cuts the second"
    );
    let access = ioas.access().unwrap();
    access.pin(span(0x3800, 0x10), true).unwrap();
    assert!(!access.wanted());
    assert_eq!(errno(unmap(0, 0x10_0000)), Errno::EDEADLK);
    assert!(access.wanted());
    access.unpin(span(0x3800, 0x10)).unwrap();
    assert!(!access.wanted());
    assert_eq!(unmap(0x1000, 0x5000), Err(Error::CutsArea(0x5000)));
    assert_eq!(unmap(0x1000, 0x4000), Ok(0x4000));
    assert_eq!(unmap(0, u64::MAX), Ok(0x2000));
}

#[test]
fn ioas_unmap_flushes_each_run_once_and_keeps_doorbells() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device(1);
    device.attach(0, &ioas).unwrap();
    ioas.set_message_window(Iova(0x10_0000), Iova(0x10_0fff))
        .unwrap();
    let door = ioas.doorbell(Hpa(0x808_0040)).unwrap();
    assert_eq!(door, Iova(0x10_0040));
    for at in [0x1000, 0x2000, 0x3000, 0x20_0000] {
        ioas.map(Iova(at), memory(at, K4), 0, K4, RW).unwrap();
    }
    world.mock.state().flushes.clear();
    assert_eq!(ioas.unmap_all(), Ok(4 * K4));
    assert_eq!(world.mock.state().flushes.len(), 2, "two runs");
    assert_eq!(ioas.doorbell(Hpa(0x808_0000)), Ok(Iova(0x10_0000)));
}

#[test]
fn ioas_unmap_that_caches_will_not_forget_keeps_the_memory() {
    let world = World::new();
    let ioas = world.ioas();
    let device = world.device(1);
    device.attach(0, &ioas).unwrap();
    let ram = Pieces::whole(0x9000, K4);
    ioas.map(Iova(0), ram.clone(), 0, K4, RW).unwrap();
    world.mock.state().flush_fails = true;
    assert_eq!(errno(ioas.unmap_all()), Errno::EIO);
    assert_eq!(*ram.pins.lock().unwrap(), 1);
    assert_eq!(
        errno(ioas.map(Iova(0), ram.clone(), 0, K4, RW)),
        Errno::EEXIST
    );
    assert_eq!(
        errno(ioas.copy(None, &ioas, span(0, K4), RW)),
        Errno::ENOENT
    );
    assert_eq!(errno(ioas.unmap_all()), Errno::EIO);
    world.mock.state().flush_fails = false;
    assert_eq!(ioas.unmap_all(), Ok(K4));
    assert_eq!(*ram.pins.lock().unwrap(), 0);
}
