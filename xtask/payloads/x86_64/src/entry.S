/* PVH's way in: 32-bit protected mode, flat segments, no paging, EBX with the address of what it starts with. To 64-bit
   mode, with the first 4 GiB where they are. */
.pushsection .note.pvh, "a", @note
.balign 4
    .long 4
    .long 4
    .long 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long payload_entry
.popsection

/* For loaders that do not know that: Multiboot 1 (Multiboot Specification 0.6.96, 3.1.1), which enters likewise. */
.pushsection .multiboot, "a"
.balign 4
    .long 0x1badb002
    .long 0
    .long -0x1badb002
.popsection

.pushsection .text.payload_entry, "ax"
.code32
.global payload_entry
payload_entry:
    mov esp, offset payload_stack_end
    mov edi, offset payload_tables
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
    mov edi, offset payload_tables + 0x2000
    mov eax, 0x83
    mov ecx, 2048
3:
    mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 3b
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset payload_tables
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    lgdt [payload_gdt]
    push 8
    mov eax, offset payload_entry_64
    push eax
    retf
.code64
payload_entry_64:
    mov ecx, 16
    mov ds, ecx
    mov es, ecx
    mov ss, ecx
    mov esp, offset payload_stack_end
    xor ebp, ebp
    mov edi, ebx
    call {main}
    ud2

/* What is interrupted waits in HLT, and the registers that are not kept are not used by it. */
.global payload_interrupt
payload_interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    call {interrupt}
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq

/* #GP: skips RDMSR, and says so in RAX. */
.global payload_protection
payload_protection:
    add rsp, 8
    add qword ptr [rsp], 2
    mov eax, 0x6e6f6e65
    iretq
.popsection

.pushsection .rodata.payload_gdt, "a"
.balign 8
payload_gdt:
    .word 23
    .long payload_gdt_words
    .balign 8
payload_gdt_words:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
.popsection
