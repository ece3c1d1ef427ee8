//! Register accesses on AArch64: one plain load or store each.
//!
//! They are inline assembly because a compiler may pick a write-back or pair form for a volatile access, and such a
//! form has no valid syndrome (ESR_ELx.ISV = 0, Arm ARM D24.2) where a hypervisor below us emulates the device.

use super::mmu::El2Map;
use crate::map_error::MapError;
use crate::mmio::MmioError;
use core::arch::asm;

/// The right to access a region's registers. Made by [`DeviceMap`] only.
#[derive(Debug)]
pub struct Access(());

macro_rules! access {
    ($read:ident, $write:ident, $word:ty, $load:literal, $store:literal) => {
        pub(crate) fn $read(&self, base: u64, offset: usize) -> $word {
            let address = base + offset as u64;
            let value;
            // SAFETY: `MmioRegion` checked bounds and alignment; `DeviceMap::map` mapped it as device memory.
            unsafe { asm!($load, out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
            value
        }

        pub(crate) fn $write(&self, base: u64, offset: usize, value: $word) {
            let address = base + offset as u64;
            // SAFETY: as for the load.
            unsafe { asm!($store, in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
        }
    };
}

impl Access {
    access!(read8, write8, u8, "ldrb {:w}, [{}]", "strb {:w}, [{}]");
    access!(read16, write16, u16, "ldrh {:w}, [{}]", "strh {:w}, [{}]");
    access!(read32, write32, u32, "ldr {:w}, [{}]", "str {:w}, [{}]");
    access!(read64, write64, u64, "ldr {:x}, [{}]", "str {:x}, [{}]");

    /// The same right for the part that starts `_offset` bytes later: addresses come with each access.
    pub(crate) fn at(&self, _offset: u64) -> Self {
        Self(())
    }
}

/// Maps device memory into the address space of EL2.
#[derive(Debug)]
pub struct DeviceMap(El2Map);

impl DeviceMap {
    /// Device mappings go into `map`.
    pub fn new(map: El2Map) -> Self {
        Self(map)
    }

    /// The first address past the physical address space.
    pub(crate) fn end(&self) -> u64 {
        self.0.end()
    }

    pub(crate) fn map(&mut self, base: u64, len: u64) -> Result<Access, MmioError> {
        match self.0.map_device(base, len) {
            Ok(()) => Ok(Access(())),
            Err(MapError::NoTable) => Err(MmioError::NoTable),
            Err(MapError::Range(at)) => Err(MmioError::Range(at)),
        }
    }
}
