//! Every interleaving of producers and hardware, at the steps that the lock makes of them.
//!
//! The lock is the only synchronisation, so that these are all the orders there are. That it is, and what happens around
//! it, is for `shared::orders`.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use super::*;
use crate::addr::Hpa;
use crate::id::{CacheTag, DeviceId};
use crate::smmuv3::command::Signal;
use crate::smmuv3::spec::command::cerror;
use crate::smmuv3::spec::registers::{GERROR, GERRORN};

mod at_once;
mod flood;
mod steps;

/// Registers and memory of a command queue that consumes a command when it is told to.
#[derive(Default)]
struct Hardware {
    prod: u32,
    cons: u32,
    gerror: u32,
    gerrorn: u32,
    memory: Vec<u64>,
    /// Opcodes that are refused, and with what.
    refuses: Vec<(u64, u32)>,
    consumed: Vec<[u64; 2]>,
}

const ENTRIES: u32 = 8;
const WRAP: u32 = 2 * ENTRIES - 1;

impl Hardware {
    fn can_step(&self) -> bool {
        (self.gerror ^ self.gerrorn) & 1 == 0 && self.cons & WRAP != self.prod & WRAP
    }

    fn step(&mut self) {
        let at = (self.cons & (ENTRIES - 1)) as usize * 2;
        let command = [self.memory[at], self.memory[at + 1]];
        let refused = self
            .refuses
            .iter()
            .position(|(first, _)| *first == command[0]);
        if let Some(index) = refused {
            let (_, code) = self.refuses[index];
            self.cons = self.cons & WRAP | code << 24;
            self.gerror ^= 1;
            if code == 3 {
                self.refuses.remove(index);
            }
            return;
        }
        self.consumed.push(command);
        self.cons = (self.cons + 1) & WRAP;
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Hardware>>);

impl Mmio for Shared {
    fn read32(&self, offset: usize) -> u32 {
        let state = self.0.lock().unwrap();
        match offset {
            CMDQ_CONS => state.cons,
            GERROR => state.gerror,
            GERRORN => state.gerrorn,
            _ => panic!("{offset:#x}"),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.0.lock().unwrap();
        match offset {
            CMDQ_PROD => state.prod = value,
            CMDQ_CONS => state.cons = value,
            GERRORN => state.gerrorn = value,
            _ => panic!("{offset:#x}"),
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        panic!("{offset:#x}");
    }
    fn write64(&self, _: usize, _: u64) {}
}

impl DmaBuffer for Shared {
    fn hpa(&self) -> Hpa {
        Hpa(0x1000)
    }
    fn len(&self) -> usize {
        4096
    }
    fn read64(&self, offset: usize) -> u64 {
        self.0.lock().unwrap().memory[offset / 8]
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.0.lock().unwrap().memory[offset / 8] = value;
    }
    fn clean(&self, _: usize, _: usize) {}
}

impl Platform for Shared {
    type Buffer = Self;
    fn allocate(&self, _: usize) -> Option<Self> {
        Some(self.clone())
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        0
    }
}

fn command(number: u64) -> Command {
    Command::tlbi_s12_vmall(CacheTag(number as u16))
}

/// One producer: a batch, and where it is with it.
struct Producer {
    commands: Vec<Command>,
    sent: usize,
    ticket: Option<Ticket>,
    ended: bool,
    result: Option<(u64, Option<u8>)>,
    /// What it saw when it last looked: to look again would change nothing.
    looked: Option<(u32, u32)>,
}

struct World {
    hardware: Shared,
    registers: Registers<Shared>,
    queue: CommandQueue<Shared>,
    producers: Vec<Producer>,
}

impl World {
    fn new(batches: &[Vec<Command>], refuses: &[(u64, u32)]) -> Self {
        let hardware = Shared(Arc::new(Mutex::new(Hardware {
            memory: vec![0; 512],
            refuses: refuses.to_vec(),
            ..Hardware::default()
        })));
        let registers = Registers::new(hardware.clone());
        let mut queue = CommandQueue::new(&hardware, 3, true).unwrap();
        queue.program(&registers);
        let producers = batches.iter().map(|commands| Producer {
            commands: commands.clone(),
            sent: 0,
            ticket: None,
            ended: false,
            result: None,
            looked: None,
        });
        Self {
            producers: producers.collect(),
            hardware,
            registers,
            queue,
        }
    }

    /// Who can do something: the producers by number, then the hardware.
    fn choices(&self) -> Vec<usize> {
        let state = self.hardware.0.lock().unwrap();
        let now = (state.cons, state.gerror ^ state.gerrorn);
        let able = |producer: &Producer| producer.result.is_none() && producer.looked != Some(now);
        let mut choices: Vec<usize> = (0..self.producers.len())
            .filter(|index| able(&self.producers[*index]))
            .collect();
        if state.can_step() {
            choices.push(self.producers.len());
        }
        choices
    }

    fn step(&mut self, who: usize) {
        let Some(producer) = self.producers.get_mut(who) else {
            self.hardware.0.lock().unwrap().step();
            return;
        };
        let queue = &mut self.queue;
        let Some(ticket) = producer.ticket else {
            producer.ticket = queue.open();
            return;
        };
        if !producer.ended {
            while let Some(next) = producer.commands.get(producer.sent) {
                match queue.push(ticket, *next) {
                    Pushed::Done => producer.sent += 1,
                    Pushed::Full => break,
                    Pushed::Cut => panic!("batches here fit the queue or go alone"),
                }
            }
            producer.ended = producer.sent == producer.commands.len() && queue.end(ticket);
            queue.publish(&self.hardware, &self.registers);
        }
        queue.advance(&self.registers).unwrap();
        if queue.is_done(ticket) {
            let progress = queue.progress(ticket);
            queue.close(ticket);
            producer.result = Some((progress.complete, progress.refused));
        } else {
            queue.recover(&self.hardware, &self.registers).unwrap();
        }
        let state = self.hardware.0.lock().unwrap();
        producer.looked = Some((state.cons, state.gerror ^ state.gerrorn));
    }
}

/// Runs every interleaving; gives how many there were.
fn every_interleaving(
    batches: &[Vec<Command>],
    refuses: &[(u64, u32)],
    check: impl Fn(&World),
) -> usize {
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut runs = 0;
    loop {
        let mut world = World::new(batches, refuses);
        for depth in 0.. {
            let choices = world.choices();
            if choices.is_empty() {
                break;
            }
            assert!(depth < 100, "nobody gets anywhere");
            if depth == path.len() {
                path.push((0, choices.len()));
            }
            world.step(choices[path[depth].0]);
        }
        check(&world);
        runs += 1;
        while let Some((at, of)) = path.pop() {
            if at + 1 < of {
                path.push((at + 1, of));
                break;
            }
        }
        if path.is_empty() {
            return runs;
        }
    }
}

fn consumed(world: &World, wanted: Command) -> usize {
    let state = world.hardware.0.lock().unwrap();
    state
        .consumed
        .iter()
        .filter(|seen| **seen == wanted.0)
        .count()
}

#[test]
fn each_of_two_producers_ends_with_all_of_its_own_done() {
    let batches = [vec![command(1), command(2)], vec![command(3)]];
    let runs = every_interleaving(&batches, &[], |world| {
        assert_eq!(world.producers[0].result, Some((2, None)));
        assert_eq!(world.producers[1].result, Some((1, None)));
        for number in 1..=3 {
            assert_eq!(consumed(world, command(number)), 1);
        }
        assert_eq!(consumed(world, Command::sync(Signal::None)), 2);
    });
    assert!(runs > 100, "{runs}");
}

#[test]
fn a_refused_command_fails_its_own_batch_at_its_place_and_no_other() {
    for (place, complete) in [(1, 0), (2, 1)] {
        let batches = [vec![command(1), command(2)], vec![command(3)]];
        let refuses = [(command(place).0[0], 1)];
        every_interleaving(&batches, &refuses, |world| {
            assert_eq!(world.producers[0].result, Some((complete, Some(1))));
            assert_eq!(world.producers[1].result, Some((1, None)));
        });
    }
}

#[test]
fn a_queue_that_is_too_small_for_both_serves_one_after_the_other() {
    // Five commands and a CMD_SYNC each, in a queue of eight.
    let batch = |first: u64| (first..first + 5).map(command).collect::<Vec<_>>();
    let refuses = [(command(12).0[0], 1)];
    let mut world = World::new(&[batch(0), batch(10)], &refuses);
    // Whole batches at a time: the other's run must not be cut.
    for who in [0, 1] {
        while world.producers[who].result.is_none() {
            world.step(who);
            while world.hardware.0.lock().unwrap().can_step() {
                world.step(2);
            }
        }
    }
    assert_eq!(world.producers[0].result, Some((5, None)));
    assert_eq!(world.producers[1].result, Some((2, Some(1))));
}

/// Three have too many interleavings for all of them: a sample.
#[test]
fn each_of_three_producers_ends_with_its_own_result() {
    let batches = [vec![command(1)], vec![command(2)], vec![command(3)]];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..20_000 {
        let mut world = World::new(&batches, &[(command(2).0[0], 1)]);
        loop {
            let choices = world.choices();
            if choices.is_empty() {
                break;
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            world.step(choices[(random >> 20) as usize % choices.len()]);
        }
        let results = world.producers.iter().map(|producer| producer.result);
        let expected = [Some((1, None)), Some((0, Some(1))), Some((1, None))];
        assert!(results.eq(expected));
    }
}

#[test]
fn a_device_that_does_not_answer_fails_the_batch_that_asked_it() {
    let ask = Command::atc_inv(crate::id::DeviceId(8), None, None);
    let batches = [vec![command(1), ask], vec![command(3)]];
    // The first CMD_SYNC after the CMD_ATC_INV is stopped at; which batch it is of depends on the order.
    let sync = Command::sync(Signal::None).0[0];
    every_interleaving(&batches, &[(sync, 3)], |world| {
        let asked = world.producers[0].result.unwrap();
        let other = world.producers[1].result.unwrap();
        assert_eq!(other, (1, None), "it asked no device");
        let first = world.hardware.0.lock().unwrap().consumed[0];
        if first == command(1).0 {
            assert_eq!(asked, (1, Some(3)));
        } else {
            assert!(asked == (1, Some(3)) || asked == (2, None));
        }
    });
}

#[test]
fn whoever_waits_on_an_smmu_that_lost_its_state_is_answered() {
    let atc = Command::atc_inv(DeviceId(8), None, None);
    let batches = [
        vec![command(1), command(2)],
        vec![command(3), atc],
        vec![command(4)],
    ];
    let mut world = World::new(&batches, &[]);
    // Two are on their way, of which the SMMU has taken one command; the third is about to be.
    for who in [0, 0, 1, 1, 2, 3] {
        world.step(who);
    }
    assert!(
        world
            .producers
            .iter()
            .all(|producer| producer.result.is_none())
    );
    {
        let mut state = world.hardware.0.lock().unwrap();
        (state.prod, state.cons) = (0, 0);
    }
    world.queue.forget();
    world.queue.program(&world.registers);
    world.step(0);
    world.step(1);
    world.step(2);
    let result = |world: &World, who: usize| world.producers[who].result;
    assert_eq!(result(&world, 0), Some((2, None)));
    // What devices cache, nobody has told them.
    assert_eq!(result(&world, 1), Some((1, Some(cerror::ATC_INV_SYNC))));
    assert_eq!(result(&world, 2), None, "a new one is sent");
    for who in [3, 3, 2] {
        world.step(who);
    }
    assert_eq!(result(&world, 2), Some((1, None)));
}

#[test]
fn a_device_that_does_not_answer_counts_before_a_later_refused_command() {
    let ask = Command::atc_inv(crate::id::DeviceId(8), None, None);
    let batches = [vec![command(1), ask, command(2), command(3)], Vec::new()];
    // Command 3 becomes a CMD_SYNC, which is stopped at for the device.
    let sync = Command::sync(Signal::None).0[0];
    let refuses = [(command(3).0[0], 1), (sync, 3)];
    let mut world = World::new(&batches, &refuses);
    while world.producers[0].result.is_none() {
        world.step(0);
        while world.hardware.0.lock().unwrap().can_step() {
            world.step(2);
        }
    }
    assert_eq!(world.producers[0].result, Some((1, Some(3))));
}
