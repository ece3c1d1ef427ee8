//! The virtual functions (VFs) of a function that has the SR-IOV capability.

use iommu::id::DeviceId;
use kernel::config::{BoardSriov, Function, PciAddress, Sriov, Stream};

/// The VFs that `wanted` gives to `physical`, with routing IDs as `sriov` says. None where the rules refuse it.
pub fn virtuals(physical: &Function, sriov: &BoardSriov, wanted: &[Sriov]) -> Vec<Function> {
    let wanted = wanted.iter().find(|it| it.address == physical.address);
    let count = wanted.map_or(0, |wanted| wanted.vfs);
    if count > sriov.total {
        return Vec::new();
    }
    let own = physical.address.requester_id();
    let places = (0..u32::from(count))
        .map(|i| u32::from(sriov.offset) + i * u32::from(sriov.stride))
        .filter(|place| *place != 0 && u32::from(own) + place <= 0xffff);
    let function = |place: u32| Function {
        address: PciAddress::from_requester_id(physical.address.segment, own + place as u16),
        physical: Some(physical.address),
        vfs: 0,
        // The first is its own; what bridges put in its place follows.
        streams: physical
            .streams
            .iter()
            .enumerate()
            .map(|(i, stream)| Stream {
                id: DeviceId(stream.id.0 + if i == 0 { place } else { 0 }),
                ..*stream
            })
            .collect(),
        // None but its own, as no device of ours may reach another past the SMMU.
        group: 0x1_0000 | (u32::from(own) + place),
        bridge: false,
        usable: physical.usable,
        resettable: Some(true),
        ats: physical.ats,
    };
    places.map(function).collect()
}
