//! What each CPU did last, how often, and for how long at most: a bounded ring of typed events, a count of each kind and the
//! longest time from an exit to the next entry, a few stores an event. Read on a panic and for statistics, by any CPU at any time: an event that is written meanwhile may show wrong.

use crate::gather::Gather;
use alloc::vec::Vec;
use arch::clock;
use arch::vcpu::{Exit, SysregAccess};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Events that are kept, a CPU.
pub const DEPTH: usize = 64;
/// Kinds of events.
pub const KINDS: usize = 12;
/// Kinds of exits, which come first.
pub const EXITS: usize = 9;

/// What a kind is called, in the order of their codes.
const NAMES: [&str; KINDS] = [
    "interrupt",
    "mmio",
    "abort",
    "call",
    "system register",
    "wait",
    "system error",
    "other",
    "smmu",
    "start",
    "take",
    "fault",
];

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Exit: a physical interrupt.
    Interrupt,
    /// Exit: a load or store that a virtual device answers.
    Mmio {
        /// A store.
        write: bool,
        /// Where, up to bit 47.
        ipa: u64,
    },
    /// Exit: a stage-2 fault that nothing answers.
    Abort {
        /// Where, up to bit 47; 0 where the CPU does not say.
        ipa: u64,
    },
    /// Exit: a call; its function ID.
    Call(u32),
    /// Exit: a trapped system register; op0 to op2 as in an MRS (DDI 0487, C6.2).
    SystemRegister(u16),
    /// Exit: WFI or WFE.
    Wait,
    /// Exit: a system error; the low half of its syndrome.
    SystemError(u32),
    /// Exit: anything else; the low half of its syndrome.
    Other(u32),
    /// Exit: a store to a register of the guest's own SMMU.
    Smmu {
        /// Where, up to bit 47.
        ipa: u64,
    },
    /// A vCPU starts, at this program counter up to bit 47.
    Start(u64),
    /// A physical interrupt is taken; its INTID.
    Take(u32),
    /// A DMA fault is served; the StreamID.
    Fault(u32),
}

const DETAIL: u64 = (1 << 48) - 1;
const WRITE: u64 = 1 << 48;

impl Event {
    /// What an exit is. `function` is the guest's x0, for a call.
    pub fn of(exit: &Exit, function: u64) -> Self {
        match *exit {
            Exit::Interrupt => Self::Interrupt,
            Exit::ReadOnly(access) => Self::Smmu { ipa: access.ipa },
            Exit::Mmio(access) => Self::Mmio {
                write: access.write,
                ipa: access.ipa,
            },
            Exit::Retry => Self::Abort { ipa: 0 },
            Exit::Abort(info) => Self::Abort {
                ipa: info.ipa.unwrap_or(0),
            },
            Exit::Hypercall { .. } | Exit::Smc { .. } => Self::Call(function as u32),
            Exit::SystemRegister(access) => Self::SystemRegister(encoding(&access)),
            Exit::Wait { .. } => Self::Wait,
            Exit::SError(syndrome) => Self::SystemError(syndrome.0 as u32),
            Exit::Unknown(esr) => Self::Other(esr as u32),
        }
    }

    /// Code in bits 63:56, the rest below.
    #[inline(always)]
    fn encode(self) -> u64 {
        let word = |kind: u64, detail: u64| kind << 56 | detail;
        match self {
            Self::Interrupt => word(0, 0),
            Self::Mmio { write, ipa } => word(1, (ipa & DETAIL) | if write { WRITE } else { 0 }),
            Self::Abort { ipa } => word(2, ipa & DETAIL),
            Self::Call(function) => word(3, function.into()),
            Self::SystemRegister(register) => word(4, register.into()),
            Self::Wait => word(5, 0),
            Self::SystemError(esr) => word(6, esr.into()),
            Self::Other(esr) => word(7, esr.into()),
            Self::Smmu { ipa } => word(8, ipa & DETAIL),
            Self::Start(pc) => word(9, pc & DETAIL),
            Self::Take(intid) => word(10, intid.into()),
            Self::Fault(stream) => word(11, stream.into()),
        }
    }

    fn decode(word: u64) -> Option<Self> {
        let detail = word & DETAIL;
        Some(match word >> 56 {
            0 => Self::Interrupt,
            1 => Self::Mmio {
                write: word & WRITE != 0,
                ipa: detail,
            },
            2 => Self::Abort { ipa: detail },
            3 => Self::Call(detail as u32),
            4 => Self::SystemRegister(detail as u16),
            5 => Self::Wait,
            6 => Self::SystemError(detail as u32),
            7 => Self::Other(detail as u32),
            8 => Self::Smmu { ipa: detail },
            9 => Self::Start(detail),
            10 => Self::Take(detail as u32),
            11 => Self::Fault(detail as u32),
            _ => return None,
        })
    }
}

fn encoding(access: &SysregAccess) -> u16 {
    u16::from(access.op0) << 14
        | u16::from(access.op1) << 11
        | u16::from(access.crn) << 7
        | u16::from(access.crm) << 3
        | u16::from(access.op2)
}

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
    pub fn record(&self, event: Event) {
        let now = clock::now();
        self.record_at(event.encode(), now);
    }

    /// Records `event`, an exit: until [`resume`](Self::resume) it is being handled.
    pub fn exit(&self, event: Event) {
        let (now, word) = (clock::now(), event.encode());
        let [time, code] = &self.exit;
        time.store(now, Ordering::Relaxed);
        code.store(word >> 56, Ordering::Relaxed);
        self.record_at(word, now);
    }

    /// The guest is about to be entered.
    pub fn resume(&self) {
        let [time, code] = &self.exit;
        let time = time.load(Ordering::Relaxed);
        let longest = &self.longest[code.load(Ordering::Relaxed) as usize % EXITS];
        let ticks = clock::now().saturating_sub(time);
        // Before the first exit there is nothing to measure from.
        if time != 0 && ticks > longest.load(Ordering::Relaxed) {
            longest.store(ticks, Ordering::Relaxed);
        }
    }

    /// A vCPU starts: what was before it is not an exit of its.
    pub fn start(&self, pc: u64) {
        self.exit[0].store(0, Ordering::Relaxed);
        self.record(Event::Start(pc));
    }

    fn record_at(&self, word: u64, now: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let [time, code] = &self.ring[next as usize % DEPTH];
        time.store(now, Ordering::Relaxed);
        code.store(word, Ordering::Relaxed);
        // The order of the record and of its number is that of the panic that wants to know.
        self.next.store(next + 1, Ordering::Release);
        let count = &self.counts[(word >> 56) as usize % KINDS];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
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

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[(self.encode() >> 56) as usize])?;
        match *self {
            Self::Interrupt | Self::Wait => Ok(()),
            Self::Mmio { write: true, ipa } => write!(f, " write {ipa:#x}"),
            Self::Mmio { write: false, ipa } => write!(f, " read {ipa:#x}"),
            Self::Abort { ipa } | Self::Smmu { ipa } => write!(f, " {ipa:#x}"),
            Self::Call(number)
            | Self::SystemError(number)
            | Self::Other(number)
            | Self::Fault(number) => write!(f, " {number:#x}"),
            Self::Take(intid) => write!(f, " {intid}"),
            Self::SystemRegister(register) => write!(
                f,
                " S{}_{}_C{}_C{}_{}",
                register >> 14,
                register >> 11 & 7,
                register >> 7 & 15,
                register >> 3 & 15,
                register & 7
            ),
            Self::Start(pc) => write!(f, " {pc:#x}"),
        }
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

#[cfg(test)]
mod tests {
    use super::{CpuTrace, DEPTH, EXITS, Event, KINDS, Trace};
    use arch::vcpu::{Exit, SysregAccess};

    const ALL: [Event; KINDS] = [
        Event::Interrupt,
        Event::Mmio {
            write: true,
            ipa: 0xffff_0900_0018,
        },
        Event::Abort { ipa: 0x7000 },
        Event::Call(0xc400_0003),
        Event::SystemRegister(0xc65d),
        Event::Wait,
        Event::SystemError(0xbe00_0000),
        Event::Other(u32::MAX),
        Event::Smmu { ipa: 0x905_0098 },
        Event::Start(0x4020_0000),
        Event::Take(8192),
        Event::Fault(0x10),
    ];

    #[test]
    fn every_event_comes_back_as_it_was() {
        for event in ALL {
            assert_eq!(Event::decode(event.encode()), Some(event));
        }
        assert_eq!(Event::decode(12 << 56), None);
    }

    #[test]
    fn the_last_events_stay_and_all_are_counted() {
        let trace = CpuTrace::new();
        for intid in 0..1000 {
            trace.record(Event::Take(intid));
        }
        trace.record(Event::Wait);
        let last: Vec<Event> = trace.last(3).map(|(_, event)| event).collect();
        assert_eq!(last, [Event::Take(998), Event::Take(999), Event::Wait]);
        assert_eq!(trace.last(usize::MAX).count(), DEPTH);
        let times: Vec<u64> = trace.last(DEPTH).map(|(time, _)| time).collect();
        assert!(times.is_sorted());
        assert_eq!(trace.counts().0[10], 1000);
        assert_eq!(trace.counts().exits(), 1);
    }

    #[test]
    fn statistics_show_what_there_was() {
        let trace = Trace::new(3);
        assert_eq!(trace.counts([0, 1, 2]).to_string(), "0 exits");
        trace.cpu(0).record(ALL[1]);
        trace.cpu(2).record(ALL[1]);
        trace.cpu(2).record(Event::Interrupt);
        trace.cpu(1).record(Event::Wait);
        trace.cpu(2).record(Event::Take(27));
        let counts = trace.counts([0, 2]);
        assert_eq!(counts.to_string(), "3 exits (interrupt 1, mmio 2)");
        let mut out = String::new();
        trace.dump(1, &mut out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].ends_with(": mmio write 0xffff09000018"), "{out}");
        assert!(lines[1].ends_with(": wait"), "{out}");
    }

    #[test]
    fn the_longest_stay_is_from_an_exit_to_the_next_entry() {
        let trace = Trace::new(2);
        trace.cpu(0).resume();
        assert_eq!(trace.longest([0]).to_string(), "");
        let cpu = trace.cpu(0);
        cpu.exit(Event::Smmu { ipa: 0 });
        std::thread::sleep(std::time::Duration::from_millis(2));
        cpu.record(Event::Take(27));
        cpu.resume();
        let longest = trace.longest([0, 1]);
        assert!(longest.0[8] > 0 && longest.0[..8].iter().all(|it| *it == 0));
        assert_eq!(longest.to_string(), format!("smmu {}", longest.0[8]));
        cpu.exit(Event::Smmu { ipa: 0 });
        cpu.resume();
        assert_eq!(trace.longest([0]), longest);
        // What a vCPU that was off does next is no answer to its last exit.
        cpu.exit(Event::Call(0));
        cpu.start(0);
        cpu.resume();
        assert_eq!(trace.longest([0]), longest);
    }

    #[test]
    fn an_exit_is_recorded_as_what_it_is() {
        // ICC_SGI1R_EL1 is S3_0_C12_C11_5.
        let register = SysregAccess {
            op0: 3,
            op1: 0,
            crn: 12,
            crm: 11,
            op2: 5,
            reg: 0,
            write: true,
        };
        let event = Event::of(&Exit::SystemRegister(register), 0);
        assert_eq!(event.to_string(), "system register S3_0_C12_C11_5");
        let call = Event::of(&Exit::Hypercall { imm: 0 }, 0xdead_8400_0008);
        assert_eq!(call.to_string(), "call 0x84000008");
        assert!(
            ALL[..EXITS]
                .iter()
                .all(|event| event.encode() >> 56 < EXITS as u64)
        );
    }
}
