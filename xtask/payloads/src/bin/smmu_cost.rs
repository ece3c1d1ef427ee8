//! Says, in ticks of the counter, what its own SMMU costs it: a look at a register, a map, an unmap, commands by the
//! dozen, a queue that is full. `unmaps=N` and `maps=N` say how many of these; `log2=N` how long a full queue is. Where one
//! instruction takes one tick (QEMU's `-icount shift=0` with a counter of 1 GHz) these are numbers of instructions.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "what it measures are single instructions; nothing of this runs at EL2"
    )
)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use core::arch::asm;
    use payloads::runtime;
    use payloads::smmu::{self, CFGI_ALL, SYNC, Smmu, tlbi};
    use payloads::stage_one::{Granule, StageOne};
    use payloads::tree::number;

    entry!(main);

    /// The guest's name for its only function, 00:01.0.
    const STREAM: u32 = 8;
    /// Looks at a register.
    const LOOKS: u64 = 64;
    /// Invalidations of a larger batch, which one exit does.
    const MANY: u64 = 5;

    /// Ticks of one store.
    fn store(address: u64, value: u32) -> u64 {
        let (start, end): (u64, u64);
        // SAFETY: the doorbell of the guest's own SMMU.
        unsafe {
            asm!(
                "dsb ishst",
                "isb",
                "mrs {start}, cntvct_el0",
                "str {value:w}, [{address}]",
                "mrs {end}, cntvct_el0",
                address = in(reg) address,
                value = in(reg) value,
                start = out(reg) start,
                end = out(reg) end,
                options(nostack)
            );
        }
        end - start
    }

    /// Ticks of so many loads.
    fn loads(address: u64, count: u64) -> u64 {
        let (start, end): (u64, u64);
        // SAFETY: a register that has no side effect when it is read.
        unsafe {
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                "2: ldr {value:w}, [{address}]",
                "subs {count}, {count}, #1",
                "b.ne 2b",
                "mrs {end}, cntvct_el0",
                address = in(reg) address,
                count = inout(reg) count => _,
                value = out(reg) _,
                start = out(reg) start,
                end = out(reg) end,
                options(nostack)
            );
        }
        end - start
    }

    /// Ticks of one doorbell for what was posted; it has to be all done at once.
    fn ring(smmu: &mut Smmu, good: &mut bool) -> u64 {
        let ticks = store(smmu.doorbell(), smmu.produced());
        *good &= smmu.settled();
        ticks
    }

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let argument = |key, otherwise| {
            let value = guest.tree.argument(key).and_then(number);
            value.unwrap_or(otherwise)
        };
        let (unmaps, maps) = (argument("unmaps", 16), argument("maps", 16));
        let log2 = argument("log2", 10) as u32;
        let Some(mut smmu) = Smmu::find(&guest.tree) else {
            guest.checks.check(false, format_args!("it has an SMMU"));
            runtime::power_off()
        };
        let largest = smmu.largest();
        let mut good = smmu.start(log2.min(largest));
        let stage = StageOne::empty(&smmu, STREAM, Granule::Four);
        smmu.post(CFGI_ALL);
        smmu.post(SYNC);
        let first = ring(&mut smmu, &mut good);
        let look = loads(smmu.consumer(), LOOKS);
        let start = runtime::ticks();
        for index in 0..maps {
            stage.map((index % 512) << 12, 0x4000_0000);
        }
        let map = runtime::ticks() - start;
        // The longest of them, and the first of each: what is cold is not.
        let mut unmap = 0;
        for index in 0..unmaps {
            smmu.post(tlbi(index << 12));
            smmu.post(SYNC);
            unmap = unmap.max(ring(&mut smmu, &mut good));
        }
        for index in 0..MANY {
            smmu.post(tlbi(index << 12));
        }
        smmu.post(SYNC);
        let many = ring(&mut smmu, &mut good);
        smmu.post(smmu::cfgi_cd(STREAM));
        let context = ring(&mut smmu, &mut good);
        smmu.post(smmu::cfgi_ste(STREAM));
        let same = ring(&mut smmu, &mut good);
        smmu.entry(STREAM)[0].store(0, core::sync::atomic::Ordering::Release);
        smmu.post(smmu::cfgi_ste(STREAM));
        let shut = ring(&mut smmu, &mut good);
        stage.enter(&smmu);
        smmu.post(smmu::cfgi_ste(STREAM));
        let open = ring(&mut smmu, &mut good);
        // Full, but for what stands in it already.
        for index in 0..1_u64 << log2 {
            smmu.post(tlbi(index << 12));
        }
        let full = ring(&mut smmu, &mut good);
        let checks = &mut guest.checks;
        for (name, ticks) in [
            ("frequency", runtime::frequency()),
            ("largest", largest.into()),
            ("first", first),
            ("map", map),
            ("look", look),
            ("unmap", unmap),
            ("many", many),
            ("context", context),
            ("same", same),
            ("shut", shut),
            ("open", open),
            ("full", full),
        ] {
            // As many characters whatever it is: each is an exit.
            checks.say(format_args!("{name}={ticks:012};"));
        }
        checks.check(
            good,
            format_args!("everything is done and nothing is wrong"),
        );
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
