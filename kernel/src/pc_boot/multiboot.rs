//! Multiboot 1 (Multiboot Specification 0.6.96), for ELF programs.

use super::program::entry_point;
use super::{
    CODE_32, COMMAND_LINE, Guest, HIGH, INFORMATION, Kind, Layout, PAGE, Record, Refused, Start,
    field,
};
use crate::guest_map::x86_64::CONVENTIONAL_END;

/// §3.1.1.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// §3.1: the header is in the first 8192 bytes, at a multiple of four.
const SEARCHED: usize = 8192;
/// §3.1.1: modules at pages, memory information. All else that is required is refused, video modes among it; addresses in
/// the header (bit 16) are for files that are not ELF.
const KNOWN: u32 = 0b11;
const REQUIRED: u32 = 0xffff | 1 << 16;
/// §3.2: EAX.
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// §3.3: what of the information is there.
mod has {
    pub const MEMORY: u32 = 1 << 0;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MAP: u32 = 1 << 6;
    pub const NAME: u32 = 1 << 9;
}

const MODULE: u64 = 128;
const NAME: u64 = 144;
const MAP: u64 = 160;

/// Flags of the header, if there is one.
pub(super) fn header(kernel: &[u8]) -> Option<u32> {
    let searched = &kernel[..kernel.len().min(SEARCHED)];
    (0..searched.len()).step_by(4).find_map(|at| {
        let word = |at| field(searched, at).map(u32::from_le_bytes).ok();
        let (magic, flags, checksum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == HEADER_MAGIC && sum == 0).then_some(flags)
    })
}

pub(super) fn start<'a>(
    flags: u32,
    entry: u64,
    guest: &Guest<'a>,
    layout: &mut Layout<'a>,
) -> Result<Start, Refused> {
    if flags & REQUIRED & !KNOWN != 0 {
        return Err(Refused::Multiboot(flags));
    }
    let eip = entry_point(entry, layout)?;
    let mut page = Record::new(PAGE as usize);
    let put = |page: &mut Record, at: u64, value: u64| {
        page.put(at as usize, (value as u32).to_le_bytes())
    };
    let mut flags = has::MEMORY | has::COMMAND_LINE | has::MAP | has::NAME;
    if !guest.initrd.is_empty() {
        let at = layout.put_high(guest.initrd, u64::MAX)?;
        flags |= has::MODULES;
        put(&mut page, 20, 1);
        put(&mut page, 24, INFORMATION.0 + MODULE);
        put(&mut page, MODULE, at.0);
        put(&mut page, MODULE + 4, at.0 + guest.initrd.len() as u64);
    }
    let map = layout.map();
    let map_len = 24 * map.len() as u64;
    if MAP + map_len > PAGE {
        return Err(Refused::Memory);
    }
    put(&mut page, 0, flags.into());
    // In KiB: below 640 KiB, and what follows 1 MiB without a hole.
    put(&mut page, 4, CONVENTIONAL_END.0 >> 10);
    let upper = map
        .iter()
        .find(|(span, kind)| span.base == HIGH && *kind == Kind::Ram);
    put(&mut page, 8, upper.map_or(0, |(span, _)| span.len >> 10));
    put(&mut page, 16, COMMAND_LINE.0);
    put(&mut page, 44, map_len);
    put(&mut page, 48, INFORMATION.0 + MAP);
    put(&mut page, 64, INFORMATION.0 + NAME);
    page.put(NAME as usize, *b"Sluice\0");
    for (index, (span, kind)) in map.iter().enumerate() {
        // Its size does not count itself.
        let at = MAP + 24 * index as u64;
        put(&mut page, at, 20);
        page.put(at as usize + 4, span.base.0.to_le_bytes());
        page.put(at as usize + 12, span.len.to_le_bytes());
        put(&mut page, at + 20, *kind as u64);
    }
    layout.low(INFORMATION, page.0);
    layout.gdt(CODE_32);
    Ok(Start::Protected {
        eip,
        eax: LOADER_MAGIC,
        ebx: INFORMATION.0 as u32,
    })
}
