//! Registers of invented devices.

use crate::mmio::{MmioError, MmioRegion};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use spin::mutex::SpinMutex;

/// A device as its driver sees it. `offset` is in bytes from its base, `size` is 1, 2, 4 or 8 bytes.
pub trait Device: Send + Sync {
    /// A load.
    fn read(&self, offset: u64, size: usize) -> u64;
    /// A store.
    fn write(&self, offset: u64, size: usize, value: u64);
}

/// A device without behaviour: bytes that keep what is written.
#[derive(Debug)]
pub struct Memory(SpinMutex<Vec<u8>>);

impl Memory {
    /// `len` zero bytes.
    pub fn new(len: u64) -> Self {
        Self(SpinMutex::new(vec![0; len as usize]))
    }
}

impl Device for Memory {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let mut word = [0; 8];
        word[..size].copy_from_slice(&self.0.lock()[offset as usize..][..size]);
        u64::from_le_bytes(word)
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        self.0.lock()[offset as usize..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

impl MmioRegion {
    /// The registers of `device`, as if at `base`.
    pub fn fake(base: u64, len: u64, device: Arc<dyn Device>) -> Self {
        let access = Access { device, offset: 0 };
        Self::new(base, len, access)
    }

    /// Registers that keep what is written, as if at `base`.
    pub fn memory(base: u64, len: u64) -> Self {
        Self::fake(base, len, Arc::new(Memory::new(len)))
    }
}

/// The way to a device's registers.
#[derive(Clone)]
pub struct Access {
    device: Arc<dyn Device>,
    offset: u64,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fake device + {:#x}", self.offset)
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $word:ty) => {
        pub(crate) fn $read(&self, _base: u64, offset: usize) -> $word {
            let offset = self.offset + offset as u64;
            self.device.read(offset, size_of::<$word>()) as $word
        }

        pub(crate) fn $write(&self, _base: u64, offset: usize, value: $word) {
            let offset = self.offset + offset as u64;
            self.device
                .write(offset, size_of::<$word>(), u64::from(value));
        }
    };
}

impl Access {
    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    pub(crate) fn at(&self, offset: u64) -> Self {
        Self {
            device: self.device.clone(),
            offset: self.offset + offset,
        }
    }
}

/// Which devices the fake machine has; everywhere else there are registers that keep what is written.
#[derive(Default)]
pub struct DeviceMap {
    devices: Vec<(u64, u64, Arc<dyn Device>)>,
}

impl fmt::Debug for DeviceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bases = self.devices.iter().map(|(base, ..)| base);
        f.debug_list().entries(bases).finish()
    }
}

impl DeviceMap {
    /// Puts `device` at `[base, base + len)`.
    #[must_use]
    pub fn with(mut self, base: u64, len: u64, device: Arc<dyn Device>) -> Self {
        self.devices.push((base, len, device));
        self
    }

    pub(crate) fn end(&self) -> u64 {
        1 << 48
    }

    pub(crate) fn map(&mut self, base: u64, len: u64) -> Result<Access, MmioError> {
        let holder = self
            .devices
            .iter()
            .find(|(at, size, _)| *at <= base && base + len <= at + size);
        Ok(match holder {
            Some((at, _, device)) => Access {
                device: device.clone(),
                offset: base - at,
            },
            None => Access {
                device: Arc::new(Memory::new(len)),
                offset: 0,
            },
        })
    }
}
