//! One function of the fake fabric.

use crate::pci::Bdf;
use alloc::vec::Vec;

/// One function: contents, and the bits that a write changes or clears.
#[derive(Clone)]
pub struct FakeFunction {
    pub device: u8,
    pub function: u8,
    pub bytes: Vec<u8>,
    pub writable: Vec<u8>,
    pub reset_bytes: Vec<u8>,
    pub children: Vec<FakeFunction>,
    /// Of an SR-IOV capability: where it is, and what appears with VF Enable.
    pub sriov: Option<usize>,
    pub virtuals: Vec<FakeFunction>,
    /// Reads of the vendor ID that answer "retry" after a reset.
    pub retries: u32,
    pub pending_retries: u32,
    /// Answers all ones for ever after a reset.
    pub dies: bool,
    pub dead: bool,
    pub resets: u32,
    pub express: Option<u16>,
    pub power: Option<u16>,
    pub advanced_features: Option<u16>,
}

impl FakeFunction {
    pub fn new(device: u8, function: u8, vendor: u16, id: u16, class: u32) -> Self {
        let mut new = Self {
            device,
            function,
            bytes: alloc::vec![0; 4096],
            writable: alloc::vec![0; 4096],
            reset_bytes: Vec::new(),
            children: Vec::new(),
            sriov: None,
            virtuals: Vec::new(),
            retries: 0,
            pending_retries: 0,
            dies: false,
            dead: false,
            resets: 0,
            express: None,
            power: None,
            advanced_features: None,
        };
        new.put(0, u32::from(id) << 16 | u32::from(vendor));
        new.put(8, class << 8 | 1);
        new.mask(4, 0x0547);
        new.mask(0x3c, 0xff);
        new.mask(0x0c, 0xff);
        new.mask(0x30, 0xffff_f801);
        new
    }

    pub fn bridge(device: u8, function: u8, express: Option<u8>) -> Self {
        let mut new = Self::new(device, function, 0x1b36, 0x000c, 0x06_0400);
        new.bytes[0x0e] |= 1;
        new.mask(0x18, 0x00ff_ffff);
        new.mask(0x1c, 0xf0f0);
        new.mask(0x20, 0xfff0_fff0);
        new.put(0x24, 0x0001_0001);
        new.mask(0x24, 0xfff0_fff0);
        new.mask(0x28, !0);
        new.mask(0x2c, !0);
        new.mask(0x30, 0);
        new.mask(0x3c, 0x00ff_00ff);
        if let Some(port) = express {
            new = new.with_express(0x40, port, false);
        }
        new
    }

    pub fn put(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub fn get(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes[offset..offset + 4].try_into().unwrap())
    }

    pub fn mask(&mut self, offset: usize, bits: u32) {
        self.writable[offset..offset + 4].copy_from_slice(&bits.to_le_bytes());
    }

    /// A BAR: low register flags and writable bits.
    pub fn with_bar(mut self, index: usize, flags: u32, size: u64) -> Self {
        let at = 0x10 + 4 * index;
        let mask = !(size - 1);
        self.put(at, flags);
        self.mask(at, mask as u32 & !0xf);
        if flags & 7 == 4 {
            self.mask(at + 4, (mask >> 32) as u32);
        }
        self
    }

    /// Puts a capability in front of the list.
    pub fn with_capability(mut self, offset: usize, id: u8) -> Self {
        self.bytes[6] |= 0x10;
        self.bytes[offset] = id;
        self.bytes[offset + 1] = self.bytes[0x34];
        self.bytes[0x34] = offset as u8;
        self
    }

    pub fn with_express(mut self, offset: usize, port: u8, flr: bool) -> Self {
        self = self.with_capability(offset, 0x10);
        self.bytes[offset + 2] = port << 4 | 2;
        self.put(offset + 4, 0x8000 | u32::from(flr) << 28 | 1);
        self.put(offset + 8, 0x2810);
        self.mask(offset + 8, 0xffff);
        self.mask(offset + 0x28, 0xffff);
        self.express = Some(offset as u16);
        self
    }

    pub fn with_msix(
        mut self,
        offset: usize,
        vectors: u16,
        bar: u32,
        table: u32,
        pba: u32,
    ) -> Self {
        self = self.with_capability(offset, 0x11);
        let head = self.get(offset);
        self.put(offset, head | u32::from(vectors - 1) << 16);
        self.mask(offset, 0xc000_0000);
        self.put(offset + 4, table | bar);
        self.put(offset + 8, pba | bar);
        self
    }

    /// 64-bit MSI with per-vector masks.
    pub fn with_msi(mut self, offset: usize, log_vectors: u32) -> Self {
        self = self.with_capability(offset, 5);
        let head = self.get(offset);
        self.put(offset, head | (0x180 | log_vectors << 1) << 16);
        self.mask(offset, 0x0071_0000);
        self.mask(offset + 4, !3);
        self.mask(offset + 8, !0);
        self.mask(offset + 12, 0xffff);
        self.mask(offset + 16, !0);
        self
    }

    pub fn with_power(mut self, offset: usize, no_soft_reset: bool) -> Self {
        self = self.with_capability(offset, 1);
        self.bytes[offset + 2] = 3;
        self.put(offset + 4, u32::from(no_soft_reset) << 3);
        self.mask(offset + 4, 3);
        self.power = Some(offset as u16);
        self
    }

    pub fn with_acs(mut self, capability: u16) -> Self {
        self.put(0x100, 0x0001_000d);
        self.put(0x104, u32::from(capability));
        self.mask(0x104, u32::from(capability) << 16);
        self
    }

    /// ATS at 0x100, off, with the STU of 64 KiB that firmware left.
    pub fn with_ats(mut self) -> Self {
        self.put(0x100, 0x0001_000f);
        self.put(0x104, 0x0004_0000);
        self.mask(0x104, 0x801f_0000);
        self
    }

    /// SR-IOV at 0x120, with ARI before it: `virtuals` with the device ID `id`, their routing IDs from `first` on by
    /// `stride`, and one BAR of `size` bytes.
    pub fn with_virtuals(
        mut self,
        id: u16,
        (first, stride): (u16, u16),
        size: u64,
        virtuals: Vec<Self>,
    ) -> Self {
        let count = virtuals.len() as u32;
        self.put(0x100, 0x1201_000e);
        self.put(0x120, 0x0001_0010);
        self.mask(0x128, 0x19);
        self.put(0x12c, count << 16 | count);
        self.mask(0x130, 0xffff);
        self.put(0x134, u32::from(stride) << 16 | u32::from(first));
        self.put(0x138, u32::from(id) << 16);
        self.put(0x13c, 0x553);
        self.put(0x140, 1);
        self.mask(0x140, 0x553);
        self.put(0x144, 4);
        self.mask(0x144, !(size as u32 - 1));
        self.mask(0x148, !0);
        self.sriov = Some(0x120);
        self.virtuals = virtuals;
        self
    }

    /// Which of its virtual functions is at `bdf`, if one of this function, which is on `bus`, is.
    pub(super) fn virtual_at(&self, bus: u8, bdf: Bdf) -> Option<usize> {
        let at = self.sriov.filter(|at| self.bytes[at + 8] & 1 != 0)?;
        let own = u16::from(bus) << 8 | u16::from(self.device) << 3 | u16::from(self.function);
        let (numbers, places) = (self.get(at + 0x10) as u16, self.get(at + 0x14));
        let (first, stride) = (places as u16, (places >> 16) as u16);
        let is = |index: u16| {
            own.wrapping_add(first)
                .wrapping_add(stride.wrapping_mul(index))
                == bdf.requester_id()
        };
        let index = usize::from((0..numbers).find(|index| is(*index))?);
        (index < self.virtuals.len()).then_some(index)
    }

    pub fn with_pin(mut self, pin: u8) -> Self {
        self.bytes[0x3d] = pin;
        self
    }

    pub fn with_child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub fn multifunction(mut self) -> Self {
        self.bytes[0x0e] |= 0x80;
        self
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.bytes[0x0e] & 0x7f == 1
    }

    pub(super) fn power_on(&mut self) {
        self.reset_bytes = self.bytes.clone();
        self.children.iter_mut().for_each(Self::power_on);
        self.virtuals.iter_mut().for_each(Self::power_on);
    }

    pub(super) fn reset(&mut self) {
        self.bytes = self.reset_bytes.clone();
        self.resets += 1;
        self.pending_retries = self.retries;
        self.dead = self.dies;
        self.children.iter_mut().for_each(Self::reset);
        self.virtuals.iter_mut().for_each(Self::reset);
    }

    pub(super) fn write(&mut self, offset: usize, len: usize, value: u32) {
        let before = self.bytes.clone();
        for (index, byte) in value.to_le_bytes().into_iter().take(len).enumerate() {
            let (old, mask) = (
                &mut self.bytes[offset + index],
                self.writable[offset + index],
            );
            *old = *old & !mask | byte & mask;
        }
        let touched = |at: u16| (offset..offset + len).contains(&usize::from(at));
        let bit = |bytes: &[u8], at: u16, bit: u8| bytes[usize::from(at)] >> bit & 1 != 0;
        if let Some(express) = self.express
            && bit(&before, express + 7, 4)
            && touched(express + 9)
            && bit(&self.bytes, express + 9, 7)
        {
            self.reset();
        }
        if let Some(af) = self.advanced_features
            && touched(af + 4)
            && value & 1 != 0
        {
            self.reset();
        }
        if let Some(power) = self.power
            && before[usize::from(power) + 4] & 3 == 3
            && self.bytes[usize::from(power) + 4] & 0xb == 0
        {
            self.reset();
        }
        if self.is_bridge() && !bit(&before, 0x3e, 6) && bit(&self.bytes, 0x3e, 6) {
            self.children.iter_mut().for_each(Self::reset);
        }
    }
}
