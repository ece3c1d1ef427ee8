//! Taking the machine over: all DMA stopped first, then the interrupt controller, the buses, memory, and the gate shut.
//! Each step is a call: in one function, the stack would hold what all of them need.

use super::{SetupError, report};
use crate::boot_info::{self, BootInfo};
use crate::gate::{Gate, Unit};
use crate::gather::Gather;
use crate::guest_map;
use crate::lock::Mutex;
use crate::machine::{Ecam, Host, Iommu, Registers};
use crate::messages;
use crate::monitor::Monitor;
use crate::pci::Topology;
use crate::say;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::gic::{Gic, Intid, Trigger};
use arch::its::Its;
use arch::memory::FramePool;
use arch::mmio::{MmioPool, MmioRegion};
use core::sync::atomic::{AtomicBool, AtomicU64};
use iommu::addr::{Hpa, Span};
use iommu::id::IommuIndex;
use iommu::physical::PhysicalIommu;
use iommu::smmuv3::{self, Smmu};

/// Registers of one SMMU, in which everything is denied already.
pub struct Denied {
    registers: Registers,
    smmu: boot_info::Smmu,
}

/// Takes the SMMUs' registers, and sees for itself that all DMA is stopped: it was as soon as they were found.
#[inline(never)]
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
#[inline(never)]
pub fn gic(info: &BootInfo, boot_cpu: usize, mmio: &mut MmioPool) -> Result<Gic, SetupError> {
    let gic = info.gic.as_ref().ok_or(SetupError::NoGic)?;
    let distributor = take(mmio, &gic.distributor)?;
    let redistributors = gic
        .redistributors
        .iter()
        .map(|region| take(mmio, region))
        .try_gather()?;
    let cpus: Vec<u64> = info.cpus.iter().map(|cpu| cpu.id).gather();
    let gic = Gic::new(distributor, redistributors, None, &cpus).map_err(SetupError::Gic)?;
    gic.init_cpu(boot_cpu).map_err(SetupError::Gic)?;
    Ok(gic)
}

/// The gate: every IOMMU that can be used on, with every stream refused; the ITS that messages go to. Of the other IOMMUs,
/// which refuse all DMA as they have from the start, it is said why.
#[inline(never)]
pub fn gate(
    host: &Arc<Host>,
    denied: Vec<Denied>,
    (buses, topology): (Ecam, Topology),
    its: Option<(Its, u32)>,
    partitions: usize,
) -> Gate {
    let mut units = Vec::new();
    for Denied { registers, smmu } in denied {
        let index = IommuIndex(units.len() as u8);
        let coherent = smmu.dma_coherent;
        let driver = match Smmu::start_described(index, registers, Arc::clone(host), coherent) {
            Ok(driver) => driver,
            Err(error) => {
                let at = smmu.registers.base;
                say!("smmu at {at}: {error}: nobody can have a device behind it");
                continue;
            }
        };
        report::smmu(index, &driver.layout(), &driver.caps());
        let iommu = Iommu::new(index, driver, Arc::clone(host), guest_map::IPA_BITS);
        let irqs = [smmu.event_irq, smmu.pri_irq, smmu.gerror_irq];
        let irqs = irqs.into_iter().flatten();
        units.push(Unit {
            phandle: smmu.phandle,
            serving: Mutex::new(()),
            failed: AtomicBool::new(false),
            iommu: Arc::new(iommu),
            irqs: irqs.map(wired).gather(),
        });
    }
    let its_phandle = its.as_ref().map_or(0, |(_, phandle)| *phandle);
    Gate {
        units,
        messages: messages::Shared {
            its: its.map(|(its, _)| Arc::new(its)),
            its_phandle,
            lpis: 0,
        },
        topology,
        buses,
        streams: Vec::new(),
        monitor: Mutex::new(Monitor::new(partitions)),
        next_watch_ns: AtomicU64::new(0),
        next_age_ns: AtomicU64::new(0),
    }
}

/// The first ITS, if there is one, with its phandle.
#[inline(never)]
pub fn its(
    info: &BootInfo,
    mmio: &mut MmioPool,
    frames: &'static FramePool,
    gic: &Gic,
) -> Result<Option<(Its, u32)>, SetupError> {
    let Some(its) = info.gic.as_ref().and_then(|gic| gic.its.first()) else {
        return Ok(None);
    };
    gic.enable_lpis(frames).map_err(SetupError::Gic)?;
    let targets = (0..gic.cpus()).map(|cpu| gic.its_target(cpu)).try_gather();
    let targets = targets.map_err(SetupError::Gic)?;
    let registers = take(mmio, &its.registers)?;
    Its::new(registers, frames, &targets, gic.lpi_count())
        .map(|driver| Some((driver, its.phandle)))
        .map_err(SetupError::Its)
}

/// An interrupt of the device tree, and how it signals.
pub fn wired(irq: boot_info::Irq) -> (Intid, Trigger) {
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
