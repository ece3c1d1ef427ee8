//! What a Multiboot2 loader says: tags (Multiboot2 Specification 2.0, §3.6), of which two matter: the memory map and a copy
//! of ACPI's root pointer.

use super::{Handover, LoaderError, MOST, bytes, u32_at};

/// In EAX when it enters us (§3.3).
pub const MAGIC: u32 = 0x36d7_6289;

/// Longest list of tags that is looked at, in bytes: GRUB has its map of UEFI's memory there too.
const LONGEST: usize = 64 << 10;
/// Bytes of the list's header, and of a tag's.
const HEADER: usize = 8;
/// Tags: the end, the memory map, the root pointer of ACPI 1.0, that of 2.0 and later (§3.6.8, §3.6.16, §3.6.17).
const END: u32 = 0;
const MEMORY_MAP: u32 = 6;
const OLD_POINTER: u32 = 14;
const POINTER: u32 = 15;
/// Bytes of an entry of the memory map, at least.
const ENTRY: usize = 24;

/// Reads what is at `at`.
///
/// # Safety
/// As for [`Handover::read`].
pub unsafe fn read(at: u64) -> Result<Handover, LoaderError> {
    // SAFETY: the caller's promise.
    let header = unsafe { bytes(at, HEADER) }.ok_or(LoaderError::Magic)?;
    let len = u32_at(header, 0) as usize;
    if !(HEADER..=LONGEST).contains(&len) {
        return Err(LoaderError::Magic);
    }
    // SAFETY: as above.
    let list = unsafe { bytes(at, len) }.ok_or(LoaderError::Magic)?;
    parse(list)
}

/// What the tags behind the header of `list` say.
fn parse(list: &'static [u8]) -> Result<Handover, LoaderError> {
    let (mut map, mut pointers) = (None, [None; 2]);
    let mut rest = list.get(HEADER..).unwrap_or_default();
    while rest.len() >= HEADER {
        let (kind, size) = (u32_at(rest, 0), u32_at(rest, 4) as usize);
        let tag = rest.get(HEADER..size);
        match (kind, tag) {
            (END, _) | (_, None) => break,
            (MEMORY_MAP, Some(tag)) => map = Some(tag),
            (OLD_POINTER, Some(tag)) => pointers[1] = Some(tag),
            (POINTER, Some(tag)) => pointers[0] = Some(tag),
            _ => {}
        }
        rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    let map = map.ok_or(LoaderError::Map)?;
    let entry = u32_at(map, 0) as usize;
    let map = map.get(HEADER..).unwrap_or_default();
    if entry < ENTRY || !entry.is_multiple_of(8) || !(1..=MOST).contains(&(map.len() / entry)) {
        return Err(LoaderError::Map);
    }
    let [new, old] = pointers;
    let pointer = new.or(old).ok_or(LoaderError::RootPointer)?;
    Ok(Handover {
        rsdp: pointer.as_ptr().expose_provenance() as u64,
        map,
        entry,
    })
}

#[cfg(test)]
mod tests {
    use super::{LoaderError, parse};

    fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut tag = kind.to_le_bytes().to_vec();
        tag.extend_from_slice(&(8 + body.len() as u32).to_le_bytes());
        tag.extend_from_slice(body);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    }

    fn list(tags: &[Vec<u8>]) -> &'static [u8] {
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(&tags.concat());
        bytes.leak()
    }

    fn map(entry: u32, entries: &[[u64; 3]]) -> Vec<u8> {
        let mut body = entry.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 4]);
        for words in entries {
            let from = body.len();
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            body.resize(from + entry as usize, 0);
        }
        tag(6, &body)
    }

    #[test]
    fn the_map_and_the_newer_pointer_are_taken() {
        let ram = map(24, &[[0, 0x9_f000, 1], [0x10_0000, 0x100_0000, 1]]);
        let list = list(&[
            tag(1, b"command line\0"),
            tag(14, b"RSD PTR old"),
            ram,
            tag(15, b"RSD PTR new"),
            tag(0, &[]),
            tag(14, b"behind the end"),
        ]);
        let found = parse(list).unwrap();
        let at = list.windows(11).position(|bytes| bytes == b"RSD PTR new");
        assert_eq!(found.rsdp, list.as_ptr().addr() as u64 + at.unwrap() as u64);
        assert_eq!(found.memory().len(), 2);
    }

    #[test]
    fn broken_lists_are_refused() {
        let ram = || map(24, &[[0, 0x1000, 1]]);
        let end = || tag(0, &[]);
        let refused = |tags: &[Vec<u8>]| parse(list(tags)).unwrap_err();
        assert_eq!(refused(&[ram(), end()]), LoaderError::RootPointer);
        assert_eq!(refused(&[tag(15, b"RSD"), end()]), LoaderError::Map);
        assert_eq!(refused(&[]), LoaderError::Map);
        for entry in [0, 16, 28] {
            let ram = map(entry, &[[0, 0x1000, 1]]);
            let ram = if entry == 0 { tag(6, &[0; 8]) } else { ram };
            assert_eq!(refused(&[ram, tag(15, b"RSD"), end()]), LoaderError::Map);
        }
        // A tag of no length would never end; one that is longer than the list is not read.
        for size in [0u32, 7, 4096] {
            let mut bad = tag(15, b"RSD PTR ");
            bad[4..8].copy_from_slice(&size.to_le_bytes());
            assert_eq!(refused(&[ram(), bad]), LoaderError::RootPointer);
        }
    }

    #[test]
    fn every_truncation_is_refused_or_sound() {
        let whole = list(&[
            map(24, &[[0, 0x1000, 1]]),
            tag(15, b"RSD PTR "),
            tag(0, &[]),
        ]);
        for len in 0..whole.len() {
            if let Ok(found) = parse(&whole[..len]) {
                assert_eq!(found.memory().len(), 1);
            }
        }
    }
}
