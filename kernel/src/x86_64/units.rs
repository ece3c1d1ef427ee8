//! The VT-d units: from those that refuse everything by the boot's empty table to those that partitions' objects drive, and
//! their interrupt.

use super::irq::FAULT;
use super::partition::Partition;
use super::system::System;
use crate::boot_info::BootInfo;
use crate::gate::{Gate, Unit};
use crate::lock::Mutex;
use crate::machine::{Host, Iommu, Registers};
use crate::say;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::mmio::MmioPool;
use arch::x86_64::apic;
use core::fmt;
use core::sync::atomic::AtomicBool;
use iommu::addr::{Hpa, Span};
use iommu::id::IommuIndex;
use iommu::physical::PhysicalIommu;
use iommu::vtd::errata::Errata;
use iommu::vtd::interrupt_remap::Destinations;
use iommu::vtd::{Features, Setup, Vtd};

/// How wide the local APIC IDs of this machine's CPUs are.
pub fn destinations() -> Destinations {
    match apic::is_wide() {
        true => Destinations::Wide,
        false => Destinations::Narrow,
    }
}

/// Every unit on that can be used, with every source refused and every interrupt blocked; faults are told to the CPU with this
/// local APIC ID. The others refuse all DMA as they have from the start, and it is said why.
pub fn start(
    info: &BootInfo,
    mmio: &mut MmioPool,
    host: &Arc<Host>,
    errata: Errata,
    cpu: u32,
) -> Vec<Unit> {
    let destinations = destinations();
    let remaps = info.dmar.interrupt_remapping && !errata.no_interrupt_remapping;
    let setup = Setup {
        address_bits: info.dmar.address_bits,
        interrupts: remaps.then_some(destinations),
        scalable: None,
        errata,
    };
    let mut drivers = Vec::new();
    for (place, described) in info.dmar.vtds.iter().enumerate() {
        let number = drivers.len();
        let Span { base, len } = described.registers;
        let unusable = |why: &dyn fmt::Display| {
            say!("vt-d unit at {base}: {why}: nobody can have a function behind it");
        };
        let registers = match mmio.take(base.0, len) {
            Ok(registers) => Registers(registers),
            Err(error) => {
                unusable(&error);
                continue;
            }
        };
        let index = IommuIndex(number as u8);
        let unit = Vtd::start(index, registers, Arc::clone(host), setup);
        let mut unit = match unit {
            Ok(unit) => unit,
            Err(error) => {
                unusable(&error);
                continue;
            }
        };
        report(number, &unit);
        if unit.layout().interrupts.is_none() {
            let who = match (remaps, errata.no_interrupt_remapping) {
                (true, _) => "the unit does not remap interrupts to these CPUs",
                (false, true) => "its chipset gets interrupt remapping wrong",
                (false, false) => "firmware rules interrupt remapping out",
            };
            say!("vtd{number}: {who}: nobody can have a function behind it");
        }
        unit.set_fault_message(Some(message(cpu, FAULT)));
        drivers.push((place, unit));
    }
    // One table serves the devices of a partition behind whichever unit.
    let (bits, largest) = Features::shared(drivers.iter().map(|(_, unit)| unit.features()));
    let mut units = Vec::new();
    for (number, (place, unit)) in drivers.into_iter().enumerate() {
        let index = IommuIndex(number as u8);
        let iommu = Iommu::new(index, unit, Arc::clone(host), bits);
        units.push(Unit {
            phandle: place as u32,
            iommu: Arc::new(iommu.with_second_stages_of_vtd(largest)),
            serving: Mutex::new(()),
            failed: AtomicBool::new(false),
        });
    }
    units
}

/// The message that is `vector` at the CPU with local APIC ID `cpu`, not remapped: address and data (VT-d, 5.1.6 and 11.4,
/// FEADDR and FEUADDR).
fn message(cpu: u32, vector: u8) -> (u64, u32) {
    let (high, low) = (u64::from(cpu & !0xff), u64::from(cpu & 0xff));
    (high << 32 | 0xfee0_0000 | low << 12, vector.into())
}

/// Where the unit's memory is.
fn report(number: usize, unit: &Vtd<Host, Registers>) {
    let layout = unit.layout();
    let place = |span: Option<Span<Hpa>>| {
        let Span { base, len } = span.unwrap_or(Span {
            base: Hpa(0),
            len: 0,
        });
        (base, len)
    };
    let (queue, interrupts) = (place(layout.queue), place(layout.interrupts));
    let (features, caps) = (unit.features(), unit.caps());
    say!(
        "vtd{number}: {} mode, root table {}+{:#x}, invalidation queue {}+{:#x}, interrupt table {}+{:#x}; \
         {} bits of address, {}-bit domains{}",
        match unit.is_scalable() {
            true => "scalable",
            false => "legacy",
        },
        layout.root.base,
        layout.root.len,
        queue.0,
        queue.1,
        interrupts.0,
        interrupts.1,
        features.input_bits,
        caps.cache_tag_bits,
        match caps.coherent {
            true => ", coherent",
            false => ", cleaned by hand",
        }
    );
}

impl Unit {
    /// What it was told so far.
    pub fn summarize(&self, index: usize) {
        let counts = self.iommu.physical().lock().counters();
        say!(
            "sent to vtd{index}: {} descriptors, {} waits, {} refused; {} records read; {} bytes of tables",
            counts.descriptors,
            counts.waits,
            counts.refusals,
            counts.records,
            counts.table_bytes
        );
    }
}

impl Partition {
    /// What the units that it sees have done.
    pub fn summarize_viommus(&self) {
        for viommu in self.dma().viommus() {
            let (counts, waiting) = viommu.counters();
            say!(
                "{}: its vtd{}: {} stores, {} descriptors, {} waits, {} sources set, {} entries read, {} runs, {} errors; {} events: {} delivered, {} pending, {} dropped, {} interrupts, {} messages",
                self.name(),
                viommu.iommu.0,
                counts.stores,
                counts.descriptors,
                counts.waits,
                counts.attached,
                counts.entries,
                counts.runs,
                counts.errors,
                counts.faults.recorded + waiting,
                counts.faults.delivered,
                waiting,
                counts.faults.dropped(),
                counts.interrupts,
                counts.remapped
            );
        }
    }
}

impl Gate {
    /// No guest answers for a device yet, so nothing of it gets too old.
    pub fn expire(&self, _: &'static System) {}

    /// Some unit has something to say: which one, is in their registers.
    pub fn interrupt(&self, system: &'static System) {
        for (number, unit) in self.units.iter().enumerate() {
            let iommu = IommuIndex(number as u8);
            let errors = unit.iommu.physical().lock().serve_errors();
            match errors {
                Ok(errors) if errors.command || errors.stopped => {
                    say!("vtd{number}: errors {:#x}", errors.raw);
                }
                Ok(_) => {}
                Err(error) => {
                    say!("vtd{number}: {error}");
                    self.check(iommu);
                }
            }
            if self.serve_faults(system, iommu) {
                // It says nothing more before all that it has recorded is read (7.3): nothing but this brings us back.
                apic::interrupt(arch::cpu::id(), FAULT);
            }
        }
    }
}
