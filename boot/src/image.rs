//! Where the parts of the image are.

use crate::console;
use crate::layout::{HEAP, Layout};
use arch::area;
#[cfg(target_arch = "aarch64")]
use core::arch::asm;
use core::ops::Range;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __early_heap: u8;
    static __data_end: u8;
    static __boot_area: u8;
    static __bundle_start: u8;
    #[cfg(target_arch = "x86_64")]
    static __bundle_len: u64;
}

/// Offset of `image_size` in the header of an arm64 Image.
#[cfg(target_arch = "aarch64")]
const IMAGE_SIZE: usize = 16;

/// Address of a symbol of the linker script. Those behind the early heap are farther away than the 1 MiB that compiled code
/// looks for symbols in, the tiny code model.
#[cfg(target_arch = "aarch64")]
macro_rules! address {
    ($symbol:ident) => {{
        let address: u64;
        // SAFETY: takes the address only.
        unsafe {
            asm!(
                "adrp {0}, {symbol}",
                "add {0}, {0}, :lo12:{symbol}",
                out(reg) address,
                symbol = sym $symbol,
                options(pure, nomem, nostack, preserves_flags)
            )
        };
        address
    }};
}

/// Address of a symbol of the linker script.
#[cfg(target_arch = "x86_64")]
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol).addr() as u64
    };
}

/// Instructions.
pub fn text() -> Range<u64> {
    address!(__image_start)..address!(__text_end)
}

/// Constants, relocated ones among them.
pub fn constants() -> Range<u64> {
    address!(__text_end)..address!(__rodata_end)
}

/// Statics.
pub fn data() -> Range<u64> {
    address!(__rodata_end)..address!(__data_end)
}

/// Memory of the heap in the image.
pub fn early_heap() -> Range<u64> {
    address!(__early_heap)..address!(__data_end)
}

/// The area of the CPU that boots.
pub fn area() -> u64 {
    address!(__boot_area)
}

/// All of it, with the bundle.
pub fn whole() -> Range<u64> {
    address!(__image_start)..bundle_range().end
}

/// The bundle, empty if nothing was appended.
#[cfg(target_arch = "x86_64")]
pub fn bundle_range() -> Range<u64> {
    // SAFETY: the linker script has a word there, which is never written once the image runs.
    let len = unsafe { (&raw const __bundle_len).read_volatile() };
    let start = address!(__bundle_start);
    start..start + len
}

/// The bundle, and before it the page that says how long it is.
#[cfg(target_arch = "x86_64")]
pub fn bundle_segment() -> Range<u64> {
    address!(__bundle_len)..bundle_range().end
}

/// The bundle, empty if nothing was appended.
#[cfg(target_arch = "aarch64")]
pub fn bundle_range() -> Range<u64> {
    let header = (&raw const __image_start).wrapping_add(IMAGE_SIZE);
    // SAFETY: the header starts the image and is aligned; it is never written once the image runs.
    let size = unsafe { header.cast::<u64>().read() };
    let start = address!(__bundle_start);
    start..(address!(__image_start) + u64::from_le(size)).max(start)
}

/// What is in the bundle.
pub fn bundle() -> &'static [u8] {
    let range = bundle_range();
    let start = core::ptr::with_exposed_provenance(range.start as usize);
    // SAFETY: the boot protocol has all of it in memory; they are mapped, read-only, and never written.
    unsafe { core::slice::from_raw_parts(start, (range.end - range.start) as usize) }
}

/// Says where everything is.
pub fn report(plan: &Layout, cpus: usize) {
    let (text, constants, data) = (text(), constants(), data());
    console::line(format_args!(
        "image: text {:#x}+{:#x}, constants {:#x}+{:#x}, data {:#x}+{:#x}, ends at {:#x}",
        text.start,
        text.end - text.start,
        constants.start,
        constants.end - constants.start,
        data.start,
        data.end - data.start,
        bundle_range().start
    ));
    console::line(format_args!(
        "heap at {:#x}+{HEAP:#x}, stacks at {:#x}+{:#x}",
        plan.heap,
        plan.areas,
        cpus as u64 * area::SIZE
    ));
}
