//! Rules on devices: as the machine has them, and as the guest sees them.

use super::super::placement::guest_addresses;
use super::super::{
    Device, DeviceAddress, Function, Key, Machine, MachineFacts, Partition, Path, PciAddress,
    Platform, ResetPolicy, Rule, Stream,
};
use super::{Problems, nodes};
use alloc::vec::Vec;

/// A device that is known and could be assigned, with what must not be shared.
struct Owned<'f> {
    partition: usize,
    at: Path,
    streams: &'f [Stream],
    /// Of a function: what cannot be isolated from each other.
    group: Option<u32>,
}

pub fn machine_side(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    let mut seen: Vec<(&Device, Path)> = Vec::new();
    let mut owned: Vec<Owned<'_>> = Vec::new();
    for (partition, p) in machine.partitions.iter().enumerate() {
        for (i, device) in p.devices.iter().enumerate() {
            let place = Path::partition(partition).key(Key::Device).index(i);
            let at = place.key(Key::Address);
            if let Some((_, first)) = seen.iter().find(|(d, _)| d.address == device.address) {
                out.add_two(Rule::DeviceTwice, at, Some(*first));
                continue;
            }
            seen.push((device, at));
            let found = match &device.address {
                DeviceAddress::Pci(address) => facts.function(address).map(|function| {
                    let fine = assignable(device, function, place, out);
                    (fine, &function.streams, Some(function.group))
                }),
                DeviceAddress::Path(_) if facts.platform() == Platform::X86_64 => {
                    let what = "a device of a device tree";
                    out.add(Rule::NotOnX86 { what }, at);
                    continue;
                }
                DeviceAddress::Path(path) => facts.node(path).map(|node| {
                    let fine = nodes::assignable(device, node, facts, place, out);
                    (fine, &node.streams, None)
                }),
            };
            match found {
                None => out.add(Rule::DeviceUnknown, at),
                Some((false, ..)) => {}
                Some((true, streams, group)) => {
                    let device = Owned {
                        partition,
                        at,
                        streams,
                        group,
                    };
                    shared(&device, &owned, out);
                    owned.push(device);
                }
            }
        }
    }
}

/// Whether a function could be given to a partition, as far as it alone decides.
fn assignable(device: &Device, function: &Function, place: Path, out: &mut Problems) -> bool {
    let at = place.key(Key::Address);
    if !device.dma {
        out.add(Rule::DeviceDoesDma, place.key(Key::Dma));
    }
    if function.bridge {
        out.add(Rule::DeviceIsBridge, at);
        return false;
    }
    if !function.usable {
        out.add(Rule::DeviceWithoutAddresses, at);
    }
    if function.resettable == Some(false) && device.reset == ResetPolicy::Required {
        out.add(Rule::DeviceCannotReset, at);
    }
    if function.streams.is_empty() {
        out.add(Rule::DeviceBehindNoSmmu, at);
    }
    !function.streams.is_empty()
}

/// A StreamID or isolation group belongs to one partition. One message a device: a shared stream says more.
fn shared(device: &Owned<'_>, owned: &[Owned<'_>], out: &mut Problems) {
    let others = || owned.iter().filter(|o| o.partition != device.partition);
    let common = |other: &Owned<'_>| {
        let mut streams = device.streams.iter();
        streams.find(|s| other.streams.contains(s)).copied()
    };
    let group = device.group;
    if let Some((stream, other)) = others().find_map(|o| Some((common(o)?, o))) {
        let rule = Rule::DeviceSharesStream { stream };
        out.add_two(rule, device.at, Some(other.at));
    } else if let Some(group) = group
        && let Some(other) = others().find(|o| o.group == Some(group))
    {
        let rule = Rule::DeviceSharesGroup { group };
        out.add_two(rule, device.at, Some(other.at));
    }
}

pub fn guest_side(partition: &Partition, at: Path, out: &mut Problems) {
    let addresses = guest_addresses(&partition.devices);
    let at = |i: usize| at.key(Key::Device).index(i).key(Key::Guest);
    for (i, address) in addresses.iter().enumerate() {
        let device = &partition.devices[i];
        let is_node = matches!(device.address, DeviceAddress::Path(_));
        let Some(address) = *address else {
            match (is_node, device.guest) {
                (false, _) => out.add(Rule::GuestBusFull, at(i)),
                (true, Some(_)) => out.add(Rule::GuestAddressOfNode, at(i)),
                (true, None) => {}
            }
            continue;
        };
        if address.bus != 0 || address.segment != 0 {
            out.add(Rule::GuestAddressOutOfRange { address }, at(i));
        }
        if let Some(first) = addresses[..i].iter().position(|&a| a == Some(address)) {
            let other = Some(at(first));
            out.add_two(Rule::GuestAddressTwice { address }, at(i), other);
        }
        let zero = PciAddress {
            function: 0,
            ..address
        };
        if address.function != 0 && !addresses.contains(&Some(zero)) {
            out.add(Rule::GuestFunctionAlone { address }, at(i));
        }
    }
}
