//! The only glue between `arch` and `iommu`: each of the traits in [`iommu::hal`], on the real machine.

use crate::boot_info::BootInfo;
pub use crate::host::{Buffer, Host};
use crate::irq;
use crate::pci::{self, ConfigSpace, Function, Topology, Wanted};
use crate::say;
use alloc::vec::Vec;
use arch::memory::Frames;
use arch::mmio::{MmioError, MmioPool, MmioRegion};
use iommu::addr::{Hpa, Span};
use iommu::hal::Mmio;
use iommu::object::driver::Memory;
use iommu::object::unit::Unit;

/// Registers of an IOMMU.
#[derive(Debug)]
pub struct Registers(pub MmioRegion);

impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.0.write64(offset, value);
    }
}

/// A physical IOMMU, as partitions' objects drive it.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub type Iommu = Unit<Host, iommu::smmuv3::Smmu<Host, Registers>>;
/// A physical IOMMU, as partitions' objects drive it.
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub type Iommu = Unit<Host, iommu::vtd::Vtd<Host, Registers>>;

/// What an IOMMU is called on the console, with its number behind.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub const IOMMU: &str = "smmu";
/// What an identity at one is.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub const STREAM: &str = "stream";
/// What says where the requests of an identity go.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub const STREAM_ENTRY: &str = "stream table entry";
/// What says where those with one PASID go.
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub const PASID_ENTRY: &str = "context descriptor";
/// What an IOMMU is called on the console, with its number behind.
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub const IOMMU: &str = "vtd";
/// What an identity at one is.
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub const STREAM: &str = "source";
/// What says where the requests of an identity go.
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub const STREAM_ENTRY: &str = "context entry";
/// What says where those with one PASID go.
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub const PASID_ENTRY: &str = "PASID table entry";

/// The machine's time, for the waits of a reset.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl pci::Clock for Clock {
    fn now_ns(&mut self) -> u64 {
        arch::clock::now_ns()
    }

    fn wait(&mut self) {
        irq::serve_meanwhile();
    }
}

/// Configuration space through the ECAM of each host bridge (PCIe §7.2.2).
///
/// Shared by all CPUs without a lock: an access is one load or store, and each function is the affair of one partition
/// at a time; whoever resets a physical one gives its virtual ones their registers back, under the lock of the bus that
/// shows them ([`crate::devices`]). What partitions share, the bridges above, is opened by writes that are the same for
/// all. With a lock, the reset that one guest asks for (100 ms and more) would keep every other guest from its own
/// configuration space.
#[derive(Debug, Default)]
pub struct Ecam {
    windows: Vec<EcamWindow>,
}

#[derive(Debug)]
struct EcamWindow {
    segment: u16,
    first_bus: u8,
    registers: MmioRegion,
}

impl Ecam {
    /// Adds the window of a host bridge.
    fn add(&mut self, segment: u16, first_bus: u8, registers: MmioRegion) {
        self.windows.push(EcamWindow {
            segment,
            first_bus,
            registers,
        });
    }

    /// The registers of `function`, and the offset of its first.
    fn find(&self, function: Function) -> Option<(&MmioRegion, usize)> {
        self.windows
            .iter()
            .filter(|window| window.segment == function.segment)
            .find_map(|window| {
                let offset = function.bdf.ecam_offset(window.first_bus)?;
                (u64::from(offset) + 0x1000 <= window.registers.len())
                    .then_some((&window.registers, offset as usize))
            })
    }
}

macro_rules! config_access {
    ($read:ident, $write:ident, $word:ty) => {
        fn $read(&mut self, function: Function, offset: u16) -> $word {
            match self.find(function) {
                Some((registers, base)) => registers.$read(base + usize::from(offset)),
                None => !0,
            }
        }

        fn $write(&mut self, function: Function, offset: u16, value: $word) {
            if let Some((registers, base)) = self.find(function) {
                registers.$write(base + usize::from(offset), value);
            }
        }
    };
}

impl ConfigSpace for &Ecam {
    config_access!(read8, write8, u8);
    config_access!(read16, write16, u16);
    config_access!(read32, write32, u32);
}

/// All PCI functions, silent; and the virtual ones that are `wanted`. What is wrong with them is said.
///
/// # Errors
/// Somebody has the registers of a host bridge.
#[inline(never)]
pub fn buses(
    info: &BootInfo,
    mmio: &mut MmioPool,
    wanted: &[Wanted],
) -> Result<(Ecam, Topology), MmioError> {
    let mut ecam = Ecam::default();
    for host in &info.pcie {
        let window = mmio.take(host.ecam.base.0, host.ecam.len)?;
        ecam.add(host.segment, host.buses.0, window);
    }
    let topology = Topology::enumerate(&mut &ecam, &mut Clock, &info.pcie, wanted);
    for problem in &topology.problems {
        say!("pci: {problem}");
    }
    Ok((ecam, topology))
}

/// RAM to be mapped for DMA.
#[derive(Debug)]
pub struct Ram(pub Frames);

impl Memory for Ram {
    fn size(&self) -> u64 {
        self.0.len()
    }

    fn writable(&self) -> bool {
        true
    }

    fn piece(&self, offset: u64) -> Option<Span<Hpa>> {
        let len = self.size().checked_sub(offset).filter(|len| *len > 0)?;
        let base = Hpa(self.0.base() + offset);
        Some(Span { base, len })
    }
}
