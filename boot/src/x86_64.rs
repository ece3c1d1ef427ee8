//! What happens between the first instruction and the kernel, in order.

use crate::layout::Layout;
use crate::loader::{self, Handover, LoaderError};
use crate::{backtrace, console, deny, efi, heap, image, layout, root_pointer};
use alloc::vec::Vec;
use arch::memory::FramePool;
use arch::mmio::MmioPool;
use arch::x86_64::memory::Window;
use arch::x86_64::mmio::DeviceMap;
use arch::x86_64::mmu::{self, HostMap, Kind};
use arch::x86_64::uart16550::Uart16550;
use arch::x86_64::{apic, area, clock, cpu, exceptions, pic, power, smp, timer};
use boot::acpi_tables;
use boot::spans;
use core::arch::global_asm;
use core::ops::Range;
use iommu::addr::{Hpa, Span};
use kernel::Start;
use kernel::boot_info::BootInfo;
use kernel::gather::{Gather, Grow};

global_asm!(
    include_str!("x86_64.S"),
    stack_end = const area::STACK_END,
    cr0 = const mmu::CR0,
    cr4 = const mmu::CR4,
    efer = const mmu::EFER,
    pvh = const loader::PVH,
    uefi = const loader::UEFI,
    efi_main = sym efi::efi_main,
    main = sym boot_main,
);

/// Free RAM.
static FRAMES: FramePool = FramePool::new(Window::identity());

/// Below it are the BIOS's data and tables, and the page where other CPUs start: nobody's to use.
const LOW_MEMORY: u64 = 1 << 20;

/// The first serial port of a PC.
const COM1: u16 = 0x3f8;

/// Entered from `x86_64.S` in 64-bit mode, on the stack of the boot area, with the first 4 GiB mapped.
///
/// # Safety
/// `start` is what EBX was for the way in that `how` names (see [`loader`]); what it leads to is never written.
unsafe extern "C" fn boot_main(start: u32, how: u32) -> ! {
    // SAFETY: the CPU that boots, once; the boot area is its own.
    unsafe {
        exceptions::init();
        exceptions::adopt(image::area(), 0);
    }
    // SAFETY: the caller's promise.
    let loader = unsafe { Loader::read(start, how) };
    let tables = loader.as_ref().map(|loader| {
        // SAFETY: firmware's tables are below 4 GiB, mapped, until they have been read.
        unsafe { root_pointer::find(loader.rsdp() as usize) }
    });
    let denied = match &tables {
        Ok(Ok(tables)) => deny::all_dma(tables.dmar),
        // Said below, where there is a console.
        _ => Ok(deny::Denied::default()),
    };
    // SAFETY: a serial port, or nothing, which swallows what is written.
    unsafe { console::init(COM1) };
    let whole = image::whole();
    console::line(format_args!(
        "Sluice {} on x86_64, {} KiB at {:#x}",
        env!("CARGO_PKG_VERSION"),
        (whole.end - whole.start) >> 10,
        whole.start
    ));
    if how != loader::UEFI {
        // SAFETY: nothing was allocated yet.
        unsafe { heap::init_early() };
    }
    let bundle = image::bundle();
    backtrace::use_symbols_of(bundle);
    let (loader, tables) = match (&loader, &tables) {
        (Ok(loader), Ok(Ok(tables))) => (loader, tables),
        (Err(error), _) => panic!("{error}"),
        (_, Ok(Err(error))) => panic!("{error}"),
        (_, Err(error)) => panic!("{error}"),
    };
    let denied = denied.unwrap_or_else(|error| panic!("cannot stop DMA: {error}"));
    let mut boot_info = match acpi_tables::parse_pc(tables) {
        Ok(boot_info) => boot_info,
        Err(error) => panic!("{error}"),
    };
    if !denied.units.are(&boot_info.dmar.vtds) {
        panic!("the DMAR table has other units than at the start");
    }
    let (memory, mut reserved) = loader.memory();
    boot_info.memory = spans::merge(memory);
    let low = |span: &Span<Hpa>| {
        span.base.0 <= smp::TRAMPOLINE.start && smp::TRAMPOLINE.end <= span.base.0 + span.len
    };
    if !boot_info.memory.iter().any(low) {
        panic!("no RAM at {:#x}", smp::TRAMPOLINE.start);
    }
    reserved.add_all([Span::<Hpa>::new(Hpa(0), LOW_MEMORY)].into_iter().flatten());
    boot_info.reserved = spans::merge(reserved);
    // Without a unit that says otherwise, messages reach the CPUs with the first 255 IDs in either mode.
    let narrow = denied.narrow || boot_info.dmar.xapic_only;
    if narrow && boot_info.cpus.iter().all(|cpu| cpu.id < 255) {
        apic::stay_narrow();
    }
    use_fixed_hardware(&boot_info);
    report(&boot_info);

    let plan = match plan(&boot_info) {
        Ok(plan) => plan,
        Err(error) => panic!("memory: {error}"),
    };
    image::report(&plan, boot_info.cpus.len());
    // SAFETY: the page is RAM, checked above, below what `plan` gives away; the initial map has it writable.
    unsafe { smp::place_trampoline() };
    let map = activate_map(&plan);
    // SAFETY: once; `plan` set the range aside, and it is mapped by now.
    unsafe { heap::init_main(plan.heap) };
    for range in plan.free {
        // SAFETY: RAM that `plan` left to nobody, mapped for reading and writing.
        unsafe { FRAMES.add(range) };
    }
    // SAFETY: `plan` set the areas aside, and their guard pages are the holes in its map, which has the trampoline too.
    unsafe { smp::provide_areas(plan.areas, boot_info.cpus.len()) };
    let boot_cpu = boot_info
        .cpus
        .iter()
        .position(|other| other.id == u64::from(cpu::id()))
        .unwrap_or_else(|| panic!("CPU {:#x} is not one of firmware's", cpu::id()));
    cpu::set_index(boot_cpu);
    pic::mask();
    apic::init();
    timer::calibrate();

    let ram = boot_info.memory.iter().map(range).gather();
    let denied_ns = (!boot_info.dmar.vtds.is_empty()).then(|| clock::ns(denied.at));
    console::drain();
    // SAFETY: a serial port, or nothing.
    let uart = unsafe { Uart16550::new(COM1) };
    #[cfg(feature = "trial")]
    crate::trial::run(&FRAMES);
    kernel::start(Start {
        boot_info,
        boot_cpu,
        frames: &FRAMES,
        mmio: MmioPool::new(DeviceMap::new(map), ram),
        uart,
        heap_in_use: heap::in_use,
        denied_ns,
        bundle,
    })
}

/// Who started us, and what it said.
enum Loader {
    Handover(Handover),
    Uefi(efi::Found),
}

impl Loader {
    /// # Safety
    /// As for [`boot_main`].
    unsafe fn read(start: u32, how: u32) -> Result<Self, LoaderError> {
        match how {
            loader::UEFI => efi::take().map(Self::Uefi).ok_or(LoaderError::Magic),
            // SAFETY: the caller's promise; the initial map has the first 4 GiB.
            _ => unsafe { Handover::read(how, start.into()) }.map(Self::Handover),
        }
    }

    fn rsdp(&self) -> u64 {
        match self {
            Self::Handover(handover) => handover.rsdp,
            Self::Uefi(found) => found.rsdp,
        }
    }

    /// RAM, and what of it is firmware's.
    fn memory(&self) -> (Vec<Span<Hpa>>, Vec<Span<Hpa>>) {
        match self {
            Self::Handover(handover) => (handover.memory(), Vec::new()),
            Self::Uefi(found) => (found.memory.clone(), found.reserved.clone()),
        }
    }
}

/// The clock, and the machine's power.
fn use_fixed_hardware(info: &BootInfo) {
    let Some(fixed) = info.fixed else { return };
    // SAFETY: what firmware's tables say.
    unsafe {
        power::init(power::Registers {
            control: match fixed.soft_off {
                Some(_) => fixed.control,
                None => [0; 2],
            },
            sleep_type: fixed.soft_off.unwrap_or_default(),
            reset: fixed.reset,
        });
    }
    if !fixed.timer.is_some_and(clock::calibrate) {
        console::line(format_args!(
            "no power management timer that runs: the TSC's rate is unknown"
        ));
    }
    if fixed.rtc {
        clock::set_date();
    }
}

/// What was found.
fn report(info: &BootInfo) {
    let bytes: u64 = info.memory.iter().map(|span| span.len).sum();
    console::line(format_args!("machine: {}", info.model));
    console::line(format_args!(
        "{} CPUs, {} MiB of RAM, {} I/O APICs, TSC at {} kHz{}",
        info.cpus.len(),
        bytes >> 20,
        info.io_apics.len(),
        clock::frequency() / 1000,
        match clock::is_steady() {
            true => "",
            false => " (not said to be steady)",
        }
    ));
}

fn plan(boot_info: &BootInfo) -> Result<Layout, layout::LayoutError> {
    let memory: Vec<_> = boot_info.memory.iter().map(range).gather();
    let mut unmapped: Vec<_> = boot_info.reserved.iter().map(range).gather();
    unmapped.push(image::whole());
    layout::plan(&memory, &unmapped, &[], boot_info.cpus.len())
}

/// The final map: each part of the image with its own permissions, and RAM.
fn activate_map(plan: &Layout) -> HostMap {
    let mut parts = Vec::new();
    parts.push((image::text(), Kind::Text));
    parts.push((image::constants(), Kind::Constant));
    parts.push((image::data(), Kind::Data));
    parts.add_all(area::stacks(image::area()).map(|stack| (stack, Kind::Data)));
    parts.push((image::bundle_segment(), Kind::Constant));
    parts.push((smp::TRAMPOLINE, Kind::Text));
    parts.add_all(apic::registers().map(|page| (page..page + 0x1000, Kind::Device)));
    parts.add_all(plan.ram.iter().map(|ram| (ram.clone(), Kind::Data)));
    let ranges: Vec<_> = parts.iter().map(|(range, _)| range.clone()).gather();
    // The rest is for devices that are found later.
    let mut map = HostMap::new(32 + HostMap::tables_for(&ranges));
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

fn range(span: &Span<Hpa>) -> Range<u64> {
    span.base.0..span.base.0 + span.len
}
