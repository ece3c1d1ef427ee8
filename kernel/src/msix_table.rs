//! A function's MSI-X table that its guest has no mapping of: what the guest writes is kept beside it, and what the device
//! has is what its unit remaps (VT-d, 5.1.5). The rest of the pages around it is the guest's.

use crate::lock::Mutex;
use crate::pci::FunctionInfo;
use crate::vdev::msi::Msi;
use crate::vdev::vpci::msix::{ENTRY, MessageTable};
use arch::mmio::{MmioError, MmioPool, MmioRegion};
use core::ops::Range;
use iommu::addr::PAGE_SIZE;
use iommu::vtd::interrupt_remap::Message;

/// See the module's description.
pub struct MsixTable {
    bar: u8,
    /// The pages that it is in, as offsets in the BAR.
    pages: Range<u64>,
    /// The table, as offsets in the BAR.
    entries: Range<u64>,
    /// What the guest has written.
    wanted: Mutex<MessageTable>,
    registers: MmioRegion,
}

impl MsixTable {
    /// That of `info`, if it has one.
    ///
    /// # Errors
    /// Somebody has the pages around it.
    pub fn new(info: &FunctionInfo, mmio: &mut MmioPool) -> Result<Option<Self>, MmioError> {
        let place = info.capabilities.msix.and_then(|msix| {
            let host = info.bars[usize::from(msix.table.bar)]?.host_span()?;
            Some((msix, host))
        });
        let Some((msix, host)) = place else {
            return Ok(None);
        };
        let start = u64::from(msix.table.offset);
        let entries = start..start + u64::from(msix.vectors) * ENTRY;
        let pages = start & !(PAGE_SIZE - 1)..entries.end.next_multiple_of(PAGE_SIZE);
        let registers = mmio.take(host.base.0 + pages.start, pages.end - pages.start)?;
        Ok(Some(Self {
            bar: msix.table.bar,
            pages,
            entries,
            wanted: Mutex::new(MessageTable::new(msix.vectors)),
            registers,
        }))
    }

    /// The pages of BAR `bar` that guests have no mapping of, as offsets in it.
    pub fn trapped(&self, bar: u8) -> Option<Range<u64>> {
        (self.bar == bar).then(|| self.pages.clone())
    }

    /// A load from there.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        if self.entries.contains(&offset) {
            return self.wanted.lock().read(offset - self.entries.start, size);
        }
        let at = (offset - self.pages.start) as usize;
        match size {
            1 => self.registers.read8(at).into(),
            2 if at.is_multiple_of(2) => self.registers.read16(at).into(),
            4 if at.is_multiple_of(4) => self.registers.read32(at).into(),
            8 if at.is_multiple_of(8) => self.registers.read64(at),
            _ => !0,
        }
    }

    /// A store to there. The function has `count` entries at its unit, from `first` on.
    pub fn write(&self, offset: u64, size: u8, value: u64, first: u16, count: usize) {
        if self.entries.contains(&offset) {
            let mut wanted = self.wanted.lock();
            let at = offset - self.entries.start;
            if let Some(entry) = wanted.write(at, size, value)
                && usize::from(entry) < count
            {
                // Under the lock, so that the last mask written is the one that the device has.
                self.program(entry, first + entry, wanted.is_masked(entry));
            }
            return;
        }
        let at = (offset - self.pages.start) as usize;
        match size {
            1 => self.registers.write8(at, value as u8),
            2 if at.is_multiple_of(2) => self.registers.write16(at, value as u16),
            4 if at.is_multiple_of(4) => self.registers.write32(at, value as u32),
            8 if at.is_multiple_of(8) => self.registers.write64(at, value),
            _ => {}
        }
    }

    /// The guest's is as after reset.
    pub fn forget(&self) {
        self.wanted.lock().reset();
    }

    /// What the guest wants of entry `number`.
    pub fn message(&self, number: u16) -> Option<Msi> {
        self.wanted.lock().message(number)
    }

    /// Has the device send the unit's `index` for its `entry`, or nothing. A device that was reset has lost both.
    fn program(&self, entry: u16, index: u16, masked: bool) {
        let Message { address, data } = Message::new(index);
        let at = (self.entries.start - self.pages.start) + u64::from(entry) * ENTRY;
        let words = [address, 0, data, u32::from(masked)];
        for (offset, word) in (at as usize..).step_by(4).zip(words) {
            self.registers.write32(offset, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MsixTable;
    use crate::pci::fake::FakeBus;
    use crate::pci::fixtures::{address, edu, enumerate, nvme, virt_host};
    use crate::vdev::msi::Msi;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;
    use arch::host::mmio::{Device, DeviceMap, Memory};
    use arch::mmio::MmioPool;

    /// Of the disk's table in its BAR, which has 65 entries.
    const TABLE: u64 = 0x2000;
    const END: u64 = TABLE + 65 * 16;
    /// Entries of the unit for it.
    const FIRST: u16 = 0x8010;
    const COUNT: usize = 4;

    /// The table of a disk, and the pages of its BAR from there on.
    fn table() -> (MsixTable, Arc<Memory>) {
        let mut bus = FakeBus::new(vec![(0, vec![nvme(1, 9), edu(2)])]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let disk = topology.find(address("00:01.0")).unwrap();
        let bar = disk.bars[0].unwrap().host.unwrap();
        let device = Arc::new(Memory::new(0x4000));
        let map = DeviceMap::default().with(bar.0, 0x4000, device.clone());
        let mut mmio = MmioPool::new(map, Vec::new());
        let table = MsixTable::new(disk, &mut mmio).unwrap().unwrap();
        assert!(MsixTable::new(disk, &mut mmio).is_err(), "they are taken");
        let other = topology.find(address("00:02.0")).unwrap();
        assert!(MsixTable::new(other, &mut mmio).unwrap().is_none());
        (table, device)
    }

    #[test]
    fn the_device_has_what_its_unit_remaps_and_the_guest_what_it_wrote() {
        let (table, device) = table();
        let entry = TABLE + 3 * 16;
        for (offset, value) in [(0, 0xfee0_1000), (4, 0), (8, 0x4061)] {
            table.write(entry + offset, 4, value, FIRST, COUNT);
            assert_eq!(device.read(entry + offset, 4), 0, "its mask is on");
        }
        table.write(entry + 12, 4, 0, FIRST, COUNT);
        // VT-d, 5.1.2.2: handle 14:0 in bits 19:5, format in 4, SHV in 3, handle 15 in 2.
        let index = u64::from(FIRST) + 3;
        let address = 0xfee0_0000 | (index & 0x7fff) << 5 | 1 << 4 | 1 << 3 | index >> 15 << 2;
        let words = [0, 4, 8, 12].map(|offset| device.read(entry + offset, 4));
        assert_eq!(words, [address, 0, 0, 0]);
        assert_eq!(table.read(entry, 8), 0xfee0_1000);
        assert_eq!(table.read(entry + 8, 8), 0x4061);
        let wanted = Msi {
            address: 0xfee0_1000,
            data: 0x4061,
        };
        assert_eq!(table.message(3), Some(wanted));
        // Masked again, by a store of both words.
        table.write(entry + 8, 8, 1 << 32 | 0x4062, FIRST, COUNT);
        assert_eq!(device.read(entry + 12, 4), 1);
        assert_eq!(device.read(entry, 4), address);
        table.forget();
        assert_eq!((table.read(entry, 8), table.read(entry + 12, 4)), (0, 1));
        assert_eq!(table.message(65), None);
    }

    #[test]
    fn an_entry_that_the_unit_has_none_for_is_the_guests_alone() {
        let (table, device) = table();
        let entry = TABLE + 16 * COUNT as u64;
        table.write(entry + 12, 4, 0, FIRST, COUNT);
        assert_eq!(table.read(entry + 12, 4), 0);
        for offset in (TABLE..END).step_by(8) {
            assert_eq!(device.read(offset, 8), 0, "{offset:x}");
        }
    }

    #[test]
    fn what_is_beside_the_table_is_the_devices_own() {
        let (table, device) = table();
        assert_eq!(table.trapped(0), Some(TABLE..TABLE + 0x1000));
        assert_eq!(table.trapped(1), None);
        let mut at = END;
        for size in [8, 4, 2, 1] {
            table.write(at, size, 0x1122_3344_5566_7788, FIRST, COUNT);
            let kept = 0x1122_3344_5566_7788 & (u64::MAX >> (64 - 8 * size));
            assert_eq!(device.read(at, size.into()), kept, "{size}");
            assert_eq!(table.read(at, size), kept, "{size}");
            at += 8;
        }
        // Where no access can be made as the guest made it.
        for (at, size) in [(END + 1, 2), (END + 2, 4), (END + 4, 8), (END, 3)] {
            table.write(at, size, 0, FIRST, COUNT);
            assert_eq!(table.read(at, size), !0);
        }
        assert_eq!(device.read(END, 8), 0x1122_3344_5566_7788);
    }
}
