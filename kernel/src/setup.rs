//! From the machine and a configuration to a [`System`], one step a function, in the order of [`crate::start`].

use crate::boot_info::{self, BootInfo};
use crate::bundle::{Bundle, BundleError};
use crate::config::{self, DeviceAddress, Machine, MachineFacts};
use crate::devices::{Devices, Owned};
use crate::gate::{Gate, Stream, Unit};
use crate::guest_map;
use crate::guest_tree::Pcie;
use crate::life::Life;
use crate::load::Files;
use crate::machine::{Ecam, GuestRam, Host, Registers};
use crate::messages::Source;
use crate::monitor::Monitor;
use crate::partition::Partition;
use crate::pci::{Bdf, Function, Topology};
use crate::system::{Owner, System};
use crate::vdev::vgic::Vgic;
use crate::vdev::vits::Vits;
use crate::vdev::vpci::{Placement, VirtualPci};
use crate::vdev::{self, vuart::Vuart};
use crate::{say, terminal};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::gic::{Gic, GicError, Intid, Trigger};
use arch::its::{Its, ItsError};
use arch::memory::{FramePool, Frames};
use arch::mmio::{MmioError, MmioPool, MmioRegion};
use core::fmt;
use core::sync::atomic::AtomicU64;
use iommu::addr::{Gpa, Hpa, Iova, Span};
use iommu::id::{CacheTag, IommuIndex, VirtDeviceId};
use iommu::smmuv3::{self, Smmu, StartError};
use iommu::table::{Attributes, MapError, StageTwoTable};
use spin::mutex::TicketMutex;

/// The first LPI (IHI 0069, §2.2.1).
const FIRST_LPI: u32 = 8192;

/// Why the machine cannot be taken over, or the configuration not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// Firmware describes no SMMUv3: nothing would stop a device.
    NoSmmu,
    /// Firmware describes no GICv3.
    NoGic,
    /// Device registers that cannot be had.
    Registers(MmioError),
    /// The interrupt controller.
    Gic(GicError),
    /// The ITS.
    Its(ItsError),
    /// An SMMU, by index.
    Smmu(IommuIndex, StartError),
    /// Tables of a partition.
    Table(MapError),
    /// What was packed behind the image.
    Bundle(BundleError),
    /// The configuration breaks this many rules; each was said.
    Configuration(usize),
    /// No memory for a partition's RAM; how much was asked for.
    Memory(u64),
    /// A partition that validation should have refused, by index.
    Partition(usize),
}

/// Registers of one SMMU, in which everything is denied already.
pub struct Denied {
    registers: Registers,
    smmu: boot_info::Smmu,
}

/// All of it, in order.
pub fn build(
    info: &BootInfo,
    boot_cpu: usize,
    frames: &'static FramePool,
    mmio: &mut MmioPool,
    bundle: &'static [u8],
) -> Result<System, SetupError> {
    let denied = deny(info, mmio)?;
    let gic = gic(info, boot_cpu, mmio)?;
    let (buses, topology) = buses(info, mmio)?;
    for problem in &topology.problems {
        say!("pci: {problem}");
    }
    let bundle = Bundle::parse(bundle).map_err(SetupError::Bundle)?;
    let machine = bundle.config().map_err(SetupError::Bundle)?;
    let facts = facts(info, frames, &topology, &bundle);
    let problems = config::validate(&machine, &facts);
    for problem in &problems {
        say!("configuration: {problem}");
    }
    if !problems.is_empty() {
        return Err(SetupError::Configuration(problems.len()));
    }
    terminal::name_partitions(machine.partitions.iter().map(|partition| &*partition.name));

    let ram = memory(&machine, &facts, frames)?;
    let host = Arc::new(Host(frames));
    let coherent = info.pcie.iter().all(|host| host.dma_coherent)
        && info.smmus.iter().all(|smmu| smmu.dma_coherent);
    let its = its(info, mmio, frames, &gic)?;
    let mut gate = gate(
        &host,
        denied,
        (buses, topology),
        its,
        machine.partitions.len(),
    )?;
    let mut partitions = Vec::new();
    for (index, (config, ram)) in machine.partitions.iter().zip(ram).enumerate() {
        let partition = partition(index, config, ram, &host, &bundle, &mut gate, coherent)?;
        let (at, len) = (partition.ram.host(), partition.ram.guest().len);
        say!(
            "partition {}: memory {at}+{len:#x}, cpus {:?}",
            partition.name(),
            partition.cpus
        );
        partitions.push(partition);
    }
    gate.streams = streams(&gate, &partitions);
    Ok(System {
        owners: owners(info.cpus.len(), &partitions),
        uart: info.uart.and_then(|uart| uart.irq).map(wired),
        maintenance: info.gic.as_ref().and_then(|gic| gic.maintenance).map(wired),
        gic,
        gate,
        partitions,
    })
}

/// Stops all DMA: the first thing of all, before anything is allocated for it.
pub fn deny(info: &BootInfo, mmio: &mut MmioPool) -> Result<Vec<Denied>, SetupError> {
    if info.smmus.is_empty() {
        return Err(SetupError::NoSmmu);
    }
    let mut denied = Vec::new();
    for (index, &smmu) in info.smmus.iter().enumerate() {
        let registers = Registers(take(mmio, &smmu.registers)?);
        smmuv3::deny_all(&registers, arch::clock::now_ns)
            .map_err(|error| SetupError::Smmu(IommuIndex(index as u8), error))?;
        denied.push(Denied { registers, smmu });
    }
    Ok(denied)
}

/// The interrupt controller, with this CPU's part of it on.
pub fn gic(info: &BootInfo, boot_cpu: usize, mmio: &mut MmioPool) -> Result<Gic, SetupError> {
    let gic = info.gic.as_ref().ok_or(SetupError::NoGic)?;
    let distributor = take(mmio, &gic.distributor)?;
    let redistributors = gic
        .redistributors
        .iter()
        .map(|region| take(mmio, region))
        .collect::<Result<_, _>>()?;
    let cpus: Vec<u64> = info.cpus.iter().map(|cpu| cpu.mpidr).collect();
    let gic = Gic::new(distributor, redistributors, None, &cpus).map_err(SetupError::Gic)?;
    gic.init_cpu(boot_cpu).map_err(SetupError::Gic)?;
    Ok(gic)
}

/// All PCI functions, silent.
pub fn buses(info: &BootInfo, mmio: &mut MmioPool) -> Result<(Ecam, Topology), SetupError> {
    let mut ecam = Ecam::default();
    for host in &info.pcie {
        ecam.add(host.segment, host.buses.0, take(mmio, &host.ecam)?);
    }
    let topology = Topology::enumerate(&mut ecam, &info.pcie);
    Ok((ecam, topology))
}

/// What the rules have to know: RAM is only what is still free.
pub fn facts(
    info: &BootInfo,
    frames: &'static FramePool,
    topology: &Topology,
    bundle: &Bundle<'_>,
) -> MachineFacts {
    let free = frames.free_ranges();
    let mut kept = Vec::new();
    for memory in &info.memory {
        let mut at = memory.base.0;
        for range in free
            .iter()
            .filter(|range| memory.contains(Hpa(range.start)))
        {
            kept.push(Span {
                base: Hpa(at),
                len: range.start - at,
            });
            at = range.end;
        }
        kept.push(Span {
            base: Hpa(at),
            len: memory.end().0.saturating_sub(at),
        });
    }
    kept.retain(|span| span.len != 0);
    config::discovered(info, &kept, topology, bundle)
}

/// RAM of every partition, taken before anything else is allocated.
pub fn memory(
    machine: &Machine,
    facts: &MachineFacts,
    frames: &'static FramePool,
) -> Result<Vec<Frames>, SetupError> {
    let take = |place: Result<Span<Hpa>, u64>| {
        let span = place.map_err(SetupError::Memory)?;
        frames
            .reserve_exact(span.base.0, span.len)
            .ok_or(SetupError::Memory(span.len))
    };
    config::place_memory(machine, facts)
        .into_iter()
        .map(take)
        .collect()
}

/// The gate: every IOMMU on, with every stream in abort; the ITS that messages go to.
pub fn gate(
    host: &Arc<Host>,
    denied: Vec<Denied>,
    (buses, topology): (Ecam, Topology),
    its: Option<Its>,
    partitions: usize,
) -> Result<Gate, SetupError> {
    let mut units = Vec::new();
    for (index, Denied { registers, smmu }) in denied.into_iter().enumerate() {
        let index = IommuIndex(index as u8);
        let driver = Smmu::start(index, registers, Arc::clone(host))
            .map_err(|error| SetupError::Smmu(index, error))?;
        let irqs = [smmu.event_irq, smmu.gerror_irq].into_iter().flatten();
        units.push(Unit {
            phandle: smmu.phandle,
            driver: TicketMutex::new(Box::new(driver)),
            irqs: irqs.map(wired).collect(),
        });
    }
    Ok(Gate {
        units,
        its,
        lpis: 0,
        topology,
        buses: TicketMutex::new(buses),
        streams: Vec::new(),
        monitor: TicketMutex::new(Monitor::new(partitions)),
    })
}

/// The ITS, if there is one.
pub fn its(
    info: &BootInfo,
    mmio: &mut MmioPool,
    frames: &'static FramePool,
    gic: &Gic,
) -> Result<Option<Its>, SetupError> {
    let Some(its) = info.gic.as_ref().and_then(|gic| gic.its.first()) else {
        return Ok(None);
    };
    gic.enable_lpis(frames).map_err(SetupError::Gic)?;
    let targets = (0..gic.cpus())
        .map(|cpu| gic.its_target(cpu))
        .collect::<Result<Vec<_>, _>>();
    let targets = targets.map_err(SetupError::Gic)?;
    let registers = take(mmio, &its.registers)?;
    Its::new(registers, frames, &targets, gic.lpi_count())
        .map(Some)
        .map_err(SetupError::Its)
}

/// An interrupt of the device tree, and how it signals.
fn wired(irq: boot_info::Irq) -> (Intid, Trigger) {
    let trigger = if irq.edge {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    (Intid(irq.intid), trigger)
}

fn take(mmio: &mut MmioPool, span: &Span<Hpa>) -> Result<MmioRegion, SetupError> {
    mmio.take(span.base.0, span.len)
        .map_err(SetupError::Registers)
}

/// One partition, with everything in it but its functions' messages; nothing runs yet.
pub fn partition(
    index: usize,
    config: &config::Partition,
    ram: Frames,
    host: &Arc<Host>,
    bundle: &Bundle<'static>,
    gate: &mut Gate,
    coherent: bool,
) -> Result<Partition, SetupError> {
    let refused = || SetupError::Partition(index);
    let ram = GuestRam::new(ram);
    let mut stage_two = StageTwoTable::new(Arc::clone(host), guest_map::IPA_BITS, true)
        .map_err(SetupError::Table)?;
    stage_two
        .map(ram.guest(), ram.host(), Attributes::RAM)
        .map_err(SetupError::Table)?;

    let devices = devices(index, config, &ram, host, gate, coherent)?;
    let pcie = (!devices.owned.is_empty()).then_some(Pcie {
        dma_coherent: coherent,
        msi: gate.its.is_some(),
    });
    let affinities: Vec<u32> = (0..config.cpus.len())
        .map(|vcpu| vdev::affinity(vcpu) as u32)
        .collect();
    let messages: Vec<_> = devices
        .sources
        .iter()
        .map(|source| (source.virt, source.count))
        .collect();
    let vits = Vits::new(&messages, affinities.len()).map_err(|_| refused())?;
    let slots = if gate.its.is_some() {
        vits.lpi_slots()
    } else {
        0
    };
    let mut vgic = Vgic::new(&affinities, slots).map_err(|_| refused())?;
    for vcpu in 0..affinities.len() {
        let timer = guest_map::VIRTUAL_TIMER_INTID;
        vgic.link_ppi(vcpu, timer, timer).map_err(|_| refused())?;
    }
    Ok(Partition {
        index,
        cpus: config.cpus.iter().map(|&cpu| usize::from(cpu)).collect(),
        life: Life::new(config.cpus.len()),
        files: Files::find(bundle, config, pcie).map_err(|_| refused())?,
        config: config.clone(),
        ram,
        stage_two: TicketMutex::new(stage_two),
        // 0 is left to nobody, so that a forgotten VTTBR_EL2 is no guest's.
        vmid: CacheTag(index as u16 + 1),
        devices,
        vgic: TicketMutex::new(vgic),
        vits: TicketMutex::new(vits),
        uart: TicketMutex::new(Vuart::new()),
        refused: AtomicU64::new(0),
        faults: AtomicU64::new(0),
    })
}

/// The functions of a partition, and the table that their DMA goes through.
fn devices(
    index: usize,
    config: &config::Partition,
    ram: &GuestRam,
    host: &Arc<Host>,
    gate: &mut Gate,
    coherent: bool,
) -> Result<Devices, SetupError> {
    let refused = || SetupError::Partition(index);
    let mut table = StageTwoTable::new(Arc::clone(host), guest_map::IPA_BITS, coherent)
        .map_err(SetupError::Table)?;
    let whole = [(ram.guest().base, ram.guest().len)];
    let windows = config
        .dma_windows
        .iter()
        .map(|window| (Gpa(window.base.get()), window.size.get()));
    let windows: Vec<_> = if config.dma_windows.is_empty() {
        whole.to_vec()
    } else {
        windows.collect()
    };
    for (base, len) in windows {
        let to = Hpa(ram.host().0 + (base - ram.guest().base));
        table
            .map(
                Span {
                    base: Iova(base.0),
                    len,
                },
                to,
                Attributes::DMA,
            )
            .map_err(SetupError::Table)?;
    }
    if let Some(its) = &gate.its {
        // The page with GITS_TRANSLATER and nothing else (IHI 0069, §12.18): the control frame is no device's.
        let page = Span {
            base: Iova(guest_map::ITS_TRANSLATION.base.0),
            len: 0x1000,
        };
        let doorbell = Attributes {
            read: false,
            ..Attributes::DEVICE
        };
        table
            .map(page, Hpa(its.translater()), doorbell)
            .map_err(SetupError::Table)?;
    }

    let mut owned = Vec::new();
    let mut sources = Vec::new();
    let mut placements = Vec::new();
    let mut tags: Vec<(IommuIndex, CacheTag)> = Vec::new();
    for (device, guest) in config
        .devices
        .iter()
        .zip(config::guest_addresses(&config.devices))
    {
        let guest = guest.ok_or_else(refused)?;
        let DeviceAddress::Pci(at) = &device.address else {
            return Err(refused());
        };
        let function = Function {
            segment: at.segment,
            bdf: Bdf::from_requester_id(at.requester_id()),
        };
        let info = gate
            .topology
            .functions
            .iter()
            .position(|info| info.address == function);
        let info = info.ok_or_else(refused)?;
        let record = &gate.topology.functions[info];
        let mut streams = Vec::new();
        for identity in &record.streams {
            let unit = gate
                .units
                .iter()
                .position(|unit| unit.phandle == identity.target);
            let iommu = IommuIndex(unit.ok_or_else(refused)? as u8);
            streams.push((iommu, identity.id));
            if !tags.iter().any(|(known, _)| *known == iommu) {
                tags.push((iommu, CacheTag(index as u16 + 1)));
            }
        }
        let guest = Bdf::new(guest.bus, guest.device, guest.function).ok_or_else(refused)?;
        let vectors = u32::from(record.capabilities.vectors());
        if let (Some(its), Some(identity), true) = (&gate.its, record.msi, vectors != 0) {
            // MAPD takes at least one bit (IHI 0069, §5.3.10).
            let bits = vectors.next_power_of_two().ilog2().max(1) as u8;
            its.map_device(identity.id.0, bits)
                .map_err(SetupError::Its)?;
            sources.push(Source {
                virt: VirtDeviceId(guest.requester_id().into()),
                device: identity.id.0,
                first: FIRST_LPI + gate.lpis,
                count: vectors,
            });
            gate.lpis += vectors;
        }
        owned.push(Owned {
            info,
            reset: device.reset,
            streams,
        });
        placements.push(Placement {
            guest,
            info: record,
            intx: false,
        });
    }
    let bus = VirtualPci::new(guest_map::PCI_WINDOW, &placements).map_err(|_| refused())?;
    Ok(Devices::new(owned, bus, table, tags, sources))
}

/// Who owns which stream, for the record of faults: every function of the machine, owned or not.
pub fn streams(gate: &Gate, partitions: &[Partition]) -> Vec<Stream> {
    let mut streams = Vec::new();
    for (index, info) in gate.topology.functions.iter().enumerate() {
        let partition = partitions.iter().position(|partition| {
            partition
                .devices
                .owned
                .iter()
                .any(|owned| owned.info == index)
        });
        for identity in &info.streams {
            let unit = gate
                .units
                .iter()
                .position(|unit| unit.phandle == identity.target);
            if let Some(unit) = unit {
                streams.push(Stream {
                    iommu: IommuIndex(unit as u8),
                    id: identity.id,
                    function: info.address,
                    partition,
                });
            }
        }
    }
    streams
}

/// Which vCPU is on which physical CPU.
pub fn owners(cpus: usize, partitions: &[Partition]) -> Vec<Option<Owner>> {
    let mut owners = alloc::vec![None; cpus];
    for partition in partitions {
        for (vcpu, &cpu) in partition.cpus.iter().enumerate() {
            owners[cpu] = Some(Owner {
                partition: partition.index,
                vcpu,
            });
        }
    }
    owners
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSmmu => {
                f.write_str("the device tree has no SMMUv3: nothing would stop a device's DMA")
            }
            Self::NoGic => f.write_str("the device tree has no GICv3"),
            Self::Registers(error) => write!(f, "device registers: {error:?}"),
            Self::Gic(error) => write!(f, "GIC: {error:?}"),
            Self::Its(error) => write!(f, "ITS: {error:?}"),
            Self::Smmu(index, error) => write!(f, "smmu{}: {error:?}", index.0),
            Self::Bundle(error) => write!(f, "what follows the image: {error:?}"),
            Self::Configuration(count) => write!(f, "the configuration breaks {count} rules"),
            Self::Table(error) => write!(f, "stage 2: {error:?}"),
            Self::Memory(len) => write!(f, "no {} MiB of contiguous memory", len >> 20),
            Self::Partition(index) => write!(f, "partition {index} does not fit this machine"),
        }
    }
}
