//! The entry itself, and what a CPU needs before the first.

use super::features::{Features, Unsupported, Words};
use super::guest::Processor;
use super::spec::feature;
use super::spec::vmcb::{EFER_SVME, Vmcb};
use crate::x86_64::vcpu::Registers;
use crate::x86_64::{kept, msr};
use alloc::boxed::Box;
use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};
use core::mem::offset_of;

unsafe extern "C" {
    fn sluice_svm_enter(registers: *mut Registers, vmcb: u64, host: u64);
}

const _: () = {
    assert!(offset_of!(Registers, general) == 0);
};

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
    "mov rcx, [rdi + 0x08]",
    "mov rdx, [rdi + 0x10]",
    "mov rbx, [rdi + 0x18]",
    "mov rbp, [rdi + 0x28]",
    "mov rsi, [rdi + 0x30]",
    "mov r8, [rdi + 0x40]",
    "mov r9, [rdi + 0x48]",
    "mov r10, [rdi + 0x50]",
    "mov r11, [rdi + 0x58]",
    "mov r12, [rdi + 0x60]",
    "mov r13, [rdi + 0x68]",
    "mov r14, [rdi + 0x70]",
    "mov r15, [rdi + 0x78]",
    "mov rdi, [rdi + 0x38]",
    "vmrun rax",
    "vmsave rax",
    "mov rax, [rsp + 8]",
    "vmload rax",
    "cli",
    "stgi",
    "mov rax, [rsp]",
    "mov [rax + 0x08], rcx",
    "mov [rax + 0x10], rdx",
    "mov [rax + 0x18], rbx",
    "mov [rax + 0x28], rbp",
    "mov [rax + 0x30], rsi",
    "mov [rax + 0x38], rdi",
    "mov [rax + 0x40], r8",
    "mov [rax + 0x48], r9",
    "mov [rax + 0x50], r10",
    "mov [rax + 0x58], r11",
    "mov [rax + 0x60], r12",
    "mov [rax + 0x68], r13",
    "mov [rax + 0x70], r14",
    "mov [rax + 0x78], r15",
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

#[repr(C, align(4096))]
#[derive(Debug)]
struct Page([u8; 4096]);

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
        let page = || Box::new(Page([0; 4096]));
        Self {
            host: page(),
            save: page(),
        }
    }
}

fn address(page: &mut Page) -> u64 {
    (&raw mut *page).expose_provenance() as u64
}

impl Processor for Cpu {
    fn prepare(&mut self) {
        let (host, save) = (address(&mut self.host), address(&mut self.save));
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
        let host = address(&mut self.host);
        let block = (&raw mut *vmcb).expose_provenance() as u64;
        // SAFETY: 1. The guest reaches its own memory only, which the nested tables say, and the registers that VMRUN, VMLOAD
        //            and this code load and store; what else it can change stays the guest's, or is denied by the maps.
        //         2. The block is a page that is ours alone, and so is `host`, which `prepare` filled.
        //         3. Interrupts are masked before and after, and the stack and the callee-saved registers are as they were.
        unsafe { sluice_svm_enter(registers, block, host) };
    }
}
