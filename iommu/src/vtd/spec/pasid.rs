//! PASID directories and tables (VT-d, 9.5 and 9.6).

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of a directory entry; each leads to 64 table entries.
pub const DIRECTORY_BYTES: usize = 8;
/// Bytes of a table entry.
pub const PASID_BYTES: usize = 64;
/// log2 of the entries of a table.
pub const TABLE_LOG2: u8 = 6;

register_bitfields![u64,
    /// Directory entry (9.5).
    pub DIRECTORY [
        /// There is a table.
        P OFFSET(0) NUMBITS(1) [],
        /// Faults are not recorded.
        FPD OFFSET(1) NUMBITS(1) [],
        /// Bits [63:12] of its address.
        SMPTBLPTR OFFSET(12) NUMBITS(52) []
    ],
    /// Word 0 of a table entry (9.6).
    pub PASID0 [
        /// The entry is valid.
        P OFFSET(0) NUMBITS(1) [],
        /// Faults are not recorded, valid or not.
        FPD OFFSET(1) NUMBITS(1) [],
        /// Levels of the second stage less two.
        AW OFFSET(2) NUMBITS(3) [],
        /// What happens to requests.
        PGTT OFFSET(6) NUMBITS(3) [
            FirstStage = 0b001,
            SecondStage = 0b010,
            Nested = 0b011,
            PassThrough = 0b100
        ],
        /// The second stage notes accesses and writes.
        SSADE OFFSET(9) NUMBITS(1) [],
        /// Bits [63:12] of the second stage's root.
        SSPTPTR OFFSET(12) NUMBITS(52) []
    ],
    /// Word 1 of it (9.6).
    pub PASID1 [
        /// Domain.
        DID OFFSET(0) NUMBITS(16) [],
        /// Walks snoop.
        PWSNP OFFSET(23) NUMBITS(1) [],
        /// Requests snoop.
        PGSNP OFFSET(24) NUMBITS(1) []
    ],
    /// Word 2 of it (9.6).
    pub PASID2 [
        /// Supervisor requests are allowed.
        SRE OFFSET(0) NUMBITS(1) [],
        /// Levels of the first stage less four.
        FSPM OFFSET(2) NUMBITS(2) [],
        /// Supervisor writes obey R/W.
        WPE OFFSET(4) NUMBITS(1) [],
        /// Extended accessed flags.
        EAFE OFFSET(7) NUMBITS(1) [],
        /// Bits [63:12] of the first stage's root.
        FSPTPTR OFFSET(12) NUMBITS(52) []
    ]
];
