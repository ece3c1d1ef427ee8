//! RAM as the CPU reaches it at EL2 (identity-mapped), and cache maintenance on it (Arm ARM D7.5.9).

use super::sysreg::read;
use core::arch::asm;

/// The identity map of RAM.
#[derive(Debug)]
pub struct Window(());

impl Window {
    /// RAM is where its physical address says.
    pub const fn identity() -> Self {
        Self(())
    }

    /// Only a test refuses memory that is there.
    pub(crate) const fn permits(&self) -> bool {
        true
    }

    pub(crate) fn pointer(&self, address: u64) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(address as usize)
    }

    pub(crate) fn zero(&self, pointer: *mut u8, len: usize) {
        let dczid = read!("DCZID_EL0");
        let block = 4usize << (dczid & 0xf);
        let whole = (pointer.addr() | len).is_multiple_of(block);
        if dczid >> 4 & 1 != 0 || !whole {
            // SAFETY: `Frames` checked that the range is its own, and it has no references into it.
            return unsafe { pointer.write_bytes(0, len) };
        }
        for at in (pointer.addr()..pointer.addr() + len).step_by(block) {
            // SAFETY: as above; the range is a whole number of blocks, of Normal memory.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) };
        }
    }

    pub(crate) fn clean(&self, pointer: *mut u8, len: usize) {
        clean(pointer, len);
    }

    pub(crate) fn clean_invalidate(&self, pointer: *mut u8, len: usize) {
        each_line(pointer, len, |line| {
            // SAFETY: maintenance by address on memory that `Frames` owns; no byte changes its value.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
        });
    }

    pub(crate) fn sync_icache(&self, pointer: *mut u8, len: usize) {
        // To the point of coherency, past the one of unification: a guest starts with its caches off, fetches from
        // memory itself, and must find there what was written and nothing of whoever had the memory before.
        self.clean_invalidate(pointer, len);
        // All instruction caches of the inner shareable domain, by one instruction: a guest's kernel is longer than
        // they are, and VIPT caches may hold its lines under other addresses (D7.5.9).
        // SAFETY: invalidating instruction caches loses no data.
        unsafe {
            asm!(
                "dsb ish",
                "ic ialluis",
                "dsb ish",
                "isb",
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Cleans `len` bytes to the point of coherency, for an observer whose caches are off.
pub(crate) fn clean(pointer: *const u8, len: usize) {
    // A word is in one line: there are none of less than 16 bytes (CCSIDR_EL1.LineSize).
    if len == 8 && pointer.addr().is_multiple_of(8) {
        // SAFETY: as below.
        unsafe { asm!("dc cvac, {}", in(reg) pointer, options(nostack, preserves_flags)) };
        return super::barrier::full();
    }
    each_line(pointer, len, |line| {
        // SAFETY: cleaning changes no byte's value; the caller's memory is mapped.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) };
    });
}

/// Size of the smallest data cache line, in bytes (CTR_EL0.DminLine counts words).
fn data_line() -> usize {
    4 << (read!("CTR_EL0") >> 16 & 0xf)
}

/// Does something to each cache line of a range, and waits for it.
#[inline(always)]
fn each_line(pointer: *const u8, len: usize, act: impl Fn(usize)) {
    let line = data_line();
    let end = pointer.addr() + len;
    // A range with a step counts its lines first, by a division; mostly there is one.
    let mut at = pointer.addr() & !(line - 1);
    while at < end {
        act(at);
        at += line;
    }
    super::barrier::full();
}
