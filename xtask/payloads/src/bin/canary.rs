//! Fills memory with a pattern and watches it for `seconds=N` (default 10): somebody else's DMA would show. With `silent`
//! in the arguments it touches no memory at all until the time is over or a byte comes on its console, so that its RAM can
//! be compared from outside.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::runtime::{self, entry};
    use payloads::tree::number;

    entry!(main);

    /// 768 KiB: code and data are within 1 MiB of each other.
    const WORDS: usize = 3 << 15;
    static MEMORY: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

    fn pattern(at: usize) -> u64 {
        (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn changed() -> usize {
        MEMORY
            .iter()
            .enumerate()
            .filter(|(at, word)| word.load(Ordering::Relaxed) != pattern(*at))
            .count()
    }

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let seconds = guest
            .tree
            .argument("seconds")
            .and_then(number)
            .unwrap_or(10);
        for (at, word) in MEMORY.iter().enumerate() {
            word.store(pattern(at), Ordering::Relaxed);
        }
        let silent = guest.tree.has_word("silent");
        if silent {
            runtime::listen();
        }
        guest.checks.say(format_args!(
            "watching {} KiB for {seconds} s",
            WORDS * 8 / 1024
        ));
        let mut worst = 0;
        if silent {
            runtime::wait_silently(runtime::now_ns() + seconds * 1_000_000_000);
            worst = changed();
        } else {
            for _ in 0..seconds {
                runtime::sleep_ms(1000);
                worst = worst.max(changed());
            }
        }
        guest
            .checks
            .check(worst == 0, format_args!("{worst} of its words changed"));
        guest.checks.finish();
        runtime::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
