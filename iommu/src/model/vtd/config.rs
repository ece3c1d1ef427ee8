//! What one model unit has, and its capability registers (11.4, CAP and ECAP).

/// When an invalidation takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Not before a wait descriptor behind it: as late as the document allows (6.5.2.9).
    AtWait,
    /// When it is taken from the queue.
    AtOnce,
}

/// One unit. [`Config::default`] has what QEMU's has and more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its accesses snoop CPU caches (ECAP.C).
    pub coherent: bool,
    /// CAP.ND: domain IDs have 4 + 2 times this many bits.
    pub domains: u8,
    /// CAP.SAGAW: bit 1 is 39 bits, bit 2 is 48, bit 3 is 57.
    pub widths: u8,
    /// Input address width (CAP.MGAW plus one).
    pub input_bits: u8,
    /// Host address width, which is in no register.
    pub output_bits: u8,
    /// CAP.SSLPS: bit 0 is 2 MiB, bit 1 is 1 GiB.
    pub large: u8,
    /// CAP.PSI and MAMV.
    pub page_mask: Option<u8>,
    /// CAP.DWD and DRD.
    pub drains: bool,
    /// CAP.PLMR and PHMR.
    pub protected_memory: bool,
    /// CAP.RWBF.
    pub write_buffers: bool,
    /// CAP.CM.
    pub caching_mode: bool,
    /// CAP.ESRTPS and ESIRTPS.
    pub pointer_forgets: bool,
    /// CAP.FRO and NFR: offset in bytes, and number of fault records.
    pub fault_records: (usize, usize),
    /// ECAP.IRO in bytes.
    pub iotlb_registers: usize,
    /// ECAP.QI.
    pub queue: bool,
    /// ECAP.IR.
    pub interrupt_remapping: bool,
    /// CAP.PI.
    pub posted_interrupts: bool,
    /// ECAP.EIM.
    pub wide_destinations: bool,
    /// ECAP.SC.
    pub snoop_control: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// ECAP.SMTS and SSTS: scalable mode with second stages.
    pub scalable: bool,
    /// ECAP.FSTS: first stages.
    pub first_stage: bool,
    /// ECAP.NEST: first stages on second stages.
    pub nesting: bool,
    /// CAP.FS5LP: first stages of 5 levels.
    pub five_levels: bool,
    /// CAP.FS1GP: first-stage pages of 1 GiB.
    pub first_stage_1_gib: bool,
    /// ECAP.SRS: privileged requests.
    pub supervisor: bool,
    /// ECAP.EAFS: extended accessed flags.
    pub extended_accessed: bool,
    /// ECAP.DT: device TLBs.
    pub device_tlbs: bool,
    /// ECAP.PRS and PDS: page requests, and their drain.
    pub page_requests: bool,
    /// ECAP.PASID, and PSS plus one; 0 without.
    pub pasid_bits: u8,
    /// ECAP.SMPWCS.
    pub walk_snoop: bool,
    /// ECAP.RPS: RID_PASID is looked at; requests without PASID are those of PASID 0 otherwise.
    pub rid_pasid: bool,
    /// Faults of a source are dropped while a record of it is there (7.2.1 allows it).
    pub collapse: bool,
    /// When invalidations take effect.
    pub completion: Completion,
    /// Reads of a status before a change is in force.
    pub update_reads: u32,
    /// Writes of devices arrive when an invalidation drains them, and not before.
    pub late_writes: bool,
    /// Page requests stay on their way until they are drained (7.7), or [`arrive`](super::VtdModel::arrive).
    pub late_requests: bool,
    /// What software must not do is a panic.
    pub strict: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            coherent: true,
            domains: 6,
            widths: 0b110,
            input_bits: 48,
            output_bits: 46,
            large: 0b11,
            page_mask: Some(18),
            drains: true,
            protected_memory: false,
            write_buffers: false,
            caching_mode: false,
            pointer_forgets: false,
            fault_records: (0x220, 8),
            iotlb_registers: 0xf0,
            queue: true,
            interrupt_remapping: true,
            posted_interrupts: false,
            wide_destinations: true,
            snoop_control: false,
            pass_through: true,
            scalable: false,
            first_stage: false,
            nesting: false,
            five_levels: false,
            first_stage_1_gib: true,
            supervisor: false,
            extended_accessed: false,
            device_tlbs: false,
            page_requests: false,
            pasid_bits: 0,
            walk_snoop: true,
            rid_pasid: true,
            collapse: false,
            completion: Completion::AtWait,
            update_reads: 2,
            late_writes: true,
            late_requests: false,
            strict: true,
        }
    }
}

impl Config {
    /// A unit in scalable mode with all that the model knows of it.
    pub fn nesting() -> Self {
        Self {
            scalable: true,
            first_stage: true,
            nesting: true,
            pasid_bits: 20,
            ..Self::default()
        }
    }

    pub(super) fn cap(&self) -> u64 {
        let (records, count) = self.fault_records;
        let flag = |on: bool, bit: u32| u64::from(on) << bit;
        u64::from(self.domains)
            | flag(self.write_buffers, 4)
            | flag(self.protected_memory, 5)
            | flag(self.protected_memory, 6)
            | flag(self.caching_mode, 7)
            | u64::from(self.widths) << 8
            | u64::from(self.input_bits - 1) << 16
            | flag(true, 22)
            | (records as u64 / 16) << 24
            | u64::from(self.large) << 34
            | flag(self.page_mask.is_some(), 39)
            | (count as u64 - 1) << 40
            | u64::from(self.page_mask.unwrap_or(0)) << 48
            | flag(self.drains, 54)
            | flag(self.drains, 55)
            | flag(self.first_stage && self.first_stage_1_gib, 56)
            | flag(self.five_levels, 60)
            | flag(self.posted_interrupts, 59)
            | flag(self.pointer_forgets, 62)
            | flag(self.pointer_forgets, 63)
    }

    pub(super) fn ecap(&self) -> u64 {
        let flag = |on: bool, bit: u32| u64::from(on) << bit;
        flag(self.coherent, 0)
            | flag(self.queue, 1)
            | flag(self.device_tlbs, 2)
            | flag(self.interrupt_remapping, 3)
            | flag(self.wide_destinations, 4)
            | flag(self.pass_through, 6)
            | flag(self.snoop_control, 7)
            | flag(self.nesting, 26)
            | flag(self.page_requests, 29)
            | flag(self.supervisor, 31)
            | flag(self.extended_accessed, 34)
            | u64::from(self.pasid_bits.saturating_sub(1)) << 35
            | flag(self.pasid_bits != 0, 40)
            | flag(self.page_requests, 42)
            | flag(self.scalable, 43)
            | flag(self.scalable, 46)
            | flag(self.first_stage, 47)
            | flag(self.walk_snoop, 48)
            | flag(self.rid_pasid, 49)
            | (self.iotlb_registers as u64 / 16) << 8
            | 15 << 20
    }
}
