//! Commands (IHI 0070, chapter 4): from two words to what they ask for, or CERROR_ILL.

use super::config::Config;
use super::lookup::Configuration;
use super::ste::bits;
use super::tlb::{Range, Scope};

/// CMD_RESUME's answer (§4.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Terminate,
    Retry,
    Abort,
}

/// How a CMD_SYNC tells (§4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    None,
    Interrupt { address: u64, data: u32 },
    Event,
}

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR: hints.
    Prefetch {
        sid: u32,
        address: Option<u64>,
    },
    Configuration(Configuration),
    Tlb(Scope),
    /// CMD_ATC_INV.
    Atc {
        sid: u32,
        ssid: Option<u32>,
        /// Of every substream.
        global: bool,
        address: u64,
        /// Pages, as a power of two; 52 and more is all.
        size: u32,
    },
    /// CMD_PRI_RESP.
    Response {
        sid: u32,
        group: u16,
        code: u8,
    },
    /// CMD_RESUME.
    Resume {
        sid: u32,
        tag: u16,
        answer: Answer,
    },
    /// CMD_STALL_TERM.
    StallTerminate(u32),
    Sync(Signal),
}

/// CERROR_ILL, with the rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Illegal(pub &'static str);

fn range(w0: u64, w1: u64, config: &Config, widest: u32) -> Result<Range, Illegal> {
    let leaf = w1 & 1 != 0;
    let base = bits(w1, widest, 12) << 12;
    let single = Range {
        base,
        last: base | 0xfff,
        leaf,
        granule: None,
        level: None,
    };
    if !config.range_invalidation {
        return Ok(single);
    }
    let (number, scale) = (bits(w0, 16, 12), bits(w0, 24, 20));
    let (level, granule) = (bits(w1, 9, 8), bits(w1, 11, 10));
    if granule == 0 {
        return Ok(single);
    }
    if number == 0 && scale == 0 && level == 0 {
        return Err(Illegal("TG without NUM, SCALE and TTL (4.4.1.1)"));
    }
    if granule == 2 && level == 1 {
        return Err(Illegal("TTL for a 16 KiB granule (4.4.1)"));
    }
    let granule = [0, 12, 14, 16][granule as usize];
    let bytes = u128::from(number + 1) << (scale + granule);
    let base = base & !((1 << granule) - 1);
    Ok(Range {
        base,
        last: u64::try_from(u128::from(base) + bytes - 1).unwrap_or(u64::MAX),
        leaf,
        granule: Some(granule as u8),
        level: (level != 0).then_some(level as i8),
    })
}

/// Decodes; what the SMMU does not have is illegal (§4.1.3).
pub(super) fn decode(words: [u64; 2], config: &Config) -> Result<Command, Illegal> {
    let [w0, w1] = words;
    let sid = bits(w0, 63, 32) as u32;
    let ssid = bits(w0, 31, 12) as u32;
    let substream = (w0 >> 11 & 1 != 0).then_some(ssid);
    let vmid_mask = if config.vmid16 { 0xffff } else { 0xff };
    let vmid = if config.stage_two {
        bits(w0, 47, 32) as u16 & vmid_mask
    } else {
        0
    };
    let asid_mask = if config.asid16 { 0xffff } else { 0xff };
    let asid = bits(w0, 63, 48) as u16 & asid_mask;
    let (one, two) = (config.stage_one, config.stage_two);
    let opcode = w0 as u8;
    let secure = w0 >> 10 & 1 != 0;
    if secure && matches!(opcode, 0x01..=0x06 | 0x40 | 0x41 | 0x44 | 0x45) {
        return Err(Illegal("SSec in a Non-secure queue"));
    }
    Ok(match opcode {
        0x01 => Command::Prefetch { sid, address: None },
        0x02 => Command::Prefetch {
            sid,
            address: Some(bits(w1, 63, 12) << 12),
        },
        0x03 => Command::Configuration(Configuration::Ste {
            sid,
            leaf: w1 & 1 != 0,
        }),
        0x04 => {
            let range = bits(w1, 4, 0);
            let last = (1u64 << (range + 1)) - 1;
            let first = u64::from(sid) & !last;
            Command::Configuration(Configuration::Range(first as u32, (first | last) as u32))
        }
        0x05 if one => Command::Configuration(Configuration::Cd {
            sid,
            ssid: if config.substream_bits == 0 { 0 } else { ssid },
            leaf: w1 & 1 != 0,
        }),
        0x06 if one => Command::Configuration(Configuration::Cds(sid)),
        0x10 if one => Command::Tlb(Scope::StageOne(vmid)),
        0x11 if one => Command::Tlb(Scope::Asid(vmid, asid)),
        0x12 | 0x13 if one => Command::Tlb(Scope::Address {
            el2: false,
            vmid,
            asid: (opcode == 0x12).then_some(asid),
            range: range(w0, w1, config, 63)?,
        }),
        0x20 if config.hyp => Command::Tlb(Scope::El2),
        0x21 if config.hyp => Command::Tlb(Scope::El2Asid(asid)),
        0x22 | 0x23 if config.hyp => Command::Tlb(Scope::Address {
            el2: true,
            vmid: 0,
            asid: (opcode == 0x22).then_some(asid),
            range: range(w0, w1, config, 63)?,
        }),
        0x28 if two => Command::Tlb(Scope::Vmid(vmid)),
        0x2a if two => Command::Tlb(Scope::Ipa(vmid, range(w0, w1, config, 51)?)),
        0x30 => Command::Tlb(Scope::Everything),
        0x40 if config.ats => Command::Atc {
            sid,
            ssid: substream,
            global: substream.is_some() && w0 >> 9 & 1 != 0,
            address: bits(w1, 63, 12) << 12,
            size: bits(w1, 5, 0) as u32,
        },
        0x41 if config.pri => match bits(w1, 13, 12) {
            3 => return Err(Illegal("Resp")),
            code => Command::Response {
                sid,
                group: bits(w1, 8, 0) as u16,
                code: code as u8,
            },
        },
        0x44 | 0x45 if config.stall == super::StallModel::Terminate => {
            return Err(Illegal("no stalls here (4.6)"));
        }
        0x44 => Command::Resume {
            sid,
            tag: bits(w1, 15, 0) as u16,
            answer: match bits(w0, 13, 12) {
                0 => Answer::Terminate,
                1 => Answer::Retry,
                2 => Answer::Abort,
                _ => return Err(Illegal("Ac and Ab")),
            },
        },
        0x45 => Command::StallTerminate(sid),
        0x46 => Command::Sync(match bits(w0, 13, 12) {
            0 => Signal::None,
            1 => Signal::Interrupt {
                address: w1 & 0x000f_ffff_ffff_fffc,
                data: bits(w0, 63, 32) as u32,
            },
            2 => Signal::Event,
            _ => return Err(Illegal("CS")),
        }),
        _ => return Err(Illegal("opcode")),
    })
}
