use alloc::vec::Vec;

use proptest::prelude::{ProptestConfig, any, proptest};

use super::*;
use crate::id::CacheTag;

const IPA: Scope = Scope::Ipa(CacheTag(7));

/// First address and bytes that a command covers, by the formula of §4.4.1.1; `None` for everything in a scope.
fn covered(command: Command, opcode: u64, page: u64) -> Option<(u64, u64)> {
    let [first, second] = command.0;
    if first & 0xff != opcode {
        return None;
    }
    let address = second & !0xfff;
    let (num, scale) = (first >> 12 & 31, first >> 20 & 31);
    let (ttl, tg) = (second >> 8 & 3, second >> 10 & 3);
    if tg == 0 {
        assert_eq!((num, scale, ttl), (0, 0, 0), "reserved");
        return Some((address, page));
    }
    assert!(num != 0 || scale != 0 || ttl != 0, "reserved");
    assert_eq!(1 << (10 + 2 * tg), page);
    let level = [0, 3 - 1, 3 - 2, 0][ttl as usize];
    if ttl != 0 {
        let entry = page << (level * (page.trailing_zeros() as u64 - 3));
        assert_eq!(address % entry, 0, "a window starts where an entry does");
        assert_eq!(((page * (num + 1)) << scale) % entry, 0);
    }
    Some((address, (page * (num + 1)) << scale))
}

fn cover(base: u64, pages: u64, ranges: bool) -> Cover {
    let range = Span::<Iova>::new(Iova(base), pages << 12).unwrap();
    Cover::new(IPA, range, 12, 0, true, ranges)
}

/// The exact union of the windows; none may leave the range.
fn check(commands: &[Command], opcode: u64, page: u64, base: u64, len: u64) {
    let mut at = base;
    for command in commands {
        let (start, bytes) = covered(*command, opcode, page).unwrap();
        assert!(base <= start && start <= at, "no gap");
        assert!(start + bytes <= base + len, "nothing past the end");
        at = at.max(start + bytes);
    }
    assert_eq!(at, base + len);
}

#[test]
fn the_cover_of_every_number_of_pages_is_exact_and_of_the_fewest_windows() {
    let big = [
        1 << 18,
        (1 << 20) - 1,
        (1 << 27) + 5,
        (1 << 36) - 1,
        1 << 36,
    ];
    for pages in (1..70_000).chain(big) {
        let commands: Vec<_> = cover(0x1000, pages, true).collect();
        check(&commands, 0x2a, 0x1000, 0x1000, pages << 12);
        let one = pages >> pages.trailing_zeros() <= 32;
        assert_eq!(commands.len(), if one { 1 } else { 2 }, "{pages}");
    }
    // Past the largest window, as many as it takes.
    let commands: Vec<_> = cover(0, (1 << 37) + 3, true).collect();
    check(&commands, 0x2a, 0x1000, 0, (1 << 49) + (3 << 12));
    assert_eq!(commands.len(), 3);
}

#[test]
fn nothing_is_no_command() {
    assert_eq!(cover(0x1000, 0, true).count(), 0);
    assert_eq!(cover(0x1000, 0, false).count(), 0);
}

#[test]
fn without_ranges_few_pages_go_singly_and_many_by_scope() {
    let commands: Vec<_> = cover(0x1000, 64, false).collect();
    assert_eq!(commands.len(), 64);
    check(&commands, 0x2a, 0x1000, 0x1000, 64 << 12);
    let range = Span::<Iova>::new(Iova(0), 65 << 12).unwrap();
    let many = |scope| Cover::new(scope, range, 12, 0, true, false).collect::<Vec<_>>();
    assert_eq!(many(IPA), [Command([0x28 | 7 << 32, 0])]);
    let asid = Command([0x11 | 7 << 32 | 9 << 48, 0]);
    assert_eq!(many(Scope::Va(CacheTag(7), 9)), [asid]);
    assert_eq!(
        many(Scope::Vaa(CacheTag(7))),
        [Command([0x10 | 7 << 32, 0])]
    );
    assert_eq!(many(Scope::El2Va(9)), [Command([0x21 | 9 << 48, 0])]);
    assert_eq!(many(Scope::El2Vaa), [Command([0x20, 0])]);
}

#[test]
fn a_range_off_page_bounds_is_rounded_outwards() {
    let range = Span::<Iova>::new(Iova(0x1fff), 2).unwrap();
    let all: Vec<_> = Cover::new(IPA, range, 12, 0, false, true).collect();
    check(&all, 0x2a, 0x1000, 0x1000, 0x2000);
    assert_eq!(all.len(), 1);
}

#[test]
fn the_whole_space_is_everything_in_the_scope() {
    let range = Span::<Iova>::new(Iova(0), u64::MAX).unwrap();
    let all: Vec<_> = Cover::new(Scope::Vaa(CacheTag(1)), range, 12, 0, false, true).collect();
    assert_eq!(all, [Command([0x10 | 1 << 32, 0])]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_cover_misses_or_exceeds_its_range(
        base in 0u64..1 << 47, len in 1u64..1 << 44, shift in 0u32..44, granule in 0usize..3,
        level in 0u8..4, leaf in any::<bool>(), aligned in any::<bool>(),
    ) {
        let granule = [12u8, 14, 16][granule];
        let page = 1u64 << granule;
        let mut base = base >> (shift / 2);
        let mut len = (len >> shift).max(1);
        if aligned && level != 0 {
            let entry = page << (u32::from(3 - level) * (u32::from(granule) - 3));
            (base, len) = (base & !(entry - 1), len.next_multiple_of(entry));
        }
        let range = Span::<Iova>::new(Iova(base), len).unwrap();
        let commands: Vec<_> = Cover::new(Scope::Va(CacheTag(3), 4), range, granule, level, leaf, true).collect();
        let start = base & !(page - 1);
        let end = (base + len).next_multiple_of(page);
        check(&commands, 0x12, page, start, end - start);
        assert!(commands.len() <= 2);
        for command in commands {
            assert_eq!(command.0[0] >> 32, 4 << 16 | 3);
            assert_eq!(command.0[1] & 1, u64::from(leaf));
        }
    }
}
