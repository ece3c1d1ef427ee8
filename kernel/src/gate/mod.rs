//! Everything about DMA that partitions share: the IOMMUs, the way of messages, the buses, and the record of faults.

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
mod smmu;

use crate::lock::Mutex;
use crate::machine::{Ecam, IOMMU, Iommu};
use crate::messages;
use crate::monitor::{Attributed, Monitor, Report, Sender};
use crate::partition::Partition;
use crate::pci::Topology;
use crate::system::System;
use crate::trace::Event;
use alloc::sync::Arc;
use alloc::vec::Vec;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
use arch::gic::{Intid, Trigger};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use iommu::addr::Iova;
use iommu::fault::{Fault, FaultReason, Stage};
use iommu::id::{DeviceId, IommuIndex};
use iommu::object::{Delivery, Item, Record};
use iommu::physical::{Answer, IommuError, PhysicalIommu, PriRequest, StreamConfig, Waiting};

/// Faults, and page requests, taken in one service, so that a burst cannot keep a CPU; what is left raises the interrupt again
/// or is polled for at the next one.
const FAULT_BATCH: usize = 8;
/// Time between two looks at the IOMMUs: as long as one that lost its state may let DMA pass.
const WATCH_NS: u64 = 10_000_000;
/// Services that take the longest event queue there is (2^10 records) twice.
const FAULT_SERVICES: usize = 2 * (1 << 10) / FAULT_BATCH;

const NO_FAULT: Fault = Fault {
    iommu: IommuIndex(0),
    device: DeviceId(0),
    pasid: None,
    reason: FaultReason::Other(0),
    stage: Stage::None,
    iova: None,
    ipa: None,
    write: false,
    privileged: false,
    instruction: false,
    stalled: false,
    tag: 0,
    raw: [0; 4],
};

const NO_REQUEST: PriRequest = PriRequest {
    iommu: IommuIndex(0),
    device: DeviceId(0),
    pasid: None,
    address: Iova(0),
    group: 0,
    last: false,
    read: false,
    write: false,
    execute: false,
    privileged: false,
};

/// One physical IOMMU.
pub struct Unit {
    /// phandle in the device tree, or the place in ACPI's table, which identities name.
    pub phandle: u32,
    /// What partitions' objects drive.
    pub iommu: Arc<Iommu>,
    /// Held by who takes its faults, until all that were taken have reached the policies: so whoever has held it after a
    /// stream was closed knows that nothing of it is on its way.
    pub serving: Mutex<()>,
    /// It is beyond help, which was said.
    pub failed: AtomicBool,
    /// Event and error interrupts, and how they signal.
    #[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
    pub irqs: Vec<(Intid, Trigger)>,
}

/// See the module's description.
pub struct Gate {
    /// In the order in which firmware describes them.
    pub units: Vec<Unit>,
    /// Where devices' messages go.
    pub messages: messages::Shared,
    /// Every function of the machine.
    pub topology: Topology,
    /// Configuration space.
    pub buses: Ecam,
    /// Who owns which stream.
    pub streams: Vec<Stream>,
    /// What went wrong so far.
    pub monitor: Mutex<Monitor>,
    /// When the IOMMUs are looked at again.
    pub next_watch_ns: AtomicU64,
    /// When what waits for an answer of a guest has become older.
    #[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
    pub next_age_ns: AtomicU64,
}

/// A stream of a device that the machine knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Where.
    pub iommu: IommuIndex,
    /// Its number there.
    pub id: DeviceId,
    /// Whose it is.
    pub sender: Sender,
    /// Who owns it, by the configuration.
    pub partition: Option<usize>,
}

impl Gate {
    /// The IOMMU with this phandle.
    pub fn iommu(&self, phandle: u32) -> Option<IommuIndex> {
        let unit = self.units.iter().position(|unit| unit.phandle == phandle)?;
        Some(IommuIndex(unit as u8))
    }

    /// An IOMMU that exists.
    pub fn unit(&self, iommu: IommuIndex) -> &Unit {
        &self.units[usize::from(iommu.0)]
    }

    /// What was recorded, a line a partition.
    pub fn summary(&self, partitions: &[Partition]) {
        let monitor = self.monitor.lock();
        for partition in partitions {
            let faults = monitor.count(Some(partition.index));
            crate::say!(
                "{}: {faults} dma faults recorded, {} refused accesses",
                partition.name(),
                partition.misuse()
            );
            partition.summarize_viommus();
        }
        crate::say!(
            "nobody: {} dma faults recorded; records lost {} times",
            monitor.count(None),
            monitor.lost()
        );
        drop(monitor);
        for (index, unit) in self.units.iter().enumerate() {
            unit.summarize(index);
        }
    }

    /// Looks at every IOMMU, if it is time to; when to do so again, for whoever did.
    pub fn watch(&self) -> Option<u64> {
        let now = arch::clock::now_ns();
        let next = now + WATCH_NS;
        let due = self.next_watch_ns.load(Ordering::Relaxed);
        let mine = due <= now
            && self
                .next_watch_ns
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            return None;
        }
        for iommu in 0..self.units.len() {
            self.check(IommuIndex(iommu as u8));
        }
        Some(next)
    }

    /// Whether an IOMMU still has what it was told; one that lost it gets it again.
    pub(crate) fn check(&self, IommuIndex(iommu): IommuIndex) {
        let unit = self.unit(IommuIndex(iommu));
        let checked = unit.iommu.physical().lock().check();
        let failed = unit.failed.swap(checked.is_err(), Ordering::Relaxed);
        match checked {
            Ok(false) => {}
            Ok(true) => {
                crate::say!("{IOMMU}{iommu}: had lost its state; whatever came before is not known")
            }
            Err(IommuError::Stopped | IommuError::Gone) if failed => {}
            Err(IommuError::Stopped) => crate::say!("{IOMMU}{iommu}: is lost, and refuses all dma"),
            Err(IommuError::Gone) => crate::say!("{IOMMU}{iommu}: is gone"),
            // DMA may go anywhere from here on.
            Err(error) => panic!("{IOMMU}{iommu} cannot be made to refuse dma: {error}"),
        }
    }

    /// Takes all faults that one IOMMU has recorded so far: a whole queue, and as many that come meanwhile.
    pub fn serve_all_faults(&self, system: &'static System, iommu: IommuIndex) {
        for _ in 0..FAULT_SERVICES {
            if !self.serve_faults(system, iommu) {
                return;
            }
        }
    }

    /// Takes the faults of one IOMMU, at most [`FAULT_BATCH`] of them, and as many page requests. Whether there are more.
    pub fn serve_faults(&self, system: &'static System, iommu: IommuIndex) -> bool {
        let unit = self.unit(iommu);
        let _alone = unit.serving.lock();
        let mut faults = [NO_FAULT; FAULT_BATCH];
        let drained = unit.iommu.physical().lock().drain_faults(&mut faults);
        if drained.lost {
            self.faults_lost(system, iommu);
        }
        // A guest's IOMMU hands over what came together at once.
        let mut filled: Option<&Partition> = None;
        for fault in &faults[..drained.count] {
            let Some(partition) = self.serve_fault(system, fault) else {
                continue;
            };
            let other = filled.replace(partition);
            if let Some(other) = other.filter(|other| other.index != partition.index) {
                other.notify_viommus(system, iommu);
            }
        }
        if let Some(partition) = filled {
            partition.notify_viommus(system, iommu);
        }
        self.serve_requests(system, iommu) || drained.more
    }

    /// The same for page requests.
    fn serve_requests(&self, system: &'static System, iommu: IommuIndex) -> bool {
        let mut requests = [NO_REQUEST; FAULT_BATCH];
        let drained = self
            .unit(iommu)
            .iommu
            .physical()
            .lock()
            .drain_requests(&mut requests);
        for request in &requests[..drained.count] {
            self.serve_request(system, request);
        }
        // After what came before the loss: parts of groups of which the rest is lost are among that.
        if drained.lost {
            for partition in &system.partitions {
                partition.dma().requests_lost(iommu);
                self.take_records(system, partition);
            }
        }
        drained.more
    }

    /// One page request: the guest's own goes to it; nobody's is answered as wrong, so that the device goes on.
    fn serve_request(&self, system: &'static System, request: &PriRequest) {
        let mut streams = self.streams.iter();
        let stream = streams.find(|it| it.iommu == request.iommu && it.id == request.device);
        let owner = stream.and_then(|stream| system.partitions.get(stream.partition?));
        let delivery = owner.map(|it| (it, it.dma().deliver_request(request)));
        match delivery {
            Some((partition, Delivery::Record)) => self.take_records(system, partition),
            Some((partition, Delivery::Event(_) | Delivery::PageRequest(_))) => {
                partition.notify_viommus(system, request.iommu);
            }
            Some((_, Delivery::Ignored)) => {}
            Some((_, Delivery::NotMine)) | None => {
                if request.last && !request.is_stop_marker() {
                    let waiting = Waiting::Pages {
                        pasid: request.pasid,
                        group: request.group,
                    };
                    let mut physical = self.unit(request.iommu).iommu.physical().lock();
                    // A device that cannot be answered keeps waiting, which harms nobody else.
                    let _ = physical.respond(request.device, waiting, Answer::Invalid);
                }
            }
        }
    }

    /// The hardware has dropped records, of whomever: everyone behind it is told.
    fn faults_lost(&self, system: &'static System, iommu: IommuIndex) {
        if self.monitor.lock().record_lost(arch::clock::now_ns()) {
            crate::say!("{IOMMU}{}: fault records were lost", iommu.0);
        }
        for partition in &system.partitions {
            let dma = &partition.dma();
            if dma.slices.iter().any(|slice| slice.iommu == iommu) {
                dma.faults_lost(iommu);
                self.take_records(system, partition);
            }
        }
    }

    /// One fault: the guest's own goes to it, any other is recorded and meets the policies. A storm of either is ended.
    /// Whose IOMMU has something to hand over by that.
    fn serve_fault(&self, system: &'static System, fault: &Fault) -> Option<&'static Partition> {
        system.trace.here().record(Event::fault(fault.device.0));
        let stream = self.stream(fault);
        let owner = stream.and_then(|stream| {
            let partition = system.partitions.get(stream.partition?)?;
            Some((partition, stream.sender))
        });
        let mut filled = None;
        let delivery = |partition: &'static Partition| {
            if partition.is_astray(fault) {
                return Delivery::NotMine;
            }
            if partition.refuses_message(system, fault) {
                return Delivery::Ignored;
            }
            partition.dma().deliver(fault)
        };
        match owner.map(|(partition, _)| (partition, delivery(partition))) {
            Some((partition, Delivery::Record)) => self.take_records(system, partition),
            Some((_, Delivery::NotMine)) | None => self.record(system, fault),
            // An object has it: the guest's IOMMU takes it from there.
            Some((partition, Delivery::Event(_) | Delivery::PageRequest(_))) => {
                filled = Some(partition);
            }
            Some((_, Delivery::Ignored)) => {}
        }
        let partition = owner.map(|(partition, _)| partition.index);
        if !self
            .monitor
            .lock()
            .is_storm(partition, arch::clock::now_ns())
        {
            return filled;
        }
        match owner {
            Some((partition, sender)) => partition.storm(sender),
            // Nobody's stream is refused in any case: from here on silently. One that the table does not cover cannot be.
            None if self.monitor.lock().silence() => {
                let mut physical = self.unit(fault.iommu).iommu.physical().lock();
                let _ = physical.attach(fault.device, StreamConfig::Abort);
            }
            None => {}
        }
        filled
    }

    fn stream(&self, fault: &Fault) -> Option<&Stream> {
        let mut streams = self.streams.iter();
        streams.find(|stream| stream.iommu == fault.iommu && stream.id == fault.device)
    }

    /// Takes what a partition's objects have for us.
    pub fn take_records(&self, system: &'static System, partition: &Partition) {
        while let Some(item) = partition.dma().record() {
            let what = match item {
                Item::Record { record, .. } => match record {
                    Record::Fault(fault) => {
                        self.record(system, &fault);
                        continue;
                    }
                    // Said of the IOMMU as a whole.
                    Record::FaultsLost(_) => continue,
                    Record::EventsLost { .. } => "its guest has lost events",
                    Record::RequestsLost { .. } => "its guest has lost page requests",
                    Record::QueueError { .. } => "a queue of its guest has stopped",
                    Record::Request(_) => "a page request was refused: nobody answers it",
                    Record::RequestsExpired { .. } => "its guest has not answered in time",
                    Record::Contained { .. } => "a device is refused dma: it could not be put back",
                    _ => "a device cannot be stopped",
                },
                Item::Lost { .. } => "records were lost",
            };
            if self.monitor.lock().may_say(arch::clock::now_ns()) {
                crate::say!("{}: {what}", partition.name());
            }
        }
    }

    /// Records a fault that is not for a guest, and has the policies act.
    fn record(&self, system: &'static System, fault: &Fault) {
        let stream = self.stream(fault);
        let attributed = Attributed {
            fault: *fault,
            sender: stream.map(|stream| stream.sender),
            partition: stream.and_then(|stream| stream.partition),
            at_ns: arch::clock::now_ns(),
        };
        let report = self.monitor.lock().record(attributed);
        let owner = attributed.partition.map(|index| &system.partitions[index]);
        if let Report::Line { unreported } = report {
            let name = owner.map_or("nobody", |partition| partition.name());
            match unreported {
                0 => crate::say!("{attributed} ({name})"),
                more => crate::say!("{attributed} ({name}); {more} more before it"),
            }
        }
        if let (Some(partition), Some(stream)) = (owner, stream) {
            partition.fault(system, stream.sender);
        }
    }
}
