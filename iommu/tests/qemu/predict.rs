//! A third walker: an image and its transactions by the document (IHI 0070), with a set of QEMU's deviations in force. With
//! none it does what the crate's model does; with all of them, what QEMU does.

use std::collections::BTreeMap;

use crate::answer::{Answer, Expected, Outcome};
use crate::causes::{Cause, Causes, TABLE};
use crate::devices::WRITTEN;
use crate::image::{Access, Format, Image};
use crate::machine::{RAM, RAM_BYTES};

/// IDR5.OAS, and so IAS, in bits.
const OAS: u8 = 44;
const SIZES: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 52];

/// Event numbers.
const BAD_STREAM: u64 = 0x02;
const STE_FETCH: u64 = 0x03;
const BAD_STE: u64 = 0x04;
const CD_FETCH: u64 = 0x09;
const BAD_CD: u64 = 0x0a;
const WALK_ABORT: u64 = 0x0b;
const TRANSLATION: u64 = 0x10;
const ADDRESS_SIZE: u64 = 0x11;
const ACCESS: u64 = 0x12;
const PERMISSION: u64 = 0x13;

/// CLASS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Cd = 0,
    Table = 1,
    Input = 2,
}

/// Why a transaction ends: a record, or nothing.
type End = Option<[u64; 4]>;

/// Why a walk ends, before it is known who hears of it.
#[derive(Clone, Copy)]
struct Fault {
    number: u64,
    two: bool,
    class: Class,
    /// IPA or FetchAddr.
    at: u64,
}

/// A stage in force.
#[derive(Clone, Copy)]
struct Stage {
    granule: u8,
    bits: u8,
    start: u8,
    root: u64,
    output: u8,
    affd: bool,
    record: bool,
}

impl Stage {
    fn stride(&self) -> u8 {
        self.granule - 3
    }

    fn shift(&self, level: u8) -> u8 {
        self.granule + self.stride() * (3 - level)
    }

    fn table_bytes(&self) -> u64 {
        8 << (self.bits - self.shift(self.start))
    }
}

/// What a translation that was cached allows: QEMU's entries.
#[derive(Clone, Copy)]
struct Cached {
    at: u64,
    /// Reads and writes by the first stage in force.
    first: [bool; 2],
    /// Writes by the second one.
    second_writes: bool,
}

struct Walker<'a> {
    image: &'a Image,
    causes: Causes,
    data: BTreeMap<u64, u32>,
    cached: Option<Cached>,
    /// The transaction that is on its way.
    now: Access,
}

/// What happens with `causes` in force.
pub fn answers(image: &Image, expected: &Expected, causes: Causes) -> [Answer; 2] {
    let mut walker = Walker {
        image,
        causes,
        data: expected.data.iter().copied().collect(),
        cached: None,
        now: image.accesses[0],
    };
    let mut index = 0;
    image.accesses.map(|access| {
        if index == 1 && image.cold {
            walker.cached = None;
        }
        let place = expected.places[index];
        index += 1;
        walker.now = access;
        let found = walker.translate();
        let outcome = walker.land(found.ok(), place);
        Answer {
            outcome,
            events: found.err().flatten().into_iter().collect(),
        }
    })
}

/// The causes that it takes to come to `found`.
///
/// # Errors
/// What all of them together come to, where that is something else.
pub fn explain(
    image: &Image,
    expected: &Expected,
    found: &[Answer; 2],
) -> Result<Causes, Box<[Answer; 2]>> {
    let all = answers(image, expected, Causes::all());
    if all != *found {
        return Err(Box::new(all));
    }
    let needed = TABLE.iter().fold(Causes::all(), |set, row| {
        let less = set.without(row.cause);
        if answers(image, expected, less) == *found {
            less
        } else {
            set
        }
    });
    Ok(needed)
}

fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & (u64::MAX >> (63 - (high - low)))
}

fn in_ram(at: u64) -> bool {
    (RAM..RAM + RAM_BYTES).contains(&at)
}

impl Walker<'_> {
    fn has(&self, cause: Cause) -> bool {
        self.causes.has(cause)
    }

    /// A word of memory; `None` where there is nothing. What is below RAM reads as 0.
    fn word(&self, at: u64) -> Option<u64> {
        let there = at < RAM + RAM_BYTES;
        there.then(|| self.image.words.get(&at).copied().unwrap_or(0))
    }

    fn words(&self, at: u64) -> Option<[u64; 8]> {
        self.word(at)?;
        Some(std::array::from_fn(|word| {
            self.word(at + word as u64 * 8).unwrap_or(0)
        }))
    }

    fn land(&mut self, at: Option<u64>, place: Option<u64>) -> Outcome {
        let at = at.filter(|at| in_ram(*at));
        match (self.now.write, at) {
            (true, None) => Outcome::Refused,
            (true, Some(at)) => {
                self.data.insert(at, WRITTEN);
                if place == Some(at) {
                    Outcome::Written
                } else {
                    Outcome::Elsewhere
                }
            }
            (false, None) => Outcome::Read(0),
            (false, Some(at)) => {
                let word = self.image.words.get(&(at & !7)).copied().unwrap_or(0);
                let held = (word >> (at % 8 * 8)) as u32;
                Outcome::Read(self.data.get(&at).copied().unwrap_or(held))
            }
        }
    }

    fn event(&self, number: u64) -> [u64; 4] {
        [number | u64::from(self.now.stream) << 32, 0, 0, 0]
    }

    /// The record of a fault of translation. `fetched` for a CD and what belongs to it.
    fn record(&self, fault: Fault, fetched: bool) -> [u64; 4] {
        let mut event = self.event(fault.number);
        let read = !self.now.write || fetched && self.has(Cause::FetchIsRead);
        event[1] = u64::from(read) << 35 | u64::from(fault.two) << 39 | (fault.class as u64) << 40;
        event[2] = self.now.iova;
        event[3] = if fault.number == WALK_ABORT || self.has(Cause::WholeIpa) {
            fault.at
        } else {
            fault.at & !0xfff
        };
        event
    }

    fn translate(&mut self) -> Result<u64, End> {
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

    fn tell_second(&self, two: &Stage, fault: Fault, fetched: bool) -> End {
        let told = two.record || fault.number == WALK_ABORT;
        told.then(|| self.record(fault, fetched))
    }

    /// A transaction that finds a cached translation, as QEMU has it.
    fn warm(&self, cached: Cached, first: bool, second: bool) -> Result<u64, End> {
        if !self.now.write {
            return if cached.first[0] {
                Ok(cached.at)
            } else {
                Err(None)
            };
        }
        if cached.first[1] && cached.second_writes {
            return Ok(cached.at);
        }
        let two = cached.first[1];
        let fault = Fault {
            number: PERMISSION,
            two,
            class: Class::Input,
            at: 0,
        };
        let told = if two { second } else { first };
        Err(told.then(|| self.record(fault, false)))
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

    fn through_context(&mut self, pointer: u64, two: Option<Stage>) -> Result<u64, End> {
        let mut at = pointer;
        if let Some(two) = two {
            if pointer >> OAS != 0 && self.has(Cause::SilentInputSize) {
                return Err(None);
            }
            at = self
                .second(&two, pointer, false, Class::Cd)
                .map_err(|fault| self.tell_second(&two, fault, true))?
                .0;
        }
        let Some(context) = self.words(at) else {
            let mut event = self.event(CD_FETCH);
            let early = self.has(Cause::ContextFetchAddress);
            event[if early { 2 } else { 3 }] = at;
            return Err(Some(event));
        };
        let word = context[0];
        let flag = |bit| bits(word, bit, bit) != 0;
        let bad = Err(Some(self.event(BAD_CD)));
        // V, AA64, A; S, HA, HD.
        if !flag(31) || !flag(41) || !flag(46) || flag(44) || flag(43) || flag(42) {
            return bad;
        }
        if flag(15) && !(flag(14) && flag(30)) {
            return bad;
        }
        let output = SIZES[bits(word, 34, 32) as usize].min(OAS);
        let mut halves = [None; 2];
        for index in 0..2 {
            if flag([14, 30][index]) {
                continue;
            }
            let Some(mut half) = half(&context, index, output) else {
                return bad;
            };
            half.affd = flag(35);
            half.record = flag(45);
            let mut place = half.root;
            if let Some(two) = two.filter(|_| self.has(Cause::TablesWithDescriptor)) {
                place = self
                    .second(&two, half.root, false, Class::Table)
                    .map_err(|fault| self.tell_second(&two, fault, true))?
                    .0;
            }
            halves[index] = Some((half, place));
        }
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

    /// A stage 1 walk: the output, and what may be done with it.
    fn first(
        &self,
        half: &Stage,
        place: u64,
        had: bool,
        input: u64,
        two: Option<&Stage>,
    ) -> Result<(u64, [bool; 2]), Fault> {
        let fault = |number| Fault {
            number,
            two: false,
            class: Class::Input,
            at: 0,
        };
        let write = self.now.write;
        let low = !(half.table_bytes() - 1);
        let (mut level, mut table) = (half.start, half.root & low);
        // Where the table is, where that is known without looking at each descriptor.
        let mut base = match two {
            None => Some(table),
            Some(_) if self.has(Cause::TableBaseOnly) => {
                let mut place = place;
                if !self.has(Cause::TablesWithDescriptor) {
                    let two = two.expect("there is one");
                    place = self.table_address(two, half.root)?;
                }
                Some(place & low)
            }
            Some(_) => None,
        };
        let (mut read_only, mut privileged) = (false, false);
        loop {
            let index = input >> half.shift(level);
            let index = if level == half.start {
                index
            } else {
                index & ((1 << half.stride()) - 1)
            };
            let at = match (base, two) {
                (Some(base), _) => base + index * 8,
                (None, Some(two)) => self.table_address(two, table + index * 8)?,
                (None, None) => unreachable!("the base is known without a stage 2"),
            };
            let descriptor = self.word(at).ok_or(Fault {
                number: WALK_ABORT,
                two: false,
                class: Class::Table,
                at,
            })?;
            let (kind, size) = self.kind(half, level, descriptor);
            match kind {
                Kind::Invalid => return Err(fault(TRANSLATION)),
                Kind::Table(next) => {
                    let bounded = next >> half.output != 0;
                    if bounded && !self.has(Cause::TableSizeUnchecked) {
                        return Err(fault(ADDRESS_SIZE));
                    }
                    if !had {
                        read_only |= bits(descriptor, 62, 62) != 0;
                        privileged |= bits(descriptor, 61, 61) != 0;
                    }
                    if self.has(Cause::TablePermissionFirst) {
                        if read_only && write {
                            return Err(fault(PERMISSION));
                        }
                        // It is not looked at again.
                        read_only = false;
                    }
                    (level, table) = (level + 1, next);
                    base = match two {
                        None => Some(next),
                        Some(_) if bounded && self.has(Cause::StageOfTableFault) => {
                            return Err(Fault {
                                class: Class::Table,
                                at: next,
                                ..fault(ADDRESS_SIZE)
                            });
                        }
                        Some(two) if self.has(Cause::TableBaseOnly) => {
                            Some(self.table_address(two, next)?)
                        }
                        Some(_) => None,
                    };
                }
                Kind::Leaf(output) => {
                    let unprivileged = bits(descriptor, 6, 6) != 0 && !privileged
                        || self.has(Cause::UnprivilegedUnchecked);
                    let writable = bits(descriptor, 7, 7) == 0 && !read_only;
                    let rights = [unprivileged, unprivileged && writable];
                    let checks = [
                        (output >> half.output != 0, ADDRESS_SIZE),
                        (bits(descriptor, 10, 10) == 0 && !half.affd, ACCESS),
                        (!rights[usize::from(write)], PERMISSION),
                    ];
                    self.check(checks).map_err(fault)?;
                    return Ok((output | input & (size - 1), rights));
                }
            }
        }
    }

    /// The first check that fails, in the order of the document or of QEMU.
    fn check(&self, mut checks: [(bool, u64); 3]) -> Result<(), u64> {
        if self.has(Cause::SizeLast) {
            checks.rotate_left(1);
        }
        let failed = checks.iter().find(|(failed, _)| *failed);
        failed.map_or(Ok(()), |(_, number)| Err(*number))
    }

    /// Stage 2 of the address of a table or descriptor of stage 1.
    fn table_address(&self, two: &Stage, ipa: u64) -> Result<u64, Fault> {
        let found = self.second(two, ipa, false, Class::Table);
        found.map(|(at, _)| at).map_err(|fault| {
            if self.has(Cause::StageOfTableFault) {
                Fault {
                    two: false,
                    at: ipa,
                    ..fault
                }
            } else {
                fault
            }
        })
    }

    /// A stage 2 walk.
    fn second(
        &self,
        two: &Stage,
        ipa: u64,
        write: bool,
        class: Class,
    ) -> Result<(u64, [bool; 2]), Fault> {
        let fault = |number| Fault {
            number,
            two: true,
            class,
            at: ipa,
        };
        if ipa >> two.bits != 0 {
            return Err(fault(TRANSLATION));
        }
        let entries = (1u64 << two.stride()) - 1;
        // What the alignment of the start table leaves of its address. A start level that is not reached has a negative
        // count of bits, which an x86 shift takes modulo 64.
        let spare = two.bits.wrapping_sub(two.stride() * (4 - two.start));
        let aligned = 1u64.wrapping_shl(spare.into()) - 1;
        let (mut level, mut table) = (two.start, two.root & !aligned);
        loop {
            let mut index = ipa >> two.shift(level);
            if level != two.start || self.has(Cause::ConcatenatedTables) {
                index &= entries;
            }
            let at = table + index * 8;
            let descriptor = self.word(at).ok_or(Fault {
                number: WALK_ABORT,
                two: true,
                class,
                at,
            })?;
            let (kind, size) = self.kind(two, level, descriptor);
            match kind {
                Kind::Invalid => return Err(fault(TRANSLATION)),
                Kind::Table(next) => {
                    if next >> two.output != 0 && !self.has(Cause::TableSizeUnchecked) {
                        return Err(fault(ADDRESS_SIZE));
                    }
                    (level, table) = (level + 1, next);
                }
                Kind::Leaf(output) => {
                    let rights = [bits(descriptor, 6, 6) != 0, bits(descriptor, 7, 7) != 0];
                    let checks = [
                        (output >> two.output != 0, ADDRESS_SIZE),
                        (bits(descriptor, 10, 10) == 0 && !two.affd, ACCESS),
                        (!rights[usize::from(write)], PERMISSION),
                    ];
                    self.check(checks).map_err(fault)?;
                    return Ok((output | ipa & (size - 1), rights));
                }
            }
        }
    }

    fn kind(&self, stage: &Stage, level: u8, descriptor: u64) -> (Kind, u64) {
        let address = descriptor & 0x0000_ffff_ffff_f000;
        let size = 1u64 << stage.shift(level);
        let blocks = level == 2
            || level == 1 && stage.granule == 12
            || level < 3 && self.has(Cause::BlocksEverywhere);
        let kind = match descriptor & 3 {
            3 if level < 3 => Kind::Table(address & !((1 << stage.granule) - 1)),
            3 => Kind::Leaf(address & !(size - 1)),
            1 if blocks => Kind::Leaf(address & !(size - 1)),
            _ => Kind::Invalid,
        };
        (kind, size)
    }
}

enum Kind {
    Invalid,
    Table(u64),
    Leaf(u64),
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
