//! What QEMU does with one request of an image, and which of its [`causes`](crate::causes) it takes to come there.

use crate::answer::{Answer, Expected, Outcome};
use crate::causes::Cause;
use crate::devices::WRITTEN;
use crate::image::{INTERRUPTS, Image, RAM_BYTES};

/// What came of a look-up.
struct Walk<'a> {
    image: &'a Image,
    causes: Vec<Cause>,
    /// Whether faults are recorded.
    recorded: bool,
}

/// A second stage, or none.
struct Space {
    root: u64,
    levels: u32,
    passes: bool,
}

/// Bits of an address past the host address width of QEMU's unit.
const BEYOND: u64 = 0xffff_0000_0000_0000;

impl Walk<'_> {
    fn read(&self, at: u64) -> Option<u64> {
        (at < RAM_BYTES).then(|| self.image.words.get(&at).copied().unwrap_or(0))
    }

    fn takes(&mut self, cause: Cause) {
        if !self.causes.contains(&cause) {
            self.causes.push(cause);
        }
    }

    /// A fault with a number of legacy mode.
    fn legacy(&mut self, number: u8) -> u8 {
        if self.image.scalable {
            self.takes(Cause::LegacyReasons);
        }
        number
    }

    /// The words of the context entry of a source.
    fn context(&mut self, source: u32) -> Result<Vec<u64>, u8> {
        let scalable = self.image.scalable;
        let (shift, count) = if scalable { (7, 4) } else { (8, 2) };
        let index = u64::from(source >> shift);
        let at = (self.image.root & !0xfff) + (index << (shift - 4));
        let root = self.read(at).unwrap_or(0);
        if root & 1 == 0 {
            return Err(self.legacy(0x1));
        }
        let other = self.read(at ^ 8).unwrap_or(0);
        // In scalable mode both halves are looked at.
        let reserved = match scalable {
            true => (root | other) & (0xffe | BEYOND) != 0,
            false => root & (0xffe | BEYOND) != 0 || other != 0,
        };
        if reserved {
            return Err(self.legacy(0xa));
        }
        let within = u64::from(source & ((1 << shift) - 1));
        let at = (root & !0xfff) + within * count * 8;
        let words = (0..count).map(|word| self.read(at + word * 8));
        let words: Option<Vec<_>> = words.collect();
        let Some(words) = words else {
            return Err(self.legacy(0x9));
        };
        let silent = words[0] & 2 != 0;
        if words[0] & 1 == 0 {
            self.recorded = !silent;
            return Err(self.legacy(0x2));
        }
        let reserved = match scalable {
            true => {
                words[0] & (0x1e0 | BEYOND) != 0
                    || words[1] & !0x1f_ffff != 0
                    || words[2] | words[3] != 0
            }
            false => words[0] & (0xff0 | BEYOND) != 0 || words[1] & !0xff_ff7f != 0,
        };
        if reserved {
            if silent {
                self.takes(Cause::ContextReservedRecorded);
            }
            return Err(self.legacy(0xb));
        }
        if scalable && (words[0] & 0x1c != 0 || words[1] & 0x1f_ffff != 0) {
            self.takes(Cause::ContextFieldsUnchecked);
        }
        self.recorded = !silent;
        Ok(words)
    }

    fn space(&mut self, source: u32) -> Result<Space, u8> {
        let words = self.context(source)?;
        if !self.image.scalable {
            let kind = words[0] >> 2 & 3;
            let width = words[1] & 7;
            if !matches!(width, 1 | 2) || !matches!(kind, 0 | 2) {
                return Err(0x3);
            }
            return Ok(Space {
                root: words[0] & !0xfff,
                levels: width as u32 + 2,
                passes: kind == 2,
            });
        }
        let silent_context = !self.recorded;
        let Some(directory) = self.read(words[0] & !0xfff) else {
            self.recorded = true;
            return Err(0x50);
        };
        let silent_directory = directory & 2 != 0;
        // What the document would not record.
        let loud = |walk: &mut Self, silent: bool| {
            if silent && !silent_context {
                walk.takes(Cause::PasidFaultsRecorded);
            }
        };
        if directory & 1 == 0 {
            loud(self, silent_directory);
            return Err(0x51);
        }
        if directory & (0xffc | BEYOND) != 0 {
            self.takes(Cause::PasidFieldsUnchecked);
        }
        let at = directory & !0xfff;
        let entry = self.read(at).zip(self.read(at + 8));
        let Some((first, second)) = entry else {
            self.recorded = true;
            return Err(0x58);
        };
        let silent = silent_directory || first & 2 != 0;
        let (kind, width) = (first >> 6 & 7, first >> 2 & 7);
        if !(kind == 4 || kind == 2 && matches!(width, 1 | 2)) {
            if first & 1 == 0 {
                self.takes(Cause::PasidPresentLast);
            }
            if first & (0xe00 | BEYOND) != 0 || second & 0xff_0000 != 0 {
                self.takes(Cause::PasidFieldsUnchecked);
            }
            loud(self, silent);
            return Err(0x5b);
        }
        if first & 1 == 0 {
            loud(self, silent);
            return Err(0x59);
        }
        if first & (0xe00 | BEYOND) != 0 || second & 0xff_0000 != 0 {
            self.takes(Cause::PasidFieldsUnchecked);
        }
        if kind == 4 && !matches!(width, 1 | 2) {
            self.takes(Cause::PasidFieldsUnchecked);
        }
        self.recorded = !(silent_context || silent);
        Ok(Space {
            root: first & !0xfff,
            levels: width as u32 + 2,
            passes: kind == 4,
        })
    }

    fn translate(&mut self, index: usize) -> Result<u64, u8> {
        let access = self.image.accesses[index];
        let space = self.space(access.source)?;
        let iova = access.iova;
        if space.passes {
            if iova >> 48 != 0 {
                self.takes(Cause::PassThroughUnbounded);
            }
            return Ok(iova);
        }
        if iova >> (12 + 9 * space.levels).min(48) != 0 {
            return Err(self.legacy(0x4));
        }
        let mut table = space.root;
        let mut level = space.levels;
        loop {
            let shift = 12 + 9 * (level - 1);
            let Some(entry) = self.read(table + (iova >> shift & 0x1ff) * 8) else {
                let top = level == space.levels;
                return Err(self.legacy(if top { 0x3 } else { 0x7 }));
            };
            if entry & (if access.write { 2 } else { 1 }) == 0 {
                return Err(self.legacy(if access.write { 0x5 } else { 0x6 }));
            }
            let large = matches!(level, 2 | 3) && entry & 0x80 != 0;
            let size = 1u64 << shift;
            let mut reserved = 0x800 | 1 << 62 | 0xf << 48;
            if large {
                reserved |= (size - 1) & !0xfff;
            }
            if level == 4 {
                reserved |= 0x80;
            }
            if self.image.scalable && (level == 1 || large) {
                reserved &= !0x800;
                if entry & (reserved | 0x800) == 0x800 {
                    self.takes(Cause::SnoopUnchecked);
                }
            }
            if entry & reserved != 0 {
                return Err(self.legacy(0xc));
            }
            let next = entry & 0x0000_ffff_ffff_f000;
            if level == 1 || large {
                let to = next + (iova & (size - 1));
                if next < INTERRUPTS.end && INTERRUPTS.start < next + size {
                    if !INTERRUPTS.contains(&to) {
                        self.takes(Cause::InterruptPage);
                    }
                    return Err(if self.image.scalable { 0x87 } else { 0xe });
                }
                return Ok(to);
            }
            table = next;
            level -= 1;
        }
    }
}

/// Where QEMU has the first request write.
fn wrote(image: &Image, expected: &Expected) -> Option<u64> {
    let write = image.accesses[0].write;
    write.then(|| answer(image, expected, 0).2).flatten()
}

/// What QEMU does with request `index`, the causes it takes, and where the request leads in RAM.
pub fn answer(
    image: &Image,
    expected: &Expected,
    index: usize,
) -> (Answer, Vec<Cause>, Option<u64>) {
    let mut walk = Walk {
        image,
        causes: Vec::new(),
        recorded: true,
    };
    let led = walk.translate(index);
    let access = &image.accesses[index];
    let place = led.ok().filter(|at| *at < RAM_BYTES);
    let same = place.is_some() && place == expected.places[index];
    let outcome = match (access.write, place) {
        (true, Some(_)) if same => Outcome::Written,
        (true, Some(_)) => Outcome::Elsewhere,
        (true, None) => Outcome::Refused,
        (false, Some(_)) if same => expected.answers[index].outcome,
        // What QEMU let the first one write there.
        (false, Some(at)) if index == 1 && wrote(image, expected) == Some(at) => {
            Outcome::Read(WRITTEN)
        }
        (false, _) => Outcome::Read(0),
    };
    let record = led.err().filter(|_| walk.recorded).map(|reason| {
        let read = u64::from(!access.write) << 62;
        let second = 1 << 63 | read | u64::from(reason) << 32 | u64::from(access.source);
        [access.iova & !0xfff, second]
    });
    (Answer { outcome, record }, walk.causes, place)
}
