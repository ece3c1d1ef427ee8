//! The functions a guest owns, found in the ECAM of its device tree.

use crate::runtime::PCI_WINDOW as WINDOW;
use crate::tree::{Region, Tree};
use core::ptr::NonNull;
use safe_mmio::{UniqueMmioPointer, fields::ReadPureWrite};

/// One register of a device, 32 bits.
pub fn register(address: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
    let pointer = NonNull::new(address as *mut ReadPureWrite<u32>).expect("not at address 0");
    // SAFETY: payloads run on one CPU and call this only for 4-byte aligned registers in the device half of the map
    // ([`crate::runtime`] maps it as device memory); registers are not Rust objects, so no reference aliases them.
    unsafe { UniqueMmioPointer::new(pointer) }
}

/// A function on bus 0.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    config: u64,
    /// Device number.
    pub device: u8,
}

impl Function {
    /// The first function with this vendor and device ID.
    pub fn find(tree: &Tree<'_>, vendor: u16, device_id: u16) -> Option<Self> {
        let Region { base, .. } = tree.ecam?;
        (0..32u8)
            .map(|device| Self {
                config: base + (u64::from(device) << 15),
                device,
            })
            .find(|function| function.read(0) == u32::from(device_id) << 16 | u32::from(vendor))
    }

    /// Reads a word of configuration space.
    pub fn read(&self, offset: u64) -> u32 {
        register(self.config + offset).read()
    }

    /// Writes a word of configuration space.
    pub fn write(&self, offset: u64, value: u32) {
        register(self.config + offset).write(value);
    }

    /// Function level reset, if it has one: over when this is.
    pub fn reset(&self) -> bool {
        let mut at = self.read(0x34) & 0xfc;
        // No list is longer.
        for _ in 0..48 {
            let head = self.read(at.into());
            if at == 0 || head as u8 == 0x10 {
                break;
            }
            at = head >> 8 & 0xfc;
        }
        let (capabilities, control) = (u64::from(at) + 4, u64::from(at) + 8);
        let possible = at != 0 && self.read(capabilities) >> 28 & 1 != 0;
        if possible {
            let value = self.read(control) & 0xffff;
            self.write(control, value | 1 << 15);
        }
        possible
    }

    /// Puts BAR 0 at the start of the window and lets it answer; returns where it is.
    pub fn show(&self) -> u64 {
        self.write(0x10, WINDOW as u32);
        self.write(0x04, 0x2);
        WINDOW
    }

    /// The same, with bus mastering.
    pub fn enable(&self) -> u64 {
        let base = self.show();
        self.write(0x04, 0x6);
        base
    }
}
