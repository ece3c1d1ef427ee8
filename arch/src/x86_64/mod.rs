//! x86_64 in 64-bit mode. What needs the CPU is there in the image only; the rest is compiled and tested on the host as
//! well.

pub mod svm;
pub mod vcpu;
