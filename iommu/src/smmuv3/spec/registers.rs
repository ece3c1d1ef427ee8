//! Registers (IHI 0070, chapter 6). Offsets are in bytes from the start of page 0.

#![allow(
    missing_docs,
    reason = "register_bitfields! makes items that no line here stands for"
)]

use tock_registers::register_bitfields;

/// Bytes of the two register pages (§6.1).
pub const REGION_BYTES: usize = 0x2_0000;

/// SMMU_IDR0 (§6.3.1).
pub const IDR0: usize = 0x00;
/// SMMU_IDR1 (§6.3.2).
pub const IDR1: usize = 0x04;
/// SMMU_IDR2 (§6.3.3).
pub const IDR2: usize = 0x08;
/// SMMU_IDR3 (§6.3.4).
pub const IDR3: usize = 0x0c;
/// SMMU_IDR4 (§6.3.5).
pub const IDR4: usize = 0x10;
/// SMMU_IDR5 (§6.3.6).
pub const IDR5: usize = 0x14;
/// SMMU_IIDR (§6.3.7).
pub const IIDR: usize = 0x18;
/// SMMU_AIDR (§6.3.8).
pub const AIDR: usize = 0x1c;
/// SMMU_CR0 (§6.3.9).
pub const CR0: usize = 0x20;
/// SMMU_CR0ACK (§6.3.10): CR0 as far as it is in force.
pub const CR0ACK: usize = 0x24;
/// SMMU_CR1 (§6.3.11).
pub const CR1: usize = 0x28;
/// SMMU_CR2 (§6.3.12).
pub const CR2: usize = 0x2c;
/// SMMU_GBPA (§6.3.14).
pub const GBPA: usize = 0x44;
/// SMMU_IRQ_CTRL (§6.3.16).
pub const IRQ_CTRL: usize = 0x50;
/// SMMU_IRQ_CTRLACK (§6.3.18).
pub const IRQ_CTRLACK: usize = 0x54;
/// SMMU_GERROR (§6.3.19): an error is active where this and GERRORN differ.
pub const GERROR: usize = 0x60;
/// SMMU_GERRORN (§6.3.20).
pub const GERRORN: usize = 0x64;
/// SMMU_GERROR_IRQ_CFG0 (§6.3.21), 64 bits: where its message goes; 0 is nowhere, the wire.
pub const GERROR_IRQ_CFG0: usize = 0x68;
/// SMMU_STRTAB_BASE (§6.3.24), 64 bits.
pub const STRTAB_BASE: usize = 0x80;
/// SMMU_STRTAB_BASE_CFG (§6.3.25).
pub const STRTAB_BASE_CFG: usize = 0x88;
/// SMMU_CMDQ_BASE (§6.3.26), 64 bits.
pub const CMDQ_BASE: usize = 0x90;
/// SMMU_CMDQ_PROD (§6.3.27).
pub const CMDQ_PROD: usize = 0x98;
/// SMMU_CMDQ_CONS (§6.3.28).
pub const CMDQ_CONS: usize = 0x9c;
/// SMMU_EVENTQ_BASE (§6.3.29), 64 bits.
pub const EVENTQ_BASE: usize = 0xa0;
/// SMMU_EVENTQ_IRQ_CFG0 (§6.3.30), 64 bits, as GERROR_IRQ_CFG0.
pub const EVENTQ_IRQ_CFG0: usize = 0xb0;
/// SMMU_PRIQ_BASE (§6.3.33), 64 bits.
pub const PRIQ_BASE: usize = 0xc0;
/// SMMU_PRIQ_IRQ_CFG0 (§6.3.34), 64 bits, as GERROR_IRQ_CFG0.
pub const PRIQ_IRQ_CFG0: usize = 0xd0;
/// SMMU_EVENTQ_PROD (§6.3.95), in page 1.
pub const EVENTQ_PROD: usize = 0x1_00a8;
/// SMMU_EVENTQ_CONS (§6.3.96), in page 1.
pub const EVENTQ_CONS: usize = 0x1_00ac;
/// SMMU_PRIQ_PROD (§6.3.97), in page 1.
pub const PRIQ_PROD: usize = 0x1_00c8;
/// SMMU_PRIQ_CONS (§6.3.98), in page 1.
pub const PRIQ_CONS: usize = 0x1_00cc;

/// STRTAB_BASE.RA: read-allocate hint (§6.3.24).
pub const STRTAB_BASE_RA: u64 = 1 << 62;
/// CMDQ_BASE.RA and EVENTQ_BASE.WA: allocate hint (§6.3.26, §6.3.29).
pub const QUEUE_BASE_ALLOCATE: u64 = 1 << 62;

register_bitfields![u32,
    /// SMMU_IDR0 (§6.3.1).
    pub IDR0_FIELDS [
        /// Stage 2 translation.
        S2P OFFSET(0) NUMBITS(1) [],
        /// Stage 1 translation.
        S1P OFFSET(1) NUMBITS(1) [],
        /// Translation table formats.
        TTF OFFSET(2) NUMBITS(2) [
            AArch64 = 0b10,
            AArch32And64 = 0b11
        ],
        /// Walks and queues snoop CPU caches.
        COHACC OFFSET(4) NUMBITS(1) [],
        /// EL2 stream world.
        HYP OFFSET(9) NUMBITS(1) [],
        /// ATS.
        ATS OFFSET(10) NUMBITS(1) [],
        /// 16-bit ASIDs.
        ASID16 OFFSET(12) NUMBITS(1) [],
        /// Message signalled interrupts, CMD_SYNC completion by a write among them.
        MSI OFFSET(13) NUMBITS(1) [],
        /// CMD_SYNC completion by an event.
        SEV OFFSET(14) NUMBITS(1) [],
        /// Page requests.
        PRI OFFSET(16) NUMBITS(1) [],
        /// 16-bit VMIDs.
        VMID16 OFFSET(18) NUMBITS(1) [],
        /// Two-level context descriptor tables.
        CD2L OFFSET(19) NUMBITS(1) [],
        /// Endianness of table walks.
        TTENDIAN OFFSET(21) NUMBITS(2) [
            Mixed = 0b00,
            Little = 0b10,
            Big = 0b11
        ],
        /// Whether faults can stall.
        STALL_MODEL OFFSET(24) NUMBITS(2) [
            Both = 0b00,
            Terminate = 0b01,
            Stall = 0b10
        ],
        /// Terminated transactions are always aborted, never RAZ/WI.
        TERM_MODEL OFFSET(26) NUMBITS(1) [],
        /// Stream table formats.
        ST_LEVEL OFFSET(27) NUMBITS(2) [
            Linear = 0b00,
            LinearAndTwoLevel = 0b01
        ]
    ],
    /// SMMU_IDR1 (§6.3.2).
    pub IDR1_FIELDS [
        /// Bits of a StreamID.
        SIDSIZE OFFSET(0) NUMBITS(6) [],
        /// Bits of a SubstreamID.
        SSIDSIZE OFFSET(6) NUMBITS(5) [],
        /// log2 of the largest page request queue.
        PRIQS OFFSET(11) NUMBITS(5) [],
        /// log2 of the largest event queue.
        EVENTQS OFFSET(16) NUMBITS(5) [],
        /// log2 of the largest command queue.
        CMDQS OFFSET(21) NUMBITS(5) [],
        /// Queue base addresses are fixed.
        QUEUES_PRESET OFFSET(29) NUMBITS(1) [],
        /// Table base addresses are fixed.
        TABLES_PRESET OFFSET(30) NUMBITS(1) []
    ],
    /// SMMU_IDR3 (§6.3.4).
    pub IDR3_FIELDS [
        /// Stage 2 can force write-back attributes.
        FWB OFFSET(8) NUMBITS(1) [],
        /// Range-based invalidation and level hints.
        RIL OFFSET(10) NUMBITS(1) [],
        /// Break-before-make level.
        BBML OFFSET(11) NUMBITS(2) []
    ],
    /// SMMU_IDR5 (§6.3.6).
    pub IDR5_FIELDS [
        /// Output address size: 32, 36, 40, 42, 44, 48, 52 bits.
        OAS OFFSET(0) NUMBITS(3) [],
        /// 4 KiB granule.
        GRAN4K OFFSET(4) NUMBITS(1) [],
        /// 16 KiB granule.
        GRAN16K OFFSET(5) NUMBITS(1) [],
        /// 64 KiB granule.
        GRAN64K OFFSET(6) NUMBITS(1) []
    ],
    /// SMMU_IIDR (§6.3.7).
    pub IIDR_FIELDS [
        /// JEP106 code of the implementer.
        IMPLEMENTER OFFSET(0) NUMBITS(12) [],
        /// Minor revision: the y of rxpy.
        REVISION OFFSET(12) NUMBITS(4) [],
        /// Major revision: the x of rxpy.
        VARIANT OFFSET(16) NUMBITS(4) [],
        /// Product.
        PRODUCT_ID OFFSET(20) NUMBITS(12) []
    ],
    /// SMMU_CR0 and SMMU_CR0ACK (§6.3.9, §6.3.10).
    pub CR0_FIELDS [
        /// Translation is on; without it GBPA decides.
        SMMUEN OFFSET(0) NUMBITS(1) [],
        /// Page request queue writes are on.
        PRIQEN OFFSET(1) NUMBITS(1) [],
        /// Event queue writes are on.
        EVENTQEN OFFSET(2) NUMBITS(1) [],
        /// Command queue processing is on.
        CMDQEN OFFSET(3) NUMBITS(1) [],
        /// Transactions that say they are translated (ATS) are checked against the STE, and not let through.
        ATSCHK OFFSET(4) NUMBITS(1) []
    ],
    /// SMMU_CR1 (§6.3.11): attributes of the SMMU's own accesses to queues and tables.
    pub CR1_FIELDS [
        /// Queue inner cacheability: 0 non-cacheable, 1 write-back.
        QUEUE_IC OFFSET(0) NUMBITS(2) [],
        /// Queue outer cacheability.
        QUEUE_OC OFFSET(2) NUMBITS(2) [],
        /// Queue shareability.
        QUEUE_SH OFFSET(4) NUMBITS(2) [
            Outer = 0b10,
            Inner = 0b11
        ],
        /// Table inner cacheability.
        TABLE_IC OFFSET(6) NUMBITS(2) [],
        /// Table outer cacheability.
        TABLE_OC OFFSET(8) NUMBITS(2) [],
        /// Table shareability.
        TABLE_SH OFFSET(10) NUMBITS(2) [
            Outer = 0b10,
            Inner = 0b11
        ]
    ],
    /// SMMU_CR2 (§6.3.12).
    pub CR2_FIELDS [
        /// Record C_BAD_STREAMID events.
        RECINVSID OFFSET(1) NUMBITS(1) [],
        /// Private TLB maintenance: broadcast of CPUs is ignored.
        PTM OFFSET(2) NUMBITS(1) []
    ],
    /// SMMU_GBPA (§6.3.14): what happens to transactions while SMMUEN is 0.
    pub GBPA_FIELDS [
        /// Shareability override; 1 uses the incoming attribute.
        SHCFG OFFSET(12) NUMBITS(2) [
            Incoming = 0b01
        ],
        /// Abort them all.
        ABORT OFFSET(20) NUMBITS(1) [],
        /// Written 1 to change the register; reads 1 until the change is in force.
        UPDATE OFFSET(31) NUMBITS(1) []
    ],
    /// SMMU_IRQ_CTRL (§6.3.16).
    pub IRQ_CTRL_FIELDS [
        /// Global error interrupt.
        GERROR_IRQEN OFFSET(0) NUMBITS(1) [],
        /// Page request queue interrupt.
        PRIQ_IRQEN OFFSET(1) NUMBITS(1) [],
        /// Event queue interrupt.
        EVENTQ_IRQEN OFFSET(2) NUMBITS(1) []
    ],
    /// SMMU_GERROR and SMMU_GERRORN (§6.3.19, §6.3.20).
    pub GERROR_FIELDS [
        /// The command queue stopped; CMDQ_CONS.ERR says why.
        CMDQ_ERR OFFSET(0) NUMBITS(1) [],
        /// An event could not be written.
        EVENTQ_ABT_ERR OFFSET(2) NUMBITS(1) [],
        /// A page request could not be written.
        PRIQ_ABT_ERR OFFSET(3) NUMBITS(1) [],
        /// The message of a CMD_SYNC was aborted.
        MSI_CMDQ_ABT_ERR OFFSET(4) NUMBITS(1) [],
        /// The event queue's message was aborted.
        MSI_EVENTQ_ABT_ERR OFFSET(5) NUMBITS(1) [],
        /// The page request queue's message was aborted.
        MSI_PRIQ_ABT_ERR OFFSET(6) NUMBITS(1) [],
        /// The message of this register was aborted.
        MSI_GERROR_ABT_ERR OFFSET(7) NUMBITS(1) [],
        /// Service failure mode: the SMMU aborts everything.
        SFM_ERR OFFSET(8) NUMBITS(1) []
    ],
    /// SMMU_STRTAB_BASE_CFG (§6.3.25).
    pub STRTAB_BASE_CFG_FIELDS [
        /// log2 of the number of streams.
        LOG2SIZE OFFSET(0) NUMBITS(6) [],
        /// StreamID bits that index a level 2 table.
        SPLIT OFFSET(6) NUMBITS(5) [],
        /// Format.
        FMT OFFSET(16) NUMBITS(2) [
            Linear = 0b00,
            TwoLevel = 0b01
        ]
    ],
    /// SMMU_CMDQ_CONS (§6.3.28).
    pub CMDQ_CONS_FIELDS [
        /// Index of the next command, with the wrap bit above it.
        RD OFFSET(0) NUMBITS(20) [],
        /// Why the queue stopped; valid while GERROR.CMDQ_ERR is active.
        ERR OFFSET(24) NUMBITS(7) []
    ],
    /// SMMU_EVENTQ_PROD and SMMU_EVENTQ_CONS (§6.3.95, §6.3.96), SMMU_PRIQ_PROD and SMMU_PRIQ_CONS alike.
    pub EVENTQ_INDEX_FIELDS [
        /// Index with the wrap bit above it.
        INDEX OFFSET(0) NUMBITS(20) [],
        /// PROD.OVFLG; CONS.OVACKFLG. Records were lost where they differ (§7.4, §8.1).
        OVERFLOW OFFSET(31) NUMBITS(1) []
    ]
];
