//! Which way this machine's CPUs run guests.

use super::vcpu::{Posted, Tables, Vcpu};
use super::{svm, vmx};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

/// A way to run guests, and what all of its vCPUs share.
#[derive(Clone, Debug)]
pub enum Technology {
    /// AMD's. Its nested tables are NPT.
    Svm {
        /// What the CPU has.
        features: svm::Features,
        /// What exits.
        maps: Arc<svm::Maps>,
    },
    /// Intel's. Its nested tables are EPT.
    Vmx {
        /// What the CPU has.
        features: vmx::Features,
        /// What exits.
        bitmaps: Arc<vmx::Bitmaps>,
    },
}

/// Why this CPU runs no guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// Why not with SVM.
    pub svm: svm::Unsupported,
    /// Why not with VMX.
    pub vmx: vmx::Unsupported,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.svm.fmt(f)?;
        f.write_str("; ")?;
        self.vmx.fmt(f)
    }
}

impl Technology {
    /// That of this CPU. All CPUs of a machine are taken to be alike.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn detect() -> Result<Self, Unsupported> {
        let svm = match svm::features() {
            Ok(features) => {
                let maps = Arc::new(svm::Maps::new());
                return Ok(Self::Svm { features, maps });
            }
            Err(svm) => svm,
        };
        match vmx::features() {
            Ok(features) => {
                let bitmaps = Arc::new(vmx::Bitmaps::new());
                Ok(Self::Vmx { features, bitmaps })
            }
            Err(vmx) => Err(Unsupported { svm, vmx }),
        }
    }

    /// Whether the CPU itself delivers interrupts to its guest, and those that are posted: [`Vcpu::delivers`].
    pub fn delivers(&self) -> bool {
        match self {
            Self::Svm { .. } => false,
            Self::Vmx { features, .. } => features.posted_interrupts,
        }
    }

    /// vCPU number `index` of those that use `tables`, which are of this way's format; `None` if there are not so many.
    /// With `posted`, interrupts may be posted there, and are notified by that vector.
    pub fn vcpu(
        &self,
        tables: &Arc<Tables>,
        index: usize,
        posted: Option<(&'static Posted, u8)>,
    ) -> Option<Vcpu> {
        let (root, levels) = (tables.root(), tables.levels());
        let tables = Arc::clone(tables);
        match self {
            Self::Svm { features, maps } => {
                let (maps, cpu) = (Arc::clone(maps), svm::Cpu::default());
                let guest = svm::Guest::new(*features, maps, root, cpu);
                Vcpu::new(tables, index, Box::new(guest))
            }
            Self::Vmx { features, bitmaps } => {
                let (bitmaps, cpu) = (Arc::clone(bitmaps), vmx::Cpu::default());
                let mut guest = vmx::Guest::new(*features, bitmaps, root, levels, cpu);
                if self.delivers()
                    && let Some((posted, vector)) = posted
                {
                    guest = guest.with_posted(posted.address(), vector);
                }
                Vcpu::new(tables, index, Box::new(guest))
            }
        }
    }
}
