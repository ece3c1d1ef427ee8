//! Exceptions of the hypervisor itself: none is expected, so each is described and ends in a panic. Interrupts are noted,
//! for whoever waits for them.

use super::area::{self, Local};
use super::descriptors::{CODE, DATA, Gdt, Stack, TASK, Tss, gate};
use super::timer::Deadlines;
use super::{cpu, msr};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;

global_asm!(include_str!("exceptions.S"), handler = sym exception);

/// The registers at an exception, as `exceptions.S` stores them.
#[repr(C)]
#[derive(Debug)]
pub struct ExceptionFrame {
    /// Faulting address of a page fault.
    pub cr2: u64,
    /// r15 down to r8, then rdi, rsi, rbp, rbx, rdx, rcx, rax.
    pub registers: [u64; 15],
    /// Which exception.
    pub vector: u64,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    ss: u64,
}

/// Names of the registers of [`ExceptionFrame::registers`], in its order.
const NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9 ", "r8 ", "rdi", "rsi", "rbp", "rbx", "rdx",
    "rcx", "rax",
];

impl ExceptionFrame {
    /// Where it happened.
    pub fn pc(&self) -> u64 {
        self.rip
    }

    /// RBP: the frame record of the function where it happened.
    pub fn frame_pointer(&self) -> u64 {
        self.registers[10]
    }
}

impl fmt::Display for ExceptionFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (vector {})", name(self.vector), self.vector)?;
        writeln!(
            f,
            "  rip {:016x}  rsp {:016x}  rflags {:08x}  error {:08x}  cr2 {:016x}",
            self.rip, self.rsp, self.rflags, self.error, self.cr2
        )?;
        let mut column = 0;
        for (name, value) in NAMES.iter().zip(self.registers).rev() {
            write!(f, "  {name} {value:016x}")?;
            column += 1;
            if column == 4 {
                column = 0;
                writeln!(f)?;
            }
        }
        writeln!(f)
    }
}

/// What the manual calls a vector (AMD64 Architecture Programmer's Manual, volume 2, table 8-1).
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "NMI",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point",
        21 => "control protection",
        28 => "hypervisor injection",
        29 => "VMM communication",
        30 => "security exception",
        _ => "exception",
    }
}

/// The exception that this CPU ends with, if there is one.
pub fn fatal_frame() -> Option<&'static ExceptionFrame> {
    // SAFETY: the CPU's own record (`area`); this word is null, or points to a frame that is never left.
    unsafe { (*area::local()).in_exception.as_ref() }
}

extern "C" fn exception(frame: &'static ExceptionFrame) {
    if frame.vector >= 32 {
        return cpu::note_interrupt(frame.vector as u8);
    }
    // SAFETY: the CPU's own record (`area`), which nothing else has a reference to.
    let first = unsafe {
        let local = area::local();
        let first = (*local).in_exception.is_null();
        if first {
            (*local).in_exception = frame;
        }
        first
    };
    if !first {
        // Describing the first failed in turn.
        cpu::halt();
    }
    let guards = area::guards(area::current());
    // A push into a guard page is a page fault, which has a stack of its own.
    if frame.vector == 14 && guards.iter().any(|guard| guard.contains(&frame.cr2)) {
        panic!("stack overflow\n{frame}");
    }
    panic!("{frame}");
}

/// The gates, the same for every CPU.
#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written by the CPU that boots alone, before any other runs (`init`).
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static sluice_vectors: u8;
}

/// Bytes from one stub to the next.
const STUB: u64 = 8;

/// Fills the gates.
///
/// # Safety
/// Called once, on the CPU that boots, before others run.
pub unsafe fn init() {
    let first = (&raw const sluice_vectors).addr() as u64;
    // SAFETY: nobody else reads or writes it yet: the caller's promise.
    let gates = unsafe { &mut *IDT.0.get() };
    for (vector, entry) in (0..=u8::MAX).zip(gates) {
        *entry = gate(first + u64::from(vector) * STUB, Stack::of(vector));
    }
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Uses the area at `base`, as CPU `index`: GS, segments, task and gates are its own from here on.
///
/// # Safety
/// The area is this CPU's, mapped, and used by nothing but its stack; [`init`] was called.
pub unsafe fn adopt(base: u64, index: usize) {
    let at = (base + area::NMI_END) as usize;
    let local: *mut Local = core::ptr::with_exposed_provenance_mut(at);
    let tss = at + core::mem::offset_of!(Local, tss);
    // SAFETY: the caller's promise: mapped, aligned, and nobody else's.
    unsafe {
        local.write(Local {
            this: at as u64,
            index: index as u64,
            in_exception: core::ptr::null(),
            interrupts: [0; 4],
            deadlines: Deadlines::NONE,
            gdt: Gdt::new(tss as u64),
            tss: Tss::new(base),
        });
    }
    let gdt = Pointer {
        limit: size_of::<Gdt>() as u16 - 1,
        base: (at + core::mem::offset_of!(Local, gdt)) as u64,
    };
    let idt = Pointer {
        limit: size_of::<Idt>() as u16 - 1,
        base: IDT.0.get().addr() as u64,
    };
    // SAFETY: 1. Both tables are mapped for as long as the CPU runs; the code segment is the one in use, the same bits.
    //         2. FS and GS are loaded before the base of GS is written, which that would clear.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "mov fs, {null:e}",
            "mov gs, {null:e}",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "ltr {task:x}",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            data = in(reg) u64::from(DATA),
            null = in(reg) 0u64,
            code = in(reg) u64::from(CODE),
            task = in(reg) u64::from(TASK),
            scratch = out(reg) _,
        );
        msr::write(msr::GS_BASE, at as u64);
    }
}
