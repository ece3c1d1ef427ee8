//! Physical interrupts, all of which are taken at EL2, and the way of virtual ones into the guest.

use crate::guest_map::{GICD, GICR, ITS, VIRTUAL_TIMER_INTID};
use crate::lock::Guard;
use crate::partition::Partition;
use crate::system::System;
use crate::trace::{CpuTrace, Event};
use crate::vdev::vgic::spec::MAX_LRS;
use crate::vdev::vgic::{Effects, Line, LrState, Renewed, Vgic};
use arch::gic::{Intid, Kind};
use arch::ich::{self, Hcr, ListRegister};

/// Makes another CPU look: at its list registers, at its partition's life.
pub const KICK: Intid = Intid::sgi(0);
/// Makes a CPU come out of its guest for the rest of what that asked for, and no more.
pub const WORK: Intid = Intid::sgi(1);
/// Interrupts served in one go, so that a storm cannot keep a CPU from its guest.
const BUDGET: usize = 16;
/// What is taken where nothing is pending any more (IHI 0069, 2.2.1).
const SPURIOUS: Intid = Intid(1023);

/// What became of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// It is over.
    Done,
    /// It is the hypervisor's and pending again: the rest is for another exit.
    Later,
    /// It is a guest's, and active until that deactivates it.
    Guests,
}

/// Serves what is pending at this CPU. `guest` is the vCPU that is on it, if one is on.
pub fn serve(system: &'static System, guest: Option<(&Partition, usize)>) {
    let first = take(system);
    serve_all(system, guest, first);
}

/// The same where an interrupt made the guest exit, which is an event of `trace` with the first of them.
pub fn serve_exit(system: &'static System, trace: &CpuTrace, guest: (&Partition, usize)) {
    let first = system.gic.acknowledge();
    trace.exit(Event::Interrupt(first.unwrap_or(SPURIOUS).0));
    serve_all(system, Some(guest), first);
}

fn take(system: &System) -> Option<Intid> {
    let taken = system.gic.acknowledge();
    if let Some(intid) = taken {
        system.trace.here().record(Event::Take(intid.0));
    }
    taken
}

fn serve_all(
    system: &'static System,
    guest: Option<(&Partition, usize)>,
    mut taken: Option<Intid>,
) {
    for left in (0..BUDGET).rev() {
        let Some(intid) = taken else {
            return;
        };
        system.gic.end(intid);
        let served = match (intid.kind(), guest) {
            (Kind::Lpi, _) => {
                system.message(intid);
                // LPIs have no active state (IHI 0069, 1.2.2).
                Served::Guests
            }
            // The guest gets one of the machine's PPIs: its virtual timer, whatever number that has here.
            (Kind::Ppi, Some((partition, vcpu))) if intid == system.guest_timer => {
                forward_timer(system, partition, vcpu);
                Served::Guests
            }
            _ => serve_own(system, intid),
        };
        // What is the guest's now stays active until the guest deactivates it.
        if served != Served::Guests {
            system.gic.deactivate(intid);
        }
        if served == Served::Later || left == 0 {
            return;
        }
        taken = take(system);
    }
}

/// What is not on the way of nearly every interrupt of a guest's.
#[inline(never)]
fn serve_own(system: &'static System, intid: Intid) -> Served {
    match intid.kind() {
        Kind::Ppi => system.private_interrupt(intid),
        Kind::Spi => return system.shared_interrupt(intid),
        Kind::Sgi if intid == KICK => system.attend(),
        _ => {}
    }
    Served::Done
}

/// Serves what is pending while this CPU does something long, so that nobody waits for it whose interrupts come here: other
/// partitions' functions, the IOMMUs, the console. The caller holds no lock.
pub fn serve_meanwhile() {
    match crate::start::SYSTEM.get() {
        Some(system) => {
            let owner = system.owner(arch::cpu::index());
            let guest = owner.map(|owner| (&system.partitions[owner.partition], owner.vcpu));
            serve(system, guest);
        }
        None => core::hint::spin_loop(),
    }
}

fn forward_timer(system: &System, partition: &Partition, vcpu: usize) {
    let mut vgic = partition.vgic.lock();
    if !partition.renew(&mut vgic, Line::Ppi(VIRTUAL_TIMER_INTID)) {
        inject_timer(system, partition, vcpu, vgic);
    }
}

/// As [`Partition::renew`], where something is in its way.
#[inline(never)]
fn inject_timer(system: &System, partition: &Partition, vcpu: usize, mut vgic: Guard<'_, Vgic>) {
    let effects = vgic.inject_ppi(vcpu, VIRTUAL_TIMER_INTID);
    drop(vgic);
    system.apply(partition, &effects);
}

impl Partition {
    /// `line` comes, in the virtual GIC `vgic` of this partition: into a list register of this CPU's vCPU at once, if it can be.
    /// Whether it is pending there now.
    #[inline(never)]
    pub fn renew(&self, vgic: &mut Vgic, line: Line) -> bool {
        let here = arch::cpu::index();
        let Some(vcpu) = self.cpus.iter().position(|cpu| *cpu == here) else {
            return false;
        };
        match vgic.renew(vcpu, line, |index| ich::read_lr(index).0) {
            Renewed::No => return false,
            Renewed::Pending => {}
            Renewed::Fill(index, lr) => ich::write_lr(index, ListRegister(lr)),
        }
        true
    }
}

/// The list registers of this CPU while its vCPU runs. They stay as they are over an exit that has nothing to do with the
/// virtual GIC: to that, the guest has not left.
pub struct Lists {
    state: LrState,
    /// How many of the hardware's may hold something that was taken back.
    filled: usize,
    loaded: bool,
}

impl Lists {
    /// Resets this CPU's virtual interface: nothing is pending, and nothing active.
    pub fn reset() -> Self {
        ich::init();
        Self {
            state: LrState {
                lr: [0; MAX_LRS],
                used: 0,
                count: ich::count(),
                hcr: 0,
                vmcr: 0,
            },
            filled: 0,
            loaded: false,
        }
    }

    /// Before an entry: fills them with what is pending, unless they are filled.
    #[inline(always)]
    pub fn load(&mut self, partition: &Partition, vcpu: usize) {
        if !self.loaded {
            self.load_all(partition, vcpu);
        }
    }

    #[inline(never)]
    fn load_all(&mut self, partition: &Partition, vcpu: usize) {
        partition.vgic.lock().flush(vcpu, &mut self.state);
        for index in 0..self.state.used.max(self.filled) {
            ich::write_lr(index, ListRegister(self.state.lr[index]));
        }
        ich::set_hcr(Hcr(self.state.hcr));
        self.loaded = true;
    }

    /// Gives what they hold, with what the guest did to it, back to the virtual GIC.
    #[inline(always)]
    pub fn store(&mut self, system: &System, partition: &Partition, vcpu: usize) {
        if self.loaded {
            self.store_all(system, partition, vcpu);
        }
    }

    #[inline(never)]
    fn store_all(&mut self, system: &System, partition: &Partition, vcpu: usize) {
        self.loaded = false;
        let mut vgic = partition.vgic.lock();
        self.state.used = vgic.used(vcpu);
        self.filled = self.state.used;
        for index in 0..self.filled {
            self.state.lr[index] = ich::read_lr(index).0;
        }
        self.state.hcr = ich::hcr().0;
        self.state.vmcr = ich::vmcr().0;
        ich::set_hcr(Hcr(0));
        let mut effects = Effects::default();
        vgic.sync(vcpu, &mut self.state, &mut effects);
        drop(vgic);
        system.apply(partition, &effects);
    }
}

/// Whether an access has to do with the virtual GIC. Of interrupts it is those that ask for [`System::attend`].
pub fn concerns(ipa: u64) -> bool {
    (GICD.base.0..GICR.end().0).contains(&ipa)
}

// The ITS and its translater are between the two.
const _: () = assert!(GICD.base.0 < ITS.base.0 && ITS.end().0 <= GICR.base.0);

#[cfg(test)]
mod tests {
    use super::concerns;

    #[test]
    fn only_accesses_of_the_gic_take_the_list_registers_back() {
        for ipa in [0x0800_0000, 0x0808_0090, 0x080a_0000, 0x080d_ffff] {
            assert!(concerns(ipa), "{ipa:#x}");
        }
        for ipa in [0x07ff_ffff, 0x0900_0018, 0x3f01_0000, 0x4000_0000] {
            assert!(!concerns(ipa), "{ipa:#x}");
        }
    }
}
