//! I/O ports of the chipset that this crate uses itself.

use x86_64::instructions::port::Port;

/// Reads the byte at `port`.
pub fn read8(port: u16) -> u8 {
    // SAFETY: a port is no memory; the callers in this crate know what theirs does.
    unsafe { Port::new(port).read() }
}

/// Writes the byte at `port`.
///
/// # Safety
/// What the write makes the device do harms nobody's memory.
pub unsafe fn write8(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { Port::new(port).write(value) }
}

/// Reads the 16-bit word at `port`.
pub fn read16(port: u16) -> u16 {
    // SAFETY: as for a byte.
    unsafe { Port::new(port).read() }
}

/// Writes the 16-bit word at `port`.
///
/// # Safety
/// As for a byte.
pub unsafe fn write16(port: u16, value: u16) {
    // SAFETY: the caller's promise.
    unsafe { Port::new(port).write(value) }
}

/// Reads the 32-bit word at `port`.
pub fn read32(port: u16) -> u32 {
    // SAFETY: as for a byte.
    unsafe { Port::new(port).read() }
}
