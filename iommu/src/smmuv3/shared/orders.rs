//! Two CPUs at one command queue, in every order that the lock allows (C1).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex as Hidden;

use super::super::command_queue::{CommandQueue, SYNC};
use super::super::identity::Identity;
use super::{Core, DeviceCaches, Features, NestedStreams, Registers, Shared};
use crate::addr::Hpa;
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::id::CacheTag;
use crate::physical::{Incomplete, Invalidation, IommuError};

/// Four commands at most; one is consumed in each look at CMDQ_CONS.
const ENTRIES: u32 = 4;
const WRAP: u32 = 2 * ENTRIES - 1;

#[derive(Default)]
struct Hardware {
    prod: u32,
    cons: u32,
    gerror: u32,
    gerrorn: u32,
    memory: Vec<u64>,
    /// The first word of a command that is refused, once.
    refuses: Option<u64>,
    consumed: Vec<u64>,
    now: u64,
}

impl Hardware {
    fn step(&mut self) {
        if (self.gerror ^ self.gerrorn) & 1 != 0 || self.cons & WRAP == self.prod & WRAP {
            return;
        }
        let at = (self.cons & (ENTRIES - 1)) as usize * 2;
        let command = self.memory[at];
        if self.refuses == Some(command) {
            self.refuses = None;
            self.cons = self.cons & WRAP | 1 << 24;
            self.gerror ^= 1;
            return;
        }
        self.consumed.push(command);
        self.cons = (self.cons + 1) & WRAP;
    }
}

/// Registers, memory and clock. Its own lock is not explored: whoever has it does nothing that could wait.
#[derive(Clone, Default)]
struct Machine(Arc<Hidden<Hardware>>);

impl Machine {
    fn hardware(&self) -> std::sync::MutexGuard<'_, Hardware> {
        self.0.lock().unwrap()
    }
}

impl Mmio for Machine {
    fn read32(&self, offset: usize) -> u32 {
        let mut hardware = self.hardware();
        match offset {
            0x9c => {
                hardware.step();
                hardware.cons
            }
            0x60 => hardware.gerror,
            0x64 => hardware.gerrorn,
            _ => 0,
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut hardware = self.hardware();
        match offset {
            0x98 => hardware.prod = value,
            0x9c => hardware.cons = value,
            0x64 => hardware.gerrorn = value,
            _ => {}
        }
    }
    fn read64(&self, _offset: usize) -> u64 {
        0
    }
    fn write64(&self, _offset: usize, _value: u64) {}
}

struct Queue(Machine);

impl DmaBuffer for Queue {
    fn hpa(&self) -> Hpa {
        Hpa(0)
    }
    fn len(&self) -> usize {
        4096
    }
    fn read64(&self, offset: usize) -> u64 {
        self.0.hardware().memory[offset / 8]
    }
    fn write64(&mut self, offset: usize, value: u64) {
        self.0.hardware().memory[offset / 8] = value;
    }
    fn clean(&self, _offset: usize, _len: usize) {}
}

impl Platform for Machine {
    type Buffer = Queue;
    fn allocate(&self, len: usize) -> Option<Queue> {
        self.hardware().memory = vec![0; len / 8];
        Some(Queue(self.clone()))
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn now_ns(&self) -> u64 {
        let mut hardware = self.hardware();
        hardware.now += 1;
        hardware.now
    }
}

fn shared(machine: &Machine) -> Shared<Machine, Machine> {
    let identity = Identity {
        // S2P, S1P, AArch64, coherent; two bits of command queue; range invalidation; 4 KiB.
        idr: [0x1b, 2 << 21 | 2 << 16 | 8, 0, 1 << 10, 0, 0x15],
        iidr: 0x0010_0123,
        aidr: 0,
    };
    let features = Features::of(&identity).unwrap();
    let queue = CommandQueue::new(machine, features.command_queue_log2, true).unwrap();
    let registers = Registers::new(machine.clone());
    let mut core = Core {
        registers,
        queue,
        nested: NestedStreams::default(),
        caches: DeviceCaches::default(),
        stopped: false,
    };
    core.queue.program(&core.registers);
    Shared::new(Arc::new(machine.clone()), features, core)
}

/// CMD_TLBI_NH_ASID.
fn command(asid: u16) -> u64 {
    0x11 | 7 << 32 | u64::from(asid) << 48
}

fn entry(asid: u16) -> Invalidation {
    let tag = CacheTag(7);
    Invalidation::AddressSpace { tag, asid }
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(test);
}

/// Whoever returns has all of its own commands consumed, and a CMD_SYNC after them; nobody's are lost or doubled.
#[test]
fn loom_each_producer_returns_with_all_of_its_own_complete() {
    explore(|| {
        let machine = Machine::default();
        let queue = Arc::new(shared(&machine));
        let produce = |first: u16| {
            let (queue, machine) = (Arc::clone(&queue), machine.clone());
            move || {
                queue.submit(&[entry(first), entry(first + 1)]).unwrap();
                let consumed = machine.hardware().consumed.clone();
                let at = |asid| consumed.iter().position(|it| *it == command(asid));
                let last = at(first + 1).expect("consumed");
                assert!(at(first).expect("consumed") < last, "in order");
                assert!(consumed[last..].contains(&0x46), "and synchronised");
            }
        };
        let other = loom::thread::spawn(produce(1));
        produce(11)();
        other.join().unwrap();
        let mut seen = machine.hardware().consumed.clone();
        seen.retain(|it| *it != 0x46);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 11, 12].map(command));
    });
}

/// The same for commands that are handed over as they are, beside entries.
#[test]
fn loom_commands_as_they_are_return_with_all_of_their_own_complete() {
    explore(|| {
        let machine = Machine::default();
        let queue = Arc::new(shared(&machine));
        let done = |machine: &Machine, asid| {
            let consumed = machine.hardware().consumed.clone();
            let at = consumed.iter().position(|it| *it == command(asid));
            assert!(consumed[at.expect("consumed")..].contains(&0x46));
        };
        let other = {
            let (queue, machine) = (Arc::clone(&queue), machine.clone());
            loom::thread::spawn(move || {
                queue.tell(&[[command(1), 0], SYNC]).unwrap();
                done(&machine, 1);
            })
        };
        queue.submit(&[entry(11)]).unwrap();
        done(&machine, 11);
        other.join().unwrap();
    });
}

/// A command that is refused fails its own batch, at its place, and no other.
#[test]
fn loom_a_refusal_is_its_own_producers_whoever_finds_it() {
    explore(|| {
        let machine = Machine::default();
        let queue = Arc::new(shared(&machine));
        machine.hardware().refuses = Some(command(2));
        let other = {
            let queue = Arc::clone(&queue);
            loom::thread::spawn(move || queue.submit(&[entry(11)]))
        };
        let refused = Incomplete {
            complete: 1,
            error: IommuError::Command(1),
        };
        assert_eq!(queue.submit(&[entry(1), entry(2)]), Err(refused));
        assert_eq!(other.join().unwrap(), Ok(()));
        assert!(machine.hardware().consumed.contains(&command(11)));
    });
}
