//! The SMMUv3 that a guest sees (IHI 0070), on top of one slice.
//!
//! A guest's driver finds registers, queues and tables as the document has them, for an SMMU with stage 1 and without
//! Secure state; what its streams go through in truth is its stage 1 on the slice's stage 2, walked by the hardware.
//!
//! * **Registers** ([`registers`]: values and their readable copy; `access`: writes). Reads need no trap where the copy is
//!   mapped for the guest: a guest that waits for CONS does not trap either.
//! * **Streams** ([`streams`]: from a stream table to what an entry asks for). An entry is read when a command says that it
//!   changed, once, and becomes a stage 1 that is put in place of the old one. What the guest's own GBPA lets pass while its
//!   SMMU is off passes through stage 2. `contexts`: copies of contexts, for hardware that must not see a guest's own.
//! * **Commands** (`command`: decoding; `commands`: the queue). Each is read once. What goes to the hardware is collected
//!   and submitted together; CONS never passes what is not complete. A call does a bounded amount of work, whatever
//!   the length of the queue: [`Effect::more`] says that there is more.
//! * **Events** (`events`), stalls and page requests (`requests`) go from the slice to the guest's queues.
//!
//! Nothing here calls up: what has to happen outside comes back as an [`Effect`]. A guest's mistakes are what the document
//! has for them: C_BAD_STE, CERROR, GERROR, writes that are ignored and counted.
//!
//! A StreamID that no device of the slice has is ignored, wherever it is.
//!
//! # What its owner does
//!
//! It is behind one lock, taken before those of the objects. [`start`](VirtSmmu::start) and [`stop`](VirtSmmu::stop) go
//! with the guest. A trapped store is [`write`](VirtSmmu::write), a load [`read`](VirtSmmu::read), if the copy of the
//! registers is not mapped for the guest. When the objects say that a fault of the hardware went to a queue of the slice
//! ([`ObjectSlice::holds`]), it is [`deliver`](VirtSmmu::deliver). Of each [`Effect`], interrupts and messages are handed
//! on, and while there is [`more`](Effect::more), [`run`](VirtSmmu::run) is called again: a guest that polls does not trap,
//! so that is before the CPU that rang goes back into the guest, and after others had their turn. Where stalls or page
//! requests are offered, [`expire`](VirtSmmu::expire) is called when it said.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::Gpa;
use crate::guest::waiting::Waiting;
use crate::hal::{DmaBuffer, GuestMemory, Platform};
use crate::object::MAX_SEQUENCE;
use crate::object::driver::StageOne;
use crate::smmuv3::spec::registers::CMDQ_PROD;
use batch::{Ahead, Batch};
use command::Decoder;
use commands::HalfDone;
use contexts::Contexts;
use effect::Outbox;
use registers::{QueueSizes, RegisterFile};
use requests::Asked;
use setup::identity;
use streams::{Missing, Rules};

mod access;
mod batch;
mod command;
mod commands;
mod configure;
mod contexts;
mod counters;
mod effect;
mod events;
mod interrupts;
mod registers;
mod requests;
mod setup;
mod slice;
pub mod spec;
mod streams;
#[cfg(test)]
mod tests;

pub use contexts::ContextCopies;
pub use counters::{Counters, EventCounters};
pub use effect::{Effect, Interrupts, Message};
pub use registers::{IMAGE_BYTES, IMAGE_PAGE_ONE};
pub use setup::{Behind, Setup, SetupError};
pub use slice::{ObjectSlice, Slice};

/// What a command takes of the budget beside the 1 of each, unless it is one of a few that come in great numbers: see
/// [`Setup::budget`].
const DECODE_COST: u32 = 3;
/// What it takes to have what was collected done before it.
const FLUSH_COST: u32 = 8;
/// What the invalidation of one device's own cache takes.
const DEVICE_COST: u32 = 16;
/// What each of the two steps of a stream's configuration takes of the budget.
const STREAM_COST: u32 = 16;
/// What the copy of one context takes of the budget.
const CONTEXT_COST: u32 = 16;
/// CMD_TLBI_NSNH_ALL (§4.4), which has no fields.
const TLBI_NSNH_ALL: u64 = 0x30;
/// What an event or a page request takes.
const EVENT_COST: u32 = 4;
/// The part of a call that is for events where there are commands too: neither keep the others waiting.
const EVENT_PART: u32 = 4;

/// One stream, in the order of the slice's devices.
#[derive(Debug)]
struct Stream {
    behind: Behind,
    /// What is in force, if that is known.
    current: Option<StageOne>,
    /// Why the guest's table has no entry for it.
    missing: Option<Missing>,
    /// Where the guest has its context, where that is copied.
    context: Gpa,
}

/// See the module's description.
pub struct VirtSmmu<P: Platform, S: Slice> {
    platform: Arc<P>,
    slice: S,
    registers: RegisterFile<P::Buffer>,
    decoder: Decoder,
    rules: Rules,
    stream_bits: u8,
    budget: u32,
    streams: Vec<Stream>,
    /// StreamIDs in order, with their place in `streams`.
    names: Vec<(u32, usize)>,
    contexts: Option<Contexts<P>>,
    /// CR0.SMMUEN or GBPA changed: the next stream to follow.
    following: Option<usize>,
    /// The command at CONS, begun and read.
    half_done: Option<HalfDone>,
    /// What was read of the stream that is being configured, and is not in force yet.
    wanted: Option<StageOne>,
    ahead: Ahead,
    batch: Batch,
    requests: Waiting<Asked>,
    outbox: Outbox,
    /// Sequence number of the next event, if none is lost.
    sequence: u32,
    /// There may be events or page requests to fetch.
    knocked: bool,
    counters: Counters,
}

impl<P: Platform, S: Slice> VirtSmmu<P, S> {
    /// An SMMU in front of `devices`, which `slice` has in the same order. Out of reset, but for its streams: they are what
    /// they were, in abort at first, until [`start`](Self::start).
    ///
    /// # Errors
    /// Each [`SetupError`].
    pub fn new(
        platform: Arc<P>,
        setup: Setup<P::Buffer>,
        slice: S,
        devices: &[Behind],
    ) -> Result<Self, SetupError> {
        let identity = identity(&setup)?;
        let mut streams = Vec::new();
        let mut names: Vec<(u32, usize)> = Vec::new();
        let room = streams.try_reserve_exact(devices.len()).is_ok()
            && names.try_reserve_exact(devices.len()).is_ok();
        if !room {
            return Err(SetupError::OutOfMemory);
        }
        for (index, behind) in devices.iter().enumerate() {
            let stream = behind.stream.0;
            let at = names.binary_search_by_key(&stream, |(name, _)| *name);
            match at {
                Err(at) if u64::from(stream) >> setup.stream_bits == 0 => {
                    names.insert(at, (stream, index));
                }
                _ => return Err(SetupError::Stream(behind.stream)),
            }
            streams.push(Stream {
                behind: *behind,
                current: None,
                missing: None,
                context: Gpa(0),
            });
        }
        let contexts = setup
            .contexts
            .map(|copies| Contexts::new(copies, &identity));
        if contexts
            .as_ref()
            .is_some_and(|it| it.room() < devices.len())
        {
            return Err(SetupError::Devices(devices.len()));
        }
        let image = platform
            .allocate(IMAGE_BYTES)
            .ok_or(SetupError::OutOfMemory)?;
        let sizes = QueueSizes {
            commands: setup.command_queue_log2,
            events: setup.event_queue_log2,
            requests: setup.request_queue_log2,
        };
        let requests = Waiting::new(setup.waiting, setup.patience_ns);
        Ok(Self {
            platform,
            slice,
            registers: RegisterFile::new(image, identity, sizes),
            decoder: Decoder::new(&identity),
            rules: Rules::new(&identity, &setup.hardware),
            stream_bits: setup.stream_bits,
            budget: setup.budget,
            streams,
            names,
            contexts,
            following: None,
            half_done: None,
            wanted: None,
            ahead: Ahead::new(),
            batch: Batch::new(),
            requests: requests.ok_or(SetupError::OutOfMemory)?,
            outbox: Outbox::default(),
            sequence: 0,
            knocked: false,
            counters: Counters::default(),
        })
    }

    /// The readable copy of the registers: [`IMAGE_BYTES`], for as long as this lives. Whoever maps it for the guest unmaps
    /// it first.
    pub fn image(&self) -> &impl DmaBuffer {
        self.registers.image()
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Events in the slice that have not come here yet, those that it has lost included.
    pub fn waiting(&self) -> u64 {
        u64::from(self.slice.sequence().wrapping_sub(self.sequence) & MAX_SEQUENCE)
    }

    /// Messages of the last call that has an [`Effect`], to deliver. One that reaches nothing is given back by
    /// [`message_refused`](Self::message_refused), which is such a call itself.
    pub fn messages(&self) -> &[Message] {
        self.outbox.messages()
    }

    /// A call begins.
    fn begin(&mut self) -> Effect {
        self.outbox.clear();
        Effect::default()
    }

    /// The slice.
    pub fn slice(&self) -> &S {
        &self.slice
    }

    /// What a load of `size` bytes at `offset` reads, where loads trap. No side effect; what the architecture does not allow
    /// reads 0.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.registers.read(offset, size).unwrap_or_else(|| {
            self.counters.misuse += 1;
            0
        })
    }

    /// A store of `size` bytes at `offset`, and as much of what follows from it as one call does.
    pub fn write(&mut self, memory: &dyn GuestMemory, offset: u64, size: u8, value: u64) -> Effect {
        let mut effect = self.begin();
        // The doorbell, which all others are rare beside.
        if offset == CMDQ_PROD as u64 && size == 4 {
            self.registers.ring(value as u32);
        } else if !self.write_rare(offset, size, value) {
            effect.more = self.has_work();
            return effect;
        }
        self.go_on(memory, &mut effect);
        effect
    }

    /// A store but for what follows from it; `false` where it is refused.
    fn write_rare(&mut self, offset: u64, size: u8, value: u64) -> bool {
        let Some(asked) = self.registers.write(offset, size, value) else {
            self.counters.misuse += 1;
            return false;
        };
        if asked.streams {
            self.following = Some(0);
        }
        if asked.streams || asked.halt {
            // Whatever was begun begins anew.
            self.half_done = None;
            self.wanted = None;
        }
        self.knocked |= asked.room && self.requests.is_holding();
        true
    }

    /// Goes on with what is left to do, as much as one call does.
    pub fn run(&mut self, memory: &dyn GuestMemory) -> Effect {
        let mut effect = self.begin();
        self.go_on(memory, &mut effect);
        effect
    }

    fn go_on(&mut self, memory: &dyn GuestMemory, effect: &mut Effect) {
        let mut budget = self.budget;
        if self.knocked {
            let part = if self.has_commands() {
                (budget / EVENT_PART).max(1)
            } else {
                budget
            };
            budget -= part - self.events(memory, part, effect);
        }
        if self.following.is_some() {
            self.follow(memory, &mut budget, effect);
        }
        let left = self.following.is_some() || self.commands(memory, &mut budget, effect);
        self.registers.publish_doorbell();
        effect.more = self.knocked || left;
        debug_assert_eq!(effect.more, self.has_work());
    }

    /// There is something in the slice's queues: the guest is told.
    pub fn deliver(&mut self, memory: &dyn GuestMemory) -> Effect {
        self.knocked = true;
        let mut effect = self.begin();
        self.events(memory, self.budget, &mut effect);
        effect.more = self.has_work();
        effect
    }

    /// Whether [`run`](Self::run) has anything to do.
    pub fn has_work(&self) -> bool {
        self.knocked || self.has_commands()
    }

    /// The guest has asked for something that is not done.
    fn has_commands(&self) -> bool {
        let commands = || {
            let queue = self.registers.commands();
            queue.is_some_and(|queue| !queue.is_empty()) && !self.registers.commands_stopped()
        };
        self.following.is_some() || commands()
    }

    /// The guest stops: all streams are put in abort, all that waits for the guest is answered or dropped, and the
    /// registers are as out of reset. Not bounded by a budget.
    ///
    /// # Errors
    /// That of the first stream that could not be put in abort; the others are.
    pub fn stop(&mut self) -> Result<(), crate::object::Error> {
        let mut result = Ok(());
        for device in 0..self.streams.len() {
            let stopped = self.put(device, StageOne::Abort);
            result = result.and(stopped);
        }
        // What was cached of this life is nothing to the next one (CMD_TLBI_NSNH_ALL).
        let forgotten = Self::tell(&mut self.slice, [TLBI_NSNH_ALL, 0, 0, 0]);
        result = result.and(forgotten);
        self.following = None;
        self.half_done = None;
        self.wanted = None;
        self.discard();
        self.registers.reset();
        result
    }

    /// The guest starts: its streams are what an SMMU out of reset lets them be. GBPA lets them pass, through stage 2: what
    /// GBPA.ABORT resets to is the implementation's choice (§6.3.14), and firmware and systems without a driver for it
    /// expect their DMA to work. Not bounded by a budget.
    pub fn start(&mut self, memory: &dyn GuestMemory) -> Effect {
        (self.following, self.wanted) = (Some(0), None);
        let mut effect = self.begin();
        let mut budget = u32::MAX;
        self.follow(memory, &mut budget, &mut effect);
        effect
    }
}

/// No stream goes through anything of the guest's any more. Where even that fails, copies of contexts are lost, not freed.
impl<P: Platform, S: Slice> Drop for VirtSmmu<P, S> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            core::mem::forget(self.contexts.take());
        }
    }
}
