//! Putting a partition together: memory, functions with their DMA and messages, virtual devices.

use super::SetupError;
use crate::boot_info::{BootInfo, PlatformDevice};
use crate::budget::Budget;
use crate::bundle::Bundle;
use crate::config::{self, Machine, Name};
use crate::devices::{Devices, Owned};
use crate::dma::{Dma, Master};
use crate::functions::{self, Unusable};
use crate::gate::{Gate, Stream};
use crate::gather::{Gather, Grow};
use crate::guest_map;
use crate::guest_ram::GuestRam;
use crate::guest_tree::Pcie;
use crate::intx::{self, Link, Pin};
use crate::life::Life;
use crate::load::Files;
use crate::lock::Mutex;
use crate::machine::Host;
use crate::messages::{Mapped, Source};
use crate::monitor::Sender;
use crate::partition::{self, Partition};
use crate::pci::{Bdf, FunctionInfo, Topology};
use crate::platform::{self, Platform};
use crate::say;
use crate::vdev;
use crate::vdev::vgic::Vgic;
use crate::vdev::vits::Vits;
use crate::vdev::vpci::{Placement, VirtualPci, intx_intid};
use crate::viommu;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::Frames;
use core::sync::atomic::{AtomicBool, AtomicU64};
use iommu::addr::{PAGE_SIZE, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::table::{Attributes, MapError, StageTwoTable};

/// The first LPI (IHI 0069, §2.2).
const FIRST_LPI: u32 = 8192;
/// What all partitions are made from.
pub struct Materials<'a> {
    /// The machine.
    pub info: &'a BootInfo,
    /// Memory for tables.
    pub host: &'a Arc<Host>,
    /// Files of the guests.
    pub bundle: &'a Bundle<'static>,
    /// The EL1 virtual timer's interrupt.
    pub timer: u32,
    /// Devices on the memory bus, if any is to be given away.
    pub devices: &'a [PlatformDevice],
    /// See [`lines`].
    pub lines: Vec<(u32, Option<usize>)>,
}

impl Materials<'_> {
    /// Whether SPI `intid` is not only `partition`'s.
    fn is_used_by_others(&self, intid: u32, partition: usize) -> bool {
        let mut lines = self.lines.iter();
        lines.any(|line| line.0 == intid && line.1 != Some(partition))
    }
}

/// A partition's VMID on the CPUs. 0 is left to nobody, so that a forgotten VTTBR_EL2 is no guest's.
fn tag(partition: usize) -> CacheTag {
    CacheTag(partition as u16 + 1)
}

/// Takes those out of `machine` and their `ram`, where it is free again, that have a device behind an IOMMU that cannot be
/// used.
#[inline(never)]
pub fn leave_out(
    machine: &mut Machine,
    ram: &mut Vec<Frames>,
    gate: &Gate,
    devices: &[PlatformDevice],
) {
    let mut index = 0;
    while let Some(config) = machine.partitions.get(index) {
        match unusable(config, gate, devices) {
            Some(why) => {
                say!("{}: cannot start: {why}", config.name);
                machine.partitions.remove(index);
                ram.remove(index);
            }
            None => index += 1,
        }
    }
}

/// The first device of a partition that is behind an IOMMU that cannot be used.
fn unusable(
    config: &config::Partition,
    gate: &Gate,
    devices: &[PlatformDevice],
) -> Option<Unusable> {
    functions::unusable(config, gate).or_else(|| {
        let mut nodes = platform::named(config, devices);
        let node = nodes.find(|device| {
            let mut streams = device.streams.iter();
            streams.any(|stream| gate.iommu(stream.iommu).is_none())
        })?;
        Some(Unusable(Sender::Node(Name::new(&node.path))))
    })
}

/// One partition, with everything in it; nothing runs yet. What a failure has left is undone.
pub fn partition(
    index: usize,
    config: &config::Partition,
    ram: Frames,
    gate: &Gate,
    materials: &Materials<'_>,
) -> Result<Partition, SetupError> {
    let refused = || SetupError::Partition(index);
    let ram = GuestRam::new(ram, config::Platform::Aarch64);
    let (devices, platform, links) = devices(index, config, &ram, gate, materials)?;
    let stage_two = stage_two(&ram, &devices, &platform, materials.host);
    let stage_two = stage_two.map_err(SetupError::Table)?;
    let snoops = |owned: &Owned| {
        let host = gate.topology.functions[owned.info].host;
        materials.info.pcie[host].dma_coherent
    };
    let pcie = (!devices.owned.is_empty()).then_some(Pcie {
        dma_coherent: devices.owned.iter().all(snoops),
        msi: gate.messages.its.is_some(),
    });
    let affinities: Vec<u32> = (0..config.cpus.len())
        .map(|vcpu| vdev::affinity(vcpu) as u32)
        .gather();
    let messages: Vec<_> = devices
        .sources
        .iter()
        .map(|source| (source.virt, source.count))
        .gather();
    let vits = Vits::new(&messages, affinities.len()).map_err(|_| refused())?;
    let slots = if gate.messages.its.is_some() {
        vits.lpi_slots()
    } else {
        0
    };
    let mut vgic = Vgic::new(&affinities, slots).map_err(|_| refused())?;
    for vcpu in 0..affinities.len() {
        vgic.link_ppi(vcpu, guest_map::VIRTUAL_TIMER_INTID, materials.timer)
            .map_err(|_| refused())?;
    }
    for link in &links {
        vgic.link_spi(link.guest, link.physical)
            .map_err(|_| refused())?;
    }
    Ok(Partition {
        index,
        cpus: config.cpus.iter().map(|&cpu| usize::from(cpu)).gather(),
        life: Life::new(config.cpus.len()),
        files: Files::find(materials.bundle, config, pcie, devices.behind_viommus())
            .map_err(|_| refused())?,
        config: config.clone(),
        ram,
        stage_two: Mutex::new(stage_two),
        vmid: tag(index),
        devices,
        links,
        platform,
        vgic: Mutex::new(vgic),
        vits: Mutex::new(vits),
        its_busy: AtomicBool::new(false),
        uart: Mutex::new(partition::uart_of(config)),
        refused: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        faults: AtomicU64::new(0),
        restarts: AtomicU64::new(0),
        fault_restarts: Mutex::new(Budget::new()),
    })
}

/// What the CPUs of a partition reach. The table goes before what it leads to.
fn stage_two(
    ram: &GuestRam,
    devices: &Devices,
    platform: &Platform,
    host: &Arc<Host>,
) -> Result<StageTwoTable<Host>, MapError> {
    let mut table = StageTwoTable::new(Arc::clone(host), guest_map::IPA_BITS, true)?;
    table.map(ram.guest(), ram.host(), Attributes::RAM)?;
    for mapping in &platform.mappings {
        let pages = Span {
            base: mapping.guest,
            len: mapping.host.len,
        };
        table.map(pages, mapping.host.base, Attributes::DEVICE)?;
    }
    for (index, viommu) in devices.dma.viommus().iter().enumerate() {
        for (page, image) in viommu::READABLE {
            let pages = Span {
                base: guest_map::SMMU.base + (index as u64 * guest_map::SMMU_STRIDE + page),
                len: PAGE_SIZE,
            };
            table.map(pages, viommu.image() + image, viommu::REGISTERS)?;
        }
    }
    Ok(table)
}

/// The functions of a partition, its other devices, and what the DMA of all goes through.
fn devices(
    index: usize,
    config: &config::Partition,
    ram: &GuestRam,
    gate: &Gate,
    materials: &Materials<'_>,
) -> Result<(Devices, Platform, Vec<Link>), SetupError> {
    let refused = || SetupError::Partition(index);
    let mut owned = Vec::new();
    let (mut sources, mut mapped) = (Vec::new(), Vec::new());
    let mut lpi = FIRST_LPI + gate.messages.lpis;
    let mut links = Vec::new();
    let mut placements = Vec::new();
    for (function, guest) in functions::owned(config, gate).ok_or_else(refused)? {
        let record = &gate.topology.functions[function.info];
        let virt = function.virt;
        if let Some((device, count, table)) = messages(record, gate)? {
            sources.push(Source {
                virt,
                device,
                first: lpi,
                count,
            });
            mapped.push(table);
            lpi += count;
        }
        placements.push(Placement {
            guest,
            info: record,
            intx: route_pin(index, &config.name, record, guest, &mut links, materials),
        });
        owned.push(function);
    }
    let bus = VirtualPci::new(guest_map::PCI_WINDOW, &placements).map_err(|_| refused())?;
    let others = |intid| materials.is_used_by_others(intid, index);
    let platform = Platform::new(config, materials.devices, gate, &mut links, others);
    let platform = platform.ok_or_else(refused)?;
    let windows = functions::dma_windows(config, ram.spans());
    let masters = masters(&owned, &platform, gate, materials);
    let refuse = |error| SetupError::Objects(index, error);
    let memory = ram.memory();
    let mut dma =
        Dma::new(gate, &memory, &windows, &[], &masters, config.viommu).map_err(refuse)?;
    if config.viommu {
        dma.add_viommus(gate, materials.host, ram, &masters)
            .map_err(refuse)?;
    }
    let messages = (sources, mapped);
    Ok((Devices::new(owned, bus, dma, messages), platform, links))
}

/// All that may do DMA: functions first, by slot. A stream that two devices have is the first one's; both come and go
/// together.
fn masters(
    owned: &[Owned],
    platform: &Platform,
    gate: &Gate,
    materials: &Materials<'_>,
) -> Vec<Master> {
    let mut masters = functions::masters(owned, gate);
    for assigned in &platform.devices {
        let place = materials.devices.iter();
        let place = place.take_while(|device| device.path != assigned.device.path);
        let taken = |stream: &&(IommuIndex, DeviceId)| {
            masters.iter().any(|master| master.streams.contains(stream))
        };
        let streams = assigned.streams.iter().filter(|stream| !taken(stream));
        let streams: Vec<_> = streams.copied().gather();
        masters.push(Master {
            sender: Sender::Node(Name::new(&assigned.device.path)),
            virt: None,
            // Alone in it: groups of functions count from 0, these from the other end.
            group: u32::MAX - place.count() as u32,
            ats: false,
            streams,
        });
    }
    masters
}

/// The DeviceID, number and table of its messages, if it can send some to our ITS.
fn messages(record: &FunctionInfo, gate: &Gate) -> Result<Option<(u32, u32, Mapped)>, SetupError> {
    let vectors = u32::from(record.capabilities.vectors());
    let identity = record
        .msi
        .filter(|msi| msi.target == gate.messages.its_phandle);
    let (Some(its), Some(identity), true) = (&gate.messages.its, identity, vectors != 0) else {
        return Ok(None);
    };
    let mapped = Mapped::new(its, identity.id.0, vectors).map_err(SetupError::Its)?;
    Ok(Some((identity.id.0, vectors, mapped)))
}

/// Whether the function's INTx pin reaches the guest; if it has one that does not, a line says why.
fn route_pin(
    partition: usize,
    name: &str,
    record: &FunctionInfo,
    guest: Bdf,
    links: &mut Vec<Link>,
    materials: &Materials<'_>,
) -> bool {
    let Some(intid) = intx_intid(guest.device(), record.interrupt_pin) else {
        return false;
    };
    let pin = Pin {
        guest: intid,
        physical: record.intx,
    };
    let others = |intid: u32| materials.is_used_by_others(intid, partition);
    let routed = intx::route(pin, links, others);
    if let Err(reason) = routed {
        say!("{name}: {} has no INTx: {reason}", record.address);
    }
    routed.is_ok()
}

/// Who uses which SPI: the hypervisor's own devices (`None`), and of each partition the functions, through their pins, and
/// the other `devices`.
pub fn lines(
    info: &BootInfo,
    machine: &Machine,
    topology: &Topology,
    devices: &[PlatformDevice],
) -> Vec<(u32, Option<usize>)> {
    let smmus = info.smmus.iter();
    let own = smmus.flat_map(|smmu| [smmu.event_irq, smmu.pri_irq, smmu.gerror_irq]);
    let own = own.chain([info.uart.and_then(|uart| uart.irq)]);
    let mut lines: Vec<_> = own.flatten().map(|irq| (irq.intid, None)).gather();
    for (index, partition) in machine.partitions.iter().enumerate() {
        let functions = partition
            .devices
            .iter()
            .filter_map(|device| functions::find(topology, device));
        let pins = functions.filter_map(|info| topology.functions[info].intx);
        let nodes = platform::named(partition, devices);
        let wires = nodes.flat_map(|device| device.irqs.iter().copied().flatten());
        lines.add_all(pins.chain(wires).map(|irq| (irq.intid, Some(index))));
    }
    lines
}

/// Who owns which stream, for the record of faults: every function of the machine and every one of the other `devices`,
/// owned or not. Of two that have one stream the owned one comes first, and of those the one that was let through with it.
pub fn streams(gate: &Gate, devices: &[PlatformDevice], partitions: &[Partition]) -> Vec<Stream> {
    let owner = |info: usize| {
        let owns = |partition: &Partition| {
            let mut owned = partition.devices.owned.iter();
            owned.any(|owned| owned.info == info)
        };
        partitions.iter().position(owns)
    };
    let (mut owned, mut nobodys) = functions::streams(gate, owner);
    for (index, partition) in partitions.iter().enumerate() {
        for assigned in &partition.platform.devices {
            owned.add_all(assigned.streams.iter().map(|&(iommu, id)| Stream {
                iommu,
                id,
                sender: Sender::Node(Name::new(&assigned.device.path)),
                partition: Some(index),
            }));
        }
    }
    for device in devices {
        nobodys.add_all(device.streams.iter().filter_map(|stream| {
            Some(Stream {
                iommu: gate.iommu(stream.iommu)?,
                id: stream.id,
                sender: Sender::Node(Name::new(&device.path)),
                partition: None,
            })
        }));
    }
    owned.add_all(nobodys);
    owned
}
