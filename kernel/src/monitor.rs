//! What the hypervisor remembers of DMA faults: whose they are, how many, the last of them, and which get a line on the
//! console. Bounded in memory and in lines, whatever a device does.

use crate::config::Name;
use crate::machine::{IOMMU, PASID_ENTRY, STREAM, STREAM_ENTRY};
use crate::pci::Function;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use iommu::fault::{Fault, FaultReason, Stage};

/// Faults kept for a look back.
pub const HISTORY: usize = 256;
/// Lines for faults in any one second.
const LINES_PER_SECOND: u32 = 16;
const SECOND_NS: u64 = 1_000_000_000;
/// Faults of one partition, or of nobody, in any one second that make a storm. Far past what a guest's mistake brings:
/// one refused transfer of a disk is up to 1,024 records.
pub const STORM: u32 = 1 << 16;
/// Streams of nobody that are silenced at most: each may take a table, and a device can make numbers up.
const SILENCED: u32 = 64;

/// Who sends requests under an identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A PCI function.
    Function(Function),
    /// A device on the memory bus.
    Node(Name),
}

/// A fault, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributed {
    /// What the hardware said.
    pub fault: Fault,
    /// Whose the device identity is, if we know.
    pub sender: Option<Sender>,
    /// The partition that owned it when the fault was drained.
    pub partition: Option<usize>,
    /// Clock when it was drained.
    pub at_ns: u64,
}

/// What to say on the console about one fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// A line of its own, and how many before it went without one.
    Line {
        /// Faults since the last line that had none.
        unreported: u64,
    },
    /// Nothing: like the one before, or too many lines this second.
    Silent,
}

/// The record.
pub struct Monitor {
    /// At most [`HISTORY`], oldest first.
    history: VecDeque<Attributed>,
    /// By partition; the last is for devices that nobody owns.
    counts: Vec<u64>,
    lost: u64,
    unreported: u64,
    window_start_ns: u64,
    lines_in_window: u32,
    /// As `counts`: start of a second, and faults in it.
    rates: Vec<(u64, u32)>,
    silenced: u32,
}

impl Monitor {
    /// A record for `partitions` partitions.
    pub fn new(partitions: usize) -> Self {
        Self {
            history: VecDeque::with_capacity(HISTORY),
            counts: alloc::vec![0; partitions + 1],
            lost: 0,
            unreported: 0,
            window_start_ns: 0,
            lines_in_window: 0,
            rates: alloc::vec![(0, 0); partitions + 1],
            silenced: 0,
        }
    }

    /// Records one fault and decides whether it gets a line.
    ///
    /// A device that retries in small pieces sends many records of one attempt: only the first of a run with the same
    /// device, reason and page is shown.
    pub fn record(&mut self, fault: Attributed) -> Report {
        let repeat = self
            .history
            .back()
            .is_some_and(|last| same_attempt(last, &fault));
        let owner = fault.partition.unwrap_or(self.counts.len() - 1);
        self.counts[owner] += 1;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(fault);
        if repeat || !self.may_say(fault.at_ns) {
            self.unreported += 1;
            return Report::Silent;
        }
        Report::Line {
            unreported: core::mem::take(&mut self.unreported),
        }
    }

    /// The hardware dropped records, it was found at `at_ns`. Whether that gets a line.
    pub fn record_lost(&mut self, at_ns: u64) -> bool {
        self.lost += 1;
        self.may_say(at_ns)
    }

    /// Counts a fault that was recorded at `at_ns` into the rate of its partition: whether that is a storm.
    pub fn is_storm(&mut self, partition: Option<usize>, at_ns: u64) -> bool {
        let owner = partition.unwrap_or(self.rates.len() - 1);
        let (start, faults) = &mut self.rates[owner];
        if at_ns.saturating_sub(*start) >= SECOND_NS {
            (*start, *faults) = (at_ns, 0);
        }
        *faults = faults.saturating_add(1);
        *faults >= STORM
    }

    /// Whether one more stream of nobody may be silenced.
    pub fn silence(&mut self) -> bool {
        let more = self.silenced < SILENCED;
        self.silenced += u32::from(more);
        more
    }

    /// One of the lines of this second, if there is one left: for what else has to do with faults.
    pub fn may_say(&mut self, at_ns: u64) -> bool {
        if at_ns.saturating_sub(self.window_start_ns) >= SECOND_NS {
            self.window_start_ns = at_ns;
            self.lines_in_window = 0;
        }
        let left = self.lines_in_window < LINES_PER_SECOND;
        self.lines_in_window += u32::from(left);
        left
    }

    /// Faults attributed to `partition`, or to nobody with `None`.
    pub fn count(&self, partition: Option<usize>) -> u64 {
        self.counts[partition.unwrap_or(self.counts.len() - 1)]
    }

    /// How often the hardware said that it had dropped records.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The faults still kept, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Attributed> {
        self.history.iter()
    }
}

fn same_attempt(a: &Attributed, b: &Attributed) -> bool {
    let key = |f: &Attributed| {
        (
            f.fault.iommu,
            f.fault.device,
            f.fault.reason,
            f.fault.write,
            f.partition,
            f.fault.iova.map(|at| at.0 >> 12),
        )
    };
    key(a) == key(b)
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(function) => function.fmt(f),
            Self::Node(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Attributed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = &self.fault;
        write!(
            f,
            "dma fault: {IOMMU}{} {STREAM} {}",
            fault.iommu.0, fault.device
        )?;
        match self.sender {
            Some(sender) => write!(f, " {sender}")?,
            None => write!(f, " (no device)")?,
        }
        // Records without an address do not say either whether it was a write.
        match (fault.iova, fault.write) {
            (Some(iova), true) => write!(f, " write at {iova}")?,
            (Some(iova), false) => write!(f, " read at {iova}")?,
            (None, _) => f.write_str(" access")?,
        }
        let stage = match fault.stage {
            Stage::None => "",
            Stage::One => "stage 1: ",
            Stage::Two => "stage 2: ",
        };
        let reason = match fault.reason {
            FaultReason::BadDeviceEntry => return write!(f, ": {stage}no {STREAM_ENTRY} for it"),
            FaultReason::BadContext => return write!(f, ": {stage}bad {PASID_ENTRY}"),
            FaultReason::Translation => "not mapped",
            FaultReason::AddressSize => "address out of range",
            FaultReason::AccessFlag => "access flag clear",
            FaultReason::Permission => "not permitted",
            FaultReason::FetchAbort => "table fetch aborted",
            FaultReason::Unsupported => "unsupported kind of request",
            FaultReason::Other(code) => return write!(f, ": {stage}event {code:#x}"),
            _ => "unknown reason",
        };
        write!(f, ": {stage}{reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Attributed, HISTORY, LINES_PER_SECOND, Monitor, Report, SECOND_NS, STORM};
    use iommu::addr::Iova;
    use iommu::fault::{Fault, FaultReason, Stage};
    use iommu::id::{DeviceId, IommuIndex};

    fn fault(iova: u64, partition: Option<usize>, at_ns: u64) -> Attributed {
        Attributed {
            fault: Fault {
                iommu: IommuIndex(0),
                device: DeviceId(0x10),
                pasid: None,
                reason: FaultReason::Translation,
                stage: Stage::Two,
                iova: Some(Iova(iova)),
                ipa: None,
                write: true,
                privileged: false,
                instruction: false,
                stalled: false,
                tag: 0,
                raw: [0; 4],
            },
            sender: None,
            partition,
            at_ns,
        }
    }

    #[test]
    fn pieces_of_one_attempt_get_one_line_and_are_all_counted() {
        let mut monitor = Monitor::new(2);
        assert_eq!(
            monitor.record(fault(0x8000_0000, Some(1), 0)),
            Report::Line { unreported: 0 }
        );
        for piece in 1..16 {
            assert_eq!(
                monitor.record(fault(0x8000_0000 + 4 * piece, Some(1), 0)),
                Report::Silent
            );
        }
        assert_eq!(
            monitor.record(fault(0x9000_0000, Some(1), 0)),
            Report::Line { unreported: 15 }
        );
        assert_eq!(
            (
                monitor.count(Some(0)),
                monitor.count(Some(1)),
                monitor.count(None)
            ),
            (0, 17, 0)
        );
    }

    #[test]
    fn a_storm_keeps_to_its_lines_and_its_memory() {
        let mut monitor = Monitor::new(1);
        let lines = (0..100_000u64)
            .filter(|&n| monitor.record(fault(n << 12, None, 0)) != Report::Silent)
            .count();
        assert_eq!(lines, LINES_PER_SECOND as usize);
        assert_eq!(monitor.count(None), 100_000);
        assert_eq!(monitor.history().count(), HISTORY);
        assert_eq!(
            monitor.history().last().unwrap().fault.iova,
            Some(Iova(99_999 << 12))
        );
        assert_eq!(
            monitor.record(fault(0, None, 1_000_000_000)),
            Report::Line {
                unreported: 100_000 - u64::from(LINES_PER_SECOND)
            }
        );
    }

    #[test]
    fn lost_records_share_the_lines_of_faults() {
        let mut monitor = Monitor::new(1);
        let lines = (0..1000).filter(|_| monitor.record_lost(5)).count();
        assert_eq!(lines, LINES_PER_SECOND as usize);
        assert_eq!(monitor.lost(), 1000);
        assert_eq!(monitor.record(fault(0, None, 6)), Report::Silent);
        assert!(monitor.record_lost(5 + SECOND_NS));
    }

    #[test]
    fn a_storm_is_one_of_a_partition_within_a_second() {
        let mut monitor = Monitor::new(2);
        let storm = |monitor: &mut Monitor, partition, at_ns| {
            (0..STORM).any(|_| monitor.is_storm(partition, at_ns))
        };
        assert!((1..STORM).all(|_| !monitor.is_storm(Some(0), 0)));
        // Others, and the next second, start from nothing.
        assert!(!monitor.is_storm(Some(1), 0) && !monitor.is_storm(None, 0));
        assert!(!monitor.is_storm(Some(0), SECOND_NS));
        assert!(storm(&mut monitor, Some(0), SECOND_NS + 1));
        assert!(monitor.is_storm(Some(0), SECOND_NS + 2));
    }

    #[test]
    fn made_up_streams_are_not_silenced_for_ever() {
        let mut monitor = Monitor::new(1);
        let silenced = (0..1000).filter(|_| monitor.silence()).count();
        assert_eq!(silenced, 64);
    }

    #[test]
    fn a_line_names_device_address_and_reason() {
        assert_eq!(
            fault(0x1234_5000, None, 0).to_string(),
            "dma fault: smmu0 stream 0x10 (no device) write at 0x12345000: stage 2: not mapped"
        );
    }
}
