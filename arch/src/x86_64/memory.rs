//! RAM as the CPU reaches it (identity-mapped), and its caches (AMD64 Architecture Programmer's Manual, volume 2, 7.6).

use core::arch::asm;
use core::arch::x86_64::__cpuid;

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
        // SAFETY: `Frames` checked that the range is its own, and it has no references into it.
        unsafe { pointer.write_bytes(0, len) };
    }

    pub(crate) fn clean(&self, pointer: *mut u8, len: usize) {
        self.clean_invalidate(pointer, len);
    }

    pub(crate) fn clean_invalidate(&self, pointer: *mut u8, len: usize) {
        let line = line();
        let start = pointer.addr() & !(line - 1);
        for at in (start..pointer.addr() + len).step_by(line) {
            // SAFETY: writes a line of memory that `Frames` owns back; no byte changes its value.
            unsafe { asm!("clflush [{}]", in(reg) at, options(nostack, preserves_flags)) };
        }
        super::barrier::full();
    }

    /// Instruction fetch snoops stores (7.6.1); a guest starts with its caches on, as we left them.
    pub(crate) fn sync_icache(&self, _pointer: *mut u8, _len: usize) {
        super::barrier::full();
    }
}

/// Bytes that CLFLUSH writes back: CPUID 1, `EBX[15:8]`, in units of 8.
fn line() -> usize {
    match (__cpuid(1).ebx >> 8 & 0xff) as usize * 8 {
        0 => 64,
        line => line,
    }
}
