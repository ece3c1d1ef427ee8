//! Fault records (VT-d, 11.4, FRCD) and the reasons in them (7.1.3).

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// Word 0.
    pub FAULT0 [
        /// Bits [63:12] of the input address; for an interrupt its index, in [63:48].
        FI OFFSET(12) NUMBITS(52) []
    ],
    /// Word 1.
    pub FAULT1 [
        /// Source.
        SID OFFSET(0) NUMBITS(16) [],
        /// Second bit of the type.
        T2 OFFSET(28) NUMBITS(1) [],
        /// Privileged, where there is a PASID.
        PRIV OFFSET(29) NUMBITS(1) [],
        /// Execute permission was asked for, where there is a PASID.
        EXE OFFSET(30) NUMBITS(1) [],
        /// There is a PASID.
        PP OFFSET(31) NUMBITS(1) [],
        /// Reason.
        FR OFFSET(32) NUMBITS(8) [],
        /// PASID.
        PV OFFSET(40) NUMBITS(20) [],
        /// Address type of the request.
        AT OFFSET(60) NUMBITS(2) [],
        /// First bit of the type: with T2 clear, 0 is a write, 1 a read; with T2, 0 is a page request, 1 an atomic operation.
        T1 OFFSET(62) NUMBITS(1) [],
        /// The record holds a fault.
        F OFFSET(63) NUMBITS(1) []
    ]
];

/// Reasons (7.1.3), by their names there.
pub mod reason {
    /// LRT.2 in later revisions: the root entry is not present.
    pub const ROOT_NOT_PRESENT: u8 = 0x1;
    /// The context entry is not present.
    pub const CONTEXT_NOT_PRESENT: u8 = 0x2;
    /// The context entry says what the unit does not have.
    pub const CONTEXT_INVALID: u8 = 0x3;
    /// The input address is past what the unit or the entry has.
    pub const BEYOND_WIDTH: u8 = 0x4;
    /// A write without permission.
    pub const WRITE: u8 = 0x5;
    /// A read without permission.
    pub const READ: u8 = 0x6;
    /// A second-stage table could not be read.
    pub const TABLE_ACCESS: u8 = 0x7;
    /// The root table could not be read.
    pub const ROOT_ACCESS: u8 = 0x8;
    /// A context table could not be read.
    pub const CONTEXT_ACCESS: u8 = 0x9;
    /// Reserved bits of a root entry.
    pub const ROOT_RESERVED: u8 = 0xa;
    /// Reserved bits of a context entry.
    pub const CONTEXT_RESERVED: u8 = 0xb;
    /// Reserved bits of a second-stage entry.
    pub const TABLE_RESERVED: u8 = 0xc;
    /// A kind of request that the entry does not allow.
    pub const BLOCKED: u8 = 0xd;
    /// The output is where interrupts are.
    pub const INTERRUPT_OUTPUT: u8 = 0xe;
    /// First of the reasons of interrupt remapping.
    pub const INTERRUPT_FIRST: u8 = 0x20;
    /// Last of them.
    pub const INTERRUPT_LAST: u8 = 0x2f;
    /// First of the reasons of scalable mode.
    pub const SCALABLE_FIRST: u8 = 0x30;
    /// A request with PASID in legacy mode.
    pub const PASID_IN_LEGACY_MODE: u8 = 0x31;
    /// A page request in legacy mode.
    pub const PAGE_REQUEST_IN_LEGACY_MODE: u8 = 0x32;
    /// First of those of the root entry: it could not be read, is not present, has reserved bits.
    pub const SCALABLE_ROOT: u8 = 0x38;
    /// First of those of the context entry, likewise.
    pub const SCALABLE_CONTEXT: u8 = 0x40;
    /// Requests with PASID are not enabled.
    pub const PASID_DISABLED: u8 = 0x45;
    /// The PASID is past the directory.
    pub const PASID_PAST_DIRECTORY: u8 = 0x46;
    /// Page requests are not enabled.
    pub const PAGE_REQUEST_DISABLED: u8 = 0x47;
    /// The PASID is that of requests without one.
    pub const PASID_OF_OTHERS: u8 = 0x48;
    /// First of those of the PASID directory and table, likewise.
    pub const PASID: u8 = 0x50;
    /// A privileged request, which the entry of its PASID does not allow.
    pub const SUPERVISOR_REQUEST: u8 = 0x5d;
    /// Last of them.
    pub const PASID_LAST: u8 = 0x5f;
    /// A first-stage entry could not be read.
    pub const FIRST_ACCESS: u8 = 0x70;
    /// A first-stage entry is not present.
    pub const FIRST_NOT_PRESENT: u8 = 0x71;
    /// Reserved bits of a first-stage entry.
    pub const FIRST_RESERVED: u8 = 0x72;
    /// The root of a first stage could not be read.
    pub const FIRST_ROOT_ACCESS: u8 = 0x73;
    /// The address in a first-stage entry is past what the second stage has.
    pub const FIRST_BEYOND: u8 = 0x74;
    /// The second stage does not allow the root of a first stage to be read.
    pub const FIRST_ROOT_READ: u8 = 0x75;
    /// The second stage does not allow another table of a first stage to be read.
    pub const FIRST_READ: u8 = 0x76;
    /// The second stage does not allow flags of a first-stage entry to be set.
    pub const FIRST_WRITE: u8 = 0x77;
    /// A second-stage entry could not be read, in scalable mode.
    pub const SECOND_ACCESS: u8 = 0x78;
    /// A second-stage entry does not allow it, in scalable mode.
    pub const SECOND_PERMISSION: u8 = 0x79;
    /// The address is not canonical in a first stage.
    pub const NOT_CANONICAL: u8 = 0x80;
    /// The first stage does not allow user requests.
    pub const SUPERVISOR_ONLY: u8 = 0x81;
    /// Flags of a first-stage entry have to be set by a walk that does not snoop.
    pub const FIRST_FLAGS: u8 = 0x90;
    /// The input address is past what the unit has, in scalable mode.
    pub const SCALABLE_BEYOND: u8 = 0x83;
    /// The input address is past what the second stage has, in scalable mode.
    pub const SECOND_BEYOND: u8 = 0x84;
    /// A write without permission, in scalable mode.
    pub const SCALABLE_WRITE: u8 = 0x85;
    /// A read without permission, in scalable mode.
    pub const SCALABLE_READ: u8 = 0x86;
    /// The PASID is wider than the unit's.
    pub const PASID_BEYOND: u8 = 0x89;
}
