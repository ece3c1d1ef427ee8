//! The pool gives each byte once, takes it back, and hands it out as zeros.

use super::FramePool;
use crate::host::memory::pool;

const MIB: u64 = 1 << 20;

fn ranges(pool: &FramePool) -> Vec<(u64, u64)> {
    let free = pool.free_ranges();
    free.iter().map(|r| (r.start, r.end)).collect()
}

#[test]
fn first_fit_respects_alignment_and_gives_back() {
    let pool = pool(0x4000_1000, 4 * MIB);
    let small = pool.allocate(100, 1).unwrap();
    assert_eq!((small.base(), small.len()), (0x4000_1000, 0x1000));
    let big = pool.allocate(MIB, MIB).unwrap();
    assert_eq!(big.base(), 0x4010_0000);
    assert_eq!(pool.free_bytes(), 3 * MIB - 0x1000);
    let next = pool.allocate(0x2000, 0x1000).unwrap();
    assert_eq!(next.base(), 0x4000_2000);
    drop(small);
    drop(big);
    drop(next);
    assert_eq!(ranges(pool), [(0x4000_1000, 0x4040_1000)]);
}

#[test]
fn what_is_handed_out_again_holds_zeros() {
    let pool = pool(0x8000_0000, MIB);
    let frames = pool.allocate(0x3000, 0x1000).unwrap();
    frames.write_bytes(0, &[0xa5; 0x3000]);
    let base = frames.base();
    drop(frames);
    let again = pool.reserve_exact(base, 0x3000).unwrap();
    let mut bytes = [1; 0x3000];
    again.read_bytes(0, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn an_exact_range_is_had_once() {
    let pool = pool(0x4000_0000, MIB);
    let frames = pool.reserve_exact(0x4001_0000, 0x1000).unwrap();
    assert!(pool.reserve_exact(0x4001_0000, 0x1000).is_none());
    assert!(pool.reserve_exact(0x4000_f000, 0x2000).is_none());
    assert!(pool.reserve_exact(0x400f_f000, 0x2000).is_none());
    assert!(pool.reserve_exact(0x4002_0800, 0x1000).is_none());
    assert!(pool.reserve_exact(u64::MAX - 0xfff, 0x2000).is_none());
    drop(frames);
    assert_eq!(ranges(pool), [(0x4000_0000, 0x4010_0000)]);
}

#[test]
fn what_does_not_fit_is_none() {
    let pool = pool(0x4000_0000, MIB);
    assert!(pool.allocate(MIB + 1, 1).is_none());
    assert!(pool.allocate(u64::MAX, 1).is_none());
    assert!(pool.allocate(0x1000, 0x3000).is_none());
    assert!(pool.allocate(0x1000, 1 << 63).is_none());
    assert_eq!(pool.free_bytes(), MIB);
}

#[test]
fn memory_added_twice_is_there_once() {
    let pool = pool(0x4000_0000, MIB);
    // SAFETY: inside of what the fake pool is backed by; nothing is handed out.
    unsafe { pool.add(0x3fff_ffff..0x4010_0fff) };
    assert_eq!(ranges(pool), [(0x4000_0000, 0x4010_0000)]);
}

#[test]
fn copies_keep_every_byte_at_every_alignment() {
    let pool = pool(0x4000_0000, MIB);
    let frames = pool.allocate(0x1000, 1).unwrap();
    for offset in 0..9 {
        for len in 0..33 {
            let bytes: Vec<u8> = (0..len).map(|i| (i + offset + 1) as u8).collect();
            frames.zero(0, 64);
            frames.write_bytes(offset, &bytes);
            let mut back = vec![0; len];
            frames.read_bytes(offset, &mut back);
            assert_eq!(back, bytes);
            assert_eq!(frames.read8(offset + len), 0);
        }
    }
}

#[test]
fn words_are_little_endian_bytes() {
    let frames = pool(0x4000_0000, MIB).allocate(1, 1).unwrap();
    frames.write64(8, 0x1122_3344_5566_7788);
    assert_eq!(frames.read32(12), 0x1122_3344);
    assert_eq!(frames.read16(8), 0x7788);
    assert_eq!(frames.read8(15), 0x11);
}

#[test]
#[should_panic(expected = "outside of the frames")]
fn the_end_is_the_end() {
    let frames = pool(0x4000_0000, MIB).allocate(1, 1).unwrap();
    frames.read64(0x1000);
}

#[test]
#[should_panic(expected = "misaligned")]
fn words_are_aligned() {
    let frames = pool(0x4000_0000, MIB).allocate(1, 1).unwrap();
    frames.write32(2, 0);
}

#[test]
fn a_frame_that_is_zero_comes_back_first_and_counts_as_free() {
    let pool = pool(0x4000_0000, MIB);
    let frame = pool.allocate(0x1000, 0x1000).unwrap();
    let base = frame.base();
    let kept = pool.allocate(0x1000, 0x1000).unwrap();
    frame.give_back_zeroed();
    let again = pool.allocate(0x1000, 0x1000).unwrap();
    assert_eq!(again.base(), base);
    again.give_back_zeroed();
    assert_eq!(pool.free_bytes(), MIB - 0x1000);
    drop(kept);
    // It does not keep the memory around it from being one piece.
    let all: Vec<_> = (0..32)
        .map(|_| pool.allocate(0x1000, 0x1000).unwrap())
        .collect();
    all.into_iter().for_each(super::Frames::give_back_zeroed);
    assert_eq!(pool.allocate(MIB, MIB).unwrap().base(), 0x4000_0000);
    let large = pool.allocate(0x2000, 0x1000).unwrap();
    large.give_back_zeroed();
    assert_eq!(ranges(pool), [(0x4000_0000, 0x4010_0000)]);
}

#[test]
fn frames_that_come_back_in_any_order_take_no_heap() {
    let pool = pool(0x4000_0000, MIB);
    let room = pool.room();
    let frames: Vec<_> = (0..100)
        .map(|_| pool.allocate(0x1000, 0x1000).unwrap())
        .collect();
    // Every other one, in part as zeroed.
    let (kept, given): (Vec<_>, Vec<_>) = frames
        .into_iter()
        .partition(|frame| frame.base() & 0x1000 == 0);
    given.into_iter().for_each(super::Frames::give_back_zeroed);
    assert_eq!(ranges(pool).len(), 50);
    drop(kept);
    assert_eq!(ranges(pool), [(0x4000_0000, 0x4010_0000)]);
    assert_eq!(pool.room(), room);
}

#[test]
fn words_are_exchanged_and_stored_in_runs() {
    let pool = pool(0x4000_0000, MIB);
    let frame = pool.allocate(0x1000, 0x1000).unwrap();
    frame.write64_run(0xff0, 5, 7, 2);
    assert_eq!((frame.read64(0xff0), frame.swap64(0xff8, 1)), (5, 12));
    assert_eq!((frame.read64(0xff8), frame.read64(0xfe8)), (1, 0));
    frame.write64_run(0x1000, 0, 0, 0);
    frame.write64_pairs(0xfe0, &[[1, 2], [3, 4]]);
    let mut words = [0; 3];
    frame.read_words(0xfe8, &mut words);
    assert_eq!(words, [2, 3, 4]);
    for (offset, count) in [(0xff0, 3), (0xff4, 1), (0, usize::MAX)] {
        let outside = std::panic::AssertUnwindSafe(|| frame.write64_run(offset, 1, 1, count));
        assert!(
            std::panic::catch_unwind(outside).is_err(),
            "{offset:#x} {count}"
        );
    }
}
