//! What a guest was told of and has to answer: groups of page requests, and stalls where there are such.
//!
//! A group is taken from the slice, held until the guest has been told, and waits in a place of its own for the answer. What
//! nobody answers ends as wrong at its deadline, so that no guest holds what the hardware has few of.

use alloc::vec::Vec;

use crate::object::driver::Answer;
use crate::object::{Error, PageRequest};

/// Most page requests that a slice holds, so that any group of them fits.
pub const GROUP: usize = 64;

/// `taken` is the sum of the others and of those that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestCounters {
    /// Taken from the slice.
    pub taken: u64,
    /// Answered by the guest.
    pub answered: u64,
    /// Ended because the guest did not answer in time.
    pub expired: u64,
    /// Ended because the guest could not be told.
    pub refused: u64,
    /// Ended with the configuration of their stream.
    pub dropped: u64,
}

/// Where what waits comes from, and where its answer goes: a part of each guest's slice.
pub trait Requests {
    /// Takes the oldest group of page requests, which is complete; how many. What stalls comes as a group of one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it does not fit.
    fn requests(&mut self, out: &mut [PageRequest]) -> Result<usize, Error>;
    /// The device that a request is of, by the order in which devices were added.
    fn device_of(&self, request: &PageRequest) -> Option<usize>;
    /// Answers a group that was taken. One that is not there any more was answered when its device left.
    fn respond(&mut self, cookie: u32, answer: Answer);
}

/// `K`: by what the guest's answer names one.
pub(super) struct Waiting<K> {
    places: Vec<Option<Place<K>>>,
    patience_ns: u64,
    /// The group that the guest is to be told of: its requests, how many, until when.
    group: Vec<PageRequest>,
    held: usize,
    held_until_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place<K> {
    key: K,
    cookie: u32,
    deadline_ns: u64,
}

/// What has ended at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    /// How many.
    pub count: u64,
    /// There is room for the group that is held, or there may be others behind one that was.
    pub look: bool,
}

impl<K: Copy> Waiting<K> {
    /// Room for `places` at once, each for `patience_ns`; `None` without memory.
    pub fn new(places: u16, patience_ns: u64) -> Option<Self> {
        let (mut list, mut group) = (Vec::new(), Vec::new());
        list.try_reserve_exact(places.into()).ok()?;
        list.resize(places.into(), None);
        if places > 0 {
            group.try_reserve_exact(GROUP).ok()?;
            group.resize(GROUP, PageRequest::default());
        }
        Some(Self {
            places: list,
            patience_ns,
            group,
            held: 0,
            held_until_ns: 0,
        })
    }

    /// Whether there are any places at all.
    pub fn exist(&self) -> bool {
        !self.places.is_empty()
    }

    /// The group that the guest is to be told of; empty without one.
    pub fn held(&self) -> &[PageRequest] {
        &self.group[..self.held]
    }

    /// Whether a group waits for room in a queue, or for a place.
    pub fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// Holds the next group of `from`. Whether there is one; none does not fit, as the queue that it comes from is not longer.
    pub fn take(
        &mut self,
        from: &mut impl Requests,
        now_ns: u64,
        counters: &mut RequestCounters,
    ) -> bool {
        self.held = from.requests(&mut self.group).unwrap_or(0);
        self.held_until_ns = now_ns.saturating_add(self.patience_ns);
        counters.taken += u64::from(self.held > 0);
        self.held > 0
    }

    /// Holds nothing any more; the cookie of the group.
    pub fn let_go(&mut self) -> u32 {
        self.held = 0;
        self.group[0].cookie
    }

    /// A place that is free.
    pub fn free(&self) -> Option<usize> {
        self.places.iter().position(Option::is_none)
    }

    /// The guest has been told of the group that is held, which waits at `place` as `key`.
    pub fn told(&mut self, place: usize, key: K) {
        self.places[place] = Some(Place {
            key,
            cookie: self.let_go(),
            deadline_ns: self.held_until_ns,
        });
    }

    /// What waits at `place`.
    pub fn at(&self, place: usize) -> Option<K> {
        let place = self.places.get(place).copied().flatten();
        place.map(|waiting| waiting.key)
    }

    /// Where the first of `which` waits.
    pub fn find(&self, which: impl Fn(&K) -> bool) -> Option<usize> {
        let is = |place: &Option<Place<K>>| place.as_ref().is_some_and(|it| which(&it.key));
        self.places.iter().position(is)
    }

    /// What waits at `place` is answered; its cookie.
    pub fn finish(&mut self, place: usize) -> Option<u32> {
        self.places[place].take().map(|waiting| waiting.cookie)
    }

    /// Ends `which` of those that wait, and the group that is held if `held`. `respond` takes the cookie of each.
    pub fn end(
        &mut self,
        which: impl Fn(&K) -> bool,
        held: bool,
        respond: impl FnMut(u32),
    ) -> Ended {
        self.end_places(|waiting| which(&waiting.key), held, respond)
    }

    /// The guest is gone: ends all that wait, and all that have come to `from` since.
    pub fn drop_all(
        &mut self,
        from: &mut impl Requests,
        now_ns: u64,
        counters: &mut RequestCounters,
    ) {
        loop {
            let ended = self.end(
                |_| true,
                true,
                |cookie| from.respond(cookie, Answer::Invalid),
            );
            counters.dropped += ended.count;
            if !self.exist() || !self.take(from, now_ns, counters) {
                return;
            }
        }
    }

    /// The same of those whose deadline has come.
    pub fn expire(&mut self, now_ns: u64, respond: impl FnMut(u32)) -> Ended {
        let held = self.held_until_ns <= now_ns;
        self.end_places(|waiting| waiting.deadline_ns <= now_ns, held, respond)
    }

    fn end_places(
        &mut self,
        which: impl Fn(&Place<K>) -> bool,
        held: bool,
        mut respond: impl FnMut(u32),
    ) -> Ended {
        let was_holding = self.is_holding();
        let mut count = 0;
        for place in &mut self.places {
            if let Some(waiting) = place.take_if(|waiting| which(waiting)) {
                respond(waiting.cookie);
                count += 1;
            }
        }
        if was_holding && held {
            respond(self.let_go());
            count += 1;
        }
        Ended {
            count,
            look: was_holding && count > 0,
        }
    }

    /// The next deadline, in nanoseconds of the platform's clock.
    pub fn next_ns(&self) -> Option<u64> {
        let held = self.is_holding().then_some(self.held_until_ns);
        let places = self.places.iter().flatten();
        places.map(|it| it.deadline_ns).chain(held).min()
    }
}
