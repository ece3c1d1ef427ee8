/*
 * The first sector of a disk: brings the image from the sectors behind it to 2 MiB and enters it as PVH asks for (Xen's
 * docs/misc/pvh.pandoc), with the BIOS's memory map. For Bochs, which has a BIOS and nothing that boots an ELF file.
 *
 * ENTRY is where the image is entered, CHUNKS how many 32 KiB it has. Port 0xe9 is Bochs's own console.
 */
    .code16
    .globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    mov %dl, drive
    /* Address line 20. */
    in $0x92, %al
    or $2, %al
    out %al, $0x92
    lgdt gdt_pointer
    movl $0x200000, %edi

    /* 64 sectors to 64 KiB, and from there up, with limits of 4 GiB kept from protected mode. */
read:
    push %edi
    mov $packet, %si
    mov $0x42, %ah
    mov drive, %dl
    int $0x13
    pop %edi
    jc failed
    cli
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    jmp 1f
1:  mov $0x10, %bx
    mov %bx, %ds
    mov %bx, %es
    and $0xfe, %al
    mov %eax, %cr0
    ljmp $0, $2f
2:  xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    movl $0x10000, %esi
    movl $8192, %ecx
    cld
    addr32 rep movsl
    addl $64, first_sector
    decw chunks
    jnz read

    /* The memory map at 4 KiB: entries of 20 bytes, 24 apart. */
    xor %ebx, %ebx
    mov $0x1000, %di
3:  movl $0, 20(%di)
    movl $0xe820, %eax
    movl $20, %ecx
    movl $0x534d4150, %edx
    int $0x15
    jc 4f
    add $24, %di
    incl entries
    test %ebx, %ebx
    jnz 3b
4:  cli
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $8, $protected

failed:
    mov $0xe9, %dx
    mov $'E', %al
    out %al, %dx
    hlt
    jmp failed

    .code32
protected:
    mov $0x10, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %esp
    /* ACPI's root pointer, "RSD PTR ". */
    mov $0xe0000, %esi
5:  cmpl $0x20445352, (%esi)
    jne 6f
    cmpl $0x20525450, 4(%esi)
    je 7f
6:  add $16, %esi
    cmp $0x100000, %esi
    jb 5b
    xor %esi, %esi
7:  mov %esi, rsdp
    mov entries, %eax
    mov %eax, map_entries
    mov $start_info, %ebx
    movl $ENTRY, %eax
    jmp *%eax

    .align 4
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
packet:
    .byte 16, 0
    .word 64, 0, 0x1000
first_sector:
    .long 1, 0
chunks:
    .word CHUNKS
entries:
    .long 0
drive:
    .byte 0
    .align 4
start_info:
    .long 0x336ec578, 1, 0, 0
    .quad 0, 0
rsdp:
    .quad 0, 0x1000
map_entries:
    .long 0, 0
    .org 510
    .word 0xaa55
