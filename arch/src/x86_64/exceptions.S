/* One stub for each of the 256 vectors, 8 bytes apart: the vector, and on. */
.pushsection .text.sluice_vectors, "ax"
.balign 8
.global sluice_vectors
sluice_vectors:
.set vector, 0
.rept 256
    .balign 8
    /* push vector, sign-extended: its low byte is what counts */
    .byte 0x6a, vector
    /* Those where the CPU itself pushes an error code (AMD64 APM 2, 8.4). */
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    jmp sluice_exception
    .else
    jmp sluice_exception_without_code
    .endif
    .set vector, vector + 1
.endr

/* An error code of 0 below the vector. */
sluice_exception_without_code:
    push qword ptr [rsp]
    mov qword ptr [rsp + 8], 0

/* An `ExceptionFrame` on the stack. Whatever is interrupted is ours, so GS is. */
sluice_exception:
    and qword ptr [rsp], 0xff
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rax, cr2
    push rax
    cld
    mov rdi, rsp
    /* 16 registers and 7 words of the CPU's: with the alignment that it gave the stack, it is a multiple of 16 again. */
    sub rsp, 8
    call {handler}
    add rsp, 16
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
.popsection
