//! Functions that lie.

use super::*;
use crate::pci::fake::Random;

fn alone(function: FakeFunction) -> (FakeBus, Topology) {
    let mut bus = FakeBus::new(vec![(0, vec![function])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    (bus, topology)
}

fn plain() -> FakeFunction {
    FakeFunction::new(1, 0, 0xbad0, 1, 0x02_0000)
}

fn fault(topology: &Topology) -> Option<ChainFault> {
    topology.functions[0].capabilities.fault
}

#[test]
fn a_capability_that_points_to_itself_ends_the_list() {
    for id in [0, 5] {
        let mut function = plain().with_capability(0x40, id);
        function.bytes[0x41] = 0x40;
        let (bus, topology) = alone(function);
        assert_eq!(fault(&topology), Some(ChainFault::Loop(0x40)));
        assert!(bus.reads < 12_000);
    }
}

#[test]
fn a_pointer_into_the_header_ends_the_list() {
    let mut function = plain().with_power(0x40, false);
    function.bytes[0x41] = 0x10;
    let (_, topology) = alone(function);
    assert_eq!(fault(&topology), Some(ChainFault::BelowHeader(0x10)));
    assert!(topology.functions[0].capabilities.power.is_some());
}

#[test]
fn a_capability_at_the_end_that_does_not_fit_is_left_out() {
    for id in [0x01, 0x05, 0x10, 0x11, 0x13] {
        let mut function = plain();
        // All ones where its registers would be: the next space.
        function.bytes[0x100..0x120].fill(0xff);
        let (_, topology) = alone(function.with_capability(0xfc, id));
        let found = &topology.functions[0].capabilities;
        assert_eq!(found.fault, Some(ChainFault::PastEnd(0xfc)));
        assert_eq!((found.msi, found.msix, found.express), (None, None, None));
    }
}

#[test]
fn a_version_two_capability_near_the_end_is_taken_for_version_one() {
    for (offset, size) in [(0xc4, 0x3c), (0xc8, 0x14)] {
        let mut function = plain().with_capability(offset, 0x10);
        function.bytes[offset + 2] = 2;
        let (_, topology) = alone(function);
        let express = topology.functions[0].capabilities.express.unwrap();
        assert_eq!(express.size(), size);
    }
}

#[test]
fn an_msix_table_outside_its_bar_is_left_out() {
    for (vectors, bar, table, pba) in [
        (1, 1, 0, 0x100),
        (1, 7, 0, 0x100),
        (257, 0, 0, 0x100),
        (1, 0, 0x1000, 0),
        (1, 0, 0, 0xffff_fff8),
    ] {
        let function = plain().with_bar(0, 0, 0x1000);
        let (_, topology) = alone(function.with_msix(0x40, vectors, bar, table, pba));
        assert_eq!(fault(&topology), Some(ChainFault::TableOutsideBar(0x40)));
    }
}

#[test]
fn an_extended_list_that_loops_ends() {
    let mut function = plain().with_express(0x40, 0, false);
    function.put(0x100, 0x2000_0001 | 0xf << 16);
    function.put(0x200, 0x1000_0001 | 0xf << 16);
    let (_, topology) = alone(function);
    assert_eq!(fault(&topology), Some(ChainFault::Loop(0x100)));
}

#[test]
fn malformed_bars_are_named() {
    for (flags, mask, fault) in [
        (2, !0xfu32, BarFault::ReservedType),
        (6, !0xf, BarFault::ReservedType),
        (8, 0, BarFault::NoAddressBits),
        (0, 0xff0f_0000, BarFault::NotPowerOfTwo),
        (1, 0, BarFault::NoAddressBits),
    ] {
        let mut function = plain();
        function.put(0x10, flags);
        function.mask(0x10, mask);
        let (_, topology) = alone(function);
        let expected = Problem::Bar(address("00:01.0"), 0, fault);
        assert_eq!(topology.problems, [expected]);
        assert_eq!(topology.functions[0].bars, [None; 6]);
    }
    let (_, topology) = alone(plain().with_bar(5, 4, 0x1000));
    let expected = Problem::Bar(address("00:01.0"), 5, BarFault::NoUpperHalf);
    assert_eq!(topology.problems, [expected]);
}

#[test]
fn a_function_that_is_not_ready_is_named_and_left_out() {
    let mut function = plain();
    function.pending_retries = u32::MAX;
    let mut bus = FakeBus::new(vec![(0, vec![function])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert!(topology.functions.is_empty());
    assert_eq!(topology.problems, [Problem::NotReady(address("00:01.0"))]);
}

#[test]
fn bridges_behind_bridges_end_at_the_bound() {
    let mut chain = FakeFunction::bridge(0, 0, None);
    for _ in 0..40 {
        chain = FakeFunction::bridge(0, 0, None).with_child(chain);
    }
    let mut bus = FakeBus::new(vec![(0, vec![chain])]);
    let topology = enumerate(&mut bus, &[virt_host()]);
    assert_eq!(topology.functions.len(), 17);
    assert_eq!(topology.problems, [Problem::TooDeep(address("10:00.0"))]);
}

#[test]
fn random_functions_do_no_harm() {
    let mut random = Random(0x5eed);
    for _ in 0..400 {
        let mut functions = Vec::new();
        for device in 0..3 {
            let mut function = plain();
            for at in (0..0x400).step_by(8) {
                let (bytes, mask) = (random.word(), random.word());
                function.put(at, bytes as u32);
                function.put(at + 4, (bytes >> 32) as u32);
                function.mask(at, mask as u32);
                function.mask(at + 4, (mask >> 32) as u32);
            }
            function.device = device;
            function.bytes[6] |= 0x10;
            if random.word() & 1 == 0 {
                function.bytes[0x0e] &= 0x81;
            }
            functions.push(function.with_child(plain()));
        }
        let mut bus = FakeBus::new(vec![(0, functions)]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        assert!(topology.functions.len() <= 1024);
        for info in &topology.functions {
            let _ = reset::reset_kind(&topology, info);
        }
    }
}
