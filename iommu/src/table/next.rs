//! Finding what is mapped, without looking at what is not.

use super::format::Format;
use super::node::Node;
use super::{Layout, PageTable};
use crate::addr::Input;
use crate::hal::Platform;

impl<P: Platform, F: Format> PageTable<P, F> {
    /// The first address from `from` on that is mapped, by the record of the tables.
    pub fn next<A: Input>(&self, from: A) -> Option<A> {
        let from = from.raw();
        if from >> self.shape.input_bits != 0 {
            return None;
        }
        let found = self.next_in(self.node(), self.layout.top, 0, from)?;
        Some(A::span(found, 0).base)
    }

    /// The same in `node`, whose first entry covers `base` on.
    fn next_in(&self, node: &Node<P::Buffer>, height: u8, base: u64, from: u64) -> Option<u64> {
        let entries = entries::<F>(self.layout, height);
        let mut index = (from.saturating_sub(base) >> F::shift(height)) as usize;
        while index < entries {
            index = node.first_used(index..entries)?;
            let at = base + ((index as u64) << F::shift(height));
            let hot = || self.hot.table(at >> F::shift(1)).filter(|_| height == 1);
            let child = node.child(index).map(|table| &**table).or_else(hot);
            let Some(child) = child else {
                return Some(at.max(from));
            };
            let found = self.next_in(child, height - 1, at, from);
            if found.is_some() {
                return found;
            }
            index += 1;
        }
        None
    }
}

/// Entries of a table at `height`.
pub(super) fn entries<F: Format>(layout: Layout, height: u8) -> usize {
    if height == layout.top {
        layout.root_entries
    } else {
        F::ENTRIES
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use crate::addr::{Hpa, Iova, Span};
    use crate::model::memory::Memory;
    use crate::physical::Invalidated;
    use crate::table::{
        Attributes, Granule4K, PageTable, SecondStage, SecondStageAttributes, Shape, StageTwo,
    };

    fn span(base: u64, len: u64) -> Span<Iova> {
        Span {
            base: Iova(base),
            len,
        }
    }

    /// Against looking at every page, with and without a table in use.
    #[test]
    fn the_next_mapping_is_the_first_page_that_a_walk_finds() {
        let memory = Arc::new(Memory::coherent());
        let mut table = PageTable::<_, SecondStage>::with_shape(memory, Shape::new(39)).unwrap();
        assert_eq!(table.next(Iova(0)), None);
        for (at, len) in [
            (0x20_0000, 0x20_0000),
            (0x5f_f000, 0x3000),
            (0x4000_0000, 0x1000),
        ] {
            let to = Hpa(0x1_0000_0000 + at);
            table
                .map(span(at, len), to, SecondStageAttributes::DMA)
                .unwrap();
        }
        for hot in [false, true] {
            if hot {
                // The second change of a table in a row takes it out.
                for at in [0x70_0000, 0x70_1000, 0x70_2000] {
                    table
                        .map(span(at, 0x1000), Hpa(at), SecondStageAttributes::DMA)
                        .unwrap();
                }
            }
            for from in (0..0x80_0000).step_by(0x1000) {
                let rest = (from..0x80_0000).step_by(0x1000);
                let first = rest.clone().find(|at| table.walk(Iova(*at)).is_some());
                let expected = first.unwrap_or(0x4000_0000);
                assert_eq!(table.next(Iova(from)), Some(Iova(expected)), "{from:#x}");
            }
            assert_eq!(table.next(Iova(0x4000_1000)), None);
            assert_eq!(table.next(Iova(1 << 39)), None);
        }
        table.retire(Invalidated::complete());
    }

    /// Tables have 512 entries below a root of 16, and the search goes on behind a table that ends with nothing.
    #[test]
    fn the_next_mapping_is_found_in_the_last_entry_and_behind_it() {
        let memory = Arc::new(Memory::coherent());
        let shape = Shape::new(34);
        let mut table = PageTable::<_, StageTwo<Granule4K>>::with_shape(memory, shape).unwrap();
        // The last page of a table of pages, the first one of the last table below 1 GiB, and the last page of all.
        let pages = [0x1f_f000, 0x3fe0_0000, 0x3_ffff_f000];
        for at in pages {
            table
                .map(span(at, 0x1000), Hpa(at), Attributes::RAM)
                .unwrap();
        }
        let mut from = 0;
        for at in pages {
            assert_eq!(table.next(Iova(from)), Some(Iova(at)));
            assert_eq!(table.next(Iova(at + 0xfff)), Some(Iova(at + 0xfff)));
            from = at + 0x1000;
        }
        assert_eq!(table.next(Iova(from)), None);
        table.retire(Invalidated::complete());
    }
}
