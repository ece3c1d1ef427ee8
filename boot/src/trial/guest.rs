//! The guest itself, and how its memory looks before its first instruction.

use arch::memory::Frames;
use core::arch::global_asm;

/// Guest memory, and what is where in it.
pub const MEMORY: u64 = 0x1_0000;
pub const TABLES: u64 = 0x1000;
pub const CODE: u64 = 0x3000;
pub const IDT: u64 = 0x4000;
pub const GDT: u64 = 0x5000;
/// A stack of its own, one page, for the delivery that is interrupted.
pub const STACK: u64 = 0xa000;

unsafe extern "C" {
    static sluice_trial: u8;
    static sluice_trial_end: u8;
    static sluice_trial_flag: u8;
    static sluice_trial_nmi: u8;
    static sluice_trial_undefined: u8;
    static sluice_trial_protection: u8;
    static sluice_trial_interrupt: u8;
}

global_asm!(
    ".pushsection .rodata.sluice_trial, \"a\"",
    ".global sluice_trial, sluice_trial_end, sluice_trial_nmi, sluice_trial_undefined",
    ".global sluice_trial_protection, sluice_trial_interrupt",
    "sluice_trial:",
    "mov esp, 0x8000",
    "mov dx, 0x3f8",
    "lea rsi, [rip + 90f]",
    "1: lodsb",
    "test al, al",
    "jz 2f",
    "out dx, al",
    "jmp 1b",
    // What CPUID says is what the hypervisor says.
    "2: mov eax, 0x40000000",
    "cpuid",
    "mov eax, ebx",
    "mov dx, 0x3f8",
    "out dx, al",
    // A register that is denied, and an instruction that it does not have.
    "mov ecx, 0xc0010117",
    "rdmsr",
    "xor eax, eax",
    "vmrun rax",
    // A register of its own: KernelGSBase.
    "mov ecx, 0xc0000102",
    "mov eax, 0x33445566",
    "mov edx, 0x1122",
    "wrmsr",
    "xor eax, eax",
    "xor edx, edx",
    "rdmsr",
    "cmp eax, 0x33445566",
    "jne 3f",
    "cmp edx, 0x1122",
    "jne 3f",
    "mov al, 'K'",
    "mov dx, 0x3f8",
    "out dx, al",
    // Floating point is as after reset.
    "3: mov rax, cr4",
    "or rax, 0x200",
    "mov cr4, rax",
    "movq rax, xmm7",
    "test rax, rax",
    "jnz 4f",
    "mov al, 'F'",
    "out dx, al",
    // Nothing is there: a store, a load of what the hypervisor answers, and a byte read into AL.
    "4: mov ebx, 0x40000123",
    "mov byte ptr [rbx], 0x5a",
    "mov al, [rbx + 1]",
    "mov dx, 0x3f8",
    "out dx, al",
    "in al, dx",
    "out dx, al",
    // An interrupt that is taken at once, one that waits for STI, one whose stack is not there yet, and an NMI.
    "sti",
    "hlt",
    "cli",
    "hlt",
    "nop",
    "sti",
    "nop",
    "nop",
    "mov esp, 0xb000",
    "hlt",
    "hlt",
    // A loop that only a physical interrupt takes the CPU from.
    "hlt",
    "5: cmp byte ptr [rip + 92f], 0",
    "je 5b",
    "mov al, 'T'",
    "mov dx, 0x3f8",
    "out dx, al",
    "mov al, 10",
    "mov dx, 0x3f8",
    "out dx, al",
    // No IDT: a triple fault.
    "lea rax, [rip + 91f]",
    "lidt [rax]",
    "ud2",
    "sluice_trial_undefined:",
    "mov al, 'U'",
    "mov dx, 0x3f8",
    "out dx, al",
    "add qword ptr [rsp], 3",
    "iretq",
    "sluice_trial_protection:",
    "pop rax",
    "add al, 'G'",
    "mov dx, 0x3f8",
    "out dx, al",
    "add qword ptr [rsp], 2",
    "iretq",
    "sluice_trial_nmi:",
    "mov al, 'N'",
    "mov dx, 0x3f8",
    "out dx, al",
    "iretq",
    "sluice_trial_interrupt:",
    "mov al, 'I'",
    "mov dx, 0x3f8",
    "out dx, al",
    "iretq",
    "90: .asciz \"hello from a guest: \"",
    "91: .quad 0, 0",
    ".global sluice_trial_flag",
    "sluice_trial_flag:",
    "92: .byte 0",
    "sluice_trial_end:",
    ".popsection",
);

/// Where `symbol` is in the guest.
fn guest_address(symbol: *const u8) -> u64 {
    CODE + (symbol.addr() - (&raw const sluice_trial).addr()) as u64
}

/// Puts the guest into its memory: code, page tables, GDT and IDT.
pub fn load(memory: &Frames) {
    let first = &raw const sluice_trial;
    let len = (&raw const sluice_trial_end).addr() - first.addr();
    // SAFETY: the bytes between two labels of the image's constants.
    let code = unsafe { core::slice::from_raw_parts(first, len) };
    memory.write_bytes(CODE as usize, code);
    // Its own tables: what is below 4 GiB is where it is, by leaves of 1 GiB (P, R/W, PS).
    memory.write64(TABLES as usize, (TABLES + 0x1000) | 3);
    for n in 0..4 {
        memory.write64(TABLES as usize + 0x1000 + n * 8, (n as u64) << 30 | 0x83);
    }
    // Null, null, code and data, for selectors 0x10 and 0x18.
    for (n, descriptor) in [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        .into_iter()
        .enumerate()
    {
        memory.write64(GDT as usize + n * 8, descriptor);
    }
    let handlers = [
        (2, &raw const sluice_trial_nmi),
        (6, &raw const sluice_trial_undefined),
        (13, &raw const sluice_trial_protection),
        (0x41, &raw const sluice_trial_interrupt),
    ];
    for (vector, handler) in handlers {
        let at = guest_address(handler);
        let gate = (at & 0xffff) | 0x10 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        memory.write64(IDT as usize + vector * 16, gate);
    }
}

/// Ends its loop.
pub fn let_go(memory: &Frames) {
    let flag = guest_address(&raw const sluice_trial_flag);
    memory.write_bytes(flag as usize, &[1]);
}
