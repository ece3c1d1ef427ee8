//! The PCI topology that a list of QEMU `-device` arguments makes on `virt`: bus numbers as enumeration gives them,
//! StreamIDs, isolation groups, virtual functions. It follows QEMU's own rules for free slots, conventional bridges and bypass.

mod device;

use super::virtuals::virtuals;
use device::{Argument, Port, is_function, port, resettable, slot, sriov};
use iommu::id::{DeviceId, IommuIndex};
use kernel::config::{BoardSriov, Function, PciAddress, Sriov, Stream};
use std::collections::BTreeMap;

/// Why an argument list makes no machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadDevice {
    /// Which argument.
    pub index: usize,
    /// What is wrong with it.
    pub message: String,
    /// The other argument, where two collide.
    pub other: Option<usize>,
}

struct Node {
    bus: usize,
    slot: (u8, u8),
    /// The bus behind it, if it is a bridge.
    behind: Option<usize>,
    argument: usize,
    driver: String,
    sriov: Option<BoardSriov>,
    /// Its DMA goes around the SMMU.
    bypass: bool,
}

struct Bus {
    port: Port,
    /// The node that it is behind; `None` for root buses.
    bridge: Option<usize>,
    number: u8,
}

/// The functions of a `virt` machine with these devices, and the VFs that it shall have.
pub fn functions(
    devices: &[String],
    wanted: &[Sriov],
    smmu: bool,
) -> Result<Vec<Function>, Vec<BadDevice>> {
    let mut topology = Topology::new();
    let mut bad = Vec::new();
    for (index, text) in devices.iter().enumerate() {
        let added = Argument::parse(text)
            .map_err(|message| (message, None))
            .and_then(|argument| topology.add(index, &argument));
        if let Err((message, other)) = added {
            bad.push(BadDevice {
                index,
                message,
                other,
            });
        }
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    topology.number_all(wanted);
    let smmu = smmu || !topology.smmus.is_empty();
    Ok(topology.functions(smmu, wanted))
}

struct Topology {
    buses: Vec<Bus>,
    /// Buses by their QEMU name.
    names: BTreeMap<String, usize>,
    nodes: Vec<Node>,
    /// Root buses that have an SMMU of their own, in the order of the SMMUs; none where the machine has one for all.
    smmus: Vec<usize>,
}

impl Topology {
    fn new() -> Self {
        let number = 0;
        Self {
            buses: vec![Bus {
                port: Port::Root {
                    number,
                    bypass: false,
                },
                bridge: None,
                number,
            }],
            names: BTreeMap::from([("pcie.0".into(), 0)]),
            nodes: Vec::new(),
            smmus: Vec::new(),
        }
    }

    fn add(
        &mut self,
        index: usize,
        argument: &Argument<'_>,
    ) -> Result<(), (String, Option<usize>)> {
        if argument.driver == "arm-smmuv3" {
            let name = argument.properties.get("primary-bus");
            let bus = name.and_then(|name| self.names.get(*name));
            let bus =
                bus.ok_or_else(|| ("its `primary-bus` is no earlier bus".to_owned(), None))?;
            self.smmus.push(*bus);
        }
        if !is_function(argument.driver) {
            return Ok(());
        }
        let bus = match argument.properties.get("bus") {
            None => 0,
            Some(name) => *self
                .names
                .get(*name)
                .ok_or_else(|| (format!("no earlier device makes the bus `{name}`"), None))?,
        };
        let slot = match argument.properties.get("addr") {
            Some(text) => slot(text).ok_or_else(|| (format!("`addr={text}` is no slot"), None))?,
            None => self
                .free_slot(bus)
                .ok_or_else(|| ("no slot is free on its bus".to_owned(), None))?,
        };
        if bus == 0 && slot == (0, 0) {
            return Err(("slot 0 of pcie.0 holds the host bridge".into(), None));
        }
        if let Some(other) = self.nodes.iter().find(|n| (n.bus, n.slot) == (bus, slot)) {
            return Err((
                format!("slot {:x}.{:x} of its bus is taken", slot.0, slot.1),
                Some(other.argument),
            ));
        }
        let port = port(argument);
        let behind = port.map(|port| {
            let root = matches!(port, Port::Root { .. });
            self.buses.push(Bus {
                port,
                bridge: (!root).then_some(self.nodes.len()),
                number: 0,
            });
            let new = self.buses.len() - 1;
            if let Some(id) = argument.properties.get("id") {
                self.names.insert((*id).to_owned(), new);
            }
            new
        });
        self.nodes.push(Node {
            bus,
            slot,
            behind,
            argument: index,
            driver: argument.driver.to_owned(),
            sriov: sriov(argument),
            bypass: argument.driver.starts_with("virtio-") && !argument.is_on("iommu_platform"),
        });
        Ok(())
    }

    fn free_slot(&self, bus: usize) -> Option<(u8, u8)> {
        let slots = match self.buses[bus].port {
            Port::Isolating => 0..=0,
            Port::Root { number: 0, .. } | Port::ToConventional | Port::Conventional => 1..=31,
            _ => 0..=31,
        };
        let taken = |slot| self.nodes.iter().any(|n| n.bus == bus && n.slot.0 == slot);
        slots.into_iter().find(|slot| !taken(*slot)).map(|s| (s, 0))
    }

    /// Depth first, in the order of slots, as every enumeration does.
    fn number_all(&mut self, wanted: &[Sriov]) {
        for bus in 0..self.buses.len() {
            if let Port::Root { number, .. } = self.buses[bus].port {
                self.buses[bus].number = number;
                self.number_below(bus, number, wanted);
            }
        }
    }

    /// Numbers all below `bus`, behind the numbers that VFs of it have; returns the last number used.
    fn number_below(&mut self, bus: usize, mut last: u8, wanted: &[Sriov]) -> u8 {
        for node in self.nodes.iter().filter(|n| n.bus == bus) {
            if let Some(sriov) = &node.sriov {
                let physical = self.function(node, Vec::new());
                let virtuals = virtuals(&physical, sriov, wanted);
                last = virtuals
                    .iter()
                    .fold(last, |last, vf| last.max(vf.address.bus));
            }
        }
        let on_bus = self.nodes.iter().filter(|n| n.bus == bus);
        let mut bridges: Vec<_> = on_bus.filter_map(|n| Some((n.slot, n.behind?))).collect();
        bridges.sort_unstable();
        for (_, behind) in bridges {
            if self.buses[behind].bridge.is_some() {
                last = last.wrapping_add(1);
                self.buses[behind].number = last;
                last = self.number_below(behind, last, wanted);
            }
        }
        last
    }

    fn address(&self, node: &Node) -> PciAddress {
        PciAddress::new(self.buses[node.bus].number, node.slot.0, node.slot.1)
    }

    fn functions(&self, smmu: bool, wanted: &[Sriov]) -> Vec<Function> {
        let host_bridge = Function {
            address: PciAddress::new(0, 0, 0),
            physical: None,
            vfs: 0,
            streams: Vec::new(),
            group: 0,
            bridge: true,
            usable: true,
            resettable: None,
            ats: Some(false),
        };
        let mut functions = vec![host_bridge];
        for node in &self.nodes {
            let streams = if smmu { self.streams(node) } else { Vec::new() };
            let function = self.function(node, streams);
            let virtuals = node.sriov.map(|sriov| virtuals(&function, &sriov, wanted));
            functions.push(function);
            functions.extend(virtuals.into_iter().flatten());
        }
        functions
    }

    fn function(&self, node: &Node, streams: Vec<Stream>) -> Function {
        Function {
            address: self.address(node),
            physical: None,
            vfs: node.sriov.map_or(0, |sriov| sriov.total),
            streams,
            group: self.group(node),
            bridge: node.behind.is_some(),
            usable: true,
            resettable: self.resettable(node),
            // Its SMMU has none.
            ats: Some(false),
        }
    }

    /// Its own requester ID, then what bridges to conventional buses put in its place (PCIe-to-PCI bridge
    /// specification 2.3); the SMMU's StreamIDs are the requester IDs.
    fn streams(&self, node: &Node) -> Vec<Stream> {
        let mut ids = vec![self.address(node).requester_id()];
        let mut root = node.bus;
        let mut bus = &self.buses[root];
        while let Some(bridge) = bus.bridge.map(|bridge| &self.nodes[bridge]) {
            let own = self.address(bridge).requester_id();
            match bus.port {
                Port::ToConventional => {
                    ids.extend([own, PciAddress::new(bus.number, 0, 0).requester_id()]);
                }
                Port::Conventional => ids.push(own),
                _ => {}
            }
            root = bridge.bus;
            bus = &self.buses[root];
        }
        let smmu = match self.smmus.is_empty() {
            true => Some(0),
            false => self.smmus.iter().position(|other| *other == root),
        };
        let Some(smmu) = smmu else {
            return Vec::new();
        };
        if node.bypass || matches!(bus.port, Port::Root { bypass: true, .. }) {
            return Vec::new();
        }
        let stream = |id: u16| Stream {
            smmu: IommuIndex(smmu as u8),
            id: DeviceId(id.into()),
        };
        ids.into_iter().map(stream).collect()
    }

    /// Alone behind a port, every function can be reset through its bus.
    fn resettable(&self, node: &Node) -> Option<bool> {
        let alone = self.nodes.iter().filter(|n| n.bus == node.bus).count() == 1;
        match alone && self.buses[node.bus].bridge.is_some() {
            true => Some(true),
            false => resettable(&node.driver),
        }
    }

    /// The group is named by the requester ID of its topmost member's function 0: what shares a slot without ACS, and
    /// all below a bridge without ACS.
    fn group(&self, node: &Node) -> u32 {
        let mut top = node;
        let mut bus = &self.buses[node.bus];
        while let Some(bridge) = bus.bridge {
            if bus.port != Port::Isolating {
                top = &self.nodes[bridge];
            }
            bus = &self.buses[self.nodes[bridge].bus];
        }
        let address = self.address(top);
        // Root ports have ACS: functions of one slot stay apart.
        let isolated = top
            .behind
            .is_some_and(|b| self.buses[b].port == Port::Isolating);
        let function = if isolated { address.function } else { 0 };
        PciAddress {
            function,
            ..address
        }
        .requester_id()
        .into()
    }
}
