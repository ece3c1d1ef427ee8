//! What entries by SVM and by VMX share: the registers that the CPU leaves to software, and pages that it keeps.

use alloc::boxed::Box;

/// Code that loads the general registers but RAX and RSP from [`Registers::general`](super::Registers::general), where RDI is.
/// No MOV changes the flags.
macro_rules! load_general {
    () => {
        concat!(
            "mov rcx, [rdi + 0x08]\n",
            "mov rdx, [rdi + 0x10]\n",
            "mov rbx, [rdi + 0x18]\n",
            "mov rbp, [rdi + 0x28]\n",
            "mov rsi, [rdi + 0x30]\n",
            "mov r8, [rdi + 0x40]\n",
            "mov r9, [rdi + 0x48]\n",
            "mov r10, [rdi + 0x50]\n",
            "mov r11, [rdi + 0x58]\n",
            "mov r12, [rdi + 0x60]\n",
            "mov r13, [rdi + 0x68]\n",
            "mov r14, [rdi + 0x70]\n",
            "mov r15, [rdi + 0x78]\n",
            "mov rdi, [rdi + 0x38]",
        )
    };
}

/// Code that stores them there, where RAX is.
macro_rules! store_general {
    () => {
        concat!(
            "mov [rax + 0x08], rcx\n",
            "mov [rax + 0x10], rdx\n",
            "mov [rax + 0x18], rbx\n",
            "mov [rax + 0x28], rbp\n",
            "mov [rax + 0x30], rsi\n",
            "mov [rax + 0x38], rdi\n",
            "mov [rax + 0x40], r8\n",
            "mov [rax + 0x48], r9\n",
            "mov [rax + 0x50], r10\n",
            "mov [rax + 0x58], r11\n",
            "mov [rax + 0x60], r12\n",
            "mov [rax + 0x68], r13\n",
            "mov [rax + 0x70], r14\n",
            "mov [rax + 0x78], r15",
        )
    };
}

const _: () = assert!(core::mem::offset_of!(super::Registers, general) == 0);

pub(in crate::x86_64) use {load_general, store_general};

/// A page that the CPU reads and writes.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(in crate::x86_64) struct Page(pub(in crate::x86_64) [u8; 4096]);

impl Page {
    /// One full of zeros.
    pub(in crate::x86_64) fn new() -> Box<Self> {
        Box::new(Self([0; 4096]))
    }

    /// Its physical address.
    pub(in crate::x86_64) fn address(&self) -> u64 {
        (&raw const *self).expose_provenance() as u64
    }

    /// Its physical address, for whoever writes it.
    pub(in crate::x86_64) fn address_mut(&mut self) -> u64 {
        (&raw mut *self).expose_provenance() as u64
    }
}
