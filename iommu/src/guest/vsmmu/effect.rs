//! What has to happen outside a guest's SMMU after a call: values, for whoever made the call.

use bitflags::bitflags;

use crate::addr::Gpa;
use crate::object::Error;

bitflags! {
    /// Interrupts of the guest's SMMU (IHI 0070, §3.18).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Interrupts: u8 {
        /// The event queue is not empty any more.
        const EVENTS = 1;
        /// The page request queue is not empty any more.
        const REQUESTS = 2;
        /// A CMD_SYNC is complete and asked for it.
        const SYNC = 4;
        /// A global error is active.
        const ERRORS = 8;
    }
}

/// An interrupt as a 32-bit write to something that is not the guest's memory: the doorbell of its ITS, or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Which one.
    pub source: Interrupts,
    /// Where to.
    pub address: Gpa,
    /// What.
    pub data: u32,
}

/// Messages of one call at most.
const MESSAGES: usize = 8;
/// Of these, so many are kept for interrupts that cannot wait.
const RESERVE: usize = 4;

/// What has to happen after a call, beside the [messages](super::VirtSmmu::messages) of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// Wires to pulse: each is an edge.
    pub interrupts: Interrupts,
    /// CPUs of the guest that wait for an event are to be woken (CMD_SYNC with SIG_SEV).
    pub wake: bool,
    /// There is more to do: [`run`](super::VirtSmmu::run) is to be called again, after others had their turn.
    pub more: bool,
    /// The hardware, or memory for a stream's configuration, failed. What it was about is in abort, and the guest's queue
    /// has stopped where it was about a command.
    pub failed: Option<Error>,
}

/// The messages of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outbox {
    messages: [Message; MESSAGES],
    count: usize,
}

impl Outbox {
    /// A call begins.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    pub fn messages(&self) -> &[Message] {
        &self.messages[..self.count]
    }

    /// Whether there is room for whatever one command or event can bring.
    pub fn has_room(&self) -> bool {
        self.count + RESERVE <= MESSAGES
    }

    /// Adds a message; two that are the same are one. Whether there was room.
    pub fn push(&mut self, message: Message) -> bool {
        if self.messages().contains(&message) {
            return true;
        }
        match self.messages.get_mut(self.count) {
            Some(free) => {
                *free = message;
                self.count += 1;
                true
            }
            None => false,
        }
    }
}
