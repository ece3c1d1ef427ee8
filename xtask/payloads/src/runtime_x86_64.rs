//! Entry, console, clock and power of a small guest on x86_64, started by PVH. One CPU, no interrupts but those that a
//! scenario asks for.

use crate::checks::Checks;
use crate::tree::{Region, Tree};
use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// First address of the window for BARs (kernel::guest_map::x86_64::PCI_WINDOW).
pub const PCI_WINDOW: u64 = 0xc000_0000;
/// ECAM (kernel::guest_map::x86_64::ECAM).
const ECAM: Region = Region {
    base: 0xe000_0000,
    len: 0x0100_0000,
};
/// What no DMA may reach by default: I/O APIC, a VT-d unit, ECAM.
pub const DEVICES: [u64; 3] = [0xfec0_0000, 0xfed9_0000, 0xe000_0000];

global_asm!(
    include_str!("../x86_64/src/entry.S"),
    main = sym start_here,
    interrupt = sym interrupt,
);

unsafe extern "Rust" {
    /// The scenario: [`entry`].
    safe fn payload_main(start: u64) -> !;
}

/// Says which function the scenario is.
#[macro_export]
macro_rules! scenario {
    ($main:ident) => {
        #[unsafe(no_mangle)]
        fn payload_main(start: u64) -> ! {
            $main(start, 0, 0, 0)
        }
    };
}
pub use scenario as entry;

extern "C" fn start_here(start: u32) -> ! {
    payload_main(start.into())
}

unsafe extern "C" {
    fn payload_interrupt();
}

static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

/// x2APIC: IA32_APIC_BASE with EXTD, spurious vector with the APIC on, end of interrupt.
const APIC_BASE: u32 = 0x1b;
const EXTD: u64 = 1 << 10;
const SVR: u32 = 0x80f;
const ON: u64 = 0x1ff;
const EOI: u32 = 0x80b;

extern "C" fn interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    wrmsr(EOI, 0);
}

fn wrmsr(msr: u32, value: u64) {
    // SAFETY: registers of this guest's own interrupt controller.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as for `wrmsr`.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Counts interrupts of every vector from 32 on, in [`while_interrupted`].
pub fn count_interrupts() {
    for vector in 32..=255 {
        set_gate(vector, payload_interrupt as *const ());
    }
    load_gates();
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | EXTD);
    wrmsr(SVR, ON);
}

/// Has `handler` take `vector`, from [`load_gates`] on.
pub fn set_gate(vector: u8, handler: *const ()) {
    let handler = handler as u64;
    let low = (handler & 0xffff) | 8 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    // SAFETY: one CPU; no handler that is in use changes.
    unsafe {
        (&raw mut IDT)
            .cast::<[u64; 2]>()
            .add(vector.into())
            .write([low, handler >> 32]);
    }
}

/// Has the CPU use them.
pub fn load_gates() {
    let pointer = Pointer {
        limit: 0xfff,
        base: (&raw const IDT).addr() as u64,
    };
    // SAFETY: the table is there as long as the guest runs.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}

/// Waits for `ms` with interrupts on; how many have come so far, in all.
pub fn while_interrupted(ms: u64) -> u64 {
    // SAFETY: `interrupt` is all that interrupts, and keeps every register.
    unsafe { asm!("sti") };
    sleep_ms(ms);
    // SAFETY: as above.
    unsafe { asm!("cli") };
    INTERRUPTS.load(Ordering::Relaxed)
}

/// COM1.
const UART: u16 = 0x3f8;
/// Line status register, with data ready in bit 0.
const LINE_STATUS: u16 = UART + 5;
/// Power management (FADT: sleep control, SLP_EN and \_S5's type; the reset register).
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0xcf9;
const OFF: u8 = 1 << 5 | 5 << 2;

fn out8(port: u16, value: u8) {
    // SAFETY: ports of this guest's own virtual devices.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as for `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// The console; every [`Console`] writes to the same port.
#[derive(Clone, Copy)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(UART, byte));
        Ok(())
    }
}

/// What a scenario starts with.
pub struct Guest {
    /// What it was given.
    pub tree: Tree<'static>,
    /// Its checks, printed on the console.
    pub checks: Checks<Console>,
}

/// Offsets in `hvm_start_info` of the command line, of ACPI's root pointer, and of the memory map with its length.
const COMMAND_LINE: usize = 24;
const RSDP: usize = 32;
const MAP: usize = 40;
const MAP_ENTRIES: usize = 48;
/// Longest command line that is looked at.
const LONGEST: usize = 1024;

/// Reads what PVH starts with, at `address` (EBX at entry).
pub fn start(address: u64) -> Guest {
    let word = |at: usize| {
        let place = core::ptr::with_exposed_provenance::<u64>(address as usize + at);
        // SAFETY: the boot protocol puts an `hvm_start_info` there, in our RAM; nobody writes it.
        unsafe { place.read_unaligned() }
    };
    let line = word(COMMAND_LINE) as usize;
    let text: &[u8] = match line {
        0 => &[],
        // SAFETY: as above; it ends with a zero, and RAM goes on for longer than what is looked at.
        line => unsafe {
            core::slice::from_raw_parts(core::ptr::with_exposed_provenance(line), LONGEST)
        },
    };
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (map, entries) = (
        word(MAP) as usize - address as usize,
        word(MAP_ENTRIES) as u32,
    );
    let mut memory: Option<Region> = None;
    for entry in 0..entries as usize {
        let (base, len) = (word(map + 24 * entry), word(map + 24 * entry + 8));
        // 1 is RAM: the largest piece.
        if word(map + 24 * entry + 16) as u32 == 1 && memory.is_none_or(|best| len > best.len) {
            memory = Some(Region { base, len });
        }
    }
    Guest {
        tree: Tree {
            uart: None,
            ecam: Some(ECAM),
            memory,
            iommu: dmar(word(RSDP)),
            clock: None,
            arguments: core::str::from_utf8(&text[..end]).unwrap_or(""),
        },
        checks: Checks::new(Console),
    }
}

/// The registers of the first VT-d unit that ACPI has, from its root pointer (ACPI 6.5, 5.2.5 to 5.2.8; VT-d, 8.1 and 8.3).
fn dmar(root_pointer: u64) -> Option<Region> {
    let word = |at: u64| {
        // SAFETY: the hypervisor has put whole tables there, in our RAM; nobody writes them.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_unaligned() }
    };
    let len = |table: u64| word(table) >> 32;
    let root = word(root_pointer + 24);
    let tables = (root + 36..root + len(root)).step_by(8).map(word);
    let dmar = tables
        .into_iter()
        .find(|&table| word(table) as u32 == u32::from_le_bytes(*b"DMAR"))?;
    // The first structure is a unit of remapping hardware: type 0.
    let unit = dmar + 48;
    (word(unit) as u16 == 0).then(|| Region {
        base: word(unit + 8),
        len: 4096,
    })
}

/// Longest line that is typed to a guest.
const LINE: usize = 64;

/// Takes what is typed from here on.
pub fn listen() {}

/// A line that is typed within `limit_ms`, without its end.
pub fn with_line<T>(limit_ms: u64, action: impl FnOnce(&str) -> T) -> Option<T> {
    let end = now_ns() + limit_ms * 1_000_000;
    let mut line = [0; LINE];
    let mut len = 0;
    while now_ns() < end {
        if in8(LINE_STATUS) & 1 == 0 {
            continue;
        }
        match in8(UART) {
            b'\r' | b'\n' => return core::str::from_utf8(&line[..len]).ok().map(action),
            byte if len < LINE => {
                line[len] = byte;
                len += 1;
            }
            _ => {}
        }
    }
    None
}

/// Takes a byte that has come on the console; whether there was one.
pub fn take_typed() -> bool {
    let typed = in8(LINE_STATUS) & 1 != 0;
    if typed {
        in8(UART);
    }
    typed
}

/// Waits until a byte has come on the console, or until the clock says `end_ns`, without a single access to memory: what is
/// seen of it from outside stays as it is.
pub fn wait_silently(end_ns: u64) {
    let left_ns = end_ns.saturating_sub(now_ns());
    let ticks = |ns: u64| (u128::from(ns) * u128::from(khz()) / 1_000_000) as u64;
    // About a millisecond between two looks at the UART, each of which is an exit.
    let (left, pause) = (ticks(left_ns), ticks(1_000_000));
    // SAFETY: reads of the counter and of the UART's status, which have no side effect.
    unsafe {
        asm!(
            "rdtsc", "shl rdx, 32", "or rax, rdx", "add {end}, rax", "mov {next}, rax",
            "2: rdtsc", "shl rdx, 32", "or rax, rdx",
            "cmp rax, {next}", "jb 2b",
            "cmp rax, {end}", "jae 3f",
            "add {next}, {pause}",
            "mov edx, {status}", "in al, dx",
            "test al, 1", "jz 2b",
            "3:",
            end = inout(reg) left => _, next = out(reg) _, pause = in(reg) pause,
            status = const LINE_STATUS, out("rax") _, out("rdx") _,
            options(nostack),
        );
    }
}

/// 4 KiB of our RAM at `address`, for a device: atomics, because it writes behind our back.
pub fn page(address: u64) -> &'static [AtomicU64; 512] {
    // Behind the program.
    assert!(address.is_multiple_of(4096) && address >= 0x40_0000);
    // SAFETY: RAM behind the payload, which nothing else uses; atomics may change at any time.
    unsafe { &*core::ptr::with_exposed_provenance(address as usize) }
}

/// `count` words of our RAM at `address`, for a device: atomics, because it writes behind our back.
pub fn words(address: u64, count: usize) -> &'static [AtomicU64] {
    assert!(address.is_multiple_of(8) && address >= 0x40_0000);
    // SAFETY: as in `page`; a scenario has more RAM than it names.
    unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address as usize), count)
    }
}

/// What was written before is there for devices, and what they wrote for us, once this is over.
pub fn barrier() {
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Nanoseconds since the partition started.
pub fn now_ns() -> u64 {
    (u128::from(ticks()) * 1_000_000 / u128::from(khz())) as u64
}

/// The counter.
pub fn ticks() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks of the counter a second.
pub fn frequency() -> u64 {
    u64::from(khz()) * 1000
}

/// Rate of the counter: the hypervisor's leaf 0x4000_0010, as kernel::vdev::cpuid has it.
fn khz() -> u32 {
    // Read once: each CPUID is an exit.
    static KHZ: AtomicU32 = AtomicU32::new(0);
    match KHZ.load(Ordering::Relaxed) {
        0 => {
            let khz = core::arch::x86_64::__cpuid(0x4000_0010).eax.max(1);
            KHZ.store(khz, Ordering::Relaxed);
            khz
        }
        khz => khz,
    }
}

/// Waits by looking at the clock.
pub fn sleep_ms(ms: u64) {
    let end = now_ns() + ms * 1_000_000;
    while now_ns() < end {
        core::hint::spin_loop();
    }
}

/// Starts this partition again.
pub fn reset() -> ! {
    loop {
        out8(RESET, 6);
    }
}

/// Ends this partition.
pub fn power_off() -> ! {
    loop {
        out8(SLEEP_CONTROL, OFF);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "{info}\r\nresult: failed (panic)\r");
    power_off()
}
