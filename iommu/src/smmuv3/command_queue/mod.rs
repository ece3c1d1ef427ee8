//! The command queue (IHI 0070, §3.5, §4, §7.1): positions, errors, and whose command is whose.
//!
//! Every method is one step under the lock of [`shared`](super::shared): none waits. Commands have sequence numbers of 64
//! bits that are never used twice, so a completion that comes late is nobody else's. A batch is a run of commands without
//! a gap and a CMD_SYNC after it; it is done when its CMD_SYNC is consumed.

use super::command::Command;
use super::registers::Registers;
use super::ring::Position;
use super::spec::command::{CMD0, COMMAND_BYTES};
use super::spec::registers::{
    CMDQ_BASE, CMDQ_CONS, CMDQ_CONS_FIELDS, CMDQ_PROD, QUEUE_BASE_ALLOCATE,
};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Mmio, Platform};
use crate::held::{Held, span};
use crate::physical::IommuError;
use batch::Batch;
pub(super) use batch::{Pushed, Ticket};

mod batch;
mod recovery;

/// log2 of the entries used, where the SMMU has that many: one page.
const LOG2_ENTRIES: u8 = 8;
/// Batches at a time; one a CPU that waits.
const BATCHES: usize = 32;
/// All opcodes are below it (§4.1.1).
pub(super) const OPCODES: usize = 0x80;

/// What [`CommandQueue::put`] has stored.
pub(super) struct Run {
    start: u64,
    /// The CMD_SYNC after it.
    sync: u64,
    device_tlb: Option<(u64, u64)>,
}

/// The CMD_SYNC at the end of what is [`put`](CommandQueue::put).
pub(super) const SYNC: [u64; 2] = [CMD0::OPCODE::Sync.value, 0];

pub(super) struct CommandQueue<P: Platform> {
    buffer: Held<P::Buffer>,
    prod: Position,
    /// As last read.
    cons: Position,
    /// Commands stored since the start, and consumed, and published.
    produced: u64,
    consumed: u64,
    published: u64,
    /// All before it is complete: a CMD_SYNC after it was consumed.
    synced: u64,
    /// The CMD_SYNC that took the place of a refused command, until it is consumed.
    replaced: Option<u64>,
    batches: [Option<Batch>; BATCHES],
    /// None from here on.
    used: usize,
    aborts: u8,
    coherent: bool,
    /// Commands stored, by opcode.
    pub(super) sent: [u64; OPCODES],
    pub(super) refusals: u64,
    pub(super) stops: u64,
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
            produced: 0,
            consumed: 0,
            published: 0,
            synced: 0,
            replaced: None,
            batches: [None; BATCHES],
            used: 0,
            aborts: 0,
            coherent,
            sent: [0; OPCODES],
            refusals: 0,
            stops: 0,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Where it is.
    pub(super) fn place(&self) -> Span<Hpa> {
        span(&*self.buffer)
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

    /// Free entries.
    #[inline(always)]
    pub(super) fn room(&self) -> u64 {
        u64::from(self.prod.entries()) - (self.produced - self.consumed)
    }

    /// Room that is worth waiting for before a long batch goes on.
    pub(super) fn has_room(&self) -> bool {
        self.room() >= u64::from(self.prod.entries() / 2).max(1)
    }

    /// Adds `commands`, of which the last is a CMD_SYNC ([`SYNC`]), for [`look`](Self::look); `None`, and nothing has
    /// happened, where there is no room for all of them.
    #[inline(always)]
    pub(super) fn put(&mut self, commands: &[[u64; 2]]) -> Option<Run> {
        if self.used == BATCHES || self.room() < commands.len() as u64 {
            return None;
        }
        let start = self.produced;
        let device_tlb = self.add_run(commands);
        Some(Run {
            start,
            sync: self.produced - 1,
            device_tlb,
        })
    }

    /// Looks how far the SMMU is. `None`: all of what was [`put`](Self::put) under the same lock is complete.
    #[inline(always)]
    pub(super) fn look<M: Mmio>(
        &mut self,
        registers: &Registers<M>,
        run: Run,
    ) -> Result<Option<Ticket>, IommuError> {
        self.advance(registers)?;
        if run.sync < self.consumed {
            self.synced = self.synced.max(run.sync + 1);
            return Ok(None);
        }
        let Ticket(at) = self
            .open()
            .unwrap_or_else(|| unreachable!("`put` saw room"));
        self.batches[at] = Some(Batch {
            start: run.start,
            end: run.sync,
            sync: Some(run.sync),
            device_tlb: run.device_tlb,
            refused: None,
        });
        Ok(Some(Ticket(at)))
    }

    /// Stores commands that there is room for. The first and the last CMD_ATC_INV among them.
    #[inline(always)]
    fn add_run(&mut self, commands: &[[u64; 2]]) -> Option<(u64, u64)> {
        const ATC_INV: usize = CMD0::OPCODE::AtcInv.value as usize;
        let at = self.produced;
        let before_wrap = self.prod.before_wrap() as usize;
        let (first, rest) = commands.split_at(commands.len().min(before_wrap));
        self.store_run(self.prod.index(), first);
        if !rest.is_empty() {
            self.store_run(0, rest);
        }
        self.prod = self.prod.after(commands.len() as u32);
        self.produced += commands.len() as u64;
        let told = self.sent[ATC_INV];
        for [first, _] in commands {
            let sent = &mut self.sent[*first as usize % OPCODES];
            *sent = sent.wrapping_add(1);
        }
        if self.sent[ATC_INV] == told {
            return None;
        }
        let tells = |[first, _]: &[u64; 2]| *first as usize % OPCODES == ATC_INV;
        let first = commands.iter().position(tells)? as u64;
        let last = commands.iter().rposition(tells)? as u64;
        Some((at + first, at + last))
    }

    fn store_run(&mut self, index: usize, commands: &[[u64; 2]]) {
        let offset = index * COMMAND_BYTES;
        self.buffer.write64_pairs(offset, commands);
        if !self.coherent {
            self.buffer.clean(offset, commands.len() * COMMAND_BYTES);
        }
    }

    fn add(&mut self, command: Command) {
        self.store(self.prod, command);
        self.prod = self.prod.next();
        self.produced += 1;
        self.sent[command.0[0] as usize % OPCODES] += 1;
    }

    fn store(&mut self, at: Position, command: Command) {
        self.store_run(at.index(), &[command.0]);
    }

    /// Hands everything stored to the SMMU.
    #[inline(always)]
    pub(super) fn publish<M: Mmio>(&mut self, platform: &P, registers: &Registers<M>) {
        if self.published != self.produced {
            self.published = self.produced;
            platform.write_barrier();
            registers.write(CMDQ_PROD, self.prod.register());
        }
    }

    /// Reads how far the SMMU is.
    #[inline(always)]
    pub(super) fn advance<M: Mmio>(&mut self, registers: &Registers<M>) -> Result<(), IommuError> {
        let register = registers.read::<CMDQ_CONS_FIELDS::Register>(CMDQ_CONS);
        if register.get() == u32::MAX {
            return Err(IommuError::Gone);
        }
        let cons = self.cons.of_register(register.get());
        let step = u64::from(cons.since(self.cons));
        // A position that was never published is nonsense.
        if step == 0 || step > self.published - self.consumed {
            return Ok(());
        }
        self.cons = cons;
        self.consumed += step;
        self.aborts = 0;
        if let Some(at) = self.replaced.filter(|at| *at < self.consumed) {
            self.replaced = None;
            self.synced = self.synced.max(at + 1);
        }
        // Mostly there is no other than the one that waits, which has none yet.
        if self.used != 0 {
            self.settle();
        }
        Ok(())
    }

    /// Batches whose CMD_SYNC is consumed are complete.
    #[inline(never)]
    fn settle(&mut self) {
        for batch in self.batches[..self.used].iter().flatten() {
            if let Some(sync) = batch.sync.filter(|sync| *sync < self.consumed) {
                self.synced = self.synced.max(sync + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
