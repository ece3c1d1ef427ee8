//! PVH: Xen's direct boot of 32-bit protected mode (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).

use super::program::entry_point;
use super::{CODE_32, COMMAND_LINE, Guest, INFORMATION, Layout, PAGE, Record, Refused, Start};
use crate::guest_map::x86_64::ACPI;

const MAGIC: u32 = 0x336e_c578;
/// The first one with a memory map.
const VERSION: u32 = 1;
/// Offsets in the page of `hvm_start_info`.
const MODULE: u64 = 64;
const MAP: u64 = 128;

pub(super) fn start<'a>(
    entry: u64,
    guest: &Guest<'a>,
    layout: &mut Layout<'a>,
) -> Result<Start, Refused> {
    let eip = entry_point(entry, layout)?;
    let mut page = Record::new(PAGE as usize);
    if !guest.initrd.is_empty() {
        let at = layout.put_high(guest.initrd, u64::MAX)?;
        page.put(12, 1u32.to_le_bytes());
        page.put(16, (INFORMATION.0 + MODULE).to_le_bytes());
        page.put(MODULE as usize, at.0.to_le_bytes());
        page.put(
            MODULE as usize + 8,
            (guest.initrd.len() as u64).to_le_bytes(),
        );
    }
    let map = layout.map();
    if MAP + 24 * map.len() as u64 > PAGE {
        return Err(Refused::Memory);
    }
    page.put(0, MAGIC.to_le_bytes());
    page.put(4, VERSION.to_le_bytes());
    page.put(24, COMMAND_LINE.0.to_le_bytes());
    page.put(32, ACPI.base.0.to_le_bytes());
    page.put(40, (INFORMATION.0 + MAP).to_le_bytes());
    page.put(48, (map.len() as u32).to_le_bytes());
    for (index, (span, kind)) in map.iter().enumerate() {
        let at = MAP as usize + 24 * index;
        page.put(at, span.base.0.to_le_bytes());
        page.put(at + 8, span.len.to_le_bytes());
        page.put(at + 16, (*kind as u32).to_le_bytes());
    }
    layout.low(INFORMATION, page.0);
    layout.gdt(CODE_32);
    Ok(Start::Protected {
        eip,
        eax: 0,
        ebx: INFORMATION.0 as u32,
    })
}
