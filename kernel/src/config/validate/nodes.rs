//! Rules on devices of the memory bus: nodes of the device tree.

use super::super::placement::{NoWindow, pages_of, place_registers};
use super::super::{
    Bytes, DeviceAddress, Key, MachineFacts, Name, Node, NodeRule, Part, Partition, Path,
    ResetPolicy, Rule, Tables,
};
use super::Problems;
use super::given::Given;
use crate::gather::Gather;
use crate::guest_map;
use alloc::vec::Vec;
use iommu::addr::{Hpa, PAGE_SIZE, Span};

/// Whether a node could be given to a partition, as far as it alone decides.
pub fn assignable(one: &Given<'_>, node: &Node, facts: &MachineFacts, out: &mut Problems) -> bool {
    let (device, at) = (one.device, one.address());
    if let Some(part) = own(node, facts) {
        out.add(Rule::Node(NodeRule::OfHypervisor { part }), at);
        return false;
    }
    if !node.enabled {
        out.add(Rule::Node(NodeRule::Disabled), at);
        return false;
    }
    if let Some(property) = node.unreadable {
        out.add(Rule::Node(NodeRule::Unreadable { property }), at);
        return false;
    }
    if node.registers.is_empty() {
        out.add(Rule::Node(NodeRule::WithoutRegisters), at);
        return false;
    }
    for &intid in &node.irqs {
        if intid < 32 {
            out.add(Rule::Node(NodeRule::Interrupt { intid }), at);
        } else if facts.own_irqs.contains(&intid) {
            out.add(Rule::Node(NodeRule::InterruptTaken { intid }), at);
        }
    }
    // No standard says how a device on the memory bus is reset.
    if device.reset == ResetPolicy::Required {
        out.add(Rule::DeviceCannotReset, at);
    }
    match (device.dma, node.does_dma) {
        (false, true) => out.add(Rule::DeviceDoesDma, one.at.key(Key::Dma)),
        (true, true) if node.streams.is_empty() => out.add(Rule::DeviceBehindNoSmmu, at),
        (true, false) => out.add(Rule::Node(NodeRule::BehindNoSmmu), at),
        _ => {}
    }
    true
}

/// What of the hypervisor's own shares a page with the node.
fn own(node: &Node, facts: &MachineFacts) -> Option<Part> {
    let ram = facts.memory.iter().map(|&span| (Part::Ram, span));
    let own = facts.own.iter().copied();
    let mut own = own
        .chain(ram)
        .filter_map(|(part, span)| Some((part, pages_of(&span)?)));
    let pages: Vec<_> = pages(node).gather();
    own.find(|(_, span)| pages.iter().any(|page| page.overlaps(span)))
        .map(|(part, _)| part)
}

fn pages(node: &Node) -> impl Iterator<Item = Span<Hpa>> {
    node.registers.iter().filter_map(pages_of)
}

/// One that a partition owns.
struct Owned<'f> {
    partition: usize,
    at: Path,
    node: &'f Node,
}

/// Pages and interrupts belong to one partition. Pages are compared with those of nodes that nobody owns as well: who is
/// given a page is given all that is in it.
pub fn shared(given: &[Given<'_>], facts: &MachineFacts, out: &mut Problems) {
    let mut owned: Vec<Owned<'_>> = Vec::new();
    for one in given {
        if let Some(node) = one.node.filter(|node| own(node, facts).is_none())
            // One that is given twice has been said.
            && !owned.iter().any(|owned| owned.node.path == node.path)
        {
            owned.push(Owned {
                partition: one.partition,
                at: one.address(),
                node,
            });
        }
    }
    for (index, device) in owned.iter().enumerate() {
        let of = |node: &Node| owned.iter().find(|owned| owned.node.path == node.path);
        let stranger = |node: &&Node| match of(node) {
            Some(owner) => owner.partition != device.partition,
            None => !owned
                .iter()
                .any(|owner| owner.partition == device.partition && is_below(node, owner.node)),
        };
        let others = facts.nodes.iter().filter(stranger);
        let mut common = others.filter_map(|node| Some((common_page(node, device.node)?, node)));
        if let Some((page, node)) = common.next() {
            let with = Name::new(&node.path);
            let other = of(node).map(|owner| owner.at);
            out.add_two(
                Rule::Node(NodeRule::SharesPage { page, with }),
                device.at,
                other,
            );
        }
        let mut earlier = owned[..index].iter();
        let irqs = &device.node.irqs;
        let shares = earlier.find_map(|other| {
            let mut irqs = irqs.iter();
            let intid = irqs.find(|intid| other.node.irqs.contains(intid))?;
            (other.partition != device.partition).then_some((*intid, other.at))
        });
        if let Some((intid, other)) = shares {
            out.add_two(
                Rule::Node(NodeRule::SharesInterrupt { intid }),
                device.at,
                Some(other),
            );
        }
    }
}

/// A part of a device is described below it.
fn is_below(node: &Node, device: &Node) -> bool {
    let rest = node.path.strip_prefix(&*device.path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn common_page(a: &Node, b: &Node) -> Option<Hpa> {
    pages(a)
        .flat_map(|page| pages(b).map(move |other| (page, other)))
        .find(|(page, other)| page.overlaps(other))
        .map(|(page, other)| page.base.max(other.base).align_down(PAGE_SIZE))
}

/// The guest has room for the registers of its nodes, interrupts for them, and a description of them.
pub fn guest_side(partition: &Partition, facts: &MachineFacts, at: Path, out: &mut Problems) {
    let nodes = partition.devices.iter().enumerate();
    let nodes = nodes.filter_map(|(i, device)| match &device.address {
        DeviceAddress::Path(path) => {
            let node = facts.node(path).filter(|node| own(node, facts).is_none());
            Some((i, node?))
        }
        DeviceAddress::Pci(_) => None,
    });
    let mut registers: Vec<Span<Hpa>> = Vec::new();
    let mut irqs = 0;
    for (i, node) in nodes {
        let place = at.key(Key::Device).index(i).key(Key::Address);
        if partition.tables == Tables::Acpi {
            out.add_two(
                Rule::Node(NodeRule::WithoutAcpi),
                place,
                Some(at.key(Key::Tables)),
            );
        }
        let at = place;
        registers.extend(&node.registers);
        let placed = place_registers(partition.memory.get(), &registers);
        if let Err(NoWindow(span)) = placed {
            let (base, len) = (span.base, Bytes(span.len));
            out.add(Rule::Node(NodeRule::WindowFull { base, len }), at);
            return;
        }
        irqs += node.irqs.len();
        if irqs > guest_map::PLATFORM_INTIDS.len() {
            out.add(Rule::Node(NodeRule::TooManyInterrupts { count: irqs }), at);
            return;
        }
    }
}
