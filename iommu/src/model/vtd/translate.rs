//! Root table, context and PASID tables, and second stages (3.4, 3.7), and the conditions of faults (7.1.3).

use super::State;
use super::cache::Translation;
use super::device::Denied;
use super::registers::TES;

/// Where interrupts are: no request is translated there, and no translation may lead there (3.14).
pub(super) const INTERRUPTS: core::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub source: u16,
    pub address: u64,
    pub write: bool,
}

/// What a source's requests go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Space {
    root: u64,
    levels: u8,
    domain: u16,
    /// Untranslated.
    passes: bool,
}

impl Space {
    fn of_context([first, second]: [u64; 2]) -> Self {
        Self {
            root: first & !0xfff,
            levels: (second & 7) as u8 + 2,
            domain: (second >> 8) as u16,
            passes: first >> 2 & 3 == 2,
        }
    }

    fn of_pasid(words: &[u64; 8]) -> Self {
        Self {
            root: words[0] & !0xfff,
            levels: (words[0] >> 2 & 7) as u8 + 2,
            domain: words[1] as u16,
            passes: words[0] >> 6 & 7 == 4,
        }
    }
}

/// The reason in scalable mode where legacy mode has this one.
fn in_scalable(reason: u8) -> u8 {
    match reason {
        0x8 => 0x38,
        0x1 => 0x39,
        0xa => 0x3a,
        0x9 => 0x40,
        0x2 => 0x41,
        0xb => 0x42,
        // Of a second stage whose root could not be read.
        0x3 => 0x7b,
        0x4 => 0x84,
        0x5 | 0x6 => 0x79,
        0x7 => 0x78,
        0xc => 0x7a,
        0xe => 0x87,
        other => other,
    }
}

/// A fault, and whether its entry says that nobody is told.
struct Fault {
    reason: u8,
    silent: bool,
}

impl From<u8> for Fault {
    fn from(reason: u8) -> Self {
        Self {
            reason,
            silent: false,
        }
    }
}

impl State {
    /// Where a request goes.
    pub(super) fn translate(&mut self, request: Request) -> Result<u64, Denied> {
        if !self.registers.is_on(TES) {
            if self.is_protected(request.address) {
                return Err(Denied::Protected);
            }
            self.counters.bypassed += 1;
            return Ok(request.address);
        }
        self.remap(request).map_err(|fault| {
            if !fault.silent {
                let page = request.address & !0xfff;
                self.record(request.source, fault.reason, page, request.write);
            }
            Denied::Fault(fault.reason)
        })
    }

    fn is_protected(&self, address: u64) -> bool {
        let registers = &self.registers;
        let low = u64::from(registers.low.0)..=u64::from(registers.low.1);
        let high = registers.high.0..=registers.high.1;
        registers.pmen >> 31 != 0 && (low.contains(&address) || high.contains(&address))
    }

    pub(super) fn is_scalable(&self) -> bool {
        self.registers.root_in_force >> 10 & 3 == 1
    }

    fn remap(&mut self, request: Request) -> Result<u64, Fault> {
        let scalable = self.is_scalable();
        let (space, silent) = match scalable {
            true => self.scalable_space(request.source),
            false => self.legacy_space(request.source),
        }?;
        let gone = self.through(&space, request);
        gone.map_err(|reason| Fault {
            reason: if scalable {
                in_scalable(reason)
            } else {
                reason
            },
            silent,
        })
    }

    /// The context entry of a source, if it is sound: its first two words. Reasons as in legacy mode.
    fn context(&mut self, source: u16, scalable: bool) -> Result<[u64; 2], Fault> {
        if let Some(entry) = self.cache.contexts.get(&source) {
            return Ok(*entry);
        }
        let beyond = !((1u64 << self.config.output_bits) - 1);
        let root = self.registers.root_in_force & !0xfff;
        let at = root + u64::from(source >> 8) * 16;
        let (low, high) = self.read(at).zip(self.read(at + 8)).ok_or(0x8)?;
        // 9.2: a table for devices 0 to 15, and one for the others.
        let upper = source >> 7 & 1 != 0;
        let (first, rest) = match (scalable, upper) {
            (true, true) => (high, 0),
            (true, false) => (low, 0),
            (false, _) => (low, high),
        };
        if first & 1 == 0 {
            return Err(0x1.into());
        }
        if first & (0xffe | beyond) != 0 || rest != 0 {
            return Err(0xa.into());
        }
        let table = first & !0xfff;
        let at = match scalable {
            true => table + u64::from(source & 0x7f) * 32,
            false => table + u64::from(source & 0xff) * 16,
        };
        self.counters.contexts += 1;
        let (first, second) = self.read(at).zip(self.read(at + 8)).ok_or(0x9)?;
        let silent = first >> 1 & 1 != 0;
        let refused = |reason| Fault { reason, silent };
        if first & 1 == 0 {
            // Not cached: CAP.CM is 0.
            return Err(refused(0x2));
        }
        let reserved = match scalable {
            true => {
                let rest = self.read(at + 16).zip(self.read(at + 24)).ok_or(0x9)?;
                first & (0x1e0 | beyond) != 0 || second >> 21 != 0 || rest != (0, 0)
            }
            false => first & (0xff0 | beyond) != 0 || second & !0xff_ff7f != 0,
        };
        if reserved {
            return Err(refused(0xb));
        }
        Ok([first, second])
    }

    /// What a source has in legacy mode, and whether its faults are silent.
    fn legacy_space(&mut self, source: u16) -> Result<(Space, bool), Fault> {
        let entry = self.context(source, false)?;
        let [first, second] = entry;
        let silent = first >> 1 & 1 != 0;
        let space = Space::of_context(entry);
        let kind = first >> 2 & 3;
        let known = kind == 0 || kind == 2 && self.config.pass_through;
        if !known || !self.is_supported(&space, second & 7) {
            return Err(Fault {
                reason: 0x3,
                silent,
            });
        }
        if !self.cache.contexts.contains_key(&source) {
            self.check_domain(&space);
            self.cache.contexts.insert(source, entry);
        }
        Ok((space, silent))
    }

    /// The same in scalable mode (9.4 to 9.6).
    fn scalable_space(&mut self, source: u16) -> Result<(Space, bool), Fault> {
        let entry = self.context(source, true).map_err(|fault| Fault {
            reason: in_scalable(fault.reason),
            ..fault
        })?;
        let [first, second] = entry;
        let mut silent = first >> 1 & 1 != 0;
        self.cache.contexts.insert(source, entry);
        let pasid = match self.config.rid_pasid {
            true => second as u32 & 0xf_ffff,
            false => 0,
        };
        if let Some(entry) = self.cache.pasids.get(&(source, pasid)) {
            return Ok((Space::of_pasid(entry), silent || entry[0] >> 1 & 1 != 0));
        }
        let beyond = !((1u64 << self.config.output_bits) - 1);
        let refused = |reason, silent| Fault { reason, silent };
        let index = u64::from(pasid >> 6);
        if index >> (7 + (first >> 9 & 7)) != 0 {
            return Err(refused(0x46, silent));
        }
        let directory = self.read((first & !0xfff) + index * 8);
        // What could not be read is told whatever FPD says, as with the tables before (7.1.3).
        let directory = directory.ok_or(refused(0x50, false))?;
        silent |= directory >> 1 & 1 != 0;
        if directory & 1 == 0 {
            return Err(refused(0x51, silent));
        }
        if directory & (0xffc | beyond) != 0 {
            return Err(refused(0x52, silent));
        }
        let at = (directory & !0xfff) + u64::from(pasid & 63) * 64;
        let mut words = [0; 8];
        for (word, at) in words.iter_mut().zip((at..).step_by(8)) {
            *word = self.read(at).ok_or(refused(0x58, false))?;
        }
        silent |= words[0] >> 1 & 1 != 0;
        if words[0] & 1 == 0 {
            return Err(refused(0x59, silent));
        }
        // SSADE, which the unit does not have, bits 11:10, and 22:16 of the next word; PWSNP where the unit does not have it.
        let snoop = u64::from(!self.config.walk_snoop) << 23;
        if words[0] & (0xe00 | beyond) != 0 || words[1] & (0x7f_0000 | snoop) != 0 {
            return Err(refused(0x5a, silent));
        }
        let kind = words[0] >> 6 & 7;
        let known = kind == 2 || kind == 4 && self.config.pass_through;
        let space = Space::of_pasid(&words);
        if !known || !self.is_supported(&space, words[0] >> 2 & 7) {
            return Err(refused(0x5b, silent));
        }
        self.check_domain(&space);
        // With FPD of what led there.
        words[0] |= u64::from(silent) << 1;
        self.cache.pasids.insert((source, pasid), words);
        Ok((space, silent))
    }

    fn is_supported(&self, space: &Space, width: u64) -> bool {
        let domain_bits = 4 + 2 * u32::from(self.config.domains);
        self.config.widths >> width & 1 != 0 && u32::from(space.domain) >> domain_bits == 0
    }

    /// A domain ID stands for one table (6.2.1).
    fn check_domain(&mut self, space: &Space) {
        let spaces: alloc::vec::Vec<_> = match self.is_scalable() {
            true => self.cache.pasids.values().map(Space::of_pasid).collect(),
            false => {
                let contexts = self.cache.contexts.values();
                contexts.map(|entry| Space::of_context(*entry)).collect()
            }
        };
        let other = spaces
            .iter()
            .find(|other| other.domain == space.domain && *other != space);
        if let Some(other) = other {
            let what = alloc::format!("{space:x?} and {other:x?} share a domain");
            self.violation("6.2.1", what);
        }
        if space.domain == 0 && self.config.caching_mode {
            self.violation("6.1", "domain 0 in caching mode".into());
        }
    }

    fn through(&mut self, space: &Space, request: Request) -> Result<u64, u8> {
        let bits = (12 + 9 * u32::from(space.levels)).min(self.config.input_bits.into());
        if space.passes {
            // 9.3: pass-through, of addresses that the host has.
            let past = request.address >> self.config.output_bits != 0;
            return if past { Err(0x4) } else { Ok(request.address) };
        }
        if request.address >> bits != 0 {
            return Err(0x4);
        }
        let domain = space.domain;
        if let Some((base, held)) = self.cache.find(domain, request.address) {
            let allowed = if request.write { held.write } else { held.read };
            if allowed {
                self.counters.hits += 1;
                return Ok(held.output + (request.address - base));
            }
            // It may be that the tables allow more by now (6.2.1): they are looked at.
            self.cache.translations.remove(&(domain, base));
        }
        let (base, found) = self.walk(space.root, space.levels - 1, domain, request)?;
        let last = base + (found.size - 1);
        let inside: alloc::vec::Vec<_> = self
            .cache
            .translations
            .range((domain, base)..=(domain, last))
            .map(|(key, _)| *key)
            .collect();
        for key in inside {
            self.cache.translations.remove(&key);
        }
        self.cache.translations.insert((domain, base), found);
        Ok(found.output + (request.address - base))
    }

    /// Walks a second stage (9.8); `top` is the height of its root.
    fn walk(
        &mut self,
        root: u64,
        top: u8,
        domain: u16,
        request: Request,
    ) -> Result<(u64, Translation), u8> {
        self.counters.walks += 1;
        // Past the host address width, and bit 62 (9.8).
        let beyond = 0x000f_ffff_ffff_f000 & !((1u64 << self.config.output_bits) - 1) | 1 << 62;
        let known = self.cache.table(domain, request.address);
        // What is not allowed on the way is looked at again, as with a translation.
        let known = known.filter(|&(height, _, read, write)| {
            height < top && if request.write { write } else { read }
        });
        let (mut height, mut table, mut read, mut write) = known.unwrap_or((top, root, true, true));
        loop {
            let shift = 12 + 9 * u32::from(height);
            let at = table + (request.address >> shift & 0x1ff) * 8;
            self.counters.entries += 1;
            // 7.1.3: of the root of the second stage it is the context entry's fault.
            let entry = self.read(at).ok_or(if height == top { 0x3 } else { 0x7 })?;
            let (may_read, may_write) = (entry & 1 != 0, entry & 2 != 0);
            if request.write && !may_write {
                return Err(0x5);
            }
            if !request.write && !may_read {
                return Err(0x6);
            }
            (read, write) = (read && may_read, write && may_write);
            let size = 1u64 << shift;
            let base = request.address & !(size - 1);
            let large = height > 0 && entry >> 7 & 1 != 0;
            let snoop = if self.config.snoop_control {
                0
            } else {
                1 << 11
            };
            if height == 0 || large {
                let allowed = match height {
                    0 => true,
                    1 => self.config.large & 1 != 0,
                    2 => self.config.large & 2 != 0,
                    _ => false,
                };
                let low = (size - 1) & !0xfff;
                if !allowed || entry & (beyond | low | snoop) != 0 {
                    return Err(0xc);
                }
                let output = entry & 0x000f_ffff_ffff_f000;
                let to = output + (request.address - base);
                if INTERRUPTS.contains(&to) {
                    return Err(0xe);
                }
                let found = Translation {
                    size,
                    output,
                    read,
                    write,
                };
                return Ok((base, found));
            }
            if entry & (beyond | 1 << 11) != 0 {
                return Err(0xc);
            }
            table = entry & 0x000f_ffff_ffff_f000;
            let key = (domain, height, base);
            self.cache.tables.insert(key, (size, table, read, write));
            height -= 1;
        }
    }
}
