//! A device whose IOMMU caches everything it may, and forgets only what it is told to (T2: nothing stale is used once
//! an invalidation is complete).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::machine::{FREED, Frame, Ram};
use super::walked::{Step, Walked, make, span};
use crate::addr::{Hpa, Iova};
use crate::table::{
    Ept, Granule4K, Granule16K, Granule64K, Invalidated, Npt, PageTable, Replace, SecondStage,
    Shape, StageOne, StageTwo, Unmapped,
};

/// Leaves by (first address, size), and tables by (first address, height).
struct Tlb<F> {
    leaves: BTreeMap<u64, (u64, u64, u8)>,
    tables: BTreeMap<(u64, u32), u64>,
    root: u64,
    top: u32,
    replace: Replace,
    format: core::marker::PhantomData<F>,
}

impl<F: Walked> Tlb<F> {
    fn new(table: &PageTable<Ram, F>) -> Self {
        Self {
            leaves: BTreeMap::new(),
            tables: BTreeMap::new(),
            root: table.root().0,
            top: table.layout().top.into(),
            replace: table.shape().replace,
            format: core::marker::PhantomData,
        }
    }

    fn shift(height: u32) -> u32 {
        F::PAGE_SHIFT + (F::PAGE_SHIFT - 3) * height
    }

    fn hit(&self, address: u64) -> Option<(u64, u64, u8)> {
        let (base, leaf) = self.leaves.range(..=address).next_back()?;
        (address < base + leaf.1).then_some(*leaf)
    }

    /// What the device gets for `address`: output and access. Starts at the lowest table that is cached.
    fn access(&mut self, ram: &Ram, address: u64) -> Option<(u64, u8)> {
        if let Some((output, size, access)) = self.hit(address) {
            return Some((output + (address & (size - 1)), access));
        }
        let base = |height| address >> Self::shift(height) << Self::shift(height);
        let cached = (0..self.top).find_map(|height| {
            let table = self.tables.get(&(base(height + 1), height))?;
            Some((height, *table))
        });
        let (mut height, mut table) = cached.unwrap_or((self.top, self.root));
        loop {
            let mut index = address >> Self::shift(height);
            if height < self.top {
                index &= (1 << (F::PAGE_SHIFT - 3)) - 1;
            }
            let entry = ram.word(table + index * 8);
            assert_ne!(entry, FREED, "walk into freed memory");
            match F::step(entry, height)? {
                Step::Table(next) => {
                    height -= 1;
                    table = next;
                    self.tables.insert((base(height + 1), height), next);
                }
                Step::Leaf(output) => {
                    let size = 1u64 << Self::shift(height);
                    let access = F::access(entry);
                    let at = base(height);
                    if self.replace == Replace::Break {
                        let overlap = self.leaves.range(..at + size).next_back();
                        let clash = overlap.is_some_and(|(base, leaf)| base + leaf.1 > at);
                        assert!(!clash, "two sizes for one address: TLB conflict");
                    }
                    self.leaves.insert(at, (output, size, access));
                    return Some((output + (address & (size - 1)), access));
                }
            }
        }
    }

    fn invalidate(&mut self, changed: &Unmapped<Frame>) {
        let range = changed.stale::<Iova>();
        let (from, to) = (range.base.0, range.base.0 + range.len);
        self.leaves
            .retain(|base, leaf| base + leaf.1 <= from || *base >= to);
        if !changed.leaf_only() {
            self.tables.retain(|(base, height), _| {
                base + (1 << Self::shift(height + 1)) <= from || *base >= to
            });
        }
    }
}

/// 10,000 changes among 3 blocks, with the device busy before, between and after.
fn storm<F: Walked>(shape: Shape, mut seed: u64) {
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (ram, mut table) = make::<F>(shape);
    let mut tlb = Tlb::new(&table);
    let (page, block) = (1u64 << F::PAGE_SHIFT, 1u64 << (F::PAGE_SHIFT - 3));
    let base = (block - 1) * block * page;
    // By page: version of the mapping (its output) and access.
    let mut model: Vec<Option<(u64, u8)>> = alloc::vec![None; 3 * block as usize];
    let mut output = 0u64;
    for _ in 0..10_000 {
        let whole = random(8) == 0;
        let (at, len) = if whole {
            (random(3) * block, block)
        } else {
            let at = random(3 * block);
            (at, 1 + random(12).min(3 * block - at - 1))
        };
        let pages = at as usize..(at + len) as usize;
        let range = span(base + at * page, len * page);
        let mut probes: Vec<u64> = (0..6).map(|_| random(3 * block)).collect();
        probes.extend([at, at + len - 1]);
        for probe in &probes {
            let seen = tlb.access(&ram, base + probe * page);
            assert_eq!(seen, model[*probe as usize], "before");
        }
        let changed = match random(3) {
            0 => {
                output = (output + 3 * block * page) % (1 << 38);
                let free = model[pages.clone()].iter().all(Option::is_none);
                let to = output + at * page;
                assert_eq!(table.map(range, Hpa(to), F::READ_WRITE).is_ok(), free);
                if free {
                    for (n, entry) in model[pages].iter_mut().enumerate() {
                        *entry = Some((to + n as u64 * page, 3));
                    }
                }
                continue;
            }
            1 => {
                model[pages].fill(None);
                table.unmap(range)
            }
            _ => match table.protect(range, F::READ_ONLY) {
                Ok(changed) => {
                    for entry in model[pages].iter_mut().flatten() {
                        entry.1 = 1;
                    }
                    changed
                }
                Err(_) => continue,
            },
        };
        // Anything may come back now, stale or not, but no walk may end in freed memory.
        for probe in &probes {
            tlb.access(&ram, base + probe * page);
        }
        let cut = changed.stale::<Iova>() != range;
        tlb.invalidate(&changed);
        for probe in &probes {
            let seen = tlb.access(&ram, base + probe * page);
            // What is left of a cut block may be out of force until the release; nothing else may differ.
            if !(cut && seen.is_none()) {
                assert_eq!(seen, model[*probe as usize], "stale after the invalidation");
            }
        }
        table.release(changed, Invalidated::complete());
        for probe in &probes {
            let seen = tlb.access(&ram, base + probe * page);
            assert_eq!(seen, model[*probe as usize], "after");
        }
    }
    table.retire(Invalidated::complete());
    assert_eq!(ram.live(), 0);
}

#[test]
fn nothing_stale_is_used_after_an_invalidation() {
    for replace in [Replace::Break, Replace::InPlace] {
        let shape = |bits| Shape {
            replace,
            ..Shape::new(bits)
        };
        storm::<StageTwo<Granule4K>>(shape(39), 1);
        storm::<StageOne<Granule16K>>(shape(48), 2);
        storm::<StageTwo<Granule64K>>(shape(48), 3);
        storm::<SecondStage>(shape(48), 4);
        storm::<Npt>(shape(48), 5);
        storm::<Ept>(shape(57), 6);
    }
}
