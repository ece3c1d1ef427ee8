//! Rules of x86_64 alone: what the hypervisor does not have there.

use super::super::{DeviceAddress, Key, Partition, Path, Platform, Rule, Tables};
use super::Problems;

/// What `partition` asks for that only guests on AArch64 can have. That a device is none of PCI is said with the others.
pub fn not_there(partition: &Partition, at: Path, out: &mut Problems) {
    let mut add = |what, at| out.add(Rule::NotOnX86 { what }, at);
    if partition.tables != Tables::default() {
        add("a choice of `tables`", at.key(Key::Tables));
    }
    if partition.base.is_some() {
        add("`base`", at.key(Key::Base));
    }
}

/// Where functions can have what firmware uses by them.
pub fn reserved_memory(partition: &Partition, platform: Platform, at: Path, out: &mut Problems) {
    for (j, device) in partition.devices.iter().enumerate() {
        let function = matches!(device.address, DeviceAddress::Pci(_));
        let fine = function && platform == Platform::X86_64 && !partition.viommu;
        if device.reserved_memory && !fine {
            let at = at.key(Key::Device).index(j).key(Key::ReservedMemory);
            out.add(Rule::ReservedMemory, at);
        }
    }
}
