//! Random sequences: what each processor takes, and in which order, is what lists would give it.

use super::ideal::{Cpu, Ideal};
use super::{Vlapics, store, x2apic, xapic};
use crate::vdev::CpuSet;
use crate::vdev::vlapic::{Destination, Message, Mode};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Ipi {
        from: usize,
        to: u32,
        logical: bool,
        shorthand: u64,
        vector: u8,
    },
    Device {
        to: u8,
        logical: bool,
        lowest: bool,
        level: bool,
        vector: u8,
    },
    Take(usize),
    End(usize),
    Task(usize, u8),
    Software(usize, bool),
    Logical(usize, u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let cpu = 0..20usize;
    // Few vectors, so that they meet.
    let vector =
        prop::sample::select(&[3u8, 16, 17, 0x31, 0x35, 0x3f, 0x40, 0x80, 0x81, 0xef, 0xff][..]);
    let to = prop_oneof![
        0..20u32,
        Just(0xff),
        Just(u32::MAX),
        any::<u8>().prop_map(u32::from),
        (0..2u32, any::<u16>()).prop_map(|(cluster, members)| cluster << 16 | u32::from(members))
    ];
    prop_oneof![
        6 => (cpu.clone(), to, any::<bool>(), 0..4u64, vector.clone())
            .prop_map(|(from, to, logical, shorthand, vector)| Step::Ipi { from, to, logical, shorthand, vector }),
        4 => (any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>(), vector)
            .prop_map(|(to, logical, lowest, level, vector)| Step::Device { to, logical, lowest, level, vector }),
        10 => cpu.clone().prop_map(Step::Take),
        8 => cpu.clone().prop_map(Step::End),
        3 => (cpu.clone(), any::<u8>()).prop_map(|(cpu, task)| Step::Task(cpu, task)),
        1 => (cpu.clone(), any::<bool>()).prop_map(|(cpu, on)| Step::Software(cpu, on)),
        1 => (cpu, any::<u8>(), any::<bool>()).prop_map(|(cpu, id, flat)| Step::Logical(cpu, id, flat)),
    ]
}

struct Pair {
    real: Vlapics,
    ideal: Ideal,
}

impl Pair {
    fn new(cpus: usize, wide: bool) -> Self {
        let cpu = |cpu: usize| Cpu {
            on: true,
            flat: true,
            logical: 1 << (cpu % 8),
            ..Cpu::default()
        };
        Self {
            real: if wide { x2apic(cpus) } else { xapic(cpus) },
            ideal: Ideal {
                cpus: (0..cpus).map(cpu).collect(),
                wide,
            },
        }
    }

    fn write(&mut self, cpu: usize, number: u32, value: u64) -> crate::vdev::vlapic::Effects {
        if self.ideal.wide {
            self.real.write_msr(cpu, 0x800 + number, value, 0).unwrap()
        } else {
            store(&mut self.real, cpu, u64::from(number) * 16, value)
        }
    }

    fn on(&self, cpus: &[usize]) -> CpuSet {
        let on = cpus.iter().filter(|&&cpu| self.ideal.cpus[cpu].on);
        on.fold(CpuSet::NONE, |set, &cpu| set.union(CpuSet::one(cpu)))
    }

    fn apply(&mut self, step: Step) {
        let cpus = self.ideal.cpus.len();
        match step {
            Step::Ipi {
                from,
                to,
                logical,
                shorthand,
                vector,
            } if from < cpus => {
                let command =
                    u64::from(vector) | u64::from(logical) << 11 | 1 << 14 | shorthand << 18;
                let effects = if self.ideal.wide {
                    self.write(from, 0x30, u64::from(to) << 32 | command)
                } else {
                    self.write(from, 0x31, u64::from(to) << 24 & 0xffff_ffff);
                    self.write(from, 0x30, command)
                };
                if vector < 16 {
                    return;
                }
                let to = if self.ideal.wide { to } else { to & 0xff };
                let to: Vec<usize> = match shorthand {
                    0 => self.ideal.addressed(to, logical),
                    1 => vec![from],
                    2 => (0..cpus).collect(),
                    _ => (0..cpus).filter(|&cpu| cpu != from).collect(),
                };
                assert_eq!(effects.kick, self.on(&to));
                self.ideal.send(&to, vector, false);
            }
            Step::Device {
                to,
                logical,
                lowest,
                level,
                vector,
            } => {
                let message = Message {
                    destination: Destination::narrow(to, logical),
                    mode: if lowest { Mode::Lowest } else { Mode::Fixed },
                    vector,
                    level,
                };
                let kick = self.real.deliver(&message).kick;
                let wide_all = if self.ideal.wide && to == 0xff {
                    u32::MAX
                } else {
                    to.into()
                };
                let mut to = self.ideal.addressed(wide_all, logical);
                if lowest {
                    to.retain(|&cpu| self.ideal.cpus[cpu].on);
                    // By the whole priority: the task's lower half counts where its class decides.
                    let key = |cpu: &usize| {
                        let cpu = &self.ideal.cpus[*cpu];
                        let service = cpu.service.last().map_or(0, |vector| vector / 16);
                        if cpu.task / 16 >= service {
                            cpu.task
                        } else {
                            service * 16
                        }
                    };
                    to = to.iter().copied().min_by_key(key).into_iter().collect();
                }
                assert_eq!(kick, self.on(&to));
                if vector >= 16 {
                    self.ideal.send(&to, vector, level);
                }
            }
            Step::Take(cpu) if cpu < cpus => {
                assert_eq!(self.real.acknowledge(cpu), self.ideal.take(cpu));
            }
            Step::End(cpu) if cpu < cpus => {
                let end = self.write(cpu, 0x0b, 0).end;
                assert_eq!(end, self.ideal.end(cpu));
            }
            Step::Task(cpu, task) if cpu < cpus => {
                self.write(cpu, 0x08, task.into());
                self.ideal.cpus[cpu].task = task;
            }
            Step::Software(cpu, on) if cpu < cpus => {
                self.write(cpu, 0x0f, if on { 0x1ff } else { 0xff });
                self.ideal.cpus[cpu].on = on;
            }
            Step::Logical(cpu, id, flat) if cpu < cpus && !self.ideal.wide => {
                self.write(cpu, 0x0d, u64::from(id) << 24);
                self.write(cpu, 0x0e, if flat { 0xffff_ffff } else { 0x0fff_ffff });
                self.ideal.cpus[cpu].logical = id;
                self.ideal.cpus[cpu].flat = flat;
            }
            _ => {}
        }
    }

    fn compare(&mut self) {
        for cpu in 0..self.ideal.cpus.len() {
            assert_eq!(self.real.pending(cpu), self.ideal.pending(cpu), "{cpu}");
            let mut bits = |first: u32| -> Vec<u8> {
                let set = (0..=255u8).filter(|vector| {
                    let number = first + u32::from(vector / 32);
                    let word = if self.ideal.wide {
                        self.real.read_msr(cpu, 0x800 + number, 0).unwrap()
                    } else {
                        self.real.read(cpu, u64::from(number) * 16, 4, 0)
                    };
                    word >> (vector % 32) & 1 == 1
                });
                set.collect()
            };
            let (service, waiting) = (bits(0x10), bits(0x20));
            assert!(waiting.iter().eq(&self.ideal.cpus[cpu].waiting));
            let mut expected = self.ideal.cpus[cpu].service.clone();
            expected.sort();
            assert_eq!(service, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn processors_take_what_lists_would_give_them(
        cpus in prop::sample::select(&[1usize, 2, 5, 18][..]), wide: bool,
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut pair = Pair::new(cpus, wide);
        for step in steps {
            pair.apply(step);
        }
        pair.compare();
    }
}
