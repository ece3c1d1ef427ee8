//! From a unit in any state to one that refuses every source by its own tables, and back when the driver goes.

use alloc::sync::Arc;

use super::Vtd;
use super::command::Command;
use super::deny::{Cap, capabilities, deny_with, in_force, scales, unprotect};
use super::errata::Errata;
use super::event_message::EventMessage;
use super::fault_log::FaultLog;
use super::interrupt_remap::{self, Destinations, InterruptTable};
use super::invalidation_queue::InvalidationQueue;
use super::pasid_tables::PasidTables;
use super::probe::Features;
use super::registers::{Registers, command, switch};
use super::request_queue::RequestQueue;
use super::spec::registers::{
    ECAP_FIELDS, FECTL, FECTL_FIELDS, GCMD_FIELDS, IECTL, IRTA, IRTA_FIELDS, PECTL, RTADDR,
    RTADDR_FIELDS,
};
use super::tables::Tables;
use super::users::Users;
use crate::hal::{Mmio, Platform};
use crate::id::IommuIndex;
use crate::physical::IommuError;

/// Why a unit cannot be used. It refuses all DMA then, as far as it can be reached at all.
/// Numbers are the register that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// No unit answers there: VER as read.
    NotThere(u32),
    /// It has to be told of what is mapped as well (CAP.CM, CAP.RWBF), which a table's owner does not do here.
    NeedsToldOfMaps(u64),
    /// No second stage of 3, 4 or 5 levels (CAP.SAGAW).
    NoSecondStage(u64),
    /// Sizes or offsets that no unit has (CAP).
    BadSizes(u64),
    /// No interrupt remapping (ECAP.IR).
    NoInterruptRemapping(u64),
    /// No second stages in scalable mode, which was asked for (ECAP.SMTS, SSTS).
    NoScalableMode(u64),
    /// No memory for the tables or the queue.
    OutOfMemory,
    /// A step failed.
    Hardware(IommuError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NotThere(word) => ("no VT-d unit answers: VER", Some(word.into())),
            Self::NeedsToldOfMaps(cap) => ("caching mode or write buffers: CAP", Some(cap)),
            Self::NoSecondStage(cap) => ("no second stage: CAP", Some(cap)),
            Self::BadSizes(cap) => ("impossible sizes: CAP", Some(cap)),
            Self::NoInterruptRemapping(ecap) => ("no interrupt remapping: ECAP", Some(ecap)),
            Self::NoScalableMode(ecap) => ("no scalable mode: ECAP", Some(ecap)),
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

/// What firmware and the CPUs say of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Host address width in bits (DMAR, VT-d 8.1).
    pub address_bits: u8,
    /// Remaps interrupts, with destinations so wide, where the unit and its chipset can (ECAP.IR, QI, EIM); without, or where
    /// they cannot, interrupts are left as they are ([`Layout::interrupts`](super::Layout::interrupts) says so).
    pub interrupts: Option<Destinations>,
    /// Scalable mode or not; `None` for scalable mode where the unit has second stages in it.
    pub scalable: Option<bool>,
    /// What its chipset gets wrong.
    pub errata: Errata,
}

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// Denies all DMA, probes, and turns translation on with every source refused. `mmio` is the register file,
    /// [`Features::register_bytes`] at least.
    ///
    /// # Errors
    /// Each [`StartError`]. The unit refuses all DMA then, if it was reached at all and memory for a root table was there.
    pub fn start(
        index: IommuIndex,
        mmio: M,
        platform: Arc<P>,
        setup: Setup,
    ) -> Result<Self, StartError> {
        let registers = Registers::new(mmio);
        let (cap, ecap) = capabilities(&registers)?;
        // ECAP.C says whether the root table has to be cleaned; all else comes after the denial.
        let coherent = ecap.is_set(ECAP_FIELDS::C);
        let scalable = match in_force(&registers)? {
            Some(old) if setup.errata.keeps_translating => old,
            _ => setup.scalable.unwrap_or(scales(ecap)),
        };
        let tables = Tables::new(&*platform, scalable, coherent);
        let mut tables = tables.ok_or(StartError::OutOfMemory)?;
        let root = tables.root().base;
        let denied = deny_with(&registers, root, scalable, (cap, ecap), &|| {
            platform.now_ns()
        });
        // The unit reads the root table from here on: should anything fail, it is lost and refuses.
        let features = denied.and_then(|()| {
            let features = Features::of(cap.get(), ecap.get(), setup.address_bits)?;
            if setup.errata.write_buffers {
                return Err(StartError::NeedsToldOfMaps(cap.get()));
            }
            if scalable && !features.scalable_second_stage {
                return Err(StartError::NoScalableMode(ecap.get()));
            }
            Ok(features)
        });
        let parts = features.and_then(|features| {
            let queue = match features.queue {
                true => Some(
                    InvalidationQueue::new(&*platform, scalable, coherent)
                        .ok_or(StartError::OutOfMemory)?,
                ),
                false => None,
            };
            let remaps = features.interrupt_remapping && !setup.errata.no_interrupt_remapping;
            let fits = |wanted: &Destinations| {
                remaps && (*wanted == Destinations::Narrow || features.wide_destinations)
            };
            let interrupts = match setup.interrupts.filter(fits) {
                Some(destinations) => Some(
                    InterruptTable::new(&*platform, destinations, coherent)
                        .ok_or(StartError::OutOfMemory)?,
                ),
                None => None,
            };
            let requests = match scalable && features.page_requests {
                true => {
                    Some(RequestQueue::new(&*platform, coherent).ok_or(StartError::OutOfMemory)?)
                }
                false => None,
            };
            Ok((features, queue, interrupts, requests))
        });
        let (features, queue, interrupts, requests) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                tables.lose(true);
                return Err(error);
            }
        };
        let mut vtd = Self {
            index,
            platform,
            registers,
            capabilities: (cap.get(), ecap.get()),
            features,
            scalable,
            tables,
            pasids: PasidTables::new(coherent),
            users: Users::default(),
            queue,
            interrupts,
            requests,
            faults: FaultLog::new(features.fault_records),
            fault_message: EventMessage::new(FECTL),
            request_message: EventMessage::new(PECTL),
            unsure: false,
            stopped: false,
        };
        // Dropped on an error, it refuses everything.
        vtd.enable()?;
        Ok(vtd)
    }

    /// From a unit that refuses everything by our root table, in whatever mode it was left in, to one that is ours.
    pub(super) fn enable(&mut self) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let now_ns = || platform.now_ns();
        let registers = &self.registers;
        // Whatever was to be told of the time before is not ours.
        registers.write32(FECTL, FECTL_FIELDS::IM::SET.value);
        registers.write32(IECTL, FECTL_FIELDS::IM::SET.value);
        self.faults.clear(registers);
        let root = self.root_register();
        if registers.read64(RTADDR) != root {
            // Left on in another mode, which is not changed while translation is on (11.4, RTADDR).
            switch(registers, &now_ns, GCMD_FIELDS::TE::SET, false)?;
            registers.write64(RTADDR, root);
            command(registers, &now_ns, GCMD_FIELDS::SRTP::SET)?;
            switch(registers, &now_ns, GCMD_FIELDS::TE::SET, true)?;
        }
        if let Some(queue) = &mut self.queue {
            queue.start(&platform, registers)?;
        }
        if let Some(queue) = &mut self.requests {
            registers.write32(PECTL, FECTL_FIELDS::IM::SET.value);
            queue.start(registers);
        }
        self.forget_all()?;
        if self.interrupts.is_some() {
            self.enable_interrupts()?;
        }
        let cap = Cap::new(self.capabilities.0);
        if let Err(StartError::Hardware(error)) = unprotect(&self.registers, cap, &now_ns) {
            return Err(error);
        }
        self.fault_message.program(&self.registers);
        if self.requests.is_some() {
            self.request_message.program(&self.registers);
        }
        Ok(())
    }

    /// IRTA, where interrupts are remapped.
    pub(super) fn interrupt_register(&self) -> Option<u64> {
        let table = self.interrupts.as_ref()?;
        let wide = table.destinations == Destinations::Wide;
        let fields = IRTA_FIELDS::S.val(interrupt_remap::SIZE) + IRTA_FIELDS::EIME.val(wide.into());
        Some(table.place().base.0 | fields.value)
    }

    /// RTADDR.
    pub(super) fn root_register(&self) -> u64 {
        let mode = match self.scalable {
            true => RTADDR_FIELDS::TTM::Scalable,
            false => RTADDR_FIELDS::TTM::Legacy,
        };
        self.tables.root().base.0 | mode.value
    }

    /// Interrupts go through our table, and those in the compatibility format are blocked.
    fn enable_interrupts(&mut self) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let now_ns = || platform.now_ns();
        let Some(table) = self.interrupt_register() else {
            return Ok(());
        };
        let registers = &self.registers;
        registers.write64(IRTA, table);
        command(registers, &now_ns, GCMD_FIELDS::SIRTP::SET)?;
        self.tell(&[Command::Interrupts])?;
        switch(&self.registers, &now_ns, GCMD_FIELDS::CFI::SET, false)?;
        switch(&self.registers, &now_ns, GCMD_FIELDS::IRE::SET, true)
    }
}

impl<P: Platform, M: Mmio> Drop for Vtd<P, M> {
    /// Translation stays on, with a root table without contexts, which is lost: the unit goes on to read it. So is an
    /// interrupt table without entries. A unit that does not say that it has forgotten the rest may still read that, and
    /// write its queues: their memory is lost then.
    fn drop(&mut self) {
        let platform = Arc::clone(&self.platform);
        self.tables.close(&platform);
        if let Some(table) = &mut self.interrupts {
            table.close(&platform);
            table.lose();
        }
        let forgotten = self.forget_all();
        let now_ns = || platform.now_ns();
        self.tables.lose(forgotten.is_err());
        if forgotten.is_err() {
            self.pasids.lose();
            if let Some(requests) = &mut self.requests {
                requests.lose();
            }
        }
        if let Some(queue) = &mut self.queue {
            let off = || switch(&self.registers, &now_ns, GCMD_FIELDS::QIE::SET, false);
            if !queue.is_idle() || off().is_err() {
                queue.lose();
            }
        }
    }
}
