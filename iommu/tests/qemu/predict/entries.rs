//! From a StreamID to its entry, from there to the context descriptor, and what makes either ILLEGAL.

use super::{
    ADDRESS_SIZE, Cached, Class, End, Fault, OAS, SIZES, Stage, TRANSLATION, WALK_ABORT, Walker,
    bits,
};
use crate::causes::Cause;
use crate::image::Format;

/// Event numbers of configuration.
const BAD_STREAM: u64 = 0x02;
const STE_FETCH: u64 = 0x03;
const BAD_STE: u64 = 0x04;
const CD_FETCH: u64 = 0x09;
const BAD_CD: u64 = 0x0a;

impl Walker<'_> {
    /// Where the transaction goes.
    pub(super) fn translate(&mut self) -> Result<u64, End> {
        let at = self.entry_address()?;
        let Some(entry) = self.words(at) else {
            let mut event = self.event(STE_FETCH);
            event[3] = at;
            return Err(Some(event));
        };
        let bad = Err(Some(self.event(BAD_STE)));
        let config = bits(entry[0], 3, 1);
        if entry[0] & 1 == 0 {
            return bad;
        }
        if config & 4 == 0 {
            return Err(None);
        }
        let (one, two) = (config & 1 != 0, config & 2 != 0);
        let pointer = entry[0] & 0x000f_ffff_ffff_ffc0;
        let contexts = bits(entry[0], 63, 59) != 0;
        let no_stalls = bits(entry[1], 27, 27) != 0;
        let illegal = (one || two) && contexts && self.has(Cause::ContextsWithoutSubstreams)
            || no_stalls && (one || two && self.has(Cause::StallsWithoutStageOne))
            || one && !two && pointer >> OAS != 0 && !self.has(Cause::ContextPointerUnchecked);
        if illegal {
            return bad;
        }
        let two = match two.then(|| self.second_stage(&entry)) {
            Some(None) => return bad,
            Some(stage) => stage,
            None => None,
        };
        if one {
            return self.through_context(pointer, two);
        }
        let iova = self.now.iova;
        if iova >> OAS != 0 {
            let fault = Fault {
                number: ADDRESS_SIZE,
                two: false,
                class: Class::Input,
                at: 0,
            };
            let unbounded = two.is_none() && self.has(Cause::BypassUnbounded);
            let silent = unbounded || two.is_some() && self.has(Cause::SilentInputSize);
            return Err((!silent).then(|| self.record(fault, false)));
        }
        let Some(two) = two else {
            return Ok(iova);
        };
        if let Some(cached) = self.cached.filter(|_| self.has(Cause::WarmPermissions)) {
            return self.warm(cached, false, two.record);
        }
        let (at, rights) = self
            .second(&two, iova, self.now.write, Class::Input)
            .map_err(|fault| self.tell_second(&two, fault, false))?;
        self.cached = Some(Cached {
            at,
            first: rights,
            second_writes: rights[1],
        });
        Ok(at)
    }
    fn entry_address(&self) -> Result<u64, End> {
        let stream = u64::from(self.now.stream);
        let bad = Some(self.event(BAD_STREAM));
        let log2 = u64::from(self.image.config & 0x3f);
        if stream >> log2 != 0 {
            return Err(bad);
        }
        if self.image.format == Format::Linear {
            let base = self.image.base & !((1 << (log2 + 6)) - 1);
            return Ok(base + stream * 64);
        }
        let split = u64::from(self.image.config >> 6 & 0x1f);
        let size = (log2 + 3).saturating_sub(split).max(6);
        let base = self.image.base & !((1 << size) - 1);
        let at = base + (stream >> split) * 8;
        let Some(first) = self.word(at) else {
            let mut event = self.event(STE_FETCH);
            event[3] = at;
            return Err(Some(event));
        };
        let (span, within) = (bits(first, 4, 0), stream & ((1 << split) - 1));
        if span == 0 || span > split + 1 {
            return Err(bad);
        }
        if self.has(Cause::SpanTwiceTooLong) {
            if within >> span != 0 {
                return Err(Some(self.event(BAD_STE)));
            }
        } else if within >> (span - 1) != 0 {
            return Err(bad);
        }
        let table = first & 0x000f_ffff_ffff_ffc0 & !((1 << (span + 5)) - 1);
        Ok(table + within * 64)
    }

    /// Stage 2 of an entry, if that is legal.
    fn second_stage(&self, entry: &[u64; 8]) -> Option<Stage> {
        let word = entry[2];
        let granule = [12, 16, 14].get(bits(word, 47, 46) as usize)?;
        let sl0 = bits(word, 39, 38) as u8;
        let start = match (granule, sl0) {
            (_, 3) if *granule == 12 => return None,
            (12, sl0) => 2 - sl0,
            // Level 0 is not for these granules.
            (_, 3) => return None,
            (_, sl0) => 3 - sl0,
        };
        let t0sz = bits(word, 37, 32) as u8;
        let output = SIZES[bits(word, 50, 48) as usize].min(OAS);
        let widest = if self.has(Cause::InputAgainstS2ps) {
            output
        } else {
            OAS
        };
        // S2ENDI, S2S; S2HD, S2HA.
        let illegal = bits(word, 52, 52) != 0
            || bits(word, 57, 57) != 0
            || bits(word, 56, 55) != 0 && !self.has(Cause::HardwareUpdatesIgnored);
        let root = entry[3] & 0x000f_ffff_ffff_fff0;
        if illegal || !(16..=39).contains(&t0sz) || 64 - t0sz > widest || root >> output != 0 {
            return None;
        }
        let stage = Stage {
            granule: *granule,
            bits: 64 - t0sz,
            start,
            root,
            output,
            affd: bits(word, 53, 53) != 0,
            record: bits(word, 58, 58) != 0,
        };
        let full = stage.shift(start) + stage.stride();
        let reached = stage.bits > stage.shift(start);
        let fits = stage.bits <= full + 4 && (start > 0 || stage.bits <= full);
        let legal = fits && (reached || self.has(Cause::StartLevelUnchecked));
        legal.then_some(stage)
    }

    /// The words of the context descriptor.
    fn context(&self, pointer: u64, two: Option<&Stage>) -> Result<[u64; 8], End> {
        let mut at = pointer;
        if let Some(two) = two {
            if pointer >> OAS != 0 && self.has(Cause::SilentInputSize) {
                return Err(None);
            }
            at = self
                .second(two, pointer, false, Class::Cd)
                .map_err(|fault| self.tell_second(two, fault, true))?
                .0;
        }
        self.words(at).ok_or_else(|| {
            let mut event = self.event(CD_FETCH);
            let early = self.has(Cause::ContextFetchAddress);
            event[if early { 2 } else { 3 }] = at;
            Some(event)
        })
    }

    /// Both halves, where they are enabled, and where their tables are.
    fn halves(
        &self,
        context: &[u64; 8],
        two: Option<&Stage>,
    ) -> Result<[Option<(Stage, u64)>; 2], End> {
        let flag = |bit| bits(context[0], bit, bit) != 0;
        let bad = Err(Some(self.event(BAD_CD)));
        // V, AA64, A; S, HA, HD; ENDI.
        let illegal = !flag(31)
            || !flag(41)
            || !flag(46)
            || flag(44)
            || flag(43)
            || flag(42)
            || flag(15) && !(flag(14) && flag(30));
        if illegal {
            return bad;
        }
        let output = SIZES[bits(context[0], 34, 32) as usize].min(OAS);
        let mut halves = [None; 2];
        for index in 0..2 {
            if flag([14, 30][index]) {
                continue;
            }
            let Some(mut half) = half(context, index, output) else {
                return bad;
            };
            half.affd = flag(35);
            half.record = flag(45);
            let mut place = half.root;
            if let Some(two) = two.filter(|_| self.has(Cause::TablesWithDescriptor)) {
                place = self
                    .second(two, half.root, false, Class::Table)
                    .map_err(|fault| self.tell_second(two, fault, true))?
                    .0;
            }
            halves[index] = Some((half, place));
        }
        Ok(halves)
    }

    fn through_context(&mut self, pointer: u64, two: Option<Stage>) -> Result<u64, End> {
        let context = self.context(pointer, two.as_ref())?;
        let halves = self.halves(&context, two.as_ref())?;
        let flag = |bit| bits(context[0], bit, bit) != 0;
        let upper = self.now.iova >> 55 & 1 != 0;
        let fault = |number| Fault {
            number,
            two: false,
            class: Class::Input,
            at: 0,
        };
        let first_tells = flag(45);
        let none = Err(first_tells.then(|| self.record(fault(TRANSLATION), false)));
        let Some((half, place)) = halves[usize::from(upper)] else {
            return none;
        };
        let ignored = flag(if upper && !self.has(Cause::Tbi1) {
            39
        } else {
            38
        });
        let mut va = self.now.iova;
        if ignored {
            va = va & !(0xff << 56) | if upper { 0xff << 56 } else { 0 };
        }
        if (if upper { !va } else { va }) >> half.bits != 0 {
            return none;
        }
        if let Some(cached) = self.cached.filter(|_| self.has(Cause::WarmPermissions)) {
            return self.warm(cached, first_tells, two.is_some_and(|two| two.record));
        }
        let input = va & ((1 << half.bits) - 1);
        let had = bits(context[1 + usize::from(upper)], 1, 1) != 0;
        let tell = |walker: &Self, fault: Fault| {
            let heard = if fault.two {
                two.is_some_and(|two| two.record)
            } else {
                first_tells
            };
            let told = heard || fault.number == WALK_ABORT;
            told.then(|| walker.record(fault, false))
        };
        let (output, rights) = self
            .first(&half, place, had, input, two.as_ref())
            .map_err(|fault| tell(self, fault))?;
        let (at, second) = match two {
            None => (output, [true; 2]),
            Some(two) => self
                .second(&two, output, self.now.write, Class::Input)
                .map_err(|fault| tell(self, fault))?,
        };
        self.cached = Some(Cached {
            at,
            first: rights,
            second_writes: second[1],
        });
        Ok(at)
    }
}

/// Half of a context descriptor, if that is legal.
fn half(context: &[u64; 8], index: usize, output: u8) -> Option<Stage> {
    let tsz = bits(context[0], [5, 21][index], [0, 16][index]) as u8;
    let tg = bits(context[0], [7, 23][index], [6, 22][index]) as usize;
    let granule = [[12, 16, 14, 0], [0, 14, 12, 16]][index][tg];
    let root = context[1 + index] & 0x000f_ffff_ffff_fff0;
    if granule == 0 || !(16..=39).contains(&tsz) || root >> output != 0 {
        return None;
    }
    let bits = 64 - tsz;
    let levels = (bits - granule).div_ceil(granule - 3).max(1);
    Some(Stage {
        granule,
        bits,
        start: 4 - levels,
        root,
        output,
        affd: false,
        record: false,
    })
}
