//! A guest's unit starts and stops with the guest.

use super::effect::Effect;
use super::job::{Job, Then, Which};
use super::{Place, Slice, Through, VirtVtd};
use crate::hal::{GuestMemory, Platform};
use crate::object::Error;

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// The guest stops: all sources are put in abort, events are dropped, and the registers are as out of reset. What that takes
    /// grows with sources, PASIDs and queues, and not with what the guest has mapped: shadows that nothing goes through any
    /// more are emptied by [`run`](Self::run), as long as it [has work](Self::has_work).
    ///
    /// # Errors
    /// That of the first source that could not be put in abort; the others are.
    pub fn stop(&mut self) -> Result<(), Error> {
        let mut effect = Effect::default();
        self.job = None;
        self.drop_filling();
        self.drop_all_requests();
        let mut result = Ok(());
        while let Some(place) = self.places.last().copied() {
            self.put(
                (place.device, place.pasid),
                Through::Abort,
                None,
                &mut effect,
            );
            result = result.and(effect.failed.take().map_or(Ok(()), Err));
            // What is stuck goes with its source, or stays stuck.
            self.places.retain(|it| {
                *it != Place {
                    current: None,
                    ..place
                }
            });
        }
        for device in 0..self.devices.len() {
            self.put((device, 0), Through::Abort, None, &mut effect);
            result = result.and(effect.failed.take().map_or(Ok(()), Err));
        }
        self.translation_asked = false;
        self.contexts_asked = false;
        self.translations_asked = false;
        self.memory_changed = false;
        while self.slice.event().is_some() {}
        self.sequence = self.slice.sequence();
        self.knocked = false;
        // What came in between was answered when its device left.
        self.drop_all_requests();
        self.next_record = 0;
        self.registers.reset();
        result
    }

    /// The guest starts: its sources pass, through the slice's own table, as with a unit out of reset (11.4, GSTS.TES). Not
    /// bounded by a budget.
    pub fn start(&mut self, memory: &dyn GuestMemory) -> Effect {
        let mut effect = Effect::default();
        let mut budget = u32::MAX;
        let mut job = Job::devices(Which::All, Then::Nothing);
        let _ = self.work(memory, &mut job, &mut budget, &mut effect);
        effect.more = self.has_work();
        effect
    }
}
