//! The VT-d unit that a guest sees (Intel VT-d, section numbers of revision 5.10), on top of one slice.
//!
//! A guest's driver finds registers, queue and tables as the document has them, for a unit in caching mode: what becomes
//! present is told to it as what goes is. What its sources go through in truth are *shadows*: the guest's tables and its memory
//! in one table, with the largest blocks that both allow, changed where an invalidation says that something changed. First
//! stages go to the hardware as they are where it has them on second stages ([`FirstStages::Nested`]): a map is no matter of
//! ours then, and what a guest invalidates is invalidated under the domain that its tables have in truth.
//!
//! * **Registers** (`registers`: values and their readable copy; `access`: writes). Reads need no trap where the copy is mapped
//!   for the guest.
//! * **Contexts** (`contexts`: from a root table to what an entry asks for, in legacy and in scalable mode). An entry is read when
//!   an invalidation says that it changed, once.
//! * **Shadows** (`shadow`: reading a guest's second or first stage; `work`: what takes long, in parts; `places`: who goes through
//!   what).
//! * **Invalidations** (`invalidations`, `descriptor`: the queue, CCMD and IOTLB). What is consumed is complete.
//! * **Faults** (`faults`) go from the slice to the guest's records, with reasons of its own tables; **interrupts**
//!   (`interrupts`) of its devices are what its table says of them.
//!
//! Nothing here calls up: what has to happen outside comes back as an [`Effect`]. A guest's mistakes are what the document has for
//! them: fault records, IQE, writes that are ignored and counted.
//!
//! Requests with PASID are offered where the hardware walks first stages of guests': each entry of the guest's PASID tables goes
//! to the hardware when an invalidation says that it changed, as that of requests without one does. Devices that are trusted to
//! cache translations may be told of that, and ask for pages (`requests`), which the guest answers in time or they are refused.
//!
//! What is not there, and not offered: nested translation of the guest's own,
//! posted interrupts, protected memory registers, advanced fault logging. Accessed and dirty flags of a first stage that has a
//! shadow are not set: nobody walks it but for that. A page of 2 MiB or 1 GiB that lies on memory in smaller pieces, and is replaced by
//! something other than a hole, has to be invalidated as a whole: its pieces do not know of each other.
//!
//! # What its owner does
//!
//! It is behind one lock, taken before those of the objects. [`start`](VirtVtd::start) and [`stop`](VirtVtd::stop) go with the
//! guest. A trapped store is [`write`](VirtVtd::write), a load [`read`](VirtVtd::read), if the copy of the registers is not
//! mapped for the guest. When the objects say that a fault of the hardware, or a page request, went to a queue of the slice
//! ([`ObjectSlice::holds`]), it is [`deliver`](VirtVtd::deliver). Messages of its devices, and of its I/O APIC, are what
//! [`remap`](VirtVtd::remap) says. Of each [`Effect`], messages and changed interrupt entries are handed on, and while there is
//! [`more`](Effect::more), [`run`](VirtVtd::run) is called again: before the CPU that rang goes back into the guest, and after
//! others had their turn. [`memory_changed`](VirtVtd::memory_changed) follows a change of the partition's memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::guest::waiting::Waiting;
use crate::hal::{DmaBuffer, GuestMemory, Platform};
use crate::object::MAX_SEQUENCE;
use crate::vtd::spec::registers::{CAP_FIELDS, ECAP_FIELDS};
use contexts::{Found, Rules, Tables, Wanted};
use job::{Job, Then, Which};
use registers::RegisterFile;
use requests::Asked;
use setup::capabilities;
use shadow::Ahead;
use work::Filling;

mod access;
mod contexts;
mod counters;
mod descriptor;
mod effect;
mod faults;
mod interrupts;
mod invalidations;
mod job;
mod life;
mod places;
mod registers;
mod requests;
mod setup;
mod shadow;
mod slice;
pub mod spec;
mod work;

pub use counters::{Counters, FaultCounters};
pub use effect::{Effect, Interrupts, Message};
pub use interrupts::GuestInterrupt;
pub use registers::IMAGE_BYTES;
pub use setup::{Behind, FirstStages, MOST_RECORDS, Setup, SetupError};
pub use slice::{ObjectSlice, Slice, Through};

/// What the entry of a source takes of the budget.
const SOURCE_COST: u32 = 16;
/// What a descriptor takes.
const DESCRIPTOR_COST: u32 = 1;
/// What a fault takes.
const EVENT_COST: u32 = 4;
/// The part of a call that is for faults where there is other work too: neither keep the other waiting.
const EVENT_PART: u32 = 4;

/// What a source goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Current {
    Refused,
    PassThrough,
    /// By its place in the list of shadows.
    Shadow(usize),
}

/// One source, in the order of the slice's devices.
#[derive(Debug)]
struct Device {
    behind: Behind,
    /// What is in force, if that is known.
    current: Option<Current>,
    /// What the guest's tables had for it.
    found: Found,
}

/// One PASID of a source that goes through something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    device: usize,
    pasid: u32,
    /// As with [`Device`].
    current: Option<Current>,
}

/// Tables of the guest's, and the slice's number of their shadow, or of themselves where the hardware walks them.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    number: usize,
    tables: Tables,
    nested: bool,
    /// Nothing goes through it: it is emptied, and then it is gone.
    leaving: bool,
}

/// See the module's description.
pub struct VirtVtd<P: Platform, S: Slice> {
    platform: Arc<P>,
    slice: S,
    registers: RegisterFile<P::Buffer>,
    rules: Rules,
    input_bits: u8,
    /// First stages are for the hardware to walk.
    nests: bool,
    budget: u32,
    shadow_bytes: u64,
    devices: Vec<Device>,
    /// PASIDs in use, beside requests without one: as many as there is room for.
    places: Vec<Place>,
    most_places: usize,
    /// Source IDs in order, with their place in `devices`.
    names: Vec<(u32, usize)>,
    /// One more than there are sources and PASIDs, so that one leaves a shadow for another.
    shadows: Vec<Option<Shadow>>,
    /// There may be shadows that leave.
    leaving: bool,
    /// What was begun.
    job: Option<Job>,
    filling: Option<Filling>,
    /// Read for the part of a shadow that was begun last.
    ahead: Ahead,
    /// What the registers ask for, and is not begun: GCMD.TE, CCMD, IOTLB, and a change of the guest's memory.
    translation_asked: bool,
    contexts_asked: bool,
    translations_asked: bool,
    memory_changed: bool,
    /// Sequence number of the next event, if none is lost.
    sequence: u32,
    /// There may be events to fetch.
    knocked: bool,
    /// The fault record that is written next.
    next_record: u8,
    requests: Waiting<Asked>,
    /// There may be page requests in the slice.
    asked: bool,
    counters: Counters,
}

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// A unit in front of `devices`, which `slice` has in the same order. Out of reset, but for its sources: they are what they
    /// were, in abort at first, until [`start`](Self::start).
    ///
    /// # Errors
    /// Each [`SetupError`].
    pub fn new(
        platform: &Arc<P>,
        setup: &Setup,
        slice: S,
        devices: &[Behind],
    ) -> Result<Self, SetupError> {
        let (cap, ecap) = capabilities(setup)?;
        let mut list = Vec::new();
        let mut names: Vec<(u32, usize)> = Vec::new();
        let mut shadows = Vec::new();
        let mut places = Vec::new();
        let pasid_bits = setup::pasid_bits(setup);
        let pasids = match pasid_bits {
            0 => 0,
            _ => usize::from(setup.pasids),
        };
        let most = devices.len() + pasids + 1;
        let room = list.try_reserve_exact(devices.len()).is_ok()
            && names.try_reserve_exact(devices.len()).is_ok()
            && shadows.try_reserve_exact(most).is_ok()
            && places.try_reserve_exact(pasids).is_ok();
        if !room {
            return Err(SetupError::OutOfMemory);
        }
        for (index, behind) in devices.iter().enumerate() {
            let source = behind.source.0;
            match names.binary_search_by_key(&source, |(name, _)| *name) {
                Err(at) if source <= 0xffff => names.insert(at, (source, index)),
                _ => return Err(SetupError::Source(behind.source)),
            }
            list.push(Device {
                behind: *behind,
                current: None,
                found: Found {
                    wanted: Wanted::PassThrough,
                    silent: false,
                },
            });
        }
        shadows.resize_with(most, || None);
        let image = platform.allocate(IMAGE_BYTES);
        let image = image.ok_or(SetupError::OutOfMemory)?;
        let widths = cap >> CAP_FIELDS::SAGAW.shift & CAP_FIELDS::SAGAW.mask;
        let waiting = setup::page_requests(setup);
        let requests = Waiting::new(waiting, setup.patience_ns);
        let requests = requests.ok_or(SetupError::OutOfMemory)?;
        Ok(Self {
            platform: Arc::clone(platform),
            slice,
            registers: RegisterFile::new(image, (cap, ecap), setup.records),
            rules: Rules {
                beyond: !((1 << setup.address_bits) - 1),
                widths,
                scalable: setup.scalable,
                pasid_bits,
                device_tlbs: setup::device_tlbs(setup),
                page_requests: waiting > 0,
                first_stage: ecap & ECAP_FIELDS::FSTS::SET.value != 0,
            },
            input_bits: if setup.input_bits >= 48 { 48 } else { 39 },
            nests: setup::nests(setup),
            budget: setup.budget,
            shadow_bytes: setup.shadow_bytes,
            devices: list,
            places,
            most_places: pasids,
            names,
            shadows,
            leaving: false,
            job: None,
            filling: None,
            ahead: Ahead::new(),
            translation_asked: false,
            contexts_asked: false,
            translations_asked: false,
            memory_changed: false,
            sequence: 0,
            knocked: false,
            next_record: 0,
            requests,
            asked: false,
            counters: Counters::default(),
        })
    }

    /// The readable copy of the registers: [`IMAGE_BYTES`], for as long as this lives. Whoever maps it for the guest unmaps it
    /// first.
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

    /// The slice.
    pub fn slice(&self) -> &S {
        &self.slice
    }

    /// The device that the guest calls `source`.
    fn find(&self, source: u16) -> Option<usize> {
        let source = u32::from(source);
        let at = self.names.binary_search_by_key(&source, |(name, _)| *name);
        at.ok().map(|at| self.names[at].1)
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
        let mut effect = Effect::default();
        self.counters.stores += 1;
        let Some(asked) = self.registers.write(offset, size, value) else {
            self.counters.misuse += 1;
            effect.more = self.has_work();
            return effect;
        };
        if asked.interrupts {
            effect.changed(0, u16::MAX);
        }
        if asked.fault_event {
            self.interrupt(Interrupts::FAULT, &mut effect);
        }
        if asked.invalidation_event {
            self.interrupt(Interrupts::INVALIDATION, &mut effect);
        }
        if asked.request_event {
            self.interrupt(Interrupts::REQUESTS, &mut effect);
        }
        if asked.halt
            && let Some(job) = &mut self.job
            && job.then == Then::Descriptor
        {
            // It goes on, but there is no head that it moves.
            job.then = Then::Nothing;
        }
        self.translation_asked |= asked.translation;
        self.contexts_asked |= asked.contexts;
        self.translations_asked |= asked.translations;
        self.go_on(memory, &mut effect);
        effect
    }

    /// Goes on with what is left to do, as much as one call does.
    pub fn run(&mut self, memory: &dyn GuestMemory) -> Effect {
        let mut effect = Effect::default();
        self.go_on(memory, &mut effect);
        effect
    }

    /// There is something in one of the slice's queues: the guest is told.
    pub fn deliver(&mut self, memory: &dyn GuestMemory) -> Effect {
        self.knocked = true;
        self.asked = self.requests.exist();
        let mut effect = Effect::default();
        let mut budget = self.faults(memory, self.budget, &mut effect);
        self.page_requests(memory, &mut budget, &mut effect);
        effect.more = self.has_work();
        effect
    }

    /// The partition's memory has changed: shadows are made anew where they are not what they should be. What was taken away has
    /// left them already.
    pub fn memory_changed(&mut self, memory: &dyn GuestMemory) -> Effect {
        self.memory_changed = true;
        self.run(memory)
    }

    fn go_on(&mut self, memory: &dyn GuestMemory, effect: &mut Effect) {
        let part = if self.has_other_work() {
            (self.budget / EVENT_PART).max(1)
        } else {
            self.budget
        };
        let mut left = self.faults(memory, part, effect);
        self.page_requests(memory, &mut left, effect);
        let mut budget = self.budget - (part - left);
        while budget > 0 && effect.has_room() {
            if self.empty(&mut budget) {
                continue;
            }
            if let Some(mut job) = self.job.take() {
                if !self.work(memory, &mut job, &mut budget, effect) {
                    self.job = Some(job);
                    // It waits for shadows that leave, or for another turn.
                    continue;
                }
                self.finish(job.then);
                continue;
            }
            budget = budget.saturating_sub(DESCRIPTOR_COST);
            if core::mem::take(&mut self.translation_asked) {
                self.job = Some(Job::devices(Which::All, Then::Translation));
            } else if core::mem::take(&mut self.memory_changed) {
                self.job = Some(Job::tables(None, 0, u64::MAX, Then::Nothing));
            } else if core::mem::take(&mut self.contexts_asked) {
                self.context_command();
            } else if core::mem::take(&mut self.translations_asked) {
                self.translation_command();
            } else if !self.descriptor(memory, &mut budget, effect) {
                break;
            }
        }
        effect.more = self.has_work();
    }

    /// What follows a job that is complete.
    fn finish(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            // Turned once more while it was under way: what follows is another one.
            Then::Translation if self.translation_asked => {}
            Then::Translation => self.registers.translation_follows(),
            Then::Descriptor => self.consumed(),
            Then::ContextCommand => self.context_command_done(),
            Then::TranslationCommand => self.translation_command_done(),
        }
    }

    /// Whether [`run`](Self::run) has anything to do.
    pub fn has_work(&self) -> bool {
        self.knocked || self.asked || self.has_other_work()
    }

    /// The guest has asked for something that is not done.
    fn has_other_work(&self) -> bool {
        let queue = || {
            let queue = self.registers.queue();
            queue.is_some_and(|queue| !queue.is_empty()) && !self.registers.queue_stopped()
        };
        self.job.is_some()
            || self.leaving
            || self.translation_asked
            || self.contexts_asked
            || self.translations_asked
            || self.memory_changed
            || queue()
    }
}

/// No source goes through anything of the guest's any more.
impl<P: Platform, S: Slice> Drop for VirtVtd<P, S> {
    fn drop(&mut self) {
        // What is stuck is on the slice's own table or on shadows that the objects keep as long as it is.
        let _ = self.stop();
    }
}
