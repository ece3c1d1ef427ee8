//! Root table, context tables and second stages in legacy mode (3.4, 3.7), and the conditions of faults (7.1.3).

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

    fn remap(&mut self, request: Request) -> Result<u64, Fault> {
        let entry = self.context(request.source)?;
        let silent = entry[0] >> 1 & 1 != 0;
        self.through(&entry, request)
            .map_err(|reason| Fault { reason, silent })
    }

    /// The context entry of a source.
    fn context(&mut self, source: u16) -> Result<[u64; 2], Fault> {
        if let Some(entry) = self.cache.contexts.get(&source) {
            return Ok(*entry);
        }
        let beyond = !((1u64 << self.config.output_bits) - 1);
        let root = self.registers.root_in_force & !0xfff;
        let at = root + u64::from(source >> 8) * 16;
        let (first, second) = self.read(at).zip(self.read(at + 8)).ok_or(0x8)?;
        if first & 1 == 0 {
            return Err(0x1.into());
        }
        if first & (0xffe | beyond) != 0 || second != 0 {
            return Err(0xa.into());
        }
        let at = (first & !0xfff) + u64::from(source & 0xff) * 16;
        self.counters.contexts += 1;
        let (first, second) = self.read(at).zip(self.read(at + 8)).ok_or(0x9)?;
        let silent = first >> 1 & 1 != 0;
        let refused = |reason| Fault { reason, silent };
        if first & 1 == 0 {
            // Not cached: CAP.CM is 0.
            return Err(refused(0x2));
        }
        if first & (0xff0 | beyond) != 0 || second & !0xff_ff7f != 0 {
            return Err(refused(0xb));
        }
        let width = second & 7;
        let kind = first >> 2 & 3;
        let known = kind == 0 || kind == 2 && self.config.pass_through;
        let domain_bits = 4 + 2 * u32::from(self.config.domains);
        let domain = second >> 8 & 0xffff;
        if !known || self.config.widths >> width & 1 == 0 || domain >> domain_bits != 0 {
            return Err(refused(0x3));
        }
        self.check_domain(domain as u16, [first, second]);
        self.cache.contexts.insert(source, [first, second]);
        Ok([first, second])
    }

    /// A domain ID stands for one table (3.4.3 asks for that where two entries share it).
    fn check_domain(&mut self, domain: u16, entry: [u64; 2]) {
        let other = self.cache.contexts.values().find(|other| {
            (other[1] >> 8) as u16 == domain
                && (other[0] & !0xf | other[1] & 7 << 1) != (entry[0] & !0xf | entry[1] & 7 << 1)
        });
        if let Some(other) = other {
            let what = alloc::format!("{entry:x?} and {other:x?} share domain {domain}");
            self.violation("6.2.1", what);
        }
        if domain == 0 && self.config.caching_mode {
            self.violation("6.1", "domain 0 in caching mode".into());
        }
    }

    fn through(&mut self, entry: &[u64; 2], request: Request) -> Result<u64, u8> {
        let levels = (entry[1] & 7) as u8 + 2;
        let bits = (12 + 9 * u32::from(levels)).min(self.config.input_bits.into());
        if entry[0] >> 2 & 3 == 2 {
            // 9.3: pass-through, of addresses that the host has.
            let past = request.address >> self.config.output_bits != 0;
            return if past { Err(0x4) } else { Ok(request.address) };
        }
        if request.address >> bits != 0 {
            return Err(0x4);
        }
        let domain = (entry[1] >> 8) as u16;
        if let Some((base, held)) = self.cache.find(domain, request.address) {
            let allowed = if request.write { held.write } else { held.read };
            if allowed {
                self.counters.hits += 1;
                return Ok(held.output + (request.address - base));
            }
            // It may be that the tables allow more by now (6.2.1): they are looked at.
            self.cache.translations.remove(&(domain, base));
        }
        let (base, found) = self.walk(entry[0] & !0xfff, levels - 1, domain, request)?;
        let inside = self
            .cache
            .translations
            .range((domain, base)..=(domain, base + (found.size - 1)))
            .map(|(key, _)| *key)
            .collect::<alloc::vec::Vec<_>>();
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
        let beyond = 0x000f_ffff_ffff_f000 & !((1u64 << self.config.output_bits) - 1);
        let known = self.cache.table(domain, request.address);
        let known = known.filter(|(height, ..)| *height < top);
        let (mut height, mut table, mut read, mut write) = known.unwrap_or((top, root, true, true));
        loop {
            let shift = 12 + 9 * u32::from(height);
            let at = table + (request.address >> shift & 0x1ff) * 8;
            self.counters.entries += 1;
            let entry = self.read(at).ok_or(0x7)?;
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
