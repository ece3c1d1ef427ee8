//! From the functions that a configuration names to what the machine knows of them.

use crate::config::{self, DeviceAddress};
use crate::devices::Owned;
use crate::dma::Master;
use crate::gate::{Gate, Stream};
use crate::gather::{Gather, Grow};
use crate::monitor::Sender;
use crate::pci::{Bdf, Function, Topology};
use alloc::vec::Vec;
use iommu::id::VirtDeviceId;

/// The functions of a partition, and where its guest finds each; `None`: there is no such function or place, or a unit that
/// is not there translates for it.
pub fn owned(config: &config::Partition, gate: &Gate) -> Option<Vec<(Owned, Bdf)>> {
    let places = config::guest_addresses(&config.devices);
    let mut all = Vec::new();
    for (device, guest) in config.devices.iter().zip(places) {
        if !matches!(device.address, DeviceAddress::Pci(_)) {
            continue;
        }
        let info = find(&gate.topology, device)?;
        let guest = guest.and_then(|guest| Bdf::new(guest.bus, guest.device, guest.function))?;
        let mut streams = Vec::new();
        for identity in &gate.topology.functions[info].streams {
            streams.push((gate.iommu(identity.target)?, identity.id));
        }
        let owned = Owned {
            info,
            virt: VirtDeviceId(guest.requester_id().into()),
            reset: device.reset,
            ats: device.ats,
            manages_vfs: device.manages_vfs,
            streams,
        };
        all.push((owned, guest));
    }
    Some(all)
}

/// What each of them is to the IOMMUs, by slot.
pub fn masters(owned: &[Owned], gate: &Gate) -> Vec<Master> {
    let master = |owned: &Owned| {
        let record = &gate.topology.functions[owned.info];
        Master {
            sender: Sender::Function(record.address),
            virt: Some(owned.virt),
            group: record.group as u32,
            ats: owned.ats,
            streams: owned.streams.clone(),
        }
    };
    owned.iter().map(master).gather()
}

/// The record of a configured device.
pub fn find(topology: &Topology, device: &config::Device) -> Option<usize> {
    let DeviceAddress::Pci(at) = &device.address else {
        return None;
    };
    let function = Function {
        segment: at.segment,
        bdf: Bdf::from_requester_id(at.requester_id()),
    };
    let mut functions = topology.functions.iter();
    functions.position(|info| info.address == function)
}

/// Who sends under which identity: every function of the machine, those that `owner` knows the partition of and the others.
pub fn streams(gate: &Gate, owner: impl Fn(usize) -> Option<usize>) -> (Vec<Stream>, Vec<Stream>) {
    let (mut owned, mut nobodys) = (Vec::new(), Vec::new());
    for (index, info) in gate.topology.functions.iter().enumerate() {
        let partition = owner(index);
        let list = match partition {
            Some(_) => &mut owned,
            None => &mut nobodys,
        };
        list.add_all(info.streams.iter().filter_map(|identity| {
            Some(Stream {
                iommu: gate.iommu(identity.target)?,
                id: identity.id,
                sender: Sender::Function(info.address),
                partition,
            })
        }));
    }
    (owned, nobodys)
}
