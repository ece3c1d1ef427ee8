//! Firmware calls that mean nothing, and registers and instructions that are not a guest's.

use crate::map::{FRAME, GICD, GICR};
use core::arch::asm;
use payloads::access::{Conduit, Outcome, attempt, call, store};
use payloads::runtime::{self, Guest};

/// Calls that do not exist, or with arguments that mean nothing, by both ways.
pub fn firmware_calls(guest: &mut Guest) {
    const NOT_SUPPORTED: i64 = -1;
    const INVALID_PARAMETERS: i64 = -2;
    const ALREADY_ON: i64 = -4;
    let cases: [(&str, u32, [u64; 3], i64); 16] = [
        (
            "a function that PSCI does not have",
            0x8400_001f,
            [0; 3],
            NOT_SUPPORTED,
        ),
        ("MIGRATE", 0x8400_0005, [0; 3], NOT_SUPPORTED),
        ("SYSTEM_RESET2", 0x8400_0012, [0; 3], NOT_SUPPORTED),
        ("MEM_PROTECT", 0x8400_0013, [1, 0, 0], NOT_SUPPORTED),
        (
            "CPU_ON of a CPU that is not there",
            0xc400_0003,
            [77, 0x4000_1000, 0],
            INVALID_PARAMETERS,
        ),
        (
            "CPU_ON of itself",
            0xc400_0003,
            [0, 0x4000_1000, 0],
            ALREADY_ON,
        ),
        (
            "AFFINITY_INFO of a CPU that is not there",
            0xc400_0004,
            [77, 0, 0],
            INVALID_PARAMETERS,
        ),
        (
            "AFFINITY_INFO of a level that is not there",
            0xc400_0004,
            [0, 9, 0],
            INVALID_PARAMETERS,
        ),
        (
            "CPU_SUSPEND to a state that is not there",
            0xc400_0001,
            [!0, 0, 0],
            INVALID_PARAMETERS,
        ),
        (
            "CPU_SUSPEND to power-down",
            0xc400_0001,
            [1 << 16, 0x4000_1000, 0],
            INVALID_PARAMETERS,
        ),
        ("PSCI_STAT_COUNT", 0xc400_0011, [0; 3], NOT_SUPPORTED),
        (
            "the Arm architecture service",
            0x8000_8000,
            [0; 3],
            NOT_SUPPORTED,
        ),
        ("random numbers", 0x8400_0050, [0; 3], NOT_SUPPORTED),
        ("an OEM service", 0x8300_0000, [0; 3], NOT_SUPPORTED),
        ("a hypervisor service", 0xc600_0000, [0; 3], NOT_SUPPORTED),
        ("a trusted OS", 0xb200_0000, [0; 3], NOT_SUPPORTED),
    ];
    for (what, function, arguments, expected) in cases {
        let answers = [Conduit::Hvc, Conduit::Smc]
            .map(|conduit| call(conduit, function, arguments).cast_signed());
        guest.checks.check(
            answers == [expected; 2],
            format_args!("{what}: {answers:?}"),
        );
    }
    // An exception is taken at the call itself, so that what goes on is the instruction behind it.
    // SAFETY: neither call exists; both are skipped if refused.
    let refused = unsafe {
        [
            attempt(|| {
                let mut went_on: u64 = 0;
                asm!("hvc #1", "mov x0, #1", inout("x0") went_on, clobber_abi("C"));
                went_on
            }),
            attempt(|| {
                let mut went_on: u64 = 0;
                asm!("smc #1", "mov x0, #1", inout("x0") went_on, clobber_abi("C"));
                went_on
            }),
        ]
    };
    let expected = Outcome {
        refused: true,
        value: 1,
    };
    guest.checks.check(
        refused == [expected; 2],
        format_args!("HVC #1 and SMC #1 are undefined: {refused:x?}"),
    );
}

/// CPU_SUSPEND to standby lasts until an interrupt is there, masked or not: the virtual timer's, which has its own level.
pub fn standby(guest: &mut Guest) {
    const MS: u64 = 20;
    store(GICD, 4, 0x12); // CTLR: EnableGrp1, ARE
    store(GICR + 0x14, 4, 0); // WAKER: awake
    store(GICR + FRAME + 0x80, 4, !0); // IGROUPR0
    store(GICR + FRAME + 0x41b, 1, 0xa0); // IPRIORITYR of PPI 27
    store(GICR + FRAME + 0x100, 4, 1 << 27); // ISENABLER0
    let start = runtime::now_ns();
    // SAFETY: interrupts are masked in PSTATE, so that the timer's ends the wait and is never taken.
    unsafe {
        asm!(
            "msr S3_0_C4_C6_0, {mask}",    // ICC_PMR_EL1
            "msr S3_0_C12_C12_7, {one}",   // ICC_IGRPEN1_EL1
            "msr CNTV_TVAL_EL0, {ticks}",
            "msr CNTV_CTL_EL0, {one}",
            "isb",
            mask = in(reg) 0xff_u64, one = in(reg) 1_u64, ticks = in(reg) runtime::frequency() * MS / 1000,
        );
    }
    let answers = [Conduit::Hvc, Conduit::Smc].map(|conduit| call(conduit, 0xc400_0001, [0; 3]));
    let ms = (runtime::now_ns() - start) / 1_000_000;
    // SAFETY: the timer is off again.
    unsafe { asm!("msr CNTV_CTL_EL0, xzr", "isb") };
    guest.checks.check(
        answers == [0; 2] && ms >= MS,
        format_args!("standby lasts until an interrupt: {ms} ms, {answers:?}"),
    );
}

/// Registers and instructions that belong to others, or that the identification registers deny.
pub fn system_registers(guest: &mut Guest) {
    macro_rules! read {
        ($($what:literal $name:literal),* $(,)?) => {
            [$(($what, attempt(|| {
                let mut value: u64 = 0;
                // SAFETY: one read of a register, skipped if refused.
                unsafe { asm!(concat!("mrs {0}, ", $name), inout(reg) value) };
                value
            }))),*]
        };
    }
    let trapped = read! {
        "implementation defined space" "S3_0_C15_C0_0",
        "PMCR_EL0" "S3_3_C9_C12_0",
        "PMCCNTR_EL0" "S3_3_C9_C13_0",
        "PMSCR_EL1" "S3_0_C9_C9_0",
        "TRBLIMITR_EL1" "S3_0_C9_C11_0",
        "ZCR_EL1" "S3_0_C1_C2_0",
        "SMCR_EL1" "S3_0_C1_C2_6",
        "ERRIDR_EL1" "S3_0_C5_C3_0",
        "LORC_EL1" "S3_0_C10_C4_3",
        "AMCR_EL0" "S3_3_C13_C2_0",
        "CNTPS_CTL_EL1" "S3_7_C14_C2_1",
    };
    let higher = read! {
        "HCR_EL2" "S3_4_C1_C1_0",
        "VTTBR_EL2" "S3_4_C2_C1_0",
        "SCTLR_EL2" "S3_4_C1_C0_0",
        "VBAR_EL2" "S3_4_C12_C0_0",
        "TPIDR_EL2" "S3_4_C13_C0_2",
        "CNTHCTL_EL2" "S3_4_C14_C1_0",
        "ICH_HCR_EL2" "S3_4_C12_C11_0",
        "ICC_SRE_EL2" "S3_4_C12_C9_5",
        "SCR_EL3" "S3_6_C1_C1_0",
    };
    for (what, outcome) in trapped {
        guest.checks.check(
            outcome.is_nothing(),
            format_args!("{what} reads as nothing: {outcome:x?}"),
        );
    }
    for (what, outcome) in higher {
        guest
            .checks
            .check(outcome.refused, format_args!("{what} is refused"));
    }
    // SAFETY: each is one instruction, skipped if refused; none changes what Rust relies on.
    let denied = unsafe {
        [
            (
                // RDVL X2, #1
                "SVE",
                attempt(|| {
                    asm!(".inst 0x04bf5022", out("x2") _);
                    0
                }),
            ),
            (
                // SMSTART
                "SME",
                attempt(|| {
                    asm!(".inst 0xd503477f");
                    0
                }),
            ),
            (
                "a store to implementation defined space",
                attempt(|| {
                    asm!("msr S3_0_C15_C0_0, {}", in(reg) !0_u64);
                    0
                }),
            ),
            (
                "a store to an identification register",
                attempt(|| {
                    asm!("msr S3_0_C0_C4_0, {}", in(reg) !0_u64);
                    0
                }),
            ),
            (
                "a TLB invalidation of EL2",
                attempt(|| {
                    asm!("sys #4, c8, c7, #0");
                    0
                }),
            ),
        ]
    };
    for (what, outcome) in denied {
        guest
            .checks
            .check(outcome.refused, format_args!("{what} is refused"));
    }
}
