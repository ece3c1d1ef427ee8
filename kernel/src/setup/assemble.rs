//! Putting a partition together: memory, functions with their DMA and messages, virtual devices.

use super::SetupError;
use crate::bundle::Bundle;
use crate::config::{self, DeviceAddress};
use crate::devices::{Devices, Owned};
use crate::gate::{Gate, Stream};
use crate::guest_map;
use crate::guest_tree::Pcie;
use crate::life::Life;
use crate::load::Files;
use crate::machine::{GuestRam, Host};
use crate::messages::Source;
use crate::partition::Partition;
use crate::pci::{Bdf, Function};
use crate::system::Owner;
use crate::vdev::vgic::Vgic;
use crate::vdev::vits::Vits;
use crate::vdev::vpci::{Placement, VirtualPci};
use crate::vdev::{self, vuart::Vuart};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::Frames;
use core::sync::atomic::AtomicU64;
use iommu::addr::{Gpa, Hpa, Iova, Span};
use iommu::id::{CacheTag, IommuIndex, VirtDeviceId};
use iommu::table::{Attributes, StageTwoTable};
use spin::mutex::TicketMutex;

/// The first LPI (IHI 0069, §2.2.1).
const FIRST_LPI: u32 = 8192;
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
