//! What one life of a partition leaves in registers for the next: nothing. A DMA address in the `edu` device, which cannot
//! be reset, is all that tells the second life from the first.

use core::arch::asm;
use payloads::edu::Edu;
use payloads::runtime::{self, Guest};

const MARK: u64 = 0x5ec0_4d11_fe00;

/// System registers that read as zero out of a reset here, by name.
macro_rules! fresh {
    ($action:ident) => {
        $action!(
            "MDSCR_EL1" "DBGBVR0_EL1" "DBGBCR0_EL1" "DBGBVR1_EL1" "DBGWVR0_EL1" "DBGWCR1_EL1"
            "S3_0_C2_C1_0" "S3_0_C2_C1_3" "S3_0_C2_C2_0" "S3_0_C2_C2_2" "S3_0_C2_C3_1"
            "CNTV_CTL_EL0" "CNTV_CVAL_EL0" "TPIDR_EL0" "TPIDR_EL1" "TPIDRRO_EL0" "CONTEXTIDR_EL1"
            "TTBR1_EL1" "PAR_EL1" "CSSELR_EL1"
        )
    };
}

/// Checked first of all, in each life.
pub fn nothing_is_left(guest: &mut Guest) {
    macro_rules! read {
        ($($name:literal)*) => {
            [$({
                let value: u64;
                // SAFETY: a read without side effect.
                unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value) };
                ($name, value)
            }),*]
        };
    }
    for (name, value) in fresh!(read) {
        guest
            .checks
            .check(value == 0, format_args!("{name} is new: {value:#x}"));
    }
    let (mut vectors, status, control): (u64, u64, u64);
    // SAFETY: this program has no floating point of its own; all of V0 to V31 is put together in V0.
    unsafe {
        allow_floating_point();
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "orr v0.16b, v0.16b, v\\n\\().16b",
            ".endr",
            "mov {vectors}, v0.d[0]",
            "mov {half}, v0.d[1]",
            "orr {vectors}, {vectors}, {half}",
            "mrs {status}, FPSR",
            "mrs {control}, FPCR",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            vectors = out(reg) vectors, half = out(reg) _, status = out(reg) status, control = out(reg) control,
        );
    }
    vectors |= status | control;
    guest
        .checks
        .check(vectors == 0, format_args!("floating point is new"));
}

/// Whether this is the life after [`end`].
pub fn is_second(guest: &Guest) -> bool {
    Edu::find(&guest.tree).is_some_and(|edu| edu.source() == MARK)
}

/// Writes to everything that could last, and restarts.
pub fn end(guest: &Guest) -> ! {
    if let Some(edu) = Edu::find(&guest.tree) {
        edu.set_source(MARK);
    }
    macro_rules! write {
        ($($name:literal)*) => {
            // SAFETY: breakpoints and the timer have no effect with exceptions masked, and keys none on code without
            // authentication; nothing runs in the upper half of the address space. No value enables anything else.
            unsafe { $(asm!(concat!("msr ", $name, ", {}"), in(reg) 0x41f1_u64);)* }
        };
    }
    fresh!(write);
    // SAFETY: as above.
    unsafe {
        allow_floating_point();
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "dup v0.2d, {0}",
            "dup v15.2d, {0}",
            "dup v31.2d, {0}",
            "msr FPCR, {1}",
            "msr FPSR, {1}",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            in(reg) u64::MAX, in(reg) 1_u64 << 27 | 1 << 24,
        );
    }
    runtime::reset()
}

/// # Safety
/// What runs from here on has no use for floating point registers of its own.
unsafe fn allow_floating_point() {
    // SAFETY: the caller's promise.
    unsafe { asm!("msr CPACR_EL1, {}", "isb", in(reg) 3_u64 << 20) };
}
