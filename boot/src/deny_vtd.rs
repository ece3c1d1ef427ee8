//! The first thing that happens: every VT-d unit refuses all DMA, and all interrupts of devices.

use arch::x86_64::clock;
use boot::acpi_tables::AcpiError;
use boot::acpi_tables::units::{self, Units};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::AtomicU64;
use iommu::addr::Hpa;
use iommu::hal::Mmio;
use iommu::vtd::{self, StartError};

/// All DMA is denied.
#[derive(Clone, Copy, Default, Debug)]
pub struct Denied {
    /// By these.
    pub units: Units,
    /// One of them remaps interrupts to destinations of 8 bits only.
    pub narrow: bool,
    /// Since then, in ticks of the counter.
    pub at: u64,
}

/// Why DMA may pass.
pub enum DenyError {
    /// Firmware does not say where the units are.
    Table(AcpiError),
    /// No registers can be there: past the 4 GiB of the initial map, or not at a page.
    Registers(u64),
    /// What the unit at this address does not do.
    Unit(u64, StartError),
}

/// The root table of while nobody has a device. As a constant its zeros would be a page of the image; nobody writes it.
#[repr(C, align(4096))]
struct Zeros([AtomicU64; vtd::ZEROS_BYTES / 8]);

static ZEROS: Zeros = Zeros([const { AtomicU64::new(0) }; vtd::ZEROS_BYTES / 8]);

/// Smallest cache line of any CPU, in bytes.
const LINE: usize = 32;

/// What the initial map holds.
const MAPPED: u64 = 1 << 32;

/// Stops all DMA by the units of the DMAR table, if there is one. Allocates nothing, and says nothing, as there is no
/// console yet. Called in the initial map.
pub fn all_dma(dmar: Option<&[u8]>) -> Result<Denied, DenyError> {
    let Some(dmar) = dmar else {
        return Ok(Denied::default());
    };
    let units = units::find(dmar).map_err(DenyError::Table)?;
    let zeros = (&raw const ZEROS).addr();
    for line in (zeros..zeros + vtd::ZEROS_BYTES).step_by(LINE) {
        // SAFETY: writes a line of the image back to memory, where a unit that does not snoop reads it.
        unsafe { asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) };
    }
    arch::barrier::full();
    let mut narrow = false;
    for &base in units.registers() {
        if base == 0 || base >= MAPPED || !base.is_multiple_of(4096) {
            return Err(DenyError::Registers(base));
        }
        let (unit, zeros) = (Registers(base), Hpa(zeros as u64));
        let refused = |error| DenyError::Unit(base, error);
        vtd::deny_all(&unit, zeros, clock::now_ns).map_err(refused)?;
        if !units.interrupt_remapping {
            continue;
        }
        match vtd::deny_interrupts(&unit, zeros, clock::now_ns) {
            Ok(wide) => narrow |= !wide,
            // Then devices can interrupt as they like, and the kernel gives none away.
            Err(StartError::NoInterruptRemapping(_)) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(Denied {
        units,
        narrow,
        at: clock::now(),
    })
}

impl fmt::Display for DenyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Registers(base) => write!(f, "no VT-d unit can be at {base:#x}"),
            Self::Unit(base, error) => write!(f, "VT-d unit at {base:#x}: {error}"),
        }
    }
}

/// The registers of a unit. The initial map has them as memory; that they are not cached is in the MTRRs.
struct Registers(u64);

macro_rules! access {
    ($read:ident, $write:ident, $word:ty, $load:literal, $store:literal) => {
        fn $read(&self, offset: usize) -> $word {
            let at = self.0 + offset as u64;
            let value;
            // SAFETY: firmware says that there is a unit, mapped (`all_dma`), and its driver knows the offsets.
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
    access!(
        read32,
        write32,
        u32,
        "mov {:e}, dword ptr [{}]",
        "mov dword ptr [{1}], {0:e}"
    );
    access!(
        read64,
        write64,
        u64,
        "mov {:r}, qword ptr [{}]",
        "mov qword ptr [{1}], {0:r}"
    );
}
