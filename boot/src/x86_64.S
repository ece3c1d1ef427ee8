/* PVH's way in (Xen's docs/misc/pvh.pandoc): 32-bit protected mode, flat segments, no paging, EBX = hvm_start_info. */
.pushsection .note.pvh, "a", @note
.balign 4
    .long 4
    .long 4
    .long 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long sluice_pvh_entry
.popsection

.pushsection .text.sluice_pvh_entry, "ax"
.code32
.global sluice_pvh_entry
sluice_pvh_entry:
    cli
    cld
    mov esi, ebx
    /* Everything that is not in the file is zero, whoever loaded it. */
    mov edi, offset __bss_start
    mov ecx, offset __bss_end
    sub ecx, edi
    shr ecx, 2
    xor eax, eax
    rep stosd
    mov esp, offset __boot_area
    add esp, {stack_end}

    /* 64-bit mode, pages of 2 MiB and NX are in every CPU that has one of the two kinds of virtualisation. */
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb 9f
    mov eax, 0x80000001
    cpuid
    and edx, (1 << 29) | (1 << 20)
    cmp edx, (1 << 29) | (1 << 20)
    jne 9f

    /* The first 4 GiB are where they are: a table of level 4, one of level 3, four of level 2. */
    mov edi, offset __initial_tables
    lea eax, [edi + 0x1003]
    mov [edi], eax
    add edi, 0x1000
    lea eax, [edi + 0x1003]
    mov ecx, 4
2:
    mov [edi], eax
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz 2b
    mov edi, offset __initial_tables + 0x2000
    mov eax, 0x83
    mov ecx, 2048
3:
    mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 3b

    mov eax, {cr4}
    mov cr4, eax
    mov eax, offset __initial_tables
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, {efer}
    xor edx, edx
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    lgdt [sluice_entry_gdt]
    push 8
    mov eax, offset sluice_entry_64
    push eax
    retf

9:  /* No 64-bit CPU: the only word that can be had here. */
    mov ebx, offset sluice_refusal
8:  mov al, [ebx]
    test al, al
    jz 7f
    mov edx, 0x3f8
    out dx, al
    inc ebx
    jmp 8b
7:  hlt
    jmp 7b

.code64
sluice_entry_64:
    mov ecx, 16
    mov ds, ecx
    mov es, ecx
    mov ss, ecx
    mov esp, offset __boot_area
    add esp, {stack_end}
    xor ebp, ebp
    mov edi, esi
    call {main}
    ud2
.popsection

.pushsection .rodata.sluice_entry, "a"
.balign 8
sluice_entry_gdt:
    .word 23
    .long sluice_entry_gdt_words
    .balign 8
sluice_entry_gdt_words:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
sluice_refusal:
    .asciz "Sluice: this CPU has no 64-bit mode.\r\n"
.popsection
