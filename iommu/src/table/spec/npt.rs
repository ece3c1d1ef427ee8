//! Entries of nested page tables (NPT), which are those of long mode (AMD64 Architecture Programmer's Manual, volume 2:
//! 5.3 "Long-Mode Page Translation", 5.4 "Page-Translation-Table Entry Fields"). Definitions only.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// PTE, PDE, PDPE, PML4E and PML5E: one layout. Permissions of all levels are combined; the walker counts every
    /// access of a guest as one of a user (15.25.5).
    pub ENTRY [
        /// P: the entry is in force.
        PRESENT OFFSET(0) NUMBITS(1) [],
        /// R/W: writes allowed.
        WRITE OFFSET(1) NUMBITS(1) [],
        /// U/S: accesses by a user allowed, so anything at all by a guest.
        USER OFFSET(2) NUMBITS(1) [],
        /// PWT and PCD: with PAT = 0, which of PA0 to PA3 in the PAT MSR says the memory type. Those are write-back,
        /// write-through, UC- and uncacheable after reset (7.8.2).
        TYPE OFFSET(3) NUMBITS(2) [
            WriteBack = 0,
            Uncacheable = 3
        ],
        /// A: set by a walker that uses the entry.
        ACCESSED OFFSET(5) NUMBITS(1) [],
        /// D: set by a walker that writes through the entry. Leaves only.
        DIRTY OFFSET(6) NUMBITS(1) [],
        /// PS: a leaf, in a PDE (2 MiB) or PDPE (1 GiB); reserved above; PAT in a PTE.
        SIZE OFFSET(7) NUMBITS(1) [],
        /// Bits [51:12] of the page or of the next table.
        ADDRESS OFFSET(12) NUMBITS(40) [],
        /// NX: no instruction fetches; reserved where the hypervisor's EFER.NXE is 0.
        NX OFFSET(63) NUMBITS(1) []
    ]
];
