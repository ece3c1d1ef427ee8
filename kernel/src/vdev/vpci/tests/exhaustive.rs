//! Every register of every function, every width, hostile values: what reaches a device is on this list, which is
//! written down here a second time, from the capability layouts of PCIe §7.5 and §7.7.

use super::*;
use crate::pci::fake::Random;

/// Register offset and the bits of it that a guest may change in the device.
const NVME_ALLOWED: &[(u16, u32)] = &[
    (0x04, 0x0000_0404), // bus master, INTx disable
    (0x40, 0xc000_0000), // MSI-X enable, function mask
];
const EDU_ALLOWED: &[(u16, u32)] = &[
    (0x04, 0x0000_0404),
    (0x40, 0x0001_0000), // MSI enable; one message, so no count
    (0x44, 0xffff_fffc), // address
    (0x48, 0xffff_ffff), // upper address
    (0x4c, 0x0000_ffff), // data
    (0x50, 0x0000_0001), // mask of the one vector
];

fn words(bus: &mut FakeBus, at: &str) -> Vec<u32> {
    let fake = bus.at(at);
    (0..0x1000).step_by(4).map(|at| fake.get(at)).collect()
}

/// `after` differs from `before` in allowed bits only.
fn check(before: &[u32], after: &[u32], allowed: &[(u16, u32)], what: (u64, u8, u64)) {
    for (index, (old, new)) in before.iter().zip(after).enumerate() {
        let mut rows = allowed.iter();
        let mask = rows.find(|row| usize::from(row.0) == 4 * index);
        let foreign = (old ^ new) & !mask.map_or(0, |row| row.1);
        assert_eq!(foreign, 0, "offset {:#x} after {what:x?}", 4 * index);
    }
}

#[test]
fn writes_reach_the_device_only_where_they_may() {
    let mut guest = Guest::new();
    let mut random = Random(0xa11ce);
    for (at, physical, allowed) in [
        (AT_NVME, "00:02.0", NVME_ALLOWED),
        (AT_EDU, "00:03.0", EDU_ALLOWED),
    ] {
        // A device that would take any bit: only what is written to it decides.
        guest.bus.at(physical).writable.fill(0xff);
        let before = words(&mut guest.bus, physical);
        for offset in 0..0x1000 {
            for size in [1, 2, 4, 8] {
                for value in [0, u64::MAX, random.word()] {
                    guest.bus.writes.clear();
                    let effect = guest.write(at + offset, size, value);
                    let what = (offset, size, value);
                    if let Effect::Reset(slot) = effect {
                        assert_eq!(guest.vpci.physical(slot), address(physical));
                        guest.vpci.attach(&mut guest.bus, slot);
                    }
                    for write in &guest.bus.writes {
                        assert_eq!(write.function, address(physical), "{what:x?}");
                    }
                    for remap in guest.remaps() {
                        let place = remap.from.or(remap.to).unwrap();
                        let span = Span::<Gpa>::new(place, remap.host.len).unwrap();
                        assert!(guest_map::PCI_WINDOW.covers(&span), "{what:x?}");
                        assert!(remap.from.is_none() || remap.to.is_none());
                    }
                    if !guest.bus.writes.is_empty() {
                        let after = words(&mut guest.bus, physical);
                        check(&before, &after, allowed, what);
                    }
                    guest.read(at + offset, size);
                }
            }
        }
        let after = words(&mut guest.bus, physical);
        check(&before, &after, allowed, (0, 0, 0));
    }
    // The neighbour's function, and the port above it, were not touched.
    assert_eq!(
        guest.bus.at("00:04.0").resets + guest.bus.at("01:00.0").resets,
        0
    );
}

#[test]
fn registers_hold_only_the_bits_that_mean_something() {
    let mut guest = Guest::new();
    for (base, expected) in [
        (
            AT_NVME,
            &[
                (0x04, 0x0000_0406),
                (0x0c, 0x0000_ffff),
                (0x10, 0xffff_c000),
                (0x14, 0xffff_ffff),
                (0x3c, 0x0000_00ff),
                (0x40, 0xc000_0000),
                (0x64, 0x0000_0003),
                // Device control without phantom functions, auxiliary power and reset (which would not come back).
                (0x88, 0x0000_79ff),
            ][..],
        ),
        (
            AT_EDU,
            &[
                (0x04, 0x0000_0406),
                (0x0c, 0x0000_ffff),
                (0x10, 0xfff0_0000),
                (0x3c, 0x0000_00ff),
                (0x40, 0x0001_0000),
                (0x44, 0xffff_fffc),
                (0x48, 0xffff_ffff),
                (0x4c, 0x0000_ffff),
                (0x50, 0x0000_0001),
            ],
        ),
    ] {
        let mut found = Vec::new();
        for at in (0..0x1000).step_by(4) {
            guest.write(base + at, 4, 0);
            let zeros = guest.read(base + at, 4);
            guest.write(base + at, 4, 0xffff_7fff);
            // Bit 15 of device control is a reset.
            let mut changed = guest.read(base + at, 4) ^ zeros;
            if at != 0x88 {
                guest.write(base + at, 4, 0xffff_ffff);
                changed |= guest.read(base + at, 4) ^ zeros;
            }
            if changed != 0 {
                found.push((at, changed));
            }
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn nothing_else_on_the_buses_answers() {
    let mut guest = Guest::new();
    let mut random = Random(7);
    let mut offset = 0;
    while offset < 0x100_0000 {
        let mine = [AT_NVME, AT_EDU].contains(&(offset & !0xfff));
        if !mine {
            assert_eq!(guest.read(offset & !3, 4), 0xffff_ffff);
            assert_eq!(guest.write(offset & !3, 4, random.word()), Effect::None);
        }
        offset += random.word() % 509 + 1;
    }
    assert_eq!(guest.bus.writes, []);
    assert_eq!(guest.remaps(), []);
}

#[test]
fn functions_with_random_contents_do_no_harm() {
    let mut random = Random(0xbad);
    for _ in 0..60 {
        let mut function = FakeFunction::new(1, 0, 0xbad0, 1, 0x02_0000);
        for at in (0x10..0x100).step_by(4) {
            let word = random.word();
            function.put(at, word as u32);
            function.mask(at, (word >> 32) as u32);
        }
        function.bytes[6] |= 0x10;
        // A chain through known IDs at random places.
        for id in [1, 5, 0x10, 0x11, 0x10, 5] {
            let place = 0x40 + (random.word() % 48) as usize * 4;
            function = function.with_capability(place, id);
        }
        function = function.with_bar(0, 4, 0x1000 << (random.word() % 16));
        (2..6).for_each(|index| function.mask(0x10 + 4 * index, 0));
        (2..6).for_each(|index| function.put(0x10 + 4 * index, 0));
        let mut bus = FakeBus::new(vec![(0, vec![function])]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let placement = Placement {
            guest: "00:00.0".parse().unwrap(),
            info: &topology.functions[0],
            intx: true,
        };
        let mut vpci = VirtualPci::new(guest_map::PCI_WINDOW, &[placement]).unwrap();
        vpci.attach(&mut bus, 0);
        bus.writes.clear();
        let mut list = 0;
        let mut next = vpci.read(&mut bus, 0x34, 1);
        while next != 0 {
            list += 1;
            assert!(list <= 4 && next >= 0x40);
            next = vpci.read(&mut bus, next + 1, 1);
        }
        for offset in 0..0x100 {
            for size in [1, 2, 4] {
                if let Effect::Reset(slot) = vpci.write(&mut bus, offset, size, random.word()) {
                    vpci.attach(&mut bus, slot);
                }
                vpci.read(&mut bus, offset, size);
                while vpci.next_remap().is_some() {}
            }
        }
        for write in &bus.writes {
            let header = write.offset < 0x40;
            assert!(!header || (write.offset, write.len) == (4, 2), "{write:x?}");
            assert!(!header || write.value & !0x406 == 0, "{write:x?}");
            assert!(write.offset < 0x100);
        }
    }
}
