//! Owns an `edu` device that interrupts by messages. With `forge` among the arguments it then has the device write what
//! would be other interrupts; `wait=MS` is how long it counts those that come.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code, reason = "what names the scenario")]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::edu::Edu;
    use payloads::runtime::{self, Guest, entry};
    use payloads::tree::number;

    entry!(main);

    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);

    static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);

    /// Where this guest's only local APIC takes messages, and as which vector.
    const ADDRESS: u64 = 0xfee0_0000;
    const VECTOR: u16 = 0x41;
    const TIMES: u64 = 5;

    fn main(start: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(start);
        scenario(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn scenario(Guest { tree, checks }: &mut Guest) {
        runtime::count_interrupts();
        let edu = Edu::find(tree);
        let edu = edu.filter(|edu| edu.send_messages_to(ADDRESS, VECTOR));
        let Some(edu) = edu else {
            return checks.check(false, format_args!("finds its edu device, which has MSI"));
        };
        let mut arrived = 0;
        for _ in 0..TIMES {
            edu.interrupt();
            arrived = runtime::while_interrupted(20);
        }
        checks.check(
            arrived == TIMES,
            format_args!("{TIMES} messages are {TIMES} interrupts ({arrived})"),
        );
        let wait = tree.argument("wait").and_then(number).unwrap_or(0);
        if tree.has_word("forge") {
            checks.say(format_args!("forging"));
            forge(&edu);
            checks.say(format_args!("has forged"));
            return;
        }
        checks.say(format_args!("counting"));
        let later = runtime::while_interrupted(wait);
        checks.check(
            later == arrived,
            format_args!("nobody else interrupts ({} more)", later - arrived),
        );
    }

    /// Messages in the compatibility format for each CPU, as vectors that the hypervisor and its timer have, and one that
    /// nobody has; then in the remappable format, with indices that are nobody's: 0 to 2 are the devices' and the console's.
    fn forge(edu: &Edu) {
        for cpu in 0..3 {
            for vector in [0x80, 0xf0, 0xf1, 0xfe] {
                write(edu, ADDRESS | cpu << 12, vector);
            }
        }
        for index in 3..9 {
            write(edu, ADDRESS | 1 << 4 | index << 5, 0);
        }
    }

    /// Four bytes of the device.
    fn write(edu: &Edu, address: u64, data: u64) {
        PAGE.0[0].store(data, Ordering::Relaxed);
        edu.read_memory(PAGE.0.as_ptr() as u64, 4);
        edu.write_memory(address, 4);
    }
}
