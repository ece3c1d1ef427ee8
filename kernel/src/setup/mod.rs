//! From the machine and a configuration to a [`System`]: [`takeover`] is the machine, all of it stopped; [`assemble`] the
//! partitions on it, of which none runs yet.

pub mod assemble;
mod report;
pub mod takeover;

use crate::boot_info::{BootInfo, Devices};
use crate::bundle::{Bundle, BundleError};
use crate::checked;
use crate::gather::Gather;
use crate::life;
use crate::machine::{self, Host};
use crate::system::System;
use crate::terminal;
use crate::trace::Trace;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::gic::{GicError, Intid};
use arch::its::ItsError;
use arch::memory::FramePool;
use arch::mmio::{MmioError, MmioPool};
use core::fmt;
use core::sync::atomic::AtomicBool;
use iommu::id::IommuIndex;
use iommu::object;
use iommu::smmuv3::StartError;
use iommu::table::MapError;

/// Why the machine cannot be taken over, or the configuration not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// Firmware describes no SMMUv3: nothing would stop a device.
    NoSmmu,
    /// Firmware describes no GICv3.
    NoGic,
    /// Firmware describes no generic timer.
    NoTimer,
    /// Device registers that cannot be had.
    Registers(MmioError),
    /// The interrupt controller.
    Gic(GicError),
    /// The ITS.
    Its(ItsError),
    /// An SMMU that does not refuse all DMA, by index.
    Smmu(IommuIndex, StartError),
    /// What the CPUs of a partition reach.
    Table(MapError),
    /// What the devices of a partition reach, by index.
    Objects(usize, object::Error),
    /// What was packed behind the image.
    Bundle(BundleError),
    /// The configuration cannot be carried out here.
    Configuration(checked::Error),
    /// A partition that validation should have refused, by index.
    Partition(usize),
}

/// All of it, in order.
pub fn build(
    info: &BootInfo,
    devices: Devices,
    boot_cpu: usize,
    frames: &'static FramePool,
    mmio: &mut MmioPool,
    bundle: &'static [u8],
) -> Result<System, SetupError> {
    let denied = takeover::deny(info, mmio)?;
    let gic = takeover::gic(info, boot_cpu, mmio)?;
    let bundle = Bundle::parse(bundle).map_err(SetupError::Bundle)?;
    let mut machine = bundle.config().map_err(SetupError::Bundle)?;
    let buses = machine::buses(info, mmio, &machine.vfs());
    let (buses, topology) = buses.map_err(SetupError::Registers)?;
    report::virtual_functions(&topology);
    let devices = match machine.names_nodes() {
        true => devices.list(),
        false => Vec::new(),
    };
    let ram = checked::check(&machine, info, frames, &topology, &devices, &bundle);
    let mut ram = ram.map_err(SetupError::Configuration)?;

    let host = Arc::new(Host(frames));
    let timer = info.timer.ok_or(SetupError::NoTimer)?;
    let its = takeover::its(info, mmio, frames, &gic)?;
    let mut gate = takeover::gate(&host, denied, (buses, topology), its, ram.len());
    assemble::leave_out(&mut machine, &mut ram, &gate, &devices);
    terminal::name_partitions(machine.partitions.iter().map(|partition| &*partition.name));
    let materials = assemble::Materials {
        info,
        host: &host,
        bundle: &bundle,
        timer: timer.virt.intid,
        devices: &devices,
        lines: assemble::lines(info, &machine, &gate.topology, &devices),
    };
    let mut partitions = Vec::new();
    for (index, (config, ram)) in machine.partitions.iter().zip(ram).enumerate() {
        let partition = assemble::partition(index, config, ram, &gate, &materials)?;
        gate.messages.lpis += partition.devices.messages();
        report::partition(&partition, &gate);
        partitions.push(partition);
    }
    gate.streams = assemble::streams(&gate, &devices, &partitions);
    Ok(System {
        owners: life::owners(info.cpus.len(), partitions.iter().map(|it| &*it.cpus)),
        uart: info.uart.and_then(|uart| uart.irq).map(takeover::wired),
        maintenance: info
            .gic
            .as_ref()
            .and_then(|gic| gic.maintenance)
            .map(takeover::wired),
        frames,
        heap_in_use: || 0,
        may_end: AtomicBool::new(false),
        timer: takeover::wired(timer.hyp),
        guest_timer: Intid(timer.virt.intid),
        attention: info.cpus.iter().map(|_| AtomicBool::new(false)).gather(),
        trace: Trace::new(info.cpus.len()),
        gic,
        gate,
        partitions,
    })
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSmmu => {
                f.write_str("firmware describes no SMMUv3: nothing would stop a device's DMA")
            }
            Self::NoGic => f.write_str("firmware describes no GICv3"),
            Self::NoTimer => f.write_str("firmware describes no generic timer"),
            Self::Registers(error) => write!(f, "device registers: {error}"),
            Self::Gic(error) => write!(f, "GIC: {error}"),
            Self::Its(error) => write!(f, "ITS: {error}"),
            Self::Smmu(index, error) => write!(f, "smmu{}: {error}", index.0),
            Self::Bundle(error) => write!(f, "what follows the image: {error}"),
            Self::Configuration(error) => error.fmt(f),
            Self::Table(error) => write!(f, "stage 2: {error}"),
            Self::Objects(index, error) => write!(f, "partition {index}: dma: {error}"),
            Self::Partition(index) => write!(f, "partition {index} does not fit this machine"),
        }
    }
}
