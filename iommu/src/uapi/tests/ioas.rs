//! Address spaces: each row of the errors of each request, and what it does when there is none.

use super::{BASE, Errno, K4, MAPPABLE, World, argument, field};

const MAX: u64 = u64::MAX;

#[test]
fn destroy() {
    let mut world = World::new();
    let ioas = world.ioas();
    let hwpt = world.hwpt(ioas, 1);
    let device = world.id();
    for (id, errno) in [
        (999, Errno::ENOENT),
        (0, Errno::ENOENT),
        (ioas, Errno::EBUSY),
        (device, Errno::EBUSY),
    ] {
        assert_eq!(world.errno(0x3b80, 8, &[(4, 4, id)]), errno, "{id}");
    }
    world.done(0x3b80, 8, &[(4, 4, hwpt)]);
    world.done(0x3b80, 8, &[(4, 4, ioas)]);
    assert_eq!(world.errno(0x3b80, 8, &[(4, 4, ioas)]), Errno::ENOENT);
    assert_eq!(world.errno(0x3b81, 12, &[(4, 4, 1)]), Errno::EOPNOTSUPP);
}

#[test]
fn allowed_ranges() {
    let mut world = World::new();
    let ioas = world.ioas();
    let put = |world: &mut World, ranges: &[(u64, u64)]| {
        let words = ranges.iter().flat_map(|(first, last)| [*first, *last]);
        let bytes: alloc::vec::Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        world.store(BASE, &bytes);
        let count = ranges.len() as u64;
        [(4, 4, ioas), (8, 4, count), (16, 8, BASE)]
    };
    let fields = put(&mut world, &[(0x1000, 0x1fff), (0x8000, 0xffff)]);
    world.done(0x3b82, 24, &fields);
    for (ranges, errno) in [
        (&[(0x1000, 0x1000)][..], Errno::EINVAL),
        (&[(0x2000, 0x1fff)], Errno::EINVAL),
        (&[(0x1000, 0x2fff), (0x2000, 0x3fff)], Errno::EINVAL),
    ] {
        let fields = put(&mut world, ranges);
        assert_eq!(world.errno(0x3b82, 24, &fields), errno);
    }
    let [id, count, at] = put(&mut world, &[(0x1000, 0x1fff)]);
    for (fields, errno) in [
        ([id, count, at, (12, 4, 1)], Errno::EOPNOTSUPP),
        ([(4, 4, 99), count, at, (12, 4, 0)], Errno::ENOENT),
        ([id, count, (16, 8, 4), (12, 4, 0)], Errno::EFAULT),
        ([id, (8, 4, 4097), at, (12, 4, 0)], Errno::ENOMEM),
    ] {
        assert_eq!(world.errno(0x3b82, 24, &fields), errno);
    }
    // None clears the list.
    world.done(0x3b82, 24, &[id]);
    // A table reserves what is past it, which cannot be allowed then.
    world.hwpt(ioas, 0);
    let fields = put(&mut world, &[(0x1000, 1 << 60)]);
    assert_eq!(world.errno(0x3b82, 24, &fields), Errno::EADDRINUSE);
}

#[test]
fn ranges() {
    let mut world = World::new();
    let ioas = world.ioas();
    world.hwpt(ioas, 0);
    let fields = [(4, 4, ioas), (8, 4, 2), (16, 8, BASE)];
    let bytes = world.done(0x3b84, 32, &fields);
    assert_eq!((field(&bytes, 8, 4), field(&bytes, 24, 8)), (1, K4));
    let range = world.load(BASE, 16);
    let range = (field(&range, 0, 8), field(&range, 8, 8));
    assert_eq!(range, (0, (1 << 48) - 1));
    // Too little room: the number is told all the same.
    let (result, bytes) = world.ask(0x3b84, argument(32, &[(4, 4, ioas)]));
    assert_eq!((result, field(&bytes, 8, 4)), (Err(Errno::EMSGSIZE), 1));
    let [id, count, _] = fields;
    let reserved = [id, (12, 4, 1)];
    assert_eq!(world.errno(0x3b84, 32, &reserved), Errno::EOPNOTSUPP);
    assert_eq!(world.errno(0x3b84, 32, &[]), Errno::ENOENT);
    assert_eq!(world.errno(0x3b84, 32, &[id, count]), Errno::EFAULT);
}

#[test]
fn map() {
    let mut world = World::new();
    let ioas = world.ioas();
    world.hwpt(ioas, 1);
    world.map(ioas, 0x10_0000, K4);
    let good = [7, ioas, 0, MAPPABLE, K4, 0x20_0000];
    let with = |at: usize, value: u64| {
        let mut values = good;
        values[at] = value;
        let fields = [(4, 4), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8)];
        core::array::from_fn::<_, 6, _>(|at| (fields[at].0, fields[at].1, values[at]))
    };
    for (at, value, errno) in [
        (0, 15, Errno::EOPNOTSUPP),
        (2, 1, Errno::EOPNOTSUPP),
        (5, MAX, Errno::EOVERFLOW),
        (4, MAX, Errno::EOVERFLOW),
        (0, 1, Errno::EINVAL),
        (1, 99, Errno::ENOENT),
        (3, MAX - 5, Errno::EOVERFLOW),
        (4, 0, Errno::EINVAL),
        (3, 0x10, Errno::EFAULT),
        (4, K4 + 1, Errno::EINVAL),
        (5, 0x20_0010, Errno::EINVAL),
        (3, MAPPABLE + 8, Errno::EINVAL),
        (5, 1 << 48, Errno::EINVAL),
        (5, 0x10_0000, Errno::EEXIST),
    ] {
        let refused = world.errno(0x3b85, 40, &with(at, value));
        assert_eq!(refused, errno, "{at}: {value:#x}");
    }
    // The end of the space, past what a table reserves.
    let other = world.ioas();
    let mut top = with(1, other);
    top[5].2 = MAX - 0xfff;
    top[4].2 = 2 * K4;
    assert_eq!(world.errno(0x3b85, 40, &top), Errno::EOVERFLOW);
    // An IOVA of ours.
    let bytes = world.done(0x3b85, 40, &with(0, 6));
    assert_eq!(field(&bytes, 32, 8) % K4, 0);
    assert_ne!(field(&bytes, 32, 8), 0x20_0000);
    let anywhere = with(0, 6);
    let list = [(0x50_0000u64, 0x50_0fffu64)];
    let bytes = list.map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()].concat());
    world.store(BASE, &bytes[0]);
    world.done(0x3b82, 24, &[(4, 4, ioas), (8, 4, 1), (16, 8, BASE)]);
    let bytes = world.done(0x3b85, 40, &anywhere);
    assert_eq!(field(&bytes, 32, 8), 0x50_0000);
    assert_eq!(world.errno(0x3b85, 40, &anywhere), Errno::ENOSPC);
}

#[test]
fn map_file() {
    let mut world = World::new();
    let ioas = world.ioas();
    let fields = |fd, start, length, flags| {
        [
            (4, 4, flags),
            (8, 4, ioas),
            (12, 4, fd),
            (16, 8, start),
            (24, 8, length),
            (32, 8, 0x1000),
        ]
    };
    for (fields, errno) in [
        (fields(3, 0, K4, 8), Errno::EOPNOTSUPP),
        (fields(4, 0, K4, 7), Errno::EBADF),
        (fields(u64::from(u32::MAX), 0, K4, 7), Errno::EBADF),
        (fields(3, 0, 0, 7), Errno::EINVAL),
        (fields(3, 3 * K4, 2 * K4, 7), Errno::EINVAL),
        (fields(3, MAX - 1, K4, 7), Errno::EOVERFLOW),
    ] {
        assert_eq!(world.errno(0x3b8f, 40, &fields), errno, "{fields:x?}");
    }
    let bytes = world.done(0x3b8f, 40, &fields(3, K4, 3 * K4, 7));
    assert_eq!(field(&bytes, 32, 8), 0x1000);
}

#[test]
fn copy_and_unmap() {
    let mut world = World::new();
    let (from, to) = (world.ioas(), world.ioas());
    world.map(from, 0x1000, 2 * K4);
    let copy = |flags, to, from, length, at, source| {
        [
            (4, 4, flags),
            (8, 4, to),
            (12, 4, from),
            (16, 8, length),
            (24, 8, at),
            (32, 8, source),
        ]
    };
    for (fields, errno) in [
        (copy(8, to, from, K4, 0x8000, 0x1000), Errno::EOPNOTSUPP),
        (copy(7, to, from, MAX, 0x8000, 0x1000), Errno::EOVERFLOW),
        (copy(1, to, from, K4, 0x8000, 0x1000), Errno::EINVAL),
        (copy(7, to, from, 0, 0x8000, 0x1000), Errno::EINVAL),
        (copy(7, to, 99, K4, 0x8000, 0x1000), Errno::ENOENT),
        (copy(7, 99, from, K4, 0x8000, 0x1000), Errno::ENOENT),
        (copy(7, to, from, 3 * K4, 0x8000, 0x1000), Errno::ENOENT),
        (copy(7, from, from, K4, 0x1000, 0x1000), Errno::EEXIST),
    ] {
        assert_eq!(world.errno(0x3b83, 40, &fields), errno, "{fields:x?}");
    }
    let bytes = world.done(0x3b83, 40, &copy(5, to, from, 2 * K4, 0x8000, 0x1000));
    assert_eq!(field(&bytes, 24, 8), 0x8000);
    // What was mapped to be read is not copied to be written.
    let fields = copy(7, to, to, K4, 0x2_0000, 0x8000);
    assert_eq!(world.errno(0x3b83, 40, &fields), Errno::EPERM);
    let unmap = |ioas, iova, length| [(4, 4, ioas), (8, 8, iova), (16, 8, length)];
    for (fields, errno) in [
        (unmap(to, MAX, K4), Errno::EOVERFLOW),
        (unmap(to, 8, MAX), Errno::EOVERFLOW),
        (unmap(to, MAX - 1, K4), Errno::EOVERFLOW),
        (unmap(to, 0x8000, 0), Errno::EINVAL),
        (unmap(99, 0x8000, K4), Errno::ENOENT),
        (unmap(to, 0x1000, K4), Errno::ENOENT),
        (unmap(to, 0x8000, K4), Errno::ENOENT),
    ] {
        assert_eq!(world.errno(0x3b86, 24, &fields), errno, "{fields:x?}");
    }
    let bytes = world.done(0x3b86, 24, &unmap(to, 0, 0x10_0000));
    assert_eq!(field(&bytes, 16, 8), 2 * K4);
    for bytes in [2 * K4, 0] {
        let all = world.done(0x3b86, 24, &unmap(from, 0, MAX));
        assert_eq!(field(&all, 16, 8), bytes);
    }
}

#[test]
fn options_and_what_is_about_processes() {
    let mut world = World::new();
    let ioas = world.ioas();
    let option = |id, op, reserved, object, value| {
        [
            (4, 4, id),
            (8, 2, op),
            (10, 2, reserved),
            (12, 4, object),
            (16, 8, value),
        ]
    };
    let bytes = world.done(0x3b87, 24, &option(1, 1, 0, ioas, 7));
    assert_eq!(field(&bytes, 16, 8), 1);
    world.done(0x3b87, 24, &option(1, 0, 0, ioas, 0));
    let bytes = world.done(0x3b87, 24, &option(1, 1, 0, ioas, 7));
    assert_eq!(field(&bytes, 16, 8), 0);
    for (fields, errno) in [
        (option(1, 1, 1, ioas, 0), Errno::EOPNOTSUPP),
        (option(2, 1, 0, ioas, 0), Errno::EOPNOTSUPP),
        (option(1, 2, 0, ioas, 0), Errno::EOPNOTSUPP),
        (option(0, 0, 0, ioas, 0), Errno::EOPNOTSUPP),
        (option(1, 1, 0, 99, 0), Errno::ENOENT),
        (option(1, 0, 0, ioas, 2), Errno::EINVAL),
    ] {
        assert_eq!(world.errno(0x3b87, 24, &fields), errno, "{fields:x?}");
    }
    let vfio = |ioas, op, reserved| [(4, 4, ioas), (8, 2, op), (10, 2, reserved)];
    for (fields, errno) in [
        (vfio(0, 0, 0), Errno::ENODEV),
        (vfio(99, 1, 0), Errno::ENOENT),
        (vfio(ioas, 1, 0), Errno::EOPNOTSUPP),
        (vfio(0, 3, 0), Errno::EOPNOTSUPP),
        (vfio(0, 2, 1), Errno::EOPNOTSUPP),
    ] {
        assert_eq!(world.errno(0x3b88, 12, &fields), errno, "{fields:x?}");
    }
    world.done(0x3b88, 12, &vfio(0, 2, 0));
    assert_eq!(world.errno(0x3b92, 8, &[]), Errno::EOPNOTSUPP);
    assert_eq!(world.errno(0x3b95, 40, &[(8, 4, ioas)]), Errno::EPERM);
}
