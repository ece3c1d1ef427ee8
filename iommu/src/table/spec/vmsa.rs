//! VMSAv8-64 descriptors of stages 1 and 2, 48-bit output (DDI 0487, D8.3.1; section numbers of issue M.a.a). Definitions only.
//! Address fields are those of the 4 KiB granule; larger granules leave the low bits of them zero.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// A table descriptor (D8.3.1.1). Bits [63:59] restrict what is below it, in stage 1 only (D8.4.1.2).
    pub TABLE [
        /// Bits [1:0]: 0b11 for a table.
        TYPE OFFSET(0) NUMBITS(2) [
            Table = 0b11
        ],
        /// Address of the next-level table, bits [47:12].
        NEXT OFFSET(12) NUMBITS(36) [],
        /// PXNTable: no privileged execution below.
        PXN_TABLE OFFSET(59) NUMBITS(1) [],
        /// UXNTable (XNTable): no unprivileged execution below.
        UXN_TABLE OFFSET(60) NUMBITS(1) [],
        /// APTable[0]: no unprivileged access below.
        AP_TABLE_PRIVILEGED OFFSET(61) NUMBITS(1) [],
        /// APTable[1]: no writes below.
        AP_TABLE_READ_ONLY OFFSET(62) NUMBITS(1) []
    ],
    /// A block or page descriptor of stage 2 (D8.3.1.2).
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
        /// S2AP[1]: writes allowed; set by a walker that finds DBM (D8.5.2).
        WRITE OFFSET(7) NUMBITS(1) [],
        /// Shareability; not used for Device memory (D8.6.7).
        SH OFFSET(8) NUMBITS(2) [
            Inner = 0b11
        ],
        /// Access flag; set, as nobody here manages it (D8.5.1).
        AF OFFSET(10) NUMBITS(1) [],
        /// Output address bits [47:12], with the bits below the block size zero.
        OUTPUT OFFSET(12) NUMBITS(36) [],
        /// DBM: a write sets S2AP[1] instead of faulting (D8.5.2).
        DBM OFFSET(51) NUMBITS(1) [],
        /// XN[54]: no execution at EL1 or EL0, with XN[53] = 0 (D8.4.2).
        XN OFFSET(54) NUMBITS(1) []
    ],
    /// A block or page descriptor of stage 1 with two privilege levels (D8.3.1.2).
    pub LEAF1 [
        /// Bits [1:0]: a block above level 3, a page at level 3.
        TYPE OFFSET(0) NUMBITS(2) [
            Block = 0b01,
            Page = 0b11
        ],
        /// AttrIndx: which byte of MAIR says the memory type (D8.6.1).
        ATTR_INDEX OFFSET(2) NUMBITS(3) [],
        /// AP[1]: unprivileged accesses allowed (D8.4.1.2.1).
        UNPRIVILEGED OFFSET(6) NUMBITS(1) [],
        /// AP[2]: no writes; cleared by a walker that finds DBM (D8.5.2).
        READ_ONLY OFFSET(7) NUMBITS(1) [],
        /// Shareability; not used for Device memory (D8.6.2).
        SH OFFSET(8) NUMBITS(2) [
            Inner = 0b11
        ],
        /// Access flag (D8.5.1).
        AF OFFSET(10) NUMBITS(1) [],
        /// nG: the translation belongs to one ASID (D8.16.3.1).
        NOT_GLOBAL OFFSET(11) NUMBITS(1) [],
        /// Output address bits [47:12], with the bits below the block size zero.
        OUTPUT OFFSET(12) NUMBITS(36) [],
        /// DBM: a write clears AP[2] instead of faulting (D8.5.2).
        DBM OFFSET(51) NUMBITS(1) [],
        /// PXN: no privileged execution (D8.4.1.2.3).
        PXN OFFSET(53) NUMBITS(1) [],
        /// UXN: no unprivileged execution (D8.4.1.2.3).
        UXN OFFSET(54) NUMBITS(1) []
    ]
];

/// Widest output address of these descriptors, in bits.
pub const OUTPUT_BITS: u8 = 48;

/// Bits of an output address in a leaf or of a next-level address in a table, 4 KiB granule.
pub const ADDRESS: u64 = ((1 << OUTPUT_BITS) - 1) & !0xfff;
