//! Devices on the memory bus that a partition owns, each a node of the machine's device tree: their registers through
//! stage 2, their interrupts as the guest's, and what the guest's own tree says of them.

use crate::boot_info::{Irq, PlatformDevice, StreamOf};
use crate::config::{self, DeviceAddress, Mapping};
use crate::gate::Gate;
use crate::gather::Gather;
use crate::guest_map::PLATFORM_INTIDS;
use crate::intx::Link;
use crate::say;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};

/// One of them.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// What firmware says of it.
    pub device: PlatformDevice,
    /// Its registers in the guest, in the same order.
    pub registers: Vec<Span<Gpa>>,
    /// Its interrupts in the guest, in the same order; `None` for one that does not arrive there.
    pub irqs: Vec<Option<Irq>>,
    /// Its identities at IOMMUs; none if it does no DMA.
    pub streams: Vec<(IommuIndex, DeviceId)>,
}

/// All of a partition.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// In the order of the configuration.
    pub devices: Vec<Assigned>,
    /// Pages of registers.
    pub mappings: Vec<Mapping>,
}

/// The nodes among `devices` that `config` names, in its order.
pub fn named<'d>(
    config: &config::Partition,
    devices: &'d [PlatformDevice],
) -> impl Iterator<Item = &'d PlatformDevice> {
    config
        .devices
        .iter()
        .filter_map(|device| match &device.address {
            DeviceAddress::Path(path) => devices.iter().find(|device| device.path == *path),
            DeviceAddress::Pci(_) => None,
        })
}

impl Platform {
    /// Those that `config` names. Adds what their interrupts stand for to `links`; one that is `used_by_others` is said,
    /// and left out. `None`: there is no such device, or no room for it, which validation has refused.
    pub fn new(
        config: &config::Partition,
        devices: &[PlatformDevice],
        gate: &Gate,
        links: &mut Vec<Link>,
        used_by_others: impl Fn(u32) -> bool,
    ) -> Option<Self> {
        let all = named(config, devices).flat_map(|device| &device.registers);
        let all: Vec<Span<Hpa>> = all.copied().gather();
        let mappings = config::place_registers(config.memory.get(), &all).ok()?;
        let place = |span: &Span<Hpa>| mappings.iter().find_map(|mapping| mapping.find(span));
        let mut intids = PLATFORM_INTIDS;
        let mut route = |device: &PlatformDevice, irq: Irq| {
            if used_by_others(irq.intid) {
                say!(
                    "{}: interrupt {} of {} is not this partition's alone: it does not arrive",
                    config.name,
                    irq.intid,
                    device.path
                );
                return None;
            }
            // Two devices on one line share it in the guest as well.
            if let Some(link) = links.iter().find(|link| link.physical == irq.intid) {
                return Some(link.guest);
            }
            let guest = intids.next()?;
            links.push(Link {
                guest,
                physical: irq.intid,
                edge: irq.edge,
            });
            Some(guest)
        };
        let mut assigned = Vec::new();
        for device in named(config, devices) {
            let registers: Option<_> = device.registers.iter().map(place).gather_all();
            let irqs = device.irqs.iter().map(|irq| {
                let irq = (*irq)?;
                let intid = route(device, irq)?;
                Some(Irq { intid, ..irq })
            });
            let stream = |of: &StreamOf| Some((gate.iommu(of.iommu)?, of.id));
            let streams: Option<_> = device.streams.iter().map(stream).gather_all();
            assigned.push(Assigned {
                streams: streams?,
                irqs: irqs.gather(),
                registers: registers?,
                device: device.clone(),
            });
        }
        let nodes = config.devices.iter();
        let nodes = nodes.filter(|device| matches!(device.address, DeviceAddress::Path(_)));
        (assigned.len() == nodes.count()).then_some(Self {
            devices: assigned,
            mappings,
        })
    }
}
