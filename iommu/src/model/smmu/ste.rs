//! Stream table entries (IHI 0070, §5.1, §5.2): from eight words to what they mean, or to nothing.

use super::config::{Config, StallModel};

/// Output address widths as IDR5.OAS, CD.IPS and STE.S2PS encode them (§6.3.6).
pub(super) const SIZES: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 52];

/// `value[high:low]`.
pub(super) const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & (u64::MAX >> (63 - (high - low)))
}

/// One stage of translation, as its walker needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Regime {
    /// log2 of the granule.
    pub granule: u8,
    /// Input address width.
    pub input_bits: u8,
    /// Level of the start table.
    pub start: i8,
    /// Start table.
    pub root: u64,
    /// Output address width.
    pub output_bits: u8,
    /// Hardware sets the access flag.
    pub ha: bool,
    /// Hardware sets dirty state.
    pub hd: bool,
    /// No access flag faults.
    pub affd: bool,
}

/// Stage 2 of one STE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StageTwo {
    pub regime: Regime,
    /// Stage 1 walks to Device memory fault.
    pub protect_walks: bool,
    pub stall: bool,
    pub record: bool,
}

/// Where the CDs of one STE are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contexts {
    pub table: u64,
    /// 0 linear, 1 two levels with 4 KiB leaves, 2 with 64 KiB leaves.
    pub format: u8,
    /// log2 of the number of CDs.
    pub log2: u8,
    /// S1DSS.
    pub without_substream: u8,
    /// S1STALLD.
    pub no_stalls: bool,
}

/// What is left of an STE when all that is ignored is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// Config = 0b0xx: no event.
    Abort,
    /// Config = 0b1xx.
    Translate {
        one: Option<Contexts>,
        two: Option<StageTwo>,
        vmid: u16,
        /// The EL2 stream world.
        el2: bool,
        eats: u8,
        /// PRIVCFG, INSTCFG.
        overrides: (u8, u8),
    },
}

/// C_BAD_STE, with the rule that it breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bad(#[allow(dead_code, reason = "shown by Debug")] pub &'static str);

fn granule(tg: u64, config: &Config) -> Result<u8, Bad> {
    // TG0 and S2TG: 0 is 4 KiB, 1 is 64 KiB, 2 is 16 KiB.
    match tg {
        0 if config.granule_4k => Ok(12),
        1 if config.granule_64k => Ok(16),
        2 if config.granule_16k => Ok(14),
        _ => Err(Bad("granule")),
    }
}

/// Decodes the granule of TG0 or S2TG for other files.
pub(super) fn granule_zero(tg: u64, config: &Config) -> Option<u8> {
    granule(tg, config).ok()
}

/// `ats_check` is CR0.ATSCHK.
pub(super) fn decode(words: &[u64; 8], config: &Config, ats_check: bool) -> Result<Meaning, Bad> {
    let [w0, w1, w2, w3, ..] = *words;
    if w0 & 1 == 0 {
        return Err(Bad("V = 0"));
    }
    let mode = bits(w0, 3, 1);
    if mode & 0b100 == 0 {
        return Ok(Meaning::Abort);
    }
    let (one, two) = (mode & 1 != 0, mode & 2 != 0);
    if one && !config.stage_one || two && !config.stage_two {
        return Err(Bad("a stage that is not there"));
    }
    let stall_two = two && bits(w2, 57, 57) != 0;
    // IGNORED without ATS and where nothing translates; 0b11 takes a feature that is not here, and is 0b00.
    let eats = match bits(w1, 29, 28) as u8 {
        eats @ 1..=2 if config.ats && (one || two) => eats,
        _ => 0,
    };
    match eats {
        0 => {}
        1 if !stall_two => {}
        2 if !config.no_split_ats && one && two && !stall_two && ats_check => {}
        _ => return Err(Bad("EATS")),
    }
    // STRW is used with stage 1 alone, and where there is an EL2.
    let strw = if one && !two && config.hyp {
        bits(w1, 31, 30)
    } else {
        0
    };
    if strw & 1 != 0 {
        return Err(Bad("STRW"));
    }
    let vmid = if config.stage_two { bits(w2, 15, 0) } else { 0 };
    if !config.vmid16 && vmid >> 8 != 0 {
        return Err(Bad("S2VMID"));
    }
    let overrides = if config.permission_overrides {
        (bits(w1, 49, 48) as u8, bits(w1, 51, 50) as u8)
    } else {
        (0, 0)
    };
    Ok(Meaning::Translate {
        one: one.then(|| contexts(w0, w1, two, config)).transpose()?,
        two: two.then(|| stage_two(w2, w3, config)).transpose()?,
        vmid: vmid as u16,
        el2: strw == 2,
        eats,
        overrides,
    })
}

fn contexts(w0: u64, w1: u64, two: bool, config: &Config) -> Result<Contexts, Bad> {
    // S1CDMax is IGNORED without substreams; 0b11 in S1Fmt and S1DSS is 0b00.
    let log2 = match config.substream_bits {
        0 => 0,
        _ => bits(w0, 63, 59) as u8,
    };
    let format = bits(w0, 5, 4) as u8 % 3;
    if log2 > config.substream_bits {
        return Err(Bad("S1CDMax"));
    }
    if log2 != 0 && format != 0 && !config.cd_two_level {
        return Err(Bad("S1Fmt"));
    }
    let no_stalls = bits(w1, 27, 27) != 0;
    if no_stalls && config.stall != StallModel::Both {
        return Err(Bad("S1STALLD"));
    }
    let table = w0 & 0x000f_ffff_ffff_ffc0;
    // §3.4.3: an IPA may also go on to its stage 2 translation fault, and does.
    if !two && table >> config.output_bits() != 0 {
        return Err(Bad("S1ContextPtr past OAS"));
    }
    Ok(Contexts {
        table,
        format: if log2 == 0 { 0 } else { format },
        log2,
        without_substream: bits(w1, 1, 0) as u8 % 3,
        no_stalls,
    })
}

fn stage_two(w2: u64, w3: u64, config: &Config) -> Result<StageTwo, Bad> {
    if bits(w2, 51, 51) == 0 {
        return Err(Bad("S2AA64: no AArch32 tables here"));
    }
    if bits(w2, 52, 52) != 0 {
        return Err(Bad("S2ENDI: little-endian only"));
    }
    let granule = granule(bits(w2, 47, 46), config)?;
    let t0sz = bits(w2, 37, 32) as u8;
    let smallest = if config.small_tables { 48 } else { 39 };
    // §3.4: IAS is as wide as OAS where stage 2 has AArch64 tables only.
    let input_bits = 64u8.wrapping_sub(t0sz);
    if t0sz > smallest || t0sz < 16 || input_bits > config.output_bits() {
        return Err(Bad("S2T0SZ"));
    }
    let start = match (granule, bits(w2, 39, 38)) {
        (12, 3) if config.small_tables => 3,
        (12, level @ 0..=2) => 2 - level as i8,
        (14 | 16, level @ 0..=2) => 3 - level as i8,
        _ => return Err(Bad("S2SL0")),
    };
    // Bits that the levels resolve, and up to 4 more by concatenated start tables (§5.2, S2SL0).
    let per_level = granule - 3;
    let levels = (4 - start) as u8;
    let low = granule + (levels - 1) * per_level;
    let full = granule + levels * per_level;
    if input_bits <= low || input_bits > full + 4 || input_bits > full && start == 0 {
        return Err(Bad("S2SL0 for S2T0SZ"));
    }
    let output = SIZES[bits(w2, 50, 48) as usize].min(config.output_bits());
    let table_bytes = 8u64 << (input_bits - low);
    let root = w3 & 0x000f_ffff_ffff_fff0;
    if root >> output != 0 {
        return Err(Bad("S2TTB past S2PS"));
    }
    let (hd, ha) = (bits(w2, 55, 55) != 0, bits(w2, 56, 56) != 0);
    if ha && config.httu == 0 || hd && config.httu < 2 {
        return Err(Bad("S2HA or S2HD"));
    }
    let stall = bits(w2, 57, 57) != 0;
    if stall && config.stall == StallModel::Terminate || !stall && config.stall == StallModel::Stall
    {
        return Err(Bad("S2S"));
    }
    Ok(StageTwo {
        regime: Regime {
            granule,
            input_bits,
            start,
            root: root & !(table_bytes - 1),
            output_bits: output,
            ha,
            hd: hd && ha,
            affd: bits(w2, 53, 53) != 0,
        },
        protect_walks: bits(w2, 54, 54) != 0,
        stall,
        record: bits(w2, 58, 58) != 0,
    })
}
