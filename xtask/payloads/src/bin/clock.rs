//! A clock (PL031) of the machine's that was given to this partition: it counts, its interrupt arrives, and what lies beside
//! it in the machine is not there.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use payloads::access;
    use payloads::pci::register;
    use payloads::runtime;

    entry!(main);

    // PL031 registers (DDI 0224C, 3.2).
    const DATA: u64 = 0x00;
    const MATCH: u64 = 0x04;
    const MASK: u64 = 0x10;
    const CLEAR: u64 = 0x1c;

    // GICD registers (IHI 0069, 12.9): the place is kernel::guest_map's.
    const GICD: u64 = 0x0800_0000;
    const CTLR: u64 = GICD;
    const GROUP: u64 = GICD + 0x80;
    const ENABLE: u64 = GICD + 0x100;
    const PENDING: u64 = GICD + 0x200;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let Some(clock) = guest.tree.clock else {
            guest.checks.check(false, format_args!("no clock"));
            guest.checks.finish();
            runtime::power_off()
        };
        let at = clock.registers.base;
        let before = register(at + DATA).read();
        runtime::sleep_ms(1500);
        let passed = register(at + DATA).read().wrapping_sub(before);
        guest.checks.check(
            (1..=60).contains(&passed),
            format_args!("{passed} s of the clock in one and a half"),
        );

        // Affinity routing and both groups; then this interrupt, in group 1.
        let (word, bit) = (u64::from(clock.intid / 32) * 4, 1 << (clock.intid % 32));
        register(CTLR).write(0x13);
        register(GROUP + word).write(bit);
        register(ENABLE + word).write(bit);
        let pending = || register(PENDING + word).read() & bit != 0;
        guest
            .checks
            .check(!pending(), format_args!("its interrupt is quiet"));
        register(at + CLEAR).write(1);
        register(at + MATCH).write(register(at + DATA).read() + 1);
        register(at + MASK).write(1);
        let end = runtime::now_ns() + 20_000_000_000;
        while !pending() && runtime::now_ns() < end {
            core::hint::spin_loop();
        }
        guest
            .checks
            .check(pending(), format_args!("interrupt {} arrives", clock.intid));

        // The next page, and where the machine has this clock and other devices: QEMU's second UART, GPIO, SMMU.
        for stranger in [
            at + 0x1000,
            0x0901_0000,
            0x0903_0000,
            0x0904_0000,
            0x0905_0000,
        ] {
            let nothing =
                access::load(stranger, 4).refused && access::store(stranger, 4, 1).refused;
            guest
                .checks
                .check(nothing, format_args!("nothing at {stranger:#x}"));
        }
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
