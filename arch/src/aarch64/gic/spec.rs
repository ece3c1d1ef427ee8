//! GICv3 register map: definitions only, from IHI 0069 chapter 12.
//!
//! Section numbers: 12.9 is the Distributor, 12.11 the Redistributor; Non-secure views, affinity routing on.

use tock_registers::register_bitfields;

/// GICD_CTLR (12.9).
pub const GICD_CTLR: usize = 0x0000;
/// GICD_TYPER (12.9).
pub const GICD_TYPER: usize = 0x0004;
/// GICD_IGROUPR0 (12.9); one bit an INTID, 32 a word, as are the five that follow.
pub const GICD_IGROUPR: usize = 0x0080;
/// GICD_ISENABLER0 (12.9).
pub const GICD_ISENABLER: usize = 0x0100;
/// GICD_ICENABLER0 (12.9).
pub const GICD_ICENABLER: usize = 0x0180;
/// GICD_ISPENDR0 (12.9).
pub const GICD_ISPENDR: usize = 0x0200;
/// GICD_ICPENDR0 (12.9).
pub const GICD_ICPENDR: usize = 0x0280;
/// GICD_ISACTIVER0 (12.9).
pub const GICD_ISACTIVER: usize = 0x0300;
/// GICD_ICACTIVER0 (12.9).
pub const GICD_ICACTIVER: usize = 0x0380;
/// GICD_IPRIORITYR0 (12.9), one byte an INTID.
pub const GICD_IPRIORITYR: usize = 0x0400;
/// GICD_ICFGR0 (12.9), two bits an INTID; the upper one is edge.
pub const GICD_ICFGR: usize = 0x0C00;
/// GICD_IROUTER0 (12.9), 64 bits an INTID, defined from INTID 32 on.
pub const GICD_IROUTER: usize = 0x6000;
/// GICD_PIDR2, GICR_PIDR2 and GITS_PIDR2: one offset in all three.
pub const PIDR2: usize = 0xFFE8;
/// Bytes of the Distributor's register frame.
pub const GICD_LEN: u64 = 0x1_0000;

/// GICR_CTLR (12.11).
pub const GICR_CTLR: usize = 0x0000;
/// GICR_TYPER, 64 bits (12.11).
pub const GICR_TYPER: usize = 0x0008;
/// GICR_WAKER (12.11).
pub const GICR_WAKER: usize = 0x0014;
/// GICR_PROPBASER, 64 bits (12.11).
pub const GICR_PROPBASER: usize = 0x0070;
/// GICR_PENDBASER, 64 bits (12.11).
pub const GICR_PENDBASER: usize = 0x0078;
/// From RD_base to SGI_base, whose offsets are those of the Distributor for INTIDs 0..32 (12.10).
pub const SGI_BASE: usize = 0x1_0000;
/// Bytes of one Redistributor without, and with, the two frames of virtual LPIs (12.10).
pub const GICR_STRIDE: u64 = 0x2_0000;
/// See [`GICR_STRIDE`].
pub const GICR_STRIDE_VLPIS: u64 = 0x4_0000;

/// First INTID of LPIs (2.2).
pub const FIRST_LPI: u32 = 8192;
/// First INTID that is no interrupt: 1020..1024 are special (2.2).
pub const FIRST_SPECIAL: u32 = 1020;

register_bitfields![u32,
    /// GICD_CTLR (12.9).
    pub DistributorControl [
        /// Group 0, where there is one Security state only.
        EnableGrp0 OFFSET(0) NUMBITS(1) [],
        /// Non-secure Group 1, with affinity routing: the same bit in the view with one Security state and in the Non-secure one.
        EnableGrp1 OFFSET(1) NUMBITS(1) [],
        /// Affinity routing for the Non-secure state.
        AreNs OFFSET(4) NUMBITS(1) [],
        /// One Security state only.
        Ds OFFSET(6) NUMBITS(1) [],
        /// A write is still under way.
        Rwp OFFSET(31) NUMBITS(1) []
    ],
    /// GICD_TYPER (12.9).
    pub DistributorType [
        /// SPIs: 32 × (N + 1) − 1 is the highest INTID.
        ITLinesNumber OFFSET(0) NUMBITS(5) [],
        /// 0, or 2^(N + 1) LPIs at most.
        NumLpis OFFSET(11) NUMBITS(5) [],
        /// LPIs are there.
        Lpis OFFSET(17) NUMBITS(1) [],
        /// Bits of an INTID, less one.
        IdBits OFFSET(19) NUMBITS(5) []
    ],
    /// PIDR2, the part that the architecture defines.
    pub PeripheralId2 [
        /// 3 is GICv3, 4 is GICv4.
        ArchRev OFFSET(4) NUMBITS(4) []
    ],
    /// GICR_CTLR (12.11).
    pub RedistributorControl [
        /// LPIs are on; the tables may not change from here on.
        EnableLpis OFFSET(0) NUMBITS(1) [],
        /// EnableLpis can be cleared again.
        Ces OFFSET(1) NUMBITS(1) [],
        /// A write is still under way.
        Rwp OFFSET(3) NUMBITS(1) []
    ],
    /// GICR_WAKER (12.11).
    pub Waker [
        /// Software asks the interface to be quiescent.
        ProcessorSleep OFFSET(1) NUMBITS(1) [],
        /// The interface is quiescent.
        ChildrenAsleep OFFSET(2) NUMBITS(1) []
    ]
];

register_bitfields![u64,
    /// GICR_TYPER (12.11).
    pub RedistributorType [
        /// Physical LPIs.
        Plpis OFFSET(0) NUMBITS(1) [],
        /// Virtual LPIs: two frames more.
        Vlpis OFFSET(1) NUMBITS(1) [],
        /// The last one of a contiguous region.
        Last OFFSET(4) NUMBITS(1) [],
        /// How an ITS without GITS_TYPER.PTA names it.
        ProcessorNumber OFFSET(8) NUMBITS(16) [],
        /// Aff3.Aff2.Aff1.Aff0.
        Affinity OFFSET(32) NUMBITS(32) []
    ],
    /// GICR_PROPBASER (12.11).
    pub Propbaser [
        /// Bits of an INTID, less one, that the table covers.
        IdBits OFFSET(0) NUMBITS(5) [],
        /// See [`InnerCache`](super::InnerCache).
        InnerCache OFFSET(7) NUMBITS(3) [],
        /// 0 Non-shareable, 1 Inner Shareable, 2 Outer Shareable.
        Shareability OFFSET(10) NUMBITS(2) [],
        /// Bits [51:12] of the table.
        Address OFFSET(12) NUMBITS(40) []
    ],
    /// GICR_PENDBASER (12.11).
    pub Pendbaser [
        /// See [`InnerCache`](super::InnerCache).
        InnerCache OFFSET(7) NUMBITS(3) [],
        /// 0 Non-shareable, 1 Inner Shareable, 2 Outer Shareable.
        Shareability OFFSET(10) NUMBITS(2) [],
        /// Bits [51:16] of the table.
        Address OFFSET(16) NUMBITS(36) [],
        /// The table is all zero.
        Ptz OFFSET(62) NUMBITS(1) []
    ]
];

/// The InnerCache encodings that are used, the same in GICR_* and GITS_* (12.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum InnerCache {
    /// Normal, Inner Non-cacheable.
    NonCacheable = 0b001,
    /// Normal, Inner Cacheable, Read- and Write-allocate, Write-back.
    WriteBack = 0b111,
}

/// Shareability: Inner Shareable.
pub const INNER_SHAREABLE: u64 = 0b01;

/// LPI configuration byte: enabled (5.1.1).
pub const LPI_ENABLED: u8 = 1 << 0;
/// LPI configuration byte: RES1 (5.1.1).
pub const LPI_RES1: u8 = 1 << 1;
/// LPI configuration byte: priority, bits 7:2 (5.1.1).
pub const LPI_PRIORITY: u8 = 0xFC;

/// ICC_CTLR_EL1.EOImode: priority drop and deactivation are apart (12.2).
pub const ICC_CTLR_EOI_MODE: u64 = 1 << 1;
/// ICC_CTLR_EL1.PRIbits, 10:8: bits of a priority, less one (12.2).
pub const ICC_CTLR_PRI_BITS: u32 = 8;
/// ICC_SRE_ELx.SRE (12.2).
pub const ICC_SRE_SRE: u64 = 1 << 0;
/// ICC_SRE_ELx.DFB and DIB: no bypass (12.2).
pub const ICC_SRE_NO_BYPASS: u64 = 0b11 << 1;
/// ICC_SRE_EL2.Enable: EL1 may access ICC_SRE_EL1 without a trap (12.2).
pub const ICC_SRE_EL2_ENABLE: u64 = 1 << 3;
