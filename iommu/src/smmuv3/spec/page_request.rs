//! Page request records (IHI 0070, §8): two 64-bit words each.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// 64-bit words of a record.
pub const PAGE_REQUEST_WORDS: usize = 2;

register_bitfields![u64,
    /// Word 0 (§8).
    pub REQUEST0 [
        /// Stream.
        STREAM_ID OFFSET(0) NUMBITS(32) [],
        /// Substream.
        SUBSTREAM_ID OFFSET(32) NUMBITS(20) [],
        /// By privileged code.
        PRIVILEGED OFFSET(58) NUMBITS(1) [],
        /// Instruction fetches.
        EXECUTE OFFSET(59) NUMBITS(1) [],
        /// Reads.
        READ OFFSET(60) NUMBITS(1) [],
        /// Writes.
        WRITE OFFSET(61) NUMBITS(1) [],
        /// Last of its group.
        LAST OFFSET(62) NUMBITS(1) [],
        /// SUBSTREAM_ID is valid.
        SSV OFFSET(63) NUMBITS(1) []
    ],
    /// Word 1 (§8).
    pub REQUEST1 [
        /// Page request group.
        PRGI OFFSET(0) NUMBITS(9) [],
        /// Address bits [63:12].
        ADDRESS OFFSET(12) NUMBITS(52) []
    ]
];
