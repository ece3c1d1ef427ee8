//! The only glue between `arch` and `iommu`: each of the traits in [`iommu::hal`], on the real machine.

use crate::guest_map;
pub use crate::host::{Buffer, Host};
use crate::irq;
use crate::pci::{self, ConfigSpace, Function};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::memory::Frames;
use arch::mmio::MmioRegion;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu::addr::{Gpa, Hpa, Span};
use iommu::hal::{GuestMemory, GuestMemoryError, Mmio};
use iommu::object::driver::Memory;
use iommu::object::unit::Unit;
use iommu::smmuv3::Smmu;

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
pub type Iommu = Unit<Host, Smmu<Host, Registers>>;

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
    pub fn add(&mut self, segment: u16, first_bus: u8, registers: MmioRegion) {
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

/// Bytes of memory that are cleared or copied in one go, in far less than a millisecond.
const PIECE: usize = 256 << 10;

/// A partition's RAM: one piece of host memory at [`guest_map::RAM`]. Clearing and filling all of it takes long: interrupts
/// are served meanwhile, and no lock may be held.
#[derive(Debug)]
pub struct GuestRam {
    /// Whatever lets devices at it holds it too.
    memory: Arc<Ram>,
    /// Neither we nor a guest has written to it yet, and frames are handed out zeroed.
    untouched: AtomicBool,
}

impl GuestRam {
    /// All of `frames` as RAM. Nobody has written to them.
    pub fn new(frames: Frames) -> Self {
        Self {
            memory: Arc::new(Ram(frames)),
            untouched: AtomicBool::new(true),
        }
    }

    /// Where the guest sees it.
    pub fn guest(&self) -> Span<Gpa> {
        Span {
            base: guest_map::RAM,
            len: self.memory.0.len(),
        }
    }

    /// Where it is.
    pub fn host(&self) -> Hpa {
        Hpa(self.memory.0.base())
    }

    /// What devices are let at: free only when none can reach it any more.
    pub fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.memory) as Arc<dyn Memory>
    }

    /// Zeroes all of it, unless it still is.
    pub fn clear(&self) {
        if !self.untouched.swap(false, Ordering::AcqRel) {
            self.in_pieces(|at, len| self.memory.0.zero(at, len));
        }
    }

    /// All of it may be code, and may be read with caches off: makes it visible to both.
    pub fn publish(&self) {
        self.in_pieces(|at, len| self.memory.0.clean_invalidate(at, len));
        // What is clean already; once, as it is for all instruction caches.
        self.memory.0.sync_icache(0, 1);
    }

    fn in_pieces(&self, action: impl Fn(usize, usize)) {
        let end = self.memory.0.len() as usize;
        for at in (0..end).step_by(PIECE) {
            action(at, PIECE.min(end - at));
            irq::serve_meanwhile();
        }
    }

    /// Copies a file in.
    pub fn fill(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let mut to = at.0;
        for piece in bytes.chunks(PIECE) {
            self.write(Gpa(to), piece)?;
            to += piece.len() as u64;
            irq::serve_meanwhile();
        }
        Ok(())
    }

    fn offset(&self, at: Gpa, len: usize) -> Result<usize, GuestMemoryError> {
        let inside = at.0.checked_sub(guest_map::RAM.0).filter(|&offset| {
            offset
                .checked_add(len as u64)
                .is_some_and(|end| end <= self.memory.0.len())
        });
        inside
            .map(|offset| offset as usize)
            .ok_or(GuestMemoryError(at))
    }
}

/// RAM to be mapped for DMA.
#[derive(Debug)]
struct Ram(Frames);

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

impl GuestMemory for GuestRam {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, bytes.len())?;
        self.memory.0.read_bytes(offset, bytes);
        Ok(())
    }

    fn read_words(&self, at: Gpa, words: &mut [u64]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, size_of_val(words))?;
        self.memory.0.read_words(offset, words);
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let offset = self.offset(at, bytes.len())?;
        self.untouched.store(false, Ordering::Relaxed);
        self.memory.0.write_bytes(offset, bytes);
        Ok(())
    }
}
