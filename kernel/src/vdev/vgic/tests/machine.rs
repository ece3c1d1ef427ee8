//! A partition's CPUs with their interfaces and the physical GIC, run as the kernel core runs them: exit, fold, do
//! something, fill, enter; who is kicked follows.

use super::interface::{Deactivation, Interface};
use crate::vdev::vgic::spec::gicr;
use crate::vdev::vgic::{Action, Effects, Line, Renewed, Vgic};
use crate::vdev::{CpuSet, vgic};

/// One physical interrupt.
#[derive(Clone, Default, Debug)]
pub struct Wire {
    pub edge: bool,
    pub high: bool,
    pub pending: bool,
    pub enabled: bool,
    pub active: bool,
}

pub struct Machine {
    pub vgic: Vgic,
    pub cpus: Vec<Interface>,
    /// Physical SPIs, by INTID less 32; the virtual number is the same.
    pub wires: Vec<Wire>,
    /// Kicks that have not arrived.
    pub kicked: CpuSet,
    /// Kicks arrive at once.
    pub prompt: bool,
    /// Exits so far.
    pub exits: usize,
    /// Interrupts that took the short way.
    pub renewed: usize,
}

impl Machine {
    /// Groups on; all private interrupts and SPIs in Group 1, enabled, priority 0xa0, to CPU 0; LPIs on.
    pub fn new(cpus: usize, lrs: usize, lpi_slots: usize) -> Self {
        let affinities: Vec<u32> = (0..cpus as u32).collect();
        let mut machine = Self {
            vgic: Vgic::new(&affinities, lpi_slots).unwrap(),
            cpus: (0..cpus).map(|_| Interface::new(lrs)).collect(),
            wires: vec![Wire::default(); 96],
            kicked: CpuSet::NONE,
            prompt: true,
            exits: 0,
            renewed: 0,
        };
        for cpu in 0..cpus {
            machine.enter(cpu);
        }
        machine.distributor(0, 0x0, 4, 0x13);
        for word in 1..4 {
            machine.distributor(0, 0x80 + 4 * word, 4, 0xffff_ffff);
            machine.distributor(0, 0x100 + 4 * word, 4, 0xffff_ffff);
        }
        for word in 8..32 {
            machine.distributor(0, 0x400 + 4 * word, 4, 0xa0a0_a0a0);
        }
        for cpu in 0..cpus {
            machine.redistributor(cpu, gicr::CTLR, 4, 1);
            machine.redistributor(cpu, 0x1_0080, 4, 0xffff_ffff);
            machine.redistributor(cpu, 0x1_0100, 4, 0xffff_ffff);
            for word in 0..8 {
                machine.redistributor(cpu, 0x1_0400 + 4 * word, 4, 0xa0a0_a0a0);
            }
        }
        machine
    }

    /// `cpu` writes the distributor.
    pub fn distributor(&mut self, cpu: usize, offset: u64, size: u8, value: u64) {
        self.on(cpu, |vgic| vgic.write_distributor(cpu, offset, size, value));
    }

    /// `cpu` writes its redistributor.
    pub fn redistributor(&mut self, cpu: usize, offset: u64, size: u8, value: u64) {
        let offset = cpu as u64 * 0x2_0000 + offset;
        self.on(cpu, |vgic| vgic.write_redistributor(offset, size, value));
    }

    /// Something that `cpu` does itself, between an exit and an entry.
    pub fn on(&mut self, cpu: usize, act: impl FnOnce(&mut Vgic) -> Effects) {
        self.exit(cpu);
        let effects = act(&mut self.vgic);
        self.apply(&effects);
        self.enter(cpu);
        self.settle();
    }

    /// Something that happens beside the CPUs, on another one.
    pub fn beside(&mut self, act: impl FnOnce(&mut Vgic) -> CpuSet) {
        let kick = act(&mut self.vgic);
        self.kicked = self.kicked.union(kick);
        self.settle();
    }

    /// `line` comes to the CPU that it is for, which looks at its list registers first. Whether that was all.
    fn renew(&mut self, line: Line) -> bool {
        for cpu in 0..self.cpus.len() {
            let state = &mut self.cpus[cpu].state;
            match self.vgic.renew(cpu, line, |index| state.lr[index]) {
                Renewed::No => {}
                Renewed::Pending => return true,
                Renewed::Fill(index, lr) => {
                    state.lr[index] = lr;
                    self.renewed += 1;
                    self.cpus[cpu].check();
                    return true;
                }
            }
        }
        false
    }

    /// A message for the LPI in `slot` arrives.
    pub fn message(&mut self, slot: usize) {
        if !self.renew(Line::Lpi(slot as u32)) {
            self.beside(|vgic| vgic.inject_lpi(slot));
        }
    }

    /// An edge on SPI `intid`, taken as a physical one is.
    pub fn edge(&mut self, intid: u32) {
        if !self.renew(Line::Spi(intid)) {
            self.beside(|vgic| vgic.inject_spi(intid).kick);
        }
    }

    pub fn exit(&mut self, cpu: usize) {
        self.exits += 1;
        self.cpus[cpu].check();
        self.kicked.0 &= !CpuSet::one(cpu).0;
        let mut effects = Effects::default();
        let state = &mut self.cpus[cpu].state;
        state.used = self.vgic.used(cpu);
        self.vgic.sync(cpu, state, &mut effects);
        assert!(!effects.kick.contains(cpu), "its own flush follows");
        self.apply(&effects);
    }

    pub fn enter(&mut self, cpu: usize) {
        self.vgic.flush(cpu, &mut self.cpus[cpu].state);
        self.cpus[cpu].check();
    }

    fn apply(&mut self, effects: &Effects) {
        self.kicked = self.kicked.union(effects.kick);
        for action in &effects.physical {
            match *action {
                Action::Enable(physical, _) => self.wire(physical).enabled = true,
                Action::Route(..) => {}
                Action::Disable(physical) => self.wire(physical).enabled = false,
                Action::Deactivate(physical) => {
                    let wire = self.wire(physical);
                    assert!(wire.active, "{physical:?} is ended once");
                    wire.active = false;
                }
            }
        }
    }

    fn wire(&mut self, physical: vgic::Physical) -> &mut Wire {
        assert_eq!(physical.cpu, None);
        &mut self.wires[physical.intid as usize - 32]
    }

    /// Physical interrupts fire, kicks arrive and maintenance interrupts are taken, until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let fires = |wire: &Wire| {
                wire.enabled && !wire.active && (wire.pending || wire.high && !wire.edge)
            };
            if let Some(n) = self.wires.iter().position(fires) {
                self.wires[n].pending = false;
                self.wires[n].active = true;
                let intid = n as u32 + 32;
                if !self.renew(Line::Spi(intid)) {
                    let effects = self.vgic.inject_spi(intid);
                    self.apply(&effects);
                }
                continue;
            }
            let maintenance = (0..self.cpus.len()).find(|&cpu| self.cpus[cpu].maintenance());
            let kicked = self.kicked.iter().next().filter(|_| self.prompt);
            let Some(cpu) = maintenance.or(kicked) else {
                return;
            };
            self.exit(cpu);
            self.enter(cpu);
        }
        panic!("it never settles");
    }

    /// All outstanding kicks arrive.
    pub fn deliver(&mut self) {
        self.prompt = true;
        self.settle();
        self.prompt = false;
    }

    pub fn acknowledge(&mut self, cpu: usize) -> Option<(u32, u8)> {
        let taken = self.cpus[cpu].acknowledge();
        self.settle();
        taken
    }

    pub fn end(&mut self, cpu: usize, intid: u32) {
        let physical = self.cpus[cpu].end(intid);
        self.deactivated(physical);
    }

    /// The guest writes `ICC_DIR_EL1`.
    pub fn direct(&mut self, cpu: usize, intid: u32) {
        match self.cpus[cpu].direct(intid) {
            Deactivation::Done(physical) => self.deactivated(physical),
            Deactivation::Trapped => self.on(cpu, |vgic| vgic.write_dir(cpu, intid)),
        }
    }

    fn deactivated(&mut self, physical: Option<u32>) {
        if let Some(intid) = physical {
            let wire = &mut self.wires[intid as usize - 32];
            assert!(wire.active, "physical {intid} is ended once");
            wire.active = false;
        }
        self.settle();
    }

    /// Takes and ends everything that `cpu` is signalled, in order.
    pub fn drain(&mut self, cpu: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some((intid, _)) = self.acknowledge(cpu) {
            taken.push(intid);
            self.end(cpu, intid);
            if self.cpus[cpu].split() && intid < 8192 {
                self.direct(cpu, intid);
            }
            assert!(taken.len() < 1000, "an interrupt storm");
        }
        taken
    }
}
