//! What happens between the first instruction and the kernel, in order.

use crate::layout::Layout;
use crate::{backtrace, console, deny, early_map, efi, heap, image, layout};
use alloc::vec::Vec;
use arch::aarch64::memory::Window;
use arch::aarch64::mmio::DeviceMap;
use arch::aarch64::mmu::{self, El2Map, Kind};
use arch::aarch64::{area, cpu};
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use boot::fdt::{self, FdtError};
use core::arch::global_asm;
use core::ops::Range;
use kernel::Start;
use kernel::boot_info::{BootInfo, Devices, Uart};
use kernel::gather::{Gather, Grow};

global_asm!(
    include_str!("aarch64.S"),
    block = const early_map::NORMAL,
    next_table = sym early_map::NEXT_TABLE,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR_INITIAL,
    emergency_end = const area::EMERGENCY_END,
    stack_end = const area::STACK_END,
    main = sym boot_main,
    refuse = sym refuse_exception_level,
    efi_main = sym efi::efi_main,
);

/// Free RAM.
static FRAMES: FramePool = FramePool::new(Window::identity());

/// Entered from `aarch64.S` at EL2, on the stack of the boot area, with the initial map and caches on.
///
/// # Safety
/// There are `len` bytes of device tree at `tree`, mapped and never written; none if [`efi::efi_main`] came before.
unsafe extern "C" fn boot_main(tree: *const u8, len: usize) -> ! {
    // SAFETY: the caller's promise, and first of all.
    let (tree, by_efi) = unsafe { firmware(tree, len) };
    let denied = deny::all_dma(tree, by_efi.as_ref());
    let uart = early_console(tree, &by_efi, 2);
    let denied = denied.unwrap_or_else(|error| panic!("cannot stop DMA: {error}"));
    let whole = image::whole();
    console::line(format_args!(
        "Sluice {} at EL2, {} KiB at {:#x}",
        env!("CARGO_PKG_VERSION"),
        (whole.end - whole.start) >> 10,
        whole.start
    ));
    let bundle = image::bundle();
    backtrace::use_symbols_of(bundle);

    let boot_info = match by_efi.map_or_else(|| fdt::parse(tree), Ok) {
        Ok(boot_info) => boot_info,
        Err(error) => panic!("{error}"),
    };
    if !denied.smmus.are(&boot_info.smmus) {
        panic!("{}", FdtError::OtherSmmus);
    }
    console::line(format_args!("machine: {}", boot_info.model));
    let plan = match plan(&boot_info, tree) {
        Ok(plan) => plan,
        Err(error) => panic!("memory: {error}"),
    };
    image::report(&plan, boot_info.cpus.len());
    let map = activate_map(&plan, uart);
    // SAFETY: once; `plan` set the range aside, and it is mapped by now.
    unsafe { heap::init_main(plan.heap) };
    for range in plan.free {
        // SAFETY: RAM that `plan` left to nobody, mapped for reading and writing.
        unsafe { FRAMES.add(range) };
    }
    let cpus = boot_info.cpus.len();
    // SAFETY: `plan` set the areas aside, and their guard pages are the holes in its map.
    unsafe { cpu::provide_areas(plan.areas, cpus) };
    let boot_cpu = boot_info
        .cpus
        .iter()
        .position(|other| other.id == cpu::mpidr())
        .unwrap_or_else(|| panic!("CPU {:#x} is not one of firmware's", cpu::mpidr()));
    cpu::set_index(boot_cpu);

    let ram = boot_info.memory.iter().map(range).gather();
    kernel::start(Start {
        boot_info,
        boot_cpu,
        frames: &FRAMES,
        mmio: MmioPool::new(DeviceMap::new(map), ram),
        devices: Devices {
            tables: tree,
            // The same bytes were read before.
            read: |tree| fdt::devices(tree).unwrap_or_default(),
        },
        heap_in_use: heap::in_use,
        denied_ns: denied.at_ns,
        bundle,
    })
}

/// Entered from `aarch64.S` at any other exception level, or at an EL2 that is always a host's (`format` is 1 then, as
/// the translation tables are EL1's): says so, and stops.
///
/// # Safety
/// As for [`boot_main`].
unsafe extern "C" fn refuse_exception_level(
    tree: *const u8,
    len: usize,
    format: u64,
    level: u64,
) -> ! {
    // SAFETY: the caller's promise, and first of all.
    let (tree, by_efi) = unsafe { firmware(tree, len) };
    early_console(tree, &by_efi, format);
    if level == 2 {
        console::line(format_args!(
            "Sluice: this CPU has HCR_EL2.E2H = 1 for good (no FEAT_E2H0), and it runs with E2H = 0 only."
        ));
    } else {
        console::line(format_args!(
            "Sluice: entered at EL{level}, but it runs at EL2 only. Start it where a hypervisor may run \
             (QEMU: -machine virt,virtualization=on)."
        ));
    }
    cpu::halt()
}

/// The device tree, empty where there is none, or what UEFI said; and opens the early heap where that was not done yet.
///
/// # Safety
/// As for [`boot_main`]; once.
unsafe fn firmware(tree: *const u8, len: usize) -> (&'static [u8], Option<BootInfo>) {
    if len == 0 {
        return (&[], efi::take());
    }
    // SAFETY: nothing is allocated yet: `efi_main` was not there.
    unsafe { heap::init_early() };
    // SAFETY: the caller's promise.
    (unsafe { core::slice::from_raw_parts(tree, len) }, None)
}

/// The UART that firmware calls its console, ready for use.
fn early_console(tree: &[u8], by_efi: &Option<BootInfo>, level: u64) -> Option<Range<u64>> {
    let uart: Option<Uart> = match by_efi {
        Some(info) => info.uart,
        None => fdt::console(tree),
    };
    let uart = range(&uart?.registers);
    // SAFETY: the initial map is in use, and firmware says that there is a device.
    unsafe { early_map::map_device(uart.start, level) };
    // SAFETY: mapped now, and by `activate_map` later.
    unsafe { console::init(uart.start) };
    Some(uart)
}

fn plan(boot_info: &BootInfo, tree: &[u8]) -> Result<Layout, layout::LayoutError> {
    let tree = tree.as_ptr().addr() as u64..tree.as_ptr_range().end.addr() as u64;
    let memory: Vec<_> = boot_info.memory.iter().map(range).gather();
    let mut unmapped: Vec<_> = boot_info.reserved.iter().map(range).gather();
    unmapped.push(image::whole());
    layout::plan(&memory, &unmapped, &[tree], boot_info.cpus.len())
}

/// The final map: each part of the image with its own permissions, RAM, and the console.
fn activate_map(plan: &Layout, uart: Option<Range<u64>>) -> El2Map {
    // The image, the console and each range of RAM may each need two tables at both of their ends; the rest is for
    // devices that are found later.
    let mut map = El2Map::new(48 + 4 * plan.ram.len().min(24));
    let mut parts = Vec::new();
    parts.push((image::text(), Kind::Text));
    parts.push((image::constants(), Kind::Constant));
    parts.push((image::data(), Kind::Data));
    parts.add_all(area::stacks(image::area()).map(|stack| (stack, Kind::Data)));
    parts.push((image::bundle_range(), Kind::Constant));
    parts.add_all(plan.ram.iter().map(|ram| (ram.clone(), Kind::Data)));
    parts.add_all(uart.map(|uart| (uart, Kind::Device)));
    for (range, kind) in parts {
        if range.is_empty() {
            continue;
        }
        if let Err(error) = map.map(range.clone(), kind) {
            panic!(
                "{:#x}..{:#x} of the hypervisor's own map: {error}",
                range.start, range.end
            );
        }
    }
    // SAFETY: it maps text, constants, data and the stacks of the image as they are used; the heap is in its data.
    unsafe { map.activate() };
    map
}

fn range(span: &iommu::addr::Span<iommu::addr::Hpa>) -> Range<u64> {
    span.base.0..span.base.0 + span.len
}
