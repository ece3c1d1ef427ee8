//! Accesses to what is not there, and instructions that no device expects.

use crate::map::{ECAM, FRAME, GICD, GICR, ITS, ITS_TRANSLATION, SMMU_OF_THE_MACHINE, UART};
use core::arch::asm;
use payloads::access::{Outcome, WIDTHS, attempt, load, store};
use payloads::runtime::Guest;

/// Where nothing is: every load and store is an exception. How many there were.
pub fn outside(guest: &mut Guest) -> u64 {
    let places = [
        ("address 0", 0),
        ("the ITS translation frame", ITS_TRANSLATION + 0x40),
        ("a redistributor too many", GICR + 2 * FRAME),
        ("behind the UART", UART + 0x1000),
        ("the machine's SMMU", SMMU_OF_THE_MACHINE),
        ("the machine's virtio slots", 0x0a00_0000),
        ("a window without a BAR", 0x2fff_f000),
        ("behind the window", 0x3000_0000),
        ("right behind its memory", end_of_memory(guest)),
        ("the middle of the machine's memory", 0x4800_0000),
        ("far away", 0x3_ffff_f000),
    ];
    let mut refused = 0;
    for (what, address) in places {
        let mut here = 0;
        for width in WIDTHS {
            here += u64::from(load(address, width).refused);
            here += u64::from(store(address, width, !0).refused);
        }
        guest
            .checks
            .check(here == 8, format_args!("{what}: {here} of 8 refused"));
        refused += here;
    }
    let misaligned = [GICD + 1, GICD + 6, GICR + 3, ITS + 5, ECAM + 1, UART + 2];
    let all = misaligned
        .into_iter()
        .all(|at| load(at, 4).refused && store(at, 8, !0).refused);
    guest
        .checks
        .check(all, format_args!("misaligned accesses are refused"));
    let crossing = load(UART + 0xffc, 8);
    guest.checks.check(
        crossing.is_nothing(),
        format_args!("past the end of the UART: {crossing:x?}"),
    );
    refused
}

/// Instructions whose syndrome does not say what they do, at a device, and at nothing. How many were refused by EL2.
pub fn odd_instructions(guest: &mut Guest) -> u64 {
    let nothing = end_of_memory(guest);
    // SAFETY: each is one instruction that reads or writes what is no Rust object, and is skipped if refused.
    let outcomes: [(&str, Outcome); 7] = unsafe {
        [
            (
                "a pair from the distributor",
                attempt(|| {
                    asm!("ldp x2, x3, [{}]", in(reg) GICD, out("x2") _, out("x3") _);
                    0
                }),
            ),
            (
                "a pair to the distributor",
                attempt(|| {
                    asm!("stp xzr, xzr, [{}]", in(reg) GICD);
                    0
                }),
            ),
            (
                "an exclusive load from the distributor",
                attempt(|| {
                    asm!("ldxr w2, [{}]", in(reg) GICD, out("x2") _);
                    0
                }),
            ),
            (
                "a load with a new base from the distributor",
                attempt(|| {
                    asm!("ldr w2, [{0}], #4", inout(reg) GICD => _, out("x2") _);
                    0
                }),
            ),
            (
                // LDADD X0, X1, [X2]
                "an atomic addition in the distributor",
                attempt(|| {
                    asm!(".inst 0xf8200041", inout("x0") 1_u64 => _, out("x1") _, in("x2") GICD);
                    0
                }),
            ),
            (
                "a cache line of zeros behind its memory",
                attempt(|| {
                    asm!("dc zva, {}", in(reg) nothing);
                    0
                }),
            ),
            (
                "code behind its memory",
                attempt(|| {
                    asm!("blr {}", in(reg) nothing, clobber_abi("C"));
                    0
                }),
            ),
        ]
    };
    for (what, outcome) in outcomes {
        guest
            .checks
            .check(outcome.refused, format_args!("{what} is refused"));
    }
    outcomes.len() as u64
}

fn end_of_memory(guest: &Guest) -> u64 {
    guest
        .tree
        .memory
        .map_or(0, |memory| memory.base + memory.len)
}
