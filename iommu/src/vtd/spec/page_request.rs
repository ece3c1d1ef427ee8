//! Page request descriptors (VT-d, 7.4.1.1): four 64-bit words each, of which the last two are reserved.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of a descriptor.
pub const REQUEST_BYTES: usize = 32;

register_bitfields![u64,
    /// Word 0 (7.4.1.1).
    pub REQUEST0 [
        /// What the descriptor is.
        TYPE OFFSET(0) NUMBITS(8) [
            PageRequest = 1
        ],
        /// There is a PASID.
        PP OFFSET(8) NUMBITS(1) [],
        /// Source.
        RID OFFSET(16) NUMBITS(16) [],
        /// PASID.
        PASID OFFSET(32) NUMBITS(20) [],
        /// Instruction fetches, where there is a PASID and RDR.
        EXR OFFSET(52) NUMBITS(1) [],
        /// By privileged code, where there is a PASID.
        PMR OFFSET(53) NUMBITS(1) []
    ],
    /// Word 1 (7.4.1.1).
    pub REQUEST1 [
        /// Reads.
        RDR OFFSET(0) NUMBITS(1) [],
        /// Writes.
        WRR OFFSET(1) NUMBITS(1) [],
        /// Last of its group.
        LPIG OFFSET(2) NUMBITS(1) [],
        /// Page request group.
        PRGI OFFSET(3) NUMBITS(9) [],
        /// Address bits [63:12].
        ADDRESS OFFSET(12) NUMBITS(52) []
    ]
];
