//! When a guest takes NMIs: not from one until the end of its handler. SVM does not say so of one that was injected, so IRET
//! exits then, which comes before the handler has ended.

/// Where a guest is with its NMI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Nmi {
    /// It takes one.
    #[default]
    Open,
    /// One was delivered; IRET exits.
    Masked,
    /// It is at the IRET at this address, which has not been carried out.
    Ending(u64),
}

impl Nmi {
    /// One was delivered.
    pub(super) fn delivered(&mut self) {
        *self = Self::Masked;
    }

    /// IRET exits at `rip`.
    pub(super) fn at_iret(&mut self, rip: u64) {
        *self = Self::Ending(rip);
    }

    /// Whether it takes none at `rip`.
    pub(super) fn is_masked(self, rip: u64) -> bool {
        match self {
            Self::Open => false,
            Self::Masked => true,
            Self::Ending(at) => at == rip,
        }
    }

    /// Whether IRET has to exit.
    pub(super) fn traps_iret(self) -> bool {
        self == Self::Masked
    }
}
