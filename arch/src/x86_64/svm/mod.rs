//! AMD's Secure Virtual Machine (AMD64 Architecture Programmer's Manual, volume 2, chapter 15).
//!
//! Neither NRIPS nor decode assists nor FlushByAsid are needed. All but the entry itself ([`Processor`]) is compiled and
//! tested on the host.
//!
//! Nothing is done here against what guests can learn by timing from a CPU's caches and predictors.

mod decode;
#[cfg(target_os = "none")]
mod enter;
mod features;
mod guest;
mod maps;
mod nmi;
pub mod spec;
#[cfg(test)]
mod tests;

pub use features::{Features, Unsupported, Words};
pub use guest::{Guest, Processor};
pub use maps::Maps;

#[cfg(target_os = "none")]
pub use enter::{Cpu, features};
