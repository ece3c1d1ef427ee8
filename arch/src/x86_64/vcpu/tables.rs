//! The nested tables of one partition, and when no CPU has anything old of them.
//!
//! Nothing tells the other CPUs of a change: each forgets what it has cached of the tables when it enters the guest next.
//! So whoever takes a mapping away says so ([`Tables::changed`]), makes the CPUs that are in the guest leave it, and waits
//! until none can have the mapping any more ([`Tables::is_forgotten`]).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// The tables, and which CPU is in the guest with what of them.
#[derive(Debug)]
pub struct Tables {
    root: u64,
    levels: u8,
    /// Counts changes, from 1.
    changes: AtomicU64,
    /// By vCPU: the count at its last entry, or 0 outside of the guest.
    inside: Box<[AtomicU64]>,
}

impl Tables {
    /// For `vcpus` vCPUs. `root` is the root table's physical address, `levels` how many there are, 4 or 5.
    pub fn new(root: u64, levels: u8, vcpus: usize) -> Self {
        Self {
            root,
            levels,
            changes: AtomicU64::new(1),
            inside: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Physical address of the root table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Levels of tables.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// vCPUs that use them.
    pub fn vcpus(&self) -> usize {
        self.inside.len()
    }

    /// Something that was mapped is not any more, or for less; the stores are done. What comes back is for
    /// [`Self::is_forgotten`].
    pub fn changed(&self) -> Change {
        Change(self.changes.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Whether no CPU has anything from before `change`. Those for which [`Self::is_behind`] have to leave the guest for it.
    pub fn is_forgotten(&self, change: Change) -> bool {
        (0..self.inside.len()).all(|vcpu| !self.is_behind(vcpu, change))
    }

    /// Whether `vcpu` is in the guest since before `change`.
    pub fn is_behind(&self, vcpu: usize, change: Change) -> bool {
        let inside = self.inside.get(vcpu);
        inside.is_some_and(|at| (1..change.0).contains(&at.load(Ordering::SeqCst)))
    }

    /// `vcpu` is about to enter the guest: returns the count of the changes that it has to forget everything before.
    ///
    /// Either the count read last includes a change, or the change finds the vCPU inside: both accesses of both sides
    /// are in one order (SeqCst).
    pub(super) fn enter(&self, vcpu: usize) -> u64 {
        loop {
            let changes = self.changes.load(Ordering::SeqCst);
            self.inside[vcpu].store(changes, Ordering::SeqCst);
            if self.changes.load(Ordering::SeqCst) == changes {
                return changes;
            }
        }
    }

    /// `vcpu` has left it.
    pub(super) fn leave(&self, vcpu: usize) {
        self.inside[vcpu].store(0, Ordering::SeqCst);
    }
}

/// A change of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change(u64);

#[cfg(test)]
mod tests {
    use super::Tables;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    #[test]
    fn who_is_inside_since_before_is_waited_for() {
        let tables = Tables::new(0x1000, 4, 2);
        let first = tables.enter(0);
        let change = tables.changed();
        assert!(tables.is_behind(0, change) && !tables.is_behind(1, change));
        assert!(!tables.is_behind(7, change), "no such vCPU");
        assert!(!tables.is_forgotten(change));
        // Who enters after it has nothing old.
        let second = tables.enter(1);
        assert_ne!(first, second);
        assert!(!tables.is_behind(1, change));
        tables.leave(0);
        assert!(tables.is_forgotten(change));
        assert_eq!(tables.enter(0), second, "nothing new to forget");
    }

    /// A guest that caches a mapping at each entry that tells it to forget, and one that takes mappings away: once it is
    /// forgotten, nobody uses it.
    #[test]
    fn nothing_is_used_after_it_is_forgotten() {
        const ROUNDS: u64 = 2000;
        let tables = Tables::new(0x1000, 4, 2);
        let mapping = AtomicU64::new(1);
        let freed = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for vcpu in 0..2 {
                let (tables, mapping, freed, done) = (&tables, &mapping, &freed, &done);
                scope.spawn(move || {
                    let (mut seen, mut cached) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let count = tables.enter(vcpu);
                        if count != seen {
                            (seen, cached) = (count, mapping.load(Ordering::SeqCst));
                        }
                        assert!(cached > freed.load(Ordering::SeqCst), "use after free");
                        tables.leave(vcpu);
                    }
                });
            }
            for round in 1..=ROUNDS {
                mapping.store(round + 1, Ordering::SeqCst);
                let change = tables.changed();
                while !tables.is_forgotten(change) {
                    thread::yield_now();
                }
                freed.store(round, Ordering::SeqCst);
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
