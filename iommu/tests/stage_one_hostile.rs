//! A guest's stage 1 that leads in circles, out of its memory, or changes while it is walked: under the model's walker
//! and under ours.

mod guest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::vm::{BYTES, GUEST, LEAF, PAGE, RAM, Space, Vm, entry};
use guest::{Guest, STREAM, VA, refused};
use iommu::model::smmu::{Config, Denied};
use iommu::table::{
    Entry, ForeignTable, Format, Granule4K, Granule16K, Granule64K, SecondStage, Shape, StageOne,
    StageTwo, WalkFaultKind, walk_foreign,
};

/// A guest whose stream goes through `space`.
fn through(vm: &Vm, space: &Space) -> Guest {
    let mut guest = Guest::of(vm);
    guest.up();
    let contexts = vm.take(64);
    space.place(vm, contexts);
    guest.entry(entry(contexts, 0));
    guest
}

/// Forgets what was cached, and counts the descriptors of one translation: of both stages.
fn walked(vm: &Vm, guest: &mut Guest, iova: u64) -> (Result<u64, Denied>, u64) {
    guest.say(&[[0x10, 0]]);
    let before = vm.model().counters().descriptors;
    let result = vm.model().translate(STREAM, iova, false);
    (result, vm.model().counters().descriptors - before)
}

/// Most descriptors of a walk: each of `levels` addresses of stage 1, and the output, through three levels of stage 2.
fn bound(levels: u64) -> u64 {
    levels + (levels + 1) * 3
}

#[test]
fn tables_that_are_their_own_tables_end_at_the_last_level() {
    for (granule, bits, levels) in [(12, 39, 3), (12, 48, 4), (14, 47, 3), (16, 42, 2)] {
        let vm = Vm::one(Config::default());
        let space = Space::new(&vm, granule, bits, 1);
        // Every entry of the root is the root; the last one read is a page: the table itself.
        for slot in 0..1u64 << (granule - 3) {
            vm.store(space.root + slot * 8, space.root | LEAF);
        }
        let mut guest = through(&vm, &space);
        for iova in [0, VA, (1 << bits) - 8, 0x1234_5678 & ((1 << bits) - 1)] {
            let (result, descriptors) = walked(&vm, &mut guest, iova);
            let offset = iova & ((1 << granule) - 1);
            assert_eq!(
                result,
                Ok(space.root + offset - GUEST + RAM),
                "{granule}, {iova:#x}"
            );
            assert!(descriptors <= bound(levels), "{descriptors}");
        }
        // Two tables that lead to each other.
        let other = vm.take(1 << granule);
        for slot in 0..1u64 << (granule - 3) {
            vm.store(space.root + slot * 8, other | LEAF);
            vm.store(other + slot * 8, space.root | LEAF);
        }
        let (result, descriptors) = walked(&vm, &mut guest, VA);
        let last = if levels % 2 == 0 { space.root } else { other };
        let offset = VA & ((1 << granule) - 1);
        assert_eq!(result, Ok(last + offset - GUEST + RAM));
        assert!(descriptors <= bound(levels), "{descriptors}");
    }
}

#[test]
fn tables_out_of_the_guests_memory_are_stage_2_faults_and_nothing_is_read_there() {
    let vm = Vm::one(Config::default());
    let space = Space::plain(&vm, 1);
    space.map(&vm, VA, Some(GUEST));
    let mut guest = through(&vm, &space);
    assert_eq!(walked(&vm, &mut guest, VA).0, Ok(RAM));
    let level_two = vm.load(space.root) & !0xfff;
    let level_three = vm.load(level_two) & !0xfff;
    // The machine's own address of the guest's memory is none of the guest's; nor is what is right behind its own.
    for nowhere in [0, RAM, GUEST - PAGE, GUEST + BYTES, 0x0800_0000, 1 << 38] {
        for (at, good) in [(space.root, level_two), (level_two, level_three)] {
            vm.store(at, nowhere | 3);
            let (result, descriptors) = walked(&vm, &mut guest, VA);
            let fault = Denied::Fault {
                number: 0x10,
                stage_two: true,
            };
            assert_eq!(result, Err(fault), "{nowhere:#x}");
            assert!(descriptors <= bound(3));
            vm.store(at, good | 3);
        }
        // A page there: the fault is that of the access.
        vm.store(level_three + VA / PAGE * 8, nowhere | LEAF);
        let (result, _) = walked(&vm, &mut guest, VA);
        assert!(
            matches!(
                result,
                Err(Denied::Fault {
                    stage_two: true,
                    ..
                })
            ),
            "{result:?}"
        );
        vm.store(level_three + VA / PAGE * 8, GUEST | LEAF);
    }
    // Wider than the guest's outputs: its own fault.
    vm.store(space.root, 1 << 46 | 3);
    assert_eq!(walked(&vm, &mut guest, VA).0, refused(0x11).map(|_| 0));
    vm.store(space.root, level_two | 3);
    assert_eq!(walked(&vm, &mut guest, VA).0, Ok(RAM));
}

/// Where each level's entry for `address` lies relative to its table.
fn offset<F: Format>(address: u64, height: u8) -> u64 {
    (address >> F::shift(height) & (F::ENTRIES as u64 - 1)) * 8
}

/// Every read of the walk changes what would be read next time: nothing is read twice, and what was read is believed.
fn reads_once<F: Format>(bits: u8, attributes: F::Attributes) {
    let shape = Shape::new(bits);
    let top = shape.layout::<F>().expect("a width").top;
    let page = 1u64 << F::PAGE_SHIFT;
    let root = 16 * page;
    let table = ForeignTable::<F>::new(root, &shape).expect("a width");
    let address = 0x1357_9bdf_2468 & ((1 << bits) - 1);
    for leaf_at in 0..=top {
        let leaf = F::leaf(attributes, leaf_at, 0);
        if !matches!(F::decode(leaf, leaf_at), Entry::Leaf(_)) {
            continue;
        }
        let mut reads = Vec::new();
        let result = walk_foreign(&table, address, |at| {
            assert!(!reads.contains(&at), "read twice");
            reads.push(at);
            let height = top - (reads.len() as u8 - 1);
            Ok::<_, ()>(if height == leaf_at {
                leaf
            } else {
                F::link(root + reads.len() as u64 * page)
            })
        });
        let seen = result.expect("a leaf");
        assert_eq!(
            (seen.height, seen.output),
            (leaf_at, address & (seen.size - 1))
        );
        let expected = (leaf_at..=top)
            .rev()
            .zip(0..)
            .map(|(height, n)| root + n * page + offset::<F>(address, height));
        assert!(reads.iter().copied().eq(expected));
        // A table that leads to itself wherever it is read: as many reads as levels.
        let mut count = 0;
        let result = walk_foreign(&table, address, |_| {
            count += 1;
            Ok::<_, ()>(F::link(root))
        });
        assert_eq!(count, u32::from(top) + 1);
        let last = result.map(|seen| seen.height).map_err(|fault| fault.kind);
        assert!(
            matches!(last, Ok(0) | Err(WalkFaultKind::Reserved)),
            "{last:?}"
        );
    }
}

#[test]
fn our_own_walk_reads_each_descriptor_once_whatever_it_leads_to() {
    use iommu::table::{Attributes, SecondStageAttributes, StageOneAttributes};
    reads_once::<StageOne<Granule4K>>(48, StageOneAttributes::DMA);
    reads_once::<StageOne<Granule4K>>(39, StageOneAttributes::DMA);
    reads_once::<StageOne<Granule16K>>(47, StageOneAttributes::DMA);
    reads_once::<StageOne<Granule64K>>(42, StageOneAttributes::DMA);
    reads_once::<StageTwo<Granule4K>>(48, Attributes::DMA);
    reads_once::<SecondStage>(57, SecondStageAttributes::DMA);
}

#[test]
fn tables_that_another_cpu_changes_give_what_was_there_at_some_time() {
    const WORDS: usize = 512;
    // Four tables of one page each; the writer moves the links and the page between two good states and a bad one.
    let memory: Arc<Vec<AtomicU64>> = Arc::new((0..4 * WORDS).map(|_| AtomicU64::new(0)).collect());
    let at = |table: u64| table * PAGE;
    let shape = Shape {
        output_bits: 40,
        ..Shape::new(39)
    };
    let stop = Arc::new(AtomicBool::new(false));
    for slot in 0..2u64 {
        memory[slot as usize * WORDS].store(at(slot + 1) | 3, Ordering::Relaxed);
    }
    let writer = thread::spawn({
        let (memory, stop) = (Arc::clone(&memory), Arc::clone(&stop));
        move || {
            let mut turn = 0u64;
            while !stop.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                // The last level: a page, another page, nothing; now and then a table on the way is its own.
                let page = [0x1_0000 | LEAF, 0x2_0000 | LEAF, 0][(turn % 3) as usize];
                memory[2 * WORDS].store(page, Ordering::Relaxed);
                let link = if turn.is_multiple_of(5) { at(1) } else { at(2) };
                memory[WORDS].store(link | 3, Ordering::Relaxed);
            }
        }
    });
    let table = ForeignTable::<StageOne<Granule4K>>::new(0, &shape).expect("a width");
    let mut seen = [0u32; 4];
    // The writer may stand still for long on a busy machine: on until both pages have been met, with a deadline.
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.iter().sum::<u32>() < 200_000
        || (seen[0] == 0 || seen[1] == 0) && Instant::now() < deadline
    {
        let mut reads = 0;
        let result = walk_foreign(&table, 0x123, |at| {
            reads += 1;
            Ok::<_, ()>(memory[at as usize / 8].load(Ordering::Relaxed))
        });
        assert!(reads <= 3);
        match result {
            Ok(to) if to.output == 0x1_0123 => seen[0] += 1,
            Ok(to) if to.output == 0x2_0123 => seen[1] += 1,
            // The table that was its own, or the last table, as the page.
            Ok(to) => {
                assert!(
                    [at(1) | 0x123, at(2) | 0x123].contains(&to.output),
                    "{to:?}"
                );
                seen[2] += 1;
            }
            Err(fault) => {
                assert_eq!(fault.kind, WalkFaultKind::Invalid);
                seen[3] += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("it ends");
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
