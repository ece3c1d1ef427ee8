//! ELF programs: their segments, by physical address, and which protocol they know.

use super::{Guest, Layout, Refused, Start, multiboot, pvh};
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_INTERP, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use iommu::addr::Gpa;

/// Segments of one program at most.
const SEGMENTS_MAX: usize = 64;

pub(super) fn start<'a>(
    kernel: &'a [u8],
    guest: &Guest<'a>,
    layout: &mut Layout<'a>,
) -> Result<Start, Refused> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(kernel).map_err(|_| Refused::Elf)?;
    let machine = file.ehdr.e_machine;
    if ![EM_386, EM_X86_64].contains(&machine) || file.ehdr.e_type != ET_EXEC {
        return Err(Refused::Elf);
    }
    let segments = file.segments().ok_or(Refused::Elf)?;
    if segments.len() > SEGMENTS_MAX {
        return Err(Refused::Elf);
    }
    let mut entry = None;
    let mut pvh_entry = None;
    for segment in segments.iter() {
        match segment.p_type {
            PT_LOAD => {
                let bytes = file.segment_data(&segment).map_err(|_| Refused::Short)?;
                if segment.p_memsz < segment.p_filesz {
                    return Err(Refused::Elf);
                }
                let at = Gpa(segment.p_paddr);
                layout.claim(at, segment.p_memsz)?;
                if !bytes.is_empty() {
                    layout.parts.push(super::Part {
                        at,
                        bytes: bytes.into(),
                    });
                }
                // By where it is, not by where it will think it is.
                let offset = file.ehdr.e_entry.wrapping_sub(segment.p_vaddr);
                if offset < segment.p_memsz {
                    entry = Some(at.0 + offset);
                }
            }
            PT_NOTE => {
                let notes = file
                    .segment_data_as_notes(&segment)
                    .map_err(|_| Refused::Short)?;
                pvh_entry = pvh_entry.or(notes.filter_map(pvh_note).next());
            }
            PT_INTERP => return Err(Refused::Elf),
            _ => {}
        }
    }
    if let Some(entry) = pvh_entry {
        return pvh::start(entry, guest, layout);
    }
    let header = multiboot::header(kernel).ok_or(Refused::NoProtocol)?;
    let entry = entry.ok_or(Refused::Elf)?;
    multiboot::start(header, entry, guest, layout)
}

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen's public/elfnote.h).
fn pvh_note(note: Note<'_>) -> Option<u64> {
    const PHYS32_ENTRY: u64 = 18;
    let Note::Unknown(note) = note else {
        return None;
    };
    if note.n_type != PHYS32_ENTRY || note.name.strip_suffix(b"\0").unwrap_or(note.name) != b"Xen" {
        return None;
    }
    match *note.desc {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Some(u32::from_le_bytes([a, b, c, d]).into()),
        _ => None,
    }
}

/// A first instruction that protected mode reaches, in what was loaded.
pub(super) fn entry_point(entry: u64, layout: &Layout<'_>) -> Result<u32, Refused> {
    let inside = |part: &super::Part<'_>| {
        let offset = entry.wrapping_sub(part.at.0);
        part.at >= super::HIGH && offset < part.bytes.len() as u64
    };
    if !layout.parts.iter().any(inside) {
        return Err(Refused::Elf);
    }
    u32::try_from(entry).map_err(|_| Refused::Elf)
}
