/*
 * Where the other CPUs start: a copy of this lies in a page below 1 MiB. From 16-bit mode to 64-bit mode by the map that is
 * in use, in which that page may be run and not written.
 */
.pushsection .rodata.sluice_trampoline, "a"
.balign 16
.global sluice_trampoline
sluice_trampoline:
.code16
    cli
    cld
    xor ax, ax
    mov ds, ax
    /* lgdt with a 32-bit base */
    .byte 0x66, 0x0f, 0x01, 0x16
    .word {page} + (sluice_trampoline_gdt - sluice_trampoline)
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    /* jmp 0x08:sluice_trampoline_32 */
    .byte 0x66, 0xea
    .long {page} + (sluice_trampoline_32 - sluice_trampoline)
    .word 0x08
.code32
sluice_trampoline_32:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    /* mov ebx, [sluice_trampoline_launch] */
    .byte 0x8b, 0x1d
    .long {page} + (sluice_trampoline_launch - sluice_trampoline)
    mov eax, {cr4}
    mov cr4, eax
    mov eax, [ebx + {root}]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, {efer}
    xor edx, edx
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    /* jmp 0x18:sluice_trampoline_64 */
    .byte 0xea
    .long {page} + (sluice_trampoline_64 - sluice_trampoline)
    .word 0x18
.code64
sluice_trampoline_64:
    mov rsp, [rbx + {stack}]
    xor ebp, ebp
    mov rax, [rbx + {entry}]
    call rax
    ud2
    .balign 8
sluice_trampoline_words:
    .quad 0
    .quad 0x00cf9b000000ffff /* 32-bit code */
    .quad 0x00cf93000000ffff /* data */
    .quad 0x00af9b000000ffff /* 64-bit code */
/* Where what it reads is; written when it is placed. */
.global sluice_trampoline_launch
sluice_trampoline_launch:
    .long 0
sluice_trampoline_gdt:
    .word 31
    .long {page} + (sluice_trampoline_words - sluice_trampoline)
.global sluice_trampoline_end
sluice_trampoline_end:
.popsection
