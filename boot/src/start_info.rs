//! What a PVH loader says: `hvm_start_info` (Xen's xen/include/public/arch-x86/hvm/start_info.h), version 1.

use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Hpa, Span};

const MAGIC: u32 = 0x336e_c578;
/// Bytes of version 1.
const LEN: usize = 56;
/// Bytes of an entry of the memory map.
const ENTRY: usize = 24;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;
/// Most entries that are looked at.
const MOST: u32 = 512;
/// What the initial map holds.
const MAPPED: u64 = 1 << 32;

/// See the module's description.
#[derive(Debug)]
pub struct StartInfo {
    /// ACPI's root pointer.
    pub rsdp: u64,
    /// The memory map's entries.
    map: &'static [u8],
}

/// Why it cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartInfoError {
    /// It is not at an address below 4 GiB, or has another magic number.
    Magic,
    /// Version 0 has no memory map.
    Version(u32),
    /// The memory map is too long, or not below 4 GiB.
    Map,
    /// There is no root pointer.
    RootPointer,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Magic => "magic number",
            Self::Version(version) => return write!(f, "start info is of version {version}"),
            Self::Map => "memory map",
            Self::RootPointer => "ACPI tables",
        };
        write!(f, "the loader gave no {what}: this image is entered by PVH")
    }
}

impl StartInfo {
    /// Reads what is at `at`.
    ///
    /// # Safety
    /// All memory below 4 GiB is mapped at its own address, and neither the structure nor its map is written.
    pub unsafe fn read(at: u64) -> Result<Self, StartInfoError> {
        let fits = |at: u64, len: usize| {
            let end = at.checked_add(len as u64);
            at != 0 && end.is_some_and(|end| end <= MAPPED)
        };
        if !fits(at, LEN) {
            return Err(StartInfoError::Magic);
        }
        // SAFETY: the caller's promise; in the first 4 GiB, checked.
        let bytes = unsafe { bytes(at, LEN) };
        let (rsdp, map, entries) = header(bytes)?;
        let len = entries as usize * ENTRY;
        if !fits(map, len) {
            return Err(StartInfoError::Map);
        }
        // SAFETY: as above.
        let map = unsafe { self::bytes(map, len) };
        Ok(Self { rsdp, map })
    }

    /// RAM, as the loader lists it.
    pub fn memory(&self) -> Vec<Span<Hpa>> {
        memory(self.map)
    }
}

/// # Safety
/// The bytes are mapped, and not written for as long as the hypervisor runs.
unsafe fn bytes(at: u64, len: usize) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(at as usize), len) }
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

/// The root pointer, where the memory map is, and how many entries it has.
fn header(bytes: &[u8]) -> Result<(u64, u64, u32), StartInfoError> {
    if u32_at(bytes, 0) != MAGIC {
        return Err(StartInfoError::Magic);
    }
    let version = u32_at(bytes, 4);
    if version < 1 {
        return Err(StartInfoError::Version(version));
    }
    let rsdp = u64_at(bytes, 32);
    if rsdp == 0 || rsdp >= MAPPED {
        return Err(StartInfoError::RootPointer);
    }
    match u32_at(bytes, 48) {
        entries @ 1..=MOST => Ok((rsdp, u64_at(bytes, 40), entries)),
        _ => Err(StartInfoError::Map),
    }
}

/// The RAM in a memory map; what wraps around is none.
fn memory(map: &[u8]) -> Vec<Span<Hpa>> {
    let (entries, _) = map.as_chunks::<ENTRY>();
    let mut memory = Vec::with_capacity(entries.len());
    for entry in entries {
        let span = Span::<Hpa>::new(Hpa(u64_at(entry, 0)), u64_at(entry, 8));
        if u32_at(entry, 16) == RAM
            && let Some(span) = span
        {
            memory.push(span);
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::{StartInfo, StartInfoError, header, memory};
    use iommu::addr::Hpa;

    /// As QEMU hands it over.
    fn words() -> [u64; 7] {
        [0x1_336e_c578, 0x1_0000_0000, 0x9000, 0, 0xf_5240, 0x8000, 9]
    }

    fn bytes(words: [u64; 7]) -> Vec<u8> {
        words.map(u64::to_le_bytes).concat()
    }

    #[test]
    fn a_header_says_where_tables_and_map_are() {
        assert_eq!(header(&bytes(words())), Ok((0xf_5240, 0x8000, 9)));
        let broken = |index: usize, value: u64| {
            let mut words = words();
            words[index] = value;
            header(&bytes(words)).unwrap_err()
        };
        assert_eq!(broken(0, 0x1_336e_c579), StartInfoError::Magic);
        assert_eq!(broken(0, 0x336e_c578), StartInfoError::Version(0));
        assert_eq!(broken(4, 0), StartInfoError::RootPointer);
        assert_eq!(broken(4, 1 << 32), StartInfoError::RootPointer);
        assert_eq!(broken(6, 0), StartInfoError::Map);
        assert_eq!(broken(6, 513), StartInfoError::Map);
        assert_eq!(header(&[]), Err(StartInfoError::Magic));
        // SAFETY: nothing is read at either address.
        let nowhere = unsafe { [StartInfo::read(0), StartInfo::read(u64::MAX)] };
        assert!(nowhere.iter().all(|read| read.is_err()));
    }

    #[test]
    fn only_ram_is_memory() {
        let entries: [[u64; 3]; 4] = [
            [0, 0x9_fc00, 1],
            [0xf_0000, 0x1_0000, 2],
            [0x10_0000, 0x3fee_0000, 1],
            [u64::MAX, 2, 1],
        ];
        let map = entries
            .as_flattened()
            .iter()
            .flat_map(|word| word.to_le_bytes());
        let map: Vec<u8> = map.collect();
        let found = memory(&map);
        let bases: Vec<_> = found.iter().map(|span| (span.base, span.len)).collect();
        assert_eq!(bases, [(Hpa(0), 0x9_fc00), (Hpa(0x10_0000), 0x3fee_0000)]);
    }
}
