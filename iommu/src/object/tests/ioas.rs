//! Address spaces: their ranges, each row of OPTION and of the dirty commands, and doorbells.

use alloc::vec;

use super::super::Errno;
use super::super::driver::{HwptFlags, ReservedKind};
use super::{Access, K4, RW, World, errno, memory, region, span};
use crate::addr::{Hpa, Iova};

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
