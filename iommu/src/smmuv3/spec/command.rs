//! Commands (IHI 0070, chapter 4): two 64-bit words each.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of a command.
pub const COMMAND_BYTES: usize = 16;
/// CMD_CFGI_STE_RANGE.Range that stands for every stream: CMD_CFGI_ALL (§4.3.2).
pub const CFGI_ALL_RANGE: u64 = 31;
/// Largest TLBI.NUM (§4.4.1).
pub const TLBI_NUM_MAX: u64 = 31;

register_bitfields![u64,
    /// Word 0 of every command (§4.1).
    pub CMD0 [
        /// Opcode.
        OPCODE OFFSET(0) NUMBITS(8) [
            CfgiSte = 0x03,
            CfgiSteRange = 0x04,
            TlbiEl2All = 0x20,
            TlbiS12Vmall = 0x28,
            TlbiS2Ipa = 0x2a,
            TlbiNsnhAll = 0x30,
            Sync = 0x46
        ],
        /// CMD_SYNC: completion signal (§4.7.3).
        CS OFFSET(12) NUMBITS(2) [
            None = 0b00
        ],
        /// TLBI: pages in units of 2^SCALE, minus one (§4.4.1).
        NUM OFFSET(12) NUMBITS(5) [],
        /// TLBI: log2 of the unit (§4.4.1).
        SCALE OFFSET(20) NUMBITS(5) [],
        /// TLBI: VMID (§4.4.1).
        VMID OFFSET(32) NUMBITS(16) [],
        /// CFGI: StreamID (§4.3.1).
        STREAM_ID OFFSET(32) NUMBITS(32) []
    ],
    /// Word 1.
    pub CMD1 [
        /// CFGI_STE: only the entry, not the level 1 descriptor (§4.3.1). TLBI: only leaves (§4.4.1).
        LEAF OFFSET(0) NUMBITS(1) [],
        /// CFGI_STE_RANGE: log2 of the number of streams, minus one (§4.3.2).
        RANGE OFFSET(0) NUMBITS(5) [],
        /// TLBI: level hint; 0 is any (§4.4.1).
        TTL OFFSET(8) NUMBITS(2) [],
        /// TLBI: granule of a range; 0 is one page, without NUM, SCALE and TTL (§4.4.1).
        TG OFFSET(10) NUMBITS(2) [
            Single = 0b00,
            Granule4K = 0b01
        ],
        /// TLBI_S2_IPA: address bits [51:12] (§4.4.2).
        ADDRESS OFFSET(12) NUMBITS(40) []
    ]
];

/// CMDQ_CONS.ERR (§7.1): why the queue stopped.
pub mod cerror {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// Illegal command.
    pub const ILL: u8 = 1;
    /// The command could not be read.
    pub const ABT: u8 = 2;
    /// An earlier CMD_ATC_INV timed out.
    pub const ATC_INV_SYNC: u8 = 3;
}
