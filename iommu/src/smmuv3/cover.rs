//! The TLBI commands that cover a range: exactly, and as few as there can be.

use super::command::{Command, Range, Scope};
use crate::addr::{Iova, Span};

/// Largest units of one range command (§4.4.1.1).
const UNITS: u64 = 32;
/// Largest TLBI.SCALE (§4.4.1.1).
const SCALE_MAX: u32 = 31;
/// Entries that are invalidated one by one where there is no range command; more, and everything in the scope goes.
const SINGLES: u64 = 64;
/// Range commands of one cover; more, and everything in the scope goes. Only inputs past 49 bits come to that.
const RANGES: u64 = 4;

/// The commands that remove the entries of a range from the TLBs, without touching any other.
///
/// With range commands there are never more than two: the range invalidates from any granule on (§4.4.1.1), so that what
/// is no single window is one window at its start and one of the same size at its end, which overlap. A single granule is
/// never a range command, because TG with NUM, SCALE and TTL all 0 is reserved.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    scope: Scope,
    at: u64,
    /// Granules left.
    left: u64,
    granule: u8,
    level: u8,
    leaf: bool,
    ranges: bool,
    all: bool,
}

impl Cover {
    /// A cover of `range`, rounded outwards to granules of 2^`granule` bytes. `level` of its entries, or 0; `ranges`:
    /// IDR3.RIL.
    pub(super) fn new(
        scope: Scope,
        range: Span<Iova>,
        granule: u8,
        level: u8,
        leaf: bool,
        ranges: bool,
    ) -> Self {
        let bytes = 1u64 << granule;
        let at = range.base.0 & !(bytes - 1);
        let last = range.base.0.saturating_add(range.len.saturating_sub(1));
        let left = if range.len == 0 {
            0
        } else {
            ((last - at) >> granule) + 1
        };
        let most = if ranges {
            RANGES * (UNITS << SCALE_MAX)
        } else {
            SINGLES
        };
        Self {
            scope,
            at,
            left,
            granule,
            level: Self::hint(granule, level),
            leaf,
            ranges,
            all: left > most,
        }
    }

    /// The level as TTL: a level that the granule has no leaf at would be reserved (§4.4.1.1).
    fn hint(granule: u8, level: u8) -> u8 {
        match (granule, level) {
            (12, 1..=3) | (14 | 16, 2..=3) => level,
            _ => 0,
        }
    }

    /// log2 of the granules that one entry of the level spans.
    fn entry(&self) -> u32 {
        match self.level {
            0 => 0,
            level => u32::from(3 - level) * (u32::from(self.granule) - 3),
        }
    }

    /// Everything in the scope.
    fn everything(&self) -> Command {
        match self.scope {
            Scope::Va(tag, asid) => Command::tlbi_nh_asid(tag, asid),
            Scope::Vaa(tag) => Command::tlbi_nh_all(tag),
            Scope::Ipa(tag) => Command::tlbi_s12_vmall(tag),
            Scope::El2Va(asid) => Command::tlbi_el2_asid(asid),
            Scope::El2Vaa => Command::tlbi_el2_all(),
        }
    }
}

impl Iterator for Cover {
    type Item = Command;

    fn next(&mut self) -> Option<Command> {
        if self.left == 0 {
            return None;
        }
        if self.all {
            self.left = 0;
            return Some(self.everything());
        }
        if !self.ranges || (self.left == 1 && self.level == 0) {
            let command = Command::tlbi_address(self.scope, Iova(self.at), self.leaf);
            self.at = self.at.wrapping_add(1 << self.granule);
            self.left -= 1;
            return Some(command);
        }
        // With a level, windows start and end where entries do; where the range does not, the hint goes.
        let mut entry = self.entry();
        if (self.at >> self.granule | self.left) & ((1 << entry) - 1) != 0 {
            self.level = 0;
            entry = 0;
            if self.left == 1 {
                return self.next();
            }
        }
        let units = self.left >> entry;
        let wider = (u64::BITS - (units - 1).leading_zeros()).saturating_sub(UNITS.ilog2());
        // The smallest unit of which 32 are enough; what is left past whole units is less than one.
        let scale = (wider + entry).min(SCALE_MAX);
        let number = (self.left >> scale).min(UNITS);
        let window = number << scale;
        let command = Command::tlbi_range(
            self.scope,
            Iova(self.at),
            Range {
                granule: self.granule,
                num: (number - 1) as u8,
                scale: scale as u8,
                level: self.level,
            },
            self.leaf,
        );
        // A second window ends where the range does.
        let step = if window == self.left {
            window
        } else {
            window.min(self.left - window)
        };
        self.at = self.at.wrapping_add(step << self.granule);
        self.left -= step;
        Some(command)
    }
}

#[cfg(test)]
mod tests;
