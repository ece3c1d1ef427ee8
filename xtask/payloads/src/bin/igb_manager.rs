//! Owns the physical function of an Intel 82576, and answers the drivers of its virtual ones, which other partitions have:
//! addresses, and leave to send and receive. In the arguments, `vfs=N` says how many there are. Ends with a byte on the
//! console.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use payloads::igb::Igb;
    use payloads::runtime::{self, Guest, entry, now_ns};
    use payloads::tree::number;

    /// From one look at the console, which is an exit, to the next.
    const LOOK_NS: u64 = 1_000_000;

    entry!(main);

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        manage(&mut guest);
        guest.checks.finish();
        runtime::power_off()
    }

    fn manage(Guest { tree, checks }: &mut Guest) {
        let wanted = tree.argument("vfs").and_then(number).unwrap_or(1);
        let Some(mut igb) = Igb::find(tree) else {
            checks.check(false, format_args!("finds its card"));
            return;
        };
        checks.check(igb.start(), format_args!("its link is up"));
        let vfs = igb.vfs();
        checks.check(
            vfs as u64 == wanted,
            format_args!("{vfs} virtual functions are on"),
        );
        runtime::listen();
        let mut served = 0;
        let mut next_look = 0;
        loop {
            served += igb.serve();
            if now_ns() < next_look {
                continue;
            }
            if runtime::take_typed() {
                break;
            }
            next_look = now_ns() + LOOK_NS;
        }
        checks.check(
            served >= vfs,
            format_args!("{served} requests were answered"),
        );
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
