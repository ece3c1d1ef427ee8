//! From what a guest says about a stream to what is in force for it.

use super::effect::Effect;
use super::spec::{CR2_RECINVSID, GBPA_ABORT};
use super::streams::{Missing, StreamTable};
use super::{STREAM_COST, Slice, VirtSmmu};
use crate::addr::Gpa;
use crate::hal::{GuestMemory, Platform};
use crate::id::DeviceId;
use crate::object::driver::{Entry, StageOne};
use crate::object::{Error, Event};
use crate::physical::StageOneConfig;
use crate::smmuv3::command::Command;
use crate::smmuv3::spec::event::kind;
use crate::smmuv3::spec::registers::{CR2, GBPA, STRTAB_BASE, STRTAB_BASE_CFG};

/// FetchAddr of an event, bits `[51:3]` (§7.3.4).
const FETCH_ADDRESS: u64 = 0x000f_ffff_ffff_fff8;

/// A command that has the slice forget every context of a stream.
fn forget_contexts(stream: u32) -> Entry {
    let [first, second] = Command::cfgi_cd_all(DeviceId(stream)).0;
    [first, second, 0, 0]
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// Has the slice forget what is not in a guest's queue.
    #[inline(never)]
    pub(super) fn tell(slice: &mut S, entry: Entry) -> Result<(), Error> {
        slice.invalidate(&[entry]).result
    }

    /// Streams follow CR0.SMMUEN and GBPA; both are acknowledged with the last.
    pub(super) fn follow(
        &mut self,
        memory: &dyn GuestMemory,
        budget: &mut u32,
        effect: &mut Effect,
    ) {
        while let Some(device) = self.following {
            if device == self.streams.len() {
                self.following = None;
                self.registers.translation_follows();
                return;
            }
            if *budget == 0 || !self.outbox.has_room() {
                return;
            }
            *budget = budget.saturating_sub(STREAM_COST);
            if self.configure(memory, device, effect) {
                self.following = Some(device + 1);
            }
        }
    }

    /// What the guest wants of a stream now.
    fn asked(&mut self, memory: &dyn GuestMemory, device: usize) -> StageOne {
        if !self.registers.translates() {
            return if self.registers.get(GBPA) & GBPA_ABORT != 0 {
                StageOne::Abort
            } else {
                StageOne::Bypass
            };
        }
        let base = self.registers.get64(STRTAB_BASE);
        let config = self.registers.get(STRTAB_BASE_CFG);
        let table = StreamTable::new(base, config, self.stream_bits);
        let behind = self.streams[device].behind;
        let stream = behind.stream.0;
        let read = table.read(memory, stream);
        self.streams[device].missing = read.err();
        match read {
            Ok(words) => match self.rules.classify(words) {
                StageOne::Translate(stage_one) => StageOne::Translate(StageOneConfig {
                    ats: stage_one.ats && behind.ats,
                    ..stage_one
                }),
                stage_one => stage_one,
            },
            // An event only if the guest asked for it (§6.3.12).
            Err(Missing::OutOfRange) if self.registers.get(CR2) & CR2_RECINVSID == 0 => {
                StageOne::Abort
            }
            Err(_) => StageOne::Refuse,
        }
    }

    /// An event of the hardware as the guest's own tables make it: a stream whose entry the guest does not have, or has
    /// where no memory is, is one whose entry is not valid for the hardware.
    pub(super) fn by_the_guests_tables(&self, mut record: Event) -> Event {
        if record[0] as u8 != kind::C_BAD_STE {
            return record;
        }
        let device = self.find((record[0] >> 32) as u32);
        let number = match device.and_then(|device| self.streams[device].missing) {
            Some(Missing::OutOfRange) => kind::C_BAD_STREAMID,
            Some(Missing::Unreadable(at)) => {
                record[3] = at.0 & FETCH_ADDRESS;
                kind::F_STE_FETCH
            }
            None => kind::C_BAD_STE,
        };
        record[0] = record[0] & !0xff | u64::from(number);
        record
    }

    /// One of the two steps of a stream's configuration: to read what the guest wants, or to put what was read in force.
    /// Whether that was all.
    pub(super) fn configure(
        &mut self,
        memory: &dyn GuestMemory,
        device: usize,
        effect: &mut Effect,
    ) -> bool {
        // Registers are read at once.
        if self.wanted.is_none() {
            self.wanted = self.look(memory, device, effect);
            if self.registers.translates() {
                return self.wanted.is_none();
            }
        }
        if let Some(wanted) = self.wanted.take() {
            self.enforce(device, wanted, effect);
        }
        true
    }

    /// Reads what the guest wants of a stream, and has the hardware forget the contexts of one that stays (§4.3.1). `None`
    /// where there is no more to do.
    fn look(
        &mut self,
        memory: &dyn GuestMemory,
        device: usize,
        effect: &mut Effect,
    ) -> Option<StageOne> {
        let mut wanted = self.asked(memory, device);
        let stream = &mut self.streams[device];
        let was_translating = matches!(stream.current, Some(StageOne::Translate(_)));
        let mut forgotten = Ok(());
        if let StageOne::Translate(stage_one) = wanted {
            if let Some(contexts) = &mut self.contexts {
                stream.context = Gpa(stage_one.contexts);
                wanted = StageOne::Translate(contexts.stage_one(device, stage_one));
                let entry = forget_contexts(stream.behind.stream.0);
                let slice = &mut self.slice;
                forgotten = contexts.copy(&*self.platform, memory, device, stream.context, || {
                    if was_translating {
                        Self::tell(slice, entry)
                    } else {
                        Ok(())
                    }
                });
            } else if stream.current == Some(wanted) {
                let entry = forget_contexts(stream.behind.stream.0);
                forgotten = Self::tell(&mut self.slice, entry);
            }
        }
        self.counters.streams += 1;
        if let Err(error) = forgotten {
            let stopped = self.put(device, StageOne::Abort);
            self.put_failed(device, stopped.err().unwrap_or(error), effect);
            return None;
        }
        let same = self.streams[device].current == Some(wanted);
        (!same).then_some(wanted)
    }

    /// Puts what was read in force, in place of what was.
    fn enforce(&mut self, device: usize, wanted: StageOne, effect: &mut Effect) {
        let result = match self.put(device, wanted) {
            // Legal by the ID registers, but not for this hardware.
            Err(Error::IllegalStageOne) => self.put(device, StageOne::Refuse),
            result => result,
        };
        match result {
            Ok(()) => self.drop_requests(device),
            Err(error) => self.put_failed(device, error, effect),
        }
    }

    fn put_failed(&mut self, device: usize, error: Error, effect: &mut Effect) {
        self.drop_requests(device);
        self.counters.stream_failures += 1;
        effect.failed = Some(error);
    }

    /// Has the slice put `stage_one` in force.
    pub(super) fn put(&mut self, device: usize, stage_one: StageOne) -> Result<(), Error> {
        let result = self.slice.attach(device, stage_one);
        // After an error nobody knows: the next is put in force whatever it is.
        self.streams[device].current = result.is_ok().then_some(stage_one);
        result
    }

    /// The guest's context of a stream changed: the copy follows.
    pub(super) fn copy_context(
        &mut self,
        memory: &dyn GuestMemory,
        device: usize,
        effect: &mut Effect,
    ) {
        let stream = &self.streams[device];
        let (Some(contexts), Some(StageOne::Translate(_))) = (&mut self.contexts, stream.current)
        else {
            return;
        };
        let entry = forget_contexts(stream.behind.stream.0);
        let slice = &mut self.slice;
        let copied = contexts.copy(&*self.platform, memory, device, stream.context, || {
            Self::tell(slice, entry)
        });
        if let Err(error) = copied {
            let stopped = self.put(device, StageOne::Abort);
            self.counters.stream_failures += 1;
            effect.failed = Some(stopped.err().unwrap_or(error));
        }
    }
}
