//! The devices that partitions are given, in order, with what the machine knows of each.

use super::super::{
    Device, DeviceAddress, Function, Key, Machine, MachineFacts, Node, Partition, Path, Platform,
    Stream,
};
use alloc::vec::Vec;

/// One of them.
pub struct Given<'a> {
    pub partition: usize,
    pub owner: &'a Partition,
    pub device: &'a Device,
    /// Where the configuration has it.
    pub at: Path,
    /// What it is, unless it is none, or the machine has no such function.
    pub function: Option<&'a Function>,
    /// Likewise on the memory bus.
    pub node: Option<&'a Node>,
}

pub fn all<'a>(machine: &'a Machine, facts: &'a MachineFacts) -> Vec<Given<'a>> {
    let mut all = Vec::new();
    for (partition, owner) in machine.partitions.iter().enumerate() {
        let list = Path::partition(partition).key(Key::Device);
        for (i, device) in owner.devices.iter().enumerate() {
            let (function, node) = match &device.address {
                DeviceAddress::Pci(address) => (facts.function(address), None),
                DeviceAddress::Path(_) if facts.platform() == Platform::X86_64 => (None, None),
                DeviceAddress::Path(path) => (None, facts.node(path)),
            };
            all.push(Given {
                partition,
                owner,
                device,
                at: list.index(i),
                function,
                node,
            });
        }
    }
    all
}

impl<'a> Given<'a> {
    /// Where its address is.
    pub fn address(&self) -> Path {
        self.at.key(Key::Address)
    }

    pub fn is_node(&self) -> bool {
        matches!(self.device.address, DeviceAddress::Path(_))
    }

    /// What IOMMUs see of it.
    pub fn streams(&self) -> &'a [Stream] {
        match (self.function, self.node) {
            (Some(function), _) => &function.streams,
            (None, Some(node)) => &node.streams,
            (None, None) => &[],
        }
    }

    /// One that both have.
    pub fn common(&self, other: &Self) -> Option<Stream> {
        let mut streams = self.streams().iter();
        streams.find(|it| other.streams().contains(it)).copied()
    }
}
