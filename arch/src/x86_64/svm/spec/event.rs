//! EVENTINJ (15.20) and EXITINTINFO (15.7.2), which have one layout: vector 7:0, type 10:8, EV 11, V 31, error code 63:32.

/// Position of the type.
pub const TYPE_SHIFT: u32 = 8;
/// A physical or virtual interrupt.
pub const INTERRUPT: u64 = 0;
/// NMI.
pub const NMI: u64 = 2;
/// An exception.
pub const EXCEPTION: u64 = 3;
/// There is an error code.
pub const HAS_ERROR: u64 = 1 << 11;
/// There is an event.
pub const VALID: u64 = 1 << 31;
/// Position of the error code.
pub const ERROR_SHIFT: u32 = 32;
