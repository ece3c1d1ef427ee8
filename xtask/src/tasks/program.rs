//! The hypervisor for x86_64 as one bootable file: its ELF program, with the bundle in its last segment, and that as an
//! application of UEFI.

use super::build;
use anyhow::{Context, Result, anyhow, ensure};
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::write::pe::{NtHeaders, Writer};
use object::{LittleEndian, Object, ObjectSymbol, pe};

/// Where the bundle lies once it is loaded: behind a page that starts with its length, all of a segment of its own.
const START: &str = "__bundle_start";
const PAGE: usize = 4096;
/// Offsets in the file's header: where section headers are, and their number with the number of that of their names (System V
/// ABI, chapter 4).
const E_SHOFF: usize = 40;
const E_SHNUM: usize = 60;
const SECTION_HEADER: usize = 64;
/// Offsets of fields in a program header, and its length (System V ABI, chapter 5).
const P_OFFSET: usize = 8;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;
const PROGRAM_HEADER: usize = 56;

/// `program` with `bundle` at its end, in the segment that its linker script keeps for it. Of its sections only the first is left, which is
/// none: GRUB takes no program that says it has to be relocated, and no program without sections.
pub fn join(mut program: Vec<u8>, bundle: &[u8]) -> Result<Vec<u8>> {
    let header = bundle_header(&program)?;
    program.truncate(end_of_segments(&program)?);
    program.resize(program.len().next_multiple_of(PAGE), 0);
    let offset = program.len() as u64;
    program.extend_from_slice(&(bundle.len() as u64).to_le_bytes());
    program.resize(program.len().next_multiple_of(PAGE), 0);
    program.extend_from_slice(bundle);
    let len = program.len() as u64 - offset;
    program.resize(program.len().next_multiple_of(8), 0);
    let sections = program.len() as u64;
    program.resize(program.len() + SECTION_HEADER, 0);
    let mut put = |at: usize, value: &[u8]| {
        let field = program.get_mut(at..at + value.len());
        field
            .context("headers outside of the file")?
            .copy_from_slice(value);
        anyhow::Ok(())
    };
    for (field, value) in [(P_OFFSET, offset), (P_FILESZ, len), (P_MEMSZ, len)] {
        put(header + field, &value.to_le_bytes())?;
    }
    put(E_SHOFF, &sections.to_le_bytes())?;
    put(E_SHNUM, &[1, 0, 0, 0])?;
    Ok(program)
}

/// Where in the file the last segment ends.
fn end_of_segments(program: &[u8]) -> Result<usize> {
    let parsed = ElfFile64::<LittleEndian>::parse(program).context("no 64-bit ELF file")?;
    let endian = parsed.endian();
    let headers = parsed.elf_header().program_headers(endian, program)?;
    let ends = headers.iter().map(|header| {
        let (offset, len) = header.file_range(endian);
        offset.saturating_add(len)
    });
    Ok(usize::try_from(ends.max().context("no segments")?)?)
}

/// `program`, with or without a bundle, as an application of UEFI (Microsoft PE Format): all of its memory, of which firmware may
/// run the text and write the rest. It relocates itself.
pub fn application(program: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(program).context("no 64-bit ELF file")?;
    let endian = header.endian()?;
    let text = header
        .program_headers(endian, program)?
        .iter()
        .find(|header| header.p_type(endian) == elf::PT_LOAD)
        .context("no segment")?;
    ensure!(
        text.p_flags(endian).0 & elf::PF_X.0 != 0,
        "the first segment is not the text"
    );
    let entry = header.e_entry(endian).checked_sub(text.p_paddr(endian));
    let entry = u32::try_from(entry.context("it is entered before its text")?)?;
    let memory = build::flatten(program)?;
    let (text, rest) = memory
        .split_at_checked(usize::try_from(text.p_memsz(endian))?)
        .context("the text is longer than the image")?;
    let mut file = Vec::new();
    let mut writer = Writer::new(true, PAGE as u32, PAGE as u32, &mut file);
    writer.reserve_dos_header();
    writer.reserve_nt_headers(DIRECTORIES);
    writer.reserve_section_headers(2);
    let text_at = writer.reserve_text_section(u32::try_from(text.len())?);
    let rest_len = u32::try_from(rest.len())?;
    let rest_at = writer.reserve_data_section(rest_len, rest_len);
    ensure!(
        text_at.virtual_address as usize + text.len() == rest_at.virtual_address as usize,
        "the text does not end on a page"
    );
    let written = |error| anyhow!("{error}");
    writer.write_empty_dos_header().map_err(written)?;
    writer.write_nt_headers(NtHeaders {
        machine: pe::IMAGE_FILE_MACHINE_AMD64,
        time_date_stamp: 0,
        characteristics: pe::IMAGE_FILE_EXECUTABLE_IMAGE
            | pe::IMAGE_FILE_LINE_NUMS_STRIPPED
            | pe::IMAGE_FILE_DEBUG_STRIPPED
            | pe::IMAGE_FILE_LARGE_ADDRESS_AWARE,
        major_linker_version: 0,
        minor_linker_version: 0,
        address_of_entry_point: text_at.virtual_address + entry,
        image_base: 0,
        major_operating_system_version: 0,
        minor_operating_system_version: 0,
        major_image_version: 0,
        minor_image_version: 0,
        major_subsystem_version: 0,
        minor_subsystem_version: 0,
        subsystem: pe::IMAGE_SUBSYSTEM_EFI_APPLICATION,
        dll_characteristics: pe::DllFlags(0),
        size_of_stack_reserve: 0,
        size_of_stack_commit: 0,
        size_of_heap_reserve: 0,
        size_of_heap_commit: 0,
    });
    writer.write_section_headers();
    writer.write_section(text_at.file_offset, text);
    writer.write_section(rest_at.file_offset, rest);
    Ok(file)
}

/// Directories of a PE header that loaders expect, all of them empty.
const DIRECTORIES: usize = 6;

/// Where in the file the program header of the bundle's segment is.
fn bundle_header(program: &[u8]) -> Result<usize> {
    let parsed = ElfFile64::<LittleEndian>::parse(program).context("no 64-bit ELF file")?;
    let endian = parsed.endian();
    let start = parsed
        .symbols()
        .find(|symbol| symbol.name() == Ok(START))
        .with_context(|| format!("no symbol {START}"))?
        .address();
    let headers = parsed.elf_header().program_headers(endian, program)?;
    let index = headers
        .iter()
        .position(|header| {
            header.p_type(endian) == elf::PT_LOAD
                && header.p_memsz(endian) == PAGE as u64
                && header.p_paddr(endian).checked_add(PAGE as u64) == Some(start)
        })
        .context("no segment of one page before the bundle")?;
    let first = usize::try_from(parsed.elf_header().e_phoff.get(endian))?;
    Ok(first + index * PROGRAM_HEADER)
}
