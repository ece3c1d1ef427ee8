//! What a table still holds of the heap when all that was mapped is unmapped again: prints `NAME_kept_bytes` and, after
//! the call that frees emptied tables, `NAME_cleaned_bytes`, for ours and for each crate in `peers`. The root does not
//! count. 256 pages of 4 KiB are mapped and unmapped.

mod peers;

use std::hint::black_box;

use allocation_counter::measure;
use peers::{PAGE, Peer};

const LEAVES: u64 = 256;
/// An odd 2 MiB boundary, so that nobody finds a larger block.
const BASE: u64 = 0x4020_0000;

/// Bytes that are held after the unmap, and after the clean-up. `freed`: of those, what waits to be used again.
fn kept<T: Peer>(name: &str, mut table: T, freed: impl Fn(&T) -> u64) {
    let mut mapped = 0;
    let kept = measure(|| {
        let while_mapped = measure(|| table.map(BASE, LEAVES));
        mapped = while_mapped.bytes_current;
        table.unmap(BASE, LEAVES);
    });
    assert!(mapped >= PAGE as i64, "{name} allocates its tables");
    let cleaned = measure(|| table.clean_up(BASE, LEAVES)).bytes_current;
    let cleaned = kept.bytes_current + cleaned - freed(&table) as i64;
    println!("{name}_kept_bytes {}", kept.bytes_current);
    println!("{name}_cleaned_bytes {}", cleaned.max(0));
    black_box(&table);
}

fn main() {
    kept("aarch64_paging", peers::aarch64_paging::Table::new(), |_| 0);
    kept("x86_64", peers::x86_64::Table::new(), |table| table.freed());
    kept(
        "page_table_multiarch",
        peers::page_table_multiarch::Table::new(),
        |_| 0,
    );
}
