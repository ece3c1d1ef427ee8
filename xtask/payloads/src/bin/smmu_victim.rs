//! Unmaps one page, again and again (`unmaps=N`, 256 if not said), beside whoever else there is; each has to be complete.
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

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let Some(mut smmu) = Smmu::find(&guest.tree) else {
            guest.checks.check(false, format_args!("it has an SMMU"));
            runtime::power_off()
        };
        let unmaps = guest.tree.argument("unmaps").and_then(number);
        let unmaps = unmaps.unwrap_or(256);
        let mut good = smmu.start(8);
        StageOne::empty(&smmu, STREAM, Granule::Four);
        smmu.post(CFGI_ALL);
        smmu.ring();
        good &= smmu.settled();
        for index in 0..unmaps {
            smmu.post(tlbi(index << 12));
            smmu.post(SYNC);
            smmu.ring();
            good &= smmu.settled();
        }
        guest.checks.check(
            good,
            format_args!("{unmaps} unmaps are complete, nothing is wrong"),
        );
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
