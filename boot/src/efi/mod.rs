//! What happens while UEFI still runs: firmware's tables are read or found, its memory map is taken, and it is left. After that
//! the way is the one of every other boot; [`take`] has what was found. [`machine`] is what each architecture does of that.
//!
//! Sections are those of the UEFI Specification 2.10.

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod machine;

pub use machine::Found;

use crate::heap;
use alloc::vec;
use alloc::vec::Vec;
use boot::spans::merge;
use core::fmt::{self, Write};
use core::ptr::NonNull;
use iommu::addr::{Hpa, Span};
use r_efi::efi::{self, Guid, Handle, MemoryDescriptor, Status, SystemTable};
use spin::mutex::SpinMutex;

/// Room for firmware's memory map, in bytes: some hundred descriptors.
const MAP_BYTES: usize = 64 << 10;
/// Firmware may have changed its map between the question and the leaving; once is what §7.4.6 expects.
const ATTEMPTS: usize = 4;
/// Memory that may be cached (§7.2.3).
const WRITE_BACK: u64 = 8;

/// What was found.
static FOUND: SpinMutex<Option<Found>> = SpinMutex::new(None);

/// What UEFI described, if it was UEFI that started us; once.
pub fn take() -> Option<Found> {
    FOUND.lock().take()
}

/// Why the application ends.
enum Refusal {
    Machine(machine::Refusal),
    Firmware(Status),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(refusal) => write!(f, "{refusal}"),
            Self::Firmware(status) => write!(f, "firmware says {:#x}", status.as_usize()),
        }
    }
}

/// Entered from `aarch64.S` or `x86_64.S` in the relocated copy of the image. On success firmware is gone; any other status is for it.
///
/// # Safety
/// `handle` and `system` are those that firmware gave to the application, which is in its map and on its stack.
pub unsafe extern "C" fn efi_main(handle: Handle, system: *mut SystemTable) -> Status {
    // SAFETY: first of all, and once: a failure ends the application.
    unsafe { heap::init_early() };
    // SAFETY: the caller's promise.
    match unsafe { leave(handle, system) } {
        Ok(found) => {
            *FOUND.lock() = Some(found);
            Status::SUCCESS
        }
        Err(refusal) => {
            // SAFETY: the caller's promise; after a failure firmware still runs.
            let mut console = Console(unsafe { (*system).con_out });
            let _ = write!(console, "Sluice: {refusal}.\r\n");
            Status::UNSUPPORTED
        }
    }
}

/// Reads what firmware says, and leaves it.
///
/// # Safety
/// As for [`efi_main`].
unsafe fn leave(handle: Handle, system: *mut SystemTable) -> Result<Found, Refusal> {
    // SAFETY: the caller's promise.
    let described = unsafe { machine::describe(system) }.map_err(Refusal::Machine)?;
    // SAFETY: the caller's promise.
    let (usable, reserved) = unsafe { exit(handle, system)? };
    Ok(machine::complete(described, merge(usable), merge(reserved)))
}

/// §4.6.
///
/// # Safety
/// As for [`efi_main`].
unsafe fn configuration_table(system: *mut SystemTable, guid: Guid) -> Option<NonNull<u8>> {
    // SAFETY: the caller's promise.
    let (first, count) = unsafe {
        (
            (*system).configuration_table,
            (*system).number_of_table_entries,
        )
    };
    (0..count).find_map(|index| {
        // SAFETY: firmware says that there are `count` entries.
        let entry = unsafe { first.add(index).read() };
        let found = entry.vendor_guid == guid;
        NonNull::new(entry.vendor_table.cast()).filter(|_| found)
    })
}

/// Takes the memory map and leaves firmware (§7.2.3, §7.4.6): what is RAM, and which part of that stays firmware's.
///
/// # Safety
/// As for [`efi_main`].
#[allow(clippy::type_complexity, reason = "two lists")]
unsafe fn exit(
    handle: Handle,
    system: *mut SystemTable,
) -> Result<(Vec<Span<Hpa>>, Vec<Span<Hpa>>), Refusal> {
    // Allocated first: between the map and the leaving firmware must not be asked for anything else.
    let mut map = vec![0u64; MAP_BYTES / 8];
    // SAFETY: the caller's promise.
    let services = unsafe { &*(*system).boot_services };
    let mut status = Status::SUCCESS;
    for _ in 0..ATTEMPTS {
        let (mut len, mut key, mut stride, mut version) = (MAP_BYTES, 0, 0, 0);
        // SAFETY: `map` has `len` bytes, aligned for descriptors.
        status = unsafe {
            (services.get_memory_map)(
                &mut len,
                map.as_mut_ptr().cast(),
                &mut key,
                &mut stride,
                &mut version,
            )
        };
        if status != Status::SUCCESS {
            break;
        }
        // SAFETY: `key` is that of the newest map.
        status = unsafe { (services.exit_boot_services)(handle, key) };
        if status == Status::SUCCESS {
            return Ok(spans(&map[..len / 8], stride / 8));
        }
    }
    Err(Refusal::Firmware(status))
}

/// What the descriptors of `stride` words say.
fn spans(map: &[u64], stride: usize) -> (Vec<Span<Hpa>>, Vec<Span<Hpa>>) {
    let (mut memory, mut reserved) = (Vec::new(), Vec::new());
    let words = size_of::<MemoryDescriptor>() / 8;
    for descriptor in map.chunks_exact(stride.max(words)) {
        let &[kind, base, _, pages, attributes, ..] = descriptor else {
            continue;
        };
        let len = pages.saturating_mul(4096);
        let Some(span) = Span::<Hpa>::new(Hpa(base), len) else {
            continue;
        };
        match kind as u32 {
            _ if attributes & WRITE_BACK == 0 => {}
            efi::LOADER_CODE
            | efi::LOADER_DATA
            | efi::BOOT_SERVICES_CODE
            | efi::BOOT_SERVICES_DATA
            | efi::CONVENTIONAL_MEMORY
            // What was in the tables is in `BootInfo` by now.
            | efi::ACPI_RECLAIM_MEMORY => memory.push(span),
            efi::RUNTIME_SERVICES_CODE
            | efi::RUNTIME_SERVICES_DATA
            | efi::ACPI_MEMORY_NVS => {
                memory.push(span);
                reserved.push(span);
            }
            _ => {}
        }
    }
    (memory, reserved)
}

/// Firmware's console, for as long as there is firmware.
struct Console(*mut efi::protocols::simple_text_output::Protocol);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let protocol = NonNull::new(self.0).ok_or(fmt::Error)?;
        for unit in text.encode_utf16() {
            let mut text = [unit, 0];
            // SAFETY: firmware's own protocol, and a string that ends with zero.
            let _ = unsafe {
                ((*protocol.as_ptr()).output_string)(protocol.as_ptr(), text.as_mut_ptr())
            };
        }
        Ok(())
    }
}
