//! Owns the primary controller of an NVMe subsystem, and gives its secondary ones, the virtual functions that other
//! partitions have, what they need: queues and interrupts, and puts them online (NVM Express 1.4, 8.5). In the arguments,
//! `vfs=N` says how many; `then=wait` waits for lines on the console: `again` restarts the partition, `end` ends it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod scenario {
    use core::sync::atomic::{AtomicU64, Ordering};
    use payloads::nvme::{Failure, Nvme};
    use payloads::runtime::{self, Guest, entry};
    use payloads::tree::number;

    entry!(main);

    // Actions and resources of Virtualization Management (5.22).
    const PRIMARY: u32 = 1;
    const ASSIGN: u32 = 8;
    const ONLINE: u32 = 9;
    const QUEUES: u32 = 0;
    const INTERRUPTS: u32 = 1;
    // Identify (5.15.1).
    const PRIMARY_CAPABILITIES: u32 = 0x14;
    const SECONDARY_LIST: u32 = 0x15;
    const TYPING_MS: u64 = 250_000;

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        let online = manage(&mut guest);
        let wait = guest.tree.argument("then") == Some("wait");
        if wait && online {
            runtime::listen();
            guest.checks.say(format_args!("again, or the end?"));
            if runtime::with_line(TYPING_MS, |line| line == "again") == Some(true) {
                runtime::reset();
            }
        }
        guest.checks.finish();
        runtime::power_off()
    }

    fn manage(Guest { tree, checks }: &mut Guest) -> bool {
        let wanted = tree.argument("vfs").and_then(number).unwrap_or(1);
        let Some(mut nvme) = Nvme::find(tree) else {
            checks.check(false, format_args!("finds its disk"));
            return false;
        };
        checks.check(nvme.start(), format_args!("its controller is ready"));
        let released = nvme
            .manage(0, PRIMARY, INTERRUPTS, 0)
            .and_then(|_| nvme.manage(0, PRIMARY, QUEUES, 0));
        // What it has released is free after a reset, which takes the virtual functions along: the hypervisor brings
        // them back.
        let free = released.is_ok() && nvme.reset() && nvme.start();
        checks.check(free, format_args!("it keeps what is its own only"));
        let online = match bring_online(&mut nvme, wanted) {
            Ok(online) => online,
            Err(failure) => {
                checks.say(format_args!("virtualization management: {failure:?}"));
                0
            }
        };
        let all = online == wanted;
        checks.check(
            all,
            format_args!("{online} secondary controllers are online"),
        );
        all
    }

    /// How many of the controllers of virtual functions 1 to `wanted` it put online.
    fn bring_online(nvme: &mut Nvme, wanted: u64) -> Result<u64, Failure> {
        let page = nvme.identify(PRIMARY_CAPABILITIES)?;
        // Flexible resources in all, and at most for one.
        let share = |total: u64, most: u64| {
            let total = field(page, total, 4);
            (total / wanted.max(1)).min(field(page, most, 2)) as u16
        };
        let (queues, interrupts) = (share(32, 44), share(64, 76));
        let list = nvme.identify(SECONDARY_LIST)?;
        let count = field(list, 0, 1).min(127);
        let mut found = [None; 127];
        for (place, entry) in found.iter_mut().zip(1..=count) {
            let at = entry * 32;
            // Its number as a controller, and as a virtual function.
            *place = Some((field(list, at, 2) as u16, field(list, at + 8, 2)));
        }
        let mut online = 0;
        for (id, function) in found.into_iter().flatten() {
            if (1..=wanted).contains(&function) {
                nvme.manage(id, ASSIGN, INTERRUPTS, interrupts)?;
                nvme.manage(id, ASSIGN, QUEUES, queues)?;
                nvme.manage(id, ONLINE, QUEUES, 0)?;
                online += 1;
            }
        }
        Ok(online)
    }

    /// A number of `len` bytes, which lie in one word.
    fn field(page: &[AtomicU64; 512], at: u64, len: u32) -> u64 {
        let word = page[at as usize / 8].load(Ordering::Relaxed);
        word >> (8 * (at % 8)) & (u64::MAX >> (64 - 8 * len))
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
