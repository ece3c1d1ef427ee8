//! Who entered the image on x86_64, and what it says: PVH ([`pvh`]), Multiboot2 ([`multiboot2`]), or our own way through
//! UEFI, whose answers are in [`crate::efi`] by then.
//!
//! All of them lead to ACPI's root pointer, and to a list of what is RAM.

pub mod multiboot2;
pub mod pvh;

use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Hpa, Span};

/// `x86_64.S` says it when PVH's entry was taken.
pub const PVH: u32 = 0;
/// Likewise UEFI's; what is neither is the word that Multiboot2 has in EAX.
pub const UEFI: u32 = 1;

/// RAM in the memory maps of PVH (`XEN_HVM_MEMMAP_TYPE_RAM`) and Multiboot2 ("available").
const RAM: u32 = 1;
/// Most entries of a memory map that are looked at.
const MOST: usize = 512;
/// What the initial map holds.
const MAPPED: u64 = 1 << 32;

/// What a loader says.
#[derive(Debug)]
pub struct Handover {
    /// ACPI's root pointer.
    pub rsdp: u64,
    /// The memory map's entries: address, length, type.
    map: &'static [u8],
    /// Bytes of one of them.
    entry: usize,
}

/// Why it cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoaderError {
    /// It is not at an address below 4 GiB, or has another magic number.
    Magic,
    /// Version 0 of PVH has no memory map.
    Version(u32),
    /// The memory map is too long, or not below 4 GiB.
    Map,
    /// There is no root pointer.
    RootPointer,
}

impl fmt::Display for LoaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Magic => "magic number",
            Self::Version(version) => return write!(f, "start info is of version {version}"),
            Self::Map => "memory map",
            Self::RootPointer => "ACPI tables",
        };
        write!(
            f,
            "the loader gave no {what}: this image is entered by PVH, Multiboot2 or UEFI"
        )
    }
}

impl Handover {
    /// Reads what is at `at`, by whichever way `how` says that we came.
    ///
    /// # Safety
    /// All memory below 4 GiB is mapped at its own address, and neither the structure nor what it leads to is written.
    pub unsafe fn read(how: u32, at: u64) -> Result<Self, LoaderError> {
        match how {
            // SAFETY: the caller's promise.
            PVH => unsafe { pvh::read(at) },
            // SAFETY: as above.
            multiboot2::MAGIC => unsafe { multiboot2::read(at) },
            _ => Err(LoaderError::Magic),
        }
    }

    /// RAM, as the loader lists it; what wraps around is none.
    pub fn memory(&self) -> Vec<Span<Hpa>> {
        let mut memory = Vec::with_capacity(self.map.len() / self.entry);
        for entry in self.map.chunks_exact(self.entry) {
            let span = Span::<Hpa>::new(Hpa(u64_at(entry, 0)), u64_at(entry, 8));
            if u32_at(entry, 16) == RAM
                && let Some(span) = span
            {
                memory.push(span);
            }
        }
        memory
    }
}

/// The bytes at `at`, if they are in the initial map.
///
/// # Safety
/// All memory below 4 GiB is mapped at its own address; these bytes are not written for as long as the hypervisor runs.
unsafe fn bytes(at: u64, len: usize) -> Option<&'static [u8]> {
    let end = at.checked_add(len as u64)?;
    if at == 0 || end > MAPPED {
        return None;
    }
    let start = core::ptr::with_exposed_provenance(at as usize);
    // SAFETY: the caller's promise; in the first 4 GiB, checked.
    Some(unsafe { core::slice::from_raw_parts(start, len) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::{Handover, LoaderError};
    use iommu::addr::Hpa;

    #[test]
    fn only_ram_is_memory() {
        let entries: [[u64; 3]; 4] = [
            [0, 0x9_fc00, 1],
            [0xf_0000, 0x1_0000, 2],
            [0x10_0000, 0x3fee_0000, 1],
            [u64::MAX, 2, 1],
        ];
        for entry in [24, 32] {
            let mut map = Vec::new();
            for words in entries {
                let from = map.len();
                map.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                map.resize(from + entry, 0xff);
            }
            let handover = Handover {
                rsdp: 1,
                map: map.leak(),
                entry,
            };
            let found = handover.memory();
            let bases: Vec<_> = found.iter().map(|span| (span.base, span.len)).collect();
            assert_eq!(bases, [(Hpa(0), 0x9_fc00), (Hpa(0x10_0000), 0x3fee_0000)]);
        }
    }

    #[test]
    fn what_is_not_below_4_gib_is_not_read() {
        for how in [super::PVH, super::multiboot2::MAGIC] {
            for at in [0, (1 << 32) - 4, u64::MAX] {
                // SAFETY: nothing is read at any of them.
                let read = unsafe { Handover::read(how, at) };
                assert_eq!(read.unwrap_err(), LoaderError::Magic);
            }
        }
        // SAFETY: as above.
        let read = unsafe { Handover::read(0x2bad_b002, 0x1000) };
        assert_eq!(read.unwrap_err(), LoaderError::Magic);
    }
}
