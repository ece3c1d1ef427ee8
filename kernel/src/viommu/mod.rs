//! The IOMMUs that a partition sees: one for each physical one that its functions are behind, on the partition's slice of it.
//!
//! [`VirtIommu`] decides, under the lock of its own; what it asks for outside comes back as an effect and is carried out
//! here: interrupts of the guest, and work that is left for the next time. What one is, and how it is made, is each
//! machine's.

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
mod smmu;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod vtd;

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub use smmu::{PATIENCE_NS, READABLE, VirtSmmu as VirtIommu};
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub use vtd::VirtVtd as VirtIommu;

use crate::guest_ram::GuestRam;
use crate::lock::Mutex;
use crate::machine::{Host, IOMMU, Iommu};
use crate::partition::Partition;
use crate::say;
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu::addr::Hpa;
use iommu::hal::DmaBuffer;
use iommu::id::{IommuIndex, VirtDeviceId};
use iommu::object::{Context, Device, Error, HwptPaging, Ioas};
use iommu::table::Attributes;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
use smmu::{self as machine, Counters, Effect};
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
use vtd::{self as machine, Counters, Effect};

/// How the guest's CPUs reach the registers of one: by loads, whatever the guest thinks of caches, so that they find what was
/// cleaned to memory. Stores trap.
pub const REGISTERS: Attributes = Attributes {
    write: false,
    ..Attributes::DEVICE
};
/// Events that wait for a guest's IOMMU at most, in its slice.
const EVENTS: u32 = 256;

/// One of them.
pub struct Viommu {
    /// Which physical one it is on.
    pub iommu: IommuIndex,
    unit: Mutex<VirtIommu>,
    /// Stalls or page requests are offered.
    #[cfg_attr(
        all(target_os = "none", target_arch = "x86_64"),
        expect(dead_code, reason = "no VT-d unit of a guest offers page requests")
    )]
    answers: bool,
    /// It has work left; written under its lock.
    busy: AtomicBool,
}

/// What one is made from.
pub struct Parts<'a> {
    /// Memory for it.
    pub host: &'a Arc<Host>,
    /// The physical one.
    pub unit: &'a Arc<Iommu>,
    /// The objects of the partition: all of them, its address space, and the table that its slice is on.
    pub context: &'a Context,
    /// See `context`.
    pub space: &'a Ioas,
    /// See `context`.
    pub table: &'a HwptPaging,
    /// The guest's memory.
    pub ram: &'a GuestRam,
    /// How many the guest has already.
    pub index: usize,
}

impl Viommu {
    /// On the IOMMU `iommu`, before `behind`, with what the guest calls each.
    ///
    /// # Errors
    /// Those of the objects.
    pub fn new(
        iommu: IommuIndex,
        parts: &Parts<'_>,
        behind: Vec<(Arc<Device>, VirtDeviceId)>,
    ) -> Result<Self, Error> {
        let (unit, answers) = machine::make(parts, behind)?;
        Ok(Self {
            iommu,
            unit: Mutex::new(unit),
            answers,
            busy: AtomicBool::new(false),
        })
    }

    /// What it did so far, and how many events wait for it.
    pub fn counters(&self) -> (Counters, u64) {
        let unit = self.unit.lock();
        (unit.counters(), unit.waiting())
    }

    /// Where what it reads as is in memory, for as long as this lives.
    pub fn image(&self) -> Hpa {
        self.unit.lock().image().hpa()
    }

    /// Puts all that is behind it in abort and its registers to what they are out of reset. What its guest had may be left to be
    /// given back, as work.
    pub fn stop(&self) {
        let mut unit = self.unit.lock();
        if let Err(error) = unit.stop() {
            panic!("cannot stop the DMA of a device: {error}");
        }
        self.busy.store(unit.has_work(), Ordering::Release);
    }

    /// Lets what is behind it do what an IOMMU out of reset lets it do.
    pub fn start(&self, ram: &GuestRam) {
        // Out of reset it is silent: nothing follows from this but that.
        let _ = self.unit.lock().start(ram);
    }
}

impl Partition {
    /// An access at `offset` of where its IOMMUs are (`value`: a store); `None` where there is none.
    pub fn access_viommu(
        &self,
        system: &System,
        offset: u64,
        size: u8,
        value: Option<u64>,
    ) -> Option<u64> {
        let index = (offset / machine::STRIDE) as usize;
        let offset = offset % machine::STRIDE;
        match value {
            Some(value) => self
                .store_viommu(system, index, offset, size, value)
                .then_some(0),
            None => {
                let viommu = self.dma().viommus().get(index)?;
                Some(viommu.unit.lock().read(offset, size))
            }
        }
    }

    /// A store at `offset` of the registers of IOMMU number `index`; `false` where there is none.
    pub fn store_viommu(
        &self,
        system: &System,
        index: usize,
        offset: u64,
        size: u8,
        value: u64,
    ) -> bool {
        let Some(viommu) = self.dma().viommus().get(index) else {
            return false;
        };
        let mut unit = viommu.unit.lock();
        let effect = unit.write(&self.ram, offset, size, value);
        // Mostly it is all done.
        if effect.more || effect.failed.is_some() {
            self.follow(system, index, viommu, &effect);
        } else {
            self.interrupt_by(system, index, &effect);
            viommu.busy.store(false, Ordering::Release);
        }
        true
    }

    /// Whether [`serve_viommus`](Self::serve_viommus) has anything to do.
    #[inline(always)]
    pub fn has_busy_viommus(&self) -> bool {
        let mut viommus = self.dma().viommus().iter();
        viommus.any(|viommu| viommu.busy.load(Ordering::Relaxed))
    }

    /// Goes on with what the guest has asked its IOMMUs for, a bounded amount a call.
    #[inline(never)]
    pub fn serve_viommus(&self, system: &System) {
        for (index, viommu) in self.dma().viommus().iter().enumerate() {
            // Whoever has it goes on with it, and says so if there is more.
            if viommu.busy.load(Ordering::Acquire)
                && let Some(mut unit) = viommu.unit.try_lock()
            {
                let effect = unit.run(&self.ram);
                self.follow(system, index, viommu, &effect);
            }
        }
    }

    /// There are events of `iommu` for the guest.
    pub fn notify_viommus(&self, system: &System, iommu: IommuIndex) {
        let viommus = self.dma().viommus().iter().enumerate();
        for (index, viommu) in viommus.filter(|(_, viommu)| viommu.iommu == iommu) {
            let mut unit = viommu.unit.lock();
            let effect = unit.deliver(&self.ram);
            self.follow(system, index, viommu, &effect);
        }
    }

    /// Carries out what a call of `viommu` has brought, under its lock, so that two calls do not overtake each other.
    fn follow(&self, system: &System, index: usize, viommu: &Viommu, effect: &Effect) {
        self.interrupt_by(system, index, effect);
        if let Some(error) = effect.failed {
            say!("{}: {IOMMU}{}: {error}", self.name(), viommu.iommu.0);
        }
        viommu.busy.store(effect.more, Ordering::Release);
        if effect.more {
            // A CPU of the partition comes back out of its guest for the rest, once it has served who else waits for it:
            // the one that asked, unless it is another's that has taken an interrupt.
            let here = arch::cpu::index();
            let cpu = if self.cpus.contains(&here) {
                here
            } else {
                self.cpus[0]
            };
            system.call_back(cpu);
        }
    }
}
