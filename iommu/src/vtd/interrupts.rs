//! What an owner asks of its interrupts: indices, and where each goes.

use alloc::sync::Arc;

use super::Vtd;
use super::command::Command;
use super::interrupt_post;
use super::interrupt_remap::{self, is_present};
use crate::hal::{Mmio, Platform};
use crate::physical::IommuError;

impl<P: Platform, M: Mmio> Vtd<P, M> {
    /// Takes `count` interrupts in a row, a power of two, aligned to it; the first one's index. They are blocked until they
    /// have a route.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where interrupts are not remapped, or for another number; [`IommuError::OutOfMemory`]
    /// where so many are not left.
    pub fn take_interrupts(&mut self, count: u16) -> Result<u16, IommuError> {
        let table = self.interrupts.as_mut().ok_or(IommuError::Unsupported)?;
        if !count.is_power_of_two() {
            return Err(IommuError::Unsupported);
        }
        table.take(count).ok_or(IommuError::OutOfMemory)
    }

    /// Has an interrupt go where `route` says. When this returns, none goes where it went before. One that went somewhere
    /// goes to either meanwhile, if only the first word of its entry changes.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for an interrupt that was not taken, or a route that the table cannot hold; those of
    /// the queue. The interrupt is blocked then.
    pub fn route_interrupt(
        &mut self,
        index: u16,
        route: &interrupt_remap::Route,
    ) -> Result<(), IommuError> {
        let entry = match &self.interrupts {
            Some(table) => route.entry(table.destinations),
            None => Err(IommuError::Unsupported),
        };
        self.lead(index, entry)
    }

    /// Has an interrupt posted. When this returns, none goes where it went before; meanwhile as for
    /// [`route_interrupt`](Self::route_interrupt), where the descriptor is below 4 GiB.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where the unit posts none, for an interrupt that was not taken, or a posting that is none;
    /// those of the queue. The interrupt is blocked then.
    pub fn post_interrupt(
        &mut self,
        index: u16,
        posting: &interrupt_post::Posting,
    ) -> Result<(), IommuError> {
        let posts = self.features.posted_interrupts && self.features.reaches(posting.descriptor);
        let entry = match posts {
            true => posting.entry(),
            false => Err(IommuError::Unsupported),
        };
        self.lead(index, entry)
    }

    /// Has an interrupt go by `entry`. One that goes somewhere, and by an entry that differs in its first word only, is never
    /// blocked between the two: none is lost.
    fn lead(&mut self, index: u16, entry: Result<[u64; 2], IommuError>) -> Result<(), IommuError> {
        let old = match &self.interrupts {
            Some(table) if table.is_taken(index) => table.read(index),
            _ => return Err(IommuError::Unsupported),
        };
        let in_place = entry.is_ok_and(|entry| is_present(old) && entry[1] == old[1]);
        if !in_place {
            self.block_interrupt(index)?;
        }
        let (platform, entry) = (Arc::clone(&self.platform), entry?);
        if let Some(table) = &mut self.interrupts {
            table.store(&platform, index, entry);
        }
        if in_place {
            let told = self
                .be_sure()
                .and_then(|()| self.tell(&[Command::Interrupt(index)]));
            if told.is_err() {
                self.block_interrupt(index)?;
            }
            told?;
        }
        Ok(())
    }

    /// Blocks an interrupt. When this returns, none goes where it went before.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for one that was not taken; those of the queue.
    pub fn block_interrupt(&mut self, index: u16) -> Result<(), IommuError> {
        let platform = Arc::clone(&self.platform);
        let table = self.interrupts.as_mut().ok_or(IommuError::Unsupported)?;
        if !table.is_taken(index) {
            return Err(IommuError::Unsupported);
        }
        let old = table.read(index);
        if is_present(old) {
            table.store(&platform, index, [0, old[1]]);
            table.store(&platform, index, [0; 2]);
        }
        self.be_sure()?;
        if is_present(old) {
            self.tell(&[Command::Interrupt(index)])?;
        }
        Ok(())
    }

    /// Gives interrupts back, blocked.
    ///
    /// # Errors
    /// As for [`block_interrupt`](Self::block_interrupt); they stay taken then.
    pub fn give_interrupts(&mut self, first: u16, count: u16) -> Result<(), IommuError> {
        for index in (first..).take(count.into()) {
            self.block_interrupt(index)?;
        }
        if let Some(table) = &mut self.interrupts {
            table.give(first, count);
        }
        Ok(())
    }
}
