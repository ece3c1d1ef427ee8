//! What each part of RAM is for, decided before anything is touched.

use alloc::vec::Vec;
use arch::area;
use core::ops::Range;
use kernel::gather::Gather;

/// Size of the heap in RAM, in bytes.
pub const HEAP: u64 = 8 << 20;

const PAGE: u64 = 4096;

/// The plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// What is mapped as RAM: all of it but the image, what is reserved, and the guard pages of the CPUs' areas.
    pub ram: Vec<Range<u64>>,
    /// What is free.
    pub free: Vec<Range<u64>>,
    /// Base of the heap: [`HEAP`] bytes.
    pub heap: u64,
    /// Base of the CPUs' areas, [`area::SIZE`] bytes each.
    pub areas: u64,
}

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// No free range is this long, in bytes.
    NoSpace(u64),
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self::NoSpace(len) = self;
        write!(f, "no free range of {len:#x} bytes")
    }
}

/// Plans `memory`, of which `unmapped` is never touched again and `kept` is mapped but not free, for `cpus` CPUs.
pub fn plan(
    memory: &[Range<u64>],
    unmapped: &[Range<u64>],
    kept: &[Range<u64>],
    cpus: usize,
) -> Result<Layout, LayoutError> {
    let mut ram: Vec<_> = memory.iter().map(inner).gather();
    ram.retain(|range| !range.is_empty());
    unmapped.iter().for_each(|hole| cut(&mut ram, hole));
    let mut free = ram.clone();
    kept.iter().for_each(|hole| cut(&mut free, hole));

    let areas_len = (cpus as u64)
        .checked_mul(area::SIZE)
        .ok_or(LayoutError::NoSpace(u64::MAX))?;
    let areas = take(&mut free, areas_len, area::SIZE)?;
    let heap = take(&mut free, HEAP, PAGE)?;
    for base in (areas..areas + areas_len).step_by(area::SIZE as usize) {
        for guard in area::guards(base) {
            cut(&mut ram, &guard);
        }
    }
    Ok(Layout {
        ram,
        free,
        heap,
        areas,
    })
}

/// The first place for `len` bytes at a multiple of `align`, removed from `free`.
fn take(free: &mut Vec<Range<u64>>, len: u64, align: u64) -> Result<u64, LayoutError> {
    let base = free.iter().find_map(|range| {
        let base = range.start.checked_next_multiple_of(align)?;
        (base.checked_add(len)? <= range.end).then_some(base)
    });
    let base = base.ok_or(LayoutError::NoSpace(len))?;
    cut(free, &(base..base + len));
    Ok(base)
}

/// The whole pages in `range`.
fn inner(range: &Range<u64>) -> Range<u64> {
    range.start.next_multiple_of(PAGE)..range.end & !(PAGE - 1)
}

/// Removes each page that `hole` touches.
fn cut(ranges: &mut Vec<Range<u64>>, hole: &Range<u64>) {
    if hole.is_empty() {
        return;
    }
    let start = hole.start & !(PAGE - 1);
    let end = hole
        .end
        .checked_next_multiple_of(PAGE)
        .unwrap_or(!(PAGE - 1));
    let pieces = ranges.drain(..).flat_map(|range| {
        let before = range.start..range.end.min(start);
        let after = range.start.max(end)..range.end;
        [before, after]
    });
    let kept = pieces.filter(|piece| !piece.is_empty()).gather();
    *ranges = kept;
}

#[cfg(test)]
mod tests {
    use super::{HEAP, LayoutError, cut, plan};
    use arch::area;
    use core::ops::Range;
    use core::slice::from_ref;

    const MIB: u64 = 1 << 20;

    fn holds(ranges: &[Range<u64>], address: u64) -> bool {
        ranges.iter().any(|range| range.contains(&address))
    }

    #[test]
    fn everything_has_its_place_and_nothing_has_two() {
        let memory = 0x4000_0000..0x8000_0000;
        let image = 0x4020_0000..0x4040_0000;
        let secure = 0x5000_0000..0x5000_1800;
        let tree = 0x4800_0100..0x4800_2300;
        let unmapped = [image.clone(), secure.clone()];
        let plan = plan(from_ref(&memory), &unmapped, from_ref(&tree), 4).unwrap();

        assert_eq!(plan.areas, 0x4000_0000);
        assert_eq!(plan.heap, 0x4040_0000);
        let areas = plan.areas..plan.areas + 4 * area::SIZE;
        let heap = plan.heap..plan.heap + HEAP;
        for address in (0x3fff_f000..0x8000_1000).step_by(4096) {
            let inside = memory.contains(&address);
            let hidden = image.contains(&address) || (0x5000_0000..0x5000_2000).contains(&address);
            let guard =
                areas.contains(&address) && matches!(address % area::SIZE, 0 | area::STACK_END);
            assert_eq!(holds(&plan.ram, address), inside && !hidden && !guard);
            let used = areas.contains(&address)
                || heap.contains(&address)
                || (0x4800_0000..0x4800_3000).contains(&address);
            assert_eq!(holds(&plan.free, address), inside && !hidden && !used);
        }
    }

    #[test]
    fn a_machine_that_is_too_small_is_refused() {
        let memory = 0x4000_0000..0x4000_0000 + 4 * MIB;
        assert_eq!(
            plan(from_ref(&memory), &[], &[], 1),
            Err(LayoutError::NoSpace(HEAP))
        );
        assert_eq!(
            plan(&[], &[], &[], 2),
            Err(LayoutError::NoSpace(2 * area::SIZE))
        );
    }

    #[test]
    fn partial_pages_are_not_used() {
        let memory = 0x4000_0800..0x4100_0800;
        let plan = plan(from_ref(&memory), &[], &[], 0).unwrap();
        assert_eq!(plan.ram.len(), 1);
        assert_eq!(plan.ram[0], 0x4000_1000..0x4100_0000);
    }

    #[test]
    fn a_hole_may_cover_all_or_reach_the_end_of_the_space() {
        let mut ranges = vec![0x1000..0x3000, 0x5000..0x6000];
        cut(&mut ranges, &(0..0x5001));
        assert_eq!(ranges, []);
        let mut ranges = vec![0x1000..0x3000, 0x5000..0x6000];
        cut(&mut ranges, &(0x2000..u64::MAX));
        assert_eq!(ranges, from_ref(&(0x1000..0x2000)));
        cut(&mut ranges, &(0x1800..0x1800));
        assert_eq!(ranges, from_ref(&(0x1000..0x2000)));
    }
}
