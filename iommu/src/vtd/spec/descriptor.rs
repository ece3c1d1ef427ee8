//! Invalidation descriptors (VT-d, 6.5.2): two 64-bit words, and two of zeros behind them where the queue's are 256 bits.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// log2 of the bytes of a 128-bit descriptor.
pub const NARROW_LOG2: u8 = 4;
/// log2 of the bytes of a 256-bit descriptor.
pub const WIDE_LOG2: u8 = 5;

register_bitfields![u64,
    /// Word 0 of every descriptor.
    pub DESCRIPTOR [
        /// What it is; bits [6:4] of the type, at [11:9], are 0 in all of these.
        TYPE OFFSET(0) NUMBITS(4) [
            ContextCache = 1,
            Iotlb = 2,
            DeviceTlb = 3,
            InterruptEntryCache = 4,
            Wait = 5,
            PasidIotlb = 6,
            PasidCache = 7,
            PasidDeviceTlb = 8,
            PageGroupResponse = 9
        ]
    ],
    /// Context-cache invalidation (6.5.2.1).
    pub CONTEXT_CACHE [
        /// How much of it.
        G OFFSET(4) NUMBITS(2) [
            Global = 0b01,
            Domain = 0b10,
            Device = 0b11
        ],
        /// Domain.
        DID OFFSET(16) NUMBITS(16) [],
        /// Source.
        SID OFFSET(32) NUMBITS(16) [],
        /// Low bits of the function number that do not count.
        FM OFFSET(48) NUMBITS(2) []
    ],
    /// PASID-cache invalidation (6.5.2.2).
    pub PASID_CACHE [
        /// How much of it.
        G OFFSET(4) NUMBITS(2) [
            Domain = 0b00,
            Pasid = 0b01,
            Global = 0b11
        ],
        /// Domain.
        DID OFFSET(16) NUMBITS(16) [],
        /// PASID.
        PASID OFFSET(32) NUMBITS(20) []
    ],
    /// IOTLB invalidation, word 0 (6.5.2.3).
    pub IOTLB0 [
        /// How much of it.
        G OFFSET(4) NUMBITS(2) [
            Global = 0b01,
            Domain = 0b10,
            Page = 0b11
        ],
        /// Drain writes.
        DW OFFSET(6) NUMBITS(1) [],
        /// Drain reads.
        DR OFFSET(7) NUMBITS(1) [],
        /// Domain.
        DID OFFSET(16) NUMBITS(16) []
    ],
    /// IOTLB and PASID-based IOTLB invalidation, word 1 (6.5.2.3, 6.5.2.4).
    pub IOTLB1 [
        /// log2 of the pages.
        AM OFFSET(0) NUMBITS(6) [],
        /// Tables above the pages did not change.
        IH OFFSET(6) NUMBITS(1) [],
        /// Bits [63:12] of the first page.
        ADDR OFFSET(12) NUMBITS(52) []
    ],
    /// PASID-based IOTLB invalidation, word 0 (6.5.2.4).
    pub PASID_IOTLB [
        /// How much of it.
        G OFFSET(4) NUMBITS(2) [
            Pasid = 0b10,
            Page = 0b11
        ],
        /// Domain.
        DID OFFSET(16) NUMBITS(16) [],
        /// PASID.
        PASID OFFSET(32) NUMBITS(20) []
    ],
    /// Device TLB invalidation, word 0 (6.5.2.5).
    pub DEVICE_TLB0 [
        /// Invalidations that the device takes at once.
        MIP OFFSET(16) NUMBITS(5) [],
        /// Source.
        SID OFFSET(32) NUMBITS(16) []
    ],
    /// Device TLB invalidation, word 1 (6.5.2.5).
    pub DEVICE_TLB1 [
        /// More than a page: the lowest bit of ADDR that is 0 says how many.
        S OFFSET(0) NUMBITS(1) [],
        /// Bits [63:12] of the first page.
        ADDR OFFSET(12) NUMBITS(52) []
    ],
    /// PASID-based device TLB invalidation, word 0 (6.5.2.6).
    pub PASID_DEVICE_TLB0 [
        /// Invalidations that the device takes at once.
        MIP OFFSET(4) NUMBITS(5) [],
        /// Source.
        SID OFFSET(16) NUMBITS(16) [],
        /// PASID.
        PASID OFFSET(32) NUMBITS(20) []
    ],
    /// PASID-based device TLB invalidation, word 1 (6.5.2.6).
    pub PASID_DEVICE_TLB1 [
        /// Of every PASID.
        G OFFSET(0) NUMBITS(1) [],
        /// As that of the other.
        S OFFSET(11) NUMBITS(1) [],
        /// Bits [63:12] of the first page.
        ADDR OFFSET(12) NUMBITS(52) []
    ],
    /// Interrupt entry cache invalidation (6.5.2.8).
    pub INTERRUPT_ENTRY_CACHE [
        /// Entries by their index, not all of them.
        G OFFSET(4) NUMBITS(1) [],
        /// log2 of the entries.
        IM OFFSET(27) NUMBITS(5) [],
        /// The first.
        IIDX OFFSET(32) NUMBITS(16) []
    ],
    /// Invalidation wait, word 0 (6.5.2.9).
    pub WAIT0 [
        /// Raise the invalidation event.
        IF OFFSET(4) NUMBITS(1) [],
        /// Write the status.
        SW OFFSET(5) NUMBITS(1) [],
        /// What follows starts once all before is complete.
        FN OFFSET(6) NUMBITS(1) [],
        /// Wait for page requests too.
        PD OFFSET(7) NUMBITS(1) [],
        /// What is written.
        DATA OFFSET(32) NUMBITS(32) []
    ],
    /// Invalidation wait, word 1 (6.5.2.9).
    pub WAIT1 [
        /// Bits [63:2] of where it is written.
        ADDR OFFSET(2) NUMBITS(62) []
    ],
    /// Page group response, word 0 (7.6.1).
    pub PAGE_GROUP0 [
        /// There is a PASID.
        PP OFFSET(4) NUMBITS(1) [],
        /// The answer.
        RC OFFSET(12) NUMBITS(4) [
            Success = 0,
            Invalid = 1,
            Failure = 15
        ],
        /// Source.
        RID OFFSET(16) NUMBITS(16) [],
        /// PASID.
        PASID OFFSET(32) NUMBITS(20) []
    ],
    /// Page group response, word 1 (7.6.1).
    pub PAGE_GROUP1 [
        /// The group.
        PRGI OFFSET(3) NUMBITS(9) []
    ]
];
