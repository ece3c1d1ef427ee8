//! Registers that only a guest's SMMU has to know (IHI 0070, chapter 6): definitions only. Those that the driver of a
//! physical SMMU uses too are in [`crate::smmuv3::spec`].

use crate::smmuv3::spec::registers::{
    CR0_FIELDS, CR2_FIELDS, GBPA_FIELDS, GERROR_FIELDS, IRQ_CTRL_FIELDS,
};

/// First byte of register page 1 (§6.1).
pub const PAGE_ONE: u64 = 0x1_0000;
/// SMMU_GERROR_IRQ_CFG1 (§6.3.22): data of its message.
pub const GERROR_IRQ_CFG1: usize = 0x70;
/// SMMU_GERROR_IRQ_CFG2 (§6.3.23): memory attributes of its message.
pub const GERROR_IRQ_CFG2: usize = 0x74;
/// SMMU_EVENTQ_IRQ_CFG1 (§6.3.31).
pub const EVENTQ_IRQ_CFG1: usize = 0xb8;
/// SMMU_EVENTQ_IRQ_CFG2 (§6.3.32).
pub const EVENTQ_IRQ_CFG2: usize = 0xbc;
/// SMMU_PRIQ_IRQ_CFG1 (§6.3.35).
pub const PRIQ_IRQ_CFG1: usize = 0xd8;
/// SMMU_PRIQ_IRQ_CFG2 (§6.3.36).
pub const PRIQ_IRQ_CFG2: usize = 0xdc;
/// The first of the peripheral and component identification registers (§6.3.170): PIDR4.
pub const PIDR4: usize = 0xfd0;
/// SMMU_CIDR0, the first of four whose values are fixed (§6.3.170).
pub const CIDR0: usize = 0xff0;
/// What CIDR0 to CIDR3 read: the preamble of a component of class 0xf.
pub const CIDR: [u32; 4] = [0x0d, 0xf0, 0x05, 0xb1];

/// CR0.SMMUEN (§6.3.9).
pub const SMMUEN: u32 = CR0_FIELDS::SMMUEN::SET.value;
/// CR0.PRIQEN.
pub const PRIQEN: u32 = CR0_FIELDS::PRIQEN::SET.value;
/// CR0.EVENTQEN.
pub const EVENTQEN: u32 = CR0_FIELDS::EVENTQEN::SET.value;
/// CR0.CMDQEN.
pub const CMDQEN: u32 = CR0_FIELDS::CMDQEN::SET.value;
/// CR0.ATSCHK.
pub const ATSCHK: u32 = CR0_FIELDS::ATSCHK::SET.value;

/// IRQ_CTRL.GERROR_IRQEN (§6.3.16).
pub const GERROR_IRQEN: u32 = IRQ_CTRL_FIELDS::GERROR_IRQEN::SET.value;
/// IRQ_CTRL.PRIQ_IRQEN.
pub const PRIQ_IRQEN: u32 = IRQ_CTRL_FIELDS::PRIQ_IRQEN::SET.value;
/// IRQ_CTRL.EVENTQ_IRQEN.
pub const EVENTQ_IRQEN: u32 = IRQ_CTRL_FIELDS::EVENTQ_IRQEN::SET.value;

/// CR1.QUEUE_* (§6.3.11).
pub const CR1_QUEUES: u32 = 0x03f;
/// CR1.TABLE_*.
pub const CR1_TABLES: u32 = 0xfc0;
/// CR2.RECINVSID and PTM (§6.3.12); E2H needs IDR0.HYP.
pub const CR2_WRITABLE: u32 = 0x6;

/// CR2.RECINVSID: C_BAD_STREAMID is recorded.
pub const CR2_RECINVSID: u32 = CR2_FIELDS::RECINVSID::SET.value;

/// GBPA.UPDATE (§6.3.14).
pub const GBPA_UPDATE: u32 = GBPA_FIELDS::UPDATE::SET.value;
/// GBPA.ABORT.
pub const GBPA_ABORT: u32 = GBPA_FIELDS::ABORT::SET.value;
/// GBPA.SHCFG; the others need IDR1.ATTR_TYPES_OVR or ATTR_PERMS_OVR.
pub const GBPA_SHCFG: u32 = 3 << 12;
/// GBPA.SHCFG: as the transaction comes.
pub const GBPA_INCOMING: u32 = GBPA_FIELDS::SHCFG::Incoming.value;

/// STRTAB_BASE: RA and ADDR (§6.3.24).
pub const STRTAB_BASE_WRITABLE: u64 = 0x400f_ffff_ffff_ffc0;
/// STRTAB_BASE_CFG: FMT, SPLIT, LOG2SIZE (§6.3.25).
pub const STRTAB_BASE_CFG_WRITABLE: u32 = 0x3_07ff;
/// ADDR of STRTAB_BASE and of a level 1 descriptor's L2Ptr: bits 51 to 6.
pub const TABLE_ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;
/// Bases of queues: RA or WA, ADDR, LOG2SIZE (§6.3.26).
pub const QUEUE_BASE_WRITABLE: u64 = 0x400f_ffff_ffff_ffff;
/// ADDR of a queue's base: bits 51 to 5.
pub const QUEUE_ADDRESS: u64 = 0x000f_ffff_ffff_ffe0;
/// An index with its wrap bit in PROD and CONS (§6.3.27).
pub const INDEX: u32 = 0x000f_ffff;
/// CMDQ_CONS.ERR (§6.3.28).
pub const CMDQ_ERR_FIELD: u32 = 0x7f00_0000;
/// PROD.OVFLG and CONS.OVACKFLG (§7.4).
pub const OVERFLOW: u32 = 1 << 31;

/// ADDR of IRQ_CFG0: bits 51 to 2 (§6.3.21).
pub const MESSAGE_ADDRESS: u64 = 0x000f_ffff_ffff_fffc;
/// SH and MemAttr of IRQ_CFG2 (§6.3.23).
pub const MESSAGE_ATTRIBUTES: u32 = 0x3f;

/// GERROR.CMDQ_ERR (§6.3.19).
pub const CMDQ_ERR: u32 = GERROR_FIELDS::CMDQ_ERR::SET.value;
/// GERROR.EVENTQ_ABT_ERR.
pub const EVENTQ_ABT_ERR: u32 = GERROR_FIELDS::EVENTQ_ABT_ERR::SET.value;
/// GERROR.PRIQ_ABT_ERR.
pub const PRIQ_ABT_ERR: u32 = GERROR_FIELDS::PRIQ_ABT_ERR::SET.value;
/// GERROR.MSI_CMDQ_ABT_ERR.
pub const MSI_CMDQ_ABT_ERR: u32 = GERROR_FIELDS::MSI_CMDQ_ABT_ERR::SET.value;
/// GERROR.MSI_EVENTQ_ABT_ERR.
pub const MSI_EVENTQ_ABT_ERR: u32 = GERROR_FIELDS::MSI_EVENTQ_ABT_ERR::SET.value;
/// GERROR.MSI_PRIQ_ABT_ERR.
pub const MSI_PRIQ_ABT_ERR: u32 = GERROR_FIELDS::MSI_PRIQ_ABT_ERR::SET.value;
/// GERROR.MSI_GERROR_ABT_ERR.
pub const MSI_GERROR_ABT_ERR: u32 = GERROR_FIELDS::MSI_GERROR_ABT_ERR::SET.value;

/// IDR5.STALL_MAX (§6.3.6).
pub const STALL_MAX_SHIFT: u32 = 16;
