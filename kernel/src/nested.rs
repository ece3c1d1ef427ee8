//! The nested page tables of a partition on x86_64: what its CPUs reach, as those of SVM or of VMX walk it.

use crate::guest_map::x86_64::ADDRESS_BITS;
use crate::host::Host;
use alloc::sync::Arc;
use arch::memory::FramePool;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::table::{
    Attributes, Ept, Format, Invalidated, MapError, Npt, PageTable, Replace, Shape,
};

/// One or the other.
pub enum Nested {
    /// SVM's.
    Npt(PageTable<Host, Npt>),
    /// VMX's.
    Ept(PageTable<Host, Ept>),
}

impl Nested {
    /// SVM's, with RAM at `spans`, one after the other, from `host` on.
    ///
    /// # Errors
    /// No memory for them.
    pub fn npt(
        frames: &'static FramePool,
        spans: &[Span<Gpa>],
        host: Hpa,
    ) -> Result<Self, MapError> {
        table(frames, spans, host).map(Self::Npt)
    }

    /// VMX's, likewise.
    ///
    /// # Errors
    /// As for [`Self::npt`].
    pub fn ept(
        frames: &'static FramePool,
        spans: &[Span<Gpa>],
        host: Hpa,
    ) -> Result<Self, MapError> {
        table(frames, spans, host).map(Self::Ept)
    }

    /// Where they start.
    pub fn root(&self) -> u64 {
        match self {
            Self::Npt(table) => table.root().0,
            Self::Ept(table) => table.root().0,
        }
    }

    /// Maps what is no RAM.
    ///
    /// # Errors
    /// Something is there, or no memory for it.
    pub fn map(&mut self, span: Span<Gpa>, to: Hpa, how: Attributes) -> Result<(), MapError> {
        match self {
            Self::Npt(table) => table.map(span, to, how),
            Self::Ept(table) => table.map(span, to, how),
        }
    }

    /// Takes `span` away. `forgotten` returns once no CPU has anything of it.
    pub fn unmap(&mut self, span: Span<Gpa>, forgotten: impl FnOnce()) {
        match self {
            Self::Npt(table) => unmap(table, span, forgotten),
            Self::Ept(table) => unmap(table, span, forgotten),
        }
    }
}

fn table<F: Format<Attributes = Attributes>>(
    frames: &'static FramePool,
    spans: &[Span<Gpa>],
    mut host: Hpa,
) -> Result<PageTable<Host, F>, MapError> {
    let shape = Shape {
        replace: Replace::InPlace,
        ..Shape::new(ADDRESS_BITS)
    };
    let mut table = PageTable::with_shape(Arc::new(Host(frames)), shape)?;
    for span in spans {
        table.map(*span, host, Attributes::RAM)?;
        host.0 += span.len;
    }
    Ok(table)
}

fn unmap<F: Format<Attributes = Attributes>>(
    table: &mut PageTable<Host, F>,
    span: Span<Gpa>,
    forgotten: impl FnOnce(),
) {
    let cut = table.unmap(span);
    forgotten();
    table.release(cut, Invalidated::complete());
}

#[cfg(test)]
mod tests {
    use super::Nested;
    use crate::config::Platform;
    use arch::host::memory::pool;
    use arch::memory::FramePool;
    use iommu::addr::{Gpa, Hpa, Span};
    use iommu::table::{Attributes, MapError};

    const MIB: u64 = 1 << 20;
    const RAM: Hpa = Hpa(0x2_0000_0000);
    const BAR: Hpa = Hpa(0xfe00_0000);

    /// Where the CPU gets to from `at`, and whether it may run what is there.
    fn walk(nested: &Nested, at: Gpa) -> Option<(Hpa, bool)> {
        let leaf = match nested {
            Nested::Npt(table) => table.walk(at),
            Nested::Ept(table) => table.walk(at),
        };
        leaf.map(|leaf| (leaf.output, leaf.attributes.execute))
    }

    type Make = fn(&'static FramePool, &[Span<Gpa>], Hpa) -> Result<Nested, MapError>;
    const BOTH: [Make; 2] = [Nested::npt, Nested::ept];

    #[test]
    fn all_parts_of_ram_are_there_one_behind_the_other_and_nothing_else() {
        for make in BOTH {
            let spans = Platform::X86_64.ram(5 << 30);
            let [low, high] = spans;
            let nested = make(pool(0x4000_0000, MIB), &spans, RAM).unwrap();
            for (at, offset) in [
                (low.base, 0),
                (low.base + (low.len - 4096), low.len - 4096),
                (high.base, low.len),
                (high.base + (high.len - 4096), (5 << 30) - 4096),
            ] {
                assert_eq!(walk(&nested, at), Some((RAM + offset, true)), "{at}");
            }
            assert_eq!(walk(&nested, low.base + low.len), None);
            assert_eq!(walk(&nested, high.base + high.len), None);
        }
    }

    #[test]
    fn what_is_taken_away_is_gone_before_its_memory_is_anybody_elses() {
        for make in BOTH {
            let frames = pool(0x4000_0000, MIB);
            let mut nested = make(frames, &[], RAM).unwrap();
            let root = nested.root();
            let before = frames.free_bytes();
            let span = Span::<Gpa>::new(Gpa(0xe000_0000), 0x4000).unwrap();
            nested.map(span, BAR, Attributes::DEVICE).unwrap();
            let last = span.base + 0x3000;
            assert_eq!(walk(&nested, last), Some((BAR + 0x3000, false)));
            assert!(nested.map(span, BAR, Attributes::DEVICE).is_err());
            let with = frames.free_bytes();
            assert!(with < before, "tables of lower levels");
            let mut asked = 0;
            nested.unmap(span, || {
                asked += 1;
                assert_eq!(frames.free_bytes(), with, "CPUs may walk them still");
            });
            assert_eq!(asked, 1);
            assert_eq!(walk(&nested, last), None);
            assert_eq!((frames.free_bytes(), nested.root()), (before, root));
        }
    }

    #[test]
    fn without_memory_there_are_none() {
        for make in BOTH {
            let spans = Platform::X86_64.ram(64 * MIB);
            assert!(make(pool(0x4000_0000, 2 * 4096), &spans, RAM).is_err());
        }
    }
}
