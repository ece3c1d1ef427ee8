//! The hypervisor for x86_64 as one bootable file: its ELF program, with the bundle in its last segment.

use anyhow::{Context, Result};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol, elf};

/// Where the bundle lies once it is loaded: behind a page that starts with its length, all of a segment of its own.
const START: &str = "__bundle_start";
const PAGE: usize = 4096;
/// Offsets of fields in a program header, and its length (System V ABI, chapter 5).
const P_OFFSET: usize = 8;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;
const PROGRAM_HEADER: usize = 56;

/// `program` with `bundle` at its end, in the segment that its linker script keeps for it.
pub fn join(mut program: Vec<u8>, bundle: &[u8]) -> Result<Vec<u8>> {
    let header = bundle_header(&program)?;
    program.resize(program.len().next_multiple_of(PAGE), 0);
    let offset = program.len() as u64;
    program.extend_from_slice(&(bundle.len() as u64).to_le_bytes());
    program.resize(program.len().next_multiple_of(PAGE), 0);
    program.extend_from_slice(bundle);
    let len = program.len() as u64 - offset;
    for (field, value) in [(P_OFFSET, offset), (P_FILESZ, len), (P_MEMSZ, len)] {
        program
            .get_mut(header + field..header + field + 8)
            .context("program headers outside of the file")?
            .copy_from_slice(&value.to_le_bytes());
    }
    Ok(program)
}

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
