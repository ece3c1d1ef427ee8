//! Whose messages the vectors of x86_64's CPUs are.

use crate::lock::Mutex;
use alloc::vec::Vec;
use core::ops::Range;

/// Vectors of a CPU that are messages: above exceptions and the legacy interrupt controllers', below our own.
pub const VECTORS: Range<u8> = 0x30..0xf0;

/// Whose a vector is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Number of the partition.
    pub partition: usize,
    /// Its function.
    pub slot: usize,
    /// The message of that.
    pub number: u16,
}

/// The vectors of all CPUs, handed out before guests run.
pub struct Vectors {
    /// By CPU, from the first of [`VECTORS`] on.
    owners: Mutex<Vec<Vec<Owner>>>,
}

impl Vectors {
    /// Those of so many CPUs, all free.
    pub fn new(cpus: usize) -> Self {
        let owners = (0..cpus).map(|_| Vec::new()).collect();
        Self {
            owners: Mutex::new(owners),
        }
    }

    /// A vector of one of `cpus` for `owner`, in turn, and which CPU's it is; `None` if all of theirs are taken.
    pub fn take(&self, cpus: &[u16], owner: Owner) -> Option<(usize, u8)> {
        let mut owners = self.owners.lock();
        let first = usize::from(owner.number);
        let mut turns = (first..first + cpus.len()).map(|turn| cpus[turn % cpus.len()]);
        let room = |cpu: &u16| owners[usize::from(*cpu)].len() < VECTORS.len();
        let cpu = usize::from(turns.find(room)?);
        owners[cpu].push(owner);
        Some((cpu, VECTORS.start + (owners[cpu].len() - 1) as u8))
    }

    /// Gives back all of `partition`, which was the last one to take some: nothing sends them.
    pub fn give_back(&self, partition: usize) {
        for owners in self.owners.lock().iter_mut() {
            while owners.last().is_some_and(|it| it.partition == partition) {
                owners.pop();
            }
        }
    }

    /// Whose `vector` of `cpu` is.
    pub fn owner(&self, cpu: usize, vector: u8) -> Option<Owner> {
        let index = usize::from(vector.checked_sub(VECTORS.start)?);
        self.owners.lock().get(cpu)?.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, VECTORS, Vectors};

    fn owner(partition: usize, number: u16) -> Owner {
        Owner {
            partition,
            slot: 1,
            number,
        }
    }

    /// Takes `count` for one function, each of which has to be nobody's before.
    fn take(vectors: &Vectors, cpus: &[u16], partition: usize, count: u16) -> Vec<(usize, u8)> {
        let one = |number| {
            let owner = owner(partition, number);
            let (cpu, vector) = vectors.take(cpus, owner).expect("there is one");
            assert!(VECTORS.contains(&vector) && cpus.contains(&(cpu as u16)));
            assert_eq!(vectors.owner(cpu, vector), Some(owner));
            (cpu, vector)
        };
        let mut taken: Vec<_> = (0..count).map(one).collect();
        let all = taken.clone();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), all.len(), "one of them was given twice");
        all
    }

    #[test]
    fn messages_go_to_the_cpus_in_turn_each_by_a_vector_of_its_own() {
        let vectors = Vectors::new(4);
        let first = take(&vectors, &[3, 1], 0, 5);
        let start = VECTORS.start;
        let (one, two, three) = (start, start + 1, start + 2);
        assert_eq!(first, [(3, one), (1, one), (3, two), (1, two), (3, three)]);
        // Another one's on a CPU of the same are others.
        assert_eq!(take(&vectors, &[1], 1, 1), [(1, three)]);
        assert_eq!(vectors.owner(1, two), Some(owner(0, 3)));
    }

    #[test]
    fn what_one_cpu_has_no_room_for_goes_to_another() {
        let vectors = Vectors::new(2);
        take(&vectors, &[0], 0, VECTORS.len() as u16);
        assert_eq!(vectors.take(&[0], owner(1, 0)), None);
        let rest = take(&vectors, &[0, 1], 1, VECTORS.len() as u16);
        assert!(rest.iter().all(|(cpu, _)| *cpu == 1));
        assert_eq!(vectors.take(&[0, 1], owner(1, 0)), None);
    }

    #[test]
    fn other_vectors_are_nobodys() {
        let vectors = Vectors::new(1);
        take(&vectors, &[0], 0, 2);
        for vector in
            (0..=u8::MAX).filter(|vector| !(VECTORS.start..VECTORS.start + 2).contains(vector))
        {
            assert_eq!(vectors.owner(0, vector), None, "{vector:#x}");
        }
        assert_eq!(vectors.owner(1, VECTORS.start), None);
    }

    #[test]
    fn those_of_a_partition_that_does_not_come_are_free_again() {
        let vectors = Vectors::new(2);
        let kept = take(&vectors, &[0, 1], 0, 3);
        let gone = take(&vectors, &[1, 0], 1, 7);
        vectors.give_back(1);
        for &(cpu, vector) in &gone {
            assert_eq!(vectors.owner(cpu, vector), None);
        }
        for (number, &(cpu, vector)) in (0..).zip(&kept) {
            assert_eq!(vectors.owner(cpu, vector), Some(owner(0, number)));
        }
        assert_eq!(take(&vectors, &[1, 0], 1, 7), gone);
    }
}
