//! What each CPU did last, how often, and for how long at most: a bounded ring of typed events, a count of each kind and the
//! longest time from an exit to the next entry, a few stores an event. Read on a panic and for statistics, by any CPU at any time: an event that is written meanwhile may show wrong.

#[cfg_attr(
    all(target_os = "none", target_arch = "x86_64"),
    path = "event_x86_64.rs"
)]
mod event;
#[cfg(test)]
mod event_x86_64;
#[cfg(test)]
mod tests;

pub use event::{EXITS, Event, KINDS};

use crate::gather::Gather;
use crate::say;
use alloc::vec::Vec;
use arch::clock;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use event::NAMES;

/// Events that are kept, a CPU.
pub const DEPTH: usize = 64;
/// Of them a panic shows these.
pub const LAST: usize = 8;
/// Counts of each kind, by code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts(pub [u64; KINDS]);

impl Counts {
    /// Exits of all kinds.
    pub fn exits(&self) -> u64 {
        self.0[..EXITS].iter().sum()
    }

    fn add(mut self, other: Self) -> Self {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
        self
    }
}

/// The longest time from an exit to the next entry, in clock ticks, by code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Longest(pub [u64; EXITS]);

/// By kind, without those that there were none of.
impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (name, ticks) in NAMES.iter().zip(self.0) {
            if ticks != 0 {
                write!(f, "{before}{name} {ticks}")?;
                before = ", ";
            }
        }
        Ok(())
    }
}

/// The record of one CPU, which alone writes it.
pub struct CpuTrace {
    /// Events so far: the next one goes to this one's place, modulo [`DEPTH`].
    next: AtomicU64,
    /// Clock ticks and code of each.
    ring: [[AtomicU64; 2]; DEPTH],
    counts: [AtomicU64; KINDS],
    /// By kind of exit, ticks until the guest was entered again.
    longest: [AtomicU64; EXITS],
    /// The exit that is being handled: its clock ticks and code.
    exit: [AtomicU64; 2],
}

impl CpuTrace {
    const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            ring: [const { [const { AtomicU64::new(0) }; 2] }; DEPTH],
            counts: [const { AtomicU64::new(0) }; KINDS],
            longest: [const { AtomicU64::new(0) }; EXITS],
            exit: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// Records `event`. Only on the CPU that this belongs to.
    // Inlined, as each caller knows its kind.
    #[inline(always)]
    pub fn record(&self, event: Event) {
        let now = clock::now();
        self.record_at(event.encode(), now);
    }

    /// Records `event`, an exit: until [`resume`](Self::resume) it is being handled.
    #[inline(always)]
    pub fn exit(&self, event: Event) {
        self.exit_at(event.encode(), clock::now());
    }

    #[inline(never)]
    fn exit_at(&self, word: u64, now: u64) {
        let [time, code] = &self.exit;
        time.store(now, Ordering::Relaxed);
        code.store(word >> 56, Ordering::Relaxed);
        self.record_at(word, now);
    }

    /// The guest is about to be entered.
    pub fn resume(&self) {
        let [time, code] = &self.exit;
        let time = time.load(Ordering::Relaxed);
        let Some(longest) = self.longest.get(code.load(Ordering::Relaxed) as usize) else {
            return;
        };
        let ticks = clock::now().saturating_sub(time);
        // Before the first exit there is nothing to measure from.
        if time != 0 && ticks > longest.load(Ordering::Relaxed) {
            longest.store(ticks, Ordering::Relaxed);
        }
    }

    /// A vCPU starts: what was before it is not an exit of its.
    pub fn start(&self, pc: u64) {
        self.exit[0].store(0, Ordering::Relaxed);
        self.record(Event::start(pc));
    }

    fn record_at(&self, word: u64, now: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let [time, code] = &self.ring[next as usize % DEPTH];
        time.store(now, Ordering::Relaxed);
        code.store(word, Ordering::Relaxed);
        // The order of the record and of its number is that of the panic that wants to know.
        self.next.store(next.wrapping_add(1), Ordering::Release);
        if let Some(count) = self.counts.get((word >> 56) as usize) {
            let before = count.load(Ordering::Relaxed);
            count.store(before.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        Counts(core::array::from_fn(|kind| {
            self.counts[kind].load(Ordering::Relaxed)
        }))
    }

    /// By kind of exit, the most ticks from one to the next entry.
    fn longest(&self) -> Longest {
        Longest(core::array::from_fn(|kind| {
            self.longest[kind].load(Ordering::Relaxed)
        }))
    }

    /// The last events, at most `limit`, oldest first, with their clock ticks.
    pub fn last(&self, limit: usize) -> impl Iterator<Item = (u64, Event)> {
        let next = self.next.load(Ordering::Acquire);
        let first = next.saturating_sub(limit.min(DEPTH) as u64);
        (first..next).filter_map(|at| {
            let [time, code] = &self.ring[at as usize % DEPTH];
            let event = Event::decode(code.load(Ordering::Relaxed))?;
            Some((time.load(Ordering::Relaxed), event))
        })
    }
}

/// The records of all CPUs.
pub struct Trace(Vec<CpuTrace>);

impl Trace {
    /// For `cpus` CPUs.
    pub fn new(cpus: usize) -> Self {
        Self((0..cpus).map(|_| CpuTrace::new()).gather())
    }

    /// The record of CPU `cpu`, which exists.
    pub fn cpu(&self, cpu: usize) -> &CpuTrace {
        &self.0[cpu]
    }

    /// The record of the CPU that this runs on.
    pub fn here(&self) -> &CpuTrace {
        self.cpu(arch::cpu::index())
    }

    /// Counts of several CPUs together.
    pub fn counts(&self, cpus: impl IntoIterator<Item = usize>) -> Counts {
        let counts = cpus.into_iter().map(|cpu| self.cpu(cpu).counts());
        counts.fold(Counts::default(), Counts::add)
    }

    /// The longest of several CPUs.
    pub fn longest(&self, cpus: impl IntoIterator<Item = usize>) -> Longest {
        let longest = cpus.into_iter().map(|cpu| self.cpu(cpu).longest());
        longest.fold(Longest::default(), |one, other| {
            Longest(core::array::from_fn(|kind| one.0[kind].max(other.0[kind])))
        })
    }

    /// Says how a partition on `cpus` is doing, and what its guest was left for.
    pub fn say_state(&self, name: &str, cpus: &[usize], state: fmt::Arguments<'_>) {
        let cpus = || cpus.iter().copied();
        say!("{state}, {}", self.counts(cpus()));
        say!(
            "{name}: longest handling of an exit, in ticks: {}",
            self.longest(cpus())
        );
    }

    /// Writes the last events of each CPU, and takes no lock: for the end of all.
    pub fn dump(&self, limit: usize, out: &mut dyn fmt::Write) -> fmt::Result {
        for (cpu, trace) in self.0.iter().enumerate() {
            for (ticks, event) in trace.last(limit) {
                writeln!(out, "  CPU {cpu} at {ticks}: {event}")?;
            }
        }
        Ok(())
    }
}

/// Exits, by kind, without those that there were none of.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits", self.exits())?;
        let mut before = " (";
        for (name, count) in NAMES.iter().zip(self.0).take(EXITS) {
            if count != 0 {
                write!(f, "{before}{name} {count}")?;
                before = ", ";
            }
        }
        f.write_str(if before == ", " { ")" } else { "" })
    }
}
