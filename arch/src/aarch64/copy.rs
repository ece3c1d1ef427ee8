//! `memcpy`, which the compiler calls for every value that is moved and larger than a few registers: at EL2 that is a part of
//! each exit. The one of `compiler_builtins` moves 8 bytes a turn, and up to 16 bytes one by one.
//!
//! Strictly aligned, as everything here: until the MMU is on, memory is Device memory (Arm ARM, B2.10.2).

use core::arch::global_asm;

// memcpy(to, from, count) -> to (AAPCS64: x0 to x2, and x0; x3 to x5 are the callee's to change).
global_asm!(
    ".pushsection .text.memcpy, \"ax\"",
    ".global memcpy",
    ".type memcpy, %function",
    "memcpy:",
    "mov x3, x0",
    "orr x4, x0, x1",
    "tst x4, #7",
    "b.ne 4f",
    "subs x2, x2, #16",
    "b.lo 2f",
    "1: ldp x4, x5, [x1], #16",
    "subs x2, x2, #16",
    "stp x4, x5, [x3], #16",
    "b.hs 1b",
    // From here on only bits 3 to 0 of the count matter, which are those of what is left.
    "2: tbz x2, #3, 3f",
    "ldr x4, [x1], #8",
    "str x4, [x3], #8",
    "3: ands x2, x2, #7",
    "b.ne 5f",
    "ret",
    // What starts in the middle of a word: half a word a turn, or a byte.
    "4: tst x4, #3",
    "b.ne 7f",
    "5: subs x2, x2, #4",
    "b.lo 6f",
    "ldr w4, [x1], #4",
    "str w4, [x3], #4",
    "b 5b",
    "6: and x2, x2, #3",
    "7: cbz x2, 9f",
    "8: ldrb w4, [x1], #1",
    "subs x2, x2, #1",
    "strb w4, [x3], #1",
    "b.ne 8b",
    "9: ret",
    ".size memcpy, . - memcpy",
    ".popsection",
);
