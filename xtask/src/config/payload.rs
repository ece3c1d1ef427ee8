//! A small guest as an arm64 `Image`: its segments as they lie in memory, behind a page that holds the header. So the
//! hypervisor knows one form of guest.

use anyhow::{Context, Result, ensure};
use kernel::config::MEMORY_BLOCK;
use kernel::guest_map;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// The page before the first segment.
const HEADER_PAGE: u64 = 4096;
/// Largest guest, in bytes of memory.
const MOST: u64 = 64 << 20;

/// Makes an `Image` of an ELF file that is linked for guest RAM, at least one page behind its start.
pub fn image(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(elf).context("no 64-bit ELF file")?;
    let endian = header.endian().context("not little-endian")?;
    let loads: Vec<_> = header
        .program_headers(endian, elf)
        .context("no program headers")?
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD && segment.p_memsz(endian) != 0)
        .collect();
    let ends = loads
        .iter()
        .map(|segment| segment.p_paddr(endian).checked_add(segment.p_memsz(endian)));
    let end = ends
        .collect::<Option<Vec<u64>>>()
        .context("a segment wraps around")?
        .into_iter()
        .max()
        .context("no loadable segment")?;
    let first = loads.iter().map(|segment| segment.p_paddr(endian)).min();
    let first = first.unwrap_or_default() & !(HEADER_PAGE - 1);
    let base = first.saturating_sub(HEADER_PAGE);
    ensure!(
        (guest_map::RAM.0..guest_map::RAM.0 + MEMORY_BLOCK).contains(&base),
        "linked at {first:#x}, not in the first 2 MiB of guest RAM behind its first page"
    );
    ensure!(end - base <= MOST, "{} bytes large", end - base);
    let mut image = vec![0; usize::try_from(end - base)?];
    for segment in loads {
        let data = segment.data(endian, elf).ok().context("a segment is cut")?;
        let at = usize::try_from(segment.p_paddr(endian) - base)?;
        let place = image
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..data.len()));
        place.context("a segment is cut")?.copy_from_slice(data);
    }
    let entry = header.e_entry(endian).checked_sub(base);
    let entry = entry.filter(|entry| (HEADER_PAGE..end - base).contains(entry) && entry % 4 == 0);
    let entry = entry.context("its entry is not in a segment")?;
    // `b entry` (Arm ARM C6.2.26): imm26 in words.
    let branch = 0x1400_0000 | u32::try_from(entry / 4)?;
    image[..4].copy_from_slice(&branch.to_le_bytes());
    image[8..16].copy_from_slice(&(base - guest_map::RAM.0).to_le_bytes());
    image[16..24].copy_from_slice(&(end - base).to_le_bytes());
    // Little-endian, 4 KiB pages (Linux booting.rst, "flags").
    image[24..32].copy_from_slice(&2u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    Ok(image)
}
