//! Second-stage paging entries of VT-d (Intel VT-d specification, 9.8). Definitions only.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// SS-PTE, SS-PDE, SS-PDPE, SS-PML4E and SS-PML5E: one layout, of which tables use R, W, X and ADDRESS only.
    /// An entry with R = W = 0 is not present; permissions of all levels are combined.
    pub ENTRY [
        /// Reads allowed.
        R OFFSET(0) NUMBITS(1) [],
        /// Writes allowed.
        W OFFSET(1) NUMBITS(1) [],
        /// Execute requests allowed; ignored where ECAP.ERS is 0.
        X OFFSET(2) NUMBITS(1) [],
        /// A leaf, in an SS-PDE (2 MiB) or SS-PDPE (1 GiB); ignored in an SS-PTE.
        PS OFFSET(7) NUMBITS(1) [],
        /// Accessed; set by hardware where the PASID entry has SSADE.
        A OFFSET(8) NUMBITS(1) [],
        /// Dirty; set by hardware where the PASID entry has SSADE. Leaves only.
        D OFFSET(9) NUMBITS(1) [],
        /// Accesses snoop caches whatever the request says; reserved where ECAP.SC is 0. Leaves only.
        SNP OFFSET(11) NUMBITS(1) [],
        /// Bits [51:12] of the page or of the next table; those past the host address width are reserved.
        ADDRESS OFFSET(12) NUMBITS(40) []
    ]
];
