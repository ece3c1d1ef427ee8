//! Rules on virtual functions (VFs) and the physical ones that have them.

use super::super::{Device, DeviceAddress, Key, Machine, MachineFacts, Path, PciAddress, Rule};
use super::Problems;

/// What each function can have. Which VFs there are then is a fact like that of any other function.
pub fn functions(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    let all = &machine.machine.sriov;
    for (i, sriov) in all.iter().enumerate() {
        let at = Path::ROOT.key(Key::Machine).key(Key::Sriov).index(i);
        let address = at.key(Key::Address);
        if let Some(first) = all[..i].iter().position(|it| it.address == sriov.address) {
            let other = Path::ROOT.key(Key::Machine).key(Key::Sriov).index(first);
            out.add_two(Rule::SriovTwice, address, Some(other.key(Key::Address)));
            continue;
        }
        let total = facts.function(&sriov.address).map(|it| it.vfs);
        let vfs = sriov.vfs;
        match total {
            None => out.add(Rule::DeviceUnknown, address),
            Some(0) => out.add(Rule::SriovUnknown, address),
            Some(_) if vfs == 0 => out.add(Rule::SriovNone, at.key(Key::Vfs)),
            Some(total) if vfs > total => {
                out.add(Rule::SriovTooMany { vfs, total }, at.key(Key::Vfs));
            }
            Some(_) => {}
        }
    }
}

/// Whoever has a physical function has power over its VFs: where another partition has one of them, it says that it
/// serves it.
pub fn managers(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    for (partition, place, device) in devices(machine) {
        let Some(address) = function(device) else {
            if device.manages_vfs {
                out.add(Rule::SriovManagesNone, place.key(Key::ManagesVfs));
            }
            continue;
        };
        let has_vfs = machine
            .machine
            .sriov
            .iter()
            .any(|it| it.address == *address);
        if device.manages_vfs && !has_vfs {
            out.add(Rule::SriovManagesNone, place.key(Key::ManagesVfs));
        }
        let Some(physical) = facts.function(address).and_then(|it| it.physical) else {
            continue;
        };
        let owner = devices(machine).find(|(_, _, other)| function(other) == Some(&physical));
        if let Some((owner, other, owned)) = owner
            && owner != partition
            && !owned.manages_vfs
        {
            let rule = Rule::SriovManaged { physical };
            out.add_two(rule, place.key(Key::Address), Some(other.key(Key::Address)));
        }
    }
}

fn devices(machine: &Machine) -> impl Iterator<Item = (usize, Path, &Device)> {
    let partitions = machine.partitions.iter().enumerate();
    partitions.flat_map(|(partition, it)| {
        let devices = it.devices.iter().enumerate();
        let list = Path::partition(partition).key(Key::Device);
        devices.map(move |(i, device)| (partition, list.index(i), device))
    })
}

fn function(device: &Device) -> Option<&PciAddress> {
    match &device.address {
        DeviceAddress::Pci(address) => Some(address),
        DeviceAddress::Path(_) => None,
    }
}
