//! Rules on devices: as the machine has them, and as the guest sees them.

use super::super::placement::guest_addresses;
use super::super::{
    DeviceAddress, Function, Key, MachineFacts, Partition, Path, PciAddress, Platform, ResetPolicy,
    Rule,
};
use super::given::Given;
use super::{Problems, nodes};
use alloc::vec::Vec;

pub fn machine_side(given: &[Given<'_>], facts: &MachineFacts, out: &mut Problems) {
    // Known, and could be assigned.
    let mut owned: Vec<&Given<'_>> = Vec::new();
    for (i, one) in given.iter().enumerate() {
        let at = one.address();
        let mut earlier = given[..i].iter();
        if let Some(first) = earlier.find(|it| it.device.address == one.device.address) {
            out.add_two(Rule::DeviceTwice, at, Some(first.address()));
            continue;
        }
        let fine = match (one.function, one.node) {
            (Some(function), _) => assignable(one, function, out),
            (None, _) if one.is_node() && facts.platform() == Platform::X86_64 => {
                let what = "a device of a device tree";
                out.add(Rule::NotOnX86 { what }, at);
                false
            }
            (None, Some(node)) if facts.platform() == Platform::Aarch64 => {
                nodes::assignable(one, node, facts, out)
            }
            (None, _) => {
                out.add(Rule::DeviceUnknown, at);
                false
            }
        };
        if fine {
            shared(one, &owned, out);
            owned.push(one);
        }
    }
}

/// Whether a function could be given to a partition, as far as it alone decides.
fn assignable(one: &Given<'_>, function: &Function, out: &mut Problems) -> bool {
    let (device, at) = (one.device, one.address());
    if !device.dma {
        out.add(Rule::DeviceDoesDma, one.at.key(Key::Dma));
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
fn shared(one: &Given<'_>, owned: &[&Given<'_>], out: &mut Problems) {
    let group = |it: &Given<'_>| it.function.map(|function| function.group);
    let mut neighbour = None;
    for other in owned.iter().filter(|it| it.partition != one.partition) {
        if let Some(stream) = one.common(other) {
            let rule = Rule::DeviceSharesStream { stream };
            return out.add_two(rule, one.address(), Some(other.address()));
        }
        neighbour = neighbour.or(group(one)
            .filter(|_| group(one) == group(other))
            .map(|group| (group, other.address())));
    }
    if let Some((group, other)) = neighbour {
        let rule = Rule::DeviceSharesGroup { group };
        out.add_two(rule, one.address(), Some(other));
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
