//! Batches: runs of commands that somebody waits for, and how far each came.

use super::CommandQueue;
use crate::hal::Platform;
use crate::smmuv3::command::{Command, Signal};

/// A batch that somebody waits for.
#[derive(Clone, Copy, Default)]
pub(super) struct Batch {
    /// First command of the run.
    pub(super) start: u64,
    /// One past the last.
    pub(super) end: u64,
    /// The CMD_SYNC after it.
    pub(super) sync: Option<u64>,
    /// The first and the last CMD_ATC_INV.
    pub(super) device_tlb: Option<(u64, u64)>,
    /// The first command that was refused, and the code.
    pub(super) refused: Option<(u64, u8)>,
}

impl Batch {
    pub(super) fn refuse(&mut self, at: u64, code: u8) {
        let new = (at, code);
        self.refused = Some(self.refused.map_or(new, |first| first.min(new)));
    }
}

/// Names a batch until it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Ticket(pub(super) usize);

/// What became of a command that was to be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) enum Pushed {
    Done,
    /// No room.
    Full,
    /// Somebody else's commands are in between: the run is over.
    Cut,
}

/// How far a run came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::smmuv3) struct Progress {
    /// Commands from its start that are complete.
    pub(in crate::smmuv3) complete: u64,
    /// Why not all.
    pub(in crate::smmuv3) refused: Option<u8>,
}

impl<P: Platform> CommandQueue<P> {
    /// Starts a batch; `None` while there are too many.
    pub(in crate::smmuv3) fn open(&mut self) -> Option<Ticket> {
        let free = self.batches.iter().position(Option::is_none)?;
        let mut batch = Batch::default();
        (batch.start, batch.end) = (self.produced, self.produced);
        self.batches[free] = Some(batch);
        self.used = self.used.max(free + 1);
        Some(Ticket(free))
    }

    fn batch(&mut self, Ticket(at): Ticket) -> &mut Batch {
        let Some(batch) = &mut self.batches[at] else {
            unreachable!("a ticket is closed by its holder alone");
        };
        batch
    }

    /// Adds `command` to the run of a batch.
    pub(in crate::smmuv3) fn push(&mut self, ticket: Ticket, command: Command) -> Pushed {
        self.push_run(ticket, &[command.0]).1
    }

    /// As [`push`](Self::push), of as many commands as there is room for. How many.
    pub(in crate::smmuv3) fn push_run(
        &mut self,
        ticket: Ticket,
        commands: &[[u64; 2]],
    ) -> (usize, Pushed) {
        let at = self.produced;
        if self.batch(ticket).end != at && !self.restart(ticket) {
            return (0, Pushed::Cut);
        }
        let count = commands.len().min(self.room() as usize);
        let added = self.add_run(&commands[..count]);
        let end = self.produced;
        let batch = self.batch(ticket);
        batch.end = end;
        if let Some((first, last)) = added {
            let first = batch.device_tlb.map_or(first, |(first, _)| first);
            batch.device_tlb = Some((first, last));
        }
        let pushed = match count == commands.len() {
            true => Pushed::Done,
            false => Pushed::Full,
        };
        (count, pushed)
    }

    /// A run that has nothing in it yet starts where the queue is now.
    fn restart(&mut self, ticket: Ticket) -> bool {
        let at = self.produced;
        let batch = self.batch(ticket);
        let empty = batch.start == batch.end;
        if empty {
            (batch.start, batch.end) = (at, at);
        }
        empty
    }

    /// Ends the run of a batch by a CMD_SYNC; `false` without room.
    pub(in crate::smmuv3) fn end(&mut self, ticket: Ticket) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.batch(ticket).sync = Some(self.produced);
        self.add(Command::sync(Signal::None));
        true
    }

    /// Whether the CMD_SYNC of a batch is consumed.
    pub(in crate::smmuv3) fn is_done(&self, Ticket(at): Ticket) -> bool {
        let sync = self.batches[at].and_then(|batch| batch.sync);
        sync.is_some_and(|sync| sync < self.consumed)
    }

    /// How far the run of a batch came.
    pub(in crate::smmuv3) fn progress(&self, Ticket(at): Ticket) -> Progress {
        let Some(batch) = self.batches[at] else {
            unreachable!("a ticket is closed by its holder alone");
        };
        let synced = self.synced.clamp(batch.start, batch.end);
        let first = batch.refused.map_or(synced, |(at, _)| at.min(synced));
        Progress {
            complete: first - batch.start,
            refused: batch.refused.map(|(_, code)| code),
        }
    }

    /// Starts the next run of a batch whose last one is done.
    pub(in crate::smmuv3) fn next_run(&mut self, ticket: Ticket) {
        let at = self.produced;
        let mut batch = Batch::default();
        (batch.start, batch.end) = (at, at);
        *self.batch(ticket) = batch;
    }

    /// Nobody waits for the batch any more. What of it is in the queue still goes to the SMMU.
    pub(in crate::smmuv3) fn close(&mut self, Ticket(at): Ticket) {
        self.batches[at] = None;
        while let Some(last) = self.used.checked_sub(1)
            && self.batches[last].is_none()
        {
            self.used = last;
        }
    }
}
