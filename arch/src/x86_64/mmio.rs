//! Register accesses on x86_64: one plain move each, of a form that every hypervisor below us decodes.

use super::mmu::HostMap;
use crate::map_error::MapError;
use crate::mmio::MmioError;
use core::arch::asm;

/// The right to access a region's registers. Made by [`DeviceMap`] only.
#[derive(Debug)]
pub struct Access(());

macro_rules! access {
    ($read:ident, $write:ident, $word:ty, $class:ident, $load:literal, $store:literal) => {
        pub(crate) fn $read(&self, base: u64, offset: usize) -> $word {
            let address = base + offset as u64;
            let value;
            // SAFETY: `MmioRegion` checked bounds and alignment; `DeviceMap::map` mapped it as device memory.
            unsafe {
                asm!($load, out($class) value, in(reg) address, options(nostack, preserves_flags))
            };
            value
        }

        pub(crate) fn $write(&self, base: u64, offset: usize, value: $word) {
            let address = base + offset as u64;
            // SAFETY: as for the load.
            unsafe {
                asm!($store, in($class) value, in(reg) address, options(nostack, preserves_flags))
            };
        }
    };
}

impl Access {
    access!(
        read8,
        write8,
        u8,
        reg_byte,
        "mov {}, byte ptr [{}]",
        "mov byte ptr [{1}], {0}"
    );
    access!(
        read16,
        write16,
        u16,
        reg,
        "mov {:x}, word ptr [{}]",
        "mov word ptr [{1}], {0:x}"
    );
    access!(
        read32,
        write32,
        u32,
        reg,
        "mov {:e}, dword ptr [{}]",
        "mov dword ptr [{1}], {0:e}"
    );
    access!(
        read64,
        write64,
        u64,
        reg,
        "mov {:r}, qword ptr [{}]",
        "mov qword ptr [{1}], {0:r}"
    );

    /// The same right for the part that starts `_offset` bytes later: addresses come with each access.
    pub(crate) fn at(&self, _offset: u64) -> Self {
        Self(())
    }
}

/// Maps device memory into the hypervisor's address space.
#[derive(Debug)]
pub struct DeviceMap(HostMap);

impl DeviceMap {
    /// Device mappings go into `map`.
    pub fn new(map: HostMap) -> Self {
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
