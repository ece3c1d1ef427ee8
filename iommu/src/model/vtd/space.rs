//! What a request goes through: root and context tables (3.4.2), PASID directory and tables (3.4.3, 9.4 to 9.6).

use super::State;
use super::translate::{Fault, in_scalable};

/// A first stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct First {
    pub root: u64,
    pub levels: u8,
    /// SRE.
    pub supervisor: bool,
    /// WPE.
    pub write_protect: bool,
    /// EAFE.
    pub extended_accessed: bool,
}

/// What a request goes through; neither stage is untranslated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Space {
    pub domain: u16,
    /// As requests without PASID have one too in scalable mode.
    pub pasid: u32,
    pub first: Option<First>,
    /// Root and levels.
    pub second: Option<(u64, u8)>,
}

impl Space {
    fn of_context([first, second]: [u64; 2]) -> Self {
        let passes = first >> 2 & 3 == 2;
        Self {
            domain: (second >> 8) as u16,
            pasid: 0,
            first: None,
            second: (!passes).then_some((first & !0xfff, (second & 7) as u8 + 2)),
        }
    }

    fn of_pasid(pasid: u32, words: &[u64; 8]) -> Self {
        let kind = words[0] >> 6 & 7;
        let third = words[2];
        let first = First {
            root: third & !0xfff,
            levels: (third >> 2 & 3) as u8 + 4,
            supervisor: third & 1 != 0,
            write_protect: third >> 4 & 1 != 0,
            extended_accessed: third >> 7 & 1 != 0,
        };
        let second = (words[0] & !0xfff, (words[0] >> 2 & 7) as u8 + 2);
        Self {
            domain: words[1] as u16,
            pasid,
            first: matches!(kind, 1 | 3).then_some(first),
            second: matches!(kind, 2 | 3).then_some(second),
        }
    }
}

impl State {
    /// The context entry of a source, if it is sound: its first two words. Reasons as in legacy mode.
    pub(super) fn context(&mut self, source: u16, scalable: bool) -> Result<[u64; 2], Fault> {
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
        // PASIDE, DTE and PRE where the unit does not have them.
        let pasids = u64::from(self.config.pasid_bits == 0) << 3
            | u64::from(!self.config.device_tlbs) << 2
            | u64::from(!self.config.page_requests) << 4;
        // RID_PASID where there is none (RPS), and RID_PRIV, which there never is (RPRIVS).
        let rid_pasid = if self.config.rid_pasid { 0xf_ffff } else { 0 };
        let reserved = match scalable {
            true => {
                let rest = self.read(at + 16).zip(self.read(at + 24)).ok_or(0x9)?;
                first & (0x1e0 | pasids | beyond) != 0 || second & !rid_pasid != 0 || rest != (0, 0)
            }
            false => first & (0xff0 | beyond) != 0 || second & !0xff_ff7f != 0,
        };
        if reserved {
            return Err(refused(0xb));
        }
        if scalable && first >> 2 & 0b101 == 0b100 {
            // SCT.4.1: PRE without DTE.
            return Err(refused(0x43));
        }
        Ok([first, second])
    }

    /// What a source has in legacy mode, and whether its faults are silent.
    pub(super) fn legacy_space(&mut self, source: u16) -> Result<(Space, bool), Fault> {
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

    /// The same in scalable mode.
    pub(super) fn scalable_space(
        &mut self,
        source: u16,
        pasid: Option<u32>,
    ) -> Result<(Space, bool), Fault> {
        let entry = self.context(source, true).map_err(|fault| Fault {
            reason: in_scalable(fault.reason),
            ..fault
        })?;
        let [first, second] = entry;
        let mut silent = first >> 1 & 1 != 0;
        self.cache.contexts.insert(source, entry);
        let refused = |reason, silent| Fault { reason, silent };
        let without = match self.config.rid_pasid {
            true => second as u32 & 0xf_ffff,
            false => 0,
        };
        let pasid = match pasid {
            Some(_) if first >> 3 & 1 == 0 => return Err(refused(0x45, silent)),
            Some(pasid) if pasid == without => return Err(refused(0x48, silent)),
            Some(pasid) => pasid,
            None => without,
        };
        if let Some(entry) = self.cache.pasids.get(&(source, pasid)) {
            let silent = silent || entry[0] >> 1 & 1 != 0;
            return Ok((Space::of_pasid(pasid, entry), silent));
        }
        let beyond = !((1u64 << self.config.output_bits) - 1);
        let index = pasid >> 6;
        if index >> (7 + (first >> 9 & 7)) != 0 {
            return Err(refused(0x46, silent));
        }
        let held = self.cache.directories.get(&(source, index)).copied();
        let directory = held.or_else(|| self.read((first & !0xfff) + u64::from(index) * 8));
        // What could not be read is told whatever FPD says, as with the tables before (7.1.3).
        let directory = directory.ok_or(refused(0x50, false))?;
        silent |= directory >> 1 & 1 != 0;
        if directory & 1 == 0 {
            return Err(refused(0x51, silent));
        }
        if directory & (0xffc | beyond) != 0 {
            return Err(refused(0x52, silent));
        }
        self.cache.directories.insert((source, index), directory);
        let at = (directory & !0xfff) + u64::from(pasid & 63) * 64;
        let mut words = [0; 8];
        for (word, at) in words.iter_mut().zip((at..).step_by(8)) {
            *word = self.read(at).ok_or(refused(0x58, false))?;
        }
        silent |= words[0] >> 1 & 1 != 0;
        if words[0] & 1 == 0 {
            return Err(refused(0x59, silent));
        }
        if self.is_reserved(&words) {
            return Err(refused(0x5a, silent));
        }
        let space = Space::of_pasid(pasid, &words);
        if !self.is_known(&words) || !self.is_supported(&space, words[0] >> 2 & 7) {
            return Err(refused(0x5b, silent));
        }
        self.check_domain(&space);
        // With FPD of what led there.
        words[0] |= u64::from(silent) << 1;
        self.cache.pasids.insert((source, pasid), words);
        Ok((space, silent))
    }

    /// Reserved bits of a PASID table entry.
    fn is_reserved(&self, words: &[u64; 8]) -> bool {
        let beyond = !((1u64 << self.config.output_bits) - 1);
        // SSADE, which the unit does not have, bits 11:10, and 22:16 of the next word; PWSNP where the unit does not have it.
        let snoop = u64::from(!self.config.walk_snoop) << 23;
        let (first, nested) = (words[0] >> 6 & 7 == 1, words[0] >> 6 & 7 == 3);
        // Bits of word 2 that no field has, and those of what the unit lacks: SRE and WPE, EAFE, ERE, NXE, SMEP.
        let supervisor = if self.config.supervisor { 0 } else { 0b1_0001 };
        let extended = u64::from(!self.config.extended_accessed) << 7;
        let past = match nested {
            true => !((1u64 << self.config.input_bits) - 1),
            false => beyond,
        };
        let third = 0xf62 | supervisor | extended | past;
        words[0] & (0xe00 | beyond) != 0
            || words[1] & (0x7f_0000 | snoop) != 0
            || (first || nested) && words[2] & third != 0
    }

    /// Whether the unit has what a PASID table entry asks for.
    fn is_known(&self, words: &[u64; 8]) -> bool {
        let levels = words[2] >> 2 & 3;
        let first = levels == 0 || levels == 1 && self.config.five_levels;
        match words[0] >> 6 & 7 {
            1 => first && self.config.first_stage,
            2 => true,
            3 => first && self.config.nesting,
            4 => self.config.pass_through,
            _ => false,
        }
    }

    fn is_supported(&self, space: &Space, width: u64) -> bool {
        let domain_bits = 4 + 2 * u32::from(self.config.domains);
        // Where there is no second stage, its width means nothing in scalable mode (9.6).
        let wide = space.second.is_none() && self.is_scalable() && space.first.is_some();
        (wide || self.config.widths >> width & 1 != 0)
            && u32::from(space.domain) >> domain_bits == 0
    }

    /// A domain ID stands for one second stage, and with a PASID for one first stage (6.2.1).
    fn check_domain(&mut self, space: &Space) {
        let spaces: alloc::vec::Vec<_> = match self.is_scalable() {
            true => {
                let pasids = self.cache.pasids.iter();
                pasids
                    .map(|((_, pasid), entry)| Space::of_pasid(*pasid, entry))
                    .collect()
            }
            false => {
                let contexts = self.cache.contexts.values();
                contexts.map(|entry| Space::of_context(*entry)).collect()
            }
        };
        let other = spaces.iter().find(|other| {
            let same = other.pasid == space.pasid && other.first != space.first;
            other.domain == space.domain && (other.second != space.second || same)
        });
        if let Some(other) = other {
            let what = alloc::format!("{space:x?} and {other:x?} share a domain");
            self.violation("6.2.1", what);
        }
        if space.domain == 0 && self.config.caching_mode {
            self.violation("6.1", "domain 0 in caching mode".into());
        }
    }
}
