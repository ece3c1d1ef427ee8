//! Does what a guest must not do: accesses outside of its map and of every width and alignment (`memory`), interrupt
//! controller and PCI host against their rules (`devices`), firmware calls that mean nothing and registers that are not its
//! own (`processor`). Each has to end in an exception for this guest or to read as nothing. Then it leaves something in
//! every register that it can write, restarts, and looks (`lives`). Owns an `edu` device, for a configuration space to
//! abuse.
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
    use aarch64_rt::entry;
    use payloads::runtime;

    entry!(main);

    fn main(tree: u64, _: u64, _: u64, _: u64) -> ! {
        let mut guest = runtime::start(tree);
        lives::nothing_is_left(&mut guest);
        if lives::is_second(&guest) {
            processor::standby(&mut guest);
            guest.checks.finish();
            runtime::power_off()
        }
        let refused = memory::outside(&mut guest) + memory::odd_instructions(&mut guest);
        devices::interrupt_controller(&mut guest);
        devices::configuration_space(&mut guest);
        processor::firmware_calls(&mut guest);
        processor::system_registers(&mut guest);
        guest
            .checks
            .say(format_args!("exceptions that EL2 made: {refused}"));
        lives::end(&guest)
    }
}

/// Where things are in this guest's map (kernel::guest_map), and one that is in the machine's only.
#[cfg(target_os = "none")]
mod map {
    pub const GICD: u64 = 0x0800_0000;
    pub const ITS: u64 = 0x0808_0000;
    pub const ITS_TRANSLATION: u64 = 0x0809_0000;
    pub const GICR: u64 = 0x080a_0000;
    pub const UART: u64 = 0x0900_0000;
    pub const SMMU_OF_THE_MACHINE: u64 = 0x0905_0000;
    pub const WINDOW: u64 = 0x1000_0000;
    pub const ECAM: u64 = 0x3f00_0000;
    pub const FRAME: u64 = 0x1_0000;
}

#[cfg(not(target_os = "none"))]
fn main() {}
