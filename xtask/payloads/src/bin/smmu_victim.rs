//! Unmaps one page, again and again (`unmaps=N`, 256 if not said, and more until `ms=N` are over; the first after
//! `after=N` ms), beside whoever else there is; each has to be complete. It says how many ticks the longest of all took, and
//! of the first ones, and when these and all of them were over.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use payloads::runtime;
    use payloads::smmu::{CFGI_ALL, SYNC, Smmu, tlbi};
    use payloads::stage_one::{Granule, StageOne};
    use payloads::tree::number;

    entry!(main);

    /// The guest's name for its only function, 00:01.0.
    const STREAM: u32 = 8;
    /// Unmaps that are the first ones.
    const FIRST: u64 = 64;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let Some(mut smmu) = Smmu::find(&guest.tree) else {
            guest.checks.check(false, format_args!("it has an SMMU"));
            runtime::power_off()
        };
        let argument = |key| guest.tree.argument(key).and_then(number);
        let unmaps = argument("unmaps").unwrap_or(256);
        let [after, ms] = ["after", "ms"].map(|key| argument(key).unwrap_or(0));
        let mut good = smmu.start(8);
        StageOne::empty(&smmu, STREAM, Granule::Four);
        smmu.post(CFGI_ALL);
        smmu.ring();
        good &= smmu.settled();
        runtime::sleep_ms(after);
        let end = runtime::ticks() + runtime::frequency() / 1000 * ms;
        let (mut done, mut longest) = (0, 0);
        let (mut first, mut first_over) = (0, 0);
        while done < unmaps || runtime::ticks() < end {
            smmu.post(tlbi((done & 0xffff) << 12));
            smmu.post(SYNC);
            let start = runtime::ticks();
            smmu.ring();
            good &= smmu.settled();
            longest = longest.max(runtime::ticks() - start);
            done += 1;
            if done == FIRST {
                (first, first_over) = (longest, runtime::ticks());
            }
        }
        let over = runtime::ticks();
        for (name, ticks) in [
            ("first", first),
            ("first_over", first_over),
            ("longest", longest),
            ("over", over),
        ] {
            guest.checks.say(format_args!("{name}={ticks};"));
        }
        guest.checks.check(
            good,
            format_args!("{done} unmaps are complete, nothing is wrong"),
        );
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
