//! Interrupt controllers, the PCI host and ports, against their rules.

use crate::map::{ECAM, IO_APIC, LOCAL_APIC, WINDOW};
use payloads::access::{WIDTHS, input, load, output, read_msr, store, write_msr};
use payloads::attempt;
use payloads::edu::Edu;
use payloads::pci::Function;
use payloads::runtime::Guest;

const APIC_BASE: u32 = 0x1b;
const EXTD: u64 = 1 << 10;
const PAGE: u64 = 0x1000;

/// Every register takes every value, of every width, without harm. Interrupts are masked, and nobody waits for any.
pub fn interrupt_controllers(guest: &mut Guest) {
    let checks = &mut guest.checks;
    for (what, frame) in [("local APIC", LOCAL_APIC), ("I/O APIC", IO_APIC)] {
        let mut refused = 0;
        for value in [!0, 0] {
            for width in WIDTHS {
                for offset in (0..PAGE).step_by(16) {
                    refused += u32::from(store(frame + offset, width, value).refused);
                    refused += u32::from(load(frame + offset, width).refused);
                }
            }
        }
        for index in 0..256 {
            for value in [!0, 0] {
                store(IO_APIC, 4, index);
                store(IO_APIC + 0x10, 4, value);
            }
        }
        checks.check(
            refused == 0,
            format_args!("the {what} takes everything: {refused} refused"),
        );
    }
    let of_x2apic = 0x800..0x900;
    let answered = of_x2apic.clone().filter(|msr| !read_msr(*msr).refused);
    let answered = answered.count();
    checks.check(
        answered == 0,
        format_args!("{answered} registers of x2APIC mode answer without it"),
    );
    let base = read_msr(APIC_BASE).value;
    // SAFETY: an interrupt controller that nobody uses, and writes that are refused.
    let (on, back, taken) = unsafe {
        let on = !write_msr(APIC_BASE, base | EXTD);
        let mut taken = 0;
        for msr in of_x2apic {
            for value in [!0, 0] {
                taken += u32::from(!write_msr(msr, value));
                read_msr(msr);
            }
        }
        // To xAPIC mode there is no way but through off (SDM volume 3, "x2APIC State Transitions").
        (on, write_msr(APIC_BASE, base), taken)
    };
    checks.check(
        on && back,
        format_args!("x2APIC mode is on, and not left for the other: {taken} writes taken"),
    );
    // SAFETY: as above.
    let refused = unsafe { write_msr(APIC_BASE, !0) && write_msr(APIC_BASE, 1 << 12 | 1 << 10) };
    checks.check(refused, format_args!("no APIC elsewhere, or half on"));
}

/// Functions that are not there read as all ones; registers of the one that is there take every value; a BAR over
/// something else covers nothing.
pub fn configuration_space(guest: &mut Guest) {
    let Guest { tree, checks } = guest;
    let Some(function) = Function::find(tree, 0x1234, 0x11e8) else {
        return checks.check(false, format_args!("finds its edu device"));
    };
    let own = ECAM + (u64::from(function.device) << 15);
    let mut present = 0;
    for at in 0..4096_u64 {
        store(ECAM + (at << 12) + 4, 4, !0);
        present += u32::from(load(ECAM + (at << 12), 4).value != 0xffff_ffff);
    }
    // The same by ports, and some of the other buses.
    let mut by_ports = 0;
    for at in (0..0x800).chain((0x800..1 << 16).step_by(61)) {
        output(0xcf8, 4, 1 << 31 | at << 8);
        by_ports += u32::from(input(0xcfc, 4).value != 0xffff_ffff);
    }
    // Its own, and the host bridge where there is one.
    checks.check(
        (1..=2).contains(&present) && by_ports == present,
        format_args!("{present} functions answer, {by_ports} by ports"),
    );
    for value in [!0, 0] {
        for width in WIDTHS {
            for offset in (0..PAGE).step_by(width.into()) {
                store(own + offset, width, value);
            }
        }
    }
    checks.check(
        function.read(0) == 0x11e8_1234,
        format_args!("its function is still there after every write"),
    );
    let version = |value| {
        store(IO_APIC, 4, 1);
        load(IO_APIC + 0x10, 4).value & 0xff == value
    };
    for place in [IO_APIC, LOCAL_APIC, ECAM, 0x20_0000, 0, 0xffff_0000] {
        function.write(0x10, place as u32);
        function.write(0x04, 0x2);
        checks.check(
            version(0x20) && function.read(0) == 0x11e8_1234,
            format_args!("a BAR at {place:#x} covers nothing"),
        );
        function.write(0x04, 0);
    }
    let empty = |at| load(at, 4).value == 0xffff_ffff;
    checks.check(
        empty(WINDOW),
        format_args!("without a BAR the window is empty"),
    );
    let edu = Edu::find(tree).is_some();
    checks.check(
        edu && empty(WINDOW + (1 << 20)),
        format_args!("its BAR covers its window and no more"),
    );
    function.write(0x04, 0);
}

/// Ports that are nobody's, of which some are tried, take everything and read as all ones; strings of them are refused.
pub fn ports(guest: &mut Guest) {
    // COM1, power, configuration space and its reset.
    let ours = [0x3f8..0x400, 0x600..0x60c, 0xcf8..0xd00];
    let is_ours = |port: u16| ours.iter().any(|range| range.contains(&port));
    let mut answered = 0;
    let all = (0..0x1000).chain((0x1000..=u16::MAX).step_by(61));
    for port in all.filter(|port| !is_ours(*port)) {
        output(port, 1, 0xff);
        answered += u32::from(input(port, 1).value != 0xff);
    }
    // A counter of the PIT reads as zero, so that Linux does not wait for it.
    guest
        .checks
        .check(answered <= 1, format_args!("{answered} ports answer"));
    for port in [0x20_u16, 0x3f9, 0x601, 0x609, 0xcf9, 0xcfd, 0xfffe] {
        for width in [2, 4] {
            input(port, width);
        }
    }
    let buffer = [0_u8; 4];
    let from = (&raw const buffer).addr();
    // SAFETY: refused before it reads.
    let refused = unsafe {
        attempt!("rep outsb"; inout("rsi") from => _, in("dx") 0x3f8_u16, inout("rcx") 4_u64 => _)
    };
    guest
        .checks
        .check(refused, format_args!("strings to a port are refused"));
}
