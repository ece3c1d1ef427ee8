// Exception vectors of EL2 (Arm ARM D1.4.1.6), and the way into a guest and back.
//
// An exception from EL2 itself is the end of the machine: it is described on a stack of its own, since the usual one
// may be what overflowed. An exception from below is the return of sluice_enter_guest.

// The description: x0..x30, sp, ELR, SPSR, ESR, FAR, kind, 0. `ExceptionFrame` is its layout.
.set EXCEPTION_FRAME_SIZE, 38 * 8

.macro exception_from_el2 kind
    .balign 128
    // Its own SP_EL0 is where x0 waits: the guest's value is lost, but nothing returns to a guest any more.
    msr     SP_EL0, x0
    mrs     x0, TPIDR_EL2
    sub     x0, x0, #EXCEPTION_FRAME_SIZE
    stp     x1, x2, [x0, #8]
    mov     x1, #\kind
    b       exception_fatal
.endm

.macro exception_from_guest kind
    .balign 128
    hint    #16                         // ESB: an SError of the guest's is recorded in DISR_EL1, apart from EL2's own
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #16]
    mov     x1, #\kind
    b       exception_leave_guest
.endm

    .pushsection .text.sluice_vectors, "ax"
    .balign 2048
    .global sluice_vectors
sluice_vectors:
    // Current EL with SP_EL0: never used here, fatal like the next four.
    exception_from_el2 0
    exception_from_el2 1
    exception_from_el2 2
    exception_from_el2 3
    // Current EL with SP_EL2: synchronous, IRQ, FIQ, SError.
    .balign 128
    msr     SP_EL0, x0
    mrs     x0, TPIDR_EL2
    ldr     x0, [x0, #{recover}]
    cbnz    x0, exception_recover       // whoever set it keeps SP_EL0
    mrs     x0, TPIDR_EL2
    sub     x0, x0, #EXCEPTION_FRAME_SIZE
    stp     x1, x2, [x0, #8]
    mov     x1, #0
    b       exception_fatal
    exception_from_el2 1
    exception_from_el2 2
    exception_from_el2 3
    // Lower EL, AArch64.
    exception_from_guest 0
    exception_from_guest 1
    exception_from_guest 2
    exception_from_guest 3
    // Lower EL, AArch32: EL0 only, as HCR_EL2.RW is set.
    exception_from_guest 0
    exception_from_guest 1
    exception_from_guest 2
    exception_from_guest 3
    .balign 128
    .popsection

    .pushsection .text.sluice_leave_guest, "ax"
exception_recover:
    msr     ELR_EL2, x0
    mrs     x0, TPIDR_EL2
    str     xzr, [x0, #{recover}]
    mrs     x0, SP_EL0
    eret
    dsb     nsh
    isb

exception_fatal:
    // A second exception on this stack: describing the first one failed. All that is left is PSCI SYSTEM_OFF.
    mrs     x2, TPIDR_EL2
    ldr     x2, [x2, #{in_exception}]
    cbnz    x2, exception_stop
    stp     x3, x4, [x0, #24]
    stp     x5, x6, [x0, #40]
    stp     x7, x8, [x0, #56]
    stp     x9, x10, [x0, #72]
    stp     x11, x12, [x0, #88]
    stp     x13, x14, [x0, #104]
    stp     x15, x16, [x0, #120]
    stp     x17, x18, [x0, #136]
    stp     x19, x20, [x0, #152]
    stp     x21, x22, [x0, #168]
    stp     x23, x24, [x0, #184]
    stp     x25, x26, [x0, #200]
    stp     x27, x28, [x0, #216]
    stp     x29, x30, [x0, #232]
    mrs     x2, SP_EL0
    str     x2, [x0]
    mov     x2, sp
    mrs     x3, ELR_EL2
    stp     x2, x3, [x0, #248]
    mrs     x2, SPSR_EL2
    mrs     x3, ESR_EL2
    stp     x2, x3, [x0, #264]
    mrs     x2, FAR_EL2
    stp     x2, x1, [x0, #280]
    str     xzr, [x0, #296]
    mrs     x2, TPIDR_EL2
    str     x0, [x2, #{in_exception}]
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    b       sluice_fatal_exception
exception_stop:
    ldr     w0, =0x84000008
    smc     #0
1:  wfi
    b       1b

exception_leave_guest:
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    ldp     x2, x3, [sp], #32           // x0 and x1 of the guest, and the pointer to its registers
    stp     x2, x3, [x0]
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    stp     x30, x2, [x0, #240]
    str     x3, [x0, #256]
    mov     x0, x1
    ldp     x19, x20, [sp], #16
    ldp     x21, x22, [sp], #16
    ldp     x23, x24, [sp], #16
    ldp     x25, x26, [sp], #16
    ldp     x27, x28, [sp], #16
    ldp     x29, x30, [sp], #16
    ret
    .ltorg
    .popsection

// sluice_enter_guest(registers: *mut Registers) -> kind: runs the guest until its next exception to EL2.
    .pushsection .text.sluice_enter_guest, "ax"
    .global sluice_enter_guest
sluice_enter_guest:
    stp     x29, x30, [sp, #-16]!
    stp     x27, x28, [sp, #-16]!
    stp     x25, x26, [sp, #-16]!
    stp     x23, x24, [sp, #-16]!
    stp     x21, x22, [sp, #-16]!
    stp     x19, x20, [sp, #-16]!
    stp     x0, xzr, [sp, #-16]!
    ldp     x30, x1, [x0, #240]
    ldr     x2, [x0, #256]
    msr     ELR_EL2, x1
    msr     SPSR_EL2, x2
    ldp     x28, x29, [x0, #224]
    ldp     x26, x27, [x0, #208]
    ldp     x24, x25, [x0, #192]
    ldp     x22, x23, [x0, #176]
    ldp     x20, x21, [x0, #160]
    ldp     x18, x19, [x0, #144]
    ldp     x16, x17, [x0, #128]
    ldp     x14, x15, [x0, #112]
    ldp     x12, x13, [x0, #96]
    ldp     x10, x11, [x0, #80]
    ldp     x8, x9, [x0, #64]
    ldp     x6, x7, [x0, #48]
    ldp     x4, x5, [x0, #32]
    ldp     x2, x3, [x0, #16]
    ldp     x0, x1, [x0]
    eret
    // Nothing is executed past an ERET, not even on speculation.
    dsb     nsh
    isb
    .popsection
