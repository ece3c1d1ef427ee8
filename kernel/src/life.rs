//! When a partition runs: the power of its vCPUs, and how all of them come to a halt before it is stopped or restarted.
//!
//! Each vCPU belongs to one physical CPU, which asks [`Life::next`] what to do whenever it is outside the guest. The CPU of
//! vCPU 0 alone changes the partition as a whole, and only when no vCPU is inside.

use crate::lock::Mutex;
use crate::vdev::CpuSet;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// A vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Index of its partition.
    pub partition: usize,
    /// Its number there.
    pub vcpu: usize,
}

/// Where a vCPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Program counter, a guest physical address: the MMU is off. On x86_64 that of a start-up message; vCPU 0 starts as its
    /// kernel's boot protocol says.
    pub pc: u64,
    /// x0.
    pub argument: u64,
}

/// What the owner wants of a partition beside running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Stop: its devices are refused DMA, its vCPUs off.
    Stop,
    /// Stop, and start again as after power-on.
    Restart,
}

/// What a vCPU's physical CPU does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Resets the vCPU and enters the guest there.
    Enter(Entry),
    /// Nothing to run: serves interrupts until kicked.
    Wait,
    /// All vCPUs are outside: this CPU carries the change out, then calls [`Life::started`] or [`Life::stopped`].
    Carry(Change),
}

/// Power of one vCPU (PSCI DEN 0022, section 5.7: AFFINITY_INFO states).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Off.
    Off,
    /// Told to start, not there yet: ON_PENDING.
    Starting(Entry),
    /// On.
    On,
}

struct State {
    power: Vec<Power>,
    change: Option<Change>,
    inside: CpuSet,
    running: bool,
}

/// See the module's description.
pub struct Life {
    state: Mutex<State>,
    /// Mirror of "something other than running is asked for", so that the way of a guest exit takes no lock.
    leave: AtomicBool,
}

impl Life {
    /// A stopped partition with `cpus` vCPUs, at most 64.
    pub fn new(cpus: usize) -> Self {
        assert!((1..=64).contains(&cpus), "one bit a vCPU");
        Self {
            state: Mutex::new(State {
                power: alloc::vec![Power::Off; cpus],
                change: None,
                inside: CpuSet::NONE,
                running: false,
            }),
            leave: AtomicBool::new(false),
        }
    }

    /// Starts the partition: vCPU 0 goes to `entry`. Only while it is stopped, or by the CPU that carries a restart. A
    /// stop that was asked for meanwhile stands.
    pub fn started(&self, entry: Entry) {
        let mut state = self.state.lock();
        assert!(
            state.inside == CpuSet::NONE,
            "no vCPU is inside a partition that starts"
        );
        state.power.fill(Power::Off);
        state.power[0] = Power::Starting(entry);
        state.change = state.change.filter(|change| *change == Change::Stop);
        state.running = true;
        self.leave.store(state.change.is_some(), Ordering::Release);
    }

    /// The change asked for is carried out: nothing runs.
    pub fn stopped(&self) {
        let mut state = self.state.lock();
        assert!(
            state.inside == CpuSet::NONE,
            "no vCPU is inside a partition that stops"
        );
        state.power.fill(Power::Off);
        state.change = None;
        state.running = false;
        self.leave.store(false, Ordering::Release);
    }

    /// Asks for a change; a stop wins over a restart. The caller kicks the returned vCPUs.
    pub fn ask(&self, change: Change) -> CpuSet {
        let mut state = self.state.lock();
        if !state.running {
            return CpuSet::NONE;
        }
        if state.change != Some(Change::Stop) {
            state.change = Some(change);
        }
        self.leave.store(true, Ordering::Release);
        CpuSet(u64::MAX >> (64 - state.power.len()))
    }

    /// Whether the partition runs (or is on its way down).
    pub fn is_running(&self) -> bool {
        self.state.lock().running
    }

    /// Whether vCPUs have to come out of the guest.
    pub fn must_leave(&self) -> bool {
        self.leave.load(Ordering::Acquire)
    }

    /// What `vcpu`, which is outside the guest, does next; with whom to kick because it came out.
    pub fn next(&self, vcpu: usize) -> (Next, CpuSet) {
        let mut state = self.state.lock();
        let came_out = state.inside.contains(vcpu);
        state.inside.0 &= !(1 << vcpu);
        if let Some(change) = state.change {
            let all_out = state.inside == CpuSet::NONE;
            let next = if vcpu == 0 && all_out {
                Next::Carry(change)
            } else {
                Next::Wait
            };
            let kick = if vcpu != 0 && all_out && came_out {
                CpuSet::one(0)
            } else {
                CpuSet::NONE
            };
            return (next, kick);
        }
        match state.power[vcpu] {
            Power::Starting(entry) => {
                state.power[vcpu] = Power::On;
                state.inside = state.inside.union(CpuSet::one(vcpu));
                (Next::Enter(entry), CpuSet::NONE)
            }
            Power::On | Power::Off => (Next::Wait, CpuSet::NONE),
        }
    }

    /// Power of `vcpu`, `None` if there is none of that number.
    pub fn power(&self, vcpu: usize) -> Option<Power> {
        self.state.lock().power.get(vcpu).copied()
    }

    /// PSCI CPU_ON, or a start-up message: starts `vcpu` if it is off; what it was before. The caller kicks it if it was off.
    pub fn turn_on(&self, vcpu: usize, entry: Entry) -> Power {
        let mut state = self.state.lock();
        let before = state.power[vcpu];
        if before == Power::Off {
            state.power[vcpu] = Power::Starting(entry);
        }
        before
    }

    /// PSCI CPU_OFF, by the vCPU itself, which leaves the guest now; or INIT, by any.
    pub fn turn_off(&self, vcpu: usize) {
        self.state.lock().power[vcpu] = Power::Off;
    }
}

/// By physical CPU: the vCPU that is on it, for partitions in this order with these CPUs, all of which exist.
pub fn owners<'a>(
    cpus: usize,
    partitions: impl Iterator<Item = &'a [usize]>,
) -> Vec<Option<Owner>> {
    let mut owners = alloc::vec![None; cpus];
    for (partition, own) in partitions.enumerate() {
        for (vcpu, &cpu) in own.iter().enumerate() {
            owners[cpu] = Some(Owner { partition, vcpu });
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::{Change, Entry, Life, Next, Power};
    use crate::vdev::CpuSet;

    const ENTRY: Entry = Entry {
        pc: 0x4000_0000,
        argument: 7,
    };

    #[test]
    fn only_vcpu_0_starts_by_itself() {
        let life = Life::new(2);
        assert_eq!(life.next(0).0, Next::Wait);
        life.started(ENTRY);
        assert_eq!(life.next(1).0, Next::Wait);
        assert_eq!(life.next(0).0, Next::Enter(ENTRY));
        assert_eq!(life.power(0), Some(Power::On));
        assert_eq!(life.power(2), None);
    }

    #[test]
    fn cpu_on_is_refused_while_starting_or_on() {
        let life = Life::new(2);
        life.started(ENTRY);
        assert_eq!(life.turn_on(1, ENTRY), Power::Off);
        assert_eq!(life.turn_on(1, ENTRY), Power::Starting(ENTRY));
        assert_eq!(life.next(1).0, Next::Enter(ENTRY));
        assert_eq!(life.turn_on(1, ENTRY), Power::On);
        life.turn_off(1);
        assert_eq!(life.next(1).0, Next::Wait);
        assert_eq!(life.turn_on(1, ENTRY), Power::Off);
    }

    #[test]
    fn a_change_waits_until_the_last_vcpu_is_outside() {
        let life = Life::new(3);
        life.started(ENTRY);
        life.turn_on(2, ENTRY);
        for vcpu in 0..3 {
            life.next(vcpu);
        }
        assert_eq!(life.ask(Change::Restart), CpuSet(0b111));
        assert!(life.must_leave());
        assert_eq!(life.next(0), (Next::Wait, CpuSet::NONE));
        assert_eq!(life.next(1), (Next::Wait, CpuSet::NONE));
        assert_eq!(life.next(2), (Next::Wait, CpuSet::one(0)));
        assert_eq!(life.next(0), (Next::Carry(Change::Restart), CpuSet::NONE));
        life.started(ENTRY);
        assert!(!life.must_leave());
        assert_eq!(life.power(2), Some(Power::Off));
        assert_eq!(life.next(0).0, Next::Enter(ENTRY));
    }

    #[test]
    fn a_stop_that_comes_while_a_restart_is_carried_is_not_lost() {
        let life = Life::new(1);
        life.started(ENTRY);
        life.ask(Change::Restart);
        assert_eq!(life.next(0).0, Next::Carry(Change::Restart));
        life.ask(Change::Stop);
        life.started(ENTRY);
        assert!(life.must_leave());
        assert_eq!(life.next(0).0, Next::Carry(Change::Stop));
        life.stopped();
        assert!(!life.must_leave() && !life.is_running());
    }

    #[test]
    fn a_stop_wins_over_a_restart_and_a_stopped_partition_takes_neither() {
        let life = Life::new(1);
        life.started(ENTRY);
        life.ask(Change::Stop);
        life.ask(Change::Restart);
        assert_eq!(life.next(0).0, Next::Carry(Change::Stop));
        life.stopped();
        assert_eq!(life.ask(Change::Restart), CpuSet::NONE);
        assert!(!life.is_running());
        assert_eq!(life.next(0).0, Next::Wait);
    }
}
