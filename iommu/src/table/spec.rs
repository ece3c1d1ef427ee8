//! VMSAv8-64 stage 2 descriptors, 4 KiB granule, 48-bit output (DDI 0487, D8.3.1.2 and D8.3.2). Definitions only.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// A table descriptor, levels 0 to 2 (D8.3.1.1).
    pub TABLE [
        /// Bits [1:0]: 0b11 for a table.
        TYPE OFFSET(0) NUMBITS(2) [
            Table = 0b11
        ],
        /// Address of the next-level table, bits [47:12].
        NEXT OFFSET(12) NUMBITS(36) []
    ],
    /// A block (levels 1 and 2) or page (level 3) descriptor of stage 2 (D8.3.1.2, D8.3.2).
    pub LEAF [
        /// Bits [1:0]: a block above level 3, a page at level 3.
        TYPE OFFSET(0) NUMBITS(2) [
            Block = 0b01,
            Page = 0b11
        ],
        /// Stage 2 memory type where S2FWB is off (D8.6.5).
        MEM_ATTR OFFSET(2) NUMBITS(4) [
            DeviceNGnRE = 0b0001,
            NormalWriteBack = 0b1111
        ],
        /// S2AP: access permissions (D8.4.2).
        READ OFFSET(6) NUMBITS(1) [],
        /// S2AP[1]: writes allowed.
        WRITE OFFSET(7) NUMBITS(1) [],
        /// Shareability; not used for Device memory (D8.6.2).
        SH OFFSET(8) NUMBITS(2) [
            Inner = 0b11
        ],
        /// Access flag; set, as nobody here manages it (D8.5.1).
        AF OFFSET(10) NUMBITS(1) [],
        /// Output address bits [47:12], with the bits below the block size zero.
        OUTPUT OFFSET(12) NUMBITS(36) [],
        /// XN[54]: no execution at EL1 or EL0, with XN[53] = 0 (D8.4.3).
        XN OFFSET(54) NUMBITS(1) []
    ]
];

/// Widest output address of these descriptors, in bits.
pub const OUTPUT_BITS: u32 = 48;

/// Bits of an output address in a leaf or of a next-level address in a table.
pub const ADDRESS: u64 = ((1 << OUTPUT_BITS) - 1) & !0xfff;
