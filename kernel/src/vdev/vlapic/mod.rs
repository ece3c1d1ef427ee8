//! Virtual local APICs of a partition, and the messages between them (Intel SDM volume 3A, "Advanced Programmable
//! Interrupt Controller (APIC)"): xAPIC and x2APIC mode, all destinations, the timer in its three modes.
//!
//! One [`Vlapics`] a partition, behind one lock; a vCPU's number is its APIC ID, and number 0 is the bootstrap processor.
//! Nothing here ticks: `now` is the guest's TSC, which no guest can set, and whoever runs a vCPU calls
//! [`Vlapics::tick`] at [`Vlapics::next_tick`]. Before each entry it takes what there is: [`Vlapics::take_nmi`],
//! [`Vlapics::pending`] and, once the guest can take it, [`Vlapics::acknowledge`]. What has to happen to other vCPUs
//! comes back as [`Effects`].
//!
//! There is no SMM and no 8259: such messages go nowhere, and LINT0 and LINT1 are kept as written.

mod lapic;
mod registers;
mod spec;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use crate::gather::Gather;
use crate::vdev::CpuSet;
use alloc::vec::Vec;
use lapic::{Accepted, Lapic, State};
use vectors::Vectors;

pub use registers::MSRS;
pub use spec::Mode;

/// vCPUs, at most: a [`CpuSet`].
const MAX_CPUS: usize = 64;

/// The guest takes #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Everybody.
    All,
    /// One APIC ID.
    Physical(u32),
    /// A set: 8 bits as LDR and DFR divide them, or a cluster above 16 bits for those in x2APIC mode.
    Logical(u32),
}

impl Destination {
    /// Of the eight bits that xAPIC mode, an I/O APIC and a message of a device have.
    pub const fn narrow(to: u8, logical: bool) -> Self {
        match (to, logical) {
            (0xff, _) => Self::All,
            (_, true) => Self::Logical(to as u32),
            (_, false) => Self::Physical(to as u32),
        }
    }

    /// Of the 32 bits that x2APIC mode and a remapped interrupt have.
    pub const fn wide(to: u32, logical: bool) -> Self {
        match (to, logical) {
            (u32::MAX, _) => Self::All,
            (_, true) => Self::Logical(to),
            (_, false) => Self::Physical(to),
        }
    }
}

/// What an I/O APIC, a device or another processor sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// To whom.
    pub destination: Destination,
    /// What kind.
    pub mode: Mode,
    /// Vector; for a start-up the page.
    pub vector: u8,
    /// Its end is to be heard of.
    pub level: bool,
}

/// What an operation means outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// vCPUs with something new to take, or a timer that is set anew. May name the caller's own.
    pub kick: CpuSet,
    /// vCPUs that got INIT: they stop where they are. All but number 0 then wait for their start.
    pub init: CpuSet,
    /// vCPUs that were waiting and start now, in real mode at 4 KiB times [`Effects::page`].
    pub start: CpuSet,
    /// See `start`.
    pub page: u8,
    /// vCPUs whose APIC is on, off, or in a mode, that it was not in before: what is posted to them has to be looked at again.
    pub switched: CpuSet,
    /// A level-triggered interrupt of this vector has ended: the I/O APIC wants to know.
    pub end: Option<u8>,
}

impl Effects {
    /// Both. Of two starts the page is that of the second.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            kick: self.kick.union(other.kick),
            init: self.init.union(other.init),
            switched: self.switched.union(other.switched),
            start: self.start.union(other.start),
            page: if other.start.0 != 0 {
                other.page
            } else {
                self.page
            },
            end: if other.end.is_some() {
                other.end
            } else {
                self.end
            },
        }
    }

    fn kick(&mut self, cpu: usize) {
        self.kick = self.kick.union(CpuSet::one(cpu));
    }

    fn switch(&mut self, cpu: usize) {
        self.switched = self.switched.union(CpuSet::one(cpu));
    }
}

/// The local APICs of one partition.
#[derive(Clone, Debug)]
pub struct Vlapics {
    cpus: Vec<Lapic>,
    misuse: u64,
}

impl Vlapics {
    /// One for each of `cpus` vCPUs, as after reset; `None` if there are none, or more than 64. The timers' clock is the
    /// TSC divided by 2 to the `bus_shift`, as CPUID says too ([`Rates`](super::cpuid::Rates)).
    pub fn new(cpus: usize, bus_shift: u32) -> Option<Self> {
        if cpus == 0 || cpus > MAX_CPUS {
            return None;
        }
        let new = |cpu| Lapic::new(cpu as u32, bus_shift);
        Some(Self {
            cpus: (0..cpus).map(new).gather(),
            misuse: 0,
        })
    }

    /// How many there are.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// All of it as after reset.
    pub fn reset(&mut self) {
        for cpu in &mut self.cpus {
            cpu.init();
            cpu.state = State::XApic;
        }
    }

    /// Accesses so far that the architecture does not allow.
    pub fn misuse(&self) -> u64 {
        self.misuse
    }

    /// Whether `cpu` waits for a start-up message.
    pub fn waits(&self, cpu: usize) -> bool {
        self.cpus[cpu].waits
    }

    /// `cpu` runs from here on without having been sent a start-up message: a payload starts it by other means.
    pub fn set_running(&mut self, cpu: usize) {
        self.cpus[cpu].waits = false;
    }

    /// Brings `message` to whom it is for. Nobody may be.
    pub fn deliver(&mut self, message: &Message) -> Effects {
        self.deliver_except(message, None)
    }

    fn deliver_except(&mut self, message: &Message, except: Option<usize>) -> Effects {
        let mut effects = Effects {
            page: message.vector,
            ..Effects::default()
        };
        if message.mode == Mode::Lowest {
            if let Some(cpu) = self.least_urgent(message.destination) {
                self.accept(cpu, message, &mut effects);
            }
            return effects;
        }
        for cpu in 0..self.cpus.len() {
            if except != Some(cpu) && self.cpus[cpu].is_addressed(message.destination) {
                self.accept(cpu, message, &mut effects);
            }
        }
        effects
    }

    fn accept(&mut self, cpu: usize, message: &Message, effects: &mut Effects) {
        let one = CpuSet::one(cpu);
        match self.cpus[cpu].accept(message) {
            Accepted::Nothing => {}
            Accepted::Interrupt => effects.kick(cpu),
            Accepted::Init => {
                effects.init = effects.init.union(one);
                effects.switch(cpu);
            }
            Accepted::Startup => effects.start = effects.start.union(one),
        }
    }

    /// "Lowest Priority Delivery Mode": by processor priority, of those that can take it.
    fn least_urgent(&self, destination: Destination) -> Option<usize> {
        let can = |lapic: &Lapic| lapic.listens() && lapic.is_addressed(destination);
        let (cpu, _) = (0..)
            .zip(&self.cpus)
            .filter(|(_, lapic)| can(lapic))
            .min_by_key(|(_, lapic)| lapic.ppr())?;
        Some(cpu)
    }

    /// Lets the timer of `cpu` fire if it is time. Whether there is something new to take.
    pub fn tick(&mut self, cpu: usize, now: u64) -> bool {
        self.cpus[cpu].tick(now)
    }

    /// When to call [`Vlapics::tick`] for `cpu`, as a TSC value; it may have passed. `None`: never, as things are.
    pub fn next_tick(&self, cpu: usize) -> Option<u64> {
        self.cpus[cpu].next_tick()
    }

    /// The vector that `cpu` is to take once its guest lets it: it is above the processor's priority.
    pub fn pending(&self, cpu: usize) -> Option<u8> {
        self.cpus[cpu].pending()
    }

    /// The guest takes it now. What is given to the CPU but does not get through to the guest is the caller's to give again.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        self.cpus[cpu].acknowledge()
    }

    /// Takes the NMI that is pending for `cpu`, if it `can`, which is asked only where there is one.
    pub fn take_nmi(&mut self, cpu: usize, can: impl FnOnce() -> bool) -> bool {
        let nmi = &mut self.cpus[cpu].nmi;
        *nmi && can() && core::mem::take(nmi)
    }

    /// Interrupts were posted to `cpu`: edges of these vectors, 64 a word.
    pub fn take_posted(&mut self, cpu: usize, posted: [u64; 4]) {
        let lapic = &mut self.cpus[cpu];
        // As for a message: nobody hears it.
        if !lapic.listens() {
            return;
        }
        let words = posted.map(|word| [word as u32, (word >> 32) as u32]);
        let posted = Vectors::of(core::array::from_fn(|word| words.as_flattened()[word]));
        lapic.irr = lapic.irr.and(posted);
        lapic.tmr = lapic.tmr.without(posted);
    }

    /// To whom `message` can be posted, and as which vector, for as long as no APIC is [switched](Effects::switched): an edge
    /// for one vCPU that its ID names and that listens. What xAPIC mode calls logical a guest writes as it likes.
    pub fn posts_to(&self, message: &Message) -> Option<(usize, u8)> {
        let edge = matches!(message.mode, Mode::Fixed | Mode::Lowest) && !message.level;
        let named = |lapic: &Lapic| match message.destination {
            Destination::All => false,
            Destination::Physical(id) => id == lapic.id,
            to @ Destination::Logical(_) => lapic.state == State::X2Apic && lapic.is_addressed(to),
        };
        let mut all = (0..).zip(&self.cpus).filter(|(_, lapic)| named(lapic));
        let (cpu, lapic) = all.next()?;
        let one = all.next().is_none() && lapic.listens() && edge && message.vector >= 16;
        one.then_some((cpu, message.vector))
    }

    /// What `cpu` has got since it was [lent](Self::lend) what it had, to be posted to it while it runs: 64 vectors a word.
    /// `None` where it has to come out for it, as for an NMI, or an end that is to be heard of.
    pub fn to_post(&mut self, cpu: usize) -> Option<[u64; 4]> {
        let lapic = &mut self.cpus[cpu];
        if lapic.nmi || lapic.irr.without(lapic.tmr) != lapic.irr {
            return None;
        }
        let words = core::mem::take(&mut lapic.irr).words();
        let pairs: [_; 4] = core::array::from_fn(|pair| [words[2 * pair], words[2 * pair + 1]]);
        Some(pairs.map(|[low, high]| u64::from(high) << 32 | u64::from(low)))
    }

    /// What `cpu` has requested and in service, for the CPU itself to deliver, until it is [taken back](Self::take_back).
    pub fn lend(&mut self, cpu: usize) -> [[u32; 8]; 2] {
        let lapic = &mut self.cpus[cpu];
        [core::mem::take(&mut lapic.irr), lapic.isr].map(|vectors| vectors.words())
    }

    /// Whether `cpu` may end by itself what it has, and what is [posted](Self::to_post) to it: nobody else is to hear of it,
    /// and no page of registers shows it.
    pub fn ends_by_itself(&self, cpu: usize) -> bool {
        let lapic = &self.cpus[cpu];
        let levels = |vectors: Vectors| vectors.without(lapic.tmr) != vectors;
        lapic.state == State::X2Apic && !levels(lapic.irr) && !levels(lapic.isr)
    }

    /// What became of it. What has come since stays.
    pub fn take_back(&mut self, cpu: usize, [requested, in_service]: [[u32; 8]; 2]) {
        let lapic = &mut self.cpus[cpu];
        lapic.irr = lapic.irr.and(Vectors::of(requested));
        lapic.isr = Vectors::of(in_service);
    }

    /// CR8: the upper half of the task priority ("Interaction of Task Priorities between CR8 and APIC").
    pub fn cr8(&self, cpu: usize) -> u8 {
        self.cpus[cpu].tpr >> 4
    }

    /// Sets it: bits 3:0.
    pub fn set_cr8(&mut self, cpu: usize, value: u8) {
        self.cpus[cpu].tpr = value << 4;
    }

    fn refuse(&mut self) {
        self.misuse = self.misuse.saturating_add(1);
    }
}
