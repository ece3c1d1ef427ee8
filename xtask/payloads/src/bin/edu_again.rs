//! Lives `lives=N` times: each life starts a DMA of its `edu` device to `buffer=ADDRESS`, through an IOMMU of its own if it
//! has one, and resets its partition before that DMA lands. The next life lets it land before it lets the device out again,
//! and finds its page untouched.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::Ordering;
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest, entry};
    use payloads::stage_one::StageOne;
    use payloads::tree::number;

    entry!(main);

    /// What the device carries. Every life starts with zeros.
    const SHOT: u64 = 0x6f6f_6f6f_6f6f_6f6f;
    const LEN: u32 = 4096;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        if live(&mut guest) == Some(true) {
            runtime::reset()
        }
        guest.checks.finish();
        runtime::power_off()
    }

    /// One life. Whether there is another one after it, and the DMA of this one is on its way.
    fn live(Guest { tree, checks }: &mut Guest) -> Option<bool> {
        let address = tree.argument("buffer").and_then(number)?;
        let lives = tree.argument("lives").and_then(number)?;
        let edu = Edu::find_quiet(tree);
        checks.check(edu.is_some(), format_args!("finds its edu device"));
        let edu = edu?;
        let life = edu.kept() + 1;
        edu.keep(life);
        checks.say(format_args!("life={life};"));

        let page = runtime::page(address);
        let wrong = |expected| {
            let words = page.iter().map(|word| word.load(Ordering::Relaxed));
            words.filter(|word| *word != expected).count()
        };
        let fill = |value| {
            page.iter()
                .for_each(|word| word.store(value, Ordering::Relaxed));
        };
        let landed = edu.wait();
        checks.check(
            landed && wrong(0) == 0,
            format_args!("{} words changed since the last life", wrong(0)),
        );
        if tree.iommu.is_some() {
            let started = StageOne::start(tree, edu.stream());
            let started = started.and_then(|(mut iommu, stage)| {
                stage.map(address, address);
                iommu.refresh().then_some(())
            });
            checks.check(started.is_some(), format_args!("its IOMMU starts"));
            started?;
        }
        edu.enable();
        if life == 1 {
            fill(SHOT);
            let loaded = edu.read_memory(address, LEN);
            checks.check(loaded, format_args!("the shot is loaded"));
        }
        if u64::from(life) == lives {
            return Some(false);
        }
        // In a few of many, as each takes a tenth of a second: it would arrive.
        if life <= 2 || life % 25 == 0 {
            fill(0);
            let arrived = edu.write_memory(address, LEN) && wrong(SHOT) == 0;
            checks.check(arrived, format_args!("dma arrives in life {life}"));
        }
        fill(0);
        edu.start_write(address, LEN);
        Some(true)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
