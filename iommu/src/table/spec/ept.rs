//! Entries of extended page tables (Intel SDM, volume 3, "The Extended Page Table Mechanism (EPT)": "EPT Translation
//! Mechanism", its tables of entry formats, and "EPT Misconfigurations"). Definitions only.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// EPT PTE, PDE, PDPTE, PML4E and PML5E: one layout, of which what leads to a table uses R, W, X, ACCESSED and
    /// ADDRESS only. An entry with R = W = X = 0 is not present; permissions of all levels are combined.
    pub ENTRY [
        /// Reads allowed.
        R OFFSET(0) NUMBITS(1) [],
        /// Writes allowed; a misconfiguration without R.
        W OFFSET(1) NUMBITS(1) [],
        /// Instruction fetches allowed; without R only where IA32_VMX_EPT_VPID_CAP has bit 0.
        X OFFSET(2) NUMBITS(1) [],
        /// Memory type; what the guest's PAT says is combined with it. Leaves only; 2, 3 and 7 are misconfigurations.
        TYPE OFFSET(3) NUMBITS(3) [
            Uncacheable = 0,
            WriteBack = 6
        ],
        /// A leaf, in a PDE (2 MiB) or PDPTE (1 GiB); reserved above; ignored in a PTE.
        SIZE OFFSET(7) NUMBITS(1) [],
        /// Set by a walker that uses the entry, where EPTP has bit 6; ignored without that.
        ACCESSED OFFSET(8) NUMBITS(1) [],
        /// Set by a walker that writes through the entry, where EPTP has bit 6; ignored without that. Leaves only.
        DIRTY OFFSET(9) NUMBITS(1) [],
        /// Bits [51:12] of the page or of the next table.
        ADDRESS OFFSET(12) NUMBITS(40) []
    ]
];
