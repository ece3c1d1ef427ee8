//! ICH_*_EL2 words: definitions only, from IHI 0069, 12.4.

use tock_registers::register_bitfields;

register_bitfields![u64,
    /// ICH_VTR_EL2 (12.4).
    pub Vtr [
        /// List registers, less one.
        ListRegs OFFSET(0) NUMBITS(5) [],
        /// ICH_HCR_EL2.TDIR is there.
        Tds OFFSET(19) NUMBITS(1) [],
        /// No direct injection of virtual interrupts.
        Nv4 OFFSET(20) NUMBITS(1) [],
        /// Aff3 may be other than 0 in a guest's SGIs.
        A3v OFFSET(21) NUMBITS(1) [],
        /// Virtual SErrors for misuse.
        Seis OFFSET(22) NUMBITS(1) [],
        /// Bits of a virtual number: 0 is 16, 1 is 24.
        IdBits OFFSET(23) NUMBITS(3) [],
        /// Preemption bits, less one.
        PreBits OFFSET(26) NUMBITS(3) [],
        /// Priority bits, less one.
        PriBits OFFSET(29) NUMBITS(3) []
    ],
    /// `ICH_LR<n>_EL2` (12.4).
    pub Lr [
        /// The interrupt's number in the guest.
        VirtualId OFFSET(0) NUMBITS(32) [],
        /// With Hw: the physical interrupt that is deactivated with it.
        PhysicalId OFFSET(32) NUMBITS(13) [],
        /// Without Hw: a maintenance interrupt when the guest deactivates it.
        Eoi OFFSET(41) NUMBITS(1) [],
        /// 0 is the highest.
        Priority OFFSET(48) NUMBITS(8) [],
        /// Group 1.
        Group OFFSET(60) NUMBITS(1) [],
        /// PhysicalId is meant.
        Hw OFFSET(61) NUMBITS(1) [],
        /// See [`State`](super::State).
        State OFFSET(62) NUMBITS(2) []
    ]
];
