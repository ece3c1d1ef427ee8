//! Interrupt identities (IHI 0069, 2.2).

use super::spec::{FIRST_LPI, FIRST_SPECIAL};

/// A physical interrupt's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Intid(
    /// The number, as ICC_IAR1_EL1 shows it.
    pub u32,
);

/// What kind of interrupt a number is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// 0..16: sent by software.
    Sgi,
    /// 16..32: of one CPU.
    Ppi,
    /// 32..1020: of the machine.
    Spi,
    /// 8192 and up: messages, through the ITS.
    Lpi,
    /// Special or unsupported numbers; extended PPIs and SPIs are among them.
    None,
}

impl Intid {
    /// The number of the software generated interrupt `n`, 0..16. Panics past it.
    pub const fn sgi(n: u32) -> Self {
        assert!(n < 16);
        Self(n)
    }

    /// The number of the private peripheral interrupt `n`, 0..16, as device trees count them. Panics past it.
    pub const fn ppi(n: u32) -> Self {
        assert!(n < 16);
        Self(16 + n)
    }

    /// The number of the shared peripheral interrupt `n`, 0..988, as device trees count them. Panics past it.
    pub const fn spi(n: u32) -> Self {
        assert!(n < FIRST_SPECIAL - 32);
        Self(32 + n)
    }

    /// What it is.
    pub const fn kind(self) -> Kind {
        match self.0 {
            0..16 => Kind::Sgi,
            16..32 => Kind::Ppi,
            32..FIRST_SPECIAL => Kind::Spi,
            FIRST_LPI.. => Kind::Lpi,
            _ => Kind::None,
        }
    }
}

/// How an interrupt line signals (GICD_ICFGR, 12.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Asserted while the line is high.
    Level,
    /// Pending from each rising edge.
    Edge,
}
