//! Random sequences: nothing is lost, nothing comes twice, priorities order what comes.

use super::ideal::{Ideal, Line};
use super::machine::Machine;
use crate::vdev::vgic::SgiRegister;
use crate::vdev::vgic::spec::LpiProperty;
use proptest::prelude::*;

/// Interrupts under test: SGIs 0 to 3 of each CPU, SPIs 32 to 39 (the upper four linked to physical ones), LPIs.
const SGIS: u32 = 4;
const SPIS: u32 = 8;
const LINKED: u32 = 36;
const LPIS: u32 = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Edge(u32),
    Level(u32, bool),
    Sgi {
        from: usize,
        intid: u32,
        targets: u16,
    },
    Lpi(u32),
    Enable {
        cpu: usize,
        which: usize,
        on: bool,
    },
    Priority {
        cpu: usize,
        which: usize,
        priority: u8,
    },
    Route {
        cpu: usize,
        which: u32,
        to: usize,
    },
    MoveLpi(u32, usize),
    SetPending {
        cpu: usize,
        which: usize,
        on: bool,
    },
    Take(usize),
    End(usize),
    Deactivate(usize, usize),
    Exit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let cpu = 0..3usize;
    let which = 0..(SGIS + SPIS + LPIS) as usize;
    let priority = prop::sample::select(&[0x00u8, 0x10, 0x20, 0x80, 0xa0, 0xc0, 0xf0][..]);
    prop_oneof![
        3 => (32..32 + SPIS).prop_map(Step::Edge),
        3 => (32..32 + SPIS, any::<bool>()).prop_map(|(n, high)| Step::Level(n, high)),
        3 => (cpu.clone(), 0..SGIS, any::<u16>()).prop_map(|(from, intid, targets)| Step::Sgi { from, intid, targets }),
        3 => (0..LPIS).prop_map(Step::Lpi),
        2 => (cpu.clone(), which.clone(), any::<bool>()).prop_map(|(cpu, which, on)| Step::Enable { cpu, which, on }),
        2 => (cpu.clone(), which.clone(), priority)
            .prop_map(|(cpu, which, priority)| Step::Priority { cpu, which, priority }),
        2 => (cpu.clone(), 32..32 + SPIS, 0..3usize).prop_map(|(cpu, which, to)| Step::Route { cpu, which, to }),
        1 => (0..LPIS, cpu.clone()).prop_map(|(n, to)| Step::MoveLpi(n, to)),
        2 => (cpu.clone(), which, any::<bool>()).prop_map(|(cpu, which, on)| Step::SetPending { cpu, which, on }),
        10 => cpu.clone().prop_map(Step::Take),
        8 => cpu.clone().prop_map(Step::End),
        6 => (cpu.clone(), any::<usize>()).prop_map(|(cpu, n)| Step::Deactivate(cpu, n)),
        2 => cpu.prop_map(Step::Exit),
    ]
}

struct Pair {
    machine: Machine,
    ideal: Ideal,
}

impl Pair {
    fn new(cpus: usize, lrs: usize, split: bool) -> Self {
        let mut machine = Machine::new(cpus, lrs, LPIS as usize);
        let mut ideal = Ideal::default();
        for cpu in 0..cpus {
            machine.cpus[cpu].set_split(split);
            machine.exit(cpu);
            machine.enter(cpu);
            ideal.running.push(Vec::new());
            ideal.dropped.push(Vec::new());
            ideal
                .lines
                .extend((0..SGIS).map(|intid| line(intid, true, cpu)));
        }
        for intid in 32..32 + SPIS {
            // Even ones by edge.
            let edge = intid % 2 == 0;
            machine.distributor(0, 0xc00 + u64::from(intid / 16) * 4, 4, 0x2222_2222);
            machine.wires[intid as usize - 32].edge = edge;
            machine.wires[intid as usize - 32].enabled = intid >= LINKED;
            ideal.lines.push(line(intid, edge, 0));
        }
        for slot in 0..LPIS {
            machine.beside(|vgic| vgic.map_lpi(slot as usize, 8192 + slot, 0, LpiProperty(0xa1)));
            ideal.lines.push(line(8192 + slot, true, 0));
        }
        for intid in LINKED..32 + SPIS {
            machine.vgic.link_spi(intid, intid).unwrap();
        }
        Self { machine, ideal }
    }

    fn apply(&mut self, step: Step) {
        let cpus = self.machine.cpus.len();
        let machine = &mut self.machine;
        let ideal = &mut self.ideal;
        match step {
            Step::Edge(intid) if ideal.line(0, intid).edge => {
                let line = ideal.line(0, intid);
                if intid >= LINKED {
                    line.again |= line.latch || line.active;
                    machine.wires[intid as usize - 32].pending = true;
                    machine.settle();
                } else {
                    machine.edge(intid);
                }
                line.latch |= !line.again;
            }
            Step::Level(intid, high) if !ideal.line(0, intid).edge && intid < LINKED => {
                machine.beside(|vgic| vgic.set_line(intid, high));
                ideal.line(0, intid).high = high;
            }
            Step::Edge(_) | Step::Level(..) => {}
            Step::Sgi {
                from,
                intid,
                targets,
            } if from < cpus => {
                let value = u64::from(targets) | u64::from(intid) << 24;
                machine.on(from, |vgic| crate::vdev::vgic::Effects {
                    kick: vgic.write_sgi(from, SgiRegister::Sgi1r, value),
                    ..Default::default()
                });
                for cpu in (0..cpus).filter(|cpu| targets >> cpu & 1 != 0) {
                    ideal.line(cpu, intid).latch = true;
                }
            }
            Step::Lpi(slot) => {
                machine.message(slot as usize);
                ideal.line(0, 8192 + slot).latch = true;
            }
            Step::Enable { cpu, which, on } if cpu < cpus => {
                let intid = number(which);
                // Physical ones that are pending while disabled have a test of their own.
                match intid {
                    8192.. => {
                        let property = ideal.line(0, intid).priority | u8::from(on);
                        machine.beside(|vgic| {
                            vgic.set_lpi(intid as usize - 8192, LpiProperty(property))
                        });
                    }
                    LINKED..8192 => return,
                    _ => bit(machine, cpu, if on { 0x100 } else { 0x180 }, intid),
                }
                ideal.line(cpu, intid).enabled = on;
            }
            Step::Priority {
                cpu,
                which,
                priority,
            } if cpu < cpus => {
                let intid = number(which);
                // The priority of what runs is the one it was taken with; what waits behind it while active and
                // edge-triggered shares a list register, so it has that one too.
                let line = ideal.line(cpu, intid);
                if line.active {
                    return;
                }
                line.priority = priority;
                let enabled = line.enabled;
                match intid {
                    0..32 => machine.redistributor(
                        cpu,
                        0x1_0400 + u64::from(intid),
                        1,
                        u64::from(priority),
                    ),
                    32..8192 => {
                        machine.distributor(cpu, 0x400 + u64::from(intid), 1, u64::from(priority))
                    }
                    8192.. => {
                        let property = LpiProperty(priority | u8::from(enabled));
                        machine.beside(|vgic| vgic.set_lpi(intid as usize - 8192, property));
                    }
                }
            }
            Step::Route { cpu, which, to } if cpu < cpus && to < cpus => {
                machine.distributor(cpu, 0x6000 + 8 * u64::from(which), 8, to as u64);
                ideal.line(cpu, which).target = to;
            }
            Step::MoveLpi(slot, to) if to < cpus => {
                machine.beside(|vgic| vgic.move_lpi(slot as usize, to));
                ideal.line(0, 8192 + slot).target = to;
            }
            Step::SetPending { cpu, which, on } if cpu < cpus => {
                let intid = number(which);
                match intid {
                    LINKED..8192 => return,
                    8192.. if on => machine.beside(|vgic| vgic.inject_lpi(intid as usize - 8192)),
                    8192.. => machine.beside(|vgic| vgic.clear_lpi(intid as usize - 8192)),
                    _ => bit(machine, cpu, if on { 0x200 } else { 0x280 }, intid),
                }
                ideal.line(cpu, intid).latch = on;
            }
            Step::Take(cpu) if cpu < cpus => {
                let expected = ideal.signalled(cpu);
                match machine.acknowledge(cpu) {
                    Some((intid, priority)) => ideal.take(cpu, intid, priority),
                    None => assert_eq!(expected, None, "an interrupt is lost on {cpu}"),
                }
            }
            Step::End(cpu) if cpu < cpus => {
                if let Some((intid, _)) = ideal.running[cpu].pop() {
                    if machine.cpus[cpu].split() && intid < 8192 {
                        ideal.dropped[cpu].push(intid);
                    } else {
                        ideal.deactivate(cpu, intid);
                    }
                    machine.end(cpu, intid);
                }
            }
            Step::Deactivate(cpu, n) if cpu < cpus && !ideal.dropped[cpu].is_empty() => {
                let n = n % ideal.dropped[cpu].len();
                let intid = ideal.dropped[cpu].remove(n);
                ideal.deactivate(cpu, intid);
                // An SPI may be deactivated by any CPU.
                let by = if intid >= 32 { (cpu + n) % cpus } else { cpu };
                machine.direct(by, intid);
            }
            Step::Exit(cpu) if cpu < cpus => {
                machine.exit(cpu);
                machine.enter(cpu);
            }
            _ => {}
        }
    }

    /// Everything runs out: the same interrupts are left on both sides, and then none.
    fn finish(&mut self) {
        let cpus = self.machine.cpus.len();
        // Twice, as what one CPU deactivates may be pending for another.
        for cpu in (0..cpus).chain(0..cpus) {
            for _ in 0..100 {
                self.apply(Step::Take(cpu));
                self.apply(Step::End(cpu));
                self.apply(Step::Deactivate(cpu, 0));
                let level = self
                    .ideal
                    .lines
                    .iter()
                    .find(|l| l.high && !l.edge)
                    .map(|l| l.intid);
                if let Some(intid) = level {
                    self.apply(Step::Level(intid, false));
                }
            }
        }
        for cpu in 0..cpus {
            assert_eq!(self.ideal.signalled(cpu), None);
            assert!(!self.machine.cpus[cpu].signals());
            self.machine.exit(cpu);
            assert!(!self.machine.vgic.pending(cpu));
        }
        for wire in &self.machine.wires {
            assert!(!wire.active, "a physical interrupt stays active for good");
        }
    }
}

fn line(intid: u32, edge: bool, target: usize) -> Line {
    Line {
        intid,
        lpi: intid >= 8192,
        enabled: true,
        edge,
        priority: 0xa0,
        target,
        ..Line::default()
    }
}

fn number(which: usize) -> u32 {
    match which as u32 {
        n if n < SGIS => n,
        n if n < SGIS + SPIS => 32 + n - SGIS,
        n => 8192 + n - SGIS - SPIS,
    }
}

/// Writes the bit of `intid` in the register that starts at `offset`.
fn bit(machine: &mut Machine, cpu: usize, offset: u64, intid: u32) {
    let value = 1 << (intid % 32);
    if intid < 32 {
        machine.redistributor(cpu, 0x1_0000 + offset, 4, value);
    } else {
        machine.distributor(cpu, offset + 4 * u64::from(intid / 32), 4, value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400 * ProptestConfig::default().cases / 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn list_registers_do_what_a_gic_without_them_would(
        cpus in 1..4usize, lrs in 1..6usize, split: bool, steps in prop::collection::vec(step(), 1..150)
    ) {
        let mut pair = Pair::new(cpus, lrs, split);
        for step in steps {
            pair.apply(step);
        }
        pair.finish();
    }

    #[test]
    fn late_kicks_lose_and_invent_nothing(
        lrs in 1..5usize, steps in prop::collection::vec((0..3usize, 32..40u32, 0..8u8), 1..120)
    ) {
        let mut machine = Machine::new(3, lrs, 0);
        machine.distributor(0, 0xc08, 4, 0xaaaa_aaaa);
        machine.prompt = false;
        let mut sent = [0u32; 8];
        let mut taken = [0u32; 8];
        let mut open = [false; 8];
        let mut running: [Vec<u32>; 3] = Default::default();
        for (cpu, intid, what) in steps {
            let n = intid as usize - 32;
            match what {
                0 | 1 => {
                    machine.beside(|vgic| vgic.inject_spi(intid).kick);
                    sent[n] += 1;
                    open[n] = true;
                }
                2 => machine.distributor(cpu, 0x6000 + 8 * u64::from(intid), 8, u64::from(intid % 3)),
                3 => machine.distributor(cpu, 0x6000 + 8 * u64::from(intid), 8, u64::from((intid + 1) % 3)),
                4 => {
                    machine.exit(cpu);
                    machine.enter(cpu);
                }
                5 | 6 => {
                    if let Some((intid, _)) = machine.acknowledge(cpu) {
                        taken[intid as usize - 32] += 1;
                        open[intid as usize - 32] = false;
                        running[cpu].push(intid);
                    }
                }
                _ => {
                    if let Some(intid) = running[cpu].pop() {
                        machine.end(cpu, intid);
                    }
                }
            }
        }
        machine.deliver();
        machine.prompt = true;
        for (cpu, running) in running.iter_mut().enumerate() {
            while let Some(intid) = running.pop() {
                machine.end(cpu, intid);
            }
        }
        for cpu in [0, 1, 2, 0, 1, 2] {
            for intid in machine.drain(cpu) {
                taken[intid as usize - 32] += 1;
                open[intid as usize - 32] = false;
            }
        }
        for n in 0..8 {
            prop_assert!(taken[n] <= sent[n], "SPI {} came more often than it was sent", n + 32);
            prop_assert!(!open[n], "SPI {} is lost", n + 32);
        }
    }
}
