//! Root and context tables (VT-d, 9.1 to 9.4), one type for each 64-bit word in use.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of a root entry, of either mode; one a bus.
pub const ROOT_BYTES: usize = 16;
/// Bytes of a context entry in legacy mode.
pub const CONTEXT_BYTES: usize = 16;
/// Bytes of a context entry in scalable mode.
pub const SCALABLE_CONTEXT_BYTES: usize = 32;

register_bitfields![u64,
    /// Word 0 of a root entry (9.1); in scalable mode each of its words, for devices 0 to 15 and 16 to 31 (9.2).
    pub ROOT [
        /// There is a context table.
        P OFFSET(0) NUMBITS(1) [],
        /// Bits [63:12] of its address.
        CTP OFFSET(12) NUMBITS(52) []
    ],
    /// Word 0 of a context entry in legacy mode (9.3).
    pub CONTEXT0 [
        /// The entry is valid.
        P OFFSET(0) NUMBITS(1) [],
        /// Faults are not recorded, valid or not.
        FPD OFFSET(1) NUMBITS(1) [],
        /// What happens to requests.
        TT OFFSET(2) NUMBITS(2) [
            SecondStage = 0b00,
            SecondStageAndDeviceTlb = 0b01,
            PassThrough = 0b10
        ],
        /// Bits [63:12] of the second stage's root.
        SSPTPTR OFFSET(12) NUMBITS(52) []
    ],
    /// Word 1 of it (9.3).
    pub CONTEXT1 [
        /// Levels of the second stage less two.
        AW OFFSET(0) NUMBITS(3) [],
        /// Domain.
        DID OFFSET(8) NUMBITS(16) []
    ],
    /// Word 0 of a context entry in scalable mode (9.4).
    pub SCALABLE0 [
        /// The entry is valid.
        P OFFSET(0) NUMBITS(1) [],
        /// Faults are not recorded, valid or not.
        FPD OFFSET(1) NUMBITS(1) [],
        /// Device TLB.
        DTE OFFSET(2) NUMBITS(1) [],
        /// Requests with PASID.
        PASIDE OFFSET(3) NUMBITS(1) [],
        /// Page requests.
        PRE OFFSET(4) NUMBITS(1) [],
        /// The PASID directory has 2^(PDTS + 7) entries.
        PDTS OFFSET(9) NUMBITS(3) [],
        /// Bits [63:12] of its address.
        PASIDDIRPTR OFFSET(12) NUMBITS(52) []
    ],
    /// Word 1 of it (9.4).
    pub SCALABLE1 [
        /// PASID of requests without one.
        RID_PASID OFFSET(0) NUMBITS(20) [],
        /// Requests without PASID are privileged.
        RID_PRIV OFFSET(20) NUMBITS(1) []
    ]
];
