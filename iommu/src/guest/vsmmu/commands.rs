//! The consumer of a guest's command queue (IHI 0070, §3.5, §4.7.3, §7.1).

use super::command::{Command, Signal};
use super::effect::{Effect, Interrupts};
use super::registers::Queue;
use super::spec::CMDQ_ERR;
use super::{CONTEXT_COST, DECODE_COST, DEVICE_COST, FLUSH_COST, STREAM_COST, Slice, VirtSmmu};
use crate::hal::{GuestMemory, Platform};
use crate::object::Error;
use crate::object::driver::Entry;
use crate::physical::IommuError;
use crate::smmuv3::ring::Position;
use crate::smmuv3::spec::command::CMD0::OPCODE::Value as Opcode;
use crate::smmuv3::spec::command::cerror;
use crate::smmuv3::spec::registers::CMDQ_CONS;

/// A CMD_CFGI_STE, CMD_CFGI_STE_RANGE or CMD_CFGI_ALL that was begun: the rest of its streams, as places in the order of
/// StreamIDs. The command is not read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HalfDone {
    next: usize,
    end: usize,
}

/// What a command that is not plain takes at least, by its first word.
fn cost(word: u64) -> u32 {
    const SYNC: u8 = Opcode::Sync as u8;
    const HINTS: [u8; 2] = [Opcode::PrefetchConfig as u8, Opcode::PrefetchAddr as u8];
    match word as u8 {
        SYNC => DECODE_COST + FLUSH_COST,
        hint if HINTS.contains(&hint) => DECODE_COST,
        _ => STREAM_COST,
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
    /// Consumes commands. What is consumed is complete when this returns, and CONS says so. Whether there are more that can be
    /// gone on with.
    pub(super) fn commands(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> bool {
        let Some(queue) = self.registers.commands() else {
            return false;
        };
        if queue.is_empty() || self.registers.commands_stopped() {
            return false;
        }
        let mut at = queue.cons;
        let mut stopped = None;
        if let Some(rest) = self.half_done.take() {
            if !self.reconfigure(memory, rest, budget, effect) {
                return true;
            }
            at = at.next();
        }
        self.ahead.forget();
        while at != queue.prod && *budget > 0 && self.outbox.has_room() {
            match self.step(memory, &queue, &mut at, budget, effect) {
                Ok(true) => {}
                Ok(false) => break,
                Err(stop) => {
                    stopped = Some(stop);
                    break;
                }
            }
        }
        // A failure of what came before is earlier in the queue than whatever stopped it.
        if let Err(stop) = self.flush_all(effect) {
            stopped = Some(stop);
        }
        if let Some(stop) = stopped {
            at = stop.at;
        }
        self.consumed(at);
        let Some(stop) = stopped else {
            return at != queue.prod;
        };
        self.counters.errors += 1;
        let code = u32::from(stop.code) << 24;
        self.registers.set(CMDQ_CONS, at.register() | code);
        self.raise(memory, CMDQ_ERR, effect);
        false
    }

    /// Everything before `at` is complete.
    #[inline(always)]
    fn consumed(&mut self, at: Position) {
        let before = at.of_register(self.registers.get(CMDQ_CONS));
        self.counters.commands += u64::from(at.since(before));
        self.registers.set_consumed(at.register());
    }

    /// Takes plain commands, as many as there are, or one other. `false`: there is more to it, later.
    fn step(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &Queue,
        at: &mut Position,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> Result<bool, Stopped> {
        if self.ahead.left().is_empty() {
            let read = self.ahead.read(memory, queue, *at, *budget);
            read.map_err(|_| Stopped {
                at: *at,
                code: cerror::ABT,
            })?;
        }
        if self.batch.is_full() {
            self.flush(effect)?;
        }
        let taken = self.batch.take(&self.decoder, self.ahead.left(), *at);
        self.ahead.taken(taken);
        *at = at.after(taken as u32);
        *budget = budget.saturating_sub(taken as u32);
        if taken != 0 {
            return Ok(true);
        }
        let Some(&words) = self.ahead.left().first() else {
            return Ok(true);
        };
        // What takes long is begun with all of a call before it, or nearly.
        let begun = *at != queue.cons || self.batch.syncs != 0;
        if begun && *budget < cost(words[0]).min(self.budget) {
            return Ok(false);
        }
        self.ahead.taken(1);
        *budget -= 1;
        let done = self.step_slowly(memory, words, *at, budget, effect)?;
        if done {
            *at = at.next();
        }
        Ok(done)
    }

    /// As [`step`](Self::step), of a command that is not plain.
    #[inline(never)]
    fn step_slowly(
        &mut self,
        memory: &dyn GuestMemory,
        words: [u64; 2],
        at: Position,
        budget: &mut u32,
        effect: &mut Effect,
    ) -> Result<bool, Stopped> {
        let mut spend = |cost| *budget = budget.saturating_sub(cost);
        spend(DECODE_COST);
        let flush = if self.batch.len == 0 { 0 } else { FLUSH_COST };
        let command = self.decoder.decode(words);
        match command.map_err(|_| Stopped::illegal(at))? {
            Command::Prefetch => {}
            Command::Forget(None, entry) => self.push(entry, at, effect)?,
            Command::Forget(Some(stream), entry) => {
                // A device that has no cache does not answer.
                let cache = self.find(stream).map(|device| &self.streams[device]);
                if cache.is_some_and(|stream| stream.behind.ats) {
                    spend(DEVICE_COST);
                    self.push(entry, at, effect)?;
                }
            }
            Command::Contexts(stream, entry) => match self.find(stream) {
                Some(device) if self.contexts.is_some() => {
                    spend(CONTEXT_COST);
                    self.flush(effect)?;
                    self.copy_context(memory, device, effect);
                }
                Some(_) => self.push(entry, at, effect)?,
                None => {}
            },
            Command::Streams(first, last) => {
                spend(flush);
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
                spend(flush);
                self.flush(effect)?;
                if self.find(stream).is_some() {
                    spend(DEVICE_COST);
                    self.answer_group(stream, group, answer);
                }
            }
            Command::Resume {
                stream,
                tag,
                answer,
            } => {
                spend(flush);
                self.flush(effect)?;
                if self.find(stream).is_some() {
                    spend(DEVICE_COST);
                    self.answer_stall(stream, tag, answer);
                }
            }
            Command::EndStalls(stream) => {
                spend(flush);
                self.flush(effect)?;
                if self.find(stream).is_some() {
                    spend(DEVICE_COST);
                    self.end_stalls(stream);
                }
            }
            Command::Sync(signal) => {
                if let Signal::None = signal {
                    self.batch.syncs += 1;
                    return Ok(true);
                }
                spend(flush);
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
            rest.next += usize::from(self.configure(memory, device, effect));
        }
        true
    }

    /// Collects an entry for the slice.
    fn push(&mut self, entry: Entry, at: Position, effect: &mut Effect) -> Result<(), Stopped> {
        match self.batch.add(entry, at) {
            true => Ok(()),
            false => self.flush(effect),
        }
    }

    /// Has the slice do what was collected, before something else.
    #[inline(never)]
    fn flush(&mut self, effect: &mut Effect) -> Result<(), Stopped> {
        self.flush_all(effect)
    }

    /// The same: each call ends with it.
    #[inline(always)]
    fn flush_all(&mut self, effect: &mut Effect) -> Result<(), Stopped> {
        let len = core::mem::take(&mut self.batch.len);
        let syncs = core::mem::take(&mut self.batch.syncs);
        if len == 0 {
            self.counters.syncs += u64::from(syncs);
            return Ok(());
        }
        self.counters.batches += 1;
        let progress = self.slice.invalidate(&self.batch.entries[..len]);
        let Err(error) = progress.result else {
            self.counters.syncs += u64::from(syncs);
            return Ok(());
        };
        Err(self.failed(progress.complete.min(len - 1), error, effect))
    }

    /// Why the queue stops where the slice could not do the entry number `failed`.
    #[cold]
    #[inline(never)]
    fn failed(&mut self, failed: usize, error: Error, effect: &mut Effect) -> Stopped {
        self.counters.syncs += u64::from(self.batch.syncs_before[failed]);
        let at = self.batch.at[failed];
        match error {
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
        }
    }
}
