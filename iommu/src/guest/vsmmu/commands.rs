//! The consumer of a guest's command queue (IHI 0070, §3.5, §4.7.3, §7.1).

use super::command::{Command, Signal};
use super::effect::{Effect, Interrupts};
use super::registers::Queue;
use super::spec::CMDQ_ERR;
use super::{CONTEXT_COST, STREAM_COST, Slice, VirtSmmu};
use crate::hal::{GuestMemory, Platform};
use crate::object::driver::Entry;
use crate::object::{BATCH, Error};
use crate::physical::IommuError;
use crate::smmuv3::ring::Position;
use crate::smmuv3::spec::command::{COMMAND_BYTES, cerror};
use crate::smmuv3::spec::registers::CMDQ_CONS;

/// A CMD_CFGI_STE, CMD_CFGI_STE_RANGE or CMD_CFGI_ALL that was begun: the rest of its streams, as places in the order of
/// StreamIDs. The command is not read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HalfDone {
    next: usize,
    end: usize,
}

/// Entries for the slice, with the commands that they come from.
pub(super) struct Batch {
    entries: [Entry; BATCH],
    at: [Position; BATCH],
    len: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            entries: [[0; 4]; BATCH],
            at: [Position::start(0); BATCH],
            len: 0,
        }
    }
}

/// The queue stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stopped {
    /// At this command, which is not complete.
    at: Position,
    /// CMDQ_CONS.ERR.
    code: u8,
}

impl Stopped {
    fn illegal(at: Position) -> Self {
        Self {
            at,
            code: cerror::ILL,
        }
    }
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// Consumes commands. What is consumed is complete when this returns, and CONS says so.
    pub(super) fn commands(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) {
        let Some(queue) = self.registers.commands() else {
            return;
        };
        if queue.is_empty() || self.registers.commands_stopped() {
            return;
        }
        let mut at = queue.cons;
        let mut stopped = None;
        while at != queue.prod && *budget > 0 && effect.has_room() {
            match self.step(memory, &queue, at, budget, effect) {
                Ok(true) => at = at.next(),
                Ok(false) => break,
                Err(stop) => {
                    stopped = Some(stop);
                    break;
                }
            }
        }
        // A failure of what came before is earlier in the queue than whatever stopped it.
        if let Err(stop) = self.flush(effect) {
            stopped = Some(stop);
        }
        if let Some(stop) = stopped {
            at = stop.at;
        }
        self.consumed(at);
        if let Some(stop) = stopped {
            self.counters.errors += 1;
            let code = u32::from(stop.code) << 24;
            self.registers.set(CMDQ_CONS, at.register() | code);
            self.raise(memory, CMDQ_ERR, effect);
        }
    }

    /// Everything before `at` is complete.
    fn consumed(&mut self, at: Position) {
        let before = at.of_register(self.registers.get(CMDQ_CONS));
        self.counters.commands += u64::from(at.since(before));
        self.set_consumed(at.register());
    }

    /// Takes one command. `false`: there is more to it, later.
    fn step(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &Queue,
        at: Position,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> Result<bool, Stopped> {
        if let Some(rest) = self.half_done.take() {
            return Ok(self.reconfigure(memory, rest, budget, effect));
        }
        *budget -= 1;
        let mut bytes = [0; COMMAND_BYTES];
        let read = memory.read(queue.slot(at, COMMAND_BYTES), &mut bytes);
        read.map_err(|_| Stopped {
            at,
            code: cerror::ABT,
        })?;
        let (words, _) = bytes.as_chunks::<8>();
        let words = [words[0], words[1]].map(u64::from_le_bytes);
        let command = self.decoder.decode(words);
        match command.map_err(|_| Stopped::illegal(at))? {
            Command::Prefetch => {}
            Command::Forget(None, entry) => self.push(entry, at, effect)?,
            Command::Forget(Some(stream), entry) => {
                // A device that has no cache does not answer.
                let cache = self.find(stream).map(|device| &self.streams[device]);
                if cache.is_some_and(|stream| stream.behind.ats) {
                    self.push(entry, at, effect)?;
                }
            }
            Command::Contexts(stream, entry) => match self.find(stream) {
                Some(device) if self.contexts.is_some() => {
                    self.flush(effect)?;
                    *budget = budget.saturating_sub(CONTEXT_COST);
                    self.copy_context(memory, device, effect);
                }
                Some(_) => self.push(entry, at, effect)?,
                None => {}
            },
            Command::Streams(first, last) => {
                self.flush(effect)?;
                if !self.registers.translates() {
                    return Ok(true);
                }
                let rest = HalfDone {
                    next: self.names.partition_point(|(name, _)| *name < first),
                    end: self.names.partition_point(|(name, _)| *name <= last),
                };
                return Ok(self.reconfigure(memory, rest, budget, effect));
            }
            Command::PageResponse {
                stream,
                group,
                answer,
            } => {
                self.flush(effect)?;
                self.answer_group(stream, group, answer);
            }
            Command::Resume {
                stream,
                tag,
                answer,
            } => {
                self.flush(effect)?;
                self.answer_stall(stream, tag, answer);
            }
            Command::EndStalls(stream) => {
                self.flush(effect)?;
                self.end_stalls(stream);
            }
            Command::Sync(signal) => {
                self.flush(effect)?;
                self.counters.syncs += 1;
                self.consumed(at.next());
                match signal {
                    Signal::None => {}
                    Signal::Event => effect.wake = true,
                    Signal::Interrupt { address, data } => {
                        self.signal(memory, Interrupts::SYNC, address, data, effect);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The device that the guest calls `stream`.
    pub(super) fn find(&self, stream: u32) -> Option<usize> {
        let at = self.names.binary_search_by_key(&stream, |(name, _)| *name);
        at.ok().map(|at| self.names[at].1)
    }

    /// Reads the entries of streams anew. Whether all of them.
    fn reconfigure(
        &mut self,
        memory: &dyn GuestMemory,
        mut rest: HalfDone,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        while rest.next < rest.end {
            if *budget == 0 {
                self.half_done = Some(rest);
                return false;
            }
            *budget = budget.saturating_sub(STREAM_COST);
            let (_, device) = self.names[rest.next];
            self.configure(memory, device, effect);
            rest.next += 1;
        }
        true
    }

    /// Collects an entry for the slice.
    fn push(&mut self, entry: Entry, at: Position, effect: &mut Effect) -> Result<(), Stopped> {
        let batch = &mut self.batch;
        batch.entries[batch.len] = entry;
        batch.at[batch.len] = at;
        batch.len += 1;
        if batch.len == BATCH {
            self.flush(effect)?;
        }
        Ok(())
    }

    /// Has the slice do what was collected.
    fn flush(&mut self, effect: &mut Effect) -> Result<(), Stopped> {
        let len = core::mem::take(&mut self.batch.len);
        if len == 0 {
            return Ok(());
        }
        self.counters.batches += 1;
        let progress = self.slice.invalidate(&self.batch.entries[..len]);
        let Err(error) = progress.result else {
            return Ok(());
        };
        let at = self.batch.at[progress.complete.min(len - 1)];
        Err(match error {
            Error::IllegalEntry(_) => Stopped::illegal(at),
            Error::Hardware(
                IommuError::Command(cerror::ATC_INV_SYNC) | IommuError::DeviceTlb(_),
            ) => Stopped {
                at,
                code: cerror::ATC_INV_SYNC,
            },
            // None of the guest's doing; there is no code for it but that the queue cannot go on.
            error => {
                effect.failed = Some(error);
                Stopped {
                    at,
                    code: cerror::ABT,
                }
            }
        })
    }
}
