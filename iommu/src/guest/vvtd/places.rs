//! Who goes through what: sources and their PASIDs, and the shadows and first stages that there are for them.

use super::contexts::Tables;
use super::effect::Effect;
use super::{Current, Place, Shadow, Slice, Through, VirtVtd};
use crate::hal::Platform;
use crate::object::Error;
use crate::object::driver::Entry;
use crate::physical::FirstStage;

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// Has a source go through something else; `current` is what it is then, `None` where that is to be looked up again
    /// whatever happens.
    pub(super) fn put(
        &mut self,
        (device, pasid): (usize, u32),
        through: Through,
        current: Option<Current>,
        effect: &mut Effect,
    ) {
        if pasid != 0 {
            return self.put_pasid(device, pasid, through, current, effect);
        }
        let at = &mut self.devices[device];
        if current.is_some() && at.current == current {
            return;
        }
        self.counters.attached += 1;
        at.current = None;
        match self.slice.attach(device, 0, through) {
            Ok(()) => at.current = current,
            Err(error) => effect.failed = Some(error),
        }
        self.drop_requests(device, 0);
        self.settle();
    }

    /// The same for a PASID, which is in the list as long as it goes through anything.
    fn put_pasid(
        &mut self,
        device: usize,
        pasid: u32,
        through: Through,
        current: Option<Current>,
        effect: &mut Effect,
    ) {
        let mut places = self.places.iter();
        let known = places.position(|it| (it.device, it.pasid) == (device, pasid));
        let closes = matches!(through, Through::Refuse | Through::Abort);
        let at = match known {
            None if closes => return self.settle(),
            Some(at) if current.is_some() && self.places[at].current == current => return,
            Some(at) => at,
            None if self.places.len() == self.most_places => {
                effect.failed = Some(Error::NoSpace);
                return self.settle();
            }
            None => {
                self.places.push(Place {
                    device,
                    pasid,
                    current: None,
                });
                self.places.len() - 1
            }
        };
        self.counters.attached += 1;
        self.places[at].current = None;
        match self.slice.attach(device, pasid, through) {
            Ok(()) if closes => _ = self.places.swap_remove(at),
            Ok(()) => self.places[at].current = current,
            Err(error) => effect.failed = Some(error),
        }
        self.drop_requests(device, pasid);
        self.settle();
    }

    /// First stages that no source goes through, and none is about to, are gone; shadows go, in parts.
    pub(super) fn settle(&mut self) {
        for index in 0..self.shadows.len() {
            let used = self
                .devices
                .iter()
                .map(|device| device.current)
                .chain(self.places.iter().map(|place| place.current))
                .any(|current| current == Some(Current::Shadow(index)));
            let filling = self.filling.is_some_and(|filling| filling.shadow == index);
            if used || filling {
                continue;
            }
            match &mut self.shadows[index] {
                Some(shadow) if shadow.nested => {
                    self.slice.close(shadow.number);
                    self.shadows[index] = None;
                }
                Some(shadow) => {
                    shadow.leaving = true;
                    self.leaving = true;
                }
                None => {}
            }
        }
    }

    /// What was begun for a source begins anew.
    pub(super) fn drop_filling(&mut self) {
        if self.filling.take().is_some() {
            self.settle();
        }
    }

    pub(super) fn open(&mut self, tables: Tables) -> Result<usize, Error> {
        // There is one more than there are sources and PASIDs.
        let free = self.shadows.iter().position(Option::is_none);
        let free = free.ok_or(Error::NoSpace)?;
        let nested = tables.first && self.nests;
        let number = match nested {
            true => self.slice.open_first_stage(FirstStage {
                root: tables.root,
                input_bits: tables.input_bits,
                ..FirstStage::default()
            }),
            false => self.slice.open(),
        }?;
        self.shadows[free] = Some(Shadow {
            number,
            tables,
            nested,
            leaving: false,
        });
        Ok(free)
    }

    /// Has the hardware forget something of a first stage that it walks. Whoever goes through one that is not forgotten is in
    /// abort.
    pub(super) fn forget(&mut self, shadow: usize, entries: &[Entry], effect: &mut Effect) {
        let Some(Shadow { number, .. }) = self.shadows[shadow] else {
            return;
        };
        self.counters.forgotten += entries.len() as u64;
        if let Err(error) = self.slice.forget(number, entries) {
            self.lose(shadow, error, effect);
        }
    }

    /// A shadow is not what it should be: whoever goes through it is in abort, and it is gone.
    pub(super) fn lose(&mut self, shadow: usize, error: Error, effect: &mut Effect) {
        effect.failed = Some(error);
        for device in 0..self.devices.len() {
            if self.devices[device].current == Some(Current::Shadow(shadow)) {
                self.put((device, 0), Through::Abort, None, effect);
            }
        }
        let through = |it: &&Place| it.current == Some(Current::Shadow(shadow));
        while let Some(place) = self.places.iter().find(through).copied() {
            self.put((place.device, place.pasid), Through::Abort, None, effect);
        }
        self.settle();
    }
}
