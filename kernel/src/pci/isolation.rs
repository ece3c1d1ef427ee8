//! Who can reach whom, and under which numbers: requester IDs, identities, isolation groups, INTx routes.
//!
//! Groups are the closed reading of PCIe §6.12: two functions are apart only if every request of one to the other has
//! to pass the root complex, which is where the IOMMU is. Only of virtual functions is it believed that one without ACS
//! cannot reach another: SR-IOV is younger than ACS, which such a device has to have if it can (§6.12.1.2).

use super::capability::PortType;
use super::topology::{FunctionInfo, Header, Topology, identity};
use super::{ConfigSpace, spec};
use crate::boot_info::{Irq, PcieHost};
use crate::gather::{Gather, Grow};
use alloc::vec::Vec;

/// What a port or function of a multi-function device must enforce.
const ISOLATION: u16 =
    spec::ACS_REQUEST_REDIRECT | spec::ACS_COMPLETION_REDIRECT | spec::ACS_UPSTREAM_FORWARDING;

/// Fills in what depends on the place of the functions from `first` on, all of `host`.
pub fn describe(
    space: &mut dyn ConfigSpace,
    host: &PcieHost,
    first: usize,
    topology: &mut Topology,
) {
    for index in first..topology.functions.len() {
        let ids = requester_ids(topology, index);
        let pin = root_pin(topology, index).and_then(|(device, pin)| route(host, device, pin));
        let info = &mut topology.functions[index];
        info.streams = ids
            .iter()
            .filter_map(|&id| identity(&host.iommu_map, id))
            .gather();
        // A bridge that replaces the ID does so for messages too: the one nearest to the root is seen.
        info.msi = ids.last().and_then(|&id| identity(&host.msi_map, id));
        info.requester_ids = ids;
        info.intx = pin;
    }
    let enforced: Vec<u16> = topology.functions[first..]
        .iter()
        .map(|info| enforced(space, info))
        .gather();
    let groups = group(&topology.functions[first..], first, &enforced);
    for (info, group) in topology.functions[first..].iter_mut().zip(groups) {
        info.group = first + group;
    }
}

/// Its own ID, then what bridges to conventional buses put in its place, nearest first (PCIe-to-PCI bridge
/// specification §2.3: secondary bus and function zero; a conventional bridge: its own ID).
fn requester_ids(topology: &Topology, index: usize) -> Vec<u16> {
    let info = &topology.functions[index];
    let mut ids = alloc::vec![info.address.bdf.requester_id()];
    for bridge in topology.above(info) {
        let own = bridge.address.bdf.requester_id();
        match bridge.capabilities.express.map(|express| express.port) {
            Some(PortType::ToConventional) => {
                let secondary = bridge.buses().map_or(0, |buses| buses.secondary);
                // What it forwards, messages too, gets the second one.
                ids.add_all([own, u16::from(secondary) << 8]);
            }
            None | Some(PortType::FromConventional | PortType::Unknown(_)) => ids.push(own),
            Some(_) => {}
        }
    }
    let mut unique = Vec::new();
    for id in ids {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    unique
}

/// Device number and pin (0 = INTA) at the root bus, after the swizzle of each bridge (PCIe §2.2.8.1).
fn root_pin(topology: &Topology, index: usize) -> Option<(u8, u8)> {
    let info = &topology.functions[index];
    let mut pin = info.interrupt_pin.checked_sub(1)?;
    let mut device = info.address.bdf.device();
    for bridge in topology.above(info) {
        pin = (pin + device) % 4;
        device = bridge.address.bdf.device();
    }
    Some((device, pin))
}

/// The entry of `interrupt-map` for a device of the root bus. With a mask the map lists devices 0..n, a power of two.
fn route(host: &PcieHost, device: u8, pin: u8) -> Option<Irq> {
    let find = |device| {
        let mut routes = host.intx.iter();
        routes.find(|route| route.device == device && route.pin == pin)
    };
    let listed = host.intx.iter().map(|route| route.device).max()?;
    let span = (listed + 1).next_power_of_two();
    let folded = (0..span).all(|device| find(device).is_some());
    let device = if folded { device % span } else { device };
    find(device).map(|route| route.irq)
}

/// What `info` enforces: bits it does not implement count for an endpoint, which then cannot do the thing at all.
fn enforced(space: &mut dyn ConfigSpace, info: &FunctionInfo) -> u16 {
    let Some(acs) = info.capabilities.acs else {
        return 0;
    };
    let control = space.read16(info.address, acs.offset + spec::ACS_CONTROL);
    match info.header {
        Header::Endpoint => control | !acs.capability,
        _ => control & acs.capability,
    }
}

/// The group of each function: the lowest index in it.
fn group(functions: &[FunctionInfo], first: usize, enforced: &[u16]) -> Vec<usize> {
    let mut sets = Sets((0..functions.len()).gather());
    let parent = |index: usize| functions[index].parent.map(|parent| parent - first);
    let isolated = |index: usize| enforced[index] & ISOLATION == ISOLATION;
    for (index, info) in functions.iter().enumerate() {
        // Functions of one device may talk inside it, unless each of them is kept from it.
        for (other, sibling) in functions.iter().enumerate().take(index) {
            let (a, b) = (info.address.bdf, sibling.address.bdf);
            if info.physical.is_some() || sibling.physical.is_some() {
                continue;
            }
            if a.bus() == b.bus()
                && a.device() == b.device()
                && !(isolated(index) && isolated(other))
            {
                sets.join(index, other);
            }
        }
        if let Some(physical) = info.physical
            && info.capabilities.acs.is_some()
            && !isolated(index)
        {
            sets.join(index, physical - first);
        }
        let Header::Bridge(_) = info.header else {
            continue;
        };
        let port = info.capabilities.express.map(|express| express.port);
        match port {
            Some(PortType::RootPort | PortType::Downstream) if isolated(index) => {}
            // The link's end passes requests upstream; its ports decide.
            Some(PortType::Upstream) => {}
            // Without ACS a port may turn requests round, to its siblings and all that is behind them.
            Some(PortType::RootPort | PortType::Downstream) => {
                let above = parent(index);
                for other in 0..functions.len() {
                    let siblings = functions[other].address.bdf.bus() == info.address.bdf.bus()
                        && parent(other) == above;
                    if siblings && matches!(functions[other].header, Header::Bridge(_)) {
                        sets.join(index, other);
                        join_below(&mut sets, functions, first, other);
                    }
                }
            }
            // One bus, one set of aliases: everything behind it, and the bridge.
            _ => join_below(&mut sets, functions, first, index),
        }
    }
    (0..functions.len()).map(|index| sets.find(index)).gather()
}

/// Joins `bridge` with everything behind it.
fn join_below(sets: &mut Sets, functions: &[FunctionInfo], first: usize, bridge: usize) {
    for index in 0..functions.len() {
        let mut above = functions[index].parent;
        while let Some(parent) = above {
            if parent - first == bridge {
                sets.join(index, bridge);
            }
            above = functions[parent - first].parent;
        }
    }
}

/// Disjoint sets; the representative is the lowest index.
struct Sets(Vec<usize>);

impl Sets {
    fn find(&self, mut index: usize) -> usize {
        while self.0[index] != index {
            index = self.0[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}
