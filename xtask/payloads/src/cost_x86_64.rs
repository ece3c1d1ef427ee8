//! What single instructions take, in ticks of the counter. Where one instruction takes one tick (QEMU's `-icount shift=0`,
//! whose counter has 1 GHz then) these are numbers of instructions.

use crate::tree::Tree;
use core::arch::asm;

/// How often each exit is taken.
pub const ROUNDS: u64 = 64;
/// Line status of COM1, whose low byte is the operand of IN.
const LINE_STATUS: u64 = 0x3fd;
/// IOREGSEL of the I/O APIC (kernel::guest_map::x86_64::IO_APIC), which reads as it was written.
const IO_APIC: u64 = 0xfec0_0000;
/// IA32_APIC_BASE.
const APIC_BASE: u64 = 0x1b;

/// Ticks of ROUNDS times the instruction `$exit`, with `$operand` in RCX and RDX.
macro_rules! ticks {
    ($operand:expr, $exit:literal) => {{
        let (start, end): (u64, u64);
        // SAFETY: `$exit` is a load of a device register without side effect, an instruction that only returns values in EAX to
        // EDX, or nothing; RBX is put back.
        unsafe {
            asm!(
                "mov r8, rbx",
                "lfence",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "mov r10, rax",
                "2:",
                "mov rcx, r9",
                "mov rdx, r9",
                "xor eax, eax",
                $exit,
                "dec r11",
                "jnz 2b",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "mov rbx, r8",
                in("r9") $operand,
                inout("r11") ROUNDS => _,
                out("r8") _,
                out("r10") start,
                out("rax") end,
                out("rcx") _,
                out("rdx") _,
                options(nostack),
            );
        }
        end - start
    }};
}

/// Ticks of [`ROUNDS`] exits of each kind, by name; 0 for one that takes no time.
pub fn exits(_: &Tree<'_>) -> [(&'static str, u64); 5] {
    let loops = ticks!(0u64, "nop");
    [
        ("uart_read", ticks!(LINE_STATUS, "in al, dx")),
        ("ioapic_read", ticks!(IO_APIC, "mov eax, [rcx]")),
        ("vmmcall", ticks!(0u64, "vmmcall")),
        ("cpuid", ticks!(0u64, "cpuid")),
        ("rdmsr", ticks!(APIC_BASE, "rdmsr")),
    ]
    .map(|(name, ticks)| (name, ticks.saturating_sub(loops)))
}
