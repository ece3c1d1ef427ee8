//! Commands (IHI 0070, chapter 4): two 64-bit words each.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of a command.
pub const COMMAND_BYTES: usize = 16;
/// CMD_CFGI_STE_RANGE.Range that stands for every stream: CMD_CFGI_ALL (§4.3.6).
pub const CFGI_ALL_RANGE: u64 = 31;
/// ATC_INV.Size that stands for the whole address space (§4.5.1).
pub const ATC_SIZE_ALL: u64 = 52;
/// Largest TLBI.NUM (§4.4.1.1).
pub const TLBI_NUM_MAX: u64 = 31;

register_bitfields![u64,
    /// Word 0 of every command (§4.1).
    pub CMD0 [
        /// Opcode (§4.1.1).
        OPCODE OFFSET(0) NUMBITS(8) [
            PrefetchConfig = 0x01,
            PrefetchAddr = 0x02,
            CfgiSte = 0x03,
            CfgiSteRange = 0x04,
            CfgiCd = 0x05,
            CfgiCdAll = 0x06,
            CfgiVmsPidm = 0x07,
            TlbiNhAll = 0x10,
            TlbiNhAsid = 0x11,
            TlbiNhVa = 0x12,
            TlbiNhVaa = 0x13,
            TlbiEl2All = 0x20,
            TlbiEl2Asid = 0x21,
            TlbiEl2Va = 0x22,
            TlbiEl2Vaa = 0x23,
            TlbiS12Vmall = 0x28,
            TlbiS2Ipa = 0x2a,
            TlbiNsnhAll = 0x30,
            AtcInv = 0x40,
            PriResp = 0x41,
            Resume = 0x44,
            StallTerm = 0x45,
            Sync = 0x46
        ],
        /// ATC_INV: for every substream (§4.5.1).
        GLOBAL OFFSET(9) NUMBITS(1) [],
        /// ATC_INV, PRI_RESP: SSID is valid (§4.5).
        SSV OFFSET(11) NUMBITS(1) [],
        /// RESUME: retry where set, terminate where clear (§4.7.1).
        AC OFFSET(12) NUMBITS(1) [],
        /// RESUME: terminate with an abort, not RAZ/WI (§4.7.1).
        AB OFFSET(13) NUMBITS(1) [],
        /// CMD_SYNC: completion signal (§4.7.3).
        CS OFFSET(12) NUMBITS(2) [
            None = 0b00,
            Irq = 0b01,
            Sev = 0b10
        ],
        /// CMD_SYNC: shareability of the MSI write (§4.7.3).
        MSH OFFSET(22) NUMBITS(2) [
            NonShareable = 0b00,
            Outer = 0b10,
            Inner = 0b11
        ],
        /// CMD_SYNC: memory attribute of the MSI write, as STE.MemAttr (§4.7.3).
        MSI_ATTR OFFSET(24) NUMBITS(4) [
            DeviceNGnRE = 0b0001,
            WriteBack = 0b1111
        ],
        /// TLBI: pages in units of 2^SCALE, minus one (§4.4.1.1).
        NUM OFFSET(12) NUMBITS(5) [],
        /// CFGI_CD, ATC_INV, PRI_RESP: SubstreamID (§4.3.3).
        SSID OFFSET(12) NUMBITS(20) [],
        /// TLBI: log2 of the unit (§4.4.1.1).
        SCALE OFFSET(20) NUMBITS(5) [],
        /// TLBI: VMID (§4.4.1).
        VMID OFFSET(32) NUMBITS(16) [],
        /// CMD_SYNC: what the MSI writes (§4.7.3).
        MSI_DATA OFFSET(32) NUMBITS(32) [],
        /// CFGI and others: StreamID (§4.3.1).
        STREAM_ID OFFSET(32) NUMBITS(32) [],
        /// TLBI: ASID (§4.4.1).
        ASID OFFSET(48) NUMBITS(16) []
    ],
    /// Word 1.
    pub CMD1 [
        /// CFGI_STE: only the entry, not the level 1 descriptor (§4.3.1). TLBI: only leaves (§4.4.1).
        LEAF OFFSET(0) NUMBITS(1) [],
        /// CFGI_STE_RANGE: log2 of the number of streams, minus one (§4.3.2).
        RANGE OFFSET(0) NUMBITS(5) [],
        /// ATC_INV: log2 of the number of 4 KiB pages; 52 is everything (§4.5.1).
        SIZE OFFSET(0) NUMBITS(6) [],
        /// PRI_RESP: page request group (§4.5.2).
        PRGI OFFSET(0) NUMBITS(9) [],
        /// RESUME: stall tag (§4.7.1).
        STAG OFFSET(0) NUMBITS(16) [],
        /// CMD_SYNC: address bits [51:2] of the MSI write (§4.7.3).
        MSI_ADDRESS OFFSET(2) NUMBITS(50) [],
        /// TLBI: level hint; 0 is any (§4.4.1.1).
        TTL OFFSET(8) NUMBITS(2) [],
        /// TLBI: granule of a range; 0 is one entry, without NUM, SCALE and TTL (§4.4.1.1).
        TG OFFSET(10) NUMBITS(2) [
            Single = 0b00,
            Granule4K = 0b01,
            Granule16K = 0b10,
            Granule64K = 0b11
        ],
        /// PRI_RESP: answer (§4.5.2).
        RESP OFFSET(12) NUMBITS(2) [
            Failure = 0b00,
            Invalid = 0b01,
            Success = 0b10
        ],
        /// TLBI_S2_IPA: address bits [51:12] (§4.4.3.1).
        ADDRESS OFFSET(12) NUMBITS(40) [],
        /// TLBI by VA, ATC_INV: address bits [63:12] (§4.4.1, §4.5.1).
        VA OFFSET(12) NUMBITS(52) []
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
