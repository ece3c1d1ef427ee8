//! Enumeration, assignment, isolation and reset on fabrics like QEMU's, and on hostile ones.

mod hostile;
mod resets;
mod virtuals;

use super::fake::{FakeBus, FakeFunction};
use super::fixtures::{
    ITS, SMMU, address, edu, enumerate, host_bridge, nvme, root_port, virt_host,
};
use super::*;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};

/// NVMe and edu on the root bus, two root ports, an expander bridge with a root port at bus 8.
fn machine() -> FakeBus {
    let function =
        |index| FakeFunction::new(0, index, 0x8086, 0x10d3, 0x02_0000).with_bar(0, 0, 0x2_0000);
    FakeBus::new(vec![
        (
            0,
            vec![
                host_bridge(),
                FakeFunction::new(1, 0, 0x1b36, 0x000b, 0x06_0000),
                nvme(2, 9),
                edu(3),
                root_port(4).with_child(nvme(0, 0).with_bar(2, 0xc, 0x4000_0000)),
                root_port(5)
                    .with_child(function(0).multifunction())
                    .with_child(function(1)),
                root_port(6).with_child(edu(0)),
            ],
        ),
        (8, vec![root_port(0).with_child(nvme(0, 0))]),
    ])
}

fn info<'a>(topology: &'a Topology, text: &str) -> &'a FunctionInfo {
    topology.find(address(text)).expect("enumerated")
}

#[test]
fn every_function_is_found_under_assigned_bus_numbers() {
    let mut bus = machine();
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(topology.problems, []);
    let found: Vec<_> = topology
        .functions
        .iter()
        .map(|info| info.address.bdf.to_string())
        .collect();
    let expected = [
        "00:00.0", "00:01.0", "00:02.0", "00:03.0", "00:04.0", "00:05.0", "00:06.0", "01:00.0",
        "02:00.0", "02:00.1", "03:00.0", "08:00.0", "09:00.0",
    ];
    assert_eq!(found, expected);
    // Primary, secondary, subordinate as the fabric holds them.
    assert_eq!(bus.at("00:04.0").get(0x18), 0x0001_0100);
    assert_eq!(bus.at("08:00.0").get(0x18), 0x0009_0908);
}

#[test]
fn every_bar_gets_pages_of_its_own_inside_its_windows() {
    let mut bus = machine();
    let topology = enumerate(&mut bus, &[virt_host()]);
    let mut spans: Vec<Span<Hpa>> = Vec::new();
    for info in &topology.functions {
        for (index, bar) in info.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let address = bar.pci.expect("placed");
            assert_eq!(address % 0x1_0000, 0);
            assert_eq!(address % bar.size, 0);
            let span = bar.host_span().unwrap();
            assert!(!spans.iter().any(|other| other.overlaps(&span)));
            spans.push(span);
            let fake = bus.function(info.address.bdf).unwrap();
            let register = fake.get(0x10 + 4 * index);
            assert_eq!(register & !0xf, address as u32);
            assert_eq!(register & 0xf, bar.flags());
            if let Some(bridge) = topology.above(info).next() {
                let bridge = bus.function(bridge.address.bdf).unwrap();
                let high = address >= 1 << 32;
                let register = bridge.get(if high { 0x24 } else { 0x20 });
                let upper = |at| {
                    if high {
                        u64::from(bridge.get(at)) << 32
                    } else {
                        0
                    }
                };
                let base = u64::from(register & 0xfff0) << 16 | upper(0x28);
                let last = u64::from(register & 0xfff0_0000) | 0xf_ffff | upper(0x2c);
                assert!(base <= address && address + bar.size - 1 <= last);
            }
        }
    }
    // The 1 GiB prefetchable one went above 4 GiB, the NVMe registers below.
    let child = info(&topology, "01:00.0");
    assert!(child.bars[2].unwrap().host.unwrap() >= Hpa(0x80_0000_0000));
    assert!(child.bars[0].unwrap().host.unwrap() < Hpa(0x4000_0000));
}

#[test]
fn bars_at_a_shifted_window_have_the_cpu_address() {
    let mut host = virt_host();
    host.windows[1].cpu.base = Hpa(0x5_0000_0000);
    let mut bus = FakeBus::new(vec![(0, vec![edu(1)])]);
    let topology = enumerate(&mut bus, &[host]);
    let bar = info(&topology, "00:01.0").bars[0].unwrap();
    assert_eq!(bar.pci, Some(0x1000_0000));
    assert_eq!(bar.host, Some(Hpa(0x5_0000_0000)));
}

#[test]
fn functions_are_silent_afterwards() {
    let mut bus = machine();
    for (at, command) in [("00:02.0", 7), ("00:03.0", 7), ("00:04.0", 7)] {
        bus.at(at).bytes[4] = command;
    }
    bus.at("00:02.0").bytes[0x43] = 0x80;
    bus.at("00:03.0").bytes[0x42] |= 1;
    bus.at("00:02.0").bytes[0x89] |= 2;
    let topology = enumerate(&mut bus, &[virt_host()]);
    for info in topology
        .functions
        .iter()
        .filter(|info| !info.is_host_bridge())
    {
        let fake = bus.function(info.address.bdf).unwrap();
        assert_eq!(fake.get(4) & 0xffff, 0x400, "{}", info.address);
    }
    assert_eq!(bus.at("00:02.0").bytes[0x43] & 0x80, 0);
    assert_eq!(bus.at("00:03.0").bytes[0x42] & 1, 0);
    assert_eq!(bus.at("00:02.0").bytes[0x89], 0x28, "phantom functions off");
    // ACS of a root port: SV, RR, CR, UF as implemented.
    assert_eq!(bus.at("00:04.0").get(0x104), 0x001d_001d);
}

#[test]
fn capabilities_are_decoded() {
    let mut bus = machine();
    let topology = enumerate(&mut bus, &[virt_host()]);
    let found = &info(&topology, "00:02.0").capabilities;
    assert_eq!(found.list, [(0x11, 0x40), (0x10, 0x80), (0x01, 0x60)]);
    let msix = found.msix.unwrap();
    assert_eq!(msix.vectors, 65);
    assert_eq!(
        (msix.table.bar, msix.table.offset, msix.table.len),
        (0, 0x2000, 1040)
    );
    assert_eq!((msix.pending.offset, msix.pending.len), (0x3000, 16));
    let express = found.express.unwrap();
    assert!(express.flr());
    assert_eq!(express.port, PortType::RootComplexIntegrated);
    let msi = info(&topology, "00:03.0").capabilities.msi.unwrap();
    assert_eq!((msi.vectors, msi.wide, msi.maskable), (1, true, true));
    assert!(info(&topology, "00:04.0").capabilities.acs.is_some());
}

#[test]
fn identities_and_routes_follow_the_maps() {
    let mut bus = machine();
    let topology = enumerate(&mut bus, &[virt_host()]);
    let child = info(&topology, "09:00.0");
    let expected = |target| Identity {
        target,
        id: iommu::id::DeviceId(0x900),
    };
    assert_eq!(child.streams, [expected(SMMU)]);
    assert_eq!(child.msi, Some(expected(ITS)));
    // 00:02.0 INTA → 35 + 2; 01:00.0 INTA behind device 4 → 35 + 4 % 4.
    let intid = |at| info(&topology, at).intx.map(|irq| irq.intid);
    assert_eq!(intid("00:02.0"), Some(37));
    assert_eq!(intid("01:00.0"), Some(35));
    assert_eq!(intid("03:00.0"), Some(37));
    let mut host = virt_host();
    host.iommu_map[0].len = 0x900;
    let topology = enumerate(&mut bus, &[host]);
    assert!(!info(&topology, "09:00.0").is_behind_smmu());
    assert!(info(&topology, "00:02.0").is_behind_smmu());
}

#[test]
fn functions_that_reach_each_other_share_a_group() {
    let mut bus = machine();
    let topology = enumerate(&mut bus, &[virt_host()]);
    let group = |at| info(&topology, at).group;
    assert_ne!(group("00:02.0"), group("00:03.0"));
    assert_ne!(group("00:02.0"), group("01:00.0"));
    assert_ne!(group("01:00.0"), group("03:00.0"));
    assert_eq!(
        group("02:00.0"),
        group("02:00.1"),
        "two functions without ACS"
    );
    let entangled: Vec<_> = topology.entangled(info(&topology, "02:00.0")).collect();
    assert_eq!(entangled.len(), 1);
    assert_eq!(topology.entangled(info(&topology, "01:00.0")).count(), 0);
}

#[test]
fn functions_of_one_device_are_apart_if_each_has_acs() {
    // What the second one cannot do at all, it need not redirect.
    for second in [0x1c, 0] {
        let function = |index, acs| {
            let function = FakeFunction::new(1, index, 0x8086, 0x10c9, 0x02_0000);
            function
                .multifunction()
                .with_express(0x40, 9, true)
                .with_acs(acs)
        };
        let mut bus = FakeBus::new(vec![(0, vec![function(0, 0x1c), function(1, second)])]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let group = |at| info(&topology, at).group;
        assert_ne!(group("00:01.0"), group("00:01.1"));
        // One that implements the redirects and does not take them is not apart.
        bus.at("00:01.0").mask(0x104, 0);
        bus.at("00:01.0").put(0x104, 0x1c);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let group = |at| info(&topology, at).group;
        assert_eq!(group("00:01.0"), group("00:01.1"));
    }
}

#[test]
fn a_switch_without_acs_is_one_group_and_with_acs_it_is_not() {
    for acs in [false, true] {
        let port = |device| {
            let port = FakeFunction::bridge(device, 0, Some(6)).with_child(nvme(0, 0));
            if acs { port.with_acs(0x1f) } else { port }
        };
        let switch = FakeFunction::bridge(0, 0, Some(5))
            .with_child(port(0))
            .with_child(port(1));
        let mut bus = FakeBus::new(vec![(0, vec![root_port(1).with_child(switch), nvme(2, 9)])]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        assert_eq!(topology.problems, []);
        assert_eq!(bus.at("00:01.0").get(0x18), 0x0004_0100);
        assert_eq!(bus.at("01:00.0").get(0x18), 0x0004_0201);
        let group = |at| info(&topology, at).group;
        assert_eq!(group("03:00.0") == group("04:00.0"), !acs);
        assert_ne!(group("00:02.0"), group("03:00.0"));
    }
}

/// Each requester ID is a source at the unit of the function that it stands for, and none where no unit translates.
#[test]
fn sources_are_named_by_the_unit_that_translates_them() {
    use crate::boot_info::{DeviceScope, Dmar, ScopeKind, Vtd};
    let unit = |scopes: Vec<DeviceScope>, include_all| Vtd {
        registers: Span {
            base: Hpa(0xfed9_0000),
            len: 0x1000,
        },
        segment: 0,
        scopes,
        include_all,
        proximity: None,
    };
    let bridge = DeviceScope {
        kind: ScopeKind::Bridge,
        id: 0,
        bus: 0,
        path: vec![(1, 0)],
    };
    let behind = FakeFunction::bridge(1, 0, Some(7)).with_child(edu(3));
    let mut bus = FakeBus::new(vec![(0, vec![behind, nvme(2, 9)])]);
    let mut topology = enumerate(&mut bus, &[virt_host()]);
    let mut dmar = Dmar {
        vtds: vec![unit(Vec::new(), true), unit(vec![bridge], false)],
        ..Dmar::default()
    };
    let streams = |topology: &Topology, at: &str| -> Vec<(u32, u32)> {
        let streams = info(topology, at).streams.iter();
        streams.map(|stream| (stream.target, stream.id.0)).collect()
    };
    topology.name_sources(&dmar);
    assert_eq!(
        streams(&topology, "01:03.0"),
        [(1, 0x0118), (1, 0x0008), (1, 0x0100)]
    );
    assert_eq!(streams(&topology, "00:02.0"), [(0, 0x0010)]);
    assert!(info(&topology, "00:02.0").is_behind_smmu());
    dmar.vtds[0].include_all = false;
    topology.name_sources(&dmar);
    assert_eq!(streams(&topology, "00:02.0"), []);
    assert!(!info(&topology, "00:02.0").is_behind_smmu());
    assert_eq!(topology.buses_of(0, 0x0008).map(|it| it.secondary), Some(1));
    assert_eq!(topology.buses_of(1, 0x0008), None, "another segment");
}

#[test]
fn ats_goes_on_with_the_ports_above_that_let_it_through_and_off_with_a_reset() {
    let port = root_port(1)
        .with_acs(0x1f)
        .with_child(nvme(0, 9).with_ats());
    let other = root_port(2).with_acs(0x1f).with_child(nvme(0, 9));
    let mut bus = FakeBus::new(vec![(0, vec![port, other])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    let controls =
        |bus: &mut FakeBus| ["00:01.0", "00:02.0", "01:00.0"].map(|at| bus.at(at).get(0x104) >> 16);
    assert_eq!(controls(&mut bus), [0x1f, 0x1f, 4]);
    let function = info(&topology, "01:00.0");
    turn_on_ats(&mut bus, &topology, function);
    assert_eq!(controls(&mut bus), [0x1d, 0x1f, 0x8000]);
    quiesce(&mut bus, function);
    assert_eq!(controls(&mut bus)[2], 0);
    // One that has none is left alone.
    let writes = bus.writes.len();
    turn_on_ats(&mut bus, &topology, info(&topology, "02:00.0"));
    assert_eq!(bus.writes.len(), writes);
}

#[test]
fn a_conventional_bridge_lends_its_numbers_to_what_is_behind_it() {
    let bridge = FakeFunction::bridge(1, 0, Some(7))
        .with_child(edu(3))
        .with_child(edu(4));
    let plain = FakeFunction::bridge(2, 0, None).with_child(edu(1));
    let mut bus = FakeBus::new(vec![(0, vec![bridge, plain])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    let child = info(&topology, "01:03.0");
    assert_eq!(child.requester_ids, [0x0118, 0x0008, 0x0100]);
    assert_eq!(child.msi.unwrap().id.0, 0x0100);
    assert_eq!(child.group, info(&topology, "01:04.0").group);
    assert_eq!(info(&topology, "02:01.0").requester_ids, [0x0208, 0x0010]);
    assert_ne!(child.group, info(&topology, "02:01.0").group);
    assert_eq!(topology.entangled(child).count(), 1);
}

#[test]
fn numbers_and_addresses_of_firmware_stay() {
    let mut bus = machine();
    // Firmware: bus 5 behind the first port, its windows and BARs, the other ports unconfigured.
    let port = bus.at("00:04.0");
    port.put(0x18, 0x0006_0500);
    port.put(0x20, 0x2000_2000);
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(topology.problems, []);
    assert_eq!(bus.at("00:04.0").get(0x18), 0x0006_0500);
    assert_eq!(info(&topology, "05:00.0").vendor, 0x1b36);
    assert_eq!(bus.at("00:05.0").get(0x19) & 0xff, 1);

    // A second walk finds everything in its place and moves nothing.
    let places = |bus: &mut FakeBus, topology: &Topology| -> Vec<Vec<u32>> {
        let read = |info: &FunctionInfo| {
            let fake = bus.function(info.address.bdf).unwrap();
            (0x10..0x30).step_by(4).map(|at| fake.get(at)).collect()
        };
        topology.functions.iter().map(read).collect()
    };
    let before = places(&mut bus, &topology);
    let again = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(again, topology);
    assert_eq!(places(&mut bus, &again), before);
}

#[test]
fn bars_of_firmware_that_share_a_page_are_moved_apart() {
    let small = |device| FakeFunction::new(device, 0, 0x1af4, 2, 0x02_0000).with_bar(0, 0, 0x100);
    let (mut a, mut b) = (small(1), small(2));
    a.put(0x10, 0x1000_0000);
    b.put(0x10, 0x1000_0100);
    let mut bus = FakeBus::new(vec![(0, vec![a, b])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    let host = |at| info(&topology, at).bars[0].unwrap().host.unwrap();
    assert!(host("00:02.0") - host("00:01.0") >= 0x1_0000);
}

#[test]
fn bus_numbers_that_do_not_nest_are_given_anew() {
    let mut bus = machine();
    bus.at("00:04.0").put(0x18, 0x0004_0200);
    bus.at("00:05.0").put(0x18, 0x0005_0300); // overlaps
    bus.at("00:06.0").put(0x18, 0x0001_0000); // behind itself
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(topology.problems, []);
    assert_eq!(topology.functions.len(), 13);
    assert_eq!(bus.at("00:04.0").get(0x18), 0x0004_0200);
    assert_eq!(bus.at("00:05.0").get(0x18), 0x0001_0100);
    assert_eq!(bus.at("00:06.0").get(0x18), 0x0005_0500);
}

#[test]
fn a_bar_without_space_is_named_and_takes_nobody_along() {
    let huge = edu(0).with_bar(2, 0, 0x8000_0000);
    let port = root_port(4).with_child(huge.multifunction());
    let mut neighbour = edu(0);
    neighbour.function = 1;
    let mut bus = FakeBus::new(vec![(0, vec![port.with_child(neighbour), edu(2)])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(topology.problems, [Problem::NoSpace(address("01:00.0"))]);
    assert!(!info(&topology, "01:00.0").is_assignable());
    assert!(info(&topology, "01:00.1").is_assignable());
    assert!(info(&topology, "00:02.0").is_assignable());
}

#[test]
fn no_bus_number_left_closes_the_bridge() {
    let mut host = virt_host();
    host.buses = (0, 1);
    let mut bus = FakeBus::new(vec![(0, vec![root_port(1), root_port(2)])]);
    let topology = enumerate(&mut bus, &[host]);
    assert_eq!(
        topology.problems,
        [Problem::NoBusNumber(address("00:02.0"))]
    );
    assert_eq!(info(&topology, "00:02.0").header, Header::Bridge(None));
}
