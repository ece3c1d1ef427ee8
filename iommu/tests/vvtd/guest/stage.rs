//! What the guest's driver writes: descriptors, and tables.

use super::{GuestRam, RW, TABLES};

pub const CONTEXTS_ALL: [u64; 2] = [0x11, 0];
pub const PASIDS_ALL: [u64; 2] = [0x37, 0];
pub const IOTLB_ALL: [u64; 2] = [0x12, 0];

pub fn context_of(source: u16) -> [u64; 2] {
    [0x31 | u64::from(source) << 32, 0]
}

pub fn domain(domain: u16) -> [u64; 2] {
    [0x22 | u64::from(domain) << 16, 0]
}

pub fn pages(domain: u16, first: u64, log2: u64) -> [u64; 2] {
    [0x32 | u64::from(domain) << 16, first | log2]
}

/// A second stage that the guest builds from [`TABLES`] on, with its tables handed out in turn.
pub struct Stage {
    pub root: u64,
    levels: u32,
    next: u64,
    /// Bits of a link.
    link: u64,
}

impl Stage {
    /// The `nth` stage has its tables in a MiB of its own.
    pub fn new(nth: u64, levels: u32) -> Self {
        let root = TABLES + nth * 0x10_0000;
        Self {
            root,
            levels,
            next: root + 0x1000,
            link: RW,
        }
    }

    /// A first stage.
    pub fn first(nth: u64) -> Self {
        Self {
            link: 7,
            ..Self::new(nth, 4)
        }
    }

    /// Where the entry of `iova` at `height` is.
    pub fn slot(&mut self, memory: &GuestRam, iova: u64, height: u32) -> u64 {
        let mut table = self.root;
        let mut at = self.levels - 1;
        loop {
            let slot = table + (iova >> (12 + 9 * at) & 0x1ff) * 8;
            if at == height {
                return slot;
            }
            let entry = memory.load(slot);
            if entry & 1 == 0 {
                memory.store(slot, self.next | self.link);
                table = self.next;
                self.next += 0x1000;
            } else {
                table = entry & !0xfff;
            }
            at -= 1;
        }
    }

    /// Sets the entry of a page of 4 KiB.
    pub fn set(&mut self, memory: &GuestRam, iova: u64, entry: u64) {
        let slot = self.slot(memory, iova, 0);
        memory.store(slot, entry);
    }
}
