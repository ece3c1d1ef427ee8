//! Registers and instructions that are not a guest's.

use core::arch::x86_64::__cpuid_count;
use payloads::access::{read_msr, write_msr};
use payloads::attempt;
use payloads::runtime::Guest;

/// Memory of this program.
const PAGE: u64 = 0x20_0000;

/// Virtualization, its own or the machine's, is nothing that a guest has.
pub fn instructions(guest: &mut Guest) {
    let mut refused = |what, refused| {
        guest
            .checks
            .check(refused, format_args!("{what} is refused"));
    };
    // SAFETY: none is carried out.
    unsafe {
        refused("VMLAUNCH", attempt!("vmlaunch"));
        refused("VMRESUME", attempt!("vmresume"));
        refused("VMXOFF", attempt!("vmxoff"));
        refused("VMRUN", attempt!("vmrun rax"; in("rax") PAGE));
        refused("VMLOAD", attempt!("vmload rax"; in("rax") PAGE));
        refused("VMSAVE", attempt!("vmsave rax"; in("rax") PAGE));
        refused("STGI", attempt!("stgi"));
        refused("CLGI", attempt!("clgi"));
        refused("SKINIT", attempt!("skinit eax"; in("eax") 0));
        refused("RSM", attempt!("rsm"));
        refused(
            "MONITOR",
            attempt!("monitor"; in("rax") PAGE, in("ecx") 0, in("edx") 0),
        );
        refused("MWAIT", attempt!("mwait"; in("eax") 0, in("ecx") 0));
        refused(
            "RDPMC",
            attempt!("rdpmc"; in("ecx") 0, out("eax") _, out("edx") _),
        );
        refused(
            "XSETBV of nothing",
            attempt!("xsetbv"; in("ecx") 0, in("eax") 0, in("edx") 0),
        );
    }
    let mut answers = [0; 2];
    // SAFETY: neither does anything.
    let none = unsafe {
        [
            attempt!("vmcall"; inout("rax") 0_u64 => answers[0]),
            attempt!("vmmcall"; inout("rax") 0_u64 => answers[1]),
        ]
    };
    // Each maker's CPUs refuse the other's.
    let told = answers.iter().filter(|&&answer| answer == -1000_i64 as u64);
    guest.checks.check(
        none[0] != none[1] && told.count() == 1,
        format_args!("calls of a hypervisor's are none"),
    );
    // SAFETY: caches are the machine's; this one does nothing.
    let flushed = unsafe { !attempt!("wbinvd") && !attempt!("invd") };
    guest
        .checks
        .check(flushed, format_args!("caches may be flushed, or nearly"));
    let mut says = 0;
    for first in [0, 0x4000_0000, 0x4000_0100, 0x8000_0000, 0xc000_0000] {
        for leaf in first..first + 0x40 {
            for subleaf in 0..4 {
                says |= __cpuid_count(leaf, subleaf).eax;
            }
        }
    }
    let (vmx, svm) = (
        __cpuid_count(1, 0).ecx >> 5 & 1,
        __cpuid_count(0x8000_0001, 0).ecx >> 2 & 1,
    );
    guest.checks.check(
        vmx == 0 && svm == 0 && says != 0,
        format_args!("CPUID has neither VMX nor SVM"),
    );
}

/// All registers but those that Rust, or the next check, relies on.
pub fn registers(guest: &mut Guest) {
    /// TSC, APIC_BASE, SYSENTER_*, PAT, the deadline, x2APIC; EFER, system calls and segment bases.
    const NEEDED: [core::ops::RangeInclusive<u32>; 8] = [
        0x10..=0x10,
        0x1b..=0x1b,
        0x174..=0x176,
        0x277..=0x277,
        0x6e0..=0x6e0,
        0x800..=0x8ff,
        0xc000_0080..=0xc000_0084,
        0xc000_0100..=0xc000_0103,
    ];
    let (mut all, mut read, mut written) = (0, 0, 0);
    for first in [0, 0x4000_0000, 0x4b56_4d00, 0xc000_0000, 0xc001_0000] {
        for msr in first..first + 0x1100 {
            all += 1;
            let outcome = read_msr(msr);
            read += u32::from(!outcome.refused);
            if NEEDED.iter().any(|needed| needed.contains(&msr)) {
                continue;
            }
            // SAFETY: none that this program relies on.
            let taken = unsafe { [!write_msr(msr, !0), !write_msr(msr, 0)] };
            written += u32::from(taken != [false; 2]);
        }
    }
    guest.checks.check(
        read < 100 && written < 32,
        format_args!("of {all} registers {read} can be read, and {written} others be written"),
    );
    let end = guest
        .tree
        .memory
        .map_or(0, |memory| memory.base + memory.len);
    // The clock writes to memory, and to nothing else.
    // SAFETY: they are refused.
    let refused = unsafe {
        write_msr(0x4b56_4d01, end | 1)
            && write_msr(0x4b56_4d01, end - 16 + 1)
            && write_msr(0x4b56_4d01, 3)
            && write_msr(0x4b56_4d01, !0)
            && write_msr(0x4b56_4d00, end - 8)
            && write_msr(0x4b56_4d00, 0xfec0_0000)
    };
    guest
        .checks
        .check(refused, format_args!("no clock outside of its memory"));
    // SAFETY: EFER with what is not there, or without long mode while it is active.
    let refused = unsafe {
        let efer = read_msr(0xc000_0080).value;
        write_msr(0xc000_0080, efer | 1 << 12)
            && write_msr(0xc000_0080, !0)
            && write_msr(0xc000_0080, efer & !(1 << 8))
    };
    guest
        .checks
        .check(refused, format_args!("EFER has no SVME, and keeps LME"));
}
