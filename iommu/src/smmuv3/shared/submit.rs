//! Batches of invalidations through the queue: up to the first that fails, or a guest's own commands as they are.

use super::super::invalidation;
use super::super::program::Program;
use super::super::spec::command::cerror;
use super::Shared;
use crate::hal::{Mmio, Platform};
use crate::id::CacheTag;
use crate::physical::{Incomplete, Invalidate, Invalidation, IommuError};

/// Times that a batch is sent where devices of others do not answer.
const RESENDS: u8 = 3;

impl<P: Platform, M: Mmio> Shared<P, M> {
    /// Sends a batch. See [`Invalidate`]. Where a device did not answer, it is found out whose: one of the batch's is named,
    /// and for another's it is sent once more.
    pub(in crate::smmuv3) fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        for _ in 1..RESENDS {
            match self.submit_once(batch) {
                Err(Incomplete {
                    complete,
                    error: IommuError::Command(cerror::ATC_INV_SYNC),
                }) => {
                    if let Some(device) = self.silent_device(batch) {
                        let error = IommuError::DeviceTlb(device);
                        return Err(Incomplete { complete, error });
                    }
                }
                result => return result,
            }
        }
        self.submit_once(batch)
    }

    fn submit_once(&self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        let illegal = batch.iter().enumerate().find_map(|(index, entry)| {
            let error = invalidation::commands(entry, &self.features).err()?;
            Some(Incomplete {
                complete: index,
                error,
            })
        });
        let legal = &batch[..illegal.map_or(batch.len(), |illegal| illegal.complete)];
        if !legal.is_empty() {
            // Table stores before this call are visible before the SMMU is told to forget.
            self.platform.write_barrier();
            let mut program = Program::of_entries(legal, &self.features);
            let sent = self.run(&mut program);
            let mut core = self.lock();
            sent.map_err(|failure| Incomplete {
                complete: program.entries_in(failure.complete, &core.nested, &core.caches),
                error: failure.error,
            })?;
            for entry in legal {
                if let Invalidation::Tag(tag) | Invalidation::StageOne(tag) = *entry {
                    core.nested.forgotten(tag);
                }
            }
        }
        illegal.map_or(Ok(()), Err)
    }
}

impl<P: Platform, M: Mmio> Invalidate for Shared<P, M> {
    fn submit(&self, batch: &[Invalidation]) -> Result<(), Incomplete> {
        Self::submit(self, batch)
    }

    fn expect_nested(&self, tag: CacheTag) -> Result<(), IommuError> {
        let new = self.lock().nested.expect(tag)?;
        // What was submitted without knowing it is complete then.
        let told = if new { self.sync() } else { Ok(()) };
        if told.is_err() {
            self.expect_no_more(tag);
        }
        told
    }

    fn expect_no_more(&self, tag: CacheTag) {
        self.lock().nested.expect_no_more(tag);
    }

    fn is_native(&self) -> bool {
        true
    }

    fn send(&self, commands: &[[u64; 2]], whole: Option<CacheTag>) -> Result<(), Incomplete> {
        // As in `submit`.
        self.platform.write_barrier();
        self.put(commands).map_err(|failure| {
            // Less the CMD_SYNCs in between.
            let syncs = match self.features.errata.commands_a_sync {
                0 => 0,
                limit => failure.complete / (u64::from(limit) + 1),
            };
            Incomplete {
                complete: (failure.complete - syncs) as usize,
                error: failure.error,
            }
        })?;
        if let Some(tag) = whole {
            self.lock().nested.forgotten(tag);
        }
        Ok(())
    }
}
