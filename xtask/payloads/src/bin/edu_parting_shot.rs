//! Shows that its `edu` device reaches `buffer=ADDRESS`, starts another DMA to the same place, and powers its partition
//! off before that DMA lands.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::Ordering;
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest, entry};
    use payloads::tree::number;

    entry!(main);

    const FIRST: u64 = 0x1111_1111_1111_1111;
    const LAST: u64 = 0x6f6f_6f6f_6f6f_6f6f;
    const LEN: u32 = 4096;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let edu = shoot(&mut guest);
        guest.checks.finish();
        if let Some((edu, address)) = edu {
            edu.start_write(address, LEN);
        }
        runtime::power_off()
    }

    fn shoot(Guest { tree, checks }: &mut Guest) -> Option<(Edu, u64)> {
        let edu = Edu::find(tree);
        checks.check(edu.is_some(), format_args!("finds its edu device"));
        let (edu, address) = (edu?, tree.argument("buffer").and_then(number)?);
        let page = runtime::page(address);
        let fill = |value| {
            page.iter()
                .for_each(|word| word.store(value, Ordering::Relaxed));
        };
        fill(FIRST);
        let armed = edu.read_memory(address, LEN);
        fill(0);
        let arrives = edu.write_memory(address, LEN);
        let here = page
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == FIRST);
        checks.check(
            armed && arrives && here,
            format_args!("dma arrives while the partition runs"),
        );
        fill(LAST);
        let armed = edu.read_memory(address, LEN);
        fill(0);
        checks.check(armed, format_args!("the last shot is loaded"));
        Some((edu, address))
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
