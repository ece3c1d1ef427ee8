//! Device registers: who owns which, and how they are read and written.
//!
//! [`MmioPool`] is the whole device address space. It gives each byte out once, so a [`MmioRegion`] is the only way to
//! its registers: a driver that holds one needs no lock against strangers and no unsafe code.

use crate::machine::mmio::{Access, DeviceMap};
use alloc::vec::Vec;
use core::ops::Range;

/// The registers of one device, owned.
///
/// An access outside of it, or not naturally aligned, is the caller's bug and panics.
#[derive(Debug)]
pub struct MmioRegion {
    base: u64,
    len: u64,
    access: Access,
}

macro_rules! accessors {
    ($read:ident, $write:ident, $word:ty) => {
        #[doc = concat!("Reads a `", stringify!($word), "` at byte `offset` with one load.")]
        #[track_caller]
        pub fn $read(&self, offset: usize) -> $word {
            self.check(offset, size_of::<$word>());
            self.access.$read(self.base, offset)
        }

        #[doc = concat!("Writes a `", stringify!($word), "` at byte `offset` with one store.")]
        #[track_caller]
        pub fn $write(&self, offset: usize, value: $word) {
            self.check(offset, size_of::<$word>());
            self.access.$write(self.base, offset, value);
        }
    };
}

impl MmioRegion {
    /// A region over `access`. Only the machine modules can make an [`Access`], and they state what it promises.
    pub(crate) fn new(base: u64, len: u64, access: Access) -> Self {
        Self { base, len, access }
    }

    /// Physical address of its first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    accessors!(read8, write8, u8);
    accessors!(read16, write16, u16);
    accessors!(read32, write32, u32);
    accessors!(read64, write64, u64);

    /// Cuts it in two: the first has `offset` bytes. Panics past the end.
    #[track_caller]
    pub fn split_at(self, offset: u64) -> (Self, Self) {
        assert!(offset <= self.len, "split outside of the region");
        let rest = Self {
            base: self.base + offset,
            len: self.len - offset,
            access: self.access.at(offset),
        };
        let first = Self {
            len: offset,
            ..self
        };
        (first, rest)
    }

    /// Keeps `len` bytes at `offset`; the rest belongs to nobody from here on. Panics past the end.
    #[track_caller]
    pub fn sub(self, offset: u64, len: u64) -> Self {
        self.split_at(offset).1.split_at(len).0
    }

    /// `size` is a power of two.
    #[track_caller]
    #[inline(always)]
    fn check(&self, offset: usize, size: usize) {
        let offset = offset as u64;
        let end = offset.saturating_add(size as u64);
        if end > self.len || (offset | self.base) & (size as u64 - 1) != 0 {
            refuse(self.base, offset);
        }
    }
}

#[track_caller]
#[cold]
#[inline(never)]
fn refuse(base: u64, offset: u64) -> ! {
    panic!("register access outside of its region or misaligned: {base:#x} + {offset:#x}")
}

/// Why a region cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmioError {
    /// This address is in a region that is already taken.
    Overlap(u64),
    /// This address is RAM.
    Ram(u64),
    /// Empty, or past the physical addresses of the CPU; its base.
    Range(u64),
    /// No memory is left for the tables that map it.
    NoTable,
}

impl core::fmt::Display for MmioError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::Overlap(at) => ("taken already:", Some(at)),
            Self::Ram(at) => ("RAM:", Some(at)),
            Self::Range(base) => ("no such range at", Some(base)),
            Self::NoTable => ("no table left", None),
        };
        crate::text::write(f, what, value)
    }
}

/// All device address space of the machine.
#[derive(Debug)]
pub struct MmioPool {
    map: DeviceMap,
    ram: Vec<Range<u64>>,
    taken: Vec<Range<u64>>,
}

impl MmioPool {
    /// Device space behind `map`: everything that is not in `ram`.
    pub fn new(map: DeviceMap, ram: Vec<Range<u64>>) -> Self {
        Self {
            map,
            ram,
            taken: Vec::new(),
        }
    }

    /// Takes `[base, base + len)` out of the pool, mapped as device memory (Device-nGnRE, never executable).
    pub fn take(&mut self, base: u64, len: u64) -> Result<MmioRegion, MmioError> {
        self.check(base, len)?;
        let access = self.map.map(base, len)?;
        self.taken.push(base..base + len);
        Ok(MmioRegion::new(base, len, access))
    }

    /// Takes `[base, base + len)` out of the pool, for nobody to have here.
    pub fn reserve(&mut self, base: u64, len: u64) -> Result<(), MmioError> {
        self.check(base, len)?;
        self.taken.push(base..base + len);
        Ok(())
    }

    /// Whether the range can be taken.
    fn check(&self, base: u64, len: u64) -> Result<(), MmioError> {
        let end = base
            .checked_add(len)
            .filter(|&end| end > base && end <= self.map.end())
            .ok_or(MmioError::Range(base))?;
        let common = |range: &Range<u64>| {
            let first = range.start.max(base);
            (first < range.end.min(end)).then_some(first)
        };
        // A page is either RAM or device memory, never both: two attributes for one address is CONSTRAINED
        // UNPREDICTABLE (Arm ARM B2.11, mismatched memory attributes).
        let page = |range: &Range<u64>| (range.start & !0xfff)..((range.end + 0xfff) & !0xfff);
        if let Some(at) = self.ram.iter().map(page).find_map(|ram| common(&ram)) {
            return Err(MmioError::Ram(at));
        }
        match self.taken.iter().find_map(common) {
            Some(at) => Err(MmioError::Overlap(at)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MmioError, MmioPool, MmioRegion};
    use crate::host::mmio::DeviceMap;
    use alloc::vec::Vec;

    fn pool() -> MmioPool {
        let ram = 0x4000_0000..0x8000_0000;
        MmioPool::new(DeviceMap::default(), Vec::from([ram]))
    }

    #[test]
    fn a_byte_is_given_out_once() {
        let mut pool = pool();
        let region = pool.take(0x900_0000, 0x1000).unwrap();
        assert_eq!((region.base(), region.len()), (0x900_0000, 0x1000));
        assert_eq!(
            pool.take(0x8ff_f000, 0x1001).unwrap_err(),
            MmioError::Overlap(0x900_0000)
        );
        assert!(pool.take(0x8ff_f000, 0x1000).is_ok());
        assert!(pool.take(0x900_1000, 4).is_ok());
        // By nobody here, too.
        pool.reserve(0xa00_0000, 0x1000).unwrap();
        for taken in [0x900_0000, 0xa00_0000] {
            assert_eq!(pool.reserve(taken, 4), Err(MmioError::Overlap(taken)));
        }
        assert!(pool.take(0xa00_0ffc, 4).is_err());
        assert_eq!(
            pool.reserve(0x4000_0000, 4),
            Err(MmioError::Ram(0x4000_0000))
        );
    }

    #[test]
    fn ram_is_not_a_device() {
        let mut pool = pool();
        assert_eq!(
            pool.take(0x3fff_ff00, 0x200).unwrap_err(),
            MmioError::Ram(0x4000_0000)
        );
        assert!(pool.take(0x8000_0000, 0x1000).is_ok());
    }

    #[test]
    fn empty_and_wrapping_ranges_are_refused() {
        let mut pool = pool();
        assert_eq!(pool.take(8, 0).unwrap_err(), MmioError::Range(8));
        let top = u64::MAX - 0xfff;
        assert_eq!(pool.take(top, 0x2000).unwrap_err(), MmioError::Range(top));
    }

    #[test]
    fn the_parts_of_a_split_are_where_they_were() {
        let region = MmioRegion::memory(0x1000, 0x2000);
        region.write32(0x1004, 0x1234_5678);
        let (first, second) = region.split_at(0x1000);
        assert_eq!((first.base(), first.len()), (0x1000, 0x1000));
        assert_eq!((second.base(), second.len()), (0x2000, 0x1000));
        assert_eq!(second.read32(4), 0x1234_5678);
        assert_eq!(second.sub(4, 4).read16(2), 0x1234);
    }

    #[test]
    #[should_panic(expected = "outside of its region")]
    fn the_end_of_a_region_is_its_end() {
        MmioRegion::memory(0x1000, 0x1000).read32(0x1000);
    }

    #[test]
    #[should_panic(expected = "misaligned")]
    fn accesses_are_naturally_aligned() {
        MmioRegion::memory(0x1000, 0x1000).write64(4, 0);
    }
}
