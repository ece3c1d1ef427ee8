//! Interrupt remapping table entries (VT-d, 9.9 and 9.10), and messages that lead to one (5.1.2.2).

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of an entry.
pub const IRTE_BYTES: usize = 16;

register_bitfields![u64,
    /// Word 0 of an entry; with IM = 0 as in 9.9, with IM = 1 as in 9.10.
    pub IRTE0 [
        /// The entry is valid.
        P OFFSET(0) NUMBITS(1) [],
        /// Faults are not recorded.
        FPD OFFSET(1) NUMBITS(1) [],
        /// Logical destination.
        DM OFFSET(2) NUMBITS(1) [],
        /// One of several destinations.
        RH OFFSET(3) NUMBITS(1) [],
        /// Level-triggered.
        TM OFFSET(4) NUMBITS(1) [],
        /// Delivery mode; 0 is fixed.
        DLM OFFSET(5) NUMBITS(3) [],
        /// Posted: urgent.
        URG OFFSET(14) NUMBITS(1) [],
        /// Posted, not remapped.
        IM OFFSET(15) NUMBITS(1) [],
        /// Vector.
        V OFFSET(16) NUMBITS(8) [],
        /// Destination with 32-bit ones.
        DST OFFSET(32) NUMBITS(32) [],
        /// Destination with 8-bit ones.
        DST_XAPIC OFFSET(40) NUMBITS(8) [],
        /// Posted: bits [31:6] of the descriptor's address.
        PDAL OFFSET(38) NUMBITS(26) []
    ],
    /// Word 1 of an entry.
    pub IRTE1 [
        /// Source that may use it.
        SID OFFSET(0) NUMBITS(16) [],
        /// Low bits of the function number that do not count: none, [2], [2:1], [2:0].
        SQ OFFSET(16) NUMBITS(2) [],
        /// What of the source is compared.
        SVT OFFSET(18) NUMBITS(2) [
            None = 0b00,
            Source = 0b01,
            Bus = 0b10
        ],
        /// Posted: bits [63:32] of the descriptor's address.
        PDAH OFFSET(32) NUMBITS(32) []
    ]
];

/// Bytes of a posted interrupt descriptor, which is aligned to them (9.11). Its first 32 are PIR, a bit for each vector.
pub const POSTED_BYTES: usize = 64;
/// Where the word behind PIR is. What follows it is reserved.
pub const POSTED_CONTROL: usize = 32;

register_bitfields![u64,
    /// The word of a posted interrupt descriptor behind PIR (9.11).
    pub POSTED [
        /// A notification is on its way, or not yet taken.
        ON OFFSET(0) NUMBITS(1) [],
        /// No notification but of urgent interrupts.
        SN OFFSET(1) NUMBITS(1) [],
        /// Vector of notifications.
        NV OFFSET(16) NUMBITS(8) [],
        /// Where they go, with 32-bit destinations.
        NDST OFFSET(32) NUMBITS(32) [],
        /// Where they go, with 8-bit ones.
        NDST_XAPIC OFFSET(40) NUMBITS(8) []
    ]
];

register_bitfields![u32,
    /// Address of a message in the remappable format (5.1.2.2).
    pub MESSAGE_ADDRESS [
        /// Bit 15 of the handle.
        HANDLE_HIGH OFFSET(2) NUMBITS(1) [],
        /// The data's low 16 bits are added to the handle.
        SHV OFFSET(3) NUMBITS(1) [],
        /// The remappable format.
        FORMAT OFFSET(4) NUMBITS(1) [],
        /// Bits [14:0] of the handle.
        HANDLE_LOW OFFSET(5) NUMBITS(15) [],
        /// Where interrupts are.
        PREFIX OFFSET(20) NUMBITS(12) [
            Interrupt = 0xfee
        ]
    ]
];
