/*
 * The ways in, from whoever loaded the image to Rust in 64-bit mode: PVH and Multiboot2 in 32-bit protected mode with flat
 * segments and no paging, UEFI in its own 64-bit mode. The image is linked where PVH loads it and runs below 4 GiB wherever it is.
 */

.pushsection .text.sluice_entry, "ax"
.code32
/* PVH (Xen's docs/misc/pvh.pandoc): EBX = hvm_start_info. */
.global sluice_pvh_entry
sluice_pvh_entry:
    mov edx, {pvh}
    jmp 1f
/* Multiboot2 (3.3): EAX = a magic number, EBX = the list of tags. */
.global sluice_multiboot2_entry
sluice_multiboot2_entry:
    mov edx, eax
1:  cli
    cld
    mov esi, ebx
    /* No stack is promised: the first word of what EBX points to is one for as long as it takes to see where we are. */
    mov ecx, [ebx]
    lea esp, [ebx + 4]
    call 2f
/* Where what follows needs to know is, from here. */
sluice_here:
    .long __bss_start - sluice_here
    .long __bss_end - sluice_here
    .long __boot_area - sluice_here
    .long __initial_tables - sluice_here
    .long sluice_entry_64 - sluice_here
    .long sluice_refusal - sluice_here
.set OF_BSS, 0
.set OF_BSS_END, 4
.set OF_AREA, 8
.set OF_TABLES, 12
.set OF_ENTRY, 16
.set OF_REFUSAL, 20
2:  pop ebp
    mov [ebx], ecx
    /* Everything that is not in the file is zero, whoever loaded it. */
    mov edi, [ebp + OF_BSS]
    mov ecx, [ebp + OF_BSS_END]
    sub ecx, edi
    add edi, ebp
    shr ecx, 2
    xor eax, eax
    rep stosd
    mov edi, edx

/* From all of them: EBP = sluice_here, ESI = what EBX was, EDI = which way; paging is off. */
sluice_entry_32:
    mov esp, [ebp + OF_AREA]
    lea esp, [esp + ebp + {stack_end}]

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
    mov ebx, [ebp + OF_TABLES]
    add ebx, ebp
    mov edx, ebx
    lea eax, [ebx + 0x1003]
    mov [ebx], eax
    add ebx, 0x1000
    lea eax, [ebx + 0x1003]
    mov ecx, 4
2:
    mov [ebx], eax
    add eax, 0x1000
    add ebx, 8
    dec ecx
    jnz 2b
    lea ebx, [edx + 0x2000]
    mov eax, 0x83
    mov ecx, 2048
3:
    mov [ebx], eax
    add eax, 0x200000
    add ebx, 8
    dec ecx
    jnz 3b

    mov eax, {cr4}
    mov cr4, eax
    mov cr3, edx
    mov ecx, 0xc0000080
    mov eax, {efer}
    xor edx, edx
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    /* A table of segments, and its address before it, on the stack. */
    push 0x00cf9300
    push 0x0000ffff
    push 0x00af9b00
    push 0x0000ffff
    push 0
    push 0
    mov eax, esp
    push eax
    push 23 << 16
    lgdt [esp + 2]
    push 8
    mov eax, [ebp + OF_ENTRY]
    add eax, ebp
    push eax
    retf

9:  /* No 64-bit CPU: the only word that can be had here. */
    mov ebx, [ebp + OF_REFUSAL]
    add ebx, ebp
8:  mov al, [ebx]
    test al, al
    jz 7f
    mov edx, 0x3f8
    out dx, al
    inc ebx
    jmp 8b
7:  hlt
    jmp 7b
sluice_refusal:
    .asciz "Sluice: this CPU has no 64-bit mode.\r\n"

.code64
sluice_entry_64:
    mov ecx, 16
    mov ds, ecx
    mov es, ecx
    mov ss, ecx
    lea rsp, [rip + __boot_area]
    add rsp, {stack_end}
    mov r12d, esi
    mov r13d, edi
    cmp edi, {uefi}
    je 1f
    lea rbx, [rip + __image_start]
    call sluice_relocate
1:  xor ebp, ebp
    mov edi, r12d
    mov esi, r13d
    call {main}
    ud2

/*
 * Relocates the image, or the copy of it, at RBX. R_X86_64_RELATIVE is all that a static image has; here the unaligned ones,
 * if any, whose addends are beside them. What is at an address that was linked lies RAX farther.
 */
sluice_relocate:
    mov rax, rbx
    sub rax, offset __link_address
    lea rsi, [rip + __rela_start]
    lea rdi, [rip + __rela_end]
1:  cmp rsi, rdi
    jae 2f
    mov rcx, [rsi]
    mov r8, [rsi + 16]
    add r8, rax
    mov [rcx + rax], r8
    add rsi, 24
    jmp 1b
    /* The aligned ones, packed (gABI, SHT_RELR): an even word is the place of one, an odd one has a bit for each of the 63
       words behind the last. The addends are in place. */
2:  lea rsi, [rip + __relr_start]
    lea rdi, [rip + __relr_end]
3:  cmp rsi, rdi
    jae 7f
    mov rcx, [rsi]
    add rsi, 8
    test cl, 1
    jnz 4f
    lea r8, [rcx + rax]
    add [r8], rax
    add r8, 8
    jmp 3b
4:  mov r9, r8
5:  shr rcx, 1
    jz 6f
    test cl, 1
    jz 8f
    add [r9], rax
8:  add r9, 8
    jmp 5b
6:  add r8, 63 * 8
    jmp 3b
7:  ret

/*
 * UEFI's entry (UEFI 2.10, 4.1, by the calling convention of 2.3.4): RCX = handle of the image, RDX = system table, on the
 * stack and in the map of firmware. The image is copied to memory below 4 GiB; the rest happens in the copy.
 */
.global sluice_efi_entry
sluice_efi_entry:
    push rbx
    push rbp
    push rdi
    push rsi
    push r12
    push r13
    push r14
    push r15
    sub rsp, 40
    cld
    mov r12, rcx
    mov r13, rdx
    lea r14, [rip + __image_start]
    lea r15, [rip + __bundle_start]
    add r15, [rip + __bundle_len]
    sub r15, r14
    mov rax, [rdx + 96] /* EFI_SYSTEM_TABLE.BootServices */
    mov rax, [rax + 40] /* EFI_BOOT_SERVICES.AllocatePages */
    mov ecx, 1 /* AllocateMaxAddress */
    mov edx, 1 /* EfiLoaderCode */
    lea r8, [r15 + 0x200fff]
    shr r8, 12
    mov r9d, 0xffffffff
    mov [rsp + 32], r9
    lea r9, [rsp + 32]
    call rax
    test rax, rax
    jnz 9f
    mov rbx, [rsp + 32]
    add rbx, 0x1fffff
    and rbx, -0x200000
    mov rsi, r14
    mov rdi, rbx
    lea rcx, [r15 + 7]
    shr rcx, 3
    rep movsq
    call sluice_relocate
    lea rax, [rip + 1f]
    sub rax, r14
    add rax, rbx
    jmp rax
1:  mov rdi, r12
    mov rsi, r13
    call {efi_main}
    test rax, rax
    jnz 9f
    /* Firmware is gone. What it switched on is off again in the mode that everybody else enters in. */
    cli
    lea rbp, [rip + sluice_here]
    mov esp, [rbp + OF_AREA]
    lea esp, [rsp + rbp + {stack_end}]
    mov rax, 0x00cf93000000ffff
    push rax
    mov rax, 0x00cf9b000000ffff
    push rax
    push 0
    mov rax, rsp
    push rax
    sub rsp, 8
    mov word ptr [rsp + 6], 23
    lgdt [rsp + 6]
    push 8
    lea rax, [rip + 2f]
    push rax
    retfq
.code32
2:  mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    xor eax, eax
    xor edx, edx
    wrmsr
    xor esi, esi
    mov edi, {uefi}
    jmp sluice_entry_32
.code64
9:  add rsp, 40
    pop r15
    pop r14
    pop r13
    pop r12
    pop rsi
    pop rdi
    pop rbp
    pop rbx
    ret
.popsection
