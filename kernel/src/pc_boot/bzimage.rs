//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, and zero-page.rst for the zero page).

use super::{
    CODE_64, COMMAND_LINE, Guest, HIGH, INFORMATION, Layout, PAGE, PAGE_TABLES, Record, Refused,
    Start, field,
};
use crate::guest_map::x86_64::ACPI;
use alloc::vec::Vec;
use iommu::addr::Gpa;

/// Offsets in the file and in the zero page alike.
mod offset {
    /// RSDP, 64 bits.
    pub const RSDP: usize = 0x070;
    /// Entries of the memory map, 8 bits.
    pub const E820_ENTRIES: usize = 0x1e8;
    /// The setup header starts.
    pub const HEADER: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const BOOT_FLAG: usize = 0x1fe;
    /// Where the header ends, less 0x202.
    pub const HEADER_LEN: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const RAMDISK: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const COMMAND_LINE: usize = 0x228;
    pub const RAMDISK_MAX: usize = 0x22c;
    pub const ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const COMMAND_LINE_SIZE: usize = 0x238;
    pub const PREFERRED: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// The header of protocol 2.12 ends.
    pub const END: usize = 0x264;
    /// Memory map: address, length, type.
    pub const E820: usize = 0x2d0;
}

/// Entries that the zero page has room for.
const E820_MAX: usize = 128;
const SECTOR: usize = 512;
/// Nobody's number for a boot loader.
const UNREGISTERED: u8 = 0xff;
const HAS_64_BIT_ENTRY: u16 = 1 << 0;
/// Of the 64-bit entry point in the loaded part.
const ENTRY: u64 = 0x200;

pub(super) fn start<'a>(
    kernel: &'a [u8],
    guest: &Guest<'a>,
    layout: &mut Layout<'a>,
) -> Result<Start, Refused> {
    let half = |at| field(kernel, at).map(u16::from_le_bytes);
    let word = |at| field(kernel, at).map(u32::from_le_bytes);
    if half(offset::BOOT_FLAG) != Ok(0xaa55) || field(kernel, offset::MAGIC) != Ok(*b"HdrS") {
        return Err(Refused::Magic);
    }
    let version = half(offset::VERSION)?;
    if version < 0x20c {
        return Err(Refused::Version(version));
    }
    if half(offset::XLOADFLAGS)? & HAS_64_BIT_ENTRY == 0 {
        return Err(Refused::No64Bit);
    }
    let header_end = 0x202 + usize::from(field::<1>(kernel, offset::HEADER_LEN)?[0]);
    let header = kernel
        .get(offset::HEADER..header_end)
        .ok_or(Refused::Short)?;
    if header_end < offset::END {
        return Err(Refused::Short);
    }
    let setup = match field::<1>(kernel, offset::HEADER)?[0] {
        // An old kernel's way to say 4.
        0 => 4,
        sectors => usize::from(sectors),
    };
    let loaded = kernel.get((setup + 1) * SECTOR..).ok_or(Refused::Short)?;
    let size = u64::from(word(offset::SYSSIZE)?) * 16;
    // It is rounded up to 16 bytes.
    if (loaded.len() as u64).next_multiple_of(16) < size || loaded.len() as u64 <= ENTRY {
        return Err(Refused::Short);
    }
    let most = word(offset::COMMAND_LINE_SIZE)? as usize;
    if guest.command_line.len() > most {
        return Err(Refused::CommandLine(guest.command_line.len()));
    }

    let needed = u64::from(word(offset::INIT_SIZE)?).max(loaded.len() as u64);
    let preferred = field(kernel, offset::PREFERRED).map(u64::from_le_bytes)?;
    let relocatable = field::<1>(kernel, offset::RELOCATABLE)?[0] != 0;
    let alignment = u64::from(word(offset::ALIGNMENT)?);
    let at = place(layout, preferred, needed, relocatable.then_some(alignment))?;
    layout.parts.push(super::Part {
        at,
        bytes: loaded.into(),
    });
    let initrd = if guest.initrd.is_empty() {
        Gpa(0)
    } else {
        let last = u64::from(word(offset::RAMDISK_MAX)?);
        layout.put_high(guest.initrd, last + 1)?
    };

    let mut zero_page = Record::new(PAGE as usize);
    zero_page.0[offset::HEADER..header_end].copy_from_slice(header);
    zero_page.put(offset::RSDP, ACPI.base.0.to_le_bytes());
    zero_page.put(offset::TYPE_OF_LOADER, [UNREGISTERED]);
    zero_page.put(offset::RAMDISK, (initrd.0 as u32).to_le_bytes());
    zero_page.put(
        offset::RAMDISK_SIZE,
        (guest.initrd.len() as u32).to_le_bytes(),
    );
    zero_page.put(offset::COMMAND_LINE, (COMMAND_LINE.0 as u32).to_le_bytes());
    let map = layout.map();
    if map.len() > E820_MAX {
        return Err(Refused::Memory);
    }
    zero_page.put(offset::E820_ENTRIES, [map.len() as u8]);
    for (index, (span, kind)) in map.iter().enumerate() {
        let at = offset::E820 + index * 20;
        zero_page.put(at, span.base.0.to_le_bytes());
        zero_page.put(at + 8, span.len.to_le_bytes());
        zero_page.put(at + 16, (*kind as u32).to_le_bytes());
    }
    layout.low(INFORMATION, zero_page.0);
    layout.gdt(CODE_64);
    layout.low(PAGE_TABLES, page_tables());
    Ok(Start::Long {
        rip: at.0 + ENTRY,
        rsi: INFORMATION.0,
        cr3: PAGE_TABLES.0,
    })
}

/// Where it wants to be, or else as low as it may.
fn place(
    layout: &mut Layout<'_>,
    preferred: u64,
    needed: u64,
    alignment: Option<u64>,
) -> Result<Gpa, Refused> {
    // What the page tables map.
    let end = preferred.checked_add(needed).filter(|&end| end <= 1 << 32);
    if preferred >= HIGH.0 && end.is_some() && layout.claim(Gpa(preferred), needed).is_ok() {
        return Ok(Gpa(preferred));
    }
    let alignment = alignment.filter(|alignment| alignment.is_power_of_two());
    let at = Gpa(HIGH.0.next_multiple_of(alignment.ok_or(Refused::Fixed)?));
    layout.claim(at, needed).map_err(|_| Refused::Fixed)?;
    Ok(at)
}

/// 4 GiB, each to itself, in pages of 2 MiB (SDM volume 3A, "4-Level Paging").
fn page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const ENTRIES: u64 = PAGE / 8;
    let directories = PAGE_TABLES.0 + 2 * PAGE;
    let mut words = alloc::vec![0; 2 * ENTRIES as usize];
    words[0] = (PAGE_TABLES.0 + PAGE) | PRESENT_WRITABLE;
    for directory in 0..4 {
        words[(ENTRIES + directory) as usize] = (directories + directory * PAGE) | PRESENT_WRITABLE;
    }
    words.extend((0..4 * ENTRIES).map(|page| page << 21 | LARGE | PRESENT_WRITABLE));
    words
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect()
}
