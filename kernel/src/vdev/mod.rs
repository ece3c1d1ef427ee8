//! What partitions see: virtual devices. A trapped access reaches them as (offset, size, value); what has to happen
//! outside comes back as a value, so none of them calls up.

pub mod sysreg;
pub mod vgic;
pub mod vits;
pub mod vpci;
pub mod vpsci;
pub mod vuart;

/// A set of a partition's vCPUs, by number: those to kick after an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Only `cpu`.
    pub const fn one(cpu: usize) -> Self {
        Self(1 << cpu)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `cpu` is in it.
    pub const fn contains(self, cpu: usize) -> bool {
        self.0 >> cpu & 1 != 0
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |&cpu| self.contains(cpu))
    }
}
