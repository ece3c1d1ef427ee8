//! What has to happen outside a guest's VT-d unit after a call: values, for whoever made the call.

use bitflags::bitflags;

use crate::object::Error;

bitflags! {
    /// Interrupts of the guest's unit.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Interrupts: u8 {
        /// A fault, or an error of the invalidation queue (FECTL).
        const FAULT = 1;
        /// A wait is complete and asked for it (IECTL).
        const INVALIDATION = 2;
        /// A page is asked for, or could not be (PECTL).
        const REQUESTS = 4;
    }
}

/// An interrupt as the message of a device to a local APIC, which is not remapped (VT-d, 5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Which one.
    pub source: Interrupts,
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Messages of one call at most: one of each kind, which are the same until the guest has seen it.
const MESSAGES: usize = 4;

/// What has to happen after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    messages: [Message; MESSAGES],
    count: usize,
    /// Entries of the guest's interrupt remapping table may have changed: first and last index. Whoever made something of
    /// them asks again.
    pub interrupts: Option<(u16, u16)>,
    /// There is more to do: [`run`](super::VirtVtd::run) is to be called again, after others had their turn.
    pub more: bool,
    /// The hardware, or memory for a shadow, failed. The sources that it was about are in abort.
    pub failed: Option<Error>,
}

impl Effect {
    /// Messages to deliver.
    pub fn messages(&self) -> &[Message] {
        &self.messages[..self.count]
    }

    /// Adds a message; two that are the same are one. Whether there was room.
    pub(super) fn push(&mut self, message: Message) -> bool {
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

    /// Whether there is room for whatever one descriptor or fault can bring.
    pub(super) fn has_room(&self) -> bool {
        self.count + 2 <= MESSAGES
    }

    /// Interrupt entries `first..=last` may have changed.
    pub(super) fn changed(&mut self, first: u16, last: u16) {
        let (old_first, old_last) = self.interrupts.unwrap_or((first, last));
        self.interrupts = Some((old_first.min(first), old_last.max(last)));
    }
}
