//! Rules on virtual functions and the physical ones that have them.

use super::*;

const PHYSICAL: &str = "00:03.0";

/// A function that could have four, with the two that it has.
fn facts_with_virtuals() -> MachineFacts {
    let mut facts = facts();
    let mut physical = function(PHYSICAL, &[0x18], 4);
    physical.vfs = 4;
    facts.functions.push(physical);
    for (address, id) in [("00:03.1", 0x19), ("00:03.2", 0x1a)] {
        let mut vf = function(address, &[id], id);
        vf.physical = Some(PHYSICAL.parse().unwrap());
        facts.functions.push(vf);
    }
    facts
}

fn sriov(address: &str, vfs: u16) -> Sriov {
    Sriov {
        address: address.parse().unwrap(),
        vfs,
    }
}

fn breaks(change: impl FnOnce(&mut Machine)) -> Vec<(String, Rule)> {
    broken_on(&facts_with_virtuals(), |m| {
        m.machine.sriov = vec![sriov(PHYSICAL, 2)];
        change(m);
    })
}

fn at(place: &str, rule: Rule) -> Vec<(String, Rule)> {
    vec![(place.to_string(), rule)]
}

#[test]
fn virtual_functions_go_to_whom_the_configuration_says() {
    assert_eq!(breaks(|_| {}), []);
    let given = breaks(|m| {
        m.partitions[0].devices = vec![device("00:03.1")];
        m.partitions[1].devices = vec![device("00:03.2")];
    });
    assert_eq!(given, []);
    // With the physical one, to one partition.
    let all = breaks(|m| {
        m.partitions[0].devices = vec![device("00:03.2"), device(PHYSICAL), device("00:03.1")];
    });
    assert_eq!(all, []);
}

#[test]
fn a_virtual_function_is_one_partitions() {
    let twice = breaks(|m| {
        m.partitions[0].devices = vec![device("00:03.1")];
        m.partitions[1].devices = vec![device("00:03.1")];
    });
    assert_eq!(
        twice,
        at("partition[1].device[0].address", Rule::DeviceTwice)
    );
    let unknown = breaks(|m| m.partitions[0].devices = vec![device("00:03.3")]);
    assert_eq!(
        unknown,
        at("partition[0].device[0].address", Rule::DeviceUnknown)
    );
}

#[test]
fn who_has_the_physical_function_says_that_it_serves_others() {
    let split = |m: &mut Machine| {
        m.partitions[0].devices = vec![device("00:03.1"), device("00:03.2")];
        m.partitions[1].devices = vec![device(PHYSICAL)];
    };
    let physical = PHYSICAL.parse().unwrap();
    let managed = Rule::SriovManaged { physical };
    let expected = [
        "partition[0].device[0].address",
        "partition[0].device[1].address",
    ];
    let found = breaks(split);
    let expected: Vec<_> = expected.map(|place| (place.to_string(), managed)).into();
    assert_eq!(found, expected);
    let said = breaks(|m| {
        split(m);
        m.partitions[1].devices[0].manages_vfs = true;
    });
    assert_eq!(said, []);
    // To say so of a virtual function, of one without any, or of a node is a mistake.
    for address in ["00:03.1", "00:01.0"] {
        let wrong = breaks(|m| {
            let mut device = device(address);
            device.manages_vfs = true;
            m.partitions[0].devices = vec![device];
        });
        let place = "partition[0].device[0].manages_vfs";
        assert_eq!(wrong, at(place, Rule::SriovManagesNone));
    }
    let none = breaks(|m| {
        m.machine.sriov.clear();
        m.partitions[1].devices = vec![device(PHYSICAL)];
        m.partitions[1].devices[0].manages_vfs = true;
    });
    let place = "partition[1].device[0].manages_vfs";
    assert_eq!(none, at(place, Rule::SriovManagesNone));
}

#[test]
fn a_function_has_as_many_as_it_can() {
    let with = |list: &[(&str, u16)]| {
        breaks(|m| m.machine.sriov = list.iter().map(|(it, vfs)| sriov(it, *vfs)).collect())
    };
    assert_eq!(with(&[(PHYSICAL, 4)]), []);
    let many = Rule::SriovTooMany { vfs: 5, total: 4 };
    assert_eq!(with(&[(PHYSICAL, 5)]), at("machine.sriov[0].vfs", many));
    assert_eq!(
        with(&[(PHYSICAL, 0)]),
        at("machine.sriov[0].vfs", Rule::SriovNone)
    );
    let place = "machine.sriov[0].address";
    assert_eq!(with(&[("00:01.0", 1)]), at(place, Rule::SriovUnknown));
    assert_eq!(with(&[("00:03.1", 1)]), at(place, Rule::SriovUnknown));
    assert_eq!(with(&[("00:09.0", 1)]), at(place, Rule::DeviceUnknown));
    let twice = with(&[(PHYSICAL, 1), (PHYSICAL, 2)]);
    assert_eq!(twice, at("machine.sriov[1].address", Rule::SriovTwice));
}
