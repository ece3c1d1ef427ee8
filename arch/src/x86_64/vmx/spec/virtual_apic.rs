//! The virtual-APIC page ("Virtual APIC State"): registers at the offsets of the local APIC's own page.

/// Task priority.
pub const TPR: usize = 0x80;
/// In service: vectors 0 to 31; seven more follow, [`STRIDE`] apart.
pub const ISR: usize = 0x100;
/// Requested: vectors 0 to 31; seven more follow, [`STRIDE`] apart.
pub const IRR: usize = 0x200;
/// From one register to the next.
pub const STRIDE: usize = 0x10;
