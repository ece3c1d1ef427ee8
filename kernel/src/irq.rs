//! Physical interrupts, all of which are taken at EL2, and the way of virtual ones into the guest.

use crate::partition::Partition;
use crate::system::System;
use crate::vdev::vgic::LrState;
use arch::gic::{Intid, Kind};
use arch::ich::{self, Hcr, ListRegister};

/// Makes another CPU look: at its list registers, at its partition's life.
pub const KICK: Intid = Intid::sgi(0);
/// Interrupts served in one go, so that a storm cannot keep a CPU from its guest.
const BUDGET: usize = 16;

/// Serves what is pending at this CPU. `guest` is the vCPU that is on it, if one is on.
pub fn serve(system: &'static System, guest: Option<(&Partition, usize)>) {
    for _ in 0..BUDGET {
        let Some(intid) = system.gic.acknowledge() else {
            return;
        };
        system.gic.end(intid);
        let forwarded = match intid.kind() {
            Kind::Ppi => {
                guest.is_some_and(|(partition, vcpu)| forward_ppi(system, partition, vcpu, intid))
            }
            Kind::Spi => system.shared_interrupt(intid),
            Kind::Lpi => {
                system.message(intid);
                // LPIs have no active state (IHI 0069, 1.2.2).
                true
            }
            // A kick has done its work by making the CPU exit.
            Kind::Sgi | Kind::None => false,
        };
        // What is the guest's now stays active until the guest deactivates it.
        if !forwarded {
            system.gic.deactivate(intid);
        }
    }
}

fn forward_ppi(system: &'static System, partition: &Partition, vcpu: usize, intid: Intid) -> bool {
    if !partition.owns_ppi(intid.0) {
        return false;
    }
    let effects = partition.vgic.lock().inject_ppi(vcpu, intid.0);
    system.apply(partition, &effects);
    true
}

/// Puts `lists` into the CPU's virtual interface, of which the first `before` may hold something. Returns how many do now.
pub fn load(lists: &LrState, before: usize) -> usize {
    let filled = &lists.lr[..lists.count];
    let used = filled
        .iter()
        .rposition(|&lr| lr != 0)
        .map_or(0, |at| at + 1);
    for (index, &lr) in filled.iter().enumerate().take(used.max(before)) {
        ich::write_lr(index, ListRegister(lr));
    }
    ich::set_hcr(Hcr(lists.hcr));
    used
}

/// Takes the first `used` out again, with what the guest did to them. It cannot fill one that was empty.
pub fn store(lists: &mut LrState, used: usize) {
    for index in 0..used {
        lists.lr[index] = ich::read_lr(index).0;
    }
    lists.hcr = ich::hcr().0;
    lists.vmcr = ich::vmcr().0;
    ich::set_hcr(Hcr(0));
}
