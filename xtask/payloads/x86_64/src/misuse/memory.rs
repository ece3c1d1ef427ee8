//! Accesses to what is not there, and instructions that no device expects.

use crate::lives;
use crate::map::{ECAM, IO_APIC, LOCAL_APIC, VTD, WINDOW};
use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};
use payloads::access::{WIDTHS, load, store};
use payloads::attempt;
use payloads::runtime::Guest;

const PAGE: usize = 4096;

/// Where nothing is, loads bring all ones and stores go nowhere, as on a PC.
pub fn outside(guest: &mut Guest) {
    let places = [
        ("right behind its memory", end_of_memory(guest)),
        ("the middle of the machine's memory", 0x3000_0000),
        ("a window without a BAR", WINDOW + 0x1000_0000),
        ("behind ECAM", ECAM + 0x0100_0000),
        ("behind the I/O APIC", IO_APIC + 0x1000),
        ("an HPET", 0xfed0_0000),
        ("a VT-d unit", VTD),
        ("behind the local APIC", LOCAL_APIC + 0x1000),
        ("a BIOS", 0xffff_fff0),
    ];
    for (what, address) in places {
        let mut nothing = 0;
        for width in WIDTHS {
            let at = address & !(u64::from(width) - 1);
            let stored = store(at, width, 0);
            let loaded = load(at, width);
            let ones = u64::MAX >> (64 - 8 * u32::from(width));
            nothing += u32::from(!stored.refused && !loaded.refused && loaded.value == ones);
        }
        guest.checks.check(
            nothing == 4,
            format_args!("{what}: nothing, {nothing} of 4"),
        );
    }
    let misaligned = [LOCAL_APIC + 1, LOCAL_APIC + 0x22, IO_APIC + 3, ECAM + 1];
    let all = misaligned
        .into_iter()
        .all(|at| !load(at, 4).refused && !store(at, 8, !0).refused);
    guest
        .checks
        .check(all, format_args!("misaligned accesses harm nobody"));
}

/// Those that read and write what is no memory, at a device and at nothing.
pub fn odd_instructions(guest: &mut Guest) {
    let nothing = end_of_memory(guest);
    let mut buffer = [0_u64; 4];
    for at in [IO_APIC, LOCAL_APIC + 0x20, nothing] {
        let to = (&raw mut buffer).addr();
        // SAFETY: each changes what is no Rust object, or the buffer.
        let refused = unsafe {
            [
                attempt!("lock add dword ptr [{at}], 1"; at = in(reg) at),
                attempt!("xchg [{at}], {it:e}"; at = in(reg) at, it = inout(reg) 5_u64 => _),
                attempt!("lock xadd [{at}], {it:e}"; at = in(reg) at, it = inout(reg) 5_u64 => _),
                attempt!("lock cmpxchg [{at}], {it:e}"; at = in(reg) at, it = in(reg) 5_u64, inout("eax") 7 => _),
                attempt!("lock bts dword ptr [{at}], 3"; at = in(reg) at),
                attempt!("rep movsb"; inout("rsi") at => _, inout("rdi") to => _, inout("rcx") 8_u64 => _),
                attempt!("rep stosd"; inout("rdi") at => _, inout("rcx") 4_u64 => _, in("eax") !0),
            ]
        };
        let refused = refused.into_iter().filter(|refused| *refused).count();
        guest.checks.check(
            refused == 0,
            format_args!("instructions at {at:#x}: {refused} refused"),
        );
    }
}

/// A copy between a device and what its tables do not have is refused where they do not.
pub fn copies_to_nowhere(guest: &mut Guest) {
    const NOWHERE: u64 = 0x7000_0000_0000;
    const NOT_CANONICAL: u64 = 1 << 63;
    let mut at = [0_u64; 2];
    // SAFETY: neither side is a Rust object, and the one that is a device's is a register that may be read and written.
    let refused = unsafe {
        let to = attempt!("movsb"; inout("rsi") IO_APIC => _, inout("rdi") NOWHERE => _);
        asm!("mov {}, cr2", out(reg) at[0]);
        let from = attempt!("movsb"; inout("rsi") NOWHERE + 1 => _, inout("rdi") IO_APIC => _);
        asm!("mov {}, cr2", out(reg) at[1]);
        let past = attempt!("movsb"; inout("rsi") IO_APIC => _, inout("rdi") NOT_CANONICAL => _);
        to && from && past
    };
    guest.checks.check(
        refused && at == [NOWHERE, NOWHERE + 1],
        format_args!("copies between a device and nowhere are refused, at {at:#x?}"),
    );
}

/// What no device expects, and code that is nowhere, ends in an exception.
pub fn what_no_device_takes(guest: &mut Guest) {
    let nothing = end_of_memory(guest);
    for at in [IO_APIC, nothing] {
        // SAFETY: vectors are this program's to lose, and what is no memory is no code.
        let refused = unsafe {
            lives::allow_floating_point();
            [
                attempt!("movups xmm0, [{at}]"; at = in(reg) at),
                attempt!("movups [{at}], xmm0"; at = in(reg) at),
                attempt!("fnstcw [{at}]"; at = in(reg) at),
                attempt!("jmp {at}"; at = in(reg) at),
            ]
        };
        let refused = refused.into_iter().filter(|refused| *refused).count();
        guest.checks.check(
            refused == 4,
            format_args!("vectors, the FPU and a jump at {at:#x}: {refused} refused"),
        );
    }
}

/// A copy from a device to the last bytes of one page and the first of the next, and back to it.
pub fn copies_across_pages(guest: &mut Guest) {
    #[repr(align(4096))]
    struct Pages([AtomicU8; 2 * PAGE]);
    static PAGES: Pages = Pages([const { AtomicU8::new(0x55) }; 2 * PAGE]);
    let at = (&raw const PAGES.0[PAGE - 2]).expose_provenance();
    // SAFETY: the bytes may change behind a shared reference; the register is read-only.
    let refused = unsafe {
        [
            attempt!("movsd"; inout("rsi") LOCAL_APIC + 0x30 => _, inout("rdi") at => _),
            attempt!("movsd"; inout("rsi") at => _, inout("rdi") LOCAL_APIC + 0x30 => _),
        ]
    };
    let bytes = PAGES.0[PAGE - 2..].iter().take(4);
    let value = bytes.rev().fold(0, |value, byte| {
        value << 8 | u64::from(byte.load(Ordering::Relaxed))
    });
    let version = load(LOCAL_APIC + 0x30, 4).value;
    guest.checks.check(
        refused == [false; 2] && value == version,
        format_args!("a copy across pages brings {value:#x}, which is {version:#x}"),
    );
}

/// Tables where no memory is: nothing can be delivered any more, and a PC resets itself.
pub fn lose_all_tables(guest: &Guest) -> ! {
    let nothing = end_of_memory(guest);
    // SAFETY: nothing runs behind it.
    unsafe { asm!("mov cr3, {}", "ud2", in(reg) nothing, options(noreturn)) }
}

fn end_of_memory(guest: &Guest) -> u64 {
    guest
        .tree
        .memory
        .map_or(0, |memory| memory.base + memory.len)
}
