//! `ICH_LR<n>_EL2` as a value (IHI 0069, 12.4).

use super::spec::Lr;
use core::fmt;
use tock_registers::LocalRegisterCopy;

/// The state of a virtual interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum State {
    /// The list register is free.
    Inactive = 0b00,
    /// To be taken.
    Pending = 0b01,
    /// Taken, and not ended.
    Active = 0b10,
    /// Taken, and to be taken again. Not with a physical interrupt.
    PendingActive = 0b11,
}

/// Who ends a virtual interrupt, beside the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nobody else.
    Software,
    /// As `Software`, and a maintenance interrupt tells when the guest has deactivated it.
    SoftwareWithEoi,
    /// This physical interrupt, below 8192, is deactivated with it.
    Hardware(u16),
}

/// The interrupt groups of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Signalled as FIQ.
    Zero,
    /// Signalled as IRQ.
    One,
}

/// One list register's contents.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ListRegister(
    /// The word, as the hardware has it.
    pub u64,
);

impl ListRegister {
    /// A free one.
    pub const EMPTY: Self = Self(0);

    /// Interrupt `virtual_id` in `state`. Panics if `Source::Hardware` has a number that is no SGI, PPI or SPI, or the
    /// state that hardware interrupts cannot have.
    pub fn new(virtual_id: u32, priority: u8, group: Group, state: State, source: Source) -> Self {
        let mut word = Lr::VirtualId.val(u64::from(virtual_id))
            + Lr::Priority.val(u64::from(priority))
            + Lr::Group.val(u64::from(group == Group::One))
            + Lr::State.val(state as u64);
        match source {
            Source::Software => {}
            Source::SoftwareWithEoi => word += Lr::Eoi::SET,
            Source::Hardware(id) => {
                assert!(id < 1020, "no physical interrupt {id} can be linked");
                assert!(
                    state != State::PendingActive,
                    "pending and active with a physical interrupt"
                );
                word += Lr::Hw::SET + Lr::PhysicalId.val(u64::from(id));
            }
        }
        Self(word.value)
    }

    /// The interrupt's number in the guest.
    pub fn virtual_id(self) -> u32 {
        self.copy().read(Lr::VirtualId) as u32
    }

    /// Its priority.
    pub fn priority(self) -> u8 {
        self.copy().read(Lr::Priority) as u8
    }

    /// Its group.
    pub fn group(self) -> Group {
        if self.copy().is_set(Lr::Group) {
            Group::One
        } else {
            Group::Zero
        }
    }

    /// Its state.
    pub fn state(self) -> State {
        match self.copy().read(Lr::State) {
            0b00 => State::Inactive,
            0b01 => State::Pending,
            0b10 => State::Active,
            _ => State::PendingActive,
        }
    }

    /// Who ends it.
    pub fn source(self) -> Source {
        let word = self.copy();
        match (word.is_set(Lr::Hw), word.is_set(Lr::Eoi)) {
            (true, _) => Source::Hardware(word.read(Lr::PhysicalId) as u16),
            (false, true) => Source::SoftwareWithEoi,
            (false, false) => Source::Software,
        }
    }

    /// The same interrupt in another state.
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        let mut word = self.copy();
        word.modify(Lr::State.val(state as u64));
        Self(word.get())
    }

    /// Whether it holds no interrupt.
    pub fn is_free(self) -> bool {
        self.state() == State::Inactive
    }

    fn copy(self) -> LocalRegisterCopy<u64, Lr::Register> {
        LocalRegisterCopy::new(self.0)
    }
}

impl fmt::Debug for ListRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source();
        f.debug_tuple("ListRegister")
            .field(&self.state())
            .field(&self.virtual_id())
            .field(&self.priority())
            .field(&self.group())
            .field(&source)
            .finish()
    }
}
