//! Event records (IHI 0070, §7.3): four 64-bit words each.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// 64-bit words of a record.
pub const EVENT_WORDS: usize = 4;

register_bitfields![u64,
    /// Word 0 (§7.3).
    pub EVENT0 [
        /// Event number.
        TYPE OFFSET(0) NUMBITS(8) [],
        /// SUBSTREAM_ID is valid.
        SSV OFFSET(11) NUMBITS(1) [],
        /// Substream.
        SUBSTREAM_ID OFFSET(12) NUMBITS(20) [],
        /// Stream.
        STREAM_ID OFFSET(32) NUMBITS(32) []
    ],
    /// Word 1 of translation-related events (§7.3.13).
    pub EVENT1 [
        /// Stall tag.
        STAG OFFSET(0) NUMBITS(16) [],
        /// The transaction is stalled.
        STALL OFFSET(31) NUMBITS(1) [],
        /// Privileged, not unprivileged.
        PNU OFFSET(33) NUMBITS(1) [],
        /// Instruction, not data.
        IND OFFSET(34) NUMBITS(1) [],
        /// Read, not write.
        RNW OFFSET(35) NUMBITS(1) [],
        /// Stage 2 fault.
        S2 OFFSET(39) NUMBITS(1) [],
        /// What was being translated.
        CLASS OFFSET(40) NUMBITS(2) [
            Cd = 0b00,
            TranslationTable = 0b01,
            Input = 0b10
        ]
    ],
    /// Word 3 of translation-related events (§7.3.13).
    pub EVENT3 [
        /// Address bits [51:12] of the stage 2 input.
        IPA OFFSET(12) NUMBITS(40) []
    ]
];

/// Event numbers (§7.3).
pub mod kind {
    /// Unsupported upstream transaction (§7.3.2).
    pub const F_UUT: u8 = 0x01;
    /// StreamID out of range, or no level 2 table for it (§7.3.3).
    pub const C_BAD_STREAMID: u8 = 0x02;
    /// The STE could not be read (§7.3.4).
    pub const F_STE_FETCH: u8 = 0x03;
    /// Invalid STE (§7.3.5).
    pub const C_BAD_STE: u8 = 0x04;
    /// ATS translation request that is not allowed (§7.3.6).
    pub const F_BAD_ATS_TREQ: u8 = 0x05;
    /// The STE disables streams without a substream (§7.3.7).
    pub const F_STREAM_DISABLED: u8 = 0x06;
    /// ATS translated transaction that is not allowed (§7.3.8).
    pub const F_TRANSL_FORBIDDEN: u8 = 0x07;
    /// Substream out of range (§7.3.9).
    pub const C_BAD_SUBSTREAMID: u8 = 0x08;
    /// The CD could not be read (§7.3.10).
    pub const F_CD_FETCH: u8 = 0x09;
    /// Invalid CD (§7.3.11).
    pub const C_BAD_CD: u8 = 0x0a;
    /// A table walk met an external abort (§7.3.12).
    pub const F_WALK_EABT: u8 = 0x0b;
    /// No mapping (§7.3.13).
    pub const F_TRANSLATION: u8 = 0x10;
    /// Address out of range (§7.3.14).
    pub const F_ADDR_SIZE: u8 = 0x11;
    /// Access flag clear (§7.3.15).
    pub const F_ACCESS: u8 = 0x12;
    /// Not allowed (§7.3.16).
    pub const F_PERMISSION: u8 = 0x13;
    /// Conflicting TLB entries (§7.3.17).
    pub const F_TLB_CONFLICT: u8 = 0x20;
    /// Conflicting cached configuration (§7.3.18).
    pub const F_CFG_CONFLICT: u8 = 0x21;
    /// Speculative page request hint (§7.3.19).
    pub const E_PAGE_REQUEST: u8 = 0x24;
    /// The VMS could not be read (§7.3.20).
    pub const F_VMS_FETCH: u8 = 0x25;
}
