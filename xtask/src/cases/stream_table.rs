//! What the SMMU has in its stream table for one stream, read from its registers and the machine's memory (IHI 0070, 5.1, 5.2
//! and 6.3).

use crate::qemu::Monitor;
use anyhow::{Context as _, Result, ensure};

/// QEMU's SMMU.
const SMMU: u64 = 0x0905_0000;
/// STRTAB_BASE, STRTAB_BASE_CFG.
pub const STRTAB_BASE: u64 = 0x80;
pub const STRTAB_BASE_CFG: u64 = 0x88;
/// An address in registers and descriptors.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_ffff;

/// What becomes of a stream's requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Config {
    /// No valid entry.
    Nothing,
    /// An entry that refuses.
    Abort,
    /// Stage 2, through the table at this address.
    StageTwo(u64),
    /// Both stages, under this VMID.
    Nested(u64),
    /// Something else: STE.Config.
    Other(u64),
}

/// The entry of `stream`. The machine is better stopped.
pub fn entry(monitor: &mut Monitor, stream: u64) -> Result<Config> {
    let Some(words) = words(monitor, stream)? else {
        return Ok(Config::Nothing);
    };
    Ok(match (words[0] & 1, words[0] >> 1 & 7) {
        (0, _) => Config::Nothing,
        (_, 0b000) => Config::Abort,
        (_, 0b110) => Config::StageTwo(words[3] & ADDRESS & !0xf),
        (_, 0b111) => Config::Nested(words[2] & 0xffff),
        (_, other) => Config::Other(other),
    })
}

/// The words of the entry of `stream`, if the table reaches so far.
fn words(monitor: &mut Monitor, stream: u64) -> Result<Option<[u64; 8]>> {
    let base = register(monitor, STRTAB_BASE)? & ADDRESS & !0x3f;
    let config = register(monitor, STRTAB_BASE_CFG)?;
    let (log2, split) = (config & 0x3f, config >> 6 & 0x1f);
    ensure!(stream >> log2 == 0, "the table has {log2} bits of streams");
    let at = if config >> 16 & 3 == 1 {
        // A level 1 descriptor: L2Ptr, and Span in its low bits.
        let first = word(monitor, base + (stream >> split) * 8)?;
        let (table, span) = (first & ADDRESS & !0x3f, first & 0x1f);
        let index = stream & ((1 << split) - 1);
        if span == 0 || index >> (span - 1) != 0 {
            return Ok(None);
        }
        table + index * 64
    } else {
        base + stream * 64
    };
    let bytes = monitor.memory(at, 64)?;
    let (words, _) = bytes.as_chunks::<8>();
    let words: [[u8; 8]; 8] = words.try_into().context("QEMU saved too little")?;
    Ok(Some(words.map(u64::from_le_bytes)))
}

fn word(monitor: &mut Monitor, at: u64) -> Result<u64> {
    let bytes = monitor.memory(at, 8)?;
    let bytes = bytes.try_into().ok().context("QEMU saved too little")?;
    Ok(u64::from_le_bytes(bytes))
}

/// A register of the SMMU, as QEMU has it.
pub fn register(monitor: &mut Monitor, offset: u64) -> Result<u64> {
    let size = if offset == STRTAB_BASE_CFG { 'w' } else { 'g' };
    let text = monitor.human(&format!("xp /1x{size} {:#x}", SMMU + offset))?;
    let value = text
        .trim_end()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .trim_start_matches("0x");
    u64::from_str_radix(value, 16).with_context(|| format!("`xp` answers {text:?}"))
}
