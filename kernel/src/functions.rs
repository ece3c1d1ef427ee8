//! From the functions that a configuration names to what the machine knows of them.

use crate::config::{self, DeviceAddress};
use crate::devices::Owned;
use crate::dma::Master;
use crate::gate::{Gate, Stream};
use crate::gather::{Gather, Grow};
use crate::messages;
use crate::monitor::Sender;
use crate::pci::{Bdf, Function, Identity, Topology};
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Gpa, Span};
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

/// A device that is behind an IOMMU which was not started, or behind which devices can send the messages of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unusable(pub Sender);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is behind an IOMMU that cannot be used", self.0)
    }
}

/// The first such function of a partition.
pub fn unusable(config: &config::Partition, gate: &Gate) -> Option<Unusable> {
    let is_unusable = |identity: &Identity| {
        let unit = gate.iommu(identity.target);
        !unit.is_some_and(|unit| messages::are_isolated(gate, unit))
    };
    for device in &config.devices {
        let info = find(&gate.topology, device).map(|info| &gate.topology.functions[info]);
        if let Some(info) = info.filter(|info| info.streams.iter().any(is_unusable)) {
            return Some(Unusable(Sender::Function(info.address)));
        }
    }
    None
}

/// What of a partition's RAM, which has these `spans` one behind the other, its devices reach, and where in it each part
/// starts: all of it, if its configuration says nothing. What is not whole in one span nobody reaches.
pub fn dma_windows(config: &config::Partition, spans: &[Span<Gpa>]) -> Vec<(Span<Gpa>, u64)> {
    let mut all = Vec::new();
    let mut offset = 0;
    for span in spans {
        if config.dma_windows.is_empty() {
            all.push((*span, offset));
        }
        for window in &config.dma_windows {
            let window = Span::<Gpa>::new(Gpa(window.base.get()), window.size.get());
            if let Some(window) = window.filter(|window| span.covers(window)) {
                all.push((window, offset + (window.base - span.base)));
            }
        }
        offset += span.len;
    }
    all
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

#[cfg(test)]
mod tests {
    use super::{Unusable, dma_windows, unusable};
    use crate::composition::machine::{Hardware, configuration, partition, two_smmus};
    use crate::config::{Bytes, DmaWindow, Platform};
    use crate::monitor::Sender;
    use crate::pci::fixtures::address;
    use iommu::addr::{Gpa, Span};

    const MIB: u64 = 1 << 20;

    #[test]
    fn devices_reach_what_is_in_one_piece_of_ram() {
        let span = |base, len| Span::<Gpa>::new(Gpa(base), len).unwrap();
        let mut config = partition("guest", [0, 1], &[]);
        let spans = Platform::X86_64.ram(4096 * MIB);
        let [low, high] = spans;
        assert_eq!(dma_windows(&config, &spans), [(low, 0), (high, low.len)]);
        let window = |base, size| DmaWindow {
            base: Bytes(base),
            size: Bytes(size),
        };
        let end = low.end().0;
        config.dma_windows = vec![
            window(high.base.0 + MIB, MIB),
            window(MIB, MIB),
            // From one piece into what is behind it, behind all RAM, and past the last address.
            window(end - MIB, 2 * MIB),
            window(high.end().0, MIB),
            window(u64::MAX - 4095, 8192),
        ];
        let reached = [
            (span(MIB, MIB), MIB),
            (span(high.base.0 + MIB, MIB), low.len + MIB),
        ];
        assert_eq!(dma_windows(&config, &spans), reached);
        // Where RAM starts elsewhere, its offset still starts at 0.
        let [ram, _] = Platform::Aarch64.ram(64 * MIB);
        config.dma_windows = vec![window(ram.base.0 + 2 * MIB, MIB)];
        let reached = [(span(ram.base.0 + 2 * MIB, MIB), 2 * MIB)];
        assert_eq!(dma_windows(&config, &[ram]), reached);
    }

    #[test]
    fn behind_a_unit_that_was_not_started_nobody_has_a_function() {
        let (_hardware, mut system) = Hardware::build(&two_smmus());
        let configs = configuration().partitions;
        for config in &configs {
            assert_eq!(unusable(config, &system.gate), None);
        }
        // Of the first one's functions the second is behind it.
        system.gate.units.pop();
        let first = unusable(&configs[0], &system.gate);
        let function = address("00:02.0");
        assert_eq!(first, Some(Unusable(Sender::Function(function))));
        let second = unusable(&configs[1], &system.gate).map(|why| why.to_string());
        let line = "0000:00:03.0 is behind an IOMMU that cannot be used";
        assert_eq!(second.as_deref(), Some(line));
        assert_eq!(
            unusable(&partition("none", [0, 1], &[]), &system.gate),
            None
        );
    }
}
