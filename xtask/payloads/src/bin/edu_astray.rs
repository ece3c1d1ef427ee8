//! Owns an `edu` device and an IOMMU, whose stage 1 leads the device astray: to nothing that stage 1 knows, which is an event
//! for this guest, and to addresses that this guest does not have, which is none. `times=N` bounds the latter.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::Ordering;
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest, entry};
    use payloads::stage_one::{StageOne, records};
    use payloads::tree::number;

    entry!(main);

    const LEN: u32 = 64;
    const WORD: u64 = 0x5ca1_ab1e_dead_beef;
    const PAGE: u64 = 4096;
    /// What the pages behind the device's own one are in stage 1, as addresses that this guest does not have: RAM behind its
    /// own, and nothing at all.
    const ELSEWHERE: [u64; 2] = [0x8000_1000, 40 << 30];
    /// The page behind those is not in stage 1.
    const UNKNOWN: u64 = 3 * PAGE;
    /// From here on stage 1 has a table where no memory is.
    const NO_TABLE: u64 = 2 << 20;
    /// What the device is sent to in turn. A VT-d unit says of such a table that software's own tables are wrong, which is an
    /// event as well.
    const ASTRAY: &[u64] = match cfg!(target_arch = "aarch64") {
        true => &[PAGE, 2 * PAGE, NO_TABLE],
        false => &[PAGE, 2 * PAGE],
    };

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let _ = stray(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn stray(Guest { tree, checks }: &mut Guest) -> Option<()> {
        let buffer = tree.argument("buffer").and_then(number)?;
        let times = tree.argument("times").and_then(number)?;
        let edu = Edu::find(tree);
        let iommu = edu.as_ref().and_then(|edu| {
            let (mut iommu, stage) = StageOne::start(tree, edu.stream())?;
            stage.map(buffer, buffer);
            for (index, address) in (1..).zip(ELSEWHERE) {
                stage.map(buffer + index * PAGE, address);
            }
            stage.map_table(buffer + NO_TABLE, 40 << 30);
            iommu.refresh().then_some(iommu)
        });
        checks.check(iommu.is_some(), format_args!("finds edu and an IOMMU"));
        let (edu, mut iommu) = (edu?, iommu?);
        let page = runtime::page(buffer);
        let arrives = || {
            page[0].store(WORD, Ordering::Relaxed);
            let loaded = edu.read_memory(buffer, LEN);
            page[0].store(0, Ordering::Relaxed);
            loaded && edu.write_memory(buffer, LEN) && page[0].load(Ordering::Relaxed) == WORD
        };
        checks.check(arrives(), format_args!("dma through its stage 1 arrives"));

        // Two bursts into a queue that is not empty after the first record, and one into an empty one.
        for bursts in [2, 1] {
            for _ in 0..bursts {
                edu.write_memory(buffer + UNKNOWN, LEN);
            }
            runtime::sleep_ms(50);
            let mut events = 0;
            while let Some(event) = iommu.refusal(edu.stream(), buffer + UNKNOWN) {
                if let Err(other) = event {
                    checks.check(false, format_args!("an event {other:#x?}"));
                }
                events += 1;
            }
            let expected = bursts * records(LEN);
            checks.check(
                events == expected,
                format_args!("{events} events of its own"),
            );
        }
        for time in 0..times {
            checks.say(format_args!("astray={time};"));
            let from = ASTRAY[time as usize % ASTRAY.len()];
            edu.write_memory(buffer + from, LEN);
        }
        runtime::sleep_ms(50);
        let told = iommu.refusal(0, 0);
        checks.check(
            told.is_none(),
            format_args!("no event of what is not its own: {told:x?}"),
        );
        let after = if arrives() { "arrives" } else { "refused" };
        checks.say(format_args!("after={after};"));
        Some(())
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
