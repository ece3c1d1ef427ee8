//! Input of the console on its way to the selected partition: it stays in the physical UART, and with its sender, while
//! the partition's UART has no room. A partition that never makes room gives up its input after a while, so that the
//! escape key works.
//!
//! Locks are taken in this order: [`pump`]'s own; then the terminal's, or a partition's UART and then its GIC.

use crate::console::Input;
use crate::lock::Mutex;
use crate::system::System;
use crate::{terminal, tick};
use arch::clock;
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes taken in one go, so that a flood of input cannot keep a CPU.
const BUDGET: usize = 64;
/// How long input waits for room.
const PATIENCE_NS: u64 = 2_000_000_000;

static INLET: Mutex<Inlet> = Mutex::new(Inlet::new());
/// Mirror of "input waits for room", for the way of a guest that makes some.
static HOLDING: AtomicBool = AtomicBool::new(false);

/// Decides whether a byte that waits may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Inlet {
    /// Who is waited for, and until when.
    held: Option<(usize, u64)>,
}

impl Inlet {
    const fn new() -> Self {
        Self { held: None }
    }

    /// A byte waits for `selected`, which has no room for it: until when it goes on waiting; `None` if it has waited long
    /// enough, and no later one waits for the same partition.
    fn hold(&mut self, selected: usize, now: u64) -> Option<u64> {
        let until = match self.held {
            Some((to, until)) if to == selected => until,
            _ => now.saturating_add(PATIENCE_NS),
        };
        self.held = Some((selected, until));
        (now < until).then_some(until)
    }

    /// Until when a byte goes on waiting for `selected`, of which it is known that it has no room; `None` if none does.
    fn waits(&self, selected: usize, now: u64) -> Option<u64> {
        let (to, until) = self.held?;
        (to == selected && now < until).then_some(until)
    }

    /// There was room, or there is no input.
    fn release(&mut self) {
        self.held = None;
    }
}

/// Takes input from the UART to where it belongs, as much as there is room for. When to call this again at the latest.
pub fn pump(system: &'static System) -> Option<u64> {
    let mut statistics = false;
    let again = {
        let mut inlet = INLET.lock();
        let again = take(system, &mut inlet, &mut statistics);
        HOLDING.store(again.is_some(), Ordering::Release);
        again
    };
    if statistics {
        system.statistics();
    }
    again
}

/// After a guest has read from its UART: input may have waited for that.
pub fn room_made(system: &'static System) {
    if HOLDING.load(Ordering::Acquire)
        && let Some(again) = pump(system)
    {
        tick::by(again);
    }
}

fn take(system: &'static System, inlet: &mut Inlet, statistics: &mut bool) -> Option<u64> {
    let full = || terminal::selected().filter(|&to| !system.partitions[to].has_room());
    // The UART's interrupt is off then. Where it is an edge, each time that it is turned on would be another one.
    let until = full().and_then(|to| inlet.waits(to, clock::now_ns()));
    if until.is_some() {
        return until;
    }
    // Before the first look, so that what comes after the last one raises the interrupt anew.
    terminal::listen(true);
    for _ in 0..BUDGET {
        if !terminal::has_input() {
            return None;
        }
        match full() {
            None => inlet.release(),
            Some(to) => {
                if let Some(until) = inlet.hold(to, clock::now_ns()) {
                    terminal::listen(false);
                    return Some(until);
                }
            }
        }
        match terminal::input() {
            Some(Input::For(to, byte)) => system.partitions[to].receive(system, byte),
            Some(Input::Statistics) => *statistics = true,
            Some(Input::Done) | None => {}
        }
    }
    // Others first; the interrupt may not come again for what is left.
    Some(clock::now_ns())
}

#[cfg(test)]
mod tests {
    use super::{Inlet, PATIENCE_NS};

    #[test]
    fn input_waits_for_room_and_not_for_ever() {
        let mut inlet = Inlet::new();
        let until = 5 + PATIENCE_NS;
        assert_eq!(inlet.hold(1, 5), Some(until));
        assert_eq!(inlet.hold(1, until - 1), Some(until));
        assert_eq!(inlet.hold(1, until), None);
        assert_eq!(inlet.hold(1, until + 7), None, "no byte waits again");
    }

    #[test]
    fn who_waits_is_asked_without_a_change() {
        let mut inlet = Inlet::new();
        assert_eq!(inlet.waits(1, 0), None);
        let until = inlet.hold(1, 5).unwrap();
        assert_eq!(inlet.waits(1, until - 1), Some(until));
        assert_eq!(inlet.waits(0, until - 1), None);
        assert_eq!(inlet.waits(1, until), None, "it has waited long enough");
        inlet.release();
        assert_eq!(inlet.waits(1, 5), None);
    }

    #[test]
    fn room_and_another_partition_start_the_wait_anew() {
        let mut inlet = Inlet::new();
        let until = inlet.hold(1, 0).unwrap();
        assert_eq!(inlet.hold(1, until), None);
        inlet.release();
        assert_eq!(inlet.hold(1, until), Some(until + PATIENCE_NS));
        assert_eq!(inlet.hold(0, until + 9), Some(until + 9 + PATIENCE_NS));
    }
}
