//! The command queue (IHI 0070, §3.5, §4, §7.1): its one producer.
//!
//! Commands are pushed; one CMD_SYNC at the end publishes them all and waits until it is consumed. A command that the
//! SMMU refuses is overwritten by a CMD_SYNC, so that the queue goes on, and the batch it was part of fails.

use super::command::{Command, Signal};
use super::held::Held;
use super::registers::{DEADLINE_NS, Registers};
use super::ring::Position;
use super::spec::command::{COMMAND_BYTES, cerror};
use super::spec::registers::{
    CMDQ_BASE, CMDQ_CONS, CMDQ_CONS_FIELDS, CMDQ_PROD, GERROR, GERROR_FIELDS, GERRORN,
    QUEUE_BASE_ALLOCATE,
};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::physical::IommuError;

/// log2 of the entries used, where the SMMU has that many: one page.
const LOG2_ENTRIES: u8 = 8;

pub(super) struct CommandQueue<P: Platform> {
    buffer: Held<P::Buffer>,
    prod: Position,
    /// As last read.
    cons: Position,
    coherent: bool,
    /// The first code that a command of the current batch was refused with.
    refused: Option<u8>,
    pub(super) commands: u64,
    pub(super) syncs: u64,
}

impl<P: Platform> CommandQueue<P> {
    /// `largest`: IDR1.CMDQS.
    pub(super) fn new(platform: &P, largest: u8, coherent: bool) -> Option<Self> {
        let log2 = largest.min(LOG2_ENTRIES);
        let bytes = (COMMAND_BYTES << log2).max(4096);
        Some(Self {
            buffer: Held::new(platform.allocate(bytes)?),
            prod: Position::start(log2),
            cons: Position::start(log2),
            coherent,
            refused: None,
            commands: 0,
            syncs: 0,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    pub(super) fn lose(&mut self) {
        self.buffer.lose();
    }

    /// Tells a disabled SMMU where the queue is.
    pub(super) fn program<M: Mmio>(&mut self, registers: &Registers<M>) {
        self.prod = Position::start(self.prod.entries().ilog2() as u8);
        self.cons = self.prod;
        let log2 = u64::from(self.prod.entries().ilog2());
        registers.write64(CMDQ_BASE, QUEUE_BASE_ALLOCATE | self.buffer.hpa().0 | log2);
        registers.write(CMDQ_PROD, 0);
        registers.write(CMDQ_CONS, 0);
    }

    /// Adds `command` to the batch. Waits for room, without completing anything, where the batch is longer than the queue.
    pub(super) fn push<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        command: Command,
    ) -> Result<(), IommuError> {
        if self.prod.since(self.cons) >= self.prod.entries() {
            self.publish(platform, registers);
            let full = self.prod.entries();
            self.wait(platform, registers, |prod, cons| prod.since(cons) < full)?;
        }
        self.store(self.prod, command);
        self.prod = self.prod.next();
        self.commands += 1;
        Ok(())
    }

    /// Ends the batch: all of it is complete on return.
    pub(super) fn sync<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
    ) -> Result<(), IommuError> {
        self.push(platform, registers, Command::sync(Signal::None))?;
        self.commands -= 1;
        self.syncs += 1;
        self.publish(platform, registers);
        self.wait(platform, registers, |prod, cons| prod == cons)?;
        match self.refused.take() {
            Some(code) => Err(IommuError::Command(code)),
            None => Ok(()),
        }
    }

    fn store(&mut self, at: Position, command: Command) {
        let offset = at.index() * COMMAND_BYTES;
        self.buffer.write64(offset, command.0[0]);
        self.buffer.write64(offset + 8, command.0[1]);
        if !self.coherent {
            self.buffer.clean(offset, COMMAND_BYTES);
        }
    }

    fn publish<M: Mmio>(&self, platform: &P, registers: &Registers<M>) {
        platform.write_barrier();
        registers.write(CMDQ_PROD, self.prod.register());
    }

    /// Reads CONS until `done`, getting over refused commands.
    fn wait<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
        done: impl Fn(Position, Position) -> bool,
    ) -> Result<(), IommuError> {
        let start = platform.now_ns();
        loop {
            let register = registers.read::<CMDQ_CONS_FIELDS::Register>(CMDQ_CONS);
            if register.get() == u32::MAX {
                return Err(IommuError::Gone);
            }
            let cons = self.cons.of_register(register.get());
            if self.prod.since(cons) <= self.prod.since(self.cons) {
                self.cons = cons;
            }
            if done(self.prod, self.cons) {
                platform.read_barrier();
                return Ok(());
            }
            self.recover(platform, registers)?;
            if platform.now_ns().saturating_sub(start) > DEADLINE_NS {
                return Err(IommuError::Timeout);
            }
            core::hint::spin_loop();
        }
    }

    /// Gets over the command that stopped the queue, if one did (§7.1). At most once a command, as each turns into a
    /// CMD_SYNC, which no SMMU refuses.
    pub(super) fn recover<M: Mmio>(
        &mut self,
        platform: &P,
        registers: &Registers<M>,
    ) -> Result<(), IommuError> {
        let error = registers.read::<GERROR_FIELDS::Register>(GERROR);
        let seen = registers.read::<GERROR_FIELDS::Register>(GERRORN);
        if error.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        if error.is_set(GERROR_FIELDS::CMDQ_ERR) == seen.is_set(GERROR_FIELDS::CMDQ_ERR) {
            return Ok(());
        }
        let cons = registers.read::<CMDQ_CONS_FIELDS::Register>(CMDQ_CONS);
        let code = cons.read(CMDQ_CONS_FIELDS::ERR) as u8;
        let at = self.cons.of_register(cons.get());
        // After CERROR_ATC_INV_SYNC the CMD_SYNC at CONS is good as it stands (§7.1).
        if code != cerror::ATC_INV_SYNC
            && self.prod.since(at) <= self.prod.entries()
            && at != self.prod
        {
            self.store(at, Command::sync(Signal::None));
            platform.write_barrier();
        }
        self.refused.get_or_insert(code);
        let mask = GERROR_FIELDS::CMDQ_ERR.mask << GERROR_FIELDS::CMDQ_ERR.shift;
        registers.write(GERRORN, seen.get() ^ mask);
        if code == cerror::ABT {
            // The queue's own memory cannot be read: nothing in it will ever be.
            self.refused = None;
            return Err(IommuError::Command(code));
        }
        Ok(())
    }
}
