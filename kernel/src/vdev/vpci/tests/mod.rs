//! What a guest can do with its functions, and what it cannot.

mod exhaustive;
mod placement;

use super::*;
use crate::pci::fake::{FakeBus, FakeFunction, Write};
use crate::pci::fixtures::{address, edu, enumerate, host_bridge, nvme, root_port, virt_host};
use crate::pci::{self, Topology};
use alloc::vec;
use alloc::vec::Vec;

const NVME: usize = 0;
const EDU: usize = 1;
/// Guest 00:01.0 and 00:02.0 in ECAM.
const AT_NVME: u64 = 1 << 15;
const AT_EDU: u64 = 2 << 15;

/// A partition with an NVMe (physical 00:02.0) and edu (physical 00:03.0), both attached.
struct Guest {
    bus: FakeBus,
    vpci: VirtualPci,
    topology: Topology,
}

impl Guest {
    fn new() -> Self {
        let foreign = root_port(4).with_child(nvme(0, 0));
        let functions = vec![host_bridge(), nvme(2, 9), edu(3), foreign];
        Self::with(functions, &[("00:01.0", "00:02.0"), ("00:02.0", "00:03.0")])
    }

    fn with(functions: Vec<FakeFunction>, places: &[(&str, &str)]) -> Self {
        let mut bus = FakeBus::new(vec![(0, functions)]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let placements: Vec<_> = places
            .iter()
            .map(|(guest, physical)| Placement {
                guest: guest.parse().unwrap(),
                info: topology.find(address(physical)).unwrap(),
                intx: true,
            })
            .collect();
        let mut vpci = VirtualPci::new(guest_map::PCI_WINDOW, &placements).unwrap();
        for slot in 0..vpci.len() {
            vpci.attach(&mut bus, slot);
        }
        bus.writes.clear();
        Self {
            bus,
            vpci,
            topology,
        }
    }

    fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.vpci.read(&mut self.bus, offset, size)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) -> Effect {
        self.vpci.write(&mut self.bus, offset, size, value)
    }

    fn remaps(&mut self) -> Vec<MapBar> {
        core::iter::from_fn(|| self.vpci.next_remap()).collect()
    }

    fn host(&self, physical: &str) -> Span<Hpa> {
        let info = self.topology.find(address(physical)).unwrap();
        info.bars[0].unwrap().host_span().unwrap()
    }

    /// Memory decoding on, BAR 0 at `to`.
    fn place(&mut self, at: u64, to: u64) -> Vec<MapBar> {
        self.write(at + 0x10, 4, to);
        self.write(at + 4, 2, 2);
        self.remaps()
    }
}

fn map(slot: usize, to: u64, host: Span<Hpa>) -> MapBar {
    MapBar {
        slot,
        bar: 0,
        from: None,
        to: Some(Gpa(to)),
        host,
    }
}

fn unmap(slot: usize, from: u64, host: Span<Hpa>) -> MapBar {
    MapBar {
        from: Some(Gpa(from)),
        to: None,
        ..map(slot, 0, host)
    }
}

#[test]
fn a_driver_enumerates_sizes_assigns_and_enables_msix() {
    let mut guest = Guest::new();
    let mut found = Vec::new();
    for page in 0..0x1000u64 {
        let ids = guest.read(page << 12, 4);
        if ids != 0xffff_ffff {
            found.push((page << 12, ids));
        }
    }
    assert_eq!(found, [(AT_NVME, 0x0010_1b36), (AT_EDU, 0x11e8_1234)]);
    assert_eq!(guest.read(AT_NVME + 8, 4), 0x0108_0201);
    assert_eq!(guest.read(AT_NVME + 0x0e, 1), 0);

    // Sizing: 64-bit, 16 KiB.
    guest.write(AT_NVME + 0x10, 4, 0xffff_ffff);
    guest.write(AT_NVME + 0x14, 4, 0xffff_ffff);
    assert_eq!(guest.read(AT_NVME + 0x10, 4), 0xffff_c004);
    assert_eq!(guest.read(AT_NVME + 0x14, 4), 0xffff_ffff);
    assert_eq!(guest.remaps(), []);
    guest.write(AT_NVME + 0x14, 4, 0);
    let host = guest.host("00:02.0");
    assert_eq!(
        guest.place(AT_NVME, 0x1000_0000),
        [map(NVME, 0x1000_0000, host)]
    );
    assert_eq!(guest.bus.writes, [], "all of this is the guest's own");

    // The list as Linux walks it.
    let mut list = Vec::new();
    let mut next = guest.read(AT_NVME + 0x34, 1);
    while next != 0 {
        let head = guest.read(AT_NVME + next, 2);
        list.push((head & 0xff, next));
        next = head >> 8;
    }
    assert_eq!(list, [(0x11, 0x40), (0x10, 0x80), (0x01, 0x60)]);
    assert_eq!(guest.read(AT_NVME + 0x40, 4), 0x0040_8011);
    assert_eq!(guest.read(AT_NVME + 0x44, 4), 0x2000);
    assert_eq!(guest.read(AT_NVME + 0x48, 4), 0x3000);
    assert_eq!(guest.read(AT_NVME + 0x80, 4), 0x0092_6010);
    assert_eq!(guest.read(AT_NVME + 0x84, 4), 0x1000_8001);

    // Bus master, then enable with function mask, then without.
    guest.write(AT_NVME + 4, 2, 0x406);
    guest.write(AT_NVME + 0x42, 2, 0xc000);
    guest.write(AT_NVME + 0x42, 2, 0x8000);
    assert_eq!(guest.read(AT_NVME + 0x42, 2), 0x8040);
    let to = address("00:02.0");
    let word = |offset, value| Write {
        function: to,
        offset,
        len: 2,
        value,
    };
    let expected = [word(4, 0x406), word(0x42, 0xc040), word(0x42, 0x8040)];
    assert_eq!(guest.bus.writes, expected);
}

#[test]
fn msi_registers_go_to_the_device_and_nothing_around_them() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(AT_EDU + 0x34, 1), 0x40);
    assert_eq!(guest.read(AT_EDU + 0x40, 4), 0x0180_0005);
    guest.write(AT_EDU + 0x44, 4, 0x0809_0043);
    guest.write(AT_EDU + 0x48, 4, 0);
    guest.write(AT_EDU + 0x4c, 4, 0xdead_0007);
    guest.write(AT_EDU + 0x50, 4, !0);
    // 32 messages are asked for where one can be had.
    guest.write(AT_EDU + 0x42, 2, 0x00d1);
    let fake = guest.bus.at("00:03.0");
    assert_eq!(fake.get(0x40), 0x0181_0005);
    assert_eq!(fake.get(0x44), 0x0809_0040);
    assert_eq!(fake.get(0x4c), 7);
    assert_eq!(fake.get(0x50), 1, "one vector, one mask bit");
    fake.put(0x54, 0xffff_ffff);
    assert_eq!(
        guest.read(AT_EDU + 0x54, 4),
        1,
        "pending is read, in its bounds"
    );
}

#[test]
fn a_moved_bar_moves_only_the_guests_window() {
    let mut guest = Guest::new();
    let host = guest.host("00:03.0");
    guest.place(AT_EDU, 0x1010_0000);
    let moved = [unmap(EDU, 0x1010_0000, host), map(EDU, 0x2000_0000, host)];
    assert_eq!(guest.place(AT_EDU, 0x2000_0000), moved);
    for outside in [
        0,
        0x0800_0000,
        0x0ff0_0000,
        0x3000_0000,
        0x4000_0000,
        0xfff0_0000,
    ] {
        guest.place(AT_EDU, 0x2000_0000);
        let left = [unmap(EDU, 0x2000_0000, host)];
        assert_eq!(guest.place(AT_EDU, outside), left, "{outside:#x}");
    }
    guest.place(AT_NVME, 0x1000_0000);
    guest.write(AT_NVME + 0x14, 4, 1);
    assert_eq!(guest.remaps().len(), 1, "above 4 GiB is outside too");
    assert_eq!(guest.bus.writes, []);
}

#[test]
fn of_two_bars_at_one_place_the_first_is_mapped() {
    let mut guest = Guest::new();
    let (nvme, edu) = (guest.host("00:02.0"), guest.host("00:03.0"));
    assert_eq!(
        guest.place(AT_EDU, 0x1000_0000),
        [map(EDU, 0x1000_0000, edu)]
    );
    let over = [unmap(EDU, 0x1000_0000, edu), map(NVME, 0x1000_4000, nvme)];
    assert_eq!(guest.place(AT_NVME, 0x1000_4000), over);
    // It comes back when there is room.
    guest.write(AT_NVME + 4, 2, 0);
    let back = [unmap(NVME, 0x1000_4000, nvme), map(EDU, 0x1000_0000, edu)];
    assert_eq!(guest.remaps(), back);
}

#[test]
fn small_bars_take_a_page_and_io_bars_are_not_there() {
    let function = FakeFunction::new(1, 0, 0x1af4, 0x1000, 0x02_0000)
        .with_bar(0, 1, 0x20)
        .with_bar(1, 0, 0x20)
        .with_bar(2, 0x0c, 0x1_0000);
    let mut guest = Guest::with(vec![function], &[("00:00.0", "00:01.0")]);
    for register in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30] {
        guest.write(register, 4, !0);
    }
    assert_eq!(guest.read(0x10, 4), 0);
    assert_eq!(guest.read(0x14, 4), 0xffff_f000);
    assert_eq!(guest.read(0x18, 4), 0xffff_000c);
    assert_eq!(guest.read(0x1c, 4), 0xffff_ffff);
    assert_eq!(guest.read(0x20, 4), 0);
    assert_eq!(guest.read(0x30, 4), 0);
    guest.write(0x14, 4, 0x1000_1234);
    guest.write(4, 2, 2);
    let remaps = guest.remaps();
    assert_eq!(remaps[0].to, Some(Gpa(0x1000_1000)));
    assert_eq!((remaps[0].bar, remaps[0].host.len), (1, 0x1000));
}

#[test]
fn command_follows_the_guest_only_while_attached() {
    let mut guest = Guest::new();
    let command = |guest: &mut Guest| guest.bus.at("00:02.0").get(4) & 0xffff;
    assert_eq!(command(&mut guest), 2, "decoding, and nothing else");
    guest.write(AT_NVME + 4, 2, 0xffff);
    assert_eq!(guest.read(AT_NVME + 4, 2), 0x406);
    assert_eq!(command(&mut guest), 0x406);
    guest.write(AT_NVME + 4, 2, 0);
    assert_eq!(command(&mut guest), 2, "memory stays decoded");

    guest.write(AT_NVME + 4, 2, 0x6);
    guest.write(AT_NVME + 0x42, 2, 0x8000);
    guest.vpci.detach(&mut guest.bus, NVME);
    assert_eq!(command(&mut guest), 0x400);
    assert_eq!(guest.bus.at("00:02.0").get(0x40) >> 16, 0x40);
    guest.bus.writes.clear();
    guest.write(AT_NVME + 4, 2, 0x6);
    guest.write(AT_NVME + 0x42, 2, 0x8000);
    assert_eq!(guest.bus.writes, []);
    guest.vpci.attach(&mut guest.bus, NVME);
    assert_eq!(command(&mut guest), 6);
    assert_eq!(guest.bus.at("00:02.0").get(0x40) >> 16, 0x8040);
}

#[test]
fn function_level_reset_is_an_effect() {
    let mut guest = Guest::new();
    let host = guest.host("00:02.0");
    guest.place(AT_NVME, 0x1000_0000);
    guest.write(AT_NVME + 4, 2, 6);
    guest.write(AT_NVME + 0x42, 2, 0x8000);
    // Payload 256 bytes: the guest's own.
    assert_eq!(guest.write(AT_NVME + 0x88, 2, 0x2830), Effect::None);
    assert_eq!(guest.bus.at("00:02.0").get(0x88), 0x2810);
    assert_eq!(guest.write(AT_NVME + 0x89, 1, 0xa8), Effect::Reset(NVME));
    assert_eq!(guest.bus.at("00:02.0").resets, 0, "the kernel's to do");
    assert_eq!(guest.remaps(), [unmap(NVME, 0x1000_0000, host)]);
    assert_eq!(guest.bus.at("00:02.0").get(4) & 0xffff, 0x400);
    assert_eq!(guest.read(AT_NVME + 4, 2), 0);
    assert_eq!(guest.read(AT_NVME + 0x10, 4), 4);
    assert_eq!(guest.read(AT_NVME + 0x42, 2), 0x40);
    assert_eq!(guest.read(AT_NVME + 0x88, 2), 0x2810);
    // edu has no such reset.
    assert_eq!(guest.write(AT_EDU + 0x88, 2, 0x8000), Effect::None);
}

#[test]
fn power_states_are_d0_and_d3_and_the_device_does_not_see_them() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(AT_NVME + 0x60, 4), 0x0003_0001);
    for (write, read) in [(3, 0xb), (1, 0xb), (0, 8), (2, 8)] {
        guest.write(AT_NVME + 0x64, 2, write);
        assert_eq!(guest.read(AT_NVME + 0x64, 2), read);
    }
    assert_eq!(guest.bus.writes, []);
}

#[test]
fn a_device_that_changes_its_mind_changes_nothing() {
    let mut guest = Guest::new();
    guest.write(AT_NVME + 4, 2, 6);
    let before: Vec<u64> = (0..0x1000)
        .step_by(4)
        .map(|at| guest.read(AT_NVME + at, 4))
        .collect();
    guest.bus.at("00:02.0").bytes.fill(0xff);
    let mut after = (0..0x1000).step_by(4).map(|at| guest.read(AT_NVME + at, 4));
    let changed: Vec<(usize, u64)> = before
        .iter()
        .enumerate()
        .filter_map(|(index, old)| Some((index * 4, after.next()? ^ old)).filter(|it| it.1 != 0))
        .collect();
    // INTx asserted, and transactions pending.
    assert_eq!(changed, [(4, 0x0008_0000), (0x88, 0x0020_0000)]);
}

#[test]
fn extended_space_and_other_capabilities_read_zero() {
    let function = nvme(1, 9).with_acs(0x1f).with_capability(0xe0, 9);
    let mut guest = Guest::with(vec![function], &[("00:01.0", "00:01.0")]);
    assert_eq!(
        guest.read(AT_NVME + 0x34, 1),
        0x40,
        "vendor specific is passed over"
    );
    assert_eq!(guest.read(AT_NVME + 0xe0, 4), 0);
    for at in (0x100..0x1000).step_by(4) {
        assert_eq!(guest.read(AT_NVME + at, 4), 0);
    }
}

#[test]
fn capabilities_that_share_bytes_are_not_both_there() {
    let function = edu(1).with_power(0x44, true);
    let mut guest = Guest::with(vec![function], &[("00:01.0", "00:01.0")]);
    assert_eq!(guest.read(AT_NVME + 0x34, 1), 0x44);
    assert_eq!(guest.read(AT_NVME + 0x44, 2), 0x0001);
}

#[test]
fn malformed_accesses_are_counted_and_do_nothing() {
    let mut guest = Guest::new();
    for (offset, size, ones) in [
        (AT_NVME + 1, 2, 0xffff),
        (AT_NVME + 2, 4, 0xffff_ffff),
        (AT_NVME, 8, u64::MAX),
        (AT_NVME, 3, 0xff_ffff),
    ] {
        assert_eq!(guest.read(offset, size), ones);
        assert_eq!(guest.write(offset, size, 0), Effect::None);
    }
    assert_eq!(guest.vpci.counters().malformed, 8);
    for offset in [0, 1 << 20, 0xff_fffc, 0x100_0000, u64::MAX - 3] {
        assert_eq!(guest.read(offset, 4), 0xffff_ffff);
        guest.write(offset, 4, 0);
    }
    assert_eq!(guest.vpci.counters().absent_writes, 5);
    assert_eq!(guest.bus.writes, []);
}

#[test]
fn reset_of_the_partition_unmaps_and_silences_all() {
    let mut guest = Guest::new();
    guest.place(AT_NVME, 0x1000_0000);
    guest.place(AT_EDU, 0x1010_0000);
    guest.write(AT_EDU + 4, 2, 6);
    guest.vpci.reset(&mut guest.bus);
    assert_eq!(guest.remaps().len(), 2);
    assert_eq!(guest.bus.at("00:02.0").get(4) & 0xffff, 0x400);
    assert_eq!(guest.bus.at("00:03.0").get(4) & 0xffff, 0x400);
    assert_eq!(guest.read(AT_NVME + 0x10, 4), 4);
    assert_eq!(guest.vpci.physical(NVME), address("00:02.0"));
    assert_eq!(guest.vpci.guest(EDU), "00:02.0".parse::<Bdf>().unwrap());
    let info = guest.topology.find(address("00:02.0")).unwrap();
    pci::quiesce(&mut guest.bus, info);
}

/// Where a unit translates messages, the device has ours, whatever the guest has written and reads back.
#[test]
fn a_message_that_is_set_replaces_the_guests_on_its_way() {
    let mut guest = Guest::new();
    guest.vpci.set_message(EDU, 0xfee0_0058, 0x21);
    guest.write(AT_EDU + 0x44, 4, 0xfee0_1000);
    guest.write(AT_EDU + 0x48, 4, 0x7);
    guest.write(AT_EDU + 0x4c, 2, 0x4041);
    assert_eq!(guest.vpci.message(EDU, 0), None, "it is off");
    guest.write(AT_EDU + 0x42, 2, 1);
    let fake = guest.bus.at("00:03.0");
    let device: Vec<u32> = [0x44, 0x48, 0x4c].map(|at| fake.get(at)).to_vec();
    assert_eq!(device, [0xfee0_0058, 0, 0x21]);
    assert_eq!(guest.read(AT_EDU + 0x44, 8), u64::MAX, "no such width");
    assert_eq!(guest.read(AT_EDU + 0x44, 4), 0xfee0_1000);
    assert_eq!(guest.read(AT_EDU + 0x48, 4), 7);
    assert_eq!(guest.read(AT_EDU + 0x4c, 2), 0x4041);
    assert_eq!(
        guest.vpci.message(EDU, 0),
        Some((0x7_fee0_1000, 0x4041)),
        "one message: its number takes no bit"
    );
    assert_eq!(guest.vpci.message(EDU, 1), None);
    guest.vpci.detach(&mut guest.bus, EDU);
    assert_eq!(guest.vpci.message(EDU, 0), None);
    assert_eq!(guest.bus.at("00:03.0").get(0x40) >> 16 & 1, 0, "silent");
}

#[test]
fn msix_is_on_where_the_guest_has_it_on_and_the_function() {
    let mut guest = Guest::new();
    assert!(!guest.vpci.has_msix_on(NVME) && !guest.vpci.has_msix_on(EDU));
    guest.write(AT_NVME + 0x42, 2, 0x8000);
    assert!(guest.vpci.has_msix_on(NVME));
    guest.vpci.detach(&mut guest.bus, NVME);
    assert!(!guest.vpci.has_msix_on(NVME));
}

#[test]
fn an_address_leads_to_the_bar_that_is_mapped_there() {
    let mut guest = Guest::new();
    let base = guest_map::PCI_WINDOW.base.0 + 0x10_0000;
    assert_eq!(guest.vpci.find_bar(Gpa(base)), None);
    guest.place(AT_NVME, base);
    assert_eq!(
        guest.vpci.find_bar(Gpa(base + 0x2008)),
        Some((NVME, 0, 0x2008))
    );
    assert_eq!(guest.vpci.find_bar(Gpa(base - 1)), None);
    assert_eq!(guest.vpci.find_bar(Gpa(base + 0x4000)), None);
}
