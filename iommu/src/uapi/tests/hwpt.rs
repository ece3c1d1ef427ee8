//! Page tables and the hardware: each row of the errors of each request, and what it does when there is none.

use super::{BASE, Errno, K4, World, argument, field};

const MAX: u64 = u64::MAX;

#[test]
fn hwpt_alloc() {
    let mut world = World::new();
    let (ioas, parent, slice) = world.slice();
    let device = world.id();
    let plain = world.hwpt(ioas, 0);
    world.store(BASE, &0x4000u64.to_le_bytes());
    world.store(BASE + 8, &MAX.to_le_bytes());
    let fields = |flags, device, pt, data: (u64, u64, u64), fault, reserved: (u64, u64)| {
        [
            (4, 4, flags),
            (8, 4, device),
            (12, 4, pt),
            (20, 4, reserved.0),
            (24, 4, data.0),
            (28, 4, data.1),
            (32, 8, data.2),
            (40, 4, fault),
            (44, 4, reserved.1),
        ]
    };
    let (none, nested) = ((0, 0, 0), (0xdead, 8, BASE));
    let ok = (0, 0);
    for (fields, errno) in [
        (fields(0, device, ioas, none, 0, (1, 0)), Errno::EOPNOTSUPP),
        (fields(0, device, ioas, none, 0, (0, 1)), Errno::EOPNOTSUPP),
        (fields(0, device, ioas, (0, 8, BASE), 0, ok), Errno::EINVAL),
        (
            fields(0, device, slice, (0xdead, 0, 0), 0, ok),
            Errno::EINVAL,
        ),
        (
            fields(0, device, slice, (0xdead, 4097, BASE), 0, ok),
            Errno::EINVAL,
        ),
        (
            fields(0, device, slice, (0xdead, 8, 8), 0, ok),
            Errno::EFAULT,
        ),
        (fields(0, 99, ioas, none, 0, ok), Errno::ENOENT),
        (fields(4, device, ioas, none, 99, ok), Errno::ENOENT),
        (fields(0, device, 99, none, 0, ok), Errno::EINVAL),
        (fields(0, device, device, none, 0, ok), Errno::EINVAL),
        // An address space.
        (fields(16, device, ioas, none, 0, ok), Errno::EOPNOTSUPP),
        (fields(5, device, ioas, none, 0, ok), Errno::EOPNOTSUPP),
        (
            fields(0, device, ioas, (2, 8, BASE), 0, ok),
            Errno::EOPNOTSUPP,
        ),
        // A table.
        (fields(1, device, parent, nested, 0, ok), Errno::EOPNOTSUPP),
        (fields(0, device, parent, none, 0, ok), Errno::EOPNOTSUPP),
        (fields(0, device, parent, nested, 0, ok), Errno::EOPNOTSUPP),
        (fields(0, device, plain, nested, 0, ok), Errno::EINVAL),
        // A slice.
        (fields(2, device, slice, nested, 0, ok), Errno::EOPNOTSUPP),
        (fields(0, device, slice, none, 0, ok), Errno::EOPNOTSUPP),
        (fields(0, device, slice, (2, 8, BASE), 0, ok), Errno::EINVAL),
        (
            fields(0, device, slice, (0xdead, 7, BASE), 0, ok),
            Errno::EINVAL,
        ),
        (
            fields(0, device, slice, (0xdead, 8, BASE + 8), 0, ok),
            Errno::EIO,
        ),
    ] {
        assert_eq!(world.errno(0x3b89, 48, &fields), errno, "{fields:x?}");
    }
    let made = world.done(0x3b89, 48, &fields(0, device, slice, nested, 0, ok));
    // On a nested one there is nothing.
    let id = field(&made, 16, 4);
    let fields = fields(0, device, id, nested, 0, ok);
    assert_eq!(world.errno(0x3b89, 48, &fields), Errno::EINVAL);
    // Behind another IOMMU.
    let other = super::Mock::new(1);
    let other = super::bind(&world.context, &other, 2);
    let mut elsewhere = fields;
    (elsewhere[1].2, elsewhere[2].2) = (other.id().into(), slice);
    assert_eq!(world.errno(0x3b89, 48, &elsewhere), Errno::EINVAL);
}

#[test]
fn hardware_information() {
    let mut world = World::new();
    let device = world.id();
    world.store(BASE, &[0xff; 32]);
    let fields = |flags, device, len, kind, reserved| {
        [
            (4, 4, flags),
            (8, 4, device),
            (12, 4, len),
            (16, 8, BASE),
            (24, 4, kind),
            (29, 1, reserved),
        ]
    };
    // The length is the description's own; what is longer gets zeros, what is shorter a part.
    let bytes = world.done(0x3b8a, 40, &fields(0, device, 16, 0x1234, 0));
    assert_eq!(
        (field(&bytes, 12, 4), field(&bytes, 24, 4)),
        (8, 0xfeed_beef)
    );
    assert_eq!((bytes[28], field(&bytes, 32, 8)), (20, 1 | 8));
    let seen = world.load(BASE, 24);
    assert_eq!((field(&seen, 0, 8), field(&seen, 8, 8)), (0x5e1f, 0));
    assert_eq!(field(&seen, 16, 8), MAX, "not past the caller's length");
    world.store(BASE, &[0xff; 8]);
    let bytes = world.done(0x3b8a, 40, &fields(1, device, 1, 0xfeed_beef, 0));
    assert_eq!(field(&bytes, 12, 4), 8);
    let seen = world.load(BASE, 8);
    assert_eq!(field(&seen, 0, 8), !0xff | 0x1f);
    // No memory is looked at where none is given.
    let bytes = world.done(0x3b8a, 40, &[(8, 4, device), (16, 8, 8)]);
    assert_eq!(field(&bytes, 12, 4), 8);
    for (fields, errno) in [
        (fields(2, device, 8, 0, 0), Errno::EOPNOTSUPP),
        (fields(0, device, 8, 0, 1), Errno::EOPNOTSUPP),
        (fields(1, device, 8, 2, 0), Errno::EOPNOTSUPP),
        (fields(0, 99, 8, 0, 0), Errno::ENOENT),
        (fields(0, device, 4097, 0, 0), Errno::EINVAL),
    ] {
        assert_eq!(world.errno(0x3b8a, 40, &fields), errno, "{fields:x?}");
    }
    let nowhere = [(8, 4, device), (12, 4, 8), (16, 8, 8)];
    assert_eq!(world.errno(0x3b8a, 40, &nowhere), Errno::EFAULT);
}

#[test]
fn dirty_tracking() {
    let mut world = World::new();
    let ioas = world.ioas();
    let hwpt = world.hwpt(ioas, 2);
    world.map(ioas, 0, 2 * K4);
    let set = |hwpt, flags, reserved| [(4, 4, flags), (8, 4, hwpt), (12, 4, reserved)];
    for (fields, errno) in [
        (set(hwpt, 2, 0), Errno::EOPNOTSUPP),
        (set(hwpt, 1, 1), Errno::EOPNOTSUPP),
        (set(ioas, 1, 0), Errno::ENOENT),
    ] {
        assert_eq!(world.errno(0x3b8b, 16, &fields), errno, "{fields:x?}");
    }
    world.done(0x3b8b, 16, &set(hwpt, 1, 0));
    let get = |hwpt, flags, reserved, iova, length, page, data| {
        [
            (4, 4, hwpt),
            (8, 4, flags),
            (12, 4, reserved),
            (16, 8, iova),
            (24, 8, length),
            (32, 8, page),
            (40, 8, data),
        ]
    };
    for (fields, errno) in [
        (get(hwpt, 2, 0, 0, K4, K4, BASE), Errno::EOPNOTSUPP),
        (get(hwpt, 0, 1, 0, K4, K4, BASE), Errno::EOPNOTSUPP),
        (get(ioas, 0, 0, 0, K4, K4, BASE), Errno::ENOENT),
        (get(hwpt, 0, 0, 0, 0, K4, BASE), Errno::EINVAL),
        (get(hwpt, 0, 0, 0, K4, 0, BASE), Errno::EINVAL),
        (get(hwpt, 0, 0, 8, K4, K4, BASE), Errno::EINVAL),
        (get(hwpt, 0, 0, 0, 3 * K4, 2 * K4, BASE), Errno::EINVAL),
        (
            get(hwpt, 0, 0, MAX & !0xfff, 2 * K4, K4, BASE),
            Errno::EOVERFLOW,
        ),
        (get(hwpt, 0, 0, 0, 2 * K4, K4, 8), Errno::EFAULT),
        (get(hwpt, 0, 0, 0, 1 << 40, K4, BASE), Errno::ENOMEM),
        // A hole is an error here, where Linux says nothing of it.
        (get(hwpt, 0, 0, 0, 4 * K4, K4, BASE), Errno::ENOENT),
    ] {
        assert_eq!(world.errno(0x3b8c, 48, &fields), errno, "{fields:x?}");
    }
    // Bits are only set.
    world.store(BASE, &[0xf0; 16]);
    world.done(0x3b8c, 48, &get(hwpt, 0, 0, 0, 2 * K4, K4, BASE));
    let seen = world.load(BASE, 16);
    assert_eq!(seen[0] & 0xf0, 0xf0);
    assert_eq!(seen[1..], [0xf0; 15]);
}

#[test]
fn invalidate() {
    let mut world = World::new();
    let (ioas, _, slice) = world.slice();
    let plain = world.hwpt(ioas, 0);
    // 16 bytes each: forget an address.
    let count = 3000;
    let entry: alloc::vec::Vec<u8> = [1u64, 0x5000]
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .collect();
    world.store(BASE, &entry.repeat(count));
    let fields = |id, data, kind, len, count, reserved| {
        [
            (4, 4, id),
            (8, 8, data),
            (16, 4, kind),
            (20, 4, len),
            (24, 4, count),
            (28, 4, reserved),
        ]
    };
    let kind = 0xdead_beef;
    let told = |world: &mut World, fields: super::Fields<'_>| {
        let (result, bytes) = world.ask(0x3b8d, argument(32, fields));
        (result, field(&bytes, 24, 4))
    };
    for (fields, errno) in [
        (fields(slice, BASE, kind, 16, 2, 1), Errno::EOPNOTSUPP),
        (fields(slice, 0, kind, 16, 2, 0), Errno::EINVAL),
        (fields(slice, BASE, kind, 0, 2, 0), Errno::EINVAL),
        (fields(slice, BASE, kind, 4097, 2, 0), Errno::EINVAL),
        (
            fields(slice, BASE, kind, 16, (1 << 19) + 1, 0),
            Errno::EINVAL,
        ),
        (fields(slice, 8, kind, 16, 2, 0), Errno::EFAULT),
        (fields(99, BASE, kind, 16, 2, 0), Errno::ENOENT),
        (fields(ioas, BASE, kind, 16, 2, 0), Errno::EINVAL),
        (fields(plain, BASE, kind, 16, 2, 0), Errno::EINVAL),
        (fields(slice, BASE, 7, 16, 2, 0), Errno::EINVAL),
        // 24 bytes of which the last 8 are not zero.
        (fields(slice, BASE, kind, 24, 2, 0), Errno::E2BIG),
        // A probe for a type.
        (fields(slice, 0, 7, 0, 0, 0), Errno::EINVAL),
    ] {
        assert_eq!(told(&mut world, &fields), (Err(errno), 0), "{fields:x?}");
    }
    assert_eq!(
        told(&mut world, &fields(slice, 0, kind, 0, 0, 0)),
        (Ok(()), 0)
    );
    let all = fields(slice, BASE, kind, 16, count as u64, 0);
    assert_eq!(told(&mut world, &all), (Ok(()), count as u64));
    // One that is wrong, wherever it is: all before it are complete and counted.
    for bad in [0, 1, 62, 63, 1023, 1024, 1025, 2999] {
        let at = BASE + bad * 16;
        world.mock.state().submitted.clear();
        world.store(at, &[9]);
        assert_eq!(told(&mut world, &all), (Err(Errno::EIO), bad), "{bad}");
        assert_eq!(world.mock.state().submitted.len() as u64, bad);
        world.store(at, &[1]);
    }
    // The hardware stops, and where the memory ends in the middle of the array.
    world.mock.state().submitted.clear();
    world.mock.state().submit_fails = Some(1500);
    assert_eq!(told(&mut world, &all), (Err(Errno::EIO), 1500));
    world.mock.state().submit_fails = None;
    let end = BASE + super::BYTES as u64;
    let at = end - 1500 * 16;
    world.store(at, &entry.repeat(1500));
    let past = fields(slice, at, kind, 16, 2000, 0);
    assert_eq!(told(&mut world, &past), (Err(Errno::EFAULT), 1024));
    // Short entries are zero-extended.
    world.store(BASE, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        told(&mut world, &fields(slice, BASE, kind, 8, 1, 0)),
        (Ok(()), 1)
    );
}
