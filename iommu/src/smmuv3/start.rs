//! From an SMMU in any state to one that refuses every stream by its own tables, and back when the driver goes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::answers::PRI_QUEUE;
use super::ats::DeviceCaches;
use super::command::Command;
use super::command_queue::{CommandQueue, SYNC};
use super::identity::Identity;
use super::nested::NestedStreams;
use super::own_contexts::OwnContexts;
use super::probe::Features;
use super::record_queue::{AfterOverflow, QueueRegisters, RecordQueue};
use super::registers::Registers;
use super::shared::{Core, Guard, Shared};
use super::spec::registers::{
    CR0, CR0_FIELDS, CR0ACK, CR1, CR1_FIELDS, CR2, CR2_FIELDS, EVENTQ_BASE, EVENTQ_CONS,
    EVENTQ_IRQ_CFG0, EVENTQ_PROD, GERROR, GERROR_IRQ_CFG0, GERRORN, IDR0_FIELDS, IRQ_CTRL,
    IRQ_CTRL_FIELDS, IRQ_CTRLACK, PRIQ_IRQ_CFG0,
};
use super::stream_table::StreamTable;
use super::{Smmu, deny_all};
use crate::hal::{Mmio, Platform};
use crate::id::IommuIndex;
use crate::physical::IommuError;

const EVENT_QUEUE: QueueRegisters = QueueRegisters {
    base: EVENTQ_BASE,
    prod: EVENTQ_PROD,
    cons: EVENTQ_CONS,
};

/// Why an SMMU cannot be used. It refuses all DMA then, as far as it can be reached at all.
/// Numbers are the register that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// No SMMU answers there: IDR0 or GBPA as read.
    NotThere(u32),
    /// No stage 2 translation (IDR0.S2P).
    NoStageTwo(u32),
    /// No AArch64 tables (IDR0.TTF).
    NoAArch64Tables(u32),
    /// Big-endian walks only (IDR0.TTENDIAN).
    BigEndian(u32),
    /// No 4 KiB granule (IDR5.GRAN4K).
    No4KibGranule(u32),
    /// Table or queue addresses are fixed (IDR1.TABLES_PRESET, QUEUES_PRESET).
    PresetTables(u32),
    /// Sizes that no SMMU has (IDR1).
    BadSizes(u32),
    /// No memory for the queues or the stream table.
    OutOfMemory,
    /// A step of the start failed.
    Hardware(IommuError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NotThere(word) => ("no SMMU answers: IDR0 or GBPA", Some(word.into())),
            Self::NoStageTwo(idr) => ("no stage 2: IDR0", Some(idr.into())),
            Self::NoAArch64Tables(idr) => ("no AArch64 tables: IDR0", Some(idr.into())),
            Self::BigEndian(idr) => ("big-endian walks only: IDR0", Some(idr.into())),
            Self::No4KibGranule(idr) => ("no 4 KiB granule: IDR5", Some(idr.into())),
            Self::PresetTables(idr) => ("fixed tables or queues: IDR1", Some(idr.into())),
            Self::BadSizes(idr) => ("impossible sizes: IDR1", Some(idr.into())),
            Self::OutOfMemory => ("out of memory", None),
            Self::Hardware(error) => return error.fmt(f),
        };
        crate::text::write(f, what, value)
    }
}

impl core::error::Error for StartError {}

impl From<IommuError> for StartError {
    fn from(error: IommuError) -> Self {
        Self::Hardware(error)
    }
}

impl<P: Platform, M: Mmio> Smmu<P, M> {
    /// Denies all DMA, probes, and turns translation on with every stream refused. `mmio` is both register pages,
    /// 128 KiB.
    ///
    /// # Errors
    /// Each [`StartError`]. The SMMU refuses all DMA then, if it was reached at all.
    pub fn start(index: IommuIndex, mmio: M, platform: Arc<P>) -> Result<Self, StartError> {
        Self::start_described(index, mmio, platform, true)
    }

    /// [`Smmu::start`] for an SMMU of which firmware says whether its walks snoop CPU caches: where that says no, an
    /// IDR0.COHACC of 1 is not believed, because the register does not know how the interconnect was wired (§6.3.1).
    ///
    /// # Errors
    /// As for [`Smmu::start`].
    pub fn start_described(
        index: IommuIndex,
        mmio: M,
        platform: Arc<P>,
        coherent: bool,
    ) -> Result<Self, StartError> {
        deny_all(&mmio, || platform.now_ns())?;
        let registers = Registers::new(mmio);
        let mut identity = Identity::read(&registers);
        if !coherent {
            identity.idr[0] &= !IDR0_FIELDS::COHACC::SET.value;
        }
        let features = Features::of(&identity)?;
        let memory = |platform: &P| {
            let commands =
                CommandQueue::new(platform, features.command_queue_log2, features.coherent)?;
            let largest = features.event_queue_log2;
            let events = RecordQueue::new(
                platform,
                EVENT_QUEUE,
                AfterOverflow::Records,
                largest,
                features.coherent,
            )?;
            let largest = features.pri_queue_log2;
            let requests = if features.pri {
                let queue = RecordQueue::new(
                    platform,
                    PRI_QUEUE,
                    AfterOverflow::Nothing,
                    largest,
                    features.coherent,
                )?;
                Some(queue)
            } else {
                None
            };
            let streams = StreamTable::new(platform, &features)?;
            Some((commands, events, requests, streams))
        };
        let (queue, events, requests, streams) =
            memory(&platform).ok_or(StartError::OutOfMemory)?;
        let core = Core {
            registers,
            queue,
            nested: NestedStreams::default(),
            caches: DeviceCaches::default(),
            stopped: false,
        };
        let mut smmu = Self {
            index,
            shared: Arc::new(Shared::new(Arc::clone(&platform), features, core)),
            platform,
            identity,
            features,
            streams,
            contexts: Vec::new(),
            events,
            requests,
            control: 0,
        };
        let shared = Arc::clone(&smmu.shared);
        smmu.enable(shared.lock())?;
        Ok(smmu)
    }

    /// The order of §6.3.9 and §3.11: attributes, tables and queues; commands; forget everything; events; translation.
    pub(super) fn enable(&mut self, mut core: Guard<'_, P, M>) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let Core {
            registers, queue, ..
        } = &mut *core;
        registers.write_acknowledged(&*platform, CR0, CR0ACK, 0)?;
        registers.write_acknowledged(&*platform, IRQ_CTRL, IRQ_CTRLACK, 0)?;
        let attributes = if self.features.coherent {
            (CR1_FIELDS::QUEUE_IC.val(1)
                + CR1_FIELDS::QUEUE_OC.val(1)
                + CR1_FIELDS::QUEUE_SH::Inner)
                + (CR1_FIELDS::TABLE_IC.val(1)
                    + CR1_FIELDS::TABLE_OC.val(1)
                    + CR1_FIELDS::TABLE_SH::Inner)
        } else {
            CR1_FIELDS::QUEUE_SH::Outer + CR1_FIELDS::TABLE_SH::Outer
        };
        registers.write(CR1, attributes.value);
        registers.write(
            CR2,
            (CR2_FIELDS::RECINVSID::SET + CR2_FIELDS::PTM::SET).value,
        );
        platform.write_barrier();
        self.streams.program(registers);
        queue.program(registers);
        self.events.program(registers);
        if let Some(requests) = &mut self.requests {
            requests.program(registers);
        }
        // Whatever was active before is not ours.
        let errors = registers.read::<()>(GERROR).get();
        registers.write(GERRORN, errors);

        let mut control = CR0_FIELDS::CMDQEN::SET.value;
        if self.features.ats {
            // Without it whatever claims to be translated passes, from any stream and to any address (§3.9.2).
            control |= CR0_FIELDS::ATSCHK::SET.value;
        }
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)?;
        drop(core);
        let forget = [
            Command::tlbi_el2_all(),
            Command::cfgi_all(),
            Command::tlbi_nsnh_all(),
            Command(SYNC),
        ]
        .map(|command| command.0);
        let forget = &forget[if self.features.el2 { 0 } else { 1 }..];
        self.shared.tell(forget)?;

        let core = self.shared.lock();
        let registers = &core.registers;
        if self.features.msi {
            // Their reset value is unknown, and what they hold is written to by the SMMU without being translated.
            registers.write64(GERROR_IRQ_CFG0, 0);
            registers.write64(EVENTQ_IRQ_CFG0, 0);
            if self.features.pri {
                registers.write64(PRIQ_IRQ_CFG0, 0);
            }
        }
        control |= CR0_FIELDS::EVENTQEN::SET.value;
        let mut interrupts =
            (IRQ_CTRL_FIELDS::GERROR_IRQEN::SET + IRQ_CTRL_FIELDS::EVENTQ_IRQEN::SET).value;
        if self.features.pri {
            control |= CR0_FIELDS::PRIQEN::SET.value;
            interrupts |= IRQ_CTRL_FIELDS::PRIQ_IRQEN::SET.value;
        }
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)?;
        registers.write_acknowledged(&*platform, IRQ_CTRL, IRQ_CTRLACK, interrupts)?;
        control |= CR0_FIELDS::SMMUEN::SET.value;
        registers.write_acknowledged(&*platform, CR0, CR0ACK, control)?;
        self.control = control;
        Ok(())
    }
}

impl<P: Platform, M: Mmio> Drop for Smmu<P, M> {
    /// Back to refusing everything by GBPA, which [`Smmu::start`] set. An SMMU that does not acknowledge may still read
    /// its tables and write its queue: their memory is lost then.
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        core.stopped = true;
        let stopped = core
            .registers
            .write_acknowledged(&*self.platform, CR0, CR0ACK, 0);
        if stopped.is_err() {
            self.streams.lose();
            self.contexts.iter_mut().for_each(OwnContexts::lose);
            core.queue.lose();
            self.events.lose();
            if let Some(requests) = &mut self.requests {
                requests.lose();
            }
        }
    }
}
