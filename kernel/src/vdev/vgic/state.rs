//! What happens to an interrupt: from devices, from other CPUs, by registers, by a reset.

use super::irq::{Irq, NO_CPU, Place};
use super::spec::{LpiProperty, gicd, vmcr};
use super::{Action, Cpu, Effects, PRIVATE, Vgic};
use crate::vdev::CpuSet;

/// The register by which a guest sends an SGI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiRegister {
    /// `ICC_SGI0R_EL1`: reaches SGIs of Group 0.
    Sgi0r,
    /// `ICC_SGI1R_EL1`: reaches SGIs of either group, as there is one security state.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`: the other security state's Group 1 is Group 0 here.
    Asgi1r,
}

impl Vgic {
    /// An edge on SPI `intid`; if it is linked, its physical interrupt, now active. Unknown numbers do nothing.
    // Inlined, like the next: the effects are made where they are used, and not copied.
    #[inline(always)]
    pub fn inject_spi(&mut self, intid: u32) -> Effects {
        let mut effects = Effects::default();
        self.inject(self.spi(intid), &mut effects);
        effects
    }

    /// The same for private `intid` of `cpu`.
    #[inline(always)]
    pub fn inject_ppi(&mut self, cpu: usize, intid: u32) -> Effects {
        let mut effects = Effects::default();
        self.inject(self.private(cpu, intid), &mut effects);
        effects
    }

    /// The LPI mapped to `slot` becomes pending.
    pub fn inject_lpi(&mut self, slot: usize) -> CpuSet {
        let mut effects = Effects::default();
        let id = self.lpi(slot).filter(|&id| self.irqs[id].intid != 0);
        self.inject(id, &mut effects);
        effects.kick
    }

    /// A virtual device drives the input of SPI `intid`. The guest chose whether the level or its rise matters.
    pub fn set_line(&mut self, intid: u32, high: bool) -> CpuSet {
        self.drive(self.spi(intid), high)
    }

    /// The same for private `intid` of `cpu`.
    pub fn set_ppi_line(&mut self, cpu: usize, intid: u32, high: bool) -> CpuSet {
        self.drive(self.private(cpu, intid), high)
    }

    fn drive(&mut self, id: Option<usize>, high: bool) -> CpuSet {
        let mut effects = Effects::default();
        if let Some(id) = id {
            let irq = &mut self.irqs[id];
            if irq.line != high {
                irq.latch |= high && irq.edge;
                irq.line = high;
                self.update(id, &mut effects);
            }
        }
        effects.kick
    }

    fn inject(&mut self, id: Option<usize>, effects: &mut Effects) {
        if let Some(id) = id {
            let irq = &mut self.irqs[id];
            irq.latch = true;
            irq.physical_active |= irq.physical.is_some();
            self.update(id, effects);
        }
    }

    /// `cpu` wrote `value` to a register that sends SGIs (§12.2).
    pub fn write_sgi(&mut self, cpu: usize, register: SgiRegister, value: u64) -> CpuSet {
        let intid = (value >> 24 & 0xf) as u32;
        let all_others = value >> 40 & 1 != 0;
        let cluster =
            (value >> 16 & 0xff) << 8 | (value >> 32 & 0xff) << 16 | (value >> 48 & 0xff) << 24;
        let row = value >> 44 & 0xf;
        let mut effects = Effects::default();
        for target in 0..self.cpus.len() {
            let affinity = u64::from(self.cpus[target].affinity);
            let listed = affinity & !0xff == cluster
                && affinity >> 4 & 0xf == row
                && value >> (affinity & 0xf) & 1 != 0;
            let wanted = if all_others { target != cpu } else { listed };
            let id = target * PRIVATE + intid as usize;
            if wanted && (register == SgiRegister::Sgi1r || !self.irqs[id].group1) {
                self.irqs[id].latch = true;
                self.update(id, &mut effects);
            }
        }
        effects.kick
    }

    /// `cpu` wrote `intid` to `ICC_DIR_EL1`, which [`Vgic::flush`] has trapped because a list register might not do.
    pub fn write_dir(&mut self, cpu: usize, intid: u32) -> Effects {
        let mut effects = Effects::default();
        let split = self
            .cpus
            .get(cpu)
            .is_some_and(|c| c.vmcr & vmcr::EOI_MODE != 0);
        match self.private(cpu, intid).or_else(|| self.spi(intid)) {
            Some(id) if split => self.set_active(id, cpu, false, &mut effects),
            _ => self.refuse(),
        }
        effects
    }

    pub(super) fn set_pending(&mut self, id: usize, pending: bool, effects: &mut Effects) {
        let irq = &mut self.irqs[id];
        irq.latch = pending;
        irq.cancel_pending |= !pending && irq.is_resident();
        self.update(id, effects);
    }

    pub(super) fn set_active(
        &mut self,
        id: usize,
        cpu: usize,
        active: bool,
        effects: &mut Effects,
    ) {
        let irq = &mut self.irqs[id];
        if irq.is_resident() {
            irq.force_active = active;
            irq.cancel_active = !active;
        } else if active != irq.active {
            irq.active = active;
            if active {
                irq.owner = if irq.target == NO_CPU {
                    cpu as u8
                } else {
                    irq.target
                };
                irq.active_priority = irq.priority;
            }
        }
        self.update(id, effects);
    }

    pub(super) fn set_enabled(&mut self, id: usize, enabled: bool, effects: &mut Effects) {
        let irq = &mut self.irqs[id];
        if irq.enabled == enabled {
            return;
        }
        irq.enabled = enabled;
        if !enabled && irq.is_resident() {
            self.stale = self.stale.union(CpuSet::one(usize::from(irq.resident)));
        }
        if let Some(physical) = self.physical(id) {
            effects.act(if enabled {
                Action::Enable(physical, self.destination(id))
            } else {
                Action::Disable(physical)
            });
        }
        self.update(id, effects);
    }

    /// `IROUTER`: what is pending moves along, what is active stays where it was acknowledged.
    pub(super) fn set_route(&mut self, id: usize, route: u64, effects: &mut Effects) {
        self.irqs[id].route = route & (gicd::IROUTER_ANY | gicd::IROUTER_AFFINITY);
        self.irqs[id].target = self.routed(self.irqs[id].route);
        if let Some(physical) = self.physical(id) {
            effects.act(Action::Route(physical, self.destination(id)));
        }
        self.update(id, effects);
    }

    /// Any CPU may take a 1-of-N interrupt, so the first one does.
    fn routed(&self, route: u64) -> u8 {
        let any = route & gicd::IROUTER_ANY != 0;
        let fits = |cpu: &Cpu| cpu.route() == route & gicd::IROUTER_AFFINITY;
        if any {
            0
        } else {
            self.cpus
                .iter()
                .position(fits)
                .map_or(NO_CPU, |cpu| cpu as u8)
        }
    }

    /// After any change of `id`: ends a physical interrupt that nothing will end, puts `id` into the set where it
    /// belongs, and kicks who has to know.
    pub(super) fn update(&mut self, id: usize, effects: &mut Effects) {
        let irq = &mut self.irqs[id];
        if irq.is_resident() {
            effects.kick(irq.resident);
            return;
        }
        if irq.orphaned() {
            irq.latch = false;
            irq.physical_active = false;
            if let Some(physical) = self.physical(id) {
                effects.act(Action::Deactivate(physical));
            }
        }
        let place = self.irqs[id].place();
        self.put(id, place);
        if let Place::Ready(cpu) = place {
            effects.kick(cpu);
        }
    }

    pub(super) fn put(&mut self, id: usize, place: Place) {
        let local = self.local(id);
        let old = core::mem::replace(&mut self.irqs[id].place, place);
        if old == place {
            return;
        }
        match old {
            Place::Ready(cpu) => self.cpus[usize::from(cpu)].ready.remove(local),
            Place::Held(cpu) => self.cpus[usize::from(cpu)].held.remove(local),
            Place::Nowhere => {}
        }
        match place {
            Place::Ready(cpu) => self.cpus[usize::from(cpu)].ready.insert(local),
            Place::Held(cpu) => self.cpus[usize::from(cpu)].held.insert(local),
            Place::Nowhere => {}
        }
    }

    pub(super) fn lpi(&self, slot: usize) -> Option<usize> {
        let id = self.first_lpi().checked_add(slot)?;
        (id < self.irqs.len()).then_some(id)
    }

    /// Maps LPI `intid` to `slot`, for `cpu`. What the slot's last LPI left in a list register is forgotten.
    pub fn map_lpi(
        &mut self,
        slot: usize,
        intid: u32,
        cpu: usize,
        property: LpiProperty,
    ) -> CpuSet {
        let kick = self.unmap_lpi(slot);
        if let Some(id) = self.lpi(slot) {
            self.irqs[id].intid = intid;
            self.irqs[id].target = cpu as u8;
        }
        kick.union(self.set_lpi(slot, property))
    }

    /// Unmaps what is mapped to `slot`; it is no longer pending.
    pub fn unmap_lpi(&mut self, slot: usize) -> CpuSet {
        let mut effects = Effects::default();
        if let Some(id) = self.lpi(slot) {
            let irq = &mut self.irqs[id];
            irq.intid = 0;
            irq.target = NO_CPU;
            irq.enabled = false;
            irq.active = false;
            irq.cancel_active = irq.is_resident();
            self.set_pending(id, false, &mut effects);
        }
        effects.kick
    }

    /// The property of the LPI in `slot` was read again.
    pub fn set_lpi(&mut self, slot: usize, property: LpiProperty) -> CpuSet {
        let mut effects = Effects::default();
        if let Some(id) = self.lpi(slot) {
            self.irqs[id].enabled = property.enabled();
            self.irqs[id].priority = property.priority();
            self.irqs[id].group1 = true;
            self.irqs[id].edge = true;
            self.update(id, &mut effects);
        }
        effects.kick
    }

    /// The LPI in `slot` goes to `cpu` from now on, with its pending state.
    pub fn move_lpi(&mut self, slot: usize, cpu: usize) -> CpuSet {
        let mut effects = Effects::default();
        if let Some(id) = self.lpi(slot).filter(|&id| self.irqs[id].intid != 0) {
            self.irqs[id].target = cpu as u8;
            self.update(id, &mut effects);
        }
        effects.kick
    }

    /// All LPIs of `from` go to `to`.
    pub fn move_lpis(&mut self, from: usize, to: usize) -> CpuSet {
        let mut kick = CpuSet::NONE;
        for slot in 0..self.irqs.len() - self.first_lpi() {
            if usize::from(self.irqs[self.first_lpi() + slot].target) == from {
                kick = kick.union(self.move_lpi(slot, to));
            }
        }
        kick
    }

    /// The LPI in `slot` is no longer pending.
    pub fn clear_lpi(&mut self, slot: usize) -> CpuSet {
        let mut effects = Effects::default();
        if let Some(id) = self.lpi(slot) {
            self.set_pending(id, false, &mut effects);
        }
        effects.kick
    }

    /// The LPI configuration table (address, width of INTIDs), once a CPU has enabled LPIs. All redistributors share
    /// it (`GICR_TYPER.CommonLPIAff` is zero).
    pub fn lpi_table(&self) -> Option<(u64, u32)> {
        self.cpus.iter().find_map(Cpu::lpi_table)
    }

    /// The CPU was powered off, and with it what drives its linked PPIs, so that none of these is pending any more. Its
    /// CPU interface forgets, its redistributor does not. After [`Vgic::sync`].
    pub fn reset_interface(&mut self, cpu: usize) -> Effects {
        let mut effects = Effects::default();
        let Some(c) = self.cpus.get_mut(cpu) else {
            return effects;
        };
        c.vmcr = 0;
        for id in cpu * PRIVATE..(cpu + 1) * PRIVATE {
            if self.irqs[id].physical.is_some() && !self.irqs[id].edge {
                self.set_pending(id, false, &mut effects);
            }
        }
        effects
    }

    /// Resets the redistributor of `cpu`, with all SGIs and PPIs; their links stay. The vCPU is out of the guest, and
    /// its list registers will not be used again. LPIs are unmapped by the ITS's own reset.
    pub fn reset_redistributor(&mut self, cpu: usize) -> Effects {
        let mut effects = Effects::default();
        if cpu >= self.cpus.len() {
            return effects;
        }
        self.recall(cpu, &mut effects);
        for id in cpu * PRIVATE..(cpu + 1) * PRIVATE {
            self.reset_irq(id, cpu as u8, &mut effects);
        }
        self.set_lpis_enabled(cpu, false, &mut effects);
        let c = &mut self.cpus[cpu];
        c.asleep = true;
        c.propbaser = 0;
        c.pendbaser = 0;
        c.vmcr = 0;
        effects
    }

    /// Resets the distributor, with all SPIs; their links stay, and so do the lines that devices drive. All
    /// redistributors have been reset.
    pub fn reset_distributor(&mut self) -> Effects {
        let mut effects = Effects::default();
        self.groups = 0;
        for id in self.first_spi()..self.first_lpi() {
            let target = self.routed(0);
            self.reset_irq(id, target, &mut effects);
        }
        effects
    }

    fn reset_irq(&mut self, id: usize, target: u8, effects: &mut Effects) {
        let old = &mut self.irqs[id];
        let was_enabled = core::mem::replace(&mut old.enabled, false);
        old.latch = false;
        old.active = false;
        let fresh = Irq {
            place: old.place,
            line: old.line,
            physical: old.physical,
            physical_active: old.physical_active,
            ..Irq::new(old.intid, target)
        };
        self.irqs[id] = fresh;
        if let Some(physical) = self.physical(id)
            && was_enabled
        {
            effects.act(Action::Disable(physical));
        }
        self.update(id, effects);
    }

    /// `GICR_CTLR.EnableLPIs`. Turning it off forgets what is pending: the pending table is the guest's, and nothing
    /// in it is read back.
    pub(super) fn set_lpis_enabled(&mut self, cpu: usize, enabled: bool, effects: &mut Effects) {
        if self.cpus[cpu].lpis_enabled == enabled {
            return;
        }
        self.cpus[cpu].lpis_enabled = enabled;
        effects.reload_lpis |= enabled;
        effects.kick(cpu as u8);
        if !enabled {
            for id in self.first_lpi()..self.irqs.len() {
                if usize::from(self.irqs[id].target) == cpu {
                    self.set_pending(id, false, effects);
                }
            }
        }
    }
}
