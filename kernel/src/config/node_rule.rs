//! What is wrong with a node of the device tree, or with giving it to a partition.

use super::{Bytes, Name, Part};
use crate::guest_map;
use core::fmt;
use iommu::addr::Hpa;

/// A rule on nodes, with the values that break it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields are what the messages below print")]
pub enum NodeRule {
    /// A node behind no SMMU that might do DMA.
    BehindNoSmmu,
    /// A node that firmware has turned off or keeps.
    Disabled,
    /// A node of which a property has no meaning.
    Unreadable { property: &'static str },
    /// A node without registers that the CPU could reach.
    WithoutRegisters,
    /// A node whose registers are what the hypervisor itself uses.
    OfHypervisor { part: Part },
    /// A node in whose pages there are registers of another one.
    SharesPage { page: Hpa, with: Name },
    /// An interrupt that is not one of the machine's devices.
    Interrupt { intid: u32 },
    /// An interrupt that the hypervisor itself takes.
    InterruptTaken { intid: u32 },
    /// An interrupt that another partition's device has too.
    SharesInterrupt { intid: u32 },
    /// Registers that find no place in the guest's address space.
    WindowFull { base: Hpa, len: Bytes },
    /// A node for a guest that gets ACPI tables.
    WithoutAcpi,
    /// More interrupts of nodes than a guest can have.
    TooManyInterrupts { count: usize },
}

impl fmt::Display for NodeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BehindNoSmmu => f.write_str(
                "the device stands behind no SMMU, and nothing says that it does no DMA (`dma = false`)",
            ),
            Self::Disabled => {
                f.write_str("the device tree says that the device is not to be used (`status`)")
            }
            Self::Unreadable { property } => {
                write!(f, "the device's `{property}` in the device tree has no meaning here")
            }
            Self::WithoutRegisters => {
                f.write_str("the device has no registers that could be given away")
            }
            Self::OfHypervisor { part } => {
                write!(f, "the device is the hypervisor's own ({part})")
            }
            Self::SharesPage { page, with } => {
                write!(f, "the device shares the page of registers at {page} with {with}")
            }
            Self::Interrupt { intid } => {
                write!(f, "the device's interrupt {intid} is a CPU's own")
            }
            Self::InterruptTaken { intid } => {
                write!(f, "the device's interrupt {intid} is the hypervisor's own")
            }
            Self::SharesInterrupt { intid } => {
                write!(f, "the device shares interrupt {intid} with another partition's")
            }
            Self::WindowFull { base, len } => {
                write!(f, "the guest's address space has no room for {len} of registers at {base}")
            }
            Self::WithoutAcpi => {
                f.write_str("a device of the memory bus has no ACPI description")
            }
            Self::TooManyInterrupts { count } => write!(
                f,
                "the devices have {count} interrupts, at most {} are possible",
                guest_map::PLATFORM_INTIDS.len()
            ),
        }
    }
}
