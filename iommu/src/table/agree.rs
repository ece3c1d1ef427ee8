//! Comparing what is mapped with what is wanted, a run of leaves at a time.

use super::PageTable;
use super::format::Format;
use super::next::entries;
use crate::addr::{Hpa, Input, Span};
use crate::hal::Platform;

/// Entries that are read together.
const CHUNK: usize = 64;

impl<P: Platform, F: Format> PageTable<P, F> {
    /// Whether `input` starts with a leaf that leads to `output` with `attributes`, and the address up to which what follows in
    /// the same table, and in `input`, is alike: it goes on in the same way, or, of each leaf, does not. `None` where the first
    /// address is not mapped. Flags that walkers set are a difference.
    pub fn agrees<A: Input>(
        &self,
        input: Span<A>,
        output: Hpa,
        attributes: F::Attributes,
    ) -> Option<(bool, u64)> {
        let from = input.base.raw();
        let end = from.saturating_add(input.len);
        if from >> self.shape.input_bits != 0 {
            return None;
        }
        let (node, height, first) = self.entry_for(from)?;
        let size = 1u64 << F::shift(height);
        let inside = from & (size - 1);
        let wanted = F::leaf(attributes, height, output.0.wrapping_sub(inside));
        let mut wanted = match self.shape.dirty {
            true => F::tracked(wanted),
            false => wanted,
        };
        // Of a block that would begin before the first address there is none.
        let possible = output.0 >= inside && (output.0 - inside) & (size - 1) == 0;
        let start = from - inside;
        let count = (end - start).div_ceil(size);
        let last = entries::<F>(self.layout, height).min(first + count as usize);
        let last = node.leaves_end(first, last.max(first + 1));
        // The table in use is in no record.
        let last = match self.hot.after(start >> F::shift(1)) {
            Some(after) if height == 1 => last.min(first + after),
            _ => last,
        };
        let agrees = possible && node.entry(first) == wanted;
        // None agrees where the first cannot.
        let mut index = if possible { first + 1 } else { last };
        let mut words = [0; CHUNK];
        while index < last {
            let words = &mut words[..CHUNK.min(last - index)];
            node.entries(index, words);
            let mut goes_on = |word: &u64| {
                wanted = wanted.wrapping_add(size);
                *word == wanted
            };
            // Two loops, each of as little as there can be.
            let end = match agrees {
                true => words.iter().position(|word| !goes_on(word)),
                false => words.iter().position(goes_on),
            };
            index += end.unwrap_or(words.len());
            if end.is_some() {
                break;
            }
        }
        let reached = start + (index - first) as u64 * size;
        Some((agrees, reached.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use crate::addr::{Hpa, Iova, Span};
    use crate::model::memory::Memory;
    use crate::physical::Invalidated;
    use crate::table::{PageTable, SecondStage, SecondStageAttributes, Shape};

    const RW: SecondStageAttributes = SecondStageAttributes::DMA;

    fn span(base: u64, len: u64) -> Span<Iova> {
        Span {
            base: Iova(base),
            len,
        }
    }

    /// Against a walk of each page: blocks, pages, other addresses and other rights, with and without a table in use.
    #[test]
    fn a_run_is_as_long_as_walks_of_its_pages_say() {
        let memory = Arc::new(Memory::coherent());
        let mut table = PageTable::<_, SecondStage>::with_shape(memory, Shape::new(39)).unwrap();
        let read = SecondStageAttributes { write: false, ..RW };
        for (at, len, to, rights) in [
            (0x1f_e000, 0x2000, 0x8_001f_e000, RW),
            (0x20_0000, 0x40_0000, 0x8_0020_0000, RW),
            (0x60_0000, 0x20_0000, 0x9_0000_0000, RW),
            (0x80_0000, 0x3000, 0x8_0080_0000, RW),
            (0x80_3000, 0x2000, 0x8_0080_3000, read),
            (0x80_5000, 0x1000, 0x7_0000_0000, RW),
            (0x80_7000, 0x1000, 0x8_0080_7000, RW),
        ] {
            table.map(span(at, len), Hpa(to), rights).unwrap();
        }
        let same = |table: &PageTable<Memory, SecondStage>, at: u64| {
            let leaf = table.walk(Iova(at))?;
            Some((
                leaf.output.0 == 0x8_0000_0000 + at && leaf.attributes == RW,
                leaf.size,
            ))
        };
        for hot in [false, true] {
            if hot {
                for at in [0x90_0000, 0x90_1000, 0x90_2000] {
                    table
                        .map(span(at, 0x1000), Hpa(0x8_0000_0000 + at), RW)
                        .unwrap();
                }
            }
            for at in (0x1f_d000..0x81_0000).step_by(0x1000) {
                let all = span(at, 0x100_0000 - at);
                let found = table.agrees(all, Hpa(0x8_0000_0000 + at), RW);
                let Some((first, size)) = same(&table, at) else {
                    assert_eq!(found, None, "{at:#x}");
                    continue;
                };
                // A table ends where its addresses do.
                let limit = (at / (size << 9) + 1) * (size << 9);
                let mut end = at;
                while end < limit && same(&table, end).is_some_and(|it| it == (first, size)) {
                    end = (end & !(size - 1)) + size;
                }
                assert_eq!(found, Some((first, end)), "{at:#x}");
                let one = table.agrees(span(at, 0x1000), Hpa(0x8_0000_0000 + at), RW);
                assert_eq!(one, Some((first, at + 0x1000)), "{at:#x}");
            }
        }
        // Blocks whose addresses are not aligned are others, and none begins below 0.
        for to in [0x8_0020_1000, 0x1000] {
            let found = table.agrees(span(0x20_1000, 0x1000), Hpa(to), RW);
            assert_eq!(found, Some((to == 0x8_0020_1000, 0x20_2000)), "{to:#x}");
        }
        assert_eq!(table.agrees(span(1 << 39, 0x1000), Hpa(0), RW), None);
        table.retire(Invalidated::complete());
    }
}
