//! Instruction counts of the stage 2 tables beside the `aarch64-paging` crate, in one process.
//!
//! `table_ir [ROUNDS]` maps and unmaps 256 pages of 4 KiB, ROUNDS times (default 200), in each of two settings:
//! `shared`, where another page keeps the table alive, and `alone`, where the unmap empties its tables, which have to be
//! freed. Each of the four functions below is called once and never inlined, so that one run under
//! `valgrind --tool=callgrind` and `callgrind_annotate --inclusive=yes` tell them apart by name:
//! `sluice_shared`, `sluice_alone`, `aarch64_paging_shared`, `aarch64_paging_alone`.
//! Ir a leaf pair = inclusive Ir / (ROUNDS * 256). Both peers zero two tables a round in `alone`; valgrind counts the
//! byte-wise `rep stos` of the C library's memset as up to 4,096 instructions each, which is about 32 Ir a leaf of that setting.
//!
//! Prints one line each, `key value`: `rounds`, `leaves`, the exact store and byte counts `map_1g_2m_leaf_stores`,
//! `map_1g_2m_table_stores`, `map_1g_2m_table_bytes` (without the root), `map_1g_1g_leaf_stores`,
//! `map_1g_1g_table_bytes`, `retained_bytes` after all unmaps (without the root), and for each function
//! `NAME_ns_a_leaf`, the fastest of its rounds, which is for information only.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::time::Instant;

use aarch64_paging::descriptor::Stage2Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{Constraints, MemoryRegion, Stage2};
use iommu::addr::{Hpa, Iova, Span};
use iommu::hal::{DmaBuffer, Platform};
use iommu::table::{Attributes, Invalidated, StageTwoTable};

const LEAVES: u64 = 256;
const PAGE: u64 = 4096;
/// An odd 2 MiB boundary, so that nobody finds a larger block.
const BASE: u64 = 0x4020_0000;
const NEIGHBOUR: u64 = BASE + 300 * PAGE;

#[repr(align(4096))]
struct Page([AtomicU64; 512]);

struct Host;

impl Platform for Host {
    type Buffer = Box<Page>;
    fn allocate(&self, len: usize) -> Option<Box<Page>> {
        (len == 4096).then(|| Box::new(Page([const { AtomicU64::new(0) }; 512])))
    }
    fn write_barrier(&self) {
        fence(Release);
    }
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

impl DmaBuffer for Box<Page> {
    fn hpa(&self) -> Hpa {
        Hpa(std::ptr::from_ref(&**self) as u64)
    }
    fn len(&self) -> usize {
        4096
    }
    fn read64(&self, offset: usize) -> u64 {
        self.0[offset / 8].load(Relaxed)
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.0[offset / 8].store(value, Relaxed);
    }
    fn write64_run(&mut self, offset: usize, first: u64, step: u64, count: usize) {
        let mut value = first;
        for word in &self.0[offset / 8..][..count] {
            word.store(value, Relaxed);
            value = value.wrapping_add(step);
        }
    }
    fn clean(&self, _offset: usize, _len: usize) {}
}

fn table() -> StageTwoTable<Host> {
    StageTwoTable::new(Arc::new(Host), 39, true).expect("memory")
}

fn span(base: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(base), len).expect("range")
}

fn sluice(rounds: u32, table: &mut StageTwoTable<Host>) -> f64 {
    let range = span(BASE, LEAVES * PAGE);
    fastest(rounds, || {
        table
            .map(black_box(range), black_box(Hpa(BASE)), Attributes::DMA)
            .expect("free");
        let unmapped = table.unmap(black_box(range));
        table.release(unmapped, Invalidated::complete());
    })
}

#[inline(never)]
fn sluice_shared(rounds: u32, table: &mut StageTwoTable<Host>) -> f64 {
    black_box("shared");
    sluice(rounds, table)
}

#[inline(never)]
fn sluice_alone(rounds: u32, table: &mut StageTwoTable<Host>) -> f64 {
    black_box("alone");
    sluice(rounds, table)
}

const FLAGS: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::S2AP_ACCESS_RW)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::ACCESS_FLAG);

fn region(base: u64, len: u64) -> MemoryRegion {
    MemoryRegion::new(base as usize, (base + len) as usize)
}

fn paging(rounds: u32, map: &mut IdMap<Stage2>, compact: bool) -> f64 {
    let range = region(BASE, LEAVES * PAGE);
    fastest(rounds, || {
        map.map_range(black_box(&range), black_box(FLAGS))
            .expect("free");
        map.map_range_with_constraints(
            black_box(&range),
            Stage2Attributes::empty(),
            Constraints::empty(),
        )
        .expect("mapped");
        if compact {
            map.compact_subtables();
        }
    })
}

#[inline(never)]
fn aarch64_paging_shared(rounds: u32, map: &mut IdMap<Stage2>) -> f64 {
    paging(rounds, map, false)
}

#[inline(never)]
fn aarch64_paging_alone(rounds: u32, map: &mut IdMap<Stage2>) -> f64 {
    paging(rounds, map, true)
}

/// Nanoseconds a leaf of the fastest round.
#[inline(always)]
fn fastest(rounds: u32, mut round: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    best / LEAVES as f64
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(200, |text| text.parse().expect("a number"));
    println!("rounds {rounds}");
    println!("leaves {LEAVES}");

    let mut blocks = table();
    let root = blocks.counters().table_bytes;
    blocks
        .map(span(1 << 30, 1 << 30), Hpa(2 << 20), Attributes::DMA)
        .expect("free");
    println!("map_1g_2m_leaf_stores {}", blocks.counters().leaf_stores);
    println!("map_1g_2m_table_stores {}", blocks.counters().table_stores);
    println!(
        "map_1g_2m_table_bytes {}",
        blocks.counters().table_bytes - root
    );
    let mut block = table();
    block
        .map(span(1 << 30, 1 << 30), Hpa(1 << 30), Attributes::DMA)
        .expect("free");
    println!("map_1g_1g_leaf_stores {}", block.counters().leaf_stores);
    println!(
        "map_1g_1g_table_bytes {}",
        block.counters().table_bytes - root
    );

    let mut alone = table();
    println!(
        "sluice_alone_ns_a_leaf {:.3}",
        sluice_alone(rounds, &mut alone)
    );
    println!("retained_bytes {}", alone.counters().table_bytes - root);
    let mut shared = table();
    shared
        .map(span(NEIGHBOUR, PAGE), Hpa(NEIGHBOUR), Attributes::DMA)
        .expect("free");
    println!(
        "sluice_shared_ns_a_leaf {:.3}",
        sluice_shared(rounds, &mut shared)
    );

    let mut map = IdMap::new(1, Stage2);
    println!(
        "aarch64_paging_alone_ns_a_leaf {:.3}",
        aarch64_paging_alone(rounds, &mut map)
    );
    let mut map = IdMap::new(1, Stage2);
    map.map_range(&region(NEIGHBOUR, PAGE), FLAGS)
        .expect("free");
    println!(
        "aarch64_paging_shared_ns_a_leaf {:.3}",
        aarch64_paging_shared(rounds, &mut map)
    );
}
