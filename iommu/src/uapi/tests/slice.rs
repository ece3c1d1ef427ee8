//! Slices and their queues: each row of the errors of each request, and what it does when there is none.

use super::{Errno, K4, World};

const MAX: u64 = u64::MAX;

#[test]
fn slices_and_names() {
    let mut world = World::new();
    let (ioas, parent, slice) = world.slice();
    let plain = world.hwpt(ioas, 0);
    let device = world.id();
    let viommu = |flags, kind, device, hwpt, len, reserved| {
        [
            (4, 4, flags),
            (8, 4, kind),
            (12, 4, device),
            (16, 4, hwpt),
            (24, 4, len),
            (28, 4, reserved),
            (32, 8, 8),
        ]
    };
    let kind = 0xdead_beef;
    for (fields, errno) in [
        (viommu(1, kind, device, parent, 0, 0), Errno::EOPNOTSUPP),
        (viommu(0, kind, device, parent, 0, 1), Errno::EOPNOTSUPP),
        (viommu(0, 0, device, parent, 0, 0), Errno::EOPNOTSUPP),
        (viommu(0, 1, device, parent, 0, 0), Errno::EOPNOTSUPP),
        (viommu(0, kind, 99, parent, 0, 0), Errno::ENOENT),
        (viommu(0, kind, device, ioas, 0, 0), Errno::ENOENT),
        (viommu(0, kind, device, plain, 0, 0), Errno::EINVAL),
        (viommu(0, kind, device, parent, 8, 0), Errno::EFAULT),
        (viommu(0, kind, device, parent, 4097, 0), Errno::EINVAL),
    ] {
        assert_eq!(world.errno(0x3b90, 40, &fields), errno, "{fields:x?}");
    }
    let name = |viommu, device, name| [(4, 4, viommu), (8, 4, device), (16, 8, name)];
    world.done(0x3b91, 24, &name(slice, device, 7));
    let other = super::bind(&world.context, &world.mock, 2);
    let second = other.id().into();
    let elsewhere = super::bind(&world.context, &super::Mock::new(1), 3);
    for (fields, errno) in [
        (name(parent, second, 8), Errno::ENOENT),
        (name(slice, 99, 8), Errno::ENOENT),
        (name(slice, elsewhere.id().into(), 8), Errno::EINVAL),
        (name(slice, device, 8), Errno::EEXIST),
        (name(slice, second, 7), Errno::EEXIST),
        (name(slice, second, 1 << 20), Errno::EINVAL),
    ] {
        assert_eq!(world.errno(0x3b91, 24, &fields), errno, "{fields:x?}");
    }
}

#[test]
fn event_and_hardware_queues() {
    let mut world = World::new();
    let (ioas, _, slice) = world.slice();
    world.map(ioas, 0x10_0000, 4 * K4);
    let events = |flags, viommu, kind, depth, reserved| {
        [
            (4, 4, flags),
            (8, 4, viommu),
            (12, 4, kind),
            (16, 4, depth),
            (28, 4, reserved),
        ]
    };
    let kind = 0xbeef_beef;
    for (fields, errno) in [
        (events(1, slice, kind, 4, 0), Errno::EOPNOTSUPP),
        (events(0, slice, kind, 4, 1), Errno::EOPNOTSUPP),
        (events(0, slice, 0, 4, 0), Errno::EOPNOTSUPP),
        (events(0, slice, 1, 4, 0), Errno::EOPNOTSUPP),
        (events(0, slice, kind, 0, 0), Errno::EINVAL),
        (events(0, slice, kind, (1 << 19) + 1, 0), Errno::EINVAL),
        (events(0, ioas, kind, 4, 0), Errno::ENOENT),
    ] {
        assert_eq!(world.errno(0x3b93, 32, &fields), errno, "{fields:x?}");
    }
    world.done(0x3b93, 32, &events(0, slice, kind, 4, 0));
    let again = events(0, slice, kind, 4, 0);
    assert_eq!(world.errno(0x3b93, 32, &again), Errno::EEXIST);
    assert_eq!(world.errno(0x3b8e, 16, &[(4, 4, 1)]), Errno::EOPNOTSUPP);
    let queue = |flags, viommu, kind, index, base, length| {
        [
            (4, 4, flags),
            (8, 4, viommu),
            (12, 4, kind),
            (16, 4, index),
            (24, 8, base),
            (32, 8, length),
        ]
    };
    let kind = 0xdead_beef;
    for (fields, errno) in [
        (queue(1, slice, kind, 0, 0x10_0000, K4), Errno::EOPNOTSUPP),
        (queue(0, slice, 0, 0, 0x10_0000, K4), Errno::EOPNOTSUPP),
        (queue(0, slice, 1, 0, 0x10_0000, K4), Errno::EOPNOTSUPP),
        (queue(0, slice, kind, 0, 0x10_0000, 0), Errno::EINVAL),
        (queue(0, slice, kind, 0, MAX, 2), Errno::EOVERFLOW),
        (queue(0, ioas, kind, 0, 0x10_0000, K4), Errno::ENOENT),
        (queue(0, slice, kind, 0, 0x20_0000, K4), Errno::ENOENT),
        (queue(0, slice, kind, 9, 0x10_0000, K4), Errno::EINVAL),
        (queue(0, slice, kind, 1, 0x10_0000, K4), Errno::EIO),
    ] {
        assert_eq!(world.errno(0x3b94, 40, &fields), errno, "{fields:x?}");
    }
    world.done(0x3b94, 40, &queue(0, slice, kind, 0, 0x10_0000, K4));
    let again = queue(0, slice, kind, 0, 0x10_0000, K4);
    assert_eq!(world.errno(0x3b94, 40, &again), Errno::EEXIST);
    // What the hardware reads stays mapped.
    let unmap = [(4, 4, ioas), (8, 8, 0x10_0000), (16, 8, 4 * K4)];
    assert_eq!(world.errno(0x3b86, 24, &unmap), Errno::EBUSY);
}
