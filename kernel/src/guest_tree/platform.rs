//! Nodes of assigned devices on the memory bus: what the machine's tree says of each, as far as it holds in the guest.
//! Addresses and interrupts are the guest's own; clocks that run by themselves get nodes of their own; what refers to any
//! other node of the machine is left out.

use super::node::Node;
use super::{SPI, reg};
use crate::boot_info::Irq;
use crate::gather::Gather;
use crate::platform::Assigned;
use alloc::format;
use alloc::vec::Vec;

/// Flags of an edge that rises, and of a high level (the GICv3 binding).
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// phandle of the first clock; the others follow.
const PHANDLE_CLOCKS: u32 = 0x100;

/// Rates of all its clocks, if nobody has to turn one of them on.
fn rates(assigned: &Assigned) -> Vec<u32> {
    let rates: Option<Vec<u32>> = assigned.device.clocks.iter().copied().gather_all();
    rates.unwrap_or_default()
}

/// The nodes of `devices`, behind those of the clocks that they have, one a rate.
pub fn nodes(devices: &[Assigned]) -> Vec<Node> {
    let mut all: Vec<u32> = Vec::new();
    for rate in devices.iter().flat_map(rates) {
        if !all.contains(&rate) {
            all.push(rate);
        }
    }
    let clocks = (PHANDLE_CLOCKS..).zip(&all).map(|(phandle, &rate)| {
        Node::new(&format!("clock-{rate}"))
            .set("phandle", phandle)
            .set("compatible", "fixed-clock")
            .set("#clock-cells", 0u32)
            .set("clock-frequency", rate)
    });
    let phandle = |rate| {
        let clock = (PHANDLE_CLOCKS..)
            .zip(&all)
            .find(|(_, known)| **known == rate);
        clock.map(|(phandle, _)| phandle)
    };
    let devices = devices.iter();
    clocks
        .chain(devices.map(|assigned| {
            let clocks = rates(assigned).into_iter().filter_map(phandle).gather();
            device(assigned, clocks)
        }))
        .gather()
}

/// Its node: `iommus` is not in it, because the guest has no IOMMU.
fn device(assigned: &Assigned, clocks: Vec<u32>) -> Node {
    let device = &assigned.device;
    let name = device.path.rsplit('/').next().unwrap_or_default();
    let name = name.split('@').next().unwrap_or_default();
    let base = assigned.registers.first().map_or(0, |span| span.base.0);
    let compatible: Vec<&str> = device.compatible.iter().map(|name| &**name).gather();
    let registers: Vec<[u32; 4]> = assigned.registers.iter().map(|&span| reg(span)).gather();
    // Drivers know interrupts by their order: a hole would be a lie.
    let irqs: Option<Vec<[u32; 3]>> = assigned.irqs.iter().map(|irq| irq.map(spi)).gather_all();
    let irqs = irqs.unwrap_or_default();
    let mut node = Node::new(&format!("{name}@{base:x}"))
        .set("compatible", &compatible[..])
        .set("reg", registers.as_flattened());
    if !irqs.is_empty() {
        node = node.set("interrupts", irqs.as_flattened());
    }
    if !clocks.is_empty() {
        node = node.set("clocks", &clocks[..]);
    }
    if device.dma_coherent && !device.streams.is_empty() {
        node = node.set("dma-coherent", &[][..] as &[u8]);
    }
    let named = |name: &str| match name {
        "clock-names" => !clocks.is_empty(),
        "interrupt-names" => !irqs.is_empty(),
        _ => true,
    };
    let kept = device.properties.iter().filter(|(name, _)| named(name));
    kept.fold(node, |node, (name, value)| node.set(name, &value[..]))
}

fn spi(irq: Irq) -> [u32; 3] {
    let flags = if irq.edge { EDGE_RISING } else { LEVEL_HIGH };
    [SPI, irq.intid - 32, flags]
}
