//! The state of one virtual interrupt (IHI 0069, §4.1.2).

/// In place of a CPU number: none.
pub(super) const NO_CPU: u8 = 0xff;

/// The set that an interrupt is in, so that list registers are filled without a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Nothing to do, or a list register has it.
    Nowhere,
    /// Pending and enabled: for the next free list register of this CPU.
    Ready(u8),
    /// Active on this CPU and in none of its list registers.
    Held(u8),
}

/// One interrupt. While a list register has it (`resident`), what was put there has *moved*: `latch` then holds only
/// what came since, and the fold after the exit brings back what the guest has not consumed.
#[derive(Clone, Debug)]
pub(super) struct Irq {
    /// Its number; zero for an LPI slot that is not mapped.
    pub intid: u32,
    pub priority: u8,
    pub group1: bool,
    pub enabled: bool,
    /// Edge-triggered; level-sensitive otherwise.
    pub edge: bool,
    /// Pending because of an edge, a message, a physical interrupt or a write of a register.
    pub latch: bool,
    /// The input, as the virtual device drives it.
    pub line: bool,
    pub active: bool,
    /// The priority at which it became active: the guest's CPU interface compares it on the priority drop.
    pub active_priority: u8,
    /// Where it was acknowledged.
    pub owner: u8,
    /// Where it goes, or [`NO_CPU`].
    pub target: u8,
    /// `IROUTER`.
    pub route: u64,
    pub place: Place,
    /// The physical interrupt that it stands for.
    pub physical: Option<u32>,
    /// That one is active in the physical GIC, and it is on us to end that.
    pub physical_active: bool,
    /// The CPU whose list registers have it, or [`NO_CPU`].
    pub resident: u8,
    /// The list register took the latch.
    pub lr_latch: bool,
    /// State in the list register, as filled.
    pub lr_pending: bool,
    pub lr_active: bool,
    /// Asked for while resident: at the fold, forget pending, forget active, become active.
    pub cancel_pending: bool,
    pub cancel_active: bool,
    pub force_active: bool,
}

impl Irq {
    /// After reset.
    pub const fn new(intid: u32, target: u8) -> Self {
        Self {
            intid,
            priority: 0,
            group1: false,
            enabled: false,
            edge: intid < 16,
            latch: false,
            line: false,
            active: false,
            active_priority: 0,
            owner: NO_CPU,
            target,
            route: 0,
            place: Place::Nowhere,
            physical: None,
            physical_active: false,
            resident: NO_CPU,
            lr_latch: false,
            lr_pending: false,
            lr_active: false,
            cancel_pending: false,
            cancel_active: false,
            force_active: false,
        }
    }

    /// Pending, outside a list register.
    pub const fn pending(&self) -> bool {
        self.latch || (self.line && !self.edge)
    }

    /// Whether a list register has it.
    pub const fn is_resident(&self) -> bool {
        self.resident != NO_CPU
    }

    /// What the pending registers read: the list register's part as it was filled.
    pub const fn reads_pending(&self) -> bool {
        self.pending() || (self.is_resident() && self.lr_pending && !self.cancel_pending)
    }

    /// What the active registers read.
    pub const fn reads_active(&self) -> bool {
        self.active
            || self.force_active
            || (self.is_resident() && self.lr_active && !self.cancel_active)
    }

    /// The physical interrupt is active, and no deactivation by the guest will ever end that. A disabled level
    /// counts: the physical GIC keeps the level, and it fires again when the guest enables it.
    pub const fn orphaned(&self) -> bool {
        self.physical_active && !self.active && (!self.latch || (!self.enabled && !self.edge))
    }

    /// Where it belongs.
    pub const fn place(&self) -> Place {
        if self.is_resident() {
            Place::Nowhere
        } else if self.active {
            Place::Held(self.owner)
        } else if self.enabled && self.target != NO_CPU && self.pending() {
            Place::Ready(self.target)
        } else {
            Place::Nowhere
        }
    }
}
