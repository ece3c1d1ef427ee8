//! The first thing that happens: every SMMU refuses all DMA.

use crate::early_map;
use arch::aarch64::clock;
use boot::fdt::FdtError;
use boot::fdt::early::{self, Smmus};
use core::arch::asm;
use core::fmt;
use iommu::addr::{Hpa, Span};
use iommu::hal::Mmio;
use iommu::smmuv3::{self, StartError};
use kernel::boot_info::BootInfo;

/// All DMA is denied.
pub struct Denied {
    /// By these.
    pub smmus: Smmus,
    /// Since then, in nanoseconds of the counter.
    pub at_ns: u64,
}

/// Why DMA may pass.
pub enum DenyError {
    /// Firmware does not say where the SMMUs are.
    Tree(FdtError),
    /// No place for these registers in the initial map.
    Map(Hpa),
    /// What the SMMU at this address does not do.
    Smmu(Hpa, StartError),
}

/// Stops all DMA: by the SMMUs that are known, else by those of the device tree. Allocates nothing, and says nothing, as
/// there is no console yet. Called at EL2, in the initial map.
pub fn all_dma(tree: &[u8], known: Option<&BootInfo>) -> Result<Denied, DenyError> {
    let smmus = match known {
        Some(info) => Smmus::of(&info.smmus),
        None => early::smmus(tree),
    };
    let smmus = smmus.map_err(DenyError::Tree)?;
    for &Span { base, .. } in smmus.registers() {
        // SAFETY: the initial map is in use, and the device tree says that there is an SMMU.
        if !unsafe { early_map::map_device(base.0, 2) } {
            return Err(DenyError::Map(base));
        }
        smmuv3::deny_all(&Registers(base.0), clock::now_ns)
            .map_err(|error| DenyError::Smmu(base, error))?;
    }
    Ok(Denied {
        smmus,
        at_ns: clock::now_ns(),
    })
}

impl fmt::Display for DenyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Map(base) => write!(f, "no map for the SMMU at {:#x}", base.0),
            Self::Smmu(base, error) => write!(f, "SMMU at {:#x}: {error}", base.0),
        }
    }
}

/// The registers of an SMMU that is mapped in the initial map.
struct Registers(u64);

macro_rules! access {
    ($read:ident, $write:ident, $word:ty, $load:literal, $store:literal) => {
        fn $read(&self, offset: usize) -> $word {
            let at = self.0 + offset as u64;
            let value;
            // SAFETY: `all_dma` maps the registers before it makes this, and the SMMU's driver knows their offsets.
            unsafe { asm!($load, out(reg) value, in(reg) at, options(nostack, preserves_flags)) };
            value
        }

        fn $write(&self, offset: usize, value: $word) {
            let at = self.0 + offset as u64;
            // SAFETY: as for the load.
            unsafe { asm!($store, in(reg) value, in(reg) at, options(nostack, preserves_flags)) };
        }
    };
}

impl Mmio for Registers {
    access!(read32, write32, u32, "ldr {:w}, [{}]", "str {:w}, [{}]");
    access!(read64, write64, u64, "ldr {:x}, [{}]", "str {:x}, [{}]");
}
