//! From a StreamID to its STE and from a SubstreamID to its CD (IHI 0070, §3.3), and the caches of both.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::State;
use super::event::Event;
use super::ste::{Contexts, StageTwo, bits};
use super::tlb::Tag;
use super::walk::{Class, Fault, Purpose, Use};
use crate::model::memory::BusError;

/// Event numbers of configuration (§7.3.3 to §7.3.11).
pub(super) const BAD_STREAM: u8 = 0x02;
pub(super) const STE_FETCH: u8 = 0x03;
pub(super) const BAD_STE: u8 = 0x04;
pub(super) const STREAM_DISABLED: u8 = 0x06;
pub(super) const BAD_SUBSTREAM: u8 = 0x08;
pub(super) const CD_FETCH: u8 = 0x09;
pub(super) const BAD_CD: u8 = 0x0a;

/// A configuration cache invalidation (§4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Configuration {
    /// CMD_CFGI_STE.
    Ste { sid: u32, leaf: bool },
    /// CMD_CFGI_STE_RANGE and CMD_CFGI_ALL: first and last stream.
    Range(u32, u32),
    /// CMD_CFGI_CD.
    Cd { sid: u32, ssid: u32, leaf: bool },
    /// CMD_CFGI_CD_ALL.
    Cds(u32),
}

/// What is cached, as it was fetched.
#[derive(Default)]
pub(super) struct Cache {
    first: BTreeMap<u32, u64>,
    entries: BTreeMap<u32, [u64; 8]>,
    contexts: BTreeMap<(u32, u32), [u64; 8]>,
    first_contexts: BTreeMap<(u32, u32), u64>,
}

impl Cache {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// An entry from before the reset, or from firmware.
    pub(super) fn plant(&mut self, sid: u32, words: [u64; 8]) {
        self.entries.insert(sid, words);
    }

    /// Removes what `which` says; the streams and substreams it was about.
    pub(super) fn invalidate(
        &mut self,
        which: &Configuration,
        split: Option<u32>,
    ) -> Vec<(u32, Option<u32>)> {
        let (from, to, leaf) = match *which {
            Configuration::Cd { sid, ssid, leaf } => {
                if !leaf {
                    let within = |(at, _): &(u32, u32), _: &mut u64| *at != sid;
                    self.first_contexts.retain(within);
                }
                let removed = self.contexts.remove(&(sid, ssid));
                return removed.map(|_| (sid, Some(ssid))).into_iter().collect();
            }
            Configuration::Cds(sid) => {
                self.contexts.retain(|(at, _), _| *at != sid);
                self.first_contexts.retain(|(at, _), _| *at != sid);
                return Vec::new();
            }
            Configuration::Ste { sid, leaf } => (sid, sid, leaf),
            Configuration::Range(from, to) => (from, to, false),
        };
        let inside = |sid: u32| from <= sid && sid <= to;
        let mut removed = Vec::new();
        self.entries.retain(|sid, _| {
            if inside(*sid) {
                removed.push((*sid, None));
            }
            !inside(*sid)
        });
        self.contexts.retain(|(sid, _), _| !inside(*sid));
        self.first_contexts.retain(|(sid, _), _| !inside(*sid));
        if let Some(split) = split
            && !leaf
        {
            let (from, to) = (from >> split, to >> split);
            self.first.retain(|index, _| *index < from || *index > to);
        }
        removed
    }
}

impl State {
    /// A 64-bit word as the SMMU reads it.
    pub(super) fn fetch(&mut self, at: u64) -> Result<u64, BusError> {
        let snoop = self.config.coherent;
        self.memory.device_read(at, snoop)
    }

    /// The bits of a StreamID that index a level 2 table, where there are two levels.
    pub(super) fn split(&self) -> Option<u32> {
        let config = self.registers.strtab_config;
        // §6.3.25: reserved values of SPLIT behave as 6.
        let split = match config >> 6 & 0x1f {
            split @ (8 | 10) => split,
            _ => 6,
        };
        (self.config.two_level && config >> 16 & 3 == 1).then_some(split)
    }

    /// Start of the stream table: low bits of the register are zero for its size (§6.3.24).
    pub(super) fn stream_table(&self) -> (u64, u32) {
        let log2 = (self.registers.strtab_config & 0x3f).min(32);
        let bytes = match self.split() {
            Some(split) => 3 + log2.saturating_sub(split),
            None => 6 + log2,
        };
        let base = self.registers.strtab_base & 0x000f_ffff_ffff_ffc0;
        (base & !((1 << bytes.max(6)) - 1), log2)
    }

    /// Where the STE of `sid` is. `Err(None)`: C_BAD_STREAMID.
    pub(super) fn entry_address(&mut self, sid: u32) -> Result<u64, Event> {
        let (base, log2) = self.stream_table();
        let bad = Event::of(BAD_STREAM, sid, None);
        if u64::from(sid) >> log2 != 0 {
            return Err(bad);
        }
        let Some(split) = self.split() else {
            return Ok(base + u64::from(sid) * 64);
        };
        let index = sid >> split;
        let first = match self.cache.first.get(&index) {
            Some(first) => *first,
            None => {
                let at = base + u64::from(index) * 8;
                let fetched = self.fetch(at);
                let first = fetched.map_err(|_| Event::of(STE_FETCH, sid, None).with_fetch(at))?;
                if self.config.cache_invalid || bits(first, 4, 0) != 0 {
                    self.cache.first.insert(index, first);
                }
                first
            }
        };
        let span = bits(first, 4, 0) as u32;
        let within = sid & ((1 << split) - 1);
        // §5.1: SPLIT + 1 is the largest, more is reserved.
        if span == 0 || span > split + 1 || within >= 1 << (span - 1) {
            return Err(bad);
        }
        let table = first & 0x000f_ffff_ffff_ffc0 & !((1 << (span + 5)) - 1);
        Ok(table + u64::from(within) * 64)
    }

    /// The words of the STE of `sid`.
    pub(super) fn entry(&mut self, sid: u32) -> Result<[u64; 8], Event> {
        if let Some(words) = self.cache.entries.get(&sid) {
            return Ok(*words);
        }
        let at = self.entry_address(sid)?;
        let mut words = [0; 8];
        self.counters.configurations += 1;
        for (index, word) in words.iter_mut().enumerate() {
            let at = at + index as u64 * 8;
            let fetched = self.fetch(at);
            *word = fetched.map_err(|_| Event::of(STE_FETCH, sid, None).with_fetch(at))?;
        }
        if self.config.cache_invalid || words[0] & 1 != 0 {
            self.cache.entries.insert(sid, words);
        }
        Ok(words)
    }

    /// The words of a CD; `two` is under its address.
    pub(super) fn context(
        &mut self,
        contexts: &Contexts,
        two: Option<(&StageTwo, u16)>,
        request: (u32, Option<u32>, u64),
        ssid: u32,
        quiet: bool,
    ) -> Result<[u64; 8], Result<Event, Fault>> {
        let (sid, substream, _) = request;
        if let Some(words) = self.cache.contexts.get(&(sid, ssid)) {
            return Ok(*words);
        }
        let abort = |at| Ok(Event::of(CD_FETCH, sid, substream).with_fetch(at));
        let table = match contexts.format {
            0 => contexts.table + u64::from(ssid) * 64,
            format => {
                // §5.3: leaves of 64 or 1024 CDs.
                let split = if format == 1 { 6 } else { 10 };
                let index = ssid >> split;
                let first = match self.cache.first_contexts.get(&(sid, index)) {
                    Some(first) => *first,
                    None => {
                        let at = contexts.table + u64::from(index) * 8;
                        let at = self.context_address(two, at, request, quiet)?;
                        let first = self.fetch(at).map_err(|_| abort(at))?;
                        if first & 1 != 0 || self.config.cache_invalid {
                            self.cache.first_contexts.insert((sid, index), first);
                        }
                        first
                    }
                };
                if first & 1 == 0 {
                    return Err(Ok(Event::of(BAD_SUBSTREAM, sid, substream)));
                }
                let within = ssid & ((1 << split) - 1);
                (first & 0x000f_ffff_ffff_f000) + u64::from(within) * 64
            }
        };
        let at = self.context_address(two, table, request, quiet)?;
        let mut words = [0; 8];
        self.counters.configurations += 1;
        for (index, word) in words.iter_mut().enumerate() {
            let at = at + index as u64 * 8;
            *word = self.fetch(at).map_err(|_| abort(at))?;
        }
        if self.config.cache_invalid || words[0] >> 31 & 1 != 0 {
            self.cache.contexts.insert((sid, ssid), words);
        }
        Ok(words)
    }

    fn context_address(
        &mut self,
        two: Option<(&StageTwo, u16)>,
        at: u64,
        from: (u32, Option<u32>, u64),
        quiet: bool,
    ) -> Result<u64, Result<Event, Fault>> {
        let Some((two, vmid)) = two else {
            return Ok(at);
        };
        let purpose = Purpose {
            how: Use::FETCH,
            class: Class::Cd,
            quiet,
            from,
        };
        let found = self.stage_two(two, Tag::stage_two(vmid), at, purpose);
        found.map(|(_, at)| at).map_err(Err)
    }
}
