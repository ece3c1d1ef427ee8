//! Says, in ticks of the counter, when its first instruction ran and what an exit to the hypervisor costs. Where one
//! instruction takes one tick (QEMU's `-icount shift=0` with a counter of 1 GHz) these are numbers of instructions.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "its exits are instructions; nothing of this runs at EL2"
    )
)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use core::arch::{asm, global_asm};
    use payloads::runtime;

    entry!(main);

    // Before anything else: the counter goes to x1, which the boot protocol leaves free and aarch64-rt passes on. build.rs
    // makes this the entry point.
    global_asm!(
        ".pushsection .init.stamp, \"ax\"",
        ".global stamp",
        "stamp:",
        "mrs x1, cntvct_el0",
        "b entry",
        ".popsection"
    );

    /// How often each exit is taken.
    const ROUNDS: u64 = 64;
    /// UARTFR of the PL011 (DDI 0183G, 3.2).
    const UART_FLAGS: u64 = 0x18;
    /// GICD_TYPER (IHI 0069, 12.9.38), in kernel::guest_map::GICD.
    const GICD_TYPER: u64 = 0x0800_0004;
    const PSCI_VERSION: u64 = 0x8400_0000;

    /// Ticks of ROUNDS times the instruction `$exit`, with `$operand` in `a`.
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

    fn main(tree: u64, stamp: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let uart = guest.tree.uart.unwrap_or(0) + UART_FLAGS;
        let loops = ticks!(0u64, "nop");
        let exits = [
            ("uart_read", ticks!(uart, "ldr w0, [x0]")),
            ("gicd_read", ticks!(GICD_TYPER, "ldr w0, [x0]")),
            ("psci_version", ticks!(PSCI_VERSION, "hvc #0")),
        ];
        let checks = &mut guest.checks;
        checks.say(format_args!("frequency={};", runtime::frequency()));
        checks.say(format_args!("first={stamp};"));
        for (name, ticks) in exits {
            checks.say(format_args!("{name}={}/{ROUNDS};", ticks - loops));
        }
        let all = exits.iter().all(|(_, ticks)| *ticks > loops);
        checks.check(all, format_args!("every exit takes time"));
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
