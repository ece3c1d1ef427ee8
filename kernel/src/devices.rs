//! The functions of one partition, and the order in which they come and go: silent and refused DMA, reset, let through
//! ([`dma`](crate::dma)), attached; and back.

use crate::config::ResetPolicy;
use crate::dma::Dma;
use crate::gate::Gate;
use crate::gather::Gather;
use crate::irq;
use crate::lock::Mutex;
use crate::messages::{Mapped, Source};
use crate::monitor::Sender;
use crate::pci;
use crate::say;
use crate::system::System;
use crate::vdev::vpci::{Effect, MapBar, VirtualPci};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use iommu::id::{DeviceId, IommuIndex, VirtDeviceId};

/// How a reset went.
const DONE: u8 = 0;
/// It was not possible, which its owner accepts.
const KEPT: u8 = 1;
const FAILED: u8 = 2;

/// One function of the partition.
#[derive(Clone, Debug)]
pub struct Owned {
    /// Its record, by index in the topology.
    pub info: usize,
    /// What the guest calls it.
    pub virt: VirtDeviceId,
    /// May be handed over unreset.
    pub reset: ResetPolicy,
    /// Is trusted with ATS.
    pub ats: bool,
    /// Whoever has it serves its virtual functions, in other partitions too.
    pub manages_vfs: bool,
    /// Its identities at IOMMUs.
    pub streams: Vec<(IommuIndex, DeviceId)>,
}

/// See the module's description.
pub struct Devices {
    /// By slot of the virtual bus.
    pub owned: Vec<Owned>,
    /// What the guest sees of them.
    pub bus: Mutex<VirtualPci>,
    /// Their messages, of those that can send some.
    pub sources: Vec<Source>,
    /// What they reach.
    pub dma: Dma,
    /// What stands for them where they arrive.
    _mapped: Vec<Mapped>,
    /// By slot, of the functions first, then of the other devices: silenced by [`Devices::cut_off`] since it was last
    /// opened or closed.
    cut: Vec<AtomicBool>,
    /// By slot: how its last reset went, as far as it was said.
    said: Vec<AtomicU8>,
    /// Held for as long as a reset takes: two vCPUs cannot reset one function across each other.
    resetting: Mutex<()>,
}

impl Devices {
    /// Functions whose DMA goes through `dma`. All are silent, and refused it.
    pub fn new(
        owned: Vec<Owned>,
        bus: VirtualPci,
        dma: Dma,
        (sources, mapped): (Vec<Source>, Vec<Mapped>),
    ) -> Self {
        Self {
            cut: (0..dma.len()).map(|_| AtomicBool::new(false)).gather(),
            said: owned.iter().map(|_| AtomicU8::new(DONE)).gather(),
            resetting: Mutex::new(()),
            owned,
            sources,
            bus: Mutex::new(bus),
            dma,
            _mapped: mapped,
        }
    }

    /// For each IOMMU that the guest sees, the requester IDs that are behind it.
    pub fn behind_viommus(&self) -> Vec<Vec<u16>> {
        let behind = |iommu| {
            let owned = self.owned.iter();
            let owned = owned.filter(move |it| it.streams.iter().any(|stream| stream.0 == iommu));
            owned.map(|owned| owned.virt.0 as u16).gather()
        };
        let viommus = self.dma.viommus().iter();
        viommus.map(|viommu| behind(viommu.iommu)).gather()
    }

    /// Resets every function and hands it over; one that cannot be handed over stays silent, and refused DMA.
    pub fn open(&self, system: &System, partition: &str) {
        for slot in 0..self.owned.len() {
            self.open_one(system, partition, slot);
        }
        // No other device can be reset, nor has a bus to be attached to.
        for slot in self.owned.len()..self.cut.len() {
            self.let_through(partition, slot);
        }
    }

    /// Whether the DMA of `slot` goes through.
    fn let_through(&self, partition: &str, slot: usize) -> bool {
        self.cut[slot].store(false, Ordering::Relaxed);
        if let Err(error) = self.dma.open(slot) {
            say!(
                "{partition}: {} is refused DMA: {error}",
                self.dma.sender(slot)
            );
            return false;
        }
        true
    }

    fn open_one(&self, system: &System, partition: &str, slot: usize) {
        let gate = &system.gate;
        let owned = &self.owned[slot];
        let info = &gate.topology.functions[owned.info];
        if !self.reset_with_virtuals(system, partition, slot) {
            // Whatever its guest asks for.
            self.dma.silence(slot);
            return;
        }
        if !self.let_through(partition, slot) {
            return;
        }
        if !pci::open_path(&mut &gate.buses, &gate.topology, info) {
            say!(
                "{partition}: a bridge above {} cannot be opened",
                info.address
            );
            return;
        }
        self.attach(gate, slot);
    }

    /// Hands a function over that is out of reset, and whose DMA goes through.
    fn attach(&self, gate: &Gate, slot: usize) {
        let owned = &self.owned[slot];
        if owned.ats {
            let info = &gate.topology.functions[owned.info];
            pci::turn_on_ats(&mut &gate.buses, &gate.topology, info);
        }
        self.bus.lock().attach(&mut &gate.buses, slot);
    }

    /// Takes every function back: its DMA stopped and out of the IOMMUs' caches, silent, reset where it can be: but for
    /// one whose virtual functions may be in use, which is reset when it is opened. BARs to unmap are left in the bus.
    pub fn close(&self, gate: &Gate, partition: &str) {
        for (slot, cut) in self.cut.iter().enumerate() {
            self.dma.close(slot);
            cut.store(false, Ordering::Relaxed);
        }
        self.bus.lock().reset(&mut &gate.buses);
        for (slot, owned) in self.owned.iter().enumerate() {
            if gate.topology.functions[owned.info].vfs() == 0 {
                self.reset(gate, partition, slot);
            }
        }
    }

    /// Refuses the DMA of one device, without records, until it is taken back. False if it was cut off before, or is
    /// not owned.
    pub fn cut_off(&self, sender: Sender) -> bool {
        let slot = self.dma.slot(sender);
        let Some(slot) = slot.filter(|&slot| !self.cut[slot].swap(true, Ordering::Relaxed)) else {
            return false;
        };
        self.dma.silence(slot);
        true
    }

    /// The guest resets the function of `slot`, which is detached.
    pub fn reset_by_guest(&self, system: &System, partition: &str, slot: usize) {
        let _alone = self.resetting.lock_meanwhile(irq::serve_meanwhile);
        if self.reset_with_virtuals(system, partition, slot) {
            self.attach(&system.gate, slot);
        }
    }

    /// [`Self::reset`]; virtual functions that went with it come back, and whoever has one meets a device out of reset.
    fn reset_with_virtuals(&self, system: &System, partition: &str, slot: usize) -> bool {
        let gate = &system.gate;
        let index = self.owned[slot].info;
        let info = &gate.topology.functions[index];
        let done = self.reset(gate, partition, slot);
        if !done || info.vfs() == 0 {
            return done;
        }
        let clock = &mut crate::machine::Clock;
        match pci::turn_on_vfs(&mut &gate.buses, clock, &gate.topology, index) {
            Ok(()) => {
                for other in &system.partitions {
                    other.assigned().resume_virtuals(gate, index);
                }
            }
            Err(fault) => say!(
                "{partition}: {}: no virtual functions: {fault}",
                info.address
            ),
        }
        done
    }

    /// Gives the virtual functions of `physical` the registers back that their guest has set.
    fn resume_virtuals(&self, gate: &Gate, physical: usize) {
        for (slot, owned) in self.owned.iter().enumerate() {
            if gate.topology.functions[owned.info].physical == Some(physical) {
                self.bus.lock().resume(&mut &gate.buses, slot);
            }
        }
    }

    /// A read of configuration space.
    pub fn read(&self, gate: &Gate, offset: u64, size: u8) -> u64 {
        self.bus.lock().read(&mut &gate.buses, offset, size)
    }

    /// A write; what it means beside BARs to move.
    pub fn write(&self, gate: &Gate, offset: u64, size: u8, value: u64) -> Effect {
        self.bus.lock().write(&mut &gate.buses, offset, size, value)
    }

    /// The next BAR to move.
    pub fn next_remap(&self) -> Option<MapBar> {
        self.bus.lock().next_remap()
    }

    /// Resets the function of `slot`; whether it may be used by whoever is next. What is wrong with it is said once.
    fn reset(&self, gate: &Gate, partition: &str, slot: usize) -> bool {
        let owned = &self.owned[slot];
        let info = &gate.topology.functions[owned.info];
        let done = pci::reset(
            &mut &gate.buses,
            &mut crate::machine::Clock,
            &gate.topology,
            info,
        );
        let outcome = match (&done, owned.reset) {
            (Ok(_), _) => DONE,
            (Err(pci::ResetError::NotPossible(_)), ResetPolicy::BestEffort) => KEPT,
            (Err(_), _) => FAILED,
        };
        let news = self.said[slot].swap(outcome, Ordering::Relaxed) != outcome;
        match done {
            Err(error) if news && outcome == FAILED => {
                say!("{partition}: {error}; it is refused DMA")
            }
            Err(_) if news => say!(
                "{partition}: {} cannot be reset; it keeps its state",
                info.address
            ),
            _ => {}
        }
        outcome != FAILED
    }
}
