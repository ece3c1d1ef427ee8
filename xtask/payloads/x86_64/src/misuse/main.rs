//! Does what a guest must not do: accesses to what is not there (`memory`), interrupt controllers, PCI host and ports against
//! their rules (`devices`), registers and instructions that are not its own (`processor`). Each has to end in an exception for
//! this guest or to read as nothing. Then it leaves something in every register that it can write, loses its tables, which
//! resets it, and looks (`lives`). Owns an `edu` device, for a configuration space to abuse.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    allow(unsafe_code, reason = "instructions that no sane program has")
)]

#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod lives;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod processor;

#[cfg(target_os = "none")]
mod scenario {
    use crate::{devices, lives, memory, processor};
    use payloads::access;
    use payloads::runtime::{self, entry};

    entry!(main);

    fn main(start: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(start);
        access::expect();
        lives::nothing_is_left(&mut guest);
        if lives::is_second(&guest) {
            guest.checks.finish();
            runtime::power_off()
        }
        memory::outside(&mut guest);
        memory::odd_instructions(&mut guest);
        memory::copies_to_nowhere(&mut guest);
        memory::copies_across_pages(&mut guest);
        memory::what_no_device_takes(&mut guest);
        devices::interrupt_controllers(&mut guest);
        devices::configuration_space(&mut guest);
        devices::ports(&mut guest);
        processor::instructions(&mut guest);
        processor::registers(&mut guest);
        guest
            .checks
            .say(format_args!("exceptions: {}", access::faults()));
        lives::leave_everything(&guest);
        memory::lose_all_tables(&guest)
    }
}

/// Where things are in this guest's map (kernel::guest_map::x86_64).
#[cfg(target_os = "none")]
mod map {
    pub const WINDOW: u64 = 0xc000_0000;
    pub const ECAM: u64 = 0xe000_0000;
    pub const IO_APIC: u64 = 0xfec0_0000;
    pub const VTD: u64 = 0xfed9_0000;
    pub const LOCAL_APIC: u64 = 0xfee0_0000;
}

#[cfg(not(target_os = "none"))]
fn main() {}
