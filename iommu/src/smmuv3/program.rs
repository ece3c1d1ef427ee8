//! What one batch says to an SMMU, command by command: the part of a submission that knows no queue.

use super::ats::{DeviceCache, DeviceCaches};
use super::command::{Command, Signal};
use super::invalidation::{Commands, commands};
use super::nested::{NestedStreams, Place};
use super::probe::Features;
use super::spec::command::CMD0;
use crate::id::{CacheTag, DeviceId};
use crate::physical::Invalidation;

enum Phase {
    Entries,
    /// The part of the tags that have a stage 1: see [`nested`](super::nested).
    Combined(Option<Place>),
    /// The part of the devices that may have something of what one entry removes: see [`ats`](super::ats).
    Devices(usize, Option<DeviceCache>),
    End,
}

/// Commands as they stand in the queue, or those of entries and what the entries take where stages are combined.
pub(super) struct Program<'a> {
    native: &'a [[u64; 2]],
    entries: &'a [Invalidation],
    features: &'a Features,
    /// The entry that the last command was of.
    at: usize,
    current: Option<Commands>,
    /// What comes next.
    held: Option<Command>,
    /// Something was told to leave the TLBs since the last CMD_SYNC.
    removing: bool,
    /// Commands since the last CMD_SYNC.
    run: u8,
    phase: Phase,
}

impl<'a> Program<'a> {
    /// Commands as they stand in the queue: none that cuts stage 2.
    pub(super) fn of_native(native: &'a [[u64; 2]], features: &'a Features) -> Self {
        Self {
            native,
            phase: Phase::End,
            ..Self::of_entries(&[], features)
        }
    }

    /// What may be handed over in one piece now, as far as there is room; [`skip`](Self::skip) is told how far.
    pub(super) fn run(&self) -> &'a [[u64; 2]] {
        let limit = match self.features.errata.commands_a_sync {
            0 => self.native.len(),
            limit => usize::from(limit - self.run.min(limit)),
        };
        &self.native[..limit.min(self.native.len())]
    }

    /// The first `count` of a [`run`](Self::run) are in the queue.
    pub(super) fn skip(&mut self, count: usize) {
        self.native = &self.native[count..];
        self.run = self.run.saturating_add(count as u8);
    }

    /// `entries` that the SMMU has commands for.
    pub(super) fn of_entries(entries: &'a [Invalidation], features: &'a Features) -> Self {
        Self {
            native: &[],
            entries,
            features,
            at: 0,
            current: entries
                .first()
                .and_then(|entry| commands(entry, features).ok()),
            held: None,
            removing: false,
            run: 0,
            phase: Phase::Entries,
        }
    }

    /// The next command; `None` from the end on. Called under the lock, so that `nested` and `caches` are what they are when
    /// the command is in the queue: a stream starts to use a stage 1, and a device to cache, only after everything that was
    /// in the queue before it said so.
    pub(super) fn next(
        &mut self,
        nested: &NestedStreams,
        caches: &DeviceCaches,
    ) -> Option<Command> {
        let limit = self.features.errata.commands_a_sync;
        if limit != 0 && self.run >= limit {
            self.run = 0;
            return Some(Command::sync(Signal::None));
        }
        let next = self.step(nested, caches)?;
        self.run = self.run.saturating_add(1);
        Some(next)
    }

    fn step(&mut self, nested: &NestedStreams, caches: &DeviceCaches) -> Option<Command> {
        if let Some(command) = self.held.take() {
            return Some(command);
        }
        while let Phase::Entries = self.phase {
            if let Some(command) = self.current.as_mut().and_then(Iterator::next) {
                return Some(self.in_order(command, caches));
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
            self.phase = Phase::Combined(None);
        }
        while let Phase::Combined(last) = self.phase {
            let Some(place) = nested.next(last, |tag| self.cuts_stage_two(tag)) else {
                self.phase = Phase::Devices(0, None);
                let cut = |it: &DeviceCache| self.entries.iter().any(|entry| it.is_cut(entry));
                if caches.next(None, cut).is_some() {
                    return Some(Command::sync(Signal::None));
                }
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
        while let Phase::Devices(at, last) = self.phase {
            let Some(entry) = self.entries.get(at) else {
                self.phase = Phase::End;
                break;
            };
            let Some(cache) = caches.next(last, |it| it.is_cut(entry)) else {
                self.phase = Phase::Devices(at + 1, None);
                continue;
            };
            self.phase = Phase::Devices(at, Some(cache));
            self.held = cache.others(self.features.substream_bits != 0);
            return Some(cache.command(entry));
        }
        None
    }

    /// A command of an entry. What a device is to forget, the TLBs have forgotten before (§3.9.1); one that has nothing is
    /// not told, as it need not answer. Commands are as many in any case.
    fn in_order(&mut self, command: Command, caches: &DeviceCaches) -> Command {
        if command.0[0] as u8 != CMD0::OPCODE::AtcInv.value as u8 {
            self.removing = true;
            return command;
        }
        let sync = Command::sync(Signal::None);
        let has = caches.has(DeviceId((command.0[0] >> 32) as u32));
        let command = if has { command } else { sync };
        if core::mem::take(&mut self.removing) {
            self.held = Some(command);
            return sync;
        }
        command
    }

    fn cuts_stage_two(&self, wanted: CacheTag) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry, Invalidation::StageTwoRange { tag, .. } if *tag == wanted))
    }

    /// How many entries are complete where only so many commands are.
    pub(super) fn entries_in(
        &self,
        complete: u64,
        nested: &NestedStreams,
        caches: &DeviceCaches,
    ) -> usize {
        let none = (NestedStreams::default(), DeviceCaches::default());
        let mut again = Self::of_entries(self.entries, self.features);
        let mut left = complete;
        let whole = loop {
            match again.next(&none.0, &none.1) {
                None => break self.entries.len(),
                Some(_) if left == 0 => break again.at,
                Some(_) => left -= 1,
            }
        };
        // The parts that come last are missing.
        let later = self.entries.iter().position(|entry| {
            let combined =
                matches!(entry, Invalidation::StageTwoRange { tag, .. } if nested.holds(*tag));
            combined || caches.next(None, |it| it.is_cut(entry)).is_some()
        });
        later.map_or(whole, |later| whole.min(later))
    }
}
