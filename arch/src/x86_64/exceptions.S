/* One stub for each of the 256 vectors, 16 bytes apart: an error code, the vector, and on. */
.pushsection .text.sluice_vectors, "ax"
.balign 16
.global sluice_vectors
sluice_vectors:
.set vector, 0
.rept 256
    .balign 16
    /* Those where the CPU itself pushes an error code (AMD64 APM 2, 8.4). */
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    /* push vector */
    .byte 0x68
    .long vector
    jmp sluice_exception
    .set vector, vector + 1
.endr

/* An `ExceptionFrame` on the stack. Whatever is interrupted is ours, so GS is. */
sluice_exception:
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
