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

    /// Has an interrupt go where `route` says. When this returns, none goes where it went before.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for an interrupt that was not taken, or a route that the table cannot hold; those of
    /// the queue. The interrupt is blocked then.
    pub fn route_interrupt(
        &mut self,
        index: u16,
        route: &interrupt_remap::Route,
    ) -> Result<(), IommuError> {
        self.block_interrupt(index)?;
        let platform = Arc::clone(&self.platform);
        let table = self.interrupts.as_mut().ok_or(IommuError::Unsupported)?;
        let entry = route.entry(table.destinations)?;
        table.store(&platform, index, entry);
        Ok(())
    }

    /// Has an interrupt posted. When this returns, none goes where it went before.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] where the unit posts none, for an interrupt that was not taken, or a posting that is none;
    /// those of the queue. The interrupt is blocked then.
    pub fn post_interrupt(
        &mut self,
        index: u16,
        posting: &interrupt_post::Posting,
    ) -> Result<(), IommuError> {
        self.block_interrupt(index)?;
        if !self.features.posted_interrupts || !self.features.reaches(posting.descriptor) {
            return Err(IommuError::Unsupported);
        }
        let platform = Arc::clone(&self.platform);
        let table = self.interrupts.as_mut().ok_or(IommuError::Unsupported)?;
        table.store(&platform, index, posting.entry()?);
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
