//! Virtual functions: found, numbered, placed, isolated, reset; and what a device can say wrong of them.

use super::*;
use crate::pci::fake::{Random, Ticking};
use crate::pci::sriov::{SriovFault, Wanted, turn_on};

const VIRTUAL_ID: u16 = 0x0011;
/// Of the capability of [`FakeFunction::with_virtuals`].
const AT: usize = 0x120;
const BAR: u64 = 0x4000;

fn virtual_function() -> FakeFunction {
    FakeFunction::new(0, 0, 0xffff, 0xffff, 0x01_0802)
        .with_express(0x80, 0, true)
        .with_msix(0x40, 3, 0, 0x2000, 0x3000)
}

/// An NVMe that can have `count` virtual functions.
fn physical(device: u8, count: usize, places: (u16, u16)) -> FakeFunction {
    let virtuals = vec![virtual_function(); count];
    nvme(device, if device == 0 { 0 } else { 9 }).with_virtuals(VIRTUAL_ID, places, BAR, virtuals)
}

fn port(device: u8, child: FakeFunction) -> FakeFunction {
    let mut port = root_port(device).with_child(child);
    // ARI forwarding is supported.
    port.put(0x40 + 0x24, 1 << 5);
    port
}

fn want(at: &str, vfs: u16) -> Wanted {
    Wanted {
        function: address(at),
        vfs,
    }
}

fn walk(bus: &mut FakeBus, wanted: &[Wanted]) -> Topology {
    Topology::enumerate(bus, &mut Ticking::default(), &[virt_host()], wanted)
}

/// The topology of `function` alone behind a port, with `vfs` wanted of it.
fn alone(function: FakeFunction, vfs: u16) -> (FakeBus, Topology) {
    let mut bus = FakeBus::new(vec![(0, vec![port(1, function)])]);
    let topology = walk(&mut bus, &[want("01:00.0", vfs)]);
    (bus, topology)
}

fn names(topology: &Topology) -> Vec<alloc::string::String> {
    let all = topology.functions.iter();
    all.map(|info| info.address.bdf.to_string()).collect()
}

#[test]
fn virtual_functions_are_functions_like_any_other() {
    let roots = vec![port(1, physical(0, 4, (1, 2))), edu(2)];
    let mut bus = FakeBus::new(vec![(0, roots)]);
    let mut clock = Ticking::default();
    let wanted = [want("01:00.0", 3)];
    let topology = Topology::enumerate(&mut bus, &mut clock, &[virt_host()], &wanted);
    assert_eq!(topology.problems, []);
    let expected = [
        "00:01.0", "00:02.0", "01:00.0", "01:00.1", "01:00.3", "01:00.5",
    ];
    assert_eq!(names(&topology), expected);
    assert!(
        (100..110).contains(&(clock.now / 1_000_000)),
        "{}",
        clock.now
    );

    let physical = info(&topology, "01:00.0");
    let own = topology.functions.iter().position(|it| it == physical);
    let mut groups = vec![physical.group, info(&topology, "00:02.0").group];
    let mut spans = vec![physical.bars[0].unwrap().host_span().unwrap()];
    for at in ["01:00.1", "01:00.3", "01:00.5"] {
        let vf = info(&topology, at);
        assert_eq!((vf.physical, vf.parent), (own, physical.parent));
        assert_eq!((vf.vendor, vf.device), (0x1b36, VIRTUAL_ID));
        assert_eq!((vf.class, vf.interrupt_pin), (0x01_0802, 0));
        let id = vf.address.bdf.requester_id();
        assert_eq!(vf.requester_ids, [id]);
        assert_eq!(vf.streams.len(), 1);
        assert_eq!(vf.streams[0].id.0, u32::from(id));
        assert_eq!(vf.msi.unwrap().id.0, u32::from(id));
        assert_eq!(vf.capabilities.msix.unwrap().vectors, 3);
        assert_eq!(reset_kind(&topology, vf), Some(ResetKind::FunctionLevel));
        assert!(vf.is_assignable() && vf.is_behind_smmu());
        assert!(!groups.contains(&vf.group));
        groups.push(vf.group);
        let bar = vf.bars[0].unwrap();
        assert_eq!((bar.size, bar.kind), (BAR, BarKind::Memory64));
        let span = bar.host_span().unwrap();
        assert!(!spans.iter().any(|other| other.overlaps(&span)));
        spans.push(span);
        // Silent, and behind the port's window.
        let fake = bus.function(vf.address.bdf).unwrap();
        assert_eq!(fake.get(4) & 0xffff, 0x400);
        assert_eq!(topology.entangled(vf).count(), 0);
    }
    let fake = bus.at("01:00.0");
    // ARI, memory, enabled; 4 KiB pages; three; where the first one's BAR is.
    assert_eq!(fake.get(AT + 8) & 0xffff, 0x19);
    assert_eq!((fake.get(AT + 0x20), fake.get(AT + 0x10)), (1, 3));
    let first = info(&topology, "01:00.1").bars[0].unwrap().pci.unwrap();
    assert_eq!(u64::from(fake.get(AT + 0x24) & !0xf), first);
    assert!(first.is_multiple_of(0x1_0000), "away from other functions");
    let port = bus.at("00:01.0");
    assert_eq!(port.get(0x40 + 0x28) >> 5 & 1, 1, "ARI forwarding");
    let window = port.get(0x20);
    let (base, last) = (window << 16 & 0xfff0_0000, window | 0xf_ffff);
    for span in spans {
        assert!(u64::from(base) <= span.base.0 && span.end().0 <= u64::from(last) + 1);
    }
}

#[test]
fn without_a_wish_the_capability_is_left_alone() {
    let mut bus = FakeBus::new(vec![(0, vec![port(1, physical(0, 4, (1, 1)))])]);
    let topology = walk(&mut bus, &[]);
    assert_eq!(names(&topology), ["00:01.0", "01:00.0"]);
    let sriov = info(&topology, "01:00.0").sriov.clone().unwrap();
    assert_eq!((sriov.total, sriov.vfs), (4, 0));
    let touched =
        |write: &&fake::Write| write.offset >= AT as u16 && write.function == address("01:00.0");
    assert_eq!(bus.writes.iter().filter(touched).count(), 0);
    let forwarding = bus.at("00:01.0").get(0x40 + 0x28) >> 5 & 1;
    assert_eq!(forwarding, 0);
}

#[test]
fn those_of_firmware_go_before_ours_come() {
    let mut function = physical(0, 4, (1, 1));
    function.put(AT + 8, 0x9);
    function.put(AT + 0x10, 4);
    let mut bus = FakeBus::new(vec![(0, vec![port(1, function)])]);
    let mut clock = Ticking::default();
    let wanted = [want("01:00.0", 1)];
    let topology = Topology::enumerate(&mut bus, &mut clock, &[virt_host()], &wanted);
    assert_eq!(names(&topology), ["00:01.0", "01:00.0", "01:00.1"]);
    // A second off, then 100 ms.
    assert!(
        (1100..1120).contains(&(clock.now / 1_000_000)),
        "{}",
        clock.now
    );
    assert_eq!(bus.at("01:00.0").get(AT + 0x10), 1);
}

#[test]
fn bus_numbers_behind_the_port_are_reserved() {
    let roots = vec![
        port(1, physical(0, 4, (0x80, 0x80))),
        port(2, physical(0, 0, (0, 0))),
    ];
    let mut bus = FakeBus::new(vec![(0, roots)]);
    let topology = walk(&mut bus, &[want("01:00.0", 4)]);
    assert_eq!(topology.problems, []);
    let expected = [
        "00:01.0", "00:02.0", "01:00.0", "04:00.0", "01:10.0", "02:00.0", "02:10.0", "03:00.0",
    ];
    assert_eq!(names(&topology), expected);
    assert_eq!(bus.at("00:01.0").get(0x18), 0x0003_0100);
    assert_eq!(bus.at("00:02.0").get(0x18), 0x0004_0400);
    // Again, with the numbers as they are now: as firmware would have left them.
    let again = walk(&mut bus, &[want("01:00.0", 4)]);
    assert_eq!(again.problems, []);
    assert_eq!(names(&again), expected);
}

#[test]
fn numbers_that_firmware_left_no_room_for_are_not_taken() {
    let roots = vec![port(1, physical(0, 2, (0x80, 0x80)))];
    let mut bus = FakeBus::new(vec![(0, roots)]);
    bus.at("00:01.0").put(0x18, 0x0001_0100);
    let topology = walk(&mut bus, &[want("01:00.0", 2)]);
    let fault = Problem::Sriov(address("01:00.0"), SriovFault::Bus(2));
    assert_eq!(topology.problems, [fault]);
    assert_eq!(names(&topology), ["00:01.0", "01:00.0"]);
    // On a root bus they may be where no bridge leads.
    let mut bus = FakeBus::new(vec![(0, vec![physical(1, 2, (0x100, 1)), port(2, edu(0))])]);
    let topology = walk(&mut bus, &[want("00:01.0", 2)]);
    assert_eq!(topology.problems, []);
    let expected = ["00:01.0", "00:02.0", "02:00.0", "01:01.0", "01:01.1"];
    assert_eq!(names(&topology), expected);
}

/// What a malformed capability is called; nothing of it stays on, and the function itself is as ever.
fn refused(change: impl FnOnce(&mut FakeFunction), vfs: u16) -> SriovFault {
    let mut function = physical(0, 4, (1, 1));
    change(&mut function);
    let (mut bus, topology) = alone(function, vfs);
    assert_eq!(names(&topology), ["00:01.0", "01:00.0"]);
    let info = info(&topology, "01:00.0");
    assert!(info.is_assignable() && info.vfs() == 0);
    assert_eq!(bus.at("01:00.0").get(AT + 8) & 9, 0, "off");
    match topology.problems[..] {
        [Problem::Sriov(at, fault)] if at == info.address => fault,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_malformed_capability_gives_no_virtual_functions() {
    let put = |at: usize, value: u32| move |it: &mut FakeFunction| it.put(AT + at, value);
    assert_eq!(refused(put(0x14, 0x0001_0000), 2), SriovFault::NoOffset);
    assert_eq!(refused(put(0x14, 0x0000_0001), 2), SriovFault::NoStride);
    assert_eq!(refused(put(0x14, 0x0001_ff00), 2), SriovFault::PastEnd);
    assert_eq!(refused(put(0x14, 0x8000_0001), 3), SriovFault::PastEnd);
    assert_eq!(refused(|_| {}, 5), SriovFault::TooFew(4));
    assert_eq!(refused(|_| {}, u16::MAX), SriovFault::TooFew(4));
    assert_eq!(refused(put(0xc, 0x0004_0003), 2), SriovFault::Counts(3, 4));
    assert_eq!(refused(put(0xc, 0), 1), SriovFault::TooFew(0));
    assert_eq!(refused(put(0x1c, 0x552), 2), SriovFault::PageSize(0x552));
    assert_eq!(refused(|it| it.mask(AT + 0x10, 1), 3), SriovFault::Stuck(1));
    // BARs: a reserved type, I/O, less than a page, a 64-bit one without upper half.
    let bar = |flags: u32, mask: u32| {
        move |it: &mut FakeFunction| {
            it.put(AT + 0x24, flags);
            it.mask(AT + 0x24, mask);
        }
    };
    for kind in [2, 6] {
        assert_eq!(
            refused(bar(kind, 0xffff_0000), 1),
            SriovFault::Bar(0, BarFault::ReservedType)
        );
    }
    assert_eq!(refused(bar(1, 0xffff_ff00), 1), SriovFault::NotPages(0));
    assert_eq!(refused(bar(4, 0xffff_f800), 1), SriovFault::NotPages(0));
    assert_eq!(
        refused(bar(4, 0xffff_5000), 1),
        SriovFault::Bar(0, BarFault::NotPowerOfTwo)
    );
    let last = |it: &mut FakeFunction| {
        it.put(AT + 0x38, 4);
        it.mask(AT + 0x38, !0xfff);
    };
    assert_eq!(refused(last, 1), SriovFault::Bar(5, BarFault::NoUpperHalf));
}

#[test]
fn a_capability_that_does_not_fit_is_none() {
    let mut function = nvme(0, 0);
    // The last place at which its 64 bytes fit is 0xfc0.
    function.put(0x100, 0xfc4 << 20 | 0x0001_000e);
    function.put(0xfc4, 0x0001_0010);
    let (_, topology) = alone(function, 1);
    let at = address("01:00.0");
    assert_eq!(
        topology.problems,
        [
            Problem::Capability(at, ChainFault::PastEnd(0xfc4)),
            Problem::Sriov(at, SriovFault::Absent)
        ]
    );
}

#[test]
fn virtual_functions_do_not_take_the_place_of_another() {
    let sibling = || FakeFunction::new(0, 2, 0x8086, 0x10d3, 0x02_0000);
    let port = port(1, physical(0, 2, (1, 1)).multifunction()).with_child(sibling());
    let mut bus = FakeBus::new(vec![(0, vec![port])]);
    let topology = walk(&mut bus, &[want("01:00.0", 2)]);
    let taken = SriovFault::Taken(address("01:00.2"));
    assert_eq!(
        topology.problems,
        [Problem::Sriov(address("01:00.0"), taken)]
    );
    assert_eq!(names(&topology), ["00:01.0", "01:00.0", "01:00.2"]);

    // Nor that of another function's virtual one.
    let mut other = physical(0, 2, (1, 1));
    other.function = 1;
    let port = self::port(1, physical(0, 2, (2, 1)).multifunction()).with_child(other);
    let mut bus = FakeBus::new(vec![(0, vec![port])]);
    let topology = walk(&mut bus, &[want("01:00.0", 2), want("01:00.1", 2)]);
    let taken = SriovFault::Taken(address("01:00.2"));
    assert_eq!(
        topology.problems,
        [Problem::Sriov(address("01:00.1"), taken)]
    );
    assert_eq!(topology.functions.len(), 5);
}

#[test]
fn one_that_does_not_come_costs_a_second_and_all_of_them() {
    let mut function = physical(0, 2, (1, 1));
    function.virtuals[1].dead = true;
    let mut bus = FakeBus::new(vec![(0, vec![port(1, function)])]);
    let mut clock = Ticking::default();
    let wanted = [want("01:00.0", 2)];
    let topology = Topology::enumerate(&mut bus, &mut clock, &[virt_host()], &wanted);
    let fault = SriovFault::NotReady(address("01:00.2"));
    assert_eq!(
        topology.problems,
        [Problem::Sriov(address("01:00.0"), fault)]
    );
    assert_eq!(names(&topology), ["00:01.0", "01:00.0"]);
    assert!((1100..1120).contains(&(clock.now / 1_000_000)));
    assert_eq!(bus.at("01:00.0").get(AT + 8) & 9, 0);
}

#[test]
fn without_space_there_are_none() {
    let mut function = physical(0, 4, (1, 1));
    // 4 times 256 MiB, of 32-bit addresses: the window has 752 MiB.
    function.put(AT + 0x24, 0);
    function.mask(AT + 0x24, 0xf000_0000);
    function.mask(AT + 0x28, 0);
    let (_, topology) = alone(function.clone(), 4);
    assert_eq!(topology.problems, [Problem::NoSpace(address("01:00.0"))]);
    assert_eq!(names(&topology), ["00:01.0", "01:00.0"]);
    let (_, topology) = alone(function, 1);
    assert_eq!(topology.problems, []);
    assert_eq!(topology.functions.len(), 3);
}

#[test]
fn a_reset_of_the_physical_one_takes_them_along_until_they_are_turned_on() {
    let (mut bus, topology) = alone(physical(0, 2, (1, 1)), 2);
    let own = address("01:00.0");
    let index = topology.functions.iter().position(|it| it.address == own);
    let before: Vec<u32> = (0..0x40)
        .step_by(4)
        .map(|at| bus.at("01:00.0").get(AT + at))
        .collect();
    bus.at("01:00.2").put(4, 0x406);
    let mut clock = Ticking::default();
    let info = info(&topology, "01:00.0").clone();
    let kind = reset(&mut bus, &mut clock, &topology, &info);
    assert_eq!(kind, Ok(ResetKind::FunctionLevel));
    assert!(bus.function(address("01:00.1").bdf).is_none());
    turn_on(&mut bus, &mut clock, &topology, index.unwrap()).unwrap();
    let after: Vec<u32> = (0..0x40)
        .step_by(4)
        .map(|at| bus.at("01:00.0").get(AT + at))
        .collect();
    assert_eq!(after, before);
    assert_eq!(bus.at("01:00.2").get(4) & 0xffff, 0x400, "silent");
    assert!(clock.longest <= 100_000);

    // Where they would be elsewhere now, they are not there.
    reset(&mut bus, &mut clock, &topology, &info).unwrap();
    bus.at("01:00.0").put(AT + 0x14, 0x0001_0002);
    let moved = turn_on(&mut bus, &mut clock, &topology, index.unwrap());
    assert_eq!(moved, Err(SriovFault::Moved));
    assert_eq!(bus.at("01:00.0").get(AT + 8) & 9, 0);
}

#[test]
fn a_virtual_function_is_reset_alone() {
    let (mut bus, topology) = alone(physical(0, 2, (1, 1)), 2);
    let mut clock = Ticking::default();
    let vf = info(&topology, "01:00.2").clone();
    bus.writes.clear();
    let kind = reset(&mut bus, &mut clock, &topology, &vf);
    assert_eq!(kind, Ok(ResetKind::FunctionLevel));
    assert_eq!(bus.at("01:00.2").resets, 1);
    assert_eq!((bus.at("01:00.0").resets, bus.at("01:00.1").resets), (0, 0));
    assert!(bus.writes.iter().all(|write| write.function == vf.address));
    assert!((100..110).contains(&(clock.now / 1_000_000)));

    // One that does not answer any more, and one that never had a reset of its own.
    bus.at("01:00.2").dies = true;
    let gone = reset(&mut bus, &mut clock, &topology, &vf);
    assert_eq!(gone, Err(ResetError::NotReady(vf.address)));
    let mut function = physical(0, 1, (1, 1));
    function.virtuals[0].put(0x84, 0x8001);
    let (_, topology) = alone(function, 1);
    assert_eq!(reset_kind(&topology, info(&topology, "01:00.1")), None);
}

#[test]
fn acs_that_a_virtual_function_has_must_hold_it() {
    for (acs, apart) in [(None, true), (Some(0x1c), true), (Some(0x4), false)] {
        let mut function = physical(0, 2, (1, 1));
        if let Some(acs) = acs {
            let vf = function.virtuals[0].clone().with_acs(0x1f);
            // Redirection and forwarding, as far as control keeps them.
            function.virtuals[0] = vf;
            function.virtuals[0].mask(0x104, u32::from(acs as u16) << 16);
        }
        let (_, topology) = alone(function, 2);
        let group = |at| info(&topology, at).group;
        assert_eq!(group("01:00.1") != group("01:00.0"), apart, "{acs:?}");
        assert_ne!(group("01:00.2"), group("01:00.0"));
    }
    // A port without ACS turns requests of all behind it round.
    let mut port = port(1, physical(0, 2, (1, 1)));
    port.put(0x100, 0);
    let mut bus = FakeBus::new(vec![(0, vec![port])]);
    let topology = walk(&mut bus, &[want("01:00.0", 2)]);
    let group = |at| info(&topology, at).group;
    assert_eq!(group("01:00.1"), group("01:00.0"));
    assert_eq!(group("01:00.1"), group("01:00.2"));
}

#[test]
fn random_capabilities_do_no_harm() {
    let mut random = Random(0x5_1107);
    for round in 0..400 {
        let mut function = physical(0, 8, (1, 1));
        // Some of the capability's words, and what can be written to them.
        for at in (8..0x40).step_by(4) {
            if random.word() & 3 == 0 {
                function.put(AT + at, random.word() as u32);
            }
            if random.word() & 3 == 0 {
                function.mask(AT + at, random.word() as u32);
            }
        }
        for vf in &mut function.virtuals {
            if random.word() & 1 == 0 {
                for at in (0..0x200).step_by(4) {
                    vf.put(at, random.word() as u32);
                }
            }
            vf.dead = random.word() & 15 == 0;
        }
        let wanted = (random.word() % 12) as u16;
        let (_, topology) = alone(function, wanted);
        let physical = info(&topology, "01:00.0");
        let virtuals = topology.functions.iter().filter(|it| it.physical.is_some());
        let count = virtuals.clone().count();
        assert_eq!(count, usize::from(physical.vfs()), "round {round}");
        assert!(count == 0 || count == usize::from(wanted));
        for vf in virtuals {
            assert!(vf.is_assignable());
            assert_eq!(topology.find(vf.address), Some(vf), "one of each");
            let _ = reset_kind(&topology, vf);
        }
    }
}
