//! In and out of list registers (IHI 0069, §6.2): folded back after an exit, filled before an entry.

use super::irq::{Irq, NO_CPU, Place};
use super::spec::{Lr, MAX_LRS, hcr, vmcr};
use super::{Cpu, Effects, Vgic};
use crate::vdev::CpuSet;

/// The part of a CPU's virtual interface that this model reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LrState {
    /// `ICH_LR<n>_EL2`.
    pub lr: [u64; MAX_LRS],
    /// Those below may hold something; the others are empty.
    pub used: usize,
    /// How many of them there are: `ICH_VTR_EL2.ListRegs` plus one.
    pub count: usize,
    /// `ICH_HCR_EL2`: read for `EOIcount`, written whole.
    pub hcr: u64,
    /// `ICH_VMCR_EL2`: only read.
    pub vmcr: u64,
}

/// An interrupt, by what it is to whoever raises it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// A private one of the vCPU, by its INTID.
    Ppi(u32),
    /// A shared one, by its INTID.
    Spi(u32),
    /// The LPI that is mapped to this slot.
    Lpi(u32),
}

/// What [`Vgic::renew`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewed {
    /// Nothing: it has to be injected.
    No,
    /// It is pending in its list register: one more makes no difference.
    Pending,
    /// This list register is to hold this.
    Fill(usize, u64),
}

/// The most urgent few of many.
struct Best {
    /// Key and interrupt, the smallest key first.
    list: heapless::Vec<(u32, usize), MAX_LRS>,
    limit: usize,
    /// Some did not fit.
    more: bool,
}

impl Best {
    fn new(limit: usize) -> Self {
        Self {
            list: heapless::Vec::new(),
            limit,
            more: false,
        }
    }

    fn offer(&mut self, key: u32, id: usize) {
        // Nearly always the first one.
        if self.list.is_empty() && self.limit > 0 {
            let _ = self.list.push((key, id));
            return;
        }
        let at = self.list.partition_point(|&(other, _)| other <= key);
        if self.list.len() >= self.limit {
            self.more = true;
            if at >= self.limit {
                return;
            }
            self.list.pop();
        }
        // There is room: `limit` is at most the capacity, and a full list has just lost its last.
        let _ = self.list.insert(at, (key, id));
    }

    fn shrink(&mut self, limit: usize) {
        self.more |= self.list.len() > limit;
        self.list.truncate(limit);
    }
}

/// Whether a distributor with these `groups` enabled and the redistributor of `cpu` forward `irq`, which is an LPI or not.
#[inline(always)]
fn is_forwarded(groups: u32, cpu: &Cpu, irq: &Irq, lpi: bool) -> bool {
    groups >> u32::from(irq.group1) & 1 != 0 && (!lpi || cpu.lpis_enabled)
}

/// Lower priorities first, then lower INTIDs.
const fn urgency(priority: u8, intid: u32) -> u32 {
    (priority as u32) << 16 | (intid & 0xffff)
}

impl Vgic {
    /// After an exit of `cpu`, before anything else here on its behalf: takes back what its list registers hold. Every
    /// maintenance interrupt is handled by this and the next [`Vgic::flush`].
    ///
    /// What follows is added to `effects`: returned, it would be copied at every exit, 2 KiB and nearly always empty. The
    /// kicks are for other vCPUs; this one gets its share at the flush.
    pub fn sync(&mut self, cpu: usize, state: &mut LrState, effects: &mut Effects) {
        let Some(c) = self.cpus.get_mut(cpu) else {
            return;
        };
        c.vmcr = state.vmcr;
        (c.used, c.room) = (0, 0);
        self.stale.0 &= !CpuSet::one(cpu).0;
        // First, as it counts ends of interrupts that were in no list register while the guest ran.
        for _ in 0..state.hcr >> hcr::EOI_COUNT & 0x1f {
            self.end_held(cpu, effects);
        }
        state.hcr &= !(0x1f << hcr::EOI_COUNT);
        let used = core::mem::take(&mut state.used);
        for (index, lr) in state.lr.iter_mut().enumerate().take(used) {
            let lr = core::mem::take(lr);
            if let Some((id, _)) = self.cpus[cpu].filled[index].take() {
                self.fold(cpu, id, Lr(lr), effects);
            }
        }
        effects.kick.0 &= !CpuSet::one(cpu).0;
    }

    /// The last thing before `cpu` enters the guest: fills its list registers with what is active and what is most
    /// urgent. If more waits than fits, a maintenance interrupt brings the CPU back once the guest has taken these.
    pub fn flush(&mut self, cpu: usize, state: &mut LrState) {
        let count = state.count.min(MAX_LRS);
        state.used = 0;
        state.hcr = hcr::EN;
        let Some(c) = self.cpus.get_mut(cpu) else {
            return;
        };
        c.room = count;
        debug_assert!(
            c.filled.iter().all(Option::is_none),
            "sync comes before flush"
        );
        let split = c.vmcr & vmcr::EOI_MODE != 0;
        if split && self.cpus.len() > 1 {
            // An SPI may be deactivated by a CPU that did not acknowledge it, and only its list register would know.
            state.hcr |= hcr::TDIR;
        }
        let c = &self.cpus[cpu];
        if c.ready.is_empty() && c.held.is_empty() {
            return;
        }

        let mut pending = Best::new(count);
        for id in c.ready.iter().map(|local| self.global(cpu, local)) {
            if self.forwarded(cpu, id) {
                pending.offer(urgency(self.irqs[id].priority, self.irqs[id].intid), id);
            }
        }
        // One list register stays free for what is pending: it may be more urgent than all that is active.
        let reserve = usize::from(!pending.list.is_empty());
        let mut active = Best::new(count.saturating_sub(reserve));
        for id in c.held.iter().map(|local| self.global(cpu, local)) {
            active.offer(
                urgency(self.irqs[id].active_priority, self.irqs[id].intid),
                id,
            );
        }
        pending.shrink(count - active.list.len());

        let mut index = 0;
        for &(_, id) in &active.list {
            self.fill_active(cpu, index, id, state);
            index += 1;
        }
        for &(_, id) in &pending.list {
            self.fill_pending(cpu, index, id, state);
            index += 1;
        }
        state.used = index;
        self.cpus[cpu].used = index;
        if pending.more {
            state.hcr |= hcr::NPIE;
        }
        if !self.cpus[cpu].held.is_empty() {
            self.drop_active_lpis(cpu);
            if !self.cpus[cpu].held.is_empty() {
                state.hcr |= hcr::LRENPIE | hcr::TDIR;
            }
        }
    }

    /// `line` comes: an edge, a message, or its physical interrupt, now active. `cpu` is the caller's own and out of its guest
    /// with its list registers as they are: if nothing else waits there, the interrupt's own is filled again once the guest is
    /// through with it, or one that is free, right there. `now` reads a list register.
    ///
    /// What [`Vgic::sync`], an injection and [`Vgic::flush`] would come to, at a tenth of the price: the way of nearly every
    /// interrupt of a device or a timer.
    pub fn renew(&mut self, cpu: usize, line: Line, now: impl FnOnce(usize) -> u64) -> Renewed {
        let id = match line {
            Line::Ppi(intid) => self.private(cpu, intid),
            Line::Spi(intid) => self.spi(intid),
            Line::Lpi(slot) => self.lpi(slot as usize),
        };
        let Some(id) = id else {
            return Renewed::No;
        };
        let lpi = id >= self.first_lpi();
        let (Some(c), Some(irq)) = (self.cpus.get_mut(cpu), self.irqs.get_mut(id)) else {
            return Renewed::No;
        };
        let forwarded = is_forwarded(self.groups, c, irq, lpi);
        // Whoever waits for a list register has to be served in the order of priorities.
        let alone = c.ready.is_empty() && c.held.is_empty();
        let settled = !(irq.latch
            || irq.active
            || irq.physical_active
            || irq.cancel_pending
            || irq.cancel_active
            || irq.force_active);
        // A level is the guest's to look at anew, unless the machine's own interrupt controller keeps it.
        let pulse = irq.edge || irq.physical.is_some();
        let wanted = irq.enabled && pulse && usize::from(irq.target) == cpu;
        if !(forwarded && alone && settled && wanted) {
            return Renewed::No;
        }
        let index = if irq.is_resident() {
            let filled = |entry: &Option<(usize, Lr)>| entry.is_some_and(|(of, _)| of == id);
            let Some(index) = c.filled.iter().position(filled) else {
                return Renewed::No;
            };
            let old = Lr(now(index));
            if old.pending() && irq.physical.is_none() {
                return Renewed::Pending;
            }
            if old.pending() || old.active() {
                return Renewed::No;
            }
            index
        } else if c.used < c.room {
            c.used
        } else {
            return Renewed::No;
        };
        let mut lr = Lr::new(irq.intid, irq.priority, irq.group1).with_pending();
        if let Some(physical) = irq.physical {
            lr = lr.with_physical(physical);
        }
        irq.resident = cpu as u8;
        irq.lr_latch = true;
        irq.lr_pending = true;
        irq.lr_active = false;
        c.filled[index] = Some((id, lr));
        c.used = c.used.max(index + 1);
        Renewed::Fill(index, lr.0)
    }

    /// List registers of `cpu` that may hold something: those below.
    pub fn used(&self, cpu: usize) -> usize {
        self.cpus.get(cpu).map_or(0, |c| c.used)
    }

    /// Whether an interrupt waits that the guest's CPU interface would signal, so that `WFI` ends. As of the last
    /// [`Vgic::sync`]; priorities that are running are not looked at, as `WFI` may end early.
    pub fn pending(&self, cpu: usize) -> bool {
        let Some(c) = self.cpus.get(cpu) else {
            return false;
        };
        let mask = (c.vmcr >> vmcr::PRIORITY_MASK) as u8;
        c.ready
            .iter()
            .map(|local| self.global(cpu, local))
            .any(|id| {
                let irq = &self.irqs[id];
                let group = if irq.group1 {
                    vmcr::GROUP1
                } else {
                    vmcr::GROUP0
                };
                self.forwarded(cpu, id) && c.vmcr & group != 0 && irq.priority < mask
            })
    }

    /// Takes back what was filled into list registers that never reached the guest, or never will again.
    pub(super) fn recall(&mut self, cpu: usize, effects: &mut Effects) {
        self.stale.0 &= !CpuSet::one(cpu).0;
        (self.cpus[cpu].used, self.cpus[cpu].room) = (0, 0);
        for index in 0..MAX_LRS {
            if let Some((id, lr)) = self.cpus[cpu].filled[index].take() {
                self.fold(cpu, id, lr, effects);
            }
        }
    }

    /// Whether the distributor and the redistributor of `cpu` forward `id` at all.
    fn forwarded(&self, cpu: usize, id: usize) -> bool {
        let lpi = id >= self.first_lpi();
        is_forwarded(self.groups, &self.cpus[cpu], &self.irqs[id], lpi)
    }

    fn fold(&mut self, cpu: usize, id: usize, lr: Lr, effects: &mut Effects) {
        let irq = &mut self.irqs[id];
        irq.resident = NO_CPU;
        irq.physical_active |= lr.physical().is_some() && (lr.pending() || lr.active());
        irq.latch |= lr.pending() && irq.lr_latch && !irq.cancel_pending;
        irq.active = irq.force_active || (lr.active() && !irq.cancel_active);
        if irq.active {
            irq.owner = cpu as u8;
            irq.active_priority = lr.priority();
        }
        irq.lr_latch = false;
        irq.lr_pending = false;
        irq.lr_active = false;
        irq.cancel_pending = false;
        irq.cancel_active = false;
        irq.force_active = false;
        self.update(id, effects);
    }

    /// The guest ended an interrupt that was in no list register: with `EOImode` 0 the running one, so the most urgent.
    fn end_held(&mut self, cpu: usize, effects: &mut Effects) {
        let held = self.cpus[cpu]
            .held
            .iter()
            .map(|local| self.global(cpu, local));
        let key = |&id: &usize| urgency(self.irqs[id].active_priority, self.irqs[id].intid);
        if let Some(id) = held.min_by_key(key) {
            self.irqs[id].active = false;
            self.update(id, effects);
        }
    }

    /// An LPI has no active state; a CPU interface that gives it one all the same does not count its end without a
    /// list register, so it must not wait for that.
    fn drop_active_lpis(&mut self, cpu: usize) {
        let mut left = heapless::Vec::<usize, MAX_LRS>::new();
        for id in self.cpus[cpu]
            .held
            .iter()
            .map(|local| self.global(cpu, local))
        {
            if id >= self.first_lpi() && left.push(id).is_err() {
                break;
            }
        }
        for id in left {
            self.irqs[id].active = false;
            // It may be ready again, on this CPU, for the next flush; nobody else has to know.
            self.update(id, &mut Effects::default());
        }
    }

    fn fill_active(&mut self, cpu: usize, index: usize, id: usize, state: &mut LrState) {
        let forwarded = self.forwarded(cpu, id);
        let irq = &mut self.irqs[id];
        let signalled = irq.enabled && forwarded && irq.pending() && usize::from(irq.target) == cpu;
        let mut lr = Lr::new(irq.intid, irq.active_priority, irq.group1).with_active();
        match irq.physical {
            Some(physical) if irq.physical_active && !irq.latch => {
                lr = lr.with_physical(physical);
                irq.physical_active = false;
            }
            None if signalled && irq.edge => {
                lr = lr.with_pending();
                irq.lr_latch = core::mem::take(&mut irq.latch);
            }
            // Pending again comes after the deactivation: a level is looked at anew then, a physical interrupt must
            // not be pending and active at once (§12.4), and what is for another CPU goes there.
            _ if irq.pending() => lr = lr.with_eoi(),
            _ => {}
        }
        irq.active = false;
        self.fill(cpu, index, id, lr, state);
    }

    fn fill_pending(&mut self, cpu: usize, index: usize, id: usize, state: &mut LrState) {
        let irq = &mut self.irqs[id];
        let mut lr = Lr::new(irq.intid, irq.priority, irq.group1).with_pending();
        match irq.physical {
            Some(physical) if irq.physical_active => {
                lr = lr.with_physical(physical);
                irq.physical_active = false;
            }
            _ if !irq.edge => lr = lr.with_eoi(),
            _ => {}
        }
        irq.lr_latch = core::mem::take(&mut irq.latch);
        self.fill(cpu, index, id, lr, state);
    }

    fn fill(&mut self, cpu: usize, index: usize, id: usize, lr: Lr, state: &mut LrState) {
        let irq = &mut self.irqs[id];
        irq.resident = cpu as u8;
        irq.lr_pending = lr.pending();
        irq.lr_active = lr.active();
        self.put(id, Place::Nowhere);
        self.cpus[cpu].filled[index] = Some((id, lr));
        state.lr[index] = lr.0;
    }
}
