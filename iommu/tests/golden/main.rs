//! Layouts against words transcribed from elsewhere: bit ranges as Linux's `arm-smmu-v3.h` names them (`GENMASK(high,
//! low)`, `BIT`), entries put together by hand from the tables of IHI 0070 and DDI 0487. Nothing here uses the crate's
//! own definitions to say what is expected.
//!
//! Fields that Linux does not name are by the headings of IHI 0070 H.a (`NAME, bits [high:low]`: §5.1 to §5.4, §6.3).

mod commands;
mod entries;
#[path = "../fake/mod.rs"]
mod fake;
mod fields;

const fn genmask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}
