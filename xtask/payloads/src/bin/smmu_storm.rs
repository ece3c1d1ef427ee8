//! Has its own SMMU do all the work that it can, by one doorbell each: `storm=KIND,KIND,..`, over and over for `ms=N`
//! (once where there is no number). Kinds: `full` (the largest queue there is, full of invalidations), `syncs` (each with a
//! CMD_SYNC), `signals` (a CMD_SYNC with an interrupt each), `ranges`, `all`, `contexts`, `streams`, `changes` (the stream's
//! entry, back and forth), `every` (CMD_CFGI_ALL), `hints`, `wrong` (commands that there are not). `streams=off`: its stream
//! is never configured, as translation stays off. It says when it rang last, and when all was over.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use core::sync::atomic::Ordering;
    use payloads::runtime;
    use payloads::smmu::{CFGI_ALL, SYNC, Smmu, TLBI_ALL, cfgi_cd, cfgi_ste, tlbi};
    use payloads::stage_one::{Granule, StageOne};
    use payloads::tree::number;

    entry!(main);

    /// The guest's name for its only function, 00:01.0.
    const STREAM: u32 = 8;
    /// Commands of a kind that takes long.
    const SOME: u32 = 1 << 10;

    /// CMD_SYNC with CS = IRQ (IHI 0070, 4.7.3): the wire.
    const SIGNAL: [u64; 2] = [0x46 | 1 << 12, 0];
    /// CMD_PREFETCH_CONFIG.
    const HINT: [u64; 2] = [0x01 | 8 << 32, 0];
    /// No command.
    const WRONG: [u64; 2] = [0xff, 0];

    fn post(smmu: &mut Smmu, count: u32, command: impl Fn(u32) -> [u64; 2]) -> u32 {
        for index in 0..count {
            smmu.post(command(index));
        }
        count
    }

    /// Posts and rings, at `rang`; how many commands, and whether all of it came to its end.
    fn storm(smmu: &mut Smmu, kind: &str, largest: u32, rang: &mut u64) -> (u32, bool) {
        let page = |index: u32| tlbi(u64::from(index) << 12);
        let pairs =
            |other: [u64; 2]| move |index: u32| if index & 1 == 0 { page(index) } else { other };
        let count = match kind {
            "full" => post(smmu, 1 << largest, page),
            "syncs" => post(smmu, 1 << (largest - 4), pairs(SYNC)),
            "signals" => post(smmu, SOME, pairs(SIGNAL)),
            // 32 pages of 4 KiB.
            "ranges" => post(smmu, 16 * SOME, |index| {
                let [first, second] = page(index);
                [first | 31 << 12, second | 1 << 10 | 3 << 8]
            }),
            "all" => post(smmu, 16 * SOME, |_| TLBI_ALL),
            "contexts" => post(smmu, SOME, |_| cfgi_cd(STREAM)),
            "streams" => post(smmu, SOME, |_| cfgi_ste(STREAM)),
            "every" => post(smmu, SOME, |_| CFGI_ALL),
            "hints" => post(smmu, 16 * SOME, |_| HINT),
            "changes" => {
                let entry = smmu.entry(STREAM);
                let valid = entry[0].load(Ordering::Relaxed);
                let mut good = true;
                for round in 0..32 {
                    let word = if round & 1 == 0 { 0 } else { valid };
                    entry[0].store(word, Ordering::Release);
                    smmu.post(cfgi_ste(STREAM));
                    smmu.ring();
                    good &= smmu.settled();
                }
                return (32, good);
            }
            "wrong" => {
                let mut good = true;
                for _ in 0..8 {
                    post(smmu, 64, page);
                    smmu.post(WRONG);
                    smmu.ring();
                    good &= smmu.stopped_at(1) && smmu.start(largest);
                }
                return (8 * 65, good);
            }
            _ => return (0, false),
        };
        *rang = runtime::ticks();
        smmu.ring();
        (count, smmu.settled())
    }

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let Some(mut smmu) = Smmu::find(&guest.tree) else {
            guest.checks.check(false, format_args!("it has an SMMU"));
            runtime::power_off()
        };
        let largest = smmu.largest();
        smmu.translates = guest.tree.argument("streams") != Some("off");
        let mut good = smmu.start(largest);
        if smmu.translates {
            StageOne::empty(&smmu, STREAM, Granule::Four);
            smmu.post(CFGI_ALL);
            smmu.ring();
        }
        good &= smmu.settled();
        let ms = guest.tree.argument("ms").and_then(number).unwrap_or(0);
        let kinds = guest.tree.argument("storm").unwrap_or("full");
        let end = runtime::now_ns() + ms * 1_000_000;
        let (mut commands, mut rang) = (0_u64, 0);
        loop {
            for kind in kinds.split(',') {
                let (count, done) = storm(&mut smmu, kind, largest, &mut rang);
                if !done {
                    guest
                        .checks
                        .check(false, format_args!("{kind} comes to its end"));
                }
                good &= done;
                commands += u64::from(count);
            }
            if !good || runtime::now_ns() >= end {
                break;
            }
        }
        guest.checks.say(format_args!("queue={largest};"));
        guest.checks.say(format_args!("commands={commands};"));
        guest.checks.say(format_args!("rang={rang};"));
        let over = runtime::ticks();
        guest.checks.say(format_args!("over={over};"));
        let checks = &mut guest.checks;
        checks.check(good, format_args!("every command is done"));
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
