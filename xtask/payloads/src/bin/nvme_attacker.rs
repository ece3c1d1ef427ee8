//! Owns an NVMe controller and has it write where it may and where it may not: `attack=ADDRESS,ADDRESS` in the arguments.
//! It waits until the controller is ready, as that of a virtual function is when somebody else has put it online.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::nvme::Nvme;
    use payloads::runtime::{self, Guest, entry};
    use payloads::tree::number;

    entry!(main);

    /// 4 KiB that the device may reach; atomics, because it writes behind our back.
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);

    static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);

    /// What one attack writes.
    const WORDS: usize = 8;
    const READY_NS: u64 = 200_000_000_000;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        attack(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn attack(Guest { tree, checks }: &mut Guest) {
        let Some(mut nvme) = Nvme::find(tree) else {
            return checks.check(false, format_args!("finds its disk"));
        };
        let end = runtime::now_ns() + READY_NS;
        let mut ready = nvme.start();
        while !ready && runtime::now_ns() < end {
            runtime::sleep_ms(100);
            ready = nvme.start();
        }
        checks.check(ready, format_args!("its controller is ready"));
        let works = |nvme: &mut Nvme| {
            let words = &PAGE.0[..WORDS];
            words
                .iter()
                .for_each(|word| word.store(!0, Ordering::Relaxed));
            let written = nvme.write_memory(PAGE.0.as_ptr() as u64).is_ok();
            written && words.iter().all(|word| word.load(Ordering::Relaxed) != !0)
        };
        checks.check(
            works(&mut nvme),
            format_args!("dma to its own memory arrives"),
        );
        let targets = tree.argument("attack").unwrap_or_default();
        for target in targets.split(',').filter_map(number) {
            // The controller may not notice; the hypervisor does.
            let answer = nvme.write_memory(target);
            checks.say(format_args!("attack on {target:#x}: {answer:?}"));
        }
        checks.check(
            works(&mut nvme),
            format_args!("dma to its own memory still arrives"),
        );
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
