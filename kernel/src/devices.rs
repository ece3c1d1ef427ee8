//! The functions of one partition, and the order in which they come and go: silent and aborted, reset, DMA let through
//! stage 2, attached; and back.

use crate::config::ResetPolicy;
use crate::gate::Gate;
use crate::intx::Link;
use crate::irq;
use crate::lock::Mutex;
use crate::machine::Host;
use crate::messages::Source;
use crate::pci::{self, Function};
use crate::say;
use crate::vdev::vpci::{Effect, MapBar, VirtualPci};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Invalidation, IommuError, StageTwo, StreamConfig};
use iommu::table::StageTwoTable;

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
    /// May be handed over unreset.
    pub reset: ResetPolicy,
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
    /// Their INTx lines.
    pub links: Vec<Link>,
    /// What they reach.
    table: StageTwoTable<Host>,
    /// The partition's tag at each IOMMU that one of them is behind.
    tags: Vec<(IommuIndex, CacheTag)>,
    /// By slot: put in abort by [`Devices::cut_off`] since it was last opened.
    cut: Vec<AtomicBool>,
    /// By slot: how its last reset went, as far as it was said.
    said: Vec<AtomicU8>,
    /// Held for as long as a reset takes: two vCPUs cannot reset one function across each other.
    resetting: Mutex<()>,
}

impl Devices {
    /// Functions whose DMA goes through `table`. All are silent and in abort.
    pub fn new(
        owned: Vec<Owned>,
        bus: VirtualPci,
        table: StageTwoTable<Host>,
        tags: Vec<(IommuIndex, CacheTag)>,
        sources: Vec<Source>,
        links: Vec<Link>,
    ) -> Self {
        Self {
            cut: owned.iter().map(|_| AtomicBool::new(false)).collect(),
            said: owned.iter().map(|_| AtomicU8::new(DONE)).collect(),
            resetting: Mutex::new(()),
            owned,
            sources,
            links,
            bus: Mutex::new(bus),
            table,
            tags,
        }
    }

    /// Resets every function and hands it over; one that cannot be handed over stays silent and in abort.
    pub fn open(&self, gate: &Gate, partition: &str) {
        for slot in 0..self.owned.len() {
            self.open_one(gate, partition, slot);
        }
    }

    fn open_one(&self, gate: &Gate, partition: &str, slot: usize) {
        let owned = &self.owned[slot];
        let info = &gate.topology.functions[owned.info];
        if !self.reset(gate, partition, slot) {
            return;
        }
        if let Err(error) = self.let_through(gate, owned) {
            say!("{partition}: {} stays in abort: {error:?}", info.address);
            return;
        }
        if !pci::open_path(&mut &gate.buses, &gate.topology, info) {
            say!(
                "{partition}: a bridge above {} cannot be opened",
                info.address
            );
            return;
        }
        self.cut[slot].store(false, Ordering::Relaxed);
        self.bus.lock().attach(&mut &gate.buses, slot);
    }

    /// Configures all streams of a function; after an error all of them are in abort.
    fn let_through(&self, gate: &Gate, owned: &Owned) -> Result<(), IommuError> {
        for &(iommu, stream) in &owned.streams {
            let Some(&(_, tag)) = self.tags.iter().find(|(index, _)| *index == iommu) else {
                self.abort(gate, owned);
                return Err(IommuError::NoSuchDevice(stream));
            };
            let config = StreamConfig::StageTwo(StageTwo {
                tag,
                root: self.table.root(),
                input_bits: self.table.input_bits(),
            });
            if let Err(error) = gate.unit(iommu).driver.lock().attach(stream, config) {
                self.abort(gate, owned);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stops all DMA of a function.
    pub fn abort(&self, gate: &Gate, owned: &Owned) {
        for &(iommu, stream) in &owned.streams {
            if let Err(error) = gate
                .unit(iommu)
                .driver
                .lock()
                .attach(stream, StreamConfig::Abort)
            {
                // A device that cannot be stopped may write anywhere from here on.
                panic!(
                    "cannot stop the DMA of stream {stream} of smmu{}: {error:?}",
                    iommu.0
                );
            }
        }
    }

    /// Takes every function back: its DMA stopped and out of the IOMMUs' caches, silent, reset where it can be. BARs to
    /// unmap are left in the bus.
    pub fn close(&self, gate: &Gate, partition: &str) {
        for owned in &self.owned {
            self.abort(gate, owned);
        }
        for &(iommu, tag) in &self.tags {
            let forgotten = gate
                .unit(iommu)
                .driver
                .lock()
                .invalidate(&[Invalidation::Tag(tag)]);
            if let Err(error) = forgotten {
                panic!("smmu{} does not forget {tag:?}: {error:?}", iommu.0);
            }
        }
        self.bus.lock().reset(&mut &gate.buses);
        for slot in 0..self.owned.len() {
            self.reset(gate, partition, slot);
        }
    }

    /// Puts one function in abort until the partition starts again. False if it is one that was cut off before, or
    /// that is not owned.
    pub fn cut_off(&self, gate: &Gate, function: Function) -> bool {
        let slot = self
            .owned
            .iter()
            .position(|owned| gate.topology.functions[owned.info].address == function);
        let Some(slot) = slot.filter(|&slot| !self.cut[slot].swap(true, Ordering::Relaxed)) else {
            return false;
        };
        self.abort(gate, &self.owned[slot]);
        true
    }

    /// The IOMMUs that its functions are behind.
    pub fn iommus(&self) -> impl Iterator<Item = IommuIndex> + '_ {
        self.tags.iter().map(|&(iommu, _)| iommu)
    }

    /// The guest resets the function of `slot`, which is detached.
    pub fn reset_by_guest(&self, gate: &Gate, partition: &str, slot: usize) {
        let _alone = self.resetting.lock_meanwhile(irq::serve_meanwhile);
        if self.reset(gate, partition, slot) {
            self.bus.lock().attach(&mut &gate.buses, slot);
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
                say!("{partition}: {error}; it stays in abort")
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
