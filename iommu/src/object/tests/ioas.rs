//! Address spaces: each row of IOAS_*, OPTION and the dirty commands, where automatic IOVAs go, and doorbells.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::super::by_id::MapRequest;
use super::super::driver::{HwptFlags, ReservedKind};
use super::super::mock::Pieces;
use super::super::{Errno, Error};
use super::{Access, K4, M2, RW, World, errno, memory, region, span};
use crate::addr::{Hpa, Iova};

const FIXED: MapRequest = MapRequest {
    flags: 7,
    ioas: 1,
    reserved: 0,
    length: K4,
    iova: 0x10_0000,
};

#[test]
fn ioas_alloc_eopnotsupp_flags() {
    let world = World::new();
    assert_eq!(
        errno(world.context.by_id().ioas_alloc(1)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(world.context.by_id().ioas_alloc(0), Ok(1));
}

#[test]
fn ioas_allow_iovas_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let allow = |ranges: &[(u64, u64)]| ioas.allow(ranges);
    let reserved = by_id.ioas_allow_iovas(ioas.id(), 1, &[]);
    assert_eq!(errno(reserved), Errno::EOPNOTSUPP);
    assert_eq!(errno(by_id.ioas_allow_iovas(77, 0, &[])), Errno::ENOENT);
    // A one-byte range, a backward one, two that overlap, also out of order.
    assert_eq!(errno(allow(&[(5, 5)])), Errno::EINVAL);
    assert_eq!(errno(allow(&[(6, 5)])), Errno::EINVAL);
    assert_eq!(errno(allow(&[(0, 10), (10, 20)])), Errno::EINVAL);
    assert_eq!(errno(allow(&[(10, 20), (0, 10)])), Errno::EINVAL);
    assert_eq!(allow(&[(0x10_0000, 0x1f_ffff)]), Ok(()));

    let device = world.device_like(1, |info| {
        info.reserved = const { &[region(0x80_0000, 0x8f_ffff, ReservedKind::Reserved)] };
    });
    device.attach(0, &ioas).unwrap();
    assert_eq!(errno(allow(&[(0x8f_ffff, 0x90_0000)])), Errno::EADDRINUSE);
    // The old list is kept.
    let at = ioas.map_anywhere(memory(0, K4), 0, K4, RW);
    assert_eq!(at, Ok(Iova(0x10_0000)));
    assert_eq!(allow(&[]), Ok(()));
    let at = ioas.map_anywhere(memory(0x5000, K4), 0, K4, RW);
    assert_eq!(at, Ok(Iova(K4)));
}

#[test]
fn ioas_iova_ranges_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    assert_eq!(
        errno(by_id.ioas_iova_ranges(ioas.id(), 1, &mut [])),
        Errno::EOPNOTSUPP
    );
    assert_eq!(errno(by_id.ioas_iova_ranges(9, 0, &mut [])), Errno::ENOENT);
    assert_eq!(ioas.ranges(&mut []), Ok((1, 1)));
    let device = world.device_like(1, |info| {
        info.reserved = const {
            &[
                region(0x8000, 0x8fff, ReservedKind::Reserved),
                region(0x8800, 0x9fff, ReservedKind::Msi),
                region(0, 0xfff, ReservedKind::Direct),
                region(0x4000, 0x4fff, ReservedKind::DirectRelaxable),
            ]
        };
    });
    device.attach(0, &ioas).unwrap();
    // EMSGSIZE to a caller outside: fewer places than ranges; the first are filled, the number is there.
    let mut ranges = [(0, 0); 1];
    assert_eq!(ioas.ranges(&mut ranges), Ok((K4, 2)));
    assert_eq!(ranges, [(0x1000, 0x7fff)]);
    let mut ranges = [(0, 0); 4];
    assert_eq!(ioas.ranges(&mut ranges), Ok((K4, 2)));
    // The end is the table's: 48 bits.
    assert_eq!(ranges[1], (0xa000, (1 << 48) - 1));
    device.detach(0).unwrap();
    assert_eq!(ioas.ranges(&mut ranges), Ok((1, 1)));
    assert_eq!(ranges[0], (0, u64::MAX));
}

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

#[test]
fn option_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let id = ioas.id();
    assert_eq!(errno(by_id.option(1, id, 1, None)), Errno::EOPNOTSUPP);
    assert_eq!(
        errno(by_id.option(0, 0, 0, None)),
        Errno::EOPNOTSUPP,
        "no memory limit here"
    );
    assert_eq!(errno(by_id.option(2, id, 0, None)), Errno::EOPNOTSUPP);
    assert_eq!(errno(by_id.option(1, 99, 0, None)), Errno::ENOENT);
    assert_eq!(errno(by_id.option(1, id, 0, Some(2))), Errno::EINVAL);
    assert_eq!(by_id.option(1, id, 0, None), Ok(1));
    ioas.map(Iova(0x100), memory(0x100, K4), 0, 0x20, RW)
        .unwrap();
    assert_eq!(errno(by_id.option(1, id, 0, Some(0))), Errno::EADDRINUSE);
    ioas.unmap_all().unwrap();
    let hwpt = ioas
        .paging(&world.driver(), HwptFlags::empty(), None)
        .unwrap();
    assert_eq!(by_id.option(1, id, 0, Some(0)), Ok(0));
    assert_eq!(by_id.option(1, id, 0, Some(1)), Ok(1));
    ioas.map(Iova(0), memory(0, K4), 0, K4, RW).unwrap();
    assert_eq!(
        errno(by_id.option(1, id, 0, Some(0))),
        Errno::EINVAL,
        "tables and areas"
    );
    drop(hwpt);
    assert_eq!(by_id.option(1, id, 0, Some(0)), Ok(0));
    assert_eq!(ioas.ranges(&mut []), Ok((K4, 1)), "pages only");
}

#[test]
fn hwpt_dirty_rows() {
    let world = World::new();
    let by_id = world.context.by_id();
    let ioas = world.ioas();
    let driver = world.driver();
    let plain = ioas.paging(&driver, HwptFlags::empty(), None).unwrap();
    let hwpt = ioas
        .paging(&driver, HwptFlags::DIRTY_TRACKING, None)
        .unwrap();
    let set = |flags, id, reserved| by_id.set_dirty_tracking(flags, id, reserved);
    assert_eq!(errno(set(2, hwpt.id(), 0)), Errno::EOPNOTSUPP);
    assert_eq!(
        errno(set(1, hwpt.id(), 1)),
        Errno::EOPNOTSUPP,
        "checked here"
    );
    assert_eq!(errno(set(1, plain.id(), 0)), Errno::EOPNOTSUPP);
    assert_eq!(errno(set(1, ioas.id(), 0)), Errno::ENOENT);
    assert_eq!(set(1, hwpt.id(), 0), Ok(()));

    ioas.map(Iova(0), memory(0, 8 * K4), 0, 8 * K4, RW).unwrap();
    ioas.map(Iova(0x8000), memory(0x10_0000, K4), 0, K4, Access::READ)
        .unwrap();
    let get = |head, range, page_size| {
        let mut words = vec![0; 1];
        by_id
            .get_dirty_bitmap(head, range, page_size, &mut words)
            .map(|()| words[0])
    };
    let id = hwpt.id();
    assert_eq!(errno(get((2, id, 0), span(0, K4), K4)), Errno::EOPNOTSUPP);
    assert_eq!(errno(get((0, id, 1), span(0, K4), K4)), Errno::EOPNOTSUPP);
    assert_eq!(
        errno(get((0, plain.id(), 0), span(0, K4), K4)),
        Errno::EOPNOTSUPP
    );
    assert_eq!(errno(get((0, 99, 0), span(0, K4), K4)), Errno::ENOENT);
    assert_eq!(errno(get((0, id, 0), span(0, 0), K4)), Errno::EINVAL);
    assert_eq!(errno(get((0, id, 0), span(0, K4), 0)), Errno::EINVAL);
    assert_eq!(errno(get((0, id, 0), span(0x800, K4), K4)), Errno::EINVAL);
    assert_eq!(errno(get((0, id, 0), span(0, 0x1800), K4)), Errno::EINVAL);
    assert_eq!(
        errno(get((0, id, 0), span(0x1000, K4), 0x2000)),
        Errno::EINVAL
    );
    assert_eq!(
        errno(get((0, id, 0), span(u64::MAX - 0xfff, K4), K4)),
        Errno::EOVERFLOW
    );
    // Linux answers 0 here and says nothing of the hole.
    assert_eq!(
        errno(get((0, id, 0), span(0x8000, 2 * K4), K4)),
        Errno::ENOENT
    );
    assert_eq!(get((0, id, 0), span(0, 9 * K4), K4), Ok(0xff));
    assert_eq!(get((1, id, 0), span(0x2000, 4 * K4), 0x2000), Ok(3));
}

#[test]
fn message_windows_are_chosen_and_do_not_meet_mappings() {
    let world = World::new();
    let ioas = world.ioas();
    assert_eq!(errno(ioas.doorbell(Hpa(0))), Errno::EINVAL, "no window");
    ioas.map(Iova(0x5000), memory(0, K4), 0, K4, RW).unwrap();
    let window = |first, last| ioas.set_message_window(Iova(first), Iova(last));
    assert_eq!(errno(window(0x800, 0x17ff)), Errno::EINVAL);
    assert_eq!(errno(window(0x1000, 0x17ff)), Errno::EINVAL);
    assert_eq!(errno(window(0x4000, 0x5fff)), Errno::EADDRINUSE);
    assert_eq!(window(0x1000, 0x1fff), Ok(()));
    assert_eq!(
        window(0x1000, 0x2fff),
        Ok(()),
        "it may grow while it is empty"
    );
    let inside = ioas.map(Iova(0x2000), memory(0, K4), 0, K4, RW);
    assert_eq!(errno(inside), Errno::EINVAL);
    ioas.doorbell(Hpa(0x1234)).unwrap();
    assert_eq!(errno(window(0x8000, 0x8fff)), Errno::EADDRINUSE);
}
