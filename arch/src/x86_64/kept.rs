//! What a guest has in the hardware that no exit saves: nobody else runs on its CPU, and the hypervisor itself uses none of it.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// All of it as after reset: floating point, XCR0 and debug registers. What VMX has in it beside that is VMX's to reset.
pub(super) fn reset() {
    // SAFETY: no breakpoint is armed: DR7 is as after reset while the hypervisor runs.
    unsafe {
        asm!(
            "mov dr0, {zero}",
            "mov dr1, {zero}",
            "mov dr2, {zero}",
            "mov dr3, {zero}",
            zero = in(reg) 0u64,
            options(nomem, nostack, preserves_flags)
        );
    }
    reset_floating_point();
}

/// The area that XRSTOR and FXRSTOR read: all zeros but for MXCSR, and so for XSTATE_BV: everything as at its start.
#[repr(C, align(64))]
struct Initial([u32; 144]);

static INITIAL: Initial = {
    let mut words = [0; 144];
    words[6] = 0x1f80;
    Initial(words)
};

/// x87, SSE and whatever else XCR0 can enable, and XCR0 too.
fn reset_floating_point() {
    const OSFXSR: u64 = 1 << 9;
    const OSXSAVE: u64 = 1 << 18;
    let has_xsave = __cpuid(1).ecx >> 26 & 1 != 0;
    let area = &raw const INITIAL;
    // SAFETY: 1. These registers hold nothing of the hypervisor's, which is built without floating point; CR4 is put back.
    //         2. XCR0 gets what CPUID 0xd says that it can hold; the area has 512 bytes and a header of 64.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        let with = cr4 | OSFXSR | if has_xsave { OSXSAVE } else { 0 };
        asm!("mov cr4, {}", in(reg) with, options(nomem, nostack, preserves_flags));
        asm!("fninit", options(nomem, nostack, preserves_flags));
        if has_xsave {
            let all = __cpuid_count(0xd, 0);
            asm!("xsetbv", in("eax") all.eax, in("edx") all.edx, in("ecx") 0,
                options(nomem, nostack, preserves_flags));
            asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                options(readonly, nostack, preserves_flags));
            asm!("xsetbv", in("eax") 1, in("edx") 0, in("ecx") 0,
                options(nomem, nostack, preserves_flags));
        } else {
            asm!("fxrstor64 [{}]", in(reg) area, options(readonly, nostack, preserves_flags));
        }
        asm!("mov cr4, {}", in(reg) cr4, options(nomem, nostack, preserves_flags));
    }
}
