//! Drives its own SMMU with first stages of 4, 16 and 64 KiB, and `edu` behind it: what is mapped is reached, what is not is
//! an event of its own.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest};
    use payloads::smmu::{Event, Smmu};
    use payloads::stage_one::{Granule, INPUT_BITS, StageOne};

    entry!(main);

    /// The largest page.
    const PAGE: u64 = 0x1_0000;
    const SOURCE: u64 = 0x4200_0000;
    const TARGET: u64 = SOURCE + PAGE;
    const WORDS: usize = PAGE as usize / 8;
    const LEN: u32 = 256;
    /// QEMU refuses four bytes at a time, with an event each.
    const STRAY: u32 = 4;
    /// A write of twice as many pieces as its event queue has entries.
    const STORM: u32 = 2 * 256 * STRAY;
    /// Far more than an event takes.
    const LIMIT_NS: u64 = 5_000_000_000;
    /// F_TRANSLATION (IHI 0070, 7.3.13).
    const TRANSLATION: u8 = 0x10;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        for granule in [Granule::Four, Granule::Sixteen, Granule::SixtyFour] {
            translate(&mut guest, granule);
        }
        overflow(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn translate(Guest { tree, checks }: &mut Guest, granule: Granule) {
        let edu = Edu::find(tree);
        checks.check(
            edu.is_some() && granule.is_offered(tree),
            format_args!("{granule:?}: finds edu behind an SMMU with this granule"),
        );
        let Some(edu) = edu else { return };
        let started = StageOne::start_with(tree, edu.stream(), granule);
        checks.check(
            started.is_some(),
            format_args!("{granule:?}: the SMMU translates"),
        );
        let Some((mut smmu, stage)) = started else {
            return;
        };

        // In every table far behind the first 4 KiB of it, where it is larger: the last indices but two.
        let size = 1 << granule.shift();
        let source = (1 << INPUT_BITS) - 3 * size;
        let target = source + size;
        let beyond = target + size;
        stage.map(source, SOURCE);
        stage.map(target, TARGET);
        // Behind the first 4 KiB of the page, too.
        let (from, to) = (
            source + size - u64::from(LEN),
            target + size - u64::from(LEN),
        );
        let place = (size - u64::from(LEN)) as usize / 8;
        fill(SOURCE, |index| pattern(granule, index));
        fill(TARGET, |_| 0);
        let arrived = |place: usize| {
            let words = &memory(TARGET)[place..][..LEN as usize / 8];
            let mut words = words.iter().enumerate();
            words.all(|(index, word)| {
                word.load(Ordering::Relaxed) == pattern(granule, place + index)
            })
        };
        let done = edu.read_memory(from, LEN) && edu.write_memory(to, LEN);
        checks.check(
            done && arrived(place) && smmu.event().is_none(),
            format_args!("{granule:?}: dma goes where it is mapped"),
        );
        // Another part of the same page, which may be cached by itself.
        let done = edu.read_memory(source, LEN) && edu.write_memory(target, LEN);
        checks.check(
            done && arrived(0) && smmu.event().is_none(),
            format_args!("{granule:?}: all of a page is mapped"),
        );

        let stray = |address| Event {
            kind: TRANSLATION,
            stream: edu.stream(),
            address,
        };
        fill(TARGET, |_| !0);
        let unchanged = || {
            let words = memory(TARGET).iter();
            words
                .chain(memory(SOURCE + 2 * PAGE))
                .all(|word| word.load(Ordering::Relaxed) == !0)
        };
        fill(SOURCE + 2 * PAGE, |_| !0);
        let done = edu.write_memory(beyond, STRAY);
        let event = next(&mut smmu);
        checks.check(
            done && unchanged() && event == Some(stray(beyond)),
            format_args!("{granule:?}: dma behind it is an event: {event:x?}"),
        );

        let forgotten = stage.unmap(&mut smmu, target);
        for address in [target, to] {
            let done = edu.write_memory(address, STRAY);
            let event = next(&mut smmu);
            checks.check(
                forgotten && done && unchanged() && event == Some(stray(address)),
                format_args!("{granule:?}: dma to what is unmapped is an event: {event:x?}"),
            );
        }
        checks.check(
            smmu.event().is_none() && smmu.stop(),
            format_args!("{granule:?}: there is no other event"),
        );
    }

    /// More events than its queue has room for: it is told that some were lost, and the next one comes again.
    fn overflow(Guest { tree, checks }: &mut Guest) {
        let Some(edu) = Edu::find(tree) else { return };
        let Some((mut smmu, _)) = StageOne::start(tree, edu.stream()) else {
            return;
        };
        let done = edu.write_memory(0, STORM);
        let end = runtime::now_ns() + LIMIT_NS;
        let mut lost = false;
        while !lost && runtime::now_ns() < end {
            lost = smmu.has_lost();
        }
        let mut read = 0;
        while smmu.event().is_some() {
            read += 1;
        }
        checks.check(
            done && lost && read > 0,
            format_args!("a full queue says that events were lost"),
        );
        let done = edu.write_memory(0x1000, STRAY);
        // What of the storm came after the queue was read is before it.
        let mut last = next(&mut smmu);
        while let Some(event) = last {
            read += 1;
            if event.address == 0x1000 {
                break;
            }
            last = next(&mut smmu);
        }
        checks.check(
            done && last.is_some() && smmu.stop(),
            format_args!("the next event comes"),
        );
        checks.say(format_args!("read: {read} events"));
    }

    /// An event that has to come.
    fn next(smmu: &mut Smmu) -> Option<Event> {
        let end = runtime::now_ns() + LIMIT_NS;
        loop {
            let event = smmu.event();
            if event.is_some() || runtime::now_ns() > end {
                return event;
            }
        }
    }

    fn memory(at: u64) -> &'static [AtomicU64] {
        runtime::words(at, WORDS)
    }

    fn fill(at: u64, value: impl Fn(usize) -> u64) {
        for (index, word) in memory(at).iter().enumerate() {
            word.store(value(index), Ordering::Relaxed);
        }
    }

    /// Other words for each granule and place.
    fn pattern(granule: Granule, index: usize) -> u64 {
        u64::from(granule.shift()) << 32 | index as u64
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
