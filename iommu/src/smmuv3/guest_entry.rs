//! From the first two words of a guest's stream table entry to what the host makes of it: an allow-list.
//!
//! The guest owns what stage 1 is; everything else of an entry is the host's. A field that is not named here is not
//! looked over: it makes the entry illegal, and the guest is told so by its own C_BAD_STE event.

use tock_registers::LocalRegisterCopy;

use super::spec::ste::{STE0, STE1};
use crate::physical::StageOneConfig;

/// What a guest's entry asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestEntry {
    /// Abort: V = 0 (with an event) or Config = 0b000 (without).
    Abort {
        /// The guest expects C_BAD_STE.
        invalid: bool,
    },
    /// Stage 1 bypass: what the device sees are guest physical addresses.
    Bypass,
    /// Stage 1 translates.
    Translate {
        /// Its fields, with `ats` off.
        stage_one: StageOneConfig,
        /// The guest wants ATS: it will invalidate the device's cache then, and only then.
        ats: bool,
    },
}

/// The guest's entry is illegal: the bits of each word that it must not set, or the field with a value that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IllegalEntry(
    /// Offending bits.
    pub [u64; 2],
);

/// V, Config, S1Fmt, S1ContextPtr, S1CDMax.
const FIRST: u64 = 0xf80f_ffff_ffff_ffff;
/// S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS.
const SECOND: u64 = 0x3800_00ff;

impl GuestEntry {
    /// Reads `words` 0 and 1 of an entry. Words that say V = 0 are not looked at further (§5.2).
    ///
    /// # Errors
    /// [`IllegalEntry`]: a bit off the list, a Config that needs a stage 2 or is reserved, EATS split or reserved, S1Fmt
    /// or S1DSS reserved.
    pub fn read(words: [u64; 2]) -> Result<Self, IllegalEntry> {
        let first = LocalRegisterCopy::<u64, STE0::Register>::new(words[0]);
        let second = LocalRegisterCopy::<u64, STE1::Register>::new(words[1]);
        if !first.is_set(STE0::V) {
            return Ok(Self::Abort { invalid: true });
        }
        let mut bad = [words[0] & !FIRST, words[1] & !SECOND];
        let config = first.read(STE0::CONFIG);
        let stage_one = STE0::CONFIG::StageOne.value >> STE0::CONFIG.shift;
        let bypass = STE0::CONFIG::Bypass.value >> STE0::CONFIG.shift;
        if !matches!(config, 0) && config != stage_one && config != bypass {
            bad[0] |= config << STE0::CONFIG.shift;
        }
        if second.read(STE1::EATS) > 1 {
            bad[1] |= second.read(STE1::EATS) << STE1::EATS.shift;
        }
        if config == stage_one && first.read(STE0::S1CDMAX) != 0 {
            if first.read(STE0::S1FMT) > 2 {
                bad[0] |= 3 << STE0::S1FMT.shift;
            }
            if second.read(STE1::S1DSS) > 2 {
                bad[1] |= 3;
            }
        }
        if bad != [0, 0] {
            return Err(IllegalEntry(bad));
        }
        if config == 0 {
            return Ok(Self::Abort { invalid: false });
        }
        if config == bypass {
            return Ok(Self::Bypass);
        }
        // IGNORED with one context: normalised, so that equal meanings are equal values.
        let several = first.read(STE0::S1CDMAX) != 0;
        let of_several = |value: u64| if several { value as u8 } else { 0 };
        Ok(Self::Translate {
            stage_one: StageOneConfig {
                format: of_several(first.read(STE0::S1FMT)),
                contexts: first.read(STE0::S1CONTEXTPTR) << STE0::S1CONTEXTPTR.shift,
                contexts_log2: first.read(STE0::S1CDMAX) as u8,
                default_context: of_several(second.read(STE1::S1DSS)),
                inner: second.read(STE1::S1CIR) as u8,
                outer: second.read(STE1::S1COR) as u8,
                shareability: second.read(STE1::S1CSH) as u8,
                no_stall: second.is_set(STE1::S1STALLD),
                ats: false,
            },
            ats: second.read(STE1::EATS) == 1,
        })
    }
}
