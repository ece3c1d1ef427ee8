//! What one model SMMU has, and its ID registers (IHI 0070, §6.3.1 to §6.3.8).

/// What a fault does to a transaction (IDR0.STALL_MODEL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StallModel {
    /// Software chooses.
    Both,
    /// Terminate only.
    Terminate,
    /// Stall only.
    Stall,
}

/// When an invalidation takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Not before a CMD_SYNC behind it: as late as the document allows (§4.7.3).
    AtSync,
    /// When it is consumed.
    AtOnce,
}

/// How many commands are processed when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// All of them, in the write of CMDQ_PROD.
    AtOnce,
    /// One in this many register reads.
    Reads(u32),
    /// By [`SmmuModel::step`](super::SmmuModel::step) only.
    Steps,
}

/// One SMMU. [`Config::default`] is what QEMU's has and more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// IDR0.S1P.
    pub stage_one: bool,
    /// IDR0.S2P.
    pub stage_two: bool,
    /// Its accesses snoop CPU caches.
    pub coherent: bool,
    /// IDR0.COHACC, where it is not `coherent`: what the interconnect does with the accesses, the register cannot know.
    pub cohacc: Option<bool>,
    /// IDR0.HTTU: 0 none, 1 access flag, 2 dirty state as well.
    pub httu: u8,
    /// IDR0.HYP.
    pub hyp: bool,
    /// IDR0.ATS.
    pub ats: bool,
    /// IDR0.NS1ATS: no split-stage ATS.
    pub no_split_ats: bool,
    /// IDR0.ASID16.
    pub asid16: bool,
    /// IDR0.MSI.
    pub msi: bool,
    /// IDR0.SEV.
    pub sev: bool,
    /// IDR0.PRI.
    pub pri: bool,
    /// IDR0.VMID16.
    pub vmid16: bool,
    /// IDR0.CD2L.
    pub cd_two_level: bool,
    /// IDR0.STALL_MODEL.
    pub stall: StallModel,
    /// IDR0.TERM_MODEL: only aborts, no RAZ/WI.
    pub abort_only: bool,
    /// IDR0.ST_LEVEL.
    pub two_level: bool,
    /// IDR1.SIDSIZE.
    pub stream_bits: u8,
    /// IDR1.SSIDSIZE.
    pub substream_bits: u8,
    /// IDR1.ATTR_PERMS_OVR: PRIVCFG and INSTCFG have an effect.
    pub permission_overrides: bool,
    /// IDR1.CMDQS.
    pub command_queue_log2: u8,
    /// IDR1.EVENTQS.
    pub event_queue_log2: u8,
    /// IDR1.PRIQS.
    pub pri_queue_log2: u8,
    /// IDR3.HAD.
    pub had: bool,
    /// IDR3.XNX.
    pub xnx: bool,
    /// IDR3.FWB.
    pub fwb: bool,
    /// IDR3.STT.
    pub small_tables: bool,
    /// IDR3.RIL.
    pub range_invalidation: bool,
    /// IDR3.BBML.
    pub bbml: u8,
    /// IDR5.OAS as it is encoded (0 to 5).
    pub output_size: u8,
    /// IDR5.GRAN4K.
    pub granule_4k: bool,
    /// IDR5.GRAN16K.
    pub granule_16k: bool,
    /// IDR5.GRAN64K.
    pub granule_64k: bool,
    /// IDR5.STALL_MAX.
    pub stall_max: u16,
    /// IIDR.
    pub iidr: u32,
    /// When invalidations take effect.
    pub completion: Completion,
    /// How fast commands are processed.
    pub pace: Pace,
    /// Entries that are not valid are cached like others: CMD_CFGI after each change (§4.3).
    pub cache_invalid: bool,
    /// What was just invalidated is fetched again at once, if its entry is still there (§3.21).
    pub speculate: bool,
    /// Reads of CR0ACK, IRQ_CTRLACK or GBPA before an update is in force.
    pub update_reads: u32,
    /// What software must not do is a panic.
    pub strict: bool,
    /// An STE may be fetched word by word over a long time: words from before and from behind a barrier mix, until a
    /// CMD_CFGI and CMD_SYNC between them (§3.21.3.1).
    pub torn_fetches: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stage_one: true,
            stage_two: true,
            coherent: true,
            cohacc: None,
            httu: 0,
            hyp: false,
            ats: false,
            no_split_ats: false,
            asid16: true,
            msi: false,
            sev: false,
            pri: false,
            vmid16: true,
            cd_two_level: false,
            stall: StallModel::Terminate,
            abort_only: true,
            two_level: true,
            stream_bits: 16,
            substream_bits: 0,
            permission_overrides: false,
            command_queue_log2: 19,
            event_queue_log2: 19,
            pri_queue_log2: 0,
            had: true,
            xnx: true,
            fwb: false,
            small_tables: false,
            range_invalidation: true,
            bbml: 0,
            output_size: 4,
            granule_4k: true,
            granule_16k: true,
            granule_64k: true,
            stall_max: 0,
            // Nobody's: 0 is what the driver takes for an emulator.
            iidr: 0x0010_0123,
            completion: Completion::AtSync,
            pace: Pace::AtOnce,
            cache_invalid: true,
            speculate: true,
            update_reads: 1,
            strict: true,
            torn_fetches: true,
        }
    }
}

impl Config {
    /// Everything that a model can do.
    pub fn full() -> Self {
        Self {
            httu: 2,
            hyp: true,
            ats: true,
            msi: true,
            sev: true,
            pri: true,
            cd_two_level: true,
            stall: StallModel::Both,
            substream_bits: 20,
            permission_overrides: true,
            pri_queue_log2: 8,
            output_size: 5,
            stall_max: 16,
            bbml: 2,
            ..Self::default()
        }
    }

    /// Output address width in bits.
    pub fn output_bits(&self) -> u8 {
        super::ste::SIZES[usize::from(self.output_size.min(5))]
    }

    /// The ID register at `offset`.
    pub(super) fn id(&self, offset: usize) -> u32 {
        let bit = |flag: bool, at: u32| u32::from(flag) << at;
        let field = |value: u8, at: u32| u32::from(value) << at;
        match offset {
            0x00 => {
                let stall = match self.stall {
                    StallModel::Both => 0,
                    StallModel::Terminate => 1,
                    StallModel::Stall => 2,
                };
                bit(self.stage_two, 0)
                    | bit(self.stage_one, 1)
                    | 2 << 2
                    | bit(self.cohacc.unwrap_or(self.coherent), 4)
                    | field(self.httu, 6)
                    | bit(self.hyp, 9)
                    | bit(self.ats, 10)
                    | bit(self.no_split_ats, 11)
                    | bit(self.asid16, 12)
                    | bit(self.msi, 13)
                    | bit(self.sev, 14)
                    | bit(self.pri, 16)
                    | bit(self.vmid16, 18)
                    | bit(self.cd_two_level, 19)
                    | 2 << 21
                    | stall << 24
                    | bit(self.abort_only, 26)
                    | bit(self.two_level, 27)
            }
            0x04 => {
                field(self.stream_bits, 0)
                    | field(self.substream_bits, 6)
                    | field(self.pri_queue_log2, 11)
                    | field(self.event_queue_log2, 16)
                    | field(self.command_queue_log2, 21)
                    | bit(self.permission_overrides, 26)
            }
            0x0c => {
                bit(self.had, 2)
                    | bit(self.xnx, 4)
                    | bit(self.fwb, 8)
                    | bit(self.small_tables, 9)
                    | bit(self.range_invalidation, 10)
                    | field(self.bbml, 11)
            }
            0x14 => {
                field(self.output_size, 0)
                    | bit(self.granule_4k, 4)
                    | bit(self.granule_16k, 5)
                    | bit(self.granule_64k, 6)
                    | u32::from(self.stall_max) << 16
            }
            0x18 => self.iidr,
            0x1c => 2,
            _ => 0,
        }
    }
}
