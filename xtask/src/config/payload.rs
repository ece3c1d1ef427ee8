//! A small guest as an arm64 `Image`: its segments as they lie in memory, behind a page that holds the header. So the
//! hypervisor knows one form of guest.

use anyhow::{Context, Result, ensure};
use kernel::config::MEMORY_BLOCK;
use kernel::guest_map;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;

/// The page before the first segment.
const HEADER_PAGE: u64 = 4096;
/// Largest guest, in bytes of memory.
const MOST: u64 = 64 << 20;

/// What is loaded where.
struct Segment<'f> {
    memory: Range<u64>,
    data: &'f [u8],
}

/// Makes an `Image` of an ELF file that is linked for guest RAM, one page behind its start.
pub fn image(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(elf).context("no 64-bit ELF file")?;
    let endian = header.endian().context("not little-endian")?;
    let segments = segments(elf, header, endian)?;
    let first = segments.iter().map(|s| s.memory.start).min();
    let first = first.context("no loadable segment")? & !(HEADER_PAGE - 1);
    let end = segments.iter().map(|s| s.memory.end).max().unwrap_or(first);
    let base = first.saturating_sub(HEADER_PAGE);
    ensure!(
        (guest_map::RAM.0..guest_map::RAM.0 + MEMORY_BLOCK).contains(&base),
        "linked at {first:#x}, not in the first 2 MiB of guest RAM behind its first page"
    );
    ensure!(end - base <= MOST, "{} bytes large", end - base);
    let mut image = vec![0; usize::try_from(end - base)?];
    for segment in segments {
        let at = usize::try_from(segment.memory.start - base)?;
        image[at..at + segment.data.len()].copy_from_slice(segment.data);
    }
    let entry = header.e_entry(endian).checked_sub(base);
    let entry = entry.filter(|entry| (HEADER_PAGE..end - base).contains(entry) && entry % 4 == 0);
    let entry = entry.context("its entry is not in a segment")?;
    // `b entry` (Arm ARM C6.2): imm26 in words.
    let branch = 0x1400_0000 | u32::try_from(entry / 4)?;
    image[..4].copy_from_slice(&branch.to_le_bytes());
    image[8..16].copy_from_slice(&(base - guest_map::RAM.0).to_le_bytes());
    image[16..24].copy_from_slice(&(end - base).to_le_bytes());
    // Little-endian, 4 KiB pages (Linux booting.rst, "flags").
    image[24..32].copy_from_slice(&2u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    Ok(image)
}

/// The loadable segments, without the file's own headers: linkers load them where there is room, nobody reads them.
fn segments<'f>(
    elf: &'f [u8],
    header: &FileHeader64<LittleEndian>,
    endian: LittleEndian,
) -> Result<Vec<Segment<'f>>> {
    let table = header
        .program_headers(endian, elf)
        .context("no program headers")?;
    let table_len = table.len() as u64 * u64::from(header.e_phentsize(endian));
    let headers = header.e_phoff(endian).saturating_add(table_len);
    let mut segments = Vec::new();
    for segment in table.iter().filter(|s| s.p_type(endian) == PT_LOAD) {
        let data = segment.data(endian, elf).ok().context("a segment is cut")?;
        let (start, len) = (segment.p_paddr(endian), segment.p_memsz(endian));
        let end = start.checked_add(len).context("a segment wraps around")?;
        ensure!(data.len() as u64 <= len, "a segment is cut");
        let skip = headers.saturating_sub(segment.p_offset(endian)).min(len);
        if skip < len {
            segments.push(Segment {
                memory: start + skip..end,
                data: data.get(usize::try_from(skip)?..).unwrap_or_default(),
            });
        }
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::config::ImageHeader;

    /// An ELF file with its headers loaded at `at`, and 16 bytes of code plus 4 KiB of bss one page behind.
    fn elf(at: u64, entry: u64) -> Vec<u8> {
        let mut file = vec![0; 0x1010];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..20].copy_from_slice(&[2, 0, 183, 0]);
        file[20] = 1;
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32] = 64;
        file[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
        let headers = [0, at, at, 64 + 2 * 56, 64 + 2 * 56, 0x1000];
        let code = [0x1000, at + 0x1000, at + 0x1000, 16, 0x1010, 0x1000];
        for (i, words) in [headers, code].into_iter().enumerate() {
            let record = &mut file[64 + i * 56..][..56];
            record[0] = 1;
            for (word, place) in words.iter().zip(record[8..].chunks_mut(8)) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        file[0x1000..].copy_from_slice(&[0xab; 16]);
        file
    }

    #[test]
    fn a_program_becomes_an_image_that_starts_at_its_entry() {
        let image = image(&elf(0x4000_0000, 0x4000_1008)).unwrap();
        assert_eq!(
            ImageHeader::parse(&image),
            Ok(ImageHeader {
                text_offset: 0,
                image_size: 0x2010
            })
        );
        assert_eq!(image.len(), 0x2010);
        // `b .+0x1008`, as an assembler writes it.
        assert_eq!(image[..4], [0x02, 0x04, 0x00, 0x14]);
        assert_eq!(image[0x1000..0x1010], [0xab; 16]);
        assert!(image[0x1010..].iter().all(|byte| *byte == 0));
        assert!(image[64..0x1000].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn programs_for_another_place_are_refused() {
        assert!(image(&elf(0x3fff_f000, 0x4000_0000)).is_err());
        assert!(image(&elf(0x8000_0000, 0x8000_1000)).is_err());
        assert!(image(&elf(u64::MAX - 0x1000, 0)).is_err());
        assert!(image(&elf(0x4000_0000, 0x4000_0000)).is_err());
        assert!(image(&elf(0x4000_0000, 0x4000_1002)).is_err());
        assert!(image(&elf(0x4000_0000, 0x4000_2010)).is_err());
    }

    #[test]
    fn every_cut_and_changed_byte_is_refused_or_accepted_without_a_panic() {
        let good = elf(0x4000_0000, 0x4000_1000);
        for len in 0..good.len() {
            let _ = image(&good[..len]);
        }
        for at in 0..64 + 2 * 56 {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = good.clone();
                changed[at] = byte;
                let _ = image(&changed);
            }
        }
    }
}
