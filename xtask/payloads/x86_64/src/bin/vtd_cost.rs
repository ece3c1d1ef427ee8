//! Says, in ticks of the counter, what its own VT-d unit costs it: a look at a register, a map, an unmap. `maps=N` and
//! `unmaps=N` say how many of these; `storm=KIND,KIND,..` what else it has the unit do by one doorbell each. Kinds: `pages` (the
//! largest queue there is, full of invalidations of pages), `tables` (512 pages at a time, which come and go), `blocks` (one that
//! 512 pages take the place of), `scattered` (512 pages, none behind the one before it, which become 512 others), `large` (tables of
//! pages, all of which go at once), `domains`, `contexts`, `changes` (the source's entry, back and forth), `wrong` (a descriptor that
//! there is not); all of them over and over for `ms=N`, once where there is no number, from `after=N` ms on. It says when that
//! began, and when it was over. Where one instruction takes one tick (QEMU's `-icount shift=0`) the ticks are numbers of instructions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::Ordering;
    use payloads::pci::register;
    use payloads::runtime::{self, entry, ticks};
    use payloads::stage_one::StageOne;
    use payloads::tree::number;
    use payloads::vtd::{CONTEXTS_ALL, IOTLB_ALL, LARGEST, Vtd, WRONG, context_of, iotlb};

    entry!(main);

    /// The guest's name for its only function, 00:01.0.
    const SOURCE: u32 = 8;
    /// Looks at a register.
    const LOOKS: u64 = 64;
    /// Of the guest's RAM.
    const DATA: u64 = 0x180_0000;
    const BLOCK: u64 = 2 << 20;
    /// Pages of a table.
    const TABLE: u64 = 512;
    /// Tables of pages, within what shadows of so small a guest may take.
    const TABLES: u64 = 128;
    /// Descriptors of a kind that takes long.
    const SOME: u32 = 64;

    /// Ticks of one doorbell for what was posted; it has to be all done at once.
    fn ring(vtd: &mut Vtd, good: &mut bool) -> u64 {
        runtime::barrier();
        let start = ticks();
        register(vtd.doorbell()).write(vtd.produced());
        let passed = ticks() - start;
        *good &= vtd.settled();
        passed
    }

    fn fill(stage: &StageOne, offset: u64) {
        for page in 0..TABLE {
            stage.map(page << 12, DATA + offset + (page << 12));
        }
    }

    /// So many of what `descriptor` says, by one doorbell; whether all of it came to its end.
    fn flood(vtd: &mut Vtd, count: u32, descriptor: impl Fn(u64) -> [u64; 2]) -> bool {
        for index in 0..count {
            vtd.post(descriptor(index.into()));
        }
        vtd.run(&[])
    }

    /// Whether the work of a kind came to its end.
    fn storm(vtd: &mut Vtd, stage: &StageOne, kind: &str) -> bool {
        match kind {
            "pages" => {
                fill(stage, 0);
                // Full, but for the wait and the place that stays free.
                flood(vtd, (1 << (LARGEST + 8)) - 2, |index| {
                    iotlb((index % TABLE) << 12, 0)
                })
            }
            "tables" => (0..SOME.into()).all(|round: u64| {
                match round % 2 {
                    0 => fill(stage, round << 12),
                    _ => (0..TABLE).for_each(|page| stage.clear(page << 12)),
                }
                vtd.run(&[iotlb(0, 9)])
            }),
            "blocks" => (0..SOME.into()).all(|round: u64| {
                match round % 2 {
                    0 => stage.map_block(0, DATA / BLOCK * BLOCK),
                    _ => fill(stage, 0x1000),
                }
                vtd.run(&[iotlb(0, 9)])
            }),
            "scattered" => (0..8).all(|round: u64| {
                for page in 0..TABLE {
                    stage.map(
                        page << 12,
                        DATA + (((TABLE - 1 - page) * 2 + round % 2) << 12),
                    );
                }
                vtd.run(&[iotlb(0, 9)])
            }),
            "large" => (0..4).all(|round: u64| {
                stage.map(0, DATA);
                for table in 0..TABLES {
                    match round % 2 {
                        0 => stage.alias(table * BLOCK),
                        _ => stage.clear_block(table * BLOCK),
                    }
                }
                vtd.run(&[IOTLB_ALL])
            }),
            "domains" => flood(vtd, SOME, |_| IOTLB_ALL),
            "contexts" => flood(vtd, SOME, |_| CONTEXTS_ALL),
            "changes" => (0..SOME).all(|round| {
                match round % 2 {
                    0 => vtd.entry(SOURCE)[0].store(0, Ordering::Release),
                    _ => stage.enter(vtd),
                }
                vtd.run(&[context_of(SOURCE)])
            }),
            "wrong" => (0..8).all(|_| {
                vtd.post(WRONG);
                vtd.ring();
                vtd.stops() && vtd.start(LARGEST)
            }),
            _ => false,
        }
    }

    fn main(start: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(start);
        let argument = |key| guest.tree.argument(key).and_then(number).unwrap_or(0);
        let (maps, unmaps) = (argument("maps"), argument("unmaps"));
        let checks = &mut guest.checks;
        let Some(mut vtd) = Vtd::find(&guest.tree) else {
            checks.check(false, format_args!("it has a VT-d unit"));
            runtime::power_off()
        };
        let stage = StageOne::empty(&vtd, SOURCE);
        let mut good = vtd.start(LARGEST);
        let begin = ticks();
        (0..LOOKS).for_each(|_| {
            register(vtd.doorbell()).read();
        });
        let look = ticks() - begin;
        // The slowest of each.
        let (mut map, mut unmap) = (0, 0);
        for index in 0..maps {
            let page = (index % TABLE) << 12;
            stage.map(page, DATA + (index << 12));
            vtd.post(iotlb(page, 0));
            vtd.post_wait();
            map = map.max(ring(&mut vtd, &mut good));
        }
        for index in 0..unmaps {
            let page = (index % TABLE) << 12;
            stage.clear(page);
            vtd.post(iotlb(page, 0));
            vtd.post_wait();
            unmap = unmap.max(ring(&mut vtd, &mut good));
        }
        let kinds = guest.tree.argument("storm").unwrap_or_default();
        let ms = |key| runtime::frequency() / 1000 * argument(key);
        let begin = ticks() + ms("after");
        // Takes its turns as it will later: PAUSE would give them away.
        while ticks() < begin {}
        let rang = ticks();
        let end = rang + ms("ms");
        loop {
            for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
                let done = storm(&mut vtd, &stage, kind);
                checks.check(done, format_args!("{kind} comes to its end"));
            }
            if ticks() >= end {
                break;
            }
        }
        for (name, ticks) in [
            ("look", look),
            ("map", map),
            ("unmap", unmap),
            ("rang", rang),
            ("over", ticks()),
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
