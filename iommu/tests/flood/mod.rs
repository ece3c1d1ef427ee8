//! Guests on one SMMU that fill their queues again and again, and one among them that unmaps a page (B21).
//!
//! Each guest has a thread, of which one runs at a time. Whoever waits for the SMMU lets the next one go on; when all have
//! had their turn, the SMMU consumes a command. So what a guest waits for is an exact number of commands of the SMMU's.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use iommu::object::Context;

use crate::light::{Guest, Hardware, LOG2, STREAMS, Whole};

/// Invalidations that one call of a guest's SMMU does, as in the hypervisor.
pub const BUDGET: u32 = 12;
/// Unmaps, each after one turn more of the others' than the one before.
const UNMAPS: usize = 60;
const SYNC: [u64; 2] = [0x46, 0];

fn invalidation(page: u64) -> [u64; 2] {
    [0x12 | 1 << 48, page << 12 | 1]
}

thread_local! {
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Turns {
    /// Whose turn it is, and who there still is.
    state: Mutex<(usize, Vec<bool>)>,
    changed: Condvar,
    hardware: Arc<Hardware>,
}

impl Turns {
    /// Guest `me` is this thread's from here on.
    fn enter(&self, me: usize) {
        ME.set(Some(me));
        let state = self.state.lock().expect("no panic");
        drop(self.changed.wait_while(state, |state| state.0 != me));
    }

    /// Everybody else has a turn.
    fn pass(&self) {
        let Some(me) = ME.get() else { return };
        let state = self.next(me, true);
        drop(self.changed.wait_while(state, |state| state.0 != me));
    }

    fn leave(&self) {
        if let Some(me) = ME.take() {
            drop(self.next(me, false));
        }
    }

    fn next(&self, me: usize, stays: bool) -> std::sync::MutexGuard<'_, (usize, Vec<bool>)> {
        let mut state = self.state.lock().expect("no panic");
        let (whose, there) = &mut *state;
        there[me] = stays;
        let after = (me + 1..there.len()).find(|other| there[*other]);
        *whose = after.unwrap_or_else(|| {
            self.hardware.step();
            (0..=me).find(|other| there[*other]).unwrap_or(0)
        });
        self.changed.notify_all();
        state
    }
}

/// Most commands that the SMMU consumes from a guest's doorbell for one invalidation to its completion, while so many
/// `others` flood it.
pub fn longest(others: usize) -> u64 {
    let machine = Whole::new();
    let contexts: Vec<_> = (0..=others)
        .map(|_| Context::new(256, 8).expect("memory"))
        .collect();
    let guests = (0..)
        .zip(&contexts)
        .map(|(n, context)| Guest::new(context, &machine, 0x100 + n * STREAMS, BUDGET));
    let mut guests: Vec<_> = guests.collect();
    machine.hardware.slow.store(true, Relaxed);
    let turns = Arc::new(Turns {
        state: Mutex::new((0, vec![true; others + 1])),
        changed: Condvar::new(),
        hardware: Arc::clone(&machine.hardware),
    });
    let waits = Arc::clone(&turns);
    let set = machine.platform.waits.set(Box::new(move || waits.pass()));
    assert!(set.is_ok());
    let over = AtomicBool::new(false);
    let mut victim = guests.remove(0);
    let mut longest = 0;
    thread::scope(|scope| {
        for (me, mut guest) in (1..).zip(guests) {
            let (turns, over) = (&turns, &over);
            scope.spawn(move || {
                turns.enter(me);
                let mut calls = 0;
                while !over.load(Relaxed) {
                    guest.post((0..(1 << LOG2) - 1).map(invalidation));
                    guest.ring();
                    while guest.smmu.has_work() && !over.load(Relaxed) {
                        guest.smmu.run(&guest.memory);
                        calls += 1;
                    }
                }
                assert!(calls > UNMAPS, "no flood");
                turns.leave();
            });
        }
        turns.enter(0);
        for round in 0..UNMAPS {
            for _ in 0..round {
                turns.pass();
            }
            victim.post([invalidation(1), SYNC].into_iter());
            let before = machine.hardware.consumed();
            let effect = victim.ring();
            longest = longest.max(machine.hardware.consumed() - before);
            assert!(!effect.more, "complete");
        }
        over.store(true, Relaxed);
        // What comes now is the guests' end.
        machine.hardware.slow.store(false, Relaxed);
        turns.leave();
    });
    longest
}

/// What it is at most: a call's worth of each other's and a CMD_SYNC, and one's own two.
pub fn bound(others: usize) -> u64 {
    others as u64 * u64::from(BUDGET + 1) + 2
}
