//! What a guest is made to take: interrupts, NMIs and exceptions, one an entry (AMD64 Architecture Programmer's Manual,
//! volume 2, 8.2 and 8.5; Intel SDM, volume 3, "Interrupt and Exception Handling").
//!
//! Pure: decides what goes in next.

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Its vector, below 32.
    pub vector: u8,
    /// What it pushes, where it pushes something.
    pub error: Option<u32>,
}

impl Exception {
    /// #UD.
    pub const UNDEFINED: Self = Self {
        vector: 6,
        error: None,
    };
    /// #DF.
    pub const DOUBLE_FAULT: Self = Self {
        vector: 8,
        error: Some(0),
    };
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self {
        vector: 13,
        error: Some(0),
    };

    fn class(self) -> Class {
        match self.vector {
            8 => Class::DoubleFault,
            // #DE, #TS, #NP, #SS, #GP, #CP.
            0 | 10..=13 | 21 => Class::Contributory,
            14 => Class::PageFault,
            _ => Class::Benign,
        }
    }

    /// What is delivered when `self` comes while `first` is being delivered (8.2.9, "#DF"); `None` is a shutdown.
    fn after(self, first: Self) -> Option<Self> {
        match (first.class(), self.class()) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                Some(Self::DOUBLE_FAULT)
            }
            _ => Some(self),
        }
    }
}

/// How an exception counts towards a double fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// What an entry delivers before the guest's next instruction, whatever the guest masks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt of this vector.
    Interrupt(u8),
    /// An NMI.
    Nmi,
    /// An exception.
    Exception(Exception),
}

impl Event {
    /// As a guest in protected mode, or one that is not, takes it: in real mode nothing pushes an error code.
    pub(super) fn in_mode(self, protected: bool) -> Self {
        match self {
            Self::Exception(exception) if !protected => Self::Exception(Exception {
                error: None,
                ..exception
            }),
            other => other,
        }
    }
}

/// The guest cannot go on: a fault while a double fault was being delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TripleFault;

/// What waits for the next entries of one vCPU.
///
/// An event whose delivery was interrupted by an exit, say because the guest's stack is not mapped yet, is delivered
/// again: the guest has lost nothing, and nothing was said to the interrupt controller twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Events {
    next: Option<Event>,
    /// Its delivery was interrupted, and then an exception had to go first.
    kept: Option<Event>,
}

impl Events {
    /// Nothing waits, and the guest may be given something.
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_none() && self.kept.is_none()
    }

    /// After an exit: its delivery was interrupted.
    pub(super) fn is_delivering(&self) -> bool {
        self.next.is_some()
    }

    /// Puts `event` in front, where there is room.
    pub(super) fn put(&mut self, event: Event) {
        debug_assert!(self.is_empty(), "one event an entry");
        self.next = Some(event);
    }

    /// The instruction, or the delivery, that made it exit ends with `exception`.
    pub(super) fn raise(&mut self, exception: Exception) -> Result<(), TripleFault> {
        let first = self.next.take();
        let exception = match first {
            Some(Event::Exception(first)) => exception.after(first).ok_or(TripleFault)?,
            Some(event) => {
                self.kept = Some(event);
                exception
            }
            None => exception,
        };
        self.next = Some(Event::Exception(exception));
        Ok(())
    }

    /// What goes in now; `interrupts` and `nmis` say what the guest would take of itself.
    pub(super) fn take(&mut self, interrupts: bool, nmis: bool) -> Option<Event> {
        let kept_can = match self.kept {
            Some(Event::Interrupt(_)) => interrupts,
            Some(_) => nmis,
            None => false,
        };
        if self.next.is_none() && kept_can {
            self.next = self.kept.take();
        }
        self.next.take()
    }

    /// What is left over for when the guest takes it.
    pub(super) fn kept(&self) -> Option<Event> {
        self.kept
    }

    /// An exit interrupted the delivery of `event`.
    pub(super) fn interrupted(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.next = Some(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Events, Exception, TripleFault};

    const PAGE_FAULT: Exception = Exception {
        vector: 14,
        error: Some(2),
    };
    const DEBUG: Exception = Exception {
        vector: 1,
        error: None,
    };

    fn second(first: Exception, second: Exception) -> Result<Exception, TripleFault> {
        let mut events = Events::default();
        events.interrupted(Some(Event::Exception(first)));
        events.raise(second)?;
        match events.take(false, false) {
            Some(Event::Exception(exception)) => Ok(exception),
            other => panic!("{other:?}"),
        }
    }

    /// The table of 8.2.9, with one of each class.
    #[test]
    fn two_faults_are_a_double_fault_and_three_the_end() {
        let (gp, df) = (Exception::GENERAL_PROTECTION, Exception::DOUBLE_FAULT);
        for first in [DEBUG, Exception::UNDEFINED] {
            for then in [DEBUG, gp, PAGE_FAULT] {
                assert_eq!(second(first, then), Ok(then));
            }
        }
        assert_eq!(second(gp, DEBUG), Ok(DEBUG));
        assert_eq!(second(gp, gp), Ok(df));
        assert_eq!(second(gp, PAGE_FAULT), Ok(PAGE_FAULT));
        assert_eq!(second(PAGE_FAULT, gp), Ok(df));
        assert_eq!(second(PAGE_FAULT, PAGE_FAULT), Ok(df));
        assert_eq!(second(df, gp), Err(TripleFault));
        assert_eq!(second(df, PAGE_FAULT), Err(TripleFault));
        assert_eq!(second(df, DEBUG), Ok(DEBUG));
        for vector in [0, 10, 11, 12, 21] {
            let contributory = Exception {
                vector,
                error: Some(0),
            };
            assert_eq!(second(contributory, gp), Ok(df), "vector {vector}");
        }
    }

    #[test]
    fn an_interrupted_delivery_starts_again_at_once() {
        let mut events = Events::default();
        events.put(Event::Interrupt(0x41));
        assert_eq!(events.take(false, false), Some(Event::Interrupt(0x41)));
        events.interrupted(None);
        assert!(events.is_empty());
        events.interrupted(Some(Event::Interrupt(0x41)));
        assert!(!events.is_empty());
        // It was taken already: what the guest masks does not count.
        assert_eq!(events.take(false, false), Some(Event::Interrupt(0x41)));
        assert!(events.is_empty());
    }

    #[test]
    fn an_exception_goes_first_and_the_interrupt_waits_for_its_turn() {
        for (event, interrupts, nmis) in [
            (Event::Interrupt(0x41), true, false),
            (Event::Nmi, false, true),
        ] {
            let mut events = Events::default();
            events.interrupted(Some(event));
            assert_eq!(events.raise(PAGE_FAULT), Ok(()));
            // Even where the guest would take it: one an entry.
            assert_eq!(events.take(true, true), Some(Event::Exception(PAGE_FAULT)));
            assert_eq!(events.kept(), Some(event));
            assert!(!events.is_empty(), "no room for another");
            assert_eq!(events.take(!interrupts, !nmis), None);
            assert_eq!(events.take(interrupts, nmis), Some(event));
            assert!(events.is_empty());
        }
    }
}
