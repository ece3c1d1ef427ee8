//! A machine that is not there: the names of `aarch64`, over memory of the test that uses them.

pub mod barrier;
pub mod clock;
pub mod cpu;
pub mod guest;
pub mod memory;
pub mod mmio;
pub mod power;
pub mod stage2;
pub mod timer;
pub mod x86_guest;

pub use crate::aarch64::area;
