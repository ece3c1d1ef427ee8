//! What one life of a partition leaves in registers for the next: nothing. A DMA address in the `edu` device, which cannot
//! be reset, is all that tells the second life from the first.

use core::arch::asm;
use payloads::access::{read_msr, write_msr};
use payloads::edu::Edu;
use payloads::runtime::{self, Guest};

const MARK: u64 = 0x5ec0_4d11_fe00;

/// Registers of the vCPU's own that are zero out of a reset: SYSENTER_*, STAR to FMASK, bases, TSC_AUX. Not PAT: QEMU's SVM
/// has one for guest and host, and no G_PAT.
const OWN: [u32; 11] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

/// Checked first of all, in each life.
pub fn nothing_is_left(guest: &mut Guest) {
    for number in OWN {
        let value = read_msr(number).value;
        guest.checks.check(
            value == 0,
            format_args!("MSR {number:#x} is new: {value:#x}"),
        );
    }
    let debug: [u64; 7];
    // SAFETY: reads without side effect.
    unsafe {
        let (a, b, c, d, status, control, page): (u64, u64, u64, u64, u64, u64, u64);
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c, out(reg) d);
        asm!("mov {}, dr6", "mov {}, dr7", "mov {}, cr2", out(reg) status, out(reg) control, out(reg) page);
        debug = [a, b, c, d, status, control, page];
    }
    guest.checks.check(
        debug == [0, 0, 0, 0, 0xffff_0ff0, 0x400, 0],
        format_args!("debug registers and CR2 are new: {debug:x?}"),
    );
    let mut vectors = [0_u64; 2];
    let mut control = 0_u32;
    // SAFETY: this program has no floating point of its own; all of XMM0 to XMM15 is put together in XMM0.
    unsafe {
        allow_floating_point();
        asm!(
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "orps xmm0, xmm\\n",
            ".endr",
            "movups [{vectors}], xmm0",
            "stmxcsr [{control}]",
            vectors = in(reg) &raw mut vectors, control = in(reg) &raw mut control,
        );
    }
    guest.checks.check(
        vectors == [0; 2] && control == 0x1f80,
        format_args!("floating point is new: {vectors:x?} {control:#x}"),
    );
    let ns = runtime::now_ns();
    guest.checks.check(
        ns < 5_000_000_000,
        format_args!("its clock is new: {ns} ns"),
    );
}

/// Whether this is the life after [`leave_everything`].
pub fn is_second(guest: &Guest) -> bool {
    Edu::find(&guest.tree).is_some_and(|edu| edu.source() == MARK)
}

/// Writes to everything that could last.
pub fn leave_everything(guest: &Guest) {
    if let Some(edu) = Edu::find(&guest.tree) {
        edu.set_source(MARK);
    }
    for number in OWN {
        // Some have 32 bits.
        let value = match number {
            0x174 | 0xc000_0084 | 0xc000_0103 => 0x10,
            _ => MARK,
        };
        // SAFETY: no system call is made, and nothing uses FS or GS.
        unsafe { write_msr(number, value) };
    }
    // SAFETY: DR7 enables nothing; nobody computes with vectors.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", "mov cr2, {0}", in(reg) MARK);
        asm!("mov dr7, {}", in(reg) 0x700_u64);
        allow_floating_point();
        let ones = [u64::MAX; 2];
        let control = 0x7f80_u32;
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "movups xmm\\n, [{ones}]",
            ".endr",
            "ldmxcsr [{control}]",
            ones = in(reg) &raw const ones, control = in(reg) &raw const control,
        );
    }
}

/// # Safety
/// What runs from here on has no use for vector registers of its own.
pub unsafe fn allow_floating_point() {
    // SAFETY: the caller's promise. CR4.OSFXSR.
    unsafe { asm!("mov {0}, cr4", "or {0}, 0x200", "mov cr4, {0}", out(reg) _) };
}
