//! The functions of a partition: how they come to it, where its guest finds them, and what becomes of their faults.

use super::irq::{self, KICK};
use super::messages::{self, Source};
use super::partition::{Materials, Partition};
use super::system::System;
use crate::config;
use crate::devices::Devices;
use crate::dma::Dma;
use crate::functions::{self, Unusable};
use crate::gather::Gather;
use crate::guest_map::x86_64::{ECAM, PCI_WINDOW};
use crate::guest_ram::GuestRam;
use crate::host::Host;
use crate::lock::Mutex;
use crate::reserved_memory::{self, Region};
use crate::say;
use crate::vdev::vpci::ports::{ConfigPorts, Target};
use crate::vdev::vpci::{Effect, MapBar, Placement, PlacementError, VirtualPci};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::x86_64::apic;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;
use iommu::addr::{Gpa, Span};
use iommu::object;
use iommu::object::driver::Memory;
use iommu::table::Attributes;

/// See the module's description.
pub struct Functions {
    /// What is the same on every machine.
    pub devices: Devices,
    /// The ports that lead to their configuration space.
    ports: Mutex<ConfigPorts>,
}

/// Why a partition cannot have its functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// One of them is out of reach.
    Unusable(Unusable),
    /// The rules should have refused one of them.
    Unfit,
    /// Firmware goes on to use memory by one of them.
    ReservedMemory(reserved_memory::Error),
    /// They make no bus.
    Bus(PlacementError),
    /// They cannot have their messages.
    Messages(messages::Error),
    /// What their DMA goes through cannot be made.
    Objects(object::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(function) => function.fmt(f),
            Self::Unfit => f.write_str("its functions do not fit this machine"),
            Self::ReservedMemory(error) => error.fmt(f),
            Self::Bus(error) => error.fmt(f),
            Self::Messages(error) => error.fmt(f),
            Self::Objects(error) => write!(f, "dma: {error}"),
        }
    }
}

impl Functions {
    /// Those that `config`, partition `index`, names, whose DMA is to reach `ram`. All are silent, and refused DMA.
    ///
    /// # Errors
    /// See [`Error`]. What a failure has left is undone.
    pub fn new(
        index: usize,
        config: &config::Partition,
        materials: &Materials<'_>,
        ram: &GuestRam,
    ) -> Result<Self, Error> {
        let gate = materials.gate;
        if let Some(function) = functions::unusable(config, gate) {
            return Err(Error::Unusable(function));
        }
        let mut placements = Vec::new();
        let mut owned = Vec::new();
        for (function, guest) in functions::owned(config, gate).ok_or(Error::Unfit)? {
            let info = &gate.topology.functions[function.info];
            placements.push(Placement {
                guest,
                info,
                // Where pins arrive is in AML, which is not read.
                intx: false,
            });
            owned.push(function);
        }
        let mut bus = VirtualPci::new(PCI_WINDOW, &placements).map_err(Error::Bus)?;
        let (mut sources, mut mapped) = (Vec::new(), Vec::new());
        for (slot, function) in owned.iter().enumerate() {
            let info = &gate.topology.functions[function.info];
            let place = (index, slot);
            let source = Source::new(place, &config.cpus, function, info, materials);
            if let Some((source, entries)) = source.map_err(Error::Messages)? {
                source.tell(&mut bus);
                sources.push(source);
                mapped.push(entries);
            }
        }
        let records = owned
            .iter()
            .map(|owned| &gate.topology.functions[owned.info]);
        // What a guest's own unit leads through is the guest's to say.
        let devices = config.devices.iter();
        let is_said = devices.map(|device| device.reserved_memory && !config.viommu);
        let reserved = reserved_memory::take(
            &materials.info.dmar,
            &gate.topology,
            records.zip(is_said),
            ram.spans(),
            &mut materials.mmio.lock(),
        );
        let reserved = reserved.map_err(Error::ReservedMemory)?;
        let masters = functions::masters(&owned, gate);
        let windows = functions::dma_windows(config, ram.spans());
        for (window, offset) in windows.iter().filter(|_| !owned.is_empty()) {
            let host = ram.host() + *offset;
            let (name, Span { base, len }) = (&config.name, window);
            say!("{name}: dma at {base}+{len:#x} reaches {host}");
        }
        let reserved = reserved.into_iter().map(|region| {
            let Span { base, len } = region;
            say!(
                "{}: dma at {base}+{len:#x} reaches {base}, which is firmware's",
                config.name
            );
            (base, Arc::new(Region(region)) as Arc<dyn Memory>)
        });
        let reserved = reserved.gather();
        let viommu = config.viommu;
        let dma = Dma::new(gate, &ram.memory(), &windows, &reserved, &masters, viommu);
        let mut dma = dma.map_err(Error::Objects)?;
        if viommu {
            let host = Arc::new(Host(materials.frames));
            let added = dma.add_viommus(gate, &host, ram, &masters);
            added.map_err(Error::Objects)?;
        }
        Ok(Self {
            devices: Devices::new(owned, bus, dma, (sources, mapped)),
            ports: Mutex::new(ConfigPorts::default()),
        })
    }
}

impl Partition {
    /// What the DMA of its functions goes through.
    pub fn dma(&self) -> &Dma {
        &self.functions.devices.dma
    }

    /// Its functions.
    pub fn assigned(&self) -> &Devices {
        &self.functions.devices
    }

    /// Whether it has the function with this record.
    pub fn owns(&self, info: usize) -> bool {
        self.assigned().owned.iter().any(|owned| owned.info == info)
    }

    /// Accesses so far that mean nothing.
    pub fn misuse(&self) -> u64 {
        let devices = self.devices.lock();
        devices.misuse + devices.interrupts.misuse()
    }

    /// Its functions become its own, before it runs.
    pub fn open(&self, system: &'static System) {
        self.open_messages(system);
        self.assigned().open(system, self.name());
        self.dma().start(&self.ram);
        // What they tried while nobody owned them is no fault of this life.
        self.settle_faults(system);
        self.faults.store(0, Ordering::Relaxed);
    }

    /// Its functions are taken back. It does not run any more.
    pub fn close(&self, system: &'static System) {
        self.dma().stop();
        self.assigned().close(&system.gate, self.name());
        self.close_messages(system);
        self.settle_faults(system);
        self.remap_bars(system);
        // Tables of the shadows that its guest had, as many as that was.
        while self.has_busy_viommus() {
            self.serve_viommus(system);
            irq::serve_meanwhile();
        }
    }

    /// Takes the faults that IOMMUs have recorded of its functions so far.
    fn settle_faults(&self, system: &'static System) {
        for slice in &self.dma().slices {
            system.gate.serve_all_faults(system, slice.iommu);
        }
        system.gate.take_records(system, self);
    }

    /// IN from one of the ports of configuration space; `None` for another port.
    pub fn read_config_port(&self, system: &System, port: u16, size: u8) -> Option<u32> {
        let (target, address) = {
            let ports = self.functions.ports.lock();
            (ports.target(port, size)?, ports.read())
        };
        Some(match target {
            Target::Address => address,
            Target::Ecam(offset) => self.assigned().read(&system.gate, offset, size) as u32,
            Target::Nowhere => u32::MAX,
        })
    }

    /// OUT to one of them; whether it is one.
    pub fn write_config_port(&self, system: &System, port: u16, size: u8, value: u32) -> bool {
        let target = {
            let mut ports = self.functions.ports.lock();
            let target = ports.target(port, size);
            if target == Some(Target::Address) {
                ports.write(value);
            }
            target
        };
        if let Some(Target::Ecam(offset)) = target {
            self.write_config(system, offset, size, value.into());
        }
        target.is_some()
    }

    /// A load of the guest; `None` if nothing of its functions is there.
    pub fn read_function(&self, system: &System, at: Gpa, size: u8) -> Option<u64> {
        if let Some((source, offset)) = self.find_trapped(at) {
            return Some(source.table.as_ref()?.read(offset, size));
        }
        let offset = at.0.checked_sub(ECAM.base.0).filter(|at| *at < ECAM.len)?;
        Some(self.assigned().read(&system.gate, offset, size))
    }

    /// Whose MSI-X table is, or is near, what the guest has at `at`, and the offset in its BAR.
    fn find_trapped(&self, at: Gpa) -> Option<(&Source, u64)> {
        // BARs are nowhere else.
        if !PCI_WINDOW.contains(at) {
            return None;
        }
        let devices = self.assigned();
        let (slot, bar, offset) = devices.bus.lock().find_bar(at)?;
        let mut sources = devices.sources.iter();
        let source = sources.find(|source| source.slot == slot)?;
        let pages = source.table.as_ref()?.trapped(bar)?;
        pages.contains(&offset).then_some((source, offset))
    }

    /// A store of the guest; whether something of its functions is there.
    pub fn write_function(&self, system: &System, at: Gpa, size: u8, value: u64) -> bool {
        if let Some((source, offset)) = self.find_trapped(at) {
            source.write(offset, size, value);
            source.stop_posting(&system.gate);
            return true;
        }
        let offset = at.0.checked_sub(ECAM.base.0).filter(|at| *at < ECAM.len);
        if let Some(offset) = offset {
            self.write_config(system, offset, size, value);
        }
        offset.is_some()
    }

    fn write_config(&self, system: &System, offset: u64, size: u8, value: u64) {
        let effect = self.assigned().write(&system.gate, offset, size, value);
        self.remap_bars(system);
        if let Effect::Reset(slot) = effect {
            self.forget_messages(slot);
            self.assigned().reset_by_guest(system, self.name(), slot);
        }
        self.stop_posting(system);
    }

    /// Moves BARs to where the guest has put them.
    fn remap_bars(&self, system: &System) {
        // Taken before each move is, so that vCPUs which move one BAR at the same time do so one after the other.
        let mut nested = self.nested.lock();
        while let Some(bar) = self.assigned().next_remap() {
            let len = bar.host.len;
            if let Some(base) = bar.from {
                nested.unmap(Span { base, len }, || self.forget(system));
            }
            let Some(base) = bar.to else { continue };
            for part in self.mapped_parts(&bar) {
                let span = Span {
                    base: base + part.start,
                    len: part.end - part.start,
                };
                if let Err(error) = nested.map(span, bar.host.base + part.start, Attributes::DEVICE)
                {
                    // The window is empty but for BARs, which do not overlap: only memory can be short.
                    say!("{}: no BAR at {base}: {error}", self.name());
                }
            }
        }
    }

    /// What of a BAR the guest reaches without us: all but the pages of an MSI-X table.
    fn mapped_parts(&self, bar: &MapBar) -> impl Iterator<Item = Range<u64>> {
        let mut sources = self.assigned().sources.iter();
        let source = sources.find(|source| source.slot == bar.slot);
        let table = source.and_then(|source| source.table.as_ref());
        let hole = table.and_then(|table| table.trapped(bar.bar));
        let len = bar.host.len;
        let hole = hole.unwrap_or(len..len);
        [0..hole.start, hole.end.min(len)..len]
            .into_iter()
            .filter(|part| !part.is_empty())
    }

    /// Waits until no CPU has anything of its nested tables from before.
    fn forget(&self, system: &System) {
        let change = self.tables.changed();
        while !self.tables.is_forgotten(change) {
            for (vcpu, &cpu) in self.cpus.iter().enumerate() {
                if self.tables.is_behind(vcpu, change) {
                    apic::interrupt(system.gate.messages.cpus[cpu], KICK);
                }
            }
            irq::serve_meanwhile();
        }
    }
}
