// Entry: from the arm64 Image boot protocol (Linux Documentation/arch/arm64/booting.rst) to Rust with MMU and caches on.
//
// The MMU is off and so are the caches: whatever is stored here goes past them to memory. That is why everything that
// was stored is invalidated before the caches are switched on, and why no Rust runs earlier.
// Link-time optimisation may put all assembly code into one: labels are prefixed.

.set BOOT_BLOCK, 2 << 20

    .pushsection .head, "ax"
    .global _start
_start:
    .inst   0xfa405a4d                  // "MZ" and a blank: ccmp x18, #0, #13, pl, which does no harm
    b       boot_enter
    .quad   0                           // text_offset
    .quad   __image_size                // grows with what is appended
    .quad   0xa                         // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   pe_header - _start

    // The same as a UEFI application (Microsoft PE Format, "PE32+"). What is in the first page is header to the loader;
    // sizes grow with what is appended, as above.
    .balign 8
pe_header:
    .ascii  "PE\0\0"
    .short  0xaa64                      // AArch64
    .short  2                           // sections
    .long   0, 0, 0
    .short  pe_sections - pe_optional
    .short  0x206                       // executable, no line numbers, no debug information
pe_optional:
    .short  0x20b
    .byte   0, 0
    .long   __pe_text_size
    .long   __pe_data_size
    .long   0
    .long   __pe_entry
    .long   0x1000                      // base of code
    .quad   0                           // preferred address
    .long   0x1000, 0x1000              // alignment in memory and in the file
    .short  0, 0, 0, 0, 0, 0
    .long   0
    .long   __image_size
    .long   0x1000                      // headers
    .long   0
    .short  10, 0                       // UEFI application
    .quad   0, 0, 0, 0
    .long   0
    .long   6
    .quad   0, 0, 0, 0, 0, 0            // no directories: it relocates itself
pe_sections:
    .ascii  ".text\0\0\0"
    .long   __pe_text_size, 0x1000, __pe_text_size, 0x1000
    .long   0, 0, 0
    .long   0x60000020                  // code: read, execute
    .ascii  ".data\0\0\0"
    .long   __pe_data_size, __pe_data, __pe_data_raw, __pe_data
    .long   0, 0, 0
    .long   0xc0000040                  // initialised data: read, write
    .popsection

    .pushsection .entry, "ax"
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
    bl      boot_take_el2
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

    bl      boot_relocate

boot_relocated:
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
    tlbi    alle1                       // guests' VMIDs: reset need not have emptied the TLB (Arm ARM D8.16.1)
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

// Makes EL2 ours. x21 becomes 1 where its registers are in EL1's format for good.
boot_take_el2:
    mov     x28, x30
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
1:  ret     x28

// Relocates the image at x20 to where it is, by the tables of the copy that runs.
boot_relocate:
    // The image is linked at 0. R_AARCH64_RELATIVE is all that a static image has;
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
5:  ret

// UEFI's entry (UEFI 2.10, §4.1): x0 = handle of the image, x1 = system table, on the stack and in the map of firmware.
// The image is copied to where its alignment is right; the rest happens in the copy.
    .global efi_enter
efi_enter:
    stp     x29, x30, [sp, #-64]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    mov     x22, x0
    mov     x23, x1
    adrp    x21, __image_start
    ldr     x24, [x21, #16]             // image_size
    ldr     x4, [x1, #96]               // EFI_SYSTEM_TABLE.BootServices
    ldr     x4, [x4, #40]               // EFI_BOOT_SERVICES.AllocatePages
    mov     x0, #0                      // AllocateAnyPages
    mov     x1, #1                      // EfiLoaderCode
    add     x2, x24, #(BOOT_BLOCK)
    lsr     x2, x2, #12
    add     x2, x2, #1
    sub     sp, sp, #16
    mov     x3, sp
    blr     x4
    ldr     x20, [sp], #16
    cbnz    x0, efi_return
    add     x20, x20, #(BOOT_BLOCK)
    and     x20, x20, #-(BOOT_BLOCK)
    mov     x0, x21
    mov     x1, x20
    add     x2, x21, x24
1:  ldp     x3, x4, [x0], #16
    stp     x3, x4, [x1], #16
    cmp     x0, x2
    b.lo    1b
    bl      boot_relocate
    // What was stored is fetched as instructions from here on.
    mov     x0, x20
    add     x1, x20, x24
    bl      boot_clean
    ic      iallu
    dsb     ish
    isb
    adrp    x0, efi_in_copy
    add     x0, x0, :lo12:efi_in_copy
    sub     x0, x0, x21
    add     x0, x0, x20
    br      x0
efi_in_copy:
    mov     x0, x22
    mov     x1, x23
    bl      {efi_main}
    cbnz    x0, efi_return
    // Firmware is gone. Its map and caches are switched off once memory holds what caches do; nothing is stored between.
    msr     daifset, #15
    msr     SPSel, #1
    mov     x0, x20
    add     x1, x20, x24
    bl      boot_clean
    mrs     x0, SCTLR_EL2
    bic     x0, x0, #(1 << 0)           // M
    bic     x0, x0, #(1 << 2)           // C
    bic     x0, x0, #(1 << 12)          // I
    msr     SCTLR_EL2, x0
    isb
    mov     x19, #0                     // no device tree
    mov     x22, #0
    mov     x21, #2
    mov     x25, #2
    bl      boot_take_el2
    b       boot_relocated
efi_return:
    ldp     x23, x24, [sp, #48]
    ldp     x21, x22, [sp, #32]
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #64
    ret

// Cleans and invalidates [x0, x1) to the point of coherency.
boot_clean:
    mrs     x2, CTR_EL0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2
1:  dc      civac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret
    .ltorg
    .popsection
