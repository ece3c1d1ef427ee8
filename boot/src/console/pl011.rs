//! A PL011 (DDI 0183).

use super::wait;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Base of the PL011, 0 before it is known.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Data and flag register, "transmit FIFO full" and "busy", until the last bit has left (3.3).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const TXFF: u32 = 1 << 5;
const BUSY: u32 = 1 << 3;

/// Uses the PL011 at `base`, which firmware has set up.
///
/// # Safety
/// Its registers are mapped there as device memory, now and ever after.
pub unsafe fn init(base: u64) {
    BASE.store(base, Ordering::Release);
}

/// Sends a character.
pub fn put(byte: u8) {
    let base = BASE.load(Ordering::Acquire);
    if base == 0 {
        return;
    }
    wait(|| flags(base) & TXFF != 0);
    // SAFETY: `init`'s caller: a PL011 is mapped at `base`; writing DR sends a character.
    unsafe { asm!("str {:w}, [{}]", in(reg) u32::from(byte), in(reg) base + DR, options(nostack)) };
}

/// Waits until everything has left the UART: power does not wait for it.
pub fn drain() {
    let base = BASE.load(Ordering::Acquire);
    if base != 0 {
        wait(|| flags(base) & BUSY != 0);
    }
}

fn flags(base: u64) -> u32 {
    let now;
    // SAFETY: as above; reading FR has no side effects.
    unsafe { asm!("ldr {:w}, [{}]", out(reg) now, in(reg) base + FR, options(nostack)) };
    now
}
