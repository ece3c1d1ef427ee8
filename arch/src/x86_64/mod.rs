//! x86_64 in 64-bit mode. What needs the CPU is there in the image only; the rest is compiled and tested on the host as
//! well.

#[cfg(target_os = "none")]
pub mod apic;
pub mod area;
#[cfg(target_os = "none")]
pub mod barrier;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod cpu;
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod exceptions;
pub mod ioapic;
#[cfg(target_os = "none")]
mod kept;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod mmu;
#[cfg(target_os = "none")]
pub mod msr;
#[cfg(target_os = "none")]
pub mod pic;
#[cfg(target_os = "none")]
pub mod port;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(any(target_os = "none", test))]
pub mod rtc;
#[cfg(target_os = "none")]
pub mod smp;
pub mod svm;
#[cfg(target_os = "none")]
pub mod technology;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod uart16550;
pub mod vcpu;
pub mod vmx;
