//! Has the CPUs of a machine whose instructions are counted (QEMU's `-icount`) take turns, for `ms=N`. QEMU carries one CPU
//! out after the other, each for its part of what is left until the next timer ends; so one ends soon here, always: the
//! turns of the other CPUs are of `turn=N` ticks at most, less than any work that is looked at. It takes none itself, as
//! setting a timer ends a turn.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use payloads::runtime;
    use payloads::tree::number;

    entry!(main);

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let argument = |key| guest.tree.argument(key).and_then(number).unwrap_or(0);
        let (ms, turn, cpus) = (argument("ms"), argument("turn"), argument("cpus"));
        let start = runtime::ticks();
        let end = start + runtime::frequency() / 1000 * ms;
        let mut turns = 0_u64;
        while runtime::ticks() < end {
            runtime::set_timer(runtime::ticks() + turn * cpus);
            turns += 1;
        }
        let each = (runtime::ticks() - start) / turns.max(1);
        guest.checks.check(
            each <= turn * cpus,
            format_args!("{turns} turns of {each} ticks"),
        );
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
