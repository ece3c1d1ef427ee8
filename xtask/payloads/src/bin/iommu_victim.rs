//! Maps a page for its device and unmaps it, again and again (`unmaps=N`, 256 if not said, and more until `ms=N` are over; the
//! first after `after=N` ms), by its own IOMMU, beside whoever else there is; each has to be complete. It says how many ticks
//! the longest unmap of all took, and of the first ones, and when these and all of them were over.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use payloads::runtime::{self, Guest, entry};
    use payloads::stage_one::StageOne;
    use payloads::tree::number;

    entry!(main);

    /// The guest's name for its only function, 00:01.0.
    const SOURCE: u32 = 8;
    /// Unmaps that are the first ones.
    const FIRST: u64 = 64;
    /// Pages of one table, which are mapped in turn.
    const PAGES: u64 = 512;
    /// From the start of the guest's RAM: what they are mapped to.
    const DATA: u64 = 24 << 20;

    fn main(start: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(start);
        if unmap(&mut guest).is_none() {
            let checks = &mut guest.checks;
            checks.check(false, format_args!("it has RAM and an IOMMU"));
        }
        guest.checks.finish();
        runtime::power_off()
    }

    fn unmap(Guest { tree, checks }: &mut Guest) -> Option<()> {
        let argument = |key| tree.argument(key).and_then(number);
        let unmaps = argument("unmaps").unwrap_or(256);
        let [after, ms] = ["after", "ms"].map(|key| argument(key).unwrap_or(0));
        let data = tree.memory.as_ref()?.base + DATA;
        let (mut iommu, stage) = StageOne::start(tree, SOURCE)?;
        runtime::sleep_ms(after);
        let end = runtime::ticks() + runtime::frequency() / 1000 * ms;
        let (mut good, mut done, mut longest) = (true, 0, 0);
        let (mut first, mut first_over) = (0, 0);
        while done < unmaps || runtime::ticks() < end {
            let page = (done % PAGES) << 12;
            good &= stage.map_at_once(&mut iommu, page, data + page);
            let start = runtime::ticks();
            good &= stage.unmap(&mut iommu, page);
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
            checks.say(format_args!("{name}={ticks};"));
        }
        checks.check(
            good,
            format_args!("{done} unmaps are complete, nothing is wrong"),
        );
        Some(())
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
