//! Registers of the 82093AA (Intel 290566, chapter 3), and what version 0x20 adds.

/// Offsets in the page.
pub mod offset {
    /// Index of the register behind the window.
    pub const SELECT: u64 = 0x00;
    /// The window.
    pub const WINDOW: u64 = 0x10;
    /// Version 0x20: ends the interrupts of a vector.
    pub const EOI: u64 = 0x40;
}

/// Indices of registers behind the window.
pub mod register {
    /// Identification (§3.2.1).
    pub const ID: u8 = 0;
    /// Version (§3.2.2).
    pub const VERSION: u8 = 1;
    /// Arbitration (§3.2.3).
    pub const ARBITRATION: u8 = 2;
    /// Redirection table, two registers a pin (§3.2.4).
    pub const REDIRECTION: u8 = 0x10;
}

/// What an identification register holds.
pub const ID_WRITABLE: u32 = 0x0f00_0000;

/// Redirection entry (§3.2.4). The destination is bits 63:56, which version 0x20 extends down to bit 48; in the remappable
/// format bit 48 is set, and bits 63:49 and 11 are the handle (VT-d, §5.1.2.1).
pub mod entry {
    /// Delivery mode.
    pub const MODE_SHIFT: u32 = 8;
    /// Logical destination.
    pub const LOGICAL: u64 = 1 << 11;
    /// Remote IRR: sent, and not yet ended. Read-only.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// No interrupt.
    pub const MASKED: u64 = 1 << 16;
    /// Polarity is kept and does nothing: lines are asserted or not. Delivery status reads as idle.
    pub const WRITABLE: u64 = 0xffff_0000_0001_afff;
}
