//! The functions of the root complex, for what is wrong with its VT-d units.

use super::{ConfigSpace, FunctionInfo, Topology};
use iommu::vtd::errata::{Chip, Errata, FaultSignal};

/// What the chipset of these buses gets wrong. Faults of its units are told by them alone from here on, and are no errors of
/// the machine's.
pub fn errata(topology: &Topology, space: &mut dyn ConfigSpace) -> Errata {
    let chip = |info: &FunctionInfo| Chip {
        vendor: info.vendor,
        device: info.device,
        revision: info.revision,
        class: info.class,
    };
    // Behind a port a device could say that it is a chipset.
    let functions = topology.functions.iter();
    let own = functions.filter(|info| info.parent.is_none() && info.physical.is_none());
    for info in own.clone() {
        if let Some(FaultSignal { offset, mask }) = FaultSignal::of(&chip(info)) {
            let word = space.read32(info.address, offset);
            space.write32(info.address, offset, word | mask);
        }
    }
    Errata::of(own.map(chip))
}

#[cfg(test)]
mod tests {
    use super::errata;
    use crate::pci::fake::{FakeBus, FakeFunction};
    use crate::pci::fixtures::{enumerate, root_port, virt_host};
    use alloc::vec;
    use iommu::vtd::errata::Errata;

    #[test]
    fn a_chipset_is_what_is_on_the_root_bus() {
        let host = |device| FakeFunction::new(device, 0, 0x8086, 0x3405, 0x06_0000);
        let system = |device| FakeFunction::new(device, 0, 0x8086, 0x342e, 0x08_8000);
        let mut bus = FakeBus::new(vec![(0, vec![host(0), system(20)])]);
        bus.at("00:14.0").mask(0x1ac, u32::MAX);
        bus.at("00:14.0").put(0x1ac, 0x5);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let found = errata(&topology, &mut bus);
        // Revision 0.
        assert!(found.no_interrupt_remapping && !found.write_buffers);
        assert_eq!(bus.at("00:14.0").get(0x1ac), 0x8000_0005);
        // One that is plugged in is no chipset.
        let port = |child: FakeFunction| root_port(1).with_child(child);
        for child in [host(0), system(0)] {
            let mut bus = FakeBus::new(vec![(0, vec![port(child)])]);
            let topology = enumerate(&mut bus, &[virt_host()]);
            let writes = bus.writes.len();
            assert_eq!(errata(&topology, &mut bus), Errata::default());
            assert_eq!(bus.writes.len(), writes);
        }
    }
}
