//! Local APICs as lists: what waits, what is in service, and by which words of the manual a message is for somebody.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Cpu {
    pub on: bool,
    pub task: u8,
    /// Vectors that wait.
    pub waiting: BTreeSet<u8>,
    /// Taken and not ended, the most urgent last.
    pub service: Vec<u8>,
    /// Whether the last request of a vector was level-triggered.
    pub level: BTreeMap<u8, bool>,
    pub logical: u8,
    pub flat: bool,
}

#[derive(Default)]
pub struct Ideal {
    pub cpus: Vec<Cpu>,
    /// x2APIC mode.
    pub wide: bool,
}

impl Ideal {
    /// Of whom a destination of the ICR speaks.
    pub fn addressed(&self, to: u32, logical: bool) -> Vec<usize> {
        let all = if self.wide { u32::MAX } else { 0xff };
        let is = |&cpu: &usize| match (to == all, logical, self.wide) {
            (true, ..) => true,
            (_, false, _) => to == cpu as u32,
            // Cluster in the upper half, one of sixteen in the lower.
            (_, true, true) => {
                to / 65536 == cpu as u32 / 16 && to % 65536 / 2u32.pow(cpu as u32 % 16) % 2 == 1
            }
            (_, true, false) => {
                let (to, own) = (to as u8, self.cpus[cpu].logical);
                if self.cpus[cpu].flat {
                    to & own > 0
                } else {
                    to / 16 == own / 16 && (to % 16) & (own % 16) > 0
                }
            }
        };
        (0..self.cpus.len()).filter(is).collect()
    }

    pub fn send(&mut self, to: &[usize], vector: u8, level: bool) {
        for &cpu in to {
            let cpu = &mut self.cpus[cpu];
            if cpu.on {
                cpu.waiting.insert(vector);
                cpu.level.insert(vector, level);
            }
        }
    }

    /// The class that a vector has to be above.
    pub fn priority(&self, cpu: usize) -> u8 {
        let cpu = &self.cpus[cpu];
        let service = cpu.service.iter().max().map_or(0, |vector| vector / 16);
        service.max(cpu.task / 16)
    }

    pub fn pending(&self, cpu: usize) -> Option<u8> {
        let above = |vector: &&u8| **vector / 16 > self.priority(cpu);
        self.cpus[cpu].waiting.iter().rev().find(above).copied()
    }

    pub fn take(&mut self, cpu: usize) -> Option<u8> {
        let vector = self.pending(cpu)?;
        self.cpus[cpu].waiting.remove(&vector);
        self.cpus[cpu].service.push(vector);
        Some(vector)
    }

    /// What an I/O APIC hears.
    pub fn end(&mut self, cpu: usize) -> Option<u8> {
        let vector = self.cpus[cpu].service.pop()?;
        self.cpus[cpu].level[&vector].then_some(vector)
    }
}
