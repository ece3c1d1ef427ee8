//! Context descriptors (IHI 0070, §5.3 and §5.4), one type for each 64-bit word in use.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// 64-bit words of a descriptor.
pub const CD_WORDS: usize = 8;
/// Bytes of a descriptor.
pub const CD_BYTES: usize = 64;

register_bitfields![u64,
    /// Level 1 context descriptor (§5.3).
    pub L1CD [
        /// There is a level 2 table.
        V OFFSET(0) NUMBITS(1) [],
        /// Address bits [51:12] of the level 2 table.
        L2PTR OFFSET(12) NUMBITS(40) []
    ],
    /// Word 0 (§5.4).
    pub CD0 [
        /// 64 minus the input address width below.
        T0SZ OFFSET(0) NUMBITS(6) [],
        /// Granule of the lower table; encoded otherwise than TG1.
        TG0 OFFSET(6) NUMBITS(2) [
            Granule4K = 0b00,
            Granule64K = 0b01,
            Granule16K = 0b10
        ],
        /// Inner cacheability of lower walks.
        IR0 OFFSET(8) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Outer cacheability of lower walks.
        OR0 OFFSET(10) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Shareability of lower walks.
        SH0 OFFSET(12) NUMBITS(2) [
            Outer = 0b10,
            Inner = 0b11
        ],
        /// No walks below.
        EPD0 OFFSET(14) NUMBITS(1) [],
        /// Big-endian tables.
        ENDI OFFSET(15) NUMBITS(1) [],
        /// 64 minus the input address width above.
        T1SZ OFFSET(16) NUMBITS(6) [],
        /// Granule of the upper table.
        TG1 OFFSET(22) NUMBITS(2) [
            Granule16K = 0b01,
            Granule4K = 0b10,
            Granule64K = 0b11
        ],
        /// Inner cacheability of upper walks.
        IR1 OFFSET(24) NUMBITS(2) [],
        /// Outer cacheability of upper walks.
        OR1 OFFSET(26) NUMBITS(2) [],
        /// Shareability of upper walks.
        SH1 OFFSET(28) NUMBITS(2) [],
        /// No walks above.
        EPD1 OFFSET(30) NUMBITS(1) [],
        /// The descriptor is valid.
        V OFFSET(31) NUMBITS(1) [],
        /// Output address size, encoded as IDR5.OAS.
        IPS OFFSET(32) NUMBITS(3) [],
        /// No access flag faults.
        AFFD OFFSET(35) NUMBITS(1) [],
        /// Writable is never executable.
        WXN OFFSET(36) NUMBITS(1) [],
        /// Writable by unprivileged is never executable by privileged.
        UWXN OFFSET(37) NUMBITS(1) [],
        /// Top byte below is ignored.
        TBI0 OFFSET(38) NUMBITS(1) [],
        /// Top byte above is ignored.
        TBI1 OFFSET(39) NUMBITS(1) [],
        /// AArch64 table format.
        AA64 OFFSET(41) NUMBITS(1) [],
        /// The SMMU sets dirty state.
        HD OFFSET(42) NUMBITS(1) [],
        /// The SMMU sets access flags.
        HA OFFSET(43) NUMBITS(1) [],
        /// Stall on a fault.
        S OFFSET(44) NUMBITS(1) [],
        /// Record faults.
        R OFFSET(45) NUMBITS(1) [],
        /// Abort faulting transactions, not RAZ/WI.
        A OFFSET(46) NUMBITS(1) [],
        /// The ASID is not shared with CPUs: their broadcasts do not concern it.
        ASET OFFSET(47) NUMBITS(1) [],
        /// ASID.
        ASID OFFSET(48) NUMBITS(16) []
    ],
    /// Words 1 and 2 (§5.4).
    pub CD1 [
        /// Address bits [51:4] of the table; an IPA where stage 2 is on too.
        TTB OFFSET(4) NUMBITS(48) [],
        /// Hierarchical attributes are ignored.
        HAD OFFSET(60) NUMBITS(1) []
    ]
];
