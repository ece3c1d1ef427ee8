//! The entry itself, and what a CPU needs before the first.

use super::features::{Features, Unsupported, Words};
use super::guest::Processor;
use super::spec::feature;
use super::spec::vmcb::{EFER_SVME, Vmcb};
use crate::x86_64::vcpu::Registers;
use crate::x86_64::vcpu::software::{Page, load_general, store_general};
use crate::x86_64::{kept, msr};
use alloc::boxed::Box;
use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};

unsafe extern "C" {
    fn sluice_svm_enter(registers: *mut Registers, vmcb: u64, host: u64);
}

// VMRUN loads and stores RAX, RSP, RIP and RFLAGS, the segments but FS, GS, LDTR and TR, and control registers (15.5.1);
// VMLOAD and VMSAVE the rest of the segments and the registers for system calls (15.5.2).
//
// Interrupts are masked by GIF from before the guest's GS is loaded until ours is back; IF is set in between, as a physical
// interrupt is what makes the guest exit then (15.21.1). An NMI that did so comes at STGI.
global_asm!(
    ".pushsection .text.sluice_svm_enter, \"ax\"",
    ".global sluice_svm_enter",
    "sluice_svm_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdx",
    "push rdi",
    "mov rax, rsi",
    "clgi",
    "sti",
    "vmload rax",
    load_general!(),
    "vmrun rax",
    "vmsave rax",
    "mov rax, [rsp + 8]",
    "vmload rax",
    "cli",
    "stgi",
    "mov rax, [rsp]",
    store_general!(),
    "pop rdi",
    "pop rdx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
);

/// What the SVM of this CPU has.
///
/// # Errors
/// [`Unsupported`].
pub fn features() -> Result<Features, Unsupported> {
    let last = __cpuid(0x8000_0000).eax;
    let mut words = Words {
        last,
        ..Words::default()
    };
    if last >= 0x8000_000a {
        words.extended = __cpuid(0x8000_0001).ecx;
        if words.extended & feature::SVM != 0 {
            let leaf = __cpuid(0x8000_000a);
            words.asids = leaf.ebx;
            words.svm = leaf.edx;
            words.vm_cr = msr::read(feature::VM_CR);
        }
    }
    Features::new(&words)
}

/// The CPU that a vCPU runs on, and the memory that it needs for that.
#[derive(Debug)]
pub struct Cpu {
    /// What VMSAVE keeps of the hypervisor's: it never changes.
    host: Box<Page>,
    /// VM_HSAVE_PA: the CPU's own (15.30.4).
    save: Box<Page>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            host: Page::new(),
            save: Page::new(),
        }
    }
}

impl Processor for Cpu {
    fn prepare(&mut self) {
        let (host, save) = (self.host.address_mut(), self.save.address_mut());
        // SAFETY: 1. `features` found SVM, and that it can be turned on; EFER keeps its other bits.
        //         2. Both pages are this CPU's from here on, memory is where its physical address says, and VMSAVE stores
        //            inside of its page what is in force.
        unsafe {
            msr::write(msr::EFER, msr::read(msr::EFER) | EFER_SVME);
            msr::write(feature::VM_HSAVE_PA, save);
            asm!("vmsave rax", in("rax") host, options(nostack, preserves_flags));
        }
        kept::reset();
    }

    fn enter(&mut self, vmcb: &mut Vmcb, registers: &mut Registers) {
        let host = self.host.address_mut();
        let block = (&raw mut *vmcb).expose_provenance() as u64;
        // SAFETY: 1. The guest reaches its own memory only, which the nested tables say, and the registers that VMRUN, VMLOAD
        //            and this code load and store; what else it can change stays the guest's, or is denied by the maps.
        //         2. The block is a page that is ours alone, and so is `host`, which `prepare` filled.
        //         3. Interrupts are masked before and after, and the stack and the callee-saved registers are as they were.
        unsafe { sluice_svm_enter(registers, block, host) };
    }
}
