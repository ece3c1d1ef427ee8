//! Owns an `edu` device and sends its DMA where it may and where it may not. In the arguments, `attack=ADDRESS,ADDRESS`
//! replaces the default targets, `attack=typed` waits for them on the console: first the pattern that the device shall
//! carry, then one address a line, then `end`. `buffer=ADDRESS` says which page of its own the device uses, where a DMA
//! window does not let it reach the program itself.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::checks::Checks;
    use payloads::edu::Edu;
    use payloads::runtime::{self, Console, Guest, entry};
    use payloads::tree::number;

    entry!(main);

    /// 4 KiB that the device may reach; atomics, because it writes behind our back.
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);

    static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);

    const PATTERN: u64 = 0x5ca1_ab1e_dead_beef;
    const LEN: u32 = 64;
    const WORDS: u64 = LEN as u64 / 8;
    /// How long somebody may think about the next line.
    const TYPING_MS: u64 = 60_000;

    /// The page that the device may reach, and what goes to it.
    struct Own {
        edu: Edu,
        page: &'static [AtomicU64; 512],
        pattern: u64,
    }

    impl Own {
        fn address(&self) -> u64 {
            self.page.as_ptr() as u64
        }

        /// Every word of an attack is another one, so that no register can look like two of them.
        fn word(&self, at: u64) -> u64 {
            self.pattern.wrapping_mul(2 * at + 1)
        }

        fn arm(&self) -> bool {
            for (at, word) in (0..).zip(&self.page[..WORDS as usize]) {
                word.store(self.word(at), Ordering::Relaxed);
            }
            self.edu.read_memory(self.address(), LEN)
        }

        fn fill(&self, value: u64) {
            self.page
                .iter()
                .for_each(|word| word.store(value, Ordering::Relaxed));
        }

        fn holds(&self, expected: impl Fn(u64) -> u64) -> bool {
            let found = self.page.iter().map(|word| word.load(Ordering::Relaxed));
            (0..WORDS).zip(found).all(|(at, word)| word == expected(at))
        }

        /// The device reaches its own page in both directions.
        fn works(&self) -> bool {
            let read = self.arm();
            self.fill(0);
            read && self.edu.write_memory(self.address(), LEN) && self.holds(|at| self.word(at))
        }

        /// Writes the pattern to `target`, reads `target`, and shows what came: a refused read brings zeros, neither the
        /// pattern that the device had before nor what is at the target.
        fn is_stopped_at(&self, target: u64) -> bool {
            let armed = self.arm();
            let sent = self.edu.write_memory(target, LEN);
            let asked = self.edu.read_memory(target, LEN);
            self.fill(!0);
            let shown = self.edu.write_memory(self.address(), LEN);
            armed && sent && asked && shown && self.holds(|_| 0)
        }
    }

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        attack(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn attack(Guest { tree, checks }: &mut Guest) {
        let Some(edu) = Edu::find(tree) else {
            return checks.check(false, format_args!("finds its edu device"));
        };
        let mut own = Own {
            edu,
            page: match tree.argument("buffer").and_then(number) {
                Some(address) => runtime::page(address),
                None => &PAGE.0,
            },
            pattern: PATTERN,
        };
        checks.check(own.works(), format_args!("dma to its own memory arrives"));

        let memory_end = tree.memory.map_or(0, |memory| memory.base + memory.len);
        let mut attempts = 0;
        let mut attempt = |own: &Own, checks: &mut Checks<Console>, target: u64| {
            let stopped = own.is_stopped_at(target);
            checks.check(stopped, format_args!("dma to {target:#x} is stopped"));
            attempts += 1;
        };
        match tree.argument("attack") {
            Some("typed") => {
                runtime::listen();
                checks.say(format_args!("what, and where?"));
                match runtime::with_line(TYPING_MS, number).flatten() {
                    Some(pattern) => own.pattern = pattern,
                    None => return checks.check(false, format_args!("is told a pattern")),
                }
                checks.check(
                    own.works(),
                    format_args!("its own memory holds the pattern"),
                );
                while let Some(target) = runtime::with_line(TYPING_MS, number).flatten() {
                    attempt(&own, checks, target);
                }
                own.fill(0);
            }
            Some(list) => list
                .split(',')
                .filter_map(number)
                .for_each(|target| attempt(&own, checks, target)),
            None => {
                // Devices; then RAM that is not ours, up to where RAM may end.
                let memory = (0..8).map(|step| memory_end + step * 0x0800_0000);
                let beyond = [0x1_0000_0000, 0x7f_ffff_f000, 0x80_0000_0000];
                for target in runtime::DEVICES.into_iter().chain(memory).chain(beyond) {
                    attempt(&own, checks, target);
                }
            }
        }
        checks.say(format_args!("attempts: {attempts}"));
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
