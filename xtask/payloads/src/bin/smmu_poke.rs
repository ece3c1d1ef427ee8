//! Stores to a register of its SMMU that it can read by itself, once for each byte that comes on the console: whether that
//! is taken or refused, and with which syndrome.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use payloads::access::store;
    use payloads::runtime;
    use payloads::tree::number;

    entry!(main);

    /// CMDQ_CONS (IHI 0070, 6.3.28): whatever is stored while the queue is off is no command.
    const CMDQ_CONS: u64 = 0x9c;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let times = guest.tree.argument("times").and_then(number).unwrap_or(1);
        let Some(smmu) = guest.tree.iommu else {
            guest.checks.check(false, format_args!("it has an SMMU"));
            runtime::power_off()
        };
        runtime::listen();
        for time in 1..=times {
            guest.checks.say(format_args!("waits={time};"));
            while !runtime::take_typed() {}
            let refused = store(smmu.base + CMDQ_CONS, 4, 0).refused;
            let syndrome = if refused { runtime::syndrome() } else { 0 };
            guest.checks.say(format_args!("syndrome={syndrome:#x};"));
        }
        guest
            .checks
            .check(true, format_args!("{times} stores, and still here"));
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
