//! Instruction counts of the stage 2 tables beside those of the crates in `peers`, in one process.
//!
//! `table_ir [ROUNDS]` maps and unmaps 256 pages of 4 KiB, ROUNDS times (default 200), in two settings: `shared`, where
//! another page keeps the tables alive, and `alone`, where the unmap empties two tables, which are freed to the platform
//! in the same round and allocated again in the next. `one_` does it with a single page. Each of the functions below is
//! called once and never inlined, so that one run under `valgrind --tool=callgrind` and
//! `callgrind_annotate --inclusive=yes` tell them apart by name: `sluice_shared`, `sluice_alone`,
//! `sluice_alone_zeroing`, `sluice_one_shared`, `sluice_one_alone`, and the same of `aarch64_paging_`, `x86_64_` and
//! `page_table_multiarch_` but for `zeroing`; the last one frees no tables, so it has no `alone`.
//! Ir a leaf pair = inclusive Ir / (ROUNDS * leaves).
//!
//! What `alone` means depends on the platform below: `Pool` keeps freed pages, and hands out as they are those of which
//! it was told that they are zero again; `Host` (`sluice_alone_zeroing`) gives every page back to the C library and
//! zeroes each one it gets, as aarch64-paging does. x86_64 zeroes each one as well, but keeps those it freed. Valgrind counts the byte-wise `rep stos` of the C library's memset as
//! up to 4,096 instructions, so two zeroed tables a round are about 32 Ir a leaf.
//!
//! Prints one line each, `key value`: `rounds`, `leaves`, exact counts for 1 GiB mapped and unmapped again in blocks of
//! each size, `1g_in_SIZE_WHAT` with WHAT `leaf_stores`, `table_stores`, `table_bytes` of the map (without the root),
//! `unmap_stores` of the unmap, `freed_bytes` of the release; `retained_bytes` after all unmaps
//! (without the root), `retained_pages` which the platform is short of after them, and for each function
//! `NAME_ns_a_leaf`, the mean of its rounds, which is for information only.

mod peers;

use std::hint::black_box;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use iommu::addr::{Hpa, Iova, Span};
use iommu::hal::{DmaBuffer, Platform};
use iommu::table::{Attributes, Invalidated, StageTwoTable};
use peers::{PAGE, Peer};

const LEAVES: u64 = 256;
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

/// Keeps pages, and knows which are zero.
#[derive(Default)]
struct Pool {
    zeroed: Mutex<Vec<Box<Page>>>,
    /// Pages handed out and not given back as zeroed.
    out: AtomicU64,
}

impl Platform for Pool {
    type Buffer = Box<Page>;
    const KEEPS_ZEROED: bool = true;
    fn allocate(&self, len: usize) -> Option<Box<Page>> {
        self.out.fetch_add(1, Relaxed);
        let kept = self.zeroed.lock().expect("not poisoned").pop();
        kept.or_else(|| Host.allocate(len))
    }
    fn release_zeroed(&self, page: Box<Page>) {
        self.out.fetch_sub(1, Relaxed);
        self.zeroed.lock().expect("not poisoned").push(page);
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

fn table<P: Platform>(platform: P) -> StageTwoTable<P> {
    StageTwoTable::new(Arc::new(platform), 39, true).expect("memory")
}

fn span(base: u64, len: u64) -> Span<Iova> {
    Span::<Iova>::new(Iova(base), len).expect("range")
}

#[inline(always)]
fn sluice<P: Platform>(rounds: u32, leaves: u64, table: &mut StageTwoTable<P>) {
    let range = span(BASE, leaves * PAGE);
    repeat(rounds, || {
        table
            .map(black_box(range), black_box(Hpa(BASE)), Attributes::DMA)
            .expect("free");
        let unmapped = table.unmap(black_box(range));
        table.release(unmapped, Invalidated::complete());
    });
}

#[inline(never)]
fn sluice_shared(rounds: u32, table: &mut StageTwoTable<Pool>) {
    black_box("shared");
    sluice(rounds, LEAVES, table);
}

#[inline(never)]
fn sluice_alone(rounds: u32, table: &mut StageTwoTable<Pool>) {
    black_box("alone");
    sluice(rounds, LEAVES, table);
}

#[inline(never)]
fn sluice_alone_zeroing(rounds: u32, table: &mut StageTwoTable<Host>) {
    sluice(rounds, LEAVES, table);
}

#[inline(never)]
fn sluice_one_shared(rounds: u32, table: &mut StageTwoTable<Pool>) {
    black_box("one shared");
    sluice(rounds, 1, table);
}

#[inline(never)]
fn sluice_one_alone(rounds: u32, table: &mut StageTwoTable<Pool>) {
    black_box("one alone");
    sluice(rounds, 1, table);
}

#[inline(always)]
fn peer(rounds: u32, leaves: u64, table: &mut impl Peer, clean_up: bool) {
    repeat(rounds, || {
        table.map(BASE, leaves);
        table.unmap(BASE, leaves);
        if clean_up {
            table.clean_up(BASE, leaves);
        }
    });
}

/// Functions of one peer: name, pages, whether emptied tables are freed.
macro_rules! peer {
    ($of:ident: $($name:ident, $leaves:expr, $clean_up:expr;)*) => {$(
        #[inline(never)]
        fn $name(rounds: u32, table: &mut peers::$of::Table) {
            black_box(stringify!($name));
            peer(rounds, $leaves, table, $clean_up);
        }
    )*};
}

peer! { aarch64_paging:
    aarch64_paging_shared, LEAVES, false;
    aarch64_paging_alone, LEAVES, true;
    aarch64_paging_one_shared, 1, false;
    aarch64_paging_one_alone, 1, true;
}

peer! { x86_64:
    x86_64_shared, LEAVES, false;
    x86_64_alone, LEAVES, true;
    x86_64_one_shared, 1, false;
    x86_64_one_alone, 1, true;
}

peer! { page_table_multiarch:
    page_table_multiarch_shared, LEAVES, false;
    page_table_multiarch_one_shared, 1, false;
}

#[inline(always)]
fn repeat(rounds: u32, mut round: impl FnMut()) {
    for _ in 0..rounds {
        round();
    }
}

/// Prints nanoseconds a leaf, as a mean. The clock is read outside of what callgrind counts.
fn timed(name: &str, rounds: u32, leaves: u64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let ns = start.elapsed().as_nanos() as f64 / f64::from(rounds) / leaves as f64;
    println!("{name}_ns_a_leaf {ns:.3}");
}

/// Stores and bytes of large maps.
/// 1 GiB mapped to `output`, whose alignment decides on the largest block, and unmapped again.
fn one_gib(name: &str, output: u64) {
    let mut table = table(Host);
    let root = table.counters().table_bytes;
    let range = span(1 << 30, 1 << 30);
    table
        .map(range, Hpa(output), Attributes::DMA)
        .expect("free");
    let mapped = table.counters();
    let print = |what: &str, value: u64| println!("1g_in_{name}_{what} {value}");
    print("leaf_stores", mapped.leaf_stores);
    print("table_stores", mapped.table_stores);
    print("table_bytes", mapped.table_bytes - root);
    let unmapped = table.unmap(range);
    table.release(unmapped, Invalidated::complete());
    let after = table.counters();
    let stores = after.leaf_stores + after.table_stores;
    print(
        "unmap_stores",
        stores - mapped.leaf_stores - mapped.table_stores,
    );
    print("freed_bytes", mapped.table_bytes - after.table_bytes);
}

fn counts() {
    one_gib("1g", 1 << 30);
    one_gib("2m", 2 << 20);
    one_gib("4k", 4 << 10);
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(200, |text| text.parse().expect("a number"));
    println!("rounds {rounds}");
    println!("leaves {LEAVES}");
    counts();

    let pool = Arc::new(Pool::default());
    let mut alone = StageTwoTable::new(Arc::clone(&pool), 39, true).expect("memory");
    let (root, out) = (alone.counters().table_bytes, pool.out.load(Relaxed));
    timed("sluice_alone", rounds, LEAVES, || {
        sluice_alone(rounds, &mut alone);
    });
    timed("sluice_one_alone", rounds, 1, || {
        sluice_one_alone(rounds, &mut alone);
    });
    println!("retained_bytes {}", alone.counters().table_bytes - root);
    println!("retained_pages {}", pool.out.load(Relaxed) - out);
    timed("sluice_alone_zeroing", rounds, LEAVES, || {
        sluice_alone_zeroing(rounds, &mut table(Host));
    });
    let mut shared = table(Pool::default());
    shared
        .map(span(NEIGHBOUR, PAGE), Hpa(NEIGHBOUR), Attributes::DMA)
        .expect("free");
    timed("sluice_shared", rounds, LEAVES, || {
        sluice_shared(rounds, &mut shared);
    });
    timed("sluice_one_shared", rounds, 1, || {
        sluice_one_shared(rounds, &mut shared);
    });

    macro_rules! run {
        ($table:expr; $($name:ident, $leaves:expr;)*) => {
            let mut table = $table;
            $(timed(stringify!($name), rounds, $leaves, || $name(rounds, &mut table));)*
        };
    }
    run! { peers::aarch64_paging::Table::new();
        aarch64_paging_alone, LEAVES;
        aarch64_paging_one_alone, 1;
    }
    run! { peers::x86_64::Table::new();
        x86_64_alone, LEAVES;
        x86_64_one_alone, 1;
    }
    run! { beside(peers::aarch64_paging::Table::new());
        aarch64_paging_shared, LEAVES;
        aarch64_paging_one_shared, 1;
    }
    run! { beside(peers::x86_64::Table::new());
        x86_64_shared, LEAVES;
        x86_64_one_shared, 1;
    }
    run! { beside(peers::page_table_multiarch::Table::new());
        page_table_multiarch_shared, LEAVES;
        page_table_multiarch_one_shared, 1;
    }
}

/// With another page that keeps the tables alive.
fn beside<T: Peer>(mut table: T) -> T {
    table.map(NEIGHBOUR, 1);
    table
}
