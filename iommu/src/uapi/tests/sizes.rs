//! The rule of sizes, for every request, and what no request is.

use alloc::vec;

use super::{Errno, World, argument};

/// Number, size, and the fewest bytes that are accepted.
const SIZES: [(u32, usize, usize); 22] = [
    (0x3b80, 8, 8),
    (0x3b81, 12, 12),
    (0x3b82, 24, 24),
    (0x3b83, 40, 40),
    (0x3b84, 32, 32),
    (0x3b85, 40, 40),
    (0x3b86, 24, 24),
    (0x3b87, 24, 24),
    (0x3b88, 12, 12),
    (0x3b89, 48, 24),
    (0x3b8a, 40, 32),
    (0x3b8b, 16, 16),
    (0x3b8c, 48, 48),
    (0x3b8d, 32, 32),
    (0x3b8e, 16, 16),
    (0x3b8f, 40, 40),
    (0x3b90, 40, 24),
    (0x3b91, 24, 24),
    (0x3b92, 8, 8),
    (0x3b93, 32, 28),
    (0x3b94, 40, 40),
    (0x3b95, 40, 40),
];

#[test]
fn a_structure_is_taken_from_its_minimum_up_and_a_longer_one_with_a_tail_of_zeros() {
    for (request, size, min) in SIZES {
        let mut world = World::new();
        let refused = world.ask(request, argument(min - 1, &[])).0;
        assert_eq!(refused, Err(Errno::EINVAL), "{request:#x}");
        let mut long = argument(size + 24, &[]);
        long[size + 23] = 1;
        assert_eq!(
            world.ask(request, long).0,
            Err(Errno::E2BIG),
            "{request:#x}"
        );
        // What all of these say to an argument of zeros is the same.
        let plain = world.ask(request, argument(size, &[])).0;
        assert_ne!(plain, Err(Errno::E2BIG));
        for len in [min, size + 24] {
            let mut world = World::new();
            let other = world.ask(request, argument(len, &[])).0;
            assert_eq!(other, plain, "{request:#x}, {len} bytes");
        }
        // The size says more than there is, or is not there.
        let mut cut = argument(size, &[]);
        cut.truncate(size - 1);
        assert_eq!(world.ask(request, cut).0, Err(Errno::EFAULT));
        assert_eq!(world.ask(request, vec![0; 3]).0, Err(Errno::EFAULT));
    }
}

#[test]
fn a_number_that_is_none_is_no_request() {
    let mut world = World::new();
    // VFIO's container, past the table, another type, a number with a size encoded.
    for request in [
        0x3b64,
        0x3b71,
        0x3b7f,
        0x3b96,
        0x3ba0,
        0x80,
        0x3c81,
        0xc008_3b81,
    ] {
        let refused = world.ask(request, argument(64, &[])).0;
        assert_eq!(refused, Err(Errno::ENOTTY), "{request:#x}");
    }
}

#[test]
fn outputs_past_the_callers_size_are_not_written() {
    let mut world = World::new();
    // 32 bytes of IOMMU_GET_HW_INFO: all but the capabilities.
    let bytes = world.done(0x3b8a, 32, &[(8, 4, world.id())]);
    assert_eq!((bytes.len(), bytes[28]), (32, 20));
}
