//! Where functions may be, and their interrupt lines.

use super::*;

#[test]
fn functions_of_one_guest_device_say_so() {
    let places = [
        ("00:01.0", "00:01.0"),
        ("00:01.3", "00:02.0"),
        ("00:02.0", "00:03.0"),
    ];
    let mut guest = Guest::with(vec![edu(1), edu(2), edu(3)], &places);
    assert_eq!(guest.read(AT_NVME + 0x0e, 1), 0x80);
    assert_eq!(guest.read(AT_NVME + 0x300e, 1), 0x80);
    assert_eq!(guest.read(AT_EDU + 0x0e, 1), 0);
    assert_eq!(guest.vpci.intx(0), Some(guest_map::INTX_INTID + 1));
    assert_eq!(guest.vpci.intx(2), Some(guest_map::INTX_INTID + 2));
    assert_eq!(intx_intid(3, 2), Some(guest_map::INTX_INTID));
    assert_eq!(intx_intid(3, 0), None);
}

#[test]
fn a_function_without_its_line_has_no_pin_and_cannot_assert_it() {
    let mut bus = FakeBus::new(vec![(0, vec![edu(1)])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    let placement = Placement {
        guest: "00:01.0".parse().unwrap(),
        info: &topology.functions[0],
        intx: false,
    };
    let mut vpci = VirtualPci::new(guest_map::PCI_WINDOW, &[placement]).unwrap();
    vpci.attach(&mut bus, 0);
    assert_eq!(vpci.read(&mut bus, AT_NVME + 0x3d, 1), 0);
    assert_eq!(vpci.intx(0), None);
    vpci.write(&mut bus, AT_NVME + 4, 2, 4);
    assert_eq!(bus.at("00:01.0").get(4) & 0xffff, 0x406);
}

#[test]
fn placements_that_make_no_bus_are_refused() {
    let mut bus = FakeBus::new(vec![(0, vec![edu(1), edu(2), root_port(3)])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    let refused = |places: &[(&str, usize)]| {
        let placements: Vec<_> = places
            .iter()
            .map(|&(guest, index)| Placement {
                guest: guest.parse().unwrap(),
                info: &topology.functions[index],
                intx: false,
            })
            .collect();
        VirtualPci::new(guest_map::PCI_WINDOW, &placements).err()
    };
    let at = |text: &str| text.parse().unwrap();
    let error = refused(&[("01:00.0", 0)]);
    assert_eq!(error, Some(PlacementError::Bus(at("01:00.0"))));
    let error = refused(&[("00:01.0", 0), ("00:01.0", 1)]);
    assert_eq!(error, Some(PlacementError::Twice(at("00:01.0"))));
    let error = refused(&[("00:01.1", 0)]);
    assert_eq!(error, Some(PlacementError::NoFunctionZero(at("00:01.1"))));
    let error = refused(&[("00:01.0", 2)]);
    assert_eq!(
        error,
        Some(PlacementError::NotAssignable(address("00:03.0")))
    );
    let many: Vec<_> = (0..33).map(|_| ("00:01.0", 0)).collect();
    assert_eq!(refused(&many), Some(PlacementError::TooMany));
}
