//! The map that entry made, for as long as there is no better one: the image and the device tree, in 2 MiB blocks.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// A block of Normal memory (attribute 1): valid, inner shareable, accessed. Entry adds what its EL needs.
pub const NORMAL: u64 = 1 | 1 << 2 | 3 << 8 | 1 << 10;

/// A block of registers (attribute 0): valid, accessed, never executable; bit 6 and PXN as each EL wants them.
fn device(level: u64) -> u64 {
    let privilege = if level == 1 { 1 << 53 } else { 1 << 6 };
    1 | 1 << 10 | 1 << 54 | privilege
}

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const BLOCK: u64 = 2 << 20;

/// The next unused of the initial tables; entry leaves it here.
pub static NEXT_TABLE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static __initial_tables: u8;
    static __initial_tables_end: u8;
}

/// Maps the 2 MiB around `address` as registers, at exception level `level`; whether they are mapped so. They are not if they
/// are past 48 bits, no table is left, or memory is there.
///
/// # Safety
/// Called on the CPU that boots while the initial map is in use, and there is a device at `address`.
pub unsafe fn map_device(address: u64, level: u64) -> bool {
    if address >> 48 != 0 {
        return false;
    }
    let mut table = (&raw const __initial_tables).expose_provenance() as u64;
    let limit = (&raw const __initial_tables_end).addr() as u64;
    for shift in [39, 30] {
        let entry = entry(table, address, shift);
        // SAFETY: `entry` is in an initial table: identity-mapped, aligned, and used by this CPU only.
        let mut value = unsafe { entry.read_volatile() };
        if value == 0 {
            let next = NEXT_TABLE.load(Ordering::Relaxed);
            if next >= limit {
                return false;
            }
            NEXT_TABLE.store(next + 4096, Ordering::Relaxed);
            value = next | 3;
            // SAFETY: as above; the new table is zeroed and unused.
            unsafe { entry.write_volatile(value) };
        }
        table = value & ADDRESS;
    }
    let entry = entry(table, address, 21);
    let block = (address & !(BLOCK - 1)) | device(level);
    // SAFETY: as above.
    let before = unsafe { entry.read_volatile() };
    if before == 0 {
        // SAFETY: as above; the caller says that registers are there. An invalid entry is not in the TLB, so a barrier
        // is all that its first use needs (Arm ARM D8.16, D8.17.1).
        unsafe {
            entry.write_volatile(block);
            asm!("dsb ishst", "isb", options(nostack, preserves_flags));
        }
    }
    before == 0 || before == block
}

fn entry(table: u64, address: u64, shift: u32) -> *mut u64 {
    let index = address >> shift & 0x1ff;
    core::ptr::with_exposed_provenance_mut((table + index * 8) as usize)
}
