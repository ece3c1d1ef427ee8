//! "APIC Timer" (SDM volume 3A) as a function of time, which is the guest's TSC: nothing ticks here. Whoever has the clock
//! asks [`Timer::fires_at`], and calls [`Timer::expire`] then or later.

use super::spec::divide_shift;

/// Bits 18:17 of the timer's LVT entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    Deadline,
    /// Reserved: nothing fires.
    Reserved,
}

impl TimerMode {
    /// Of the LVT entry.
    pub const fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::Deadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// One timer.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    /// Log2 of TSC cycles to a cycle of the timer's clock, before it is divided.
    bus_shift: u32,
    divide: u32,
    initial: u32,
    /// When the count reaches zero, if it counts.
    ends: Option<u64>,
    /// `IA32_TSC_DEADLINE`; 0: not armed.
    deadline: u64,
}

impl Timer {
    /// As after reset.
    pub const fn new(bus_shift: u32) -> Self {
        Self {
            mode: TimerMode::OneShot,
            bus_shift,
            divide: 0,
            initial: 0,
            ends: None,
            deadline: 0,
        }
    }

    /// As after reset.
    pub const fn reset(&mut self) {
        *self = Self::new(self.bus_shift);
    }

    /// When to call [`Timer::expire`].
    pub const fn fires_at(&self) -> Option<u64> {
        match self.mode {
            TimerMode::OneShot | TimerMode::Periodic => self.ends,
            TimerMode::Deadline if self.deadline != 0 => Some(self.deadline),
            TimerMode::Deadline | TimerMode::Reserved => None,
        }
    }

    /// Whether it fired since the last call. Periods that passed unseen are one.
    pub fn expire(&mut self, now: u64) -> bool {
        let Some(at) = self.fires_at().filter(|&at| at <= now) else {
            return false;
        };
        match self.mode {
            TimerMode::Periodic => {
                let period = self.cycles(self.initial).max(1);
                let passed = (now - at) / period + 1;
                self.ends = Some(at.saturating_add(passed.saturating_mul(period)));
            }
            TimerMode::Deadline => self.deadline = 0,
            TimerMode::OneShot | TimerMode::Reserved => self.ends = None,
        }
        true
    }

    /// The LVT entry was written. To or from the deadline mode, it is disarmed.
    pub fn set_mode(&mut self, mode: TimerMode) {
        if mode.counts() != self.mode.counts() {
            self.ends = None;
            self.deadline = 0;
        }
        self.mode = mode;
    }

    /// Starts, or stops it with 0. Nothing in the deadline mode.
    pub fn set_initial(&mut self, initial: u32, now: u64) {
        if self.mode.counts() {
            self.initial = initial;
            self.ends = (initial != 0).then(|| now.saturating_add(self.cycles(initial)));
        }
    }

    /// What was written last.
    pub const fn initial(&self) -> u32 {
        self.initial
    }

    /// What is left of the count.
    pub fn current(&self, now: u64) -> u32 {
        match self.ends {
            Some(ends) if self.mode.counts() => {
                let left = ends.saturating_sub(now);
                // It is as much until the whole cycle has passed.
                left.div_ceil(self.cycles(1)) as u32
            }
            _ => 0,
        }
    }

    /// The register.
    pub const fn divide(&self) -> u32 {
        self.divide
    }

    /// What is left of the count takes longer, or shorter, from now on.
    pub fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide;
        if self.ends.is_some() {
            self.ends = Some(now.saturating_add(self.cycles(left)));
        }
    }

    /// `IA32_TSC_DEADLINE`: 0 when it is not armed.
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Arms it, or disarms it with 0. Nothing in the other modes.
    pub fn set_deadline(&mut self, deadline: u64) {
        if self.mode == TimerMode::Deadline {
            self.deadline = deadline;
        }
    }

    const fn cycles(&self, count: u32) -> u64 {
        (count as u64) << (self.bus_shift + divide_shift(self.divide))
    }
}
