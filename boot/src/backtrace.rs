//! Who called whom, by the chain of frame records (AAPCS64 6.4.6; System V ABI for x86-64, 3.2.2), with names if the bundle has a symbol table.

use crate::image;
use arch::{area, exceptions};
use core::arch::asm;
use core::fmt::Write;
use kernel::bundle::Bundle;
use kernel::symbols::Symbols;
use spin::once::Once;

/// So many bytes before the address that it returns to is in a call.
#[cfg(target_arch = "aarch64")]
const CALL: u64 = 4;
#[cfg(target_arch = "x86_64")]
const CALL: u64 = 1;

/// Most callers that are printed.
const LIMIT: usize = 48;

static SYMBOLS: Once<Symbols<'static>> = Once::new();

/// Takes the names from `bundle`, if it holds some.
pub fn use_symbols_of(bundle: &'static [u8]) {
    let table = Bundle::parse(bundle)
        .ok()
        .and_then(|bundle| bundle.symbols());
    if let Some(symbols) = table.and_then(Symbols::parse) {
        SYMBOLS.call_once(|| symbols);
    }
}

/// Prints how this CPU came here, or to the exception that it ends with.
pub fn print(out: &mut impl Write) {
    let (mut record, mut depth) = match exceptions::fatal_frame() {
        Some(frame) => {
            line(out, 0, frame.pc(), frame.pc());
            (frame.frame_pointer(), 1)
        }
        None => (frame_pointer(), 0),
    };
    let stacks = area::stacks(area::current());
    while depth < LIMIT {
        // A record is two words on a stack of this CPU; anything else is not followed.
        let inside = |stack: &core::ops::Range<u64>| {
            stack.start <= record && record.checked_add(16).is_some_and(|end| end <= stack.end)
        };
        if !record.is_multiple_of(8) || !stacks.iter().any(inside) {
            break;
        }
        let words: *const u64 = core::ptr::with_exposed_provenance(record as usize);
        // SAFETY: aligned, and on a mapped stack of this CPU, checked above.
        let [caller, back] = unsafe { words.cast::<[u64; 2]>().read() };
        if back == 0 {
            break;
        }
        // The call is the instruction before the one that is returned to.
        line(out, depth, back, back.wrapping_sub(CALL));
        depth += 1;
        // Stacks grow down, so callers' records are at higher addresses: the chain ends.
        if caller <= record {
            break;
        }
        record = caller;
    }
}

fn line(out: &mut impl Write, depth: usize, address: u64, instruction: u64) {
    let _ = write!(out, "#{depth} {address:#x}");
    let text = image::text();
    if text.contains(&instruction) {
        let offset = instruction - text.start;
        let name = u32::try_from(offset)
            .ok()
            .and_then(|offset| SYMBOLS.get()?.find(offset));
        let _ = match name {
            Some((name, into)) => write!(out, " {name}+{into:#x}"),
            None => write!(out, " image+{offset:#x}"),
        };
    }
    let _ = writeln!(out);
}

#[inline(always)]
fn frame_pointer() -> u64 {
    let record;
    // SAFETY: reads a register.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("mov {}, x29", out(reg) record, options(nomem, nostack, preserves_flags))
    };
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov {}, rbp", out(reg) record, options(nomem, nostack, preserves_flags))
    };
    record
}
