//! Owns an `edu` device and sends its DMA where it may and where it may not. `attack=ADDRESS,ADDRESS` in the arguments
//! replaces the default targets.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use aarch64_rt::entry;
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest};
    use payloads::tree::number;

    entry!(main);

    /// 4 KiB that the device may reach; atomics, because it writes behind our back.
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);

    static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);

    const PATTERN: u64 = 0x5ca1_ab1e_dead_beef;
    const LEN: u32 = 64;
    const WORDS: usize = LEN as usize / 8;

    fn fill(value: u64) {
        PAGE.0
            .iter()
            .for_each(|word| word.store(value, Ordering::Relaxed));
    }

    fn holds(value: u64) -> bool {
        PAGE.0[..WORDS]
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == value)
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
        let own = PAGE.0.as_ptr() as u64;

        fill(PATTERN);
        let read = edu.read_memory(own, LEN);
        fill(0);
        let written = edu.write_memory(own, LEN);
        checks.check(
            read && written && holds(PATTERN),
            format_args!("dma to its own memory arrives"),
        );

        let memory_end = tree.memory.map_or(0, |memory| memory.base + memory.len);
        let mut attempts = 0;
        let mut attempt = |target: u64| {
            // The device's buffer holds the pattern: if this read were let through, it would not any more.
            fill(PATTERN);
            let armed = edu.read_memory(own, LEN);
            let sent = edu.write_memory(target, LEN);
            let asked = edu.read_memory(target, LEN);
            fill(!0);
            let shown = edu.write_memory(own, LEN);
            // A refused read brings zeros: neither the pattern nor what is at the target.
            checks.check(
                armed && sent && asked && shown && holds(0),
                format_args!("dma to {target:#x} is stopped"),
            );
            attempts += 1;
        };
        match tree.argument("attack") {
            Some(list) => list.split(',').filter_map(number).for_each(&mut attempt),
            None => {
                // GIC distributor, ITS control frame, UART; then RAM that is not ours, up to where RAM may end.
                [0x0800_0000, 0x0808_0000, 0x0900_0000]
                    .into_iter()
                    .for_each(&mut attempt);
                (0..8)
                    .map(|step| memory_end + step * 0x0800_0000)
                    .for_each(&mut attempt);
                [0x1_0000_0000, 0x7f_ffff_f000, 0x80_0000_0000]
                    .into_iter()
                    .for_each(&mut attempt);
            }
        }
        checks.say(format_args!("attempts: {attempts}"));
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
