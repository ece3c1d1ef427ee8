//! Rules of x86_64 alone: what the hypervisor does not have there.

use super::super::{Key, Partition, Path, Platform, Rule, Tables};
use super::Problems;
use super::given::Given;

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
pub fn reserved_memory(given: &[Given<'_>], platform: Platform, out: &mut Problems) {
    for one in given.iter().filter(|it| it.device.reserved_memory) {
        if one.is_node() || platform != Platform::X86_64 || one.owner.viommu {
            out.add(Rule::ReservedMemory, one.at.key(Key::ReservedMemory));
        }
    }
}
