//! Intel's VMX (Intel SDM, volume 3, from "Introduction to Virtual Machine Extensions" on), with EPT, VPID and unrestricted
//! guests: the sibling of [`svm`](super::svm) behind [`Virtualization`](super::vcpu::Virtualization).
//!
//! All but the instructions themselves ([`Processor`]) is compiled and tested on the host. QEMU's TCG has no VMX: those run in
//! Bochs.
//!
//! Nothing is done here against what guests can learn by timing from a CPU's caches and predictors.

mod bitmap;
mod decode;
#[cfg(target_os = "none")]
mod enter;
mod features;
mod guest;
pub mod spec;
#[cfg(test)]
mod tests;
mod vmcs;

pub use bitmap::Bitmaps;
#[cfg(target_os = "none")]
pub use enter::{Cpu, features};
pub use features::{Features, Unsupported, Words};
pub use guest::{Guest, Processor};
