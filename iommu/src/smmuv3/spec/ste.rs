//! Stream table descriptors and entries (IHI 0070, §5.1 and §5.2), one type for each 64-bit word in use.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// 64-bit words of an entry.
pub const STE_WORDS: usize = 8;
/// Bytes of an entry.
pub const STE_BYTES: usize = 64;

register_bitfields![u64,
    /// Level 1 stream table descriptor (§5.1).
    pub L1STD [
        /// The level 2 table has 2^(SPAN - 1) entries; 0 is an invalid descriptor.
        SPAN OFFSET(0) NUMBITS(5) [],
        /// Address bits [51:6] of the level 2 table.
        L2PTR OFFSET(6) NUMBITS(46) []
    ],
    /// Word 0 (§5.2).
    pub STE0 [
        /// The entry is valid.
        V OFFSET(0) NUMBITS(1) [],
        /// What happens to the stream.
        CONFIG OFFSET(1) NUMBITS(3) [
            Abort = 0b000,
            Bypass = 0b100,
            StageOne = 0b101,
            StageTwo = 0b110,
            Nested = 0b111
        ],
        /// Format of the context descriptors: one, a linear table, two levels.
        S1FMT OFFSET(4) NUMBITS(2) [
            Linear = 0b00,
            TwoLevel4K = 0b01,
            TwoLevel64K = 0b10
        ],
        /// Address bits [51:6] of the context descriptors; an IPA where stage 2 is on too.
        S1CONTEXTPTR OFFSET(6) NUMBITS(46) [],
        /// log2 of the number of context descriptors.
        S1CDMAX OFFSET(59) NUMBITS(5) []
    ],
    /// Word 1 (§5.2).
    pub STE1 [
        /// What a transaction without a substream does where S1CDMAX is not 0.
        S1DSS OFFSET(0) NUMBITS(2) [
            Terminate = 0b00,
            Bypass = 0b01,
            Substream0 = 0b10
        ],
        /// Inner cacheability of context descriptor fetches.
        S1CIR OFFSET(2) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Outer cacheability of context descriptor fetches.
        S1COR OFFSET(4) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Shareability of context descriptor fetches.
        S1CSH OFFSET(6) NUMBITS(2) [
            Outer = 0b10,
            Inner = 0b11
        ],
        /// Records of like faults may be merged.
        MEV OFFSET(19) NUMBITS(1) [],
        /// Stage 2 forces write-back attributes.
        S2FWB OFFSET(25) NUMBITS(1) [],
        /// Stage 1 faults do not stall whatever the context descriptor says.
        S1STALLD OFFSET(27) NUMBITS(1) [],
        /// Stream world.
        STRW OFFSET(30) NUMBITS(2) [
            El1 = 0b00,
            El2 = 0b10
        ],
        /// ATS: 0 aborts translation requests and translated transactions.
        EATS OFFSET(28) NUMBITS(2) [
            Abort = 0b00,
            Full = 0b01,
            Split = 0b10
        ],
        /// Shareability override.
        SHCFG OFFSET(44) NUMBITS(2) [
            NonShareable = 0b00,
            Incoming = 0b01
        ]
    ],
    /// Word 2 (§5.2): stage 2.
    pub STE2 [
        /// VMID.
        S2VMID OFFSET(0) NUMBITS(16) [],
        /// 64 minus the input address width.
        S2T0SZ OFFSET(32) NUMBITS(6) [],
        /// Start level; for 4 KiB granules 2 minus the level.
        S2SL0 OFFSET(38) NUMBITS(2) [],
        /// Inner cacheability of walks.
        S2IR0 OFFSET(40) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Outer cacheability of walks.
        S2OR0 OFFSET(42) NUMBITS(2) [
            NonCacheable = 0b00,
            WriteBackAllocate = 0b01
        ],
        /// Shareability of walks.
        S2SH0 OFFSET(44) NUMBITS(2) [
            Outer = 0b10,
            Inner = 0b11
        ],
        /// Granule.
        S2TG OFFSET(46) NUMBITS(2) [
            Granule4K = 0b00
        ],
        /// Output address size, encoded as IDR5.OAS.
        S2PS OFFSET(48) NUMBITS(3) [],
        /// AArch64 table format.
        S2AA64 OFFSET(51) NUMBITS(1) [],
        /// Big-endian tables.
        S2ENDI OFFSET(52) NUMBITS(1) [],
        /// No access flag faults.
        S2AFFD OFFSET(53) NUMBITS(1) [],
        /// Stage 1 walks to Device memory fault; not used without stage 1.
        S2PTW OFFSET(54) NUMBITS(1) [],
        /// Stall on a stage 2 fault.
        S2S OFFSET(57) NUMBITS(1) [],
        /// Record stage 2 faults.
        S2R OFFSET(58) NUMBITS(1) []
    ],
    /// Word 3 (§5.2).
    pub STE3 [
        /// Address bits [51:4] of the stage 2 start table.
        S2TTB OFFSET(4) NUMBITS(48) []
    ]
];
