//! Registers (VT-d, 11.4). Offsets are in bytes from the base that the DRHD names.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Version.
pub const VER: usize = 0x00;
/// Capabilities, 64 bits.
pub const CAP: usize = 0x08;
/// Extended capabilities, 64 bits.
pub const ECAP: usize = 0x10;
/// Global command: one change at a time.
pub const GCMD: usize = 0x18;
/// Global status: GCMD as far as it is in force.
pub const GSTS: usize = 0x1c;
/// Root table address, 64 bits; in force after GCMD.SRTP.
pub const RTADDR: usize = 0x20;
/// Context command, 64 bits: invalidation without a queue.
pub const CCMD: usize = 0x28;
/// Fault status.
pub const FSTS: usize = 0x34;
/// Fault event control.
pub const FECTL: usize = 0x38;
/// Fault event message data.
pub const FEDATA: usize = 0x3c;
/// Fault event message address.
pub const FEADDR: usize = 0x40;
/// Fault event message address, upper half.
pub const FEUADDR: usize = 0x44;
/// Protected memory enable.
pub const PMEN: usize = 0x64;
/// Protected low memory base.
pub const PLMBASE: usize = 0x68;
/// Protected low memory limit.
pub const PLMLIMIT: usize = 0x6c;
/// Protected high memory base, 64 bits.
pub const PHMBASE: usize = 0x70;
/// Protected high memory limit, 64 bits.
pub const PHMLIMIT: usize = 0x78;
/// Invalidation queue head, 64 bits.
pub const IQH: usize = 0x80;
/// Invalidation queue tail, 64 bits.
pub const IQT: usize = 0x88;
/// Invalidation queue address, 64 bits.
pub const IQA: usize = 0x90;
/// Invalidation event control.
pub const IECTL: usize = 0xa0;
/// Invalidation queue error record, 64 bits.
pub const IQERCD: usize = 0xb0;
/// Interrupt remapping table address, 64 bits; in force after GCMD.SIRTP.
pub const IRTA: usize = 0xb8;
/// Page request queue head, 64 bits.
pub const PQH: usize = 0xc0;
/// Page request queue tail, 64 bits.
pub const PQT: usize = 0xc8;
/// Page request queue address, 64 bits.
pub const PQA: usize = 0xd0;
/// Page request status.
pub const PRS: usize = 0xdc;
/// Page request event control.
pub const PECTL: usize = 0xe0;

/// Invalidate address, 64 bits, from ECAP.IRO.
pub const IVA: usize = 0x0;
/// IOTLB invalidate, 64 bits, from ECAP.IRO.
pub const IOTLB: usize = 0x8;

/// Bytes of a fault record, from CAP.FRO.
pub const FRCD_BYTES: usize = 16;
/// Where its last 32 bits are, of which the topmost is F.
pub const FRCD_LAST: usize = 12;
/// F of a fault record, in its last 32 bits; writing 1 clears it.
pub const FRCD_F: u32 = 1 << 31;

register_bitfields![u32,
    /// VER.
    pub VER_FIELDS [
        /// Minor version.
        MINOR OFFSET(0) NUMBITS(4) [],
        /// Major version.
        MAJOR OFFSET(4) NUMBITS(4) []
    ],
    /// GCMD, and GSTS with the same positions.
    pub GCMD_FIELDS [
        /// Compatibility format interrupts pass.
        CFI OFFSET(23) NUMBITS(1) [],
        /// Take the interrupt remapping table pointer.
        SIRTP OFFSET(24) NUMBITS(1) [],
        /// Interrupt remapping.
        IRE OFFSET(25) NUMBITS(1) [],
        /// Invalidation queue.
        QIE OFFSET(26) NUMBITS(1) [],
        /// Flush write buffers.
        WBF OFFSET(27) NUMBITS(1) [],
        /// Advanced fault logging.
        EAFL OFFSET(28) NUMBITS(1) [],
        /// Take the fault log pointer.
        SFL OFFSET(29) NUMBITS(1) [],
        /// Take the root table pointer.
        SRTP OFFSET(30) NUMBITS(1) [],
        /// Translation.
        TE OFFSET(31) NUMBITS(1) []
    ],
    /// FSTS.
    pub FSTS_FIELDS [
        /// Primary fault overflow.
        PFO OFFSET(0) NUMBITS(1) [],
        /// A fault record is there.
        PPF OFFSET(1) NUMBITS(1) [],
        /// Invalidation queue error.
        IQE OFFSET(4) NUMBITS(1) [],
        /// Invalidation completion error.
        ICE OFFSET(5) NUMBITS(1) [],
        /// Invalidation time-out error.
        ITE OFFSET(6) NUMBITS(1) [],
        /// The record of the first fault that is pending.
        FRI OFFSET(8) NUMBITS(8) []
    ],
    /// FECTL, and IECTL and PECTL with the same positions.
    pub FECTL_FIELDS [
        /// A message waits for the mask.
        IP OFFSET(30) NUMBITS(1) [],
        /// Masked.
        IM OFFSET(31) NUMBITS(1) []
    ],
    /// PMEN.
    pub PMEN_FIELDS [
        /// The regions are protected.
        PRS OFFSET(0) NUMBITS(1) [],
        /// Protect them.
        EPM OFFSET(31) NUMBITS(1) []
    ],
    /// PRS.
    pub PRS_FIELDS [
        /// Page requests are pending.
        PPR OFFSET(0) NUMBITS(1) [],
        /// Page request overflow.
        PRO OFFSET(1) NUMBITS(1) []
    ]
];

register_bitfields![u64,
    /// CAP.
    pub CAP_FIELDS [
        /// Domain IDs have 4 + 2 * ND bits.
        ND OFFSET(0) NUMBITS(3) [],
        /// Advanced fault logging.
        AFL OFFSET(3) NUMBITS(1) [],
        /// Write buffers have to be flushed.
        RWBF OFFSET(4) NUMBITS(1) [],
        /// Protected low memory.
        PLMR OFFSET(5) NUMBITS(1) [],
        /// Protected high memory.
        PHMR OFFSET(6) NUMBITS(1) [],
        /// Caching mode: what is not present may be cached.
        CM OFFSET(7) NUMBITS(1) [],
        /// Second-stage levels: bit 1 is 3 (39 bits), bit 2 is 4 (48), bit 3 is 5 (57).
        SAGAW OFFSET(8) NUMBITS(5) [],
        /// Input address width less one.
        MGAW OFFSET(16) NUMBITS(6) [],
        /// Reads of no bytes from pages that may be written only.
        ZLR OFFSET(22) NUMBITS(1) [],
        /// Fault records start at 16 times this.
        FRO OFFSET(24) NUMBITS(10) [],
        /// Large second-stage pages: bit 0 is 2 MiB, bit 1 is 1 GiB.
        SLLPS OFFSET(34) NUMBITS(4) [],
        /// Invalidation by page.
        PSI OFFSET(39) NUMBITS(1) [],
        /// Fault records less one.
        NFR OFFSET(40) NUMBITS(8) [],
        /// Largest address mask of an invalidation by page.
        MAMV OFFSET(48) NUMBITS(6) [],
        /// Writes can be drained.
        DWD OFFSET(54) NUMBITS(1) [],
        /// Reads can be drained.
        DRD OFFSET(55) NUMBITS(1) [],
        /// First-stage pages of 1 GiB.
        FS1GP OFFSET(56) NUMBITS(1) [],
        /// Posted interrupts.
        PI OFFSET(59) NUMBITS(1) [],
        /// First stages of 5 levels.
        FS5LP OFFSET(60) NUMBITS(1) [],
        /// GCMD.SIRTP forgets all that was cached of interrupts.
        ESIRTPS OFFSET(62) NUMBITS(1) [],
        /// GCMD.SRTP forgets all that was cached.
        ESRTPS OFFSET(63) NUMBITS(1) []
    ],
    /// ECAP.
    pub ECAP_FIELDS [
        /// Walks snoop CPU caches.
        C OFFSET(0) NUMBITS(1) [],
        /// Invalidation queue.
        QI OFFSET(1) NUMBITS(1) [],
        /// Device TLBs.
        DT OFFSET(2) NUMBITS(1) [],
        /// Interrupt remapping.
        IR OFFSET(3) NUMBITS(1) [],
        /// Interrupts with 32-bit destinations.
        EIM OFFSET(4) NUMBITS(1) [],
        /// Pass-through.
        PT OFFSET(6) NUMBITS(1) [],
        /// Snoop control.
        SC OFFSET(7) NUMBITS(1) [],
        /// IVA and IOTLB start at 16 times this.
        IRO OFFSET(8) NUMBITS(10) [],
        /// Largest index mask of an interrupt entry invalidation.
        MHMV OFFSET(20) NUMBITS(4) [],
        /// Nested translation.
        NEST OFFSET(26) NUMBITS(1) [],
        /// Page requests.
        PRS OFFSET(29) NUMBITS(1) [],
        /// Supervisor requests.
        SRS OFFSET(31) NUMBITS(1) [],
        /// First stages have extended accessed flags.
        EAFS OFFSET(34) NUMBITS(1) [],
        /// PASIDs have one bit more than this.
        PSS OFFSET(35) NUMBITS(5) [],
        /// Requests with PASID.
        PASID OFFSET(40) NUMBITS(1) [],
        /// Device TLBs are told of by the source of the physical function too.
        DIT OFFSET(41) NUMBITS(1) [],
        /// Page request drain.
        PDS OFFSET(42) NUMBITS(1) [],
        /// Scalable mode.
        SMTS OFFSET(43) NUMBITS(1) [],
        /// Second stages note accesses and writes.
        SSADS OFFSET(45) NUMBITS(1) [],
        /// Second stage in scalable mode.
        SSTS OFFSET(46) NUMBITS(1) [],
        /// First stage in scalable mode.
        FSTS OFFSET(47) NUMBITS(1) [],
        /// Walks of scalable mode snoop where their entry says so.
        SMPWCS OFFSET(48) NUMBITS(1) [],
        /// Abort-DMA mode.
        ADMS OFFSET(52) NUMBITS(1) []
    ],
    /// RTADDR.
    pub RTADDR_FIELDS [
        /// What the root table is.
        TTM OFFSET(10) NUMBITS(2) [
            Legacy = 0b00,
            Scalable = 0b01,
            Abort = 0b11
        ],
        /// Bits [63:12] of its address.
        RTA OFFSET(12) NUMBITS(52) []
    ],
    /// CCMD.
    pub CCMD_FIELDS [
        /// Domain.
        DID OFFSET(0) NUMBITS(16) [],
        /// Source.
        SID OFFSET(16) NUMBITS(16) [],
        /// Low bits of the function number that do not count.
        FM OFFSET(32) NUMBITS(2) [],
        /// What is asked for.
        CIRG OFFSET(61) NUMBITS(2) [
            Global = 0b01,
            Domain = 0b10,
            Device = 0b11
        ],
        /// Do it; clear when it is done.
        ICC OFFSET(63) NUMBITS(1) []
    ],
    /// IOTLB.
    pub IOTLB_FIELDS [
        /// Domain.
        DID OFFSET(32) NUMBITS(16) [],
        /// Drain writes.
        DW OFFSET(48) NUMBITS(1) [],
        /// Drain reads.
        DR OFFSET(49) NUMBITS(1) [],
        /// What is asked for.
        IIRG OFFSET(60) NUMBITS(2) [
            Global = 0b01,
            Domain = 0b10,
            Page = 0b11
        ],
        /// Do it; clear when it is done.
        IVT OFFSET(63) NUMBITS(1) []
    ],
    /// IVA.
    pub IVA_FIELDS [
        /// log2 of the pages.
        AM OFFSET(0) NUMBITS(6) [],
        /// Tables above the pages did not change.
        IH OFFSET(6) NUMBITS(1) [],
        /// Bits [63:12] of the first page.
        ADDR OFFSET(12) NUMBITS(52) []
    ],
    /// IQA.
    pub IQA_FIELDS [
        /// The queue has 2^QS pages.
        QS OFFSET(0) NUMBITS(3) [],
        /// Descriptors of 256 bits.
        DW OFFSET(11) NUMBITS(1) [],
        /// Bits [63:12] of its address.
        IQA OFFSET(12) NUMBITS(52) []
    ],
    /// IQH and IQT: bytes from the start of the queue.
    pub IQ_FIELDS [
        /// In units of 16 bytes.
        INDEX OFFSET(4) NUMBITS(15) []
    ],
    /// PQA.
    pub PQA_FIELDS [
        /// The queue has 2^(PQS + 7) descriptors.
        PQS OFFSET(0) NUMBITS(3) [],
        /// Bits [63:12] of its address.
        PQA OFFSET(12) NUMBITS(52) []
    ],
    /// IQERCD.
    pub IQERCD_FIELDS [
        /// Why the descriptor at IQH was refused.
        IQEI OFFSET(0) NUMBITS(4) [],
        /// Source of the device TLB that did not answer.
        ITESID OFFSET(32) NUMBITS(16) [],
        /// Source of a completion that nobody waited for.
        ICESID OFFSET(48) NUMBITS(16) []
    ],
    /// IRTA.
    pub IRTA_FIELDS [
        /// The table has 2^(S + 1) entries.
        S OFFSET(0) NUMBITS(4) [],
        /// 32-bit destinations.
        EIME OFFSET(11) NUMBITS(1) [],
        /// Bits [63:12] of its address.
        IRTA OFFSET(12) NUMBITS(52) []
    ]
];
