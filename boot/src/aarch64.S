// Entry: from the arm64 Image boot protocol (Linux Documentation/arch/arm64/booting.rst) to Rust with MMU and caches on.
//
// The MMU is off and so are the caches: whatever is stored here goes past them to memory. That is why everything that
// was stored is invalidated before the caches are switched on, and why no Rust runs earlier.
// Link-time optimisation may put all assembly code into one: labels are prefixed.

.set BOOT_BLOCK, 2 << 20

    .pushsection .head, "ax"
    .global _start
_start:
    b       boot_enter
    .long   0
    .quad   0                           // text_offset
    .quad   __image_size                // grows with what is appended
    .quad   0xa                         // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0
    .popsection

    .pushsection .text.boot_enter, "ax"
boot_enter:
    msr     daifset, #15
    msr     SPSel, #1
    mov     x19, x0                     // device tree
    adrp    x20, __image_start
    mrs     x21, CurrentEL
    lsr     x21, x21, #2                // what the registers are like: those of this exception level
    mov     x25, x21                    // the exception level
    cmp     x21, #2
    b.ne    1f
    mov     x0, #(1 << 31)              // HCR_EL2: E2H = 0, no traps, EL1 is AArch64
    msr     HCR_EL2, x0
    isb
    // E2H = 1 for good (FEAT_E2H0 is not there: ID_AA64MMFR4_EL1.E2H0 is negative; or it just stays): the names of EL1's
    // registers are EL2's then, in EL1's format. That is good for a line on the console, and no more.
    mrs     x0, HCR_EL2
    mrs     x1, S3_0_C0_C7_4
    lsr     x0, x0, #34
    orr     x0, x0, x1, lsr #27
    and     x0, x0, #1
    sub     x21, x21, x0
    cbnz    x0, 1f
    bl      sluice_reset_el2
1:
    // A device tree: magic, and no larger than the protocol allows.
    tst     x19, #7
    b.ne    boot_stop
    cbz     x19, boot_stop
    ldp     w0, w22, [x19]
    rev     w0, w0
    rev     w22, w22                    // its size
    ldr     w1, =0xd00dfeed
    cmp     w0, w1
    b.ne    boot_stop
    cmp     w22, #BOOT_BLOCK
    b.hi    boot_stop
    // It must not lie in the image, part of which is cleared next.
    ldr     x1, [x20, #16]
    add     x1, x1, x20
    cmp     x19, x1
    add     x2, x19, x22
    ccmp    x2, x20, #0, lo             // C clear, so "higher" fails, where the tree starts behind the image
    b.hi    boot_stop

    // .bss and stacks
    adrp    x0, __bss_start
    adrp    x1, __bundle_start
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    // Relocations: the image is linked at 0. R_AARCH64_RELATIVE is all that a static image has;
    // here the unaligned ones, if any.
    adrp    x0, __rela_start
    add     x0, x0, :lo12:__rela_start
    adrp    x1, __rela_end
    add     x1, x1, :lo12:__rela_end
1:  cmp     x0, x1
    b.hs    2f
    ldp     x2, x3, [x0], #16           // offset, type
    ldr     x4, [x0], #8                // addend
    cmp     x3, #1027
    b.ne    boot_stop
    add     x4, x4, x20
    str     x4, [x2, x20]
    b       1b
2:
    // The aligned ones, packed (gABI, SHT_RELR): an even word is the place of one, an odd one has a bit for each of the 63
    // words behind the last. The addends are in place.
    adrp    x0, __relr_start
    add     x0, x0, :lo12:__relr_start
    adrp    x1, __relr_end
    add     x1, x1, :lo12:__relr_end
1:  cmp     x0, x1
    b.hs    5f
    ldr     x2, [x0], #8
    tbnz    x2, #0, 2f
    add     x3, x2, x20
    ldr     x4, [x3]
    add     x4, x4, x20
    str     x4, [x3], #8
    b       1b
2:  mov     x5, x3
3:  lsr     x2, x2, #1
    cbz     x2, 4f
    ldr     x4, [x5], #8
    tbz     x2, #0, 3b
    add     x4, x4, x20
    stur    x4, [x5, #-8]
    b       3b
4:  add     x3, x3, #(63 * 8)
    b       1b
5:
    // The initial map: image with bundle, and device tree.
    adrp    x23, __initial_tables
    add     x23, x23, #4096             // the next unused table
    ldr     x24, ={block}
    cmp     x21, #1
    b.eq    1f
    orr     x24, x24, #(1 << 6)         // AP[1] is RES1 where there is one privilege level
1:  mov     x0, x20
    ldr     x1, [x20, #16]
    add     x1, x1, x20
    bl      boot_map
    mov     x0, x19
    add     x1, x19, x22
    bl      boot_map
    adrp    x0, {next_table}
    str     x23, [x0, :lo12:{next_table}]

    // Stale clean lines of what was stored (Arm ARM D7.5.9; the protocol has the image cleaned to memory).
    dsb     sy
    mrs     x2, CTR_EL0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2
    adrp    x0, __text_end
    adrp    x1, __bundle_start
1:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    1b
    dsb     sy

    ldr     x0, ={mair}
    ldr     x1, ={tcr}
    mrs     x2, ID_AA64MMFR0_EL1
    and     x2, x2, #0xf
    cmp     x2, #5                      // 4 KiB granule without LPA2: 48 bits at most
    mov     x3, #5
    csel    x2, x2, x3, lo
    adrp    x3, __initial_tables
    adrp    x5, __boot_area
    mov     x6, #{emergency_end}
    add     x6, x6, x5
    add     x5, x5, #{stack_end}
    cmp     x21, #2
    b.hi    boot_el3
    b.lo    boot_el1

    adrp    x4, sluice_vectors
    add     x4, x4, :lo12:sluice_vectors
    msr     VBAR_EL2, x4
    msr     TPIDR_EL2, x6
    bfi     x1, x2, #16, #3             // TCR_EL2.PS
    msr     MAIR_EL2, x0
    msr     TCR_EL2, x1
    msr     TTBR0_EL2, x3
    isb
    tlbi    alle2
    tlbi    alle1                       // guests' VMIDs: reset need not have emptied the TLB (Arm ARM D8.14)
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, ={sctlr}
    msr     SCTLR_EL2, x0
    isb
    mov     sp, x5
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x22
    b       {main}

boot_el3:
    bfi     x1, x2, #16, #3             // TCR_EL3.PS
    msr     MAIR_EL3, x0
    msr     TCR_EL3, x1
    msr     TTBR0_EL3, x3
    isb
    tlbi    alle3
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, ={sctlr}
    msr     SCTLR_EL3, x0
    b       boot_wrong_level

boot_el1:
    and     x1, x1, #0xffff             // T0SZ, IRGN0, ORGN0, SH0 are where TCR_EL2 has them
    orr     x1, x1, #(1 << 23)          // EPD1: nothing in the upper half
    bfi     x1, x2, #32, #3             // TCR_EL1.IPS
    msr     MAIR_EL1, x0
    msr     TCR_EL1, x1
    msr     TTBR0_EL1, x3
    isb
    cmp     x25, #2
    b.ne    1f
    tlbi    alle2
1:  tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, =(0x30d00800 | 1 << 12 | 1 << 3 | 1 << 2 | 1)
    msr     SCTLR_EL1, x0

boot_wrong_level:
    isb
    mov     sp, x5
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x22
    mov     x2, x21
    mov     x3, x25
    b       {refuse}

// Nothing is known of the machine, so there is nothing to say it with.
boot_stop:
    wfi
    b       boot_stop

// Maps the blocks that [x0, x1) touches to themselves.
boot_map:
    mov     x8, x30
    and     x0, x0, #-(BOOT_BLOCK)
1:  cmp     x0, x1
    b.hs    2f
    adrp    x2, __initial_tables
    ubfx    x3, x0, #39, #9
    bl      boot_descend
    ubfx    x3, x0, #30, #9
    bl      boot_descend
    ubfx    x3, x0, #21, #9
    orr     x4, x0, x24
    str     x4, [x2, x3, lsl #3]
    add     x0, x0, #BOOT_BLOCK
    b       1b
2:  ret     x8

// x2 = the table behind entry x3 of table x2, taken from the unused ones if there is none yet.
boot_descend:
    ldr     x4, [x2, x3, lsl #3]
    cbnz    x4, 1f
    adrp    x5, __initial_tables_end
    cmp     x23, x5
    b.hs    boot_stop
    orr     x4, x23, #3
    str     x4, [x2, x3, lsl #3]
    add     x23, x23, #4096
1:  and     x2, x4, #0x0000fffffffff000
    ret
    .ltorg
    .popsection
