//! A guest's stream table (IHI 0070, §3.3.1, §5.1, §5.2): where the entry of a stream is, and what it asks for. Pure but
//! for the reads, each of which happens once.

use tock_registers::LocalRegisterCopy;

use super::spec::TABLE_ADDRESS;
use crate::addr::Gpa;
use crate::hal::GuestMemory;
use crate::object::driver::StageOne;
use crate::physical::StageOneConfig;
use crate::smmuv3::spec::registers::{IDR0_FIELDS, IDR1_FIELDS, STRTAB_BASE_CFG_FIELDS};
use crate::smmuv3::spec::ste::{L1STD, STE_BYTES, STE0, STE1};
use crate::smmuv3::{GuestEntry, Identity};

/// Why a stream has no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    /// C_BAD_STREAMID.
    OutOfRange,
    /// F_STE_FETCH, with the address.
    Unreadable(Gpa),
}

/// Where a guest has its stream table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StreamTable {
    base: u64,
    /// log2 of the number of streams.
    log2: u32,
    /// StreamID bits that index a level 2 table, where there are two levels.
    split: Option<u32>,
}

impl StreamTable {
    /// By STRTAB_BASE and STRTAB_BASE_CFG, for StreamIDs of at most `stream_bits`. The base is aligned to the size of the
    /// table, reserved splits are 6, reserved formats linear (§6.3.24, §6.3.25).
    pub fn new(base: u64, config: u32, stream_bits: u8) -> Self {
        let config = LocalRegisterCopy::<u32, STRTAB_BASE_CFG_FIELDS::Register>::new(config);
        let log2 = config
            .read(STRTAB_BASE_CFG_FIELDS::LOG2SIZE)
            .min(stream_bits.into());
        let split = match config.read(STRTAB_BASE_CFG_FIELDS::SPLIT) {
            split @ (8 | 10) => split,
            _ => 6,
        };
        let two_level = config.matches_all(STRTAB_BASE_CFG_FIELDS::FMT::TwoLevel);
        let bytes_log2 = if two_level {
            (3 + log2.saturating_sub(split)).max(6)
        } else {
            6 + log2
        };
        Self {
            base: base & TABLE_ADDRESS & !((1 << bytes_log2) - 1),
            log2,
            split: two_level.then_some(split),
        }
    }

    /// Where the entry of `stream` is: for two levels, after one read of a level 1 descriptor.
    fn entry(&self, memory: &dyn GuestMemory, stream: u32) -> Result<Gpa, Missing> {
        if u64::from(stream) >> self.log2 != 0 {
            return Err(Missing::OutOfRange);
        }
        let bytes = STE_BYTES as u64;
        let Some(split) = self.split else {
            return Ok(Gpa(self.base + u64::from(stream) * bytes));
        };
        let at = Gpa(self.base + u64::from(stream >> split) * 8);
        let mut word = [0; 8];
        memory
            .read(at, &mut word)
            .map_err(|_| Missing::Unreadable(at))?;
        let descriptor = LocalRegisterCopy::<u64, L1STD::Register>::new(u64::from_le_bytes(word));
        let span = descriptor.read(L1STD::SPAN) as u32;
        let index = stream & ((1 << split) - 1);
        // §5.1: 0 is an invalid descriptor, more than SPLIT + 1 is reserved.
        if span == 0 || span > split + 1 || u64::from(index) >= 1 << (span - 1) {
            return Err(Missing::OutOfRange);
        }
        let size = bytes << (span - 1);
        let table = descriptor.get() & TABLE_ADDRESS & !(size - 1);
        Ok(Gpa(table + u64::from(index) * bytes))
    }

    /// The first two words of the entry of `stream`. The entry is read once, and whole: past the end of memory nothing
    /// is half there.
    pub fn read(&self, memory: &dyn GuestMemory, stream: u32) -> Result<[u64; 2], Missing> {
        let at = self.entry(memory, stream)?;
        let mut words = [0; STE_BYTES / 8];
        memory
            .read_words(at, &mut words)
            .map_err(|_| Missing::Unreadable(at))?;
        Ok([words[0], words[1]])
    }
}

/// What a guest's entries may say, by its own ID registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    ats: bool,
    stalls: bool,
    two_level_contexts: bool,
    substream_bits: u8,
    /// The hardware could stall, but the guest is not told of it: its contexts must not.
    no_stall: bool,
}

/// What the ID registers here leave without meaning: RES0 or IGNORED in an entry of a Non-secure stream. Bits `[58:52]`;
/// the rest of word 0 is V, Config, S1Fmt, S1ContextPtr and S1CDMax.
const IGNORED_FIRST: u64 = 0x07f0_0000_0000_0000;
/// In word 1: S2HWU, S2FWB (no stage 2), DRE, CONT, DCP, PPAR, MEV (hints, and what only PRI has), S1MPAM (no MPAM),
/// MTCFG, MemAttr, ALLOCCFG, SHCFG, NSCFG, PRIVCFG, INSTCFG (IDR1.ATTR_TYPES_OVR and ATTR_PERMS_OVR are 0), and what has
/// no name.
const NAMED_SECOND: u64 = 0xf800_00ff;
/// Word 1: STRW, RES0 as IDR0.HYP is 0.
const STREAM_WORLD: u64 = 3 << 30;

impl Rules {
    /// For a guest that is offered `offered` of `hardware`.
    pub fn new(offered: &Identity, hardware: &Identity) -> Self {
        let idr0 = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(offered.idr[0]);
        let idr1 = LocalRegisterCopy::<u32, IDR1_FIELDS::Register>::new(offered.idr[1]);
        let physical = LocalRegisterCopy::<u32, IDR0_FIELDS::Register>::new(hardware.idr[0]);
        let stalls = !idr0.matches_all(IDR0_FIELDS::STALL_MODEL::Terminate);
        Self {
            ats: idr0.is_set(IDR0_FIELDS::ATS),
            stalls,
            two_level_contexts: idr0.is_set(IDR0_FIELDS::CD2L),
            substream_bits: idr1.read(IDR1_FIELDS::SSIDSIZE) as u8,
            no_stall: !stalls && physical.matches_all(IDR0_FIELDS::STALL_MODEL::Both),
        }
    }

    /// What an entry that starts with `words` asks for. One that is not valid, or ILLEGAL (§5.2), refuses every transaction
    /// with C_BAD_STE.
    pub fn classify(&self, words: [u64; 2]) -> StageOne {
        let first = LocalRegisterCopy::<u64, STE0::Register>::new(words[0]);
        let config = first.read(STE0::CONFIG);
        if !first.is_set(STE0::V) {
            return StageOne::Refuse;
        }
        // Config = 0b0xx aborts, and nothing else of the entry counts.
        if config & 0b100 == 0 {
            return StageOne::Abort;
        }
        let mut words = [
            words[0] & !IGNORED_FIRST,
            words[1] & NAMED_SECOND & !STREAM_WORLD,
        ];
        if !self.ats {
            words[1] &= !(STE1::EATS.mask << STE1::EATS.shift);
        }
        if self.substream_bits == 0 {
            words[0] &= !(STE0::S1CDMAX.mask << STE0::S1CDMAX.shift);
        }
        // 0b11 behaves as 0b00 in S1Fmt, S1DSS and, without DPT, EATS.
        words[0] = without_threes(words[0], STE0::S1FMT.shift);
        words[1] = without_threes(words[1], STE1::S1DSS.shift);
        words[1] = without_threes(words[1], STE1::EATS.shift);
        let mut stage_one = match GuestEntry::read(words) {
            Ok(GuestEntry::Translate { stage_one, ats }) => StageOneConfig { ats, ..stage_one },
            Ok(GuestEntry::Bypass) => return StageOne::Bypass,
            Ok(GuestEntry::Abort { .. }) | Err(_) => return StageOne::Refuse,
        };
        let fits = stage_one.contexts_log2 <= self.substream_bits
            && (stage_one.format == 0 || self.two_level_contexts)
            && (!stage_one.no_stall || self.stalls);
        if !fits {
            return StageOne::Refuse;
        }
        stage_one.no_stall |= self.no_stall;
        StageOne::Translate(stage_one)
    }
}

/// `word` with 0b00 for 0b11 in the two bits from `at` on.
const fn without_threes(word: u64, at: usize) -> u64 {
    if word >> at & 3 == 3 {
        word & !(3 << at)
    } else {
        word
    }
}
