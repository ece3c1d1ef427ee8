//! Context descriptors (IHI 0070, §5.4): from eight words to stage 1, or to nothing.

use super::config::{Config, StallModel};
use super::ste::{Bad, Regime, SIZES, bits, granule_zero};

/// One half of the input space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Half {
    pub regime: Regime,
    /// Top byte ignored.
    pub tbi: bool,
    /// Hierarchical attributes disabled.
    pub had: bool,
}

/// Stage 1 of one substream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context {
    /// TTB0, TTB1; absent where walks are disabled (EPD).
    pub halves: [Option<Half>; 2],
    pub asid: u16,
    pub wxn: bool,
    pub pan: bool,
    pub stall: bool,
    pub record: bool,
    pub abort: bool,
}

/// `no_stalls` is STE.S1STALLD.
pub(super) fn decode(words: &[u64; 8], config: &Config, no_stalls: bool) -> Result<Context, Bad> {
    let [w0, w1, w2, ..] = *words;
    let flag = |at| bits(w0, at, at) != 0;
    if !flag(31) {
        return Err(Bad("V = 0"));
    }
    if !flag(41) {
        return Err(Bad("AA64: no AArch32 tables here"));
    }
    // ENDI is IGNORED where both EPD are set.
    if flag(15) && !(flag(14) && flag(30)) {
        return Err(Bad("ENDI: little-endian only"));
    }
    let (stall, record, abort) = (flag(44), flag(45), flag(46));
    if config.abort_only && !abort {
        return Err(Bad("A"));
    }
    if stall && (config.stall == StallModel::Terminate || no_stalls)
        || !stall && config.stall == StallModel::Stall
    {
        return Err(Bad("S"));
    }
    let (hd, ha) = (flag(42), flag(43));
    if ha && config.httu == 0 || hd && config.httu < 2 {
        return Err(Bad("HA or HD"));
    }
    let output_bits = SIZES[bits(w0, 34, 32) as usize].min(config.output_bits());
    let half = |tsz: u64, granule: Option<u8>, base: u64, tbi: bool| -> Result<Half, Bad> {
        let smallest = if config.small_tables { 48 } else { 39 };
        let granule = granule.ok_or(Bad("TG"))?;
        if !(16..=smallest).contains(&tsz) {
            return Err(Bad("TxSZ"));
        }
        let input_bits = 64 - tsz as u8;
        let levels = (input_bits - granule).div_ceil(granule - 3).max(1);
        let low = granule + (levels - 1) * (granule - 3);
        let root = base & 0x000f_ffff_ffff_fff0;
        if root >> output_bits != 0 {
            return Err(Bad("TTB past IPS"));
        }
        Ok(Half {
            regime: Regime {
                granule,
                input_bits,
                start: 4 - levels as i8,
                root: root & !((8 << (input_bits - low)) - 1),
                output_bits,
                ha,
                hd: hd && ha,
                affd: flag(35),
            },
            tbi,
            had: config.had && bits(base, 1, 1) != 0,
        })
    };
    // TG1: 1 is 16 KiB, 2 is 4 KiB, 3 is 64 KiB.
    let granule_one = match bits(w0, 23, 22) {
        1 => granule_zero(2, config),
        2 => granule_zero(0, config),
        3 => granule_zero(1, config),
        _ => None,
    };
    let zero = (!flag(14))
        .then(|| {
            let granule = granule_zero(bits(w0, 7, 6), config);
            half(bits(w0, 5, 0), granule, w1, flag(38))
        })
        .transpose()?;
    let one = (!flag(30))
        .then(|| half(bits(w0, 21, 16), granule_one, w2, flag(39)))
        .transpose()?;
    let asid = bits(w0, 63, 48) as u16;
    if !config.asid16 && asid >> 8 != 0 {
        return Err(Bad("ASID"));
    }
    Ok(Context {
        halves: [zero, one],
        asid,
        wxn: flag(36),
        pan: flag(40),
        stall,
        record,
        abort,
    })
}
