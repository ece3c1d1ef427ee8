//! What of VT-d's registers only the guest's side has to know (VT-d, section numbers of revision 5.10): definitions only. All
//! else is in [`crate::vtd::spec`].

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of the register page that have registers: up to the end of the fault records.
pub const REGISTERS_END: usize = 0x280;
/// Bytes of the register page.
pub const REGION_BYTES: u64 = 0x1000;
/// Where IVA and IOTLB are (ECAP.IRO).
pub const IOTLB_REGISTERS: usize = 0xf0;
/// Where fault records are (CAP.FRO).
pub const FAULT_RECORDS: usize = 0x200;
/// Invalidation completion status (11.4).
pub const ICS: usize = 0x9c;
/// Invalidation event message data (11.4).
pub const IEDATA: usize = 0xa4;
/// Invalidation event message address (11.4).
pub const IEADDR: usize = 0xa8;
/// Upper half of it (11.4).
pub const IEUADDR: usize = 0xac;
/// Page request event message data (11.4.11.6).
pub const PEDATA: usize = 0xe4;
/// Page request event message address (11.4.11.7).
pub const PEADDR: usize = 0xe8;
/// Upper half of it (11.4.11.8).
pub const PEUADDR: usize = 0xec;
/// VER: 1.0.
pub const VERSION: u32 = 0x10;
/// Largest address mask of an invalidation by page (CAP.MAMV).
pub const ADDRESS_MASK: u8 = 18;
/// Largest index mask of an interrupt entry invalidation (ECAP.MHMV).
pub const INDEX_MASK: u8 = 15;
/// Bits 63:12 of a pointer to a table.
pub const POINTER: u64 = !0xfff;

/// IQERCD.IQEI (11.4).
pub mod error {
    /// The descriptor could not be read.
    pub const UNREADABLE: u64 = 2;
    /// A type that there is not.
    pub const TYPE: u64 = 3;
    /// A reserved field, or a value that is none.
    pub const RESERVED: u64 = 4;
}

register_bitfields![u32,
    /// ICS.
    pub ICS_FIELDS [
        /// A wait that asked for an interrupt is complete.
        IWC OFFSET(0) NUMBITS(1) []
    ]
];

register_bitfields![u64,
    /// What CCMD reads as once it is done.
    pub CCMD_DONE [
        /// What was done.
        CAIG OFFSET(59) NUMBITS(2) []
    ],
    /// What IOTLB reads as once it is done.
    pub IOTLB_DONE [
        /// What was done.
        IAIG OFFSET(57) NUMBITS(2) []
    ]
];

/// Fields of each descriptor that are not reserved, words 0 and 1 (6.5.2).
pub mod descriptor {
    /// Context cache: TYPE, G, DID, SID, FM.
    pub const CONTEXT_CACHE: [u64; 2] = [0x0003_ffff_ffff_003f, 0];
    /// IOTLB: TYPE, G, DW, DR, DID; AM, IH, ADDR.
    pub const IOTLB: [u64; 2] = [0xffff_00ff, !0xf80];
    /// Interrupt entry cache: TYPE, G, IM, IIDX.
    pub const INTERRUPTS: [u64; 2] = [0xffff_f800_001f, 0];
    /// Wait: TYPE, IF, SW, FN, PD, DATA; ADDR.
    pub const WAIT: [u64; 2] = [0xffff_ffff_0000_00ff, !3];
    /// Device TLB: TYPE, PFSID, MIP, SID; S, ADDR.
    pub const DEVICE_TLB: [u64; 2] = [0xfff0_ffff_001f_f00f, !0xffe];
    /// PASID-based device TLB: TYPE, MIP, PFSID, SID, PASID; G, S, ADDR.
    pub const PASID_DEVICE_TLB: [u64; 2] = [0xffff_ffff_ffff_f1ff, !0x7fe];
    /// Page group response (7.6.1): TYPE, PP, RC, RID, PASID; what is ignored, PRGI.
    pub const PAGE_GROUP: [u64; 2] = [0x000f_ffff_ffff_f01f, 0xfff];
    /// PASID-based IOTLB: TYPE, G, DID, PASID; AM, IH, ADDR.
    pub const PASID_IOTLB: [u64; 2] = [0x000f_ffff_ffff_003f, !0xf80];
    /// PASID cache: TYPE, G, DID, PASID.
    pub const PASID_CACHE: [u64; 2] = [0x000f_ffff_ffff_003f, 0];
}

/// Reserved fields of entries, beside addresses that are too wide.
pub mod reserved {
    /// Root entry, word 0, and each word in scalable mode (9.1, 9.2).
    pub const ROOT: u64 = 0xffe;
    /// Context entry, words 0 and 1 (9.3).
    pub const CONTEXT: [u64; 2] = [0xff0, !0x00ff_ff7f];
    /// Scalable context entry, words 0 and 1 (9.4): there is neither RID_PASID nor RID_PRIV (ECAP.RPS, RPRIVS).
    pub const SCALABLE: [u64; 2] = [0x1e0, !0];
    /// PASID directory entry (9.5).
    pub const DIRECTORY: u64 = 0xffc;
    /// PASID table entry, words 0 and 1 (9.6): SSADE, and bits 11:10; bits 22:16.
    pub const PASID: [u64; 2] = [0xe00, 0x7f_0000];
    /// Interrupt entry, words 0 and 1 (9.9): IM without posted interrupts too.
    pub const INTERRUPT: [u64; 2] = [0xff00_f000, !0xf_ffff];
    /// Word 0 with 8-bit destinations: all of DST but 47:40.
    pub const INTERRUPT_NARROW: u64 = 0xffff_00ff_0000_0000;
}

/// Reasons of interrupts that are refused (7.1.3).
pub mod interrupt {
    /// Reserved bits of the message.
    pub const MESSAGE_RESERVED: u8 = 0x20;
    /// Past the table.
    pub const BEYOND_TABLE: u8 = 0x21;
    /// Not present.
    pub const NOT_PRESENT: u8 = 0x22;
    /// The entry could not be read.
    pub const ACCESS: u8 = 0x23;
    /// Reserved bits of the entry.
    pub const RESERVED: u8 = 0x24;
    /// Compatibility format, which is blocked.
    pub const COMPATIBILITY: u8 = 0x25;
    /// Not this source's.
    pub const SOURCE: u8 = 0x26;
}
