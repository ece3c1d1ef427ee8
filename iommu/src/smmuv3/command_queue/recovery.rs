//! What becomes of commands when one is refused (IHI 0070, §7.1), or when the SMMU has lost all.
//!
//! | CMDQ_CONS.ERR | what happens |
//! |---|---|
//! | CERROR_NONE | acknowledged; the queue goes on |
//! | CERROR_ILL, reserved codes | the command becomes a CMD_SYNC, its batch fails there, the queue goes on |
//! | CERROR_ABT | acknowledged, which reads it again; after [`ABORTS`] times in a row whoever waits fails |
//! | CERROR_ATC_INV_SYNC | acknowledged; every batch with a CMD_ATC_INV before the CMD_SYNC fails there |

use super::CommandQueue;
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;
use crate::smmuv3::command::{Command, Signal};
use crate::smmuv3::registers::Registers;
use crate::smmuv3::spec::command::cerror;
use crate::smmuv3::spec::registers::{CMDQ_CONS, CMDQ_CONS_FIELDS, GERROR, GERROR_FIELDS, GERRORN};

/// Reads of a command that may fail in a row.
const ABORTS: u8 = 3;

impl<P: Platform> CommandQueue<P> {
    /// The SMMU has lost everything, what it had cached too, and refuses all DMA until it has forgotten that for certain:
    /// whatever it was told is complete, but for what devices were to be told.
    pub(in crate::smmuv3) fn forget(&mut self) {
        let synced = self.synced;
        for batch in self.batches[..self.used].iter_mut().flatten() {
            if let Some((first, _)) = batch.device_tlb.filter(|(_, last)| *last >= synced) {
                batch.refuse(first.max(synced), cerror::ATC_INV_SYNC);
            }
        }
        (self.consumed, self.published, self.synced) =
            (self.produced, self.produced, self.produced);
        self.replaced = None;
        self.aborts = 0;
    }

    /// Gets over the command that stopped the queue, if one did (§7.1).
    pub(in crate::smmuv3) fn recover<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
    ) -> Result<(), IommuError> {
        let error = registers.read::<GERROR_FIELDS::Register>(GERROR);
        let seen = registers.read::<GERROR_FIELDS::Register>(GERRORN);
        if error.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        let active = error.get() ^ seen.get();
        if active & GERROR_FIELDS::SFM_ERR::SET.value != 0 {
            return Err(IommuError::Stopped);
        }
        let stopped = GERROR_FIELDS::CMDQ_ERR::SET.value;
        if active & stopped == 0 {
            return Ok(());
        }
        self.advance(registers)?;
        let cons = registers.read::<CMDQ_CONS_FIELDS::Register>(CMDQ_CONS);
        let code = cons.read(CMDQ_CONS_FIELDS::ERR) as u8;
        let at = self.consumed;
        self.stops += 1;
        match code {
            cerror::NONE => {}
            cerror::ABT => self.aborts = self.aborts.saturating_add(1),
            cerror::ATC_INV_SYNC => {
                for batch in self.batches[..self.used].iter_mut().flatten() {
                    // Those that a CMD_SYNC has seen done are not meant.
                    let open = |(first, last): &(u64, u64)| *first < at && *last >= self.synced;
                    if let Some((first, _)) = batch.device_tlb.filter(open) {
                        batch.refuse(first.max(self.synced), code);
                    }
                }
            }
            _ if at < self.published => {
                self.store(self.cons, Command::sync(Signal::None));
                platform.write_barrier();
                self.replaced = Some(at);
                self.refusals += 1;
                for batch in self.batches[..self.used].iter_mut().flatten() {
                    if (batch.start..batch.end).contains(&at) {
                        batch.refuse(at, code);
                    }
                }
            }
            _ => {}
        }
        registers.write(GERRORN, seen.get() ^ stopped);
        if self.aborts > ABORTS {
            return Err(IommuError::Command(cerror::ABT));
        }
        Ok(())
    }
}
