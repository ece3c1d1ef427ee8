//! Where requests go: second stages (3.7), and the conditions of faults (7.1.3).

use super::State;
use super::cache::Translation;
use super::device::Denied;
use super::registers::TES;
use super::space::Space;

/// Where interrupts are: no request is translated there, and no translation may lead there (3.15).
pub(super) const INTERRUPTS: core::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub source: u16,
    pub pasid: Option<u32>,
    pub privileged: bool,
    pub address: u64,
    pub write: bool,
}

/// The reason in scalable mode where legacy mode has this one.
pub(super) fn in_scalable(reason: u8) -> u8 {
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
pub(super) struct Fault {
    pub reason: u8,
    pub silent: bool,
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
        self.remap(&request).map_err(|fault| {
            if !fault.silent {
                self.record_request(fault.reason, &request);
            }
            Denied::Fault(fault.reason)
        })
    }

    /// Whether a source may ask for translations, and use them (DTE, 9.4).
    pub(super) fn allows_translated(&mut self, source: u16) -> Result<(), Denied> {
        let entry = match self.registers.is_on(TES) && self.is_scalable() {
            true => self.context(source, true),
            false => Err(0x44.into()),
        };
        let reason = match entry {
            Ok([first, _]) if first >> 2 & 1 != 0 => return Ok(()),
            Ok(_) => 0x44,
            Err(fault) => in_scalable(fault.reason),
        };
        Err(Denied::Fault(reason))
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

    fn remap(&mut self, request: &Request) -> Result<u64, Fault> {
        let scalable = self.is_scalable();
        let (space, silent) = match (scalable, request.pasid) {
            (true, pasid) => self.scalable_space(request.source, pasid),
            (false, None) => self.legacy_space(request.source),
            // 7.1.3: TTM is 0.
            (false, Some(_)) => Err(0x31.into()),
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

    fn through(&mut self, space: &Space, request: &Request) -> Result<u64, u8> {
        if let Some(first) = &space.first {
            return self.through_first(space, first, request);
        }
        let Some(second) = space.second else {
            // 9.3: pass-through, of addresses that the host has.
            let past = request.address >> self.config.output_bits != 0;
            return if past { Err(0x4) } else { Ok(request.address) };
        };
        let found = self.through_second(space.domain, second, request.address, request.write);
        found.map(|(to, _)| to)
    }

    /// Where an address goes through a second stage, of this root and so many levels, and by what. Reasons of legacy mode.
    pub(super) fn through_second(
        &mut self,
        domain: u16,
        (root, levels): (u64, u8),
        address: u64,
        write: bool,
    ) -> Result<(u64, Translation), u8> {
        let bits = (12 + 9 * u32::from(levels)).min(self.config.input_bits.into());
        if address >> bits != 0 {
            return Err(0x4);
        }
        if let Some((base, held)) = self.cache.find(domain, address) {
            let allowed = if write { held.write } else { held.read };
            if allowed {
                self.counters.hits += 1;
                return Ok((held.output + (address - base), held));
            }
            // It may be that the tables allow more by now (6.2.1): they are looked at.
            self.cache.translations.remove(&(domain, base));
        }
        let (base, found) = self.walk(root, levels - 1, domain, (address, write))?;
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
        Ok((found.output + (address - base), found))
    }

    /// Walks a second stage (9.8); `top` is the height of its root.
    fn walk(
        &mut self,
        root: u64,
        top: u8,
        domain: u16,
        (address, writes): (u64, bool),
    ) -> Result<(u64, Translation), u8> {
        self.counters.walks += 1;
        // Past the host address width, and bit 62 (9.8).
        let beyond = 0x000f_ffff_ffff_f000 & !((1u64 << self.config.output_bits) - 1) | 1 << 62;
        let known = self.cache.table(domain, address);
        // What is not allowed on the way is looked at again, as with a translation.
        let known = known
            .filter(|&(height, _, read, write)| height < top && if writes { write } else { read });
        let (mut height, mut table, mut read, mut write) = known.unwrap_or((top, root, true, true));
        loop {
            let shift = 12 + 9 * u32::from(height);
            let at = table + (address >> shift & 0x1ff) * 8;
            self.counters.entries += 1;
            // 7.1.3: of the root of the second stage it is the context entry's fault.
            let entry = self.read(at).ok_or(if height == top { 0x3 } else { 0x7 })?;
            let (may_read, may_write) = (entry & 1 != 0, entry & 2 != 0);
            if writes && !may_write {
                return Err(0x5);
            }
            if !writes && !may_read {
                return Err(0x6);
            }
            (read, write) = (read && may_read, write && may_write);
            let size = 1u64 << shift;
            let base = address & !(size - 1);
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
                let to = output + (address - base);
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
