//! What several CPUs use of one SMMU at once: its registers and its command queue, behind a lock that nobody holds while
//! they wait.
//!
//! The lock is held to store a batch and write CMDQ_PROD, and to look once how far the SMMU is. Between looks it is free:
//! others add their commands behind, and each waits for its own CMD_SYNC. It is taken in turn, so that everyone gets in.

use alloc::sync::Arc;

use super::ats::DeviceCaches;
use super::command::Command;
use super::command_queue::{CommandQueue, Pushed, SYNC, Ticket};
use super::context::{ContextDescriptor, ContextTable};
use super::hitless::{FIRST, INVALID, Kind, Update, WORDS};
use super::nested::NestedStreams;
use super::probe::Features;
use super::program::Program;
use super::registers::{DEADLINE_NS, Registers};
use crate::hal::{Mmio, Platform};
use crate::id::DeviceId;
use crate::physical::{Invalidate, IommuError};
use crate::sync::{Mutex, MutexGuard, relax};

/// What the lock is for.
pub(super) struct Core<P: Platform, M> {
    pub(super) registers: Registers<M>,
    pub(super) queue: CommandQueue<P>,
    pub(super) nested: NestedStreams,
    pub(super) caches: DeviceCaches,
    /// Nothing is waited for any more: service failure, or the driver is gone.
    pub(super) stopped: bool,
}

/// See the module's description.
pub(super) struct Shared<P: Platform, M> {
    pub(super) platform: Arc<P>,
    pub(super) features: Features,
    core: Mutex<Core<P, M>>,
}

pub(super) type Guard<'a, P, M> = MutexGuard<'a, Core<P, M>>;

/// A program that did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// Commands from its start that are complete.
    pub(super) complete: u64,
    pub(super) error: IommuError,
}

/// Nothing is complete.
fn nothing(error: IommuError) -> Failure {
    Failure { complete: 0, error }
}

impl<P: Platform, M: Mmio> Shared<P, M> {
    pub(super) fn new(platform: Arc<P>, features: Features, core: Core<P, M>) -> Self {
        Self {
            platform,
            features,
            core: Mutex::new(core),
        }
    }

    pub(super) fn lock(&self) -> Guard<'_, P, M> {
        self.core.lock()
    }

    /// Takes a step under the lock until it gives something. Between two steps the lock is free, and the SMMU's progress
    /// and errors are looked at. Ends by `start` + [`DEADLINE_NS`].
    fn until<T>(
        &self,
        start: u64,
        mut step: impl FnMut(&mut Core<P, M>) -> Option<T>,
    ) -> Result<T, IommuError> {
        loop {
            {
                let mut core = self.lock();
                if core.stopped {
                    return Err(IommuError::Stopped);
                }
                if let Some(value) = step(&mut core) {
                    return Ok(value);
                }
                let Core {
                    registers, queue, ..
                } = &mut *core;
                queue.advance(registers)?;
                if let Some(value) = step(&mut core) {
                    self.platform.read_barrier();
                    return Ok(value);
                }
                let Core {
                    registers, queue, ..
                } = &mut *core;
                queue.recover(&self.platform, registers)?;
            }
            if self.platform.now_ns().saturating_sub(start) > DEADLINE_NS {
                return Err(IommuError::Timeout);
            }
            relax();
        }
    }

    /// Sends the commands of `program` with one CMD_SYNC at the end (and those that the program has itself), one write of
    /// CMDQ_PROD, and waits. A program longer than the queue is handed over in pieces; should others come in between, a
    /// CMD_SYNC ends the piece, so that it is always known which commands are complete.
    ///
    /// Mostly all of it is in the queue with the first look, and complete with the second.
    pub(super) fn run(&self, program: &mut Program<'_>) -> Result<(), Failure> {
        let start = self.platform.now_ns();
        let mut pending = None;
        let begun = self.until(start, |core| {
            let ticket = core.queue.open()?;
            Some((ticket, self.hand_over(core, ticket, program, &mut pending)))
        });
        let (ticket, filled) = begun.map_err(nothing)?;
        self.complete(ticket, filled, program, pending, start)
    }

    /// The same for commands as they stand in the queue, the CMD_SYNC at their end ([`SYNC`]) included. Mostly all of them
    /// are in it and complete with one look.
    // Every invalidation of a guest goes by here.
    #[inline(always)]
    fn put(&self, commands: &[[u64; 2]]) -> Result<(), Failure> {
        let limit = usize::from(self.features.errata.commands_a_sync);
        let mut begun = None;
        if limit == 0 || commands.len() <= limit + 1 {
            let mut core = self.lock();
            if core.stopped {
                return Err(nothing(IommuError::Stopped));
            }
            let Core {
                registers, queue, ..
            } = &mut *core;
            if let Some(run) = queue.put(commands) {
                queue.publish(&self.platform, registers);
                begun = queue.look(registers, run).map_err(nothing)?;
                drop(core);
                if begun.is_none() {
                    self.platform.read_barrier();
                    return Ok(());
                }
            }
        }
        self.send_on(commands, begun)
    }

    /// Goes on with [`send`](Self::send): under a ticket all of them are in the queue, else none.
    #[cold]
    #[inline(never)]
    fn send_on(&self, commands: &[[u64; 2]], begun: Option<Ticket>) -> Result<(), Failure> {
        let before_sync = commands.len() - 1;
        let mut program = Program::of_native(&commands[..before_sync], &self.features);
        let Some(ticket) = begun else {
            return self.run(&mut program);
        };
        program.skip(before_sync);
        self.complete(
            ticket,
            Some(true),
            &mut program,
            None,
            self.platform.now_ns(),
        )
    }

    /// Hands over the rest of a program, waits, and says how far it came.
    fn complete(
        &self,
        ticket: Ticket,
        filled: Option<bool>,
        program: &mut Program<'_>,
        pending: Option<Command>,
        start: u64,
    ) -> Result<(), Failure> {
        let mut settled = 0;
        let sent = self.finish(ticket, filled, program, pending, start, &mut settled);
        let error = match sent {
            Ok(None) => return Ok(()),
            Ok(Some(code)) => Some(IommuError::Command(code)),
            Err(error) => Some(error),
        };
        let mut core = self.lock();
        let progress = core.queue.progress(ticket);
        core.queue.close(ticket);
        let error = match (error, progress.refused) {
            (_, Some(code)) => IommuError::Command(code),
            (Some(error), None) => error,
            (None, None) => return Ok(()),
        };
        Err(Failure {
            complete: settled + progress.complete,
            error,
        })
    }

    /// Stores as much as there is room for and tells the SMMU; what [`fill`] says.
    fn hand_over(
        &self,
        core: &mut Core<P, M>,
        ticket: Ticket,
        program: &mut Program<'_>,
        pending: &mut Option<Command>,
    ) -> Option<bool> {
        let filled = fill(core, ticket, program, pending);
        let Core {
            registers, queue, ..
        } = core;
        queue.publish(&self.platform, registers);
        filled
    }

    /// Hands over the rest and waits. `None`: complete, and the ticket is closed. The code of a refused command.
    fn finish(
        &self,
        ticket: Ticket,
        mut filled: Option<bool>,
        program: &mut Program<'_>,
        mut pending: Option<Command>,
        start: u64,
        settled: &mut u64,
    ) -> Result<Option<u8>, IommuError> {
        loop {
            let mut full = filled.is_none();
            let last = match filled {
                Some(last) => last,
                None => self.until(start, |core| {
                    if full && !core.queue.has_room() {
                        return None;
                    }
                    let filled = self.hand_over(core, ticket, program, &mut pending);
                    full = filled.is_none();
                    filled
                })?,
            };
            let progress = self.until(start, |core| {
                let done = core.queue.is_done(ticket);
                done.then(|| {
                    let progress = core.queue.progress(ticket);
                    match (progress.refused, last) {
                        (Some(_), _) => {}
                        (None, true) => core.queue.close(ticket),
                        (None, false) => core.queue.next_run(ticket),
                    }
                    progress
                })
            })?;
            if progress.refused.is_some() || last {
                return Ok(progress.refused);
            }
            *settled += progress.complete;
            let mut core = self.lock();
            filled = self.hand_over(&mut core, ticket, program, &mut pending);
        }
    }

    /// Sends a command of the host.
    pub(super) fn tell_one(&self, command: Command) -> Result<(), IommuError> {
        self.tell(&[command.0, SYNC])
    }

    /// Whatever was sent before is complete on return.
    pub(super) fn sync(&self) -> Result<(), IommuError> {
        self.tell(&[SYNC])
    }

    /// Sends commands of the host, the CMD_SYNC at their end included.
    pub(super) fn tell(&self, commands: &[[u64; 2]]) -> Result<(), IommuError> {
        self.send(commands, None)
            .map_err(|incomplete| incomplete.error)
    }

    /// What is cached of a context goes; not `leaf`: its level 1 descriptor too.
    pub(super) fn forget_context(
        &self,
        device: DeviceId,
        substream: u32,
        leaf: bool,
    ) -> Result<(), IommuError> {
        self.tell_one(Command::cfgi_cd(device, substream, leaf))
    }

    /// Goes through the steps of an update of a context that the entry of `device` leads to.
    pub(super) fn set_context(
        &self,
        device: DeviceId,
        table: &mut ContextTable<P>,
        substream: u32,
        descriptor: &ContextDescriptor,
    ) -> Result<(), IommuError> {
        let old = table.read(substream).ok_or(IommuError::Unsupported)?;
        let update = Update::new(&old, &descriptor.0, Kind::ContextDescriptor);
        for (image, changes) in update.steps() {
            table.store(&self.platform, substream, image, changes);
            let told = self.forget_context(device, substream, true);
            if told.is_err() {
                table.store(&self.platform, substream, &[INVALID; WORDS], FIRST);
                return told;
            }
        }
        Ok(())
    }
}

/// Stores as much of a program as there is room for. `Some` once its piece has its CMD_SYNC: whether it was the last.
fn fill<P: Platform, M>(
    core: &mut Core<P, M>,
    ticket: Ticket,
    program: &mut Program<'_>,
    pending: &mut Option<Command>,
) -> Option<bool> {
    loop {
        let run = program.run();
        if !run.is_empty() {
            let (count, pushed) = core.queue.push_run(ticket, run);
            program.skip(count);
            match pushed {
                Pushed::Done => continue,
                Pushed::Full => return None,
                Pushed::Cut => return core.queue.end(ticket).then_some(false),
            }
        }
        let next = pending
            .take()
            .or_else(|| program.next(&core.nested, &core.caches));
        let Some(command) = next else {
            return core.queue.end(ticket).then_some(true);
        };
        match core.queue.push(ticket, command) {
            Pushed::Done => {}
            Pushed::Full => {
                *pending = Some(command);
                return None;
            }
            Pushed::Cut => {
                *pending = Some(command);
                return core.queue.end(ticket).then_some(false);
            }
        }
    }
}

mod submit;

#[cfg(all(test, loom))]
mod orders;
