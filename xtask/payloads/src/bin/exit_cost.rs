//! Says, in ticks of the counter, what an exit to the hypervisor costs (`payloads::cost`); and on AArch64, where a guest
//! sees the machine's counter, when its first instruction ran.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    all(target_os = "none", target_arch = "aarch64"),
    expect(
        unsafe_code,
        reason = "its first instruction is no Rust; nothing of this runs at EL2"
    )
)]

#[cfg(target_os = "none")]
mod scenario {
    use payloads::cost::{ROUNDS, exits};
    use payloads::runtime::{self, entry};

    entry!(main);

    // Before anything else: the counter goes to x1, which the boot protocol leaves free and aarch64-rt passes on. build.rs
    // makes this the entry point.
    #[cfg(target_arch = "aarch64")]
    core::arch::global_asm!(
        ".pushsection .init.stamp, \"ax\"",
        ".global stamp",
        "stamp:",
        "mrs x1, cntvct_el0",
        "b entry",
        ".popsection"
    );

    fn main(tree: u64, stamp: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let exits = exits(&guest.tree);
        let checks = &mut guest.checks;
        checks.say(format_args!("frequency={};", runtime::frequency()));
        if cfg!(target_arch = "aarch64") {
            checks.say(format_args!("first={stamp};"));
        }
        for (name, ticks) in exits {
            checks.say(format_args!("{name}={ticks}/{ROUNDS};"));
        }
        let all = exits.iter().all(|(_, ticks)| *ticks > 0);
        checks.check(all, format_args!("every exit takes time"));
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
