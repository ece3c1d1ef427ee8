//! Rules on devices that are trusted with address translation services (ATS).

use super::super::{Device, DeviceAddress, Function, Key, Machine, MachineFacts, Path, Rule};
use super::Problems;

/// What each of them has, and who shares a stream with it.
pub fn trusted(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    for (i, partition) in machine.partitions.iter().enumerate() {
        let list = Path::partition(i).key(Key::Device);
        for (j, device) in partition.devices.iter().enumerate() {
            if !device.ats {
                continue;
            }
            let at = list.index(j).key(Key::Ats);
            let found = function(device, facts);
            let is_node = matches!(device.address, DeviceAddress::Path(_));
            if is_node || found.is_some_and(|it| it.ats == Some(false)) {
                out.add(Rule::AtsNone, at);
            } else if partition.viommu {
                out.add_two(
                    Rule::AtsBehindGuest,
                    at,
                    Some(Path::partition(i).key(Key::Viommu)),
                );
            }
            let shares = |other: &Device| {
                let pair = found.zip(function(other, facts));
                !other.ats
                    && pair.is_some_and(|(one, two)| {
                        one.streams.iter().any(|it| two.streams.contains(it))
                    })
            };
            if let Some(other) = partition.devices.iter().position(shares) {
                let other = Some(list.index(other).key(Key::Address));
                out.add_two(Rule::AtsOfOne, at, other);
            }
        }
    }
}

fn function<'a>(device: &Device, facts: &'a MachineFacts) -> Option<&'a Function> {
    match &device.address {
        DeviceAddress::Pci(address) => facts.function(address),
        DeviceAddress::Path(_) => None,
    }
}
