//! Virtual GICv3 (IHI 0069): distributor, redistributors, list registers. One security state, affinity routing only.
//!
//! One [`Vgic`] a partition, behind one lock. Around each stay in the guest stand [`Vgic::sync`], after the exit, and
//! [`Vgic::flush`], before the entry: between the two a vCPU's list registers are empty as far as the model goes, so
//! everything that a guest writes is decided on one state. An interrupt that sits in the list registers of *another*,
//! running vCPU is changed when that one exits: the returned `Effects::kick` names it, and `GICD_CTLR.RWP` reads as
//! one until a disable has got there.
//!
//! * [`spec`]: registers and list registers; `irq`: one interrupt; `set`: sets of them.
//! * `state`: what happens to an interrupt, from outside or by the guest; `lists`: in and out of list registers.
//! * `distributor`, `redistributor`, and `banked`, the registers that both have.
//!
//! Physical interrupts can be *linked* to virtual ones: while the guest handles the virtual one the physical one stays
//! active, and the guest's deactivation ends both. Where the guest's wish needs the physical GIC it is in
//! [`Effects::physical`].

pub(super) mod banked;
mod distributor;
mod irq;
mod lists;
mod redistributor;
mod set;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;

use crate::gather::{Gather, Grow};
use crate::guest_map::SPI_END;
use crate::vdev::CpuSet;
use alloc::vec::Vec;
use irq::{Irq, NO_CPU};
use set::IrqSet;
use spec::{LPI_END, Lr, MAX_LRS, gicr};

pub use lists::{Line, LrState, Renewed};
pub use state::SgiRegister;

/// SGIs and PPIs of one CPU.
const PRIVATE: usize = 32;
/// SPIs of a partition.
const SPIS: usize = SPI_END as usize - 32;
/// vCPUs, at most: a [`CpuSet`].
const MAX_CPUS: usize = 64;
/// SPIs that stand for physical ones, at most.
const MAX_SPI_LINKS: usize = 32;
/// Enough for one register write (32 interrupts, two actions each), one fold, or one step of a reset.
const MAX_ACTIONS: usize = 64;

const _: () = assert!(SPI_END.is_multiple_of(32) && SPI_END <= 1020);

/// Why there is no such GIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VgicError {
    /// This many vCPUs: none, or more than 64.
    Cpus(usize),
    /// More LPIs than 16-bit INTIDs have room for.
    Lpis(usize),
    /// No such interrupt to link, or an SGI, which nothing drives.
    Interrupt(u32),
    /// A 33rd SPI to link.
    Links(u32),
}

/// A physical interrupt behind a virtual one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Physical {
    /// Its INTID.
    pub intid: u32,
    /// The vCPU whose private interrupt it is; `None` for an SPI.
    pub cpu: Option<usize>,
}

/// What the physical GIC has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Let it fire, at this vCPU's CPU.
    Enable(Physical, usize),
    /// An SPI goes to this vCPU's CPU from now on.
    Route(Physical, usize),
    /// Let it not fire.
    Disable(Physical),
    /// It was acknowledged for the guest, and the guest will never deactivate it: do so.
    Deactivate(Physical),
}

/// What an operation means outside.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Effects {
    /// vCPUs with something new to take or to give back: wake them, or make them exit. May name the caller's own.
    pub kick: CpuSet,
    /// A vCPU enabled LPIs: properties that could not be read before now can (`Vits::reload`).
    pub reload_lpis: bool,
    /// For the physical GIC, in order.
    pub physical: heapless::Vec<Action, MAX_ACTIONS>,
}

impl Effects {
    fn kick(&mut self, cpu: u8) {
        self.kick = self.kick.union(CpuSet::one(usize::from(cpu)));
    }

    fn act(&mut self, action: Action) {
        let kept = self.physical.push(action);
        debug_assert!(kept.is_ok(), "MAX_ACTIONS covers every operation");
    }
}

/// What a register reads, and who has to exit so that it reads newer next time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Read {
    /// Zero-extended.
    pub value: u64,
    /// vCPUs that hold a part of the answer in their list registers.
    pub kick: CpuSet,
}

/// One vCPU: its redistributor, and its side of the distributor.
struct Cpu {
    /// Aff3 to Aff0, a byte each.
    affinity: u32,
    asleep: bool,
    lpis_enabled: bool,
    propbaser: u64,
    pendbaser: u64,
    /// `ICH_VMCR_EL2` at the last exit.
    vmcr: u64,
    /// What each list register was filled with.
    filled: [Option<(usize, Lr)>; MAX_LRS],
    /// Those below were; of those below `room` others can be. Both 0 from [`Vgic::sync`] to [`Vgic::flush`].
    used: usize,
    room: usize,
    /// Pending and enabled, in no list register. Private interrupts come first, then SPIs, then LPIs.
    ready: IrqSet,
    /// Active here, in no list register.
    held: IrqSet,
}

/// A partition's interrupt controller.
pub struct Vgic {
    cpus: Vec<Cpu>,
    /// Private ones of each CPU, then SPIs, then LPI slots.
    irqs: Vec<Irq>,
    /// `GICD_CTLR`: the group enables.
    groups: u32,
    /// CPUs that still run with an interrupt that has been disabled: `GICD_CTLR.RWP`.
    stale: CpuSet,
    links: usize,
    misuse: u64,
}

impl Vgic {
    /// One redistributor for each of `affinities` (Aff3 to Aff0, a byte each, as in `VMPIDR_EL2`), and room for
    /// `lpi_slots` mapped LPIs: zero if there is no ITS.
    pub fn new(affinities: &[u32], lpi_slots: usize) -> Result<Self, VgicError> {
        if affinities.is_empty() || affinities.len() > MAX_CPUS {
            return Err(VgicError::Cpus(affinities.len()));
        }
        if lpi_slots > LPI_END as usize - spec::LPI_BASE as usize {
            return Err(VgicError::Lpis(lpi_slots));
        }
        let bound = PRIVATE + SPIS + lpi_slots;
        let cpus: Vec<Cpu> = affinities
            .iter()
            .map(|&affinity| Cpu::new(affinity, bound))
            .gather();
        let mut irqs = Vec::with_capacity(cpus.len() * PRIVATE + SPIS + lpi_slots);
        for cpu in 0..cpus.len() {
            irqs.add_all((0..32).map(|intid| Irq::new(intid, cpu as u8)));
        }
        irqs.add_all((32..SPI_END).map(|intid| Irq::new(intid, NO_CPU)));
        irqs.add_all((0..lpi_slots).map(|_| Irq::new(0, NO_CPU)));
        let mut vgic = Self {
            cpus,
            irqs,
            groups: 0,
            stale: CpuSet::NONE,
            links: 0,
            misuse: 0,
        };
        vgic.reset_distributor();
        Ok(vgic)
    }

    /// How many vCPUs it serves.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Accesses so far that the architecture does not allow, or that name what is not there.
    pub fn misuse(&self) -> u64 {
        self.misuse
    }

    /// Lets private `intid` of `cpu` stand for physical PPI `physical`. From here on [`Vgic::inject_ppi`] says that the
    /// physical one was acknowledged and its priority dropped, but is still active.
    pub fn link_ppi(&mut self, cpu: usize, intid: u32, physical: u32) -> Result<(), VgicError> {
        match self.private(cpu, intid) {
            Some(id) if intid >= 16 => self.irqs[id].physical = Some(physical),
            _ => return Err(VgicError::Interrupt(intid)),
        }
        Ok(())
    }

    /// Lets SPI `intid` stand for physical SPI `physical`, in the same way.
    pub fn link_spi(&mut self, intid: u32, physical: u32) -> Result<(), VgicError> {
        let id = self.spi(intid).ok_or(VgicError::Interrupt(intid))?;
        if self.irqs[id].physical.is_none() {
            if self.links == MAX_SPI_LINKS {
                return Err(VgicError::Links(intid));
            }
            self.links += 1;
        }
        self.irqs[id].physical = Some(physical);
        Ok(())
    }

    fn first_spi(&self) -> usize {
        self.cpus.len() * PRIVATE
    }

    fn first_lpi(&self) -> usize {
        self.first_spi() + SPIS
    }

    fn has_lpis(&self) -> bool {
        self.irqs.len() > self.first_lpi()
    }

    fn private(&self, cpu: usize, intid: u32) -> Option<usize> {
        (cpu < self.cpus.len() && intid < 32).then(|| cpu * PRIVATE + intid as usize)
    }

    fn spi(&self, intid: u32) -> Option<usize> {
        (32..SPI_END)
            .contains(&intid)
            .then(|| self.first_spi() + intid as usize - 32)
    }

    /// The number of `id` in the sets of a CPU that it can go to.
    fn local(&self, id: usize) -> usize {
        match id.checked_sub(self.first_spi()) {
            Some(shared) => PRIVATE + shared,
            None => id % PRIVATE,
        }
    }

    /// The inverse, for `cpu`.
    fn global(&self, cpu: usize, local: usize) -> usize {
        match local.checked_sub(PRIVATE) {
            Some(shared) => self.first_spi() + shared,
            None => cpu * PRIVATE + local,
        }
    }

    /// Where the physical interrupt behind `id` is wanted. An SPI that is routed to nobody has to be somewhere.
    fn destination(&self, id: usize) -> usize {
        match self.irqs[id].target {
            NO_CPU => 0,
            cpu => usize::from(cpu),
        }
    }

    fn physical(&self, id: usize) -> Option<Physical> {
        self.irqs[id].physical.map(|intid| Physical {
            intid,
            cpu: (id < self.first_spi()).then_some(id / PRIVATE),
        })
    }

    /// An access that nothing answers: reads as zero, writes are ignored.
    fn refuse(&mut self) {
        self.misuse = self.misuse.saturating_add(1);
    }
}

impl Cpu {
    fn new(affinity: u32, bound: usize) -> Self {
        Self {
            affinity,
            asleep: true,
            lpis_enabled: false,
            propbaser: 0,
            pendbaser: 0,
            vmcr: 0,
            filled: [None; MAX_LRS],
            used: 0,
            room: 0,
            ready: IrqSet::new(bound),
            held: IrqSet::new(bound),
        }
    }

    /// `IROUTER`'s layout of the affinity.
    const fn route(&self) -> u64 {
        (self.affinity & 0xff_ffff) as u64 | ((self.affinity >> 24) as u64) << 32
    }

    /// The LPI configuration table, once LPIs are on: address and width of INTIDs.
    const fn lpi_table(&self) -> Option<(u64, u32)> {
        if self.lpis_enabled {
            let bits = (self.propbaser & gicr::PROPBASER_ID_BITS) as u32 + 1;
            Some((self.propbaser & gicr::PROPBASER_ADDRESS, bits))
        } else {
            None
        }
    }
}
