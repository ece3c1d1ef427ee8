//! What one batch says to an SMMU, command by command: the part of a submission that knows no queue.

use super::command::{Command, Signal};
use super::invalidation::{Commands, commands};
use super::nested::{NestedStreams, Place};
use super::probe::Features;
use crate::id::CacheTag;
use crate::physical::Invalidation;

enum Phase {
    Entries,
    /// The part of the tags that have a stage 1: see [`nested`](super::nested).
    Combined(Option<Place>),
    End,
}

/// Commands of the host, then those of the entries, then what the entries take where stages are combined.
pub(super) struct Program<'a> {
    own: &'a [Command],
    entries: &'a [Invalidation],
    features: &'a Features,
    /// The entry that the last command was of.
    at: usize,
    current: Option<Commands>,
    /// Commands since the last CMD_SYNC.
    run: u8,
    phase: Phase,
}

impl<'a> Program<'a> {
    pub(super) fn of_commands(own: &'a [Command], features: &'a Features) -> Self {
        Self {
            own,
            ..Self::of_entries(&[], features)
        }
    }

    /// `entries` that the SMMU has commands for.
    pub(super) fn of_entries(entries: &'a [Invalidation], features: &'a Features) -> Self {
        Self {
            own: &[],
            entries,
            features,
            at: 0,
            current: entries
                .first()
                .and_then(|entry| commands(entry, features).ok()),
            run: 0,
            phase: Phase::Entries,
        }
    }

    /// The next command; `None` from the end on. Called under the lock, so that `nested` is what it is when the command is
    /// in the queue: a stream starts to use a stage 1 only after everything that was in the queue before it said so.
    pub(super) fn next(&mut self, nested: &NestedStreams) -> Option<Command> {
        let limit = self.features.errata.commands_a_sync;
        if limit != 0 && self.run >= limit {
            self.run = 0;
            return Some(Command::sync(Signal::None));
        }
        let next = self.step(nested)?;
        self.run = self.run.saturating_add(1);
        Some(next)
    }

    fn step(&mut self, nested: &NestedStreams) -> Option<Command> {
        if let [first, rest @ ..] = self.own {
            self.own = rest;
            return Some(*first);
        }
        while let Phase::Entries = self.phase {
            if let Some(command) = self.current.as_mut().and_then(Iterator::next) {
                return Some(command);
            }
            if let Some(entry) = self.entries.get(self.at + 1) {
                self.at += 1;
                self.current = commands(entry, self.features).ok();
                continue;
            }
            if nested.next(None, |tag| self.cuts_stage_two(tag)).is_some() {
                self.phase = Phase::Combined(None);
                return Some(Command::sync(Signal::None));
            }
            self.phase = Phase::End;
        }
        while let Phase::Combined(last) = self.phase {
            let Some(place) = nested.next(last, |tag| self.cuts_stage_two(tag)) else {
                self.phase = Phase::End;
                break;
            };
            self.phase = Phase::Combined(Some(place));
            match place {
                (tag, None) => return Some(Command::tlbi_nh_all(tag)),
                (_, Some(device)) if self.features.errata.tables_in_configuration => {
                    return Some(Command::cfgi_cd_all(device));
                }
                _ => {}
            }
        }
        None
    }

    fn cuts_stage_two(&self, wanted: CacheTag) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry, Invalidation::StageTwoRange { tag, .. } if *tag == wanted))
    }

    /// How many entries are complete where only so many commands are.
    pub(super) fn entries_in(&self, complete: u64, nested: &NestedStreams) -> usize {
        let none = NestedStreams::default();
        let mut again = Self::of_entries(self.entries, self.features);
        let mut left = complete;
        let whole = loop {
            match again.next(&none) {
                None => break self.entries.len(),
                Some(_) if left == 0 => break again.at,
                Some(_) => left -= 1,
            }
        };
        // The combined part comes last and is missing.
        let combined = self.entries.iter().position(
            |entry| matches!(entry, Invalidation::StageTwoRange { tag, .. } if nested.holds(*tag)),
        );
        combined.map_or(whole, |combined| whole.min(combined))
    }
}
