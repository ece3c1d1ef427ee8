//! What single instructions take, in ticks of the counter. Where one instruction takes one tick (QEMU's `-icount shift=0`
//! with a counter of 1 GHz) these are numbers of instructions.

use crate::tree::Tree;
use core::arch::asm;

/// How often each exit is taken.
pub const ROUNDS: u64 = 64;
/// UARTFR of the PL011 (DDI 0183G, 3.2).
const UART_FLAGS: u64 = 0x18;
/// GICD_TYPER (IHI 0069, 12.9.38), in kernel::guest_map::GICD.
const GICD_TYPER: u64 = 0x0800_0004;
const PSCI_VERSION: u64 = 0x8400_0000;

/// Ticks of ROUNDS times the instruction `$exit`, with `$operand` in x0.
macro_rules! ticks {
    ($operand:expr, $exit:literal) => {{
        let (start, end): (u64, u64);
        // SAFETY: `$exit` is a load of a device register without side effect, a call that only returns a value in
        // x0 (SMCCC lets it change x0 to x17), or nothing.
        unsafe {
            asm!(
                "isb",
                "mrs x22, cntvct_el0",
                "2:",
                "mov x0, x20",
                $exit,
                "subs x21, x21, #1",
                "b.ne 2b",
                "mrs x23, cntvct_el0",
                in("x20") $operand,
                inout("x21") ROUNDS => _,
                out("x22") start,
                out("x23") end,
                clobber_abi("C"),
            );
        }
        end - start
    }};
}

/// Ticks of [`ROUNDS`] exits of each kind, by name; 0 for one that takes no time.
pub fn exits(tree: &Tree<'_>) -> [(&'static str, u64); 3] {
    let uart = tree.uart.unwrap_or(0) + UART_FLAGS;
    let loops = ticks!(0u64, "nop");
    [
        ("uart_read", ticks!(uart, "ldr w0, [x0]")),
        ("gicd_read", ticks!(GICD_TYPER, "ldr w0, [x0]")),
        ("psci_version", ticks!(PSCI_VERSION, "hvc #0")),
    ]
    .map(|(name, ticks)| (name, ticks.saturating_sub(loops)))
}
