//! What software must not do, with the section that says so; and every image of an STE that the SMMU could fetch.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::State;
use super::lookup::Configuration;
use super::ste::{self, Meaning};
use crate::model::memory::Observer;

/// Something that software must not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Section of IHI 0070.
    pub section: &'static str,
    /// What it was.
    pub what: String,
}

/// Values that the words of one STE had since nothing old of it could be on its way any more.
pub(super) struct Images {
    sid: u32,
    words: [Vec<u64>; 8],
    /// Whole entries at the barriers in between.
    whole: Vec<[u64; 8]>,
}

/// Most images of one entry that are looked at.
const MOST_IMAGES: usize = 1 << 14;

impl State {
    /// Panics, or notes it where the model is not strict.
    pub(super) fn violation(&mut self, section: &'static str, what: String) {
        if self.config.strict {
            panic!("IHI 0070 {section}: {what}");
        }
        self.violations.push(Violation { section, what });
    }

    /// The stream whose STE is at `at`, if there is one.
    fn stream_of(&self, at: u64) -> Option<u32> {
        let (base, log2) = self.stream_table();
        let Some(split) = self.split() else {
            let index = at.checked_sub(base)? / 64;
            return (index >> log2 == 0).then_some(index as u32);
        };
        let (table, first) = self.second.range(..=at).next_back()?;
        let within = (at - table) / 64;
        (within >> split == 0).then(|| (*first << split) + within as u32)
    }

    /// Level 2 tables that these stores hang into level 1.
    fn note_tables(&mut self, stores: &[(u64, u64)]) {
        let (base, log2) = self.stream_table();
        let Some(split) = self.split() else {
            return;
        };
        let entries = 1u64 << log2.saturating_sub(split);
        for (at, value) in stores {
            if let Some(offset) = at.checked_sub(base)
                && offset / 8 < entries
                && value & 0x1f != 0
            {
                let table = value & 0x000f_ffff_ffff_ffc0;
                self.second.insert(table, (offset / 8) as u32);
            }
        }
    }

    /// The level 2 tables that are there when translation is turned on.
    pub(super) fn note_level_one(&mut self) {
        self.second.clear();
        let (base, log2) = self.stream_table();
        let Some(split) = self.split() else {
            return;
        };
        for index in 0..1u64 << log2.saturating_sub(split) {
            let at = base + index * 8;
            if let Ok(value) = self.memory.device_read(at, true) {
                self.note_tables(&[(at, value)]);
            }
        }
    }

    /// Checks every image of each STE that `stores` change: each must mean what the entry meant before or after, or
    /// refuse everything (§3.21.3.1).
    fn check_images(&mut self, stores: &[(u64, u64)]) {
        if self.registers.cr0ack & 1 == 0 {
            return;
        }
        self.note_tables(stores);
        let mut touched: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
        for (at, value) in stores {
            if self.stream_of(*at).is_some() {
                let word = (at % 64 / 8) as usize;
                touched.entry(at & !63).or_default().push((word, *value));
            }
        }
        for (at, stores) in touched {
            let old: [u64; 8] = core::array::from_fn(|word| {
                let at = at + word as u64 * 8;
                self.memory.device_read(at, true).unwrap_or(0)
            });
            let sid = self.stream_of(at).unwrap_or(0);
            let fresh = Images {
                sid,
                words: old.map(|word| alloc::vec![word]),
                whole: alloc::vec![old],
            };
            let mut images = match self.images.remove(&at) {
                Some(images) if self.config.torn_fetches => images,
                _ => fresh,
            };
            let mut new = old;
            for (word, value) in stores {
                new[word] = value;
                if !images.words[word].contains(&value) {
                    images.words[word].push(value);
                }
            }
            images.whole.push(new);
            self.check_product(&images);
            if self.config.torn_fetches {
                self.images.insert(at, images);
            }
        }
    }

    fn check_product(&mut self, images: &Images) {
        let count: usize = images.words.iter().map(Vec::len).product();
        if count > MOST_IMAGES {
            let what = alloc::format!("STE {:#x} has {count} images", images.sid);
            return self.violation("3.21.3.1", what);
        }
        let mean = |words: &[u64; 8], state: &Self| {
            let check = state.registers.cr0ack >> 4 & 1 != 0;
            ste::decode(words, &state.config, check).unwrap_or(Meaning::Abort)
        };
        let whole: Vec<_> = images.whole.iter().map(|words| mean(words, self)).collect();
        for index in 0..count {
            let mut rest = index;
            let words = core::array::from_fn(|word| {
                let values = &images.words[word];
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            });
            let meaning = mean(&words, self);
            self.counters.images += 1;
            if meaning != Meaning::Abort && !whole.contains(&meaning) {
                let what = alloc::format!(
                    "STE {:#x} can be seen as {words:x?}, which is neither old, new nor abort",
                    images.sid
                );
                return self.violation("3.21.3.1", what);
            }
        }
    }

    /// A CMD_SYNC has ended the fetches of the entries that were invalidated before it.
    pub(super) fn entry_images_settle(&mut self) {
        for which in core::mem::take(&mut self.settled) {
            let (from, to) = match which {
                Configuration::Ste { sid, .. } => (sid, sid),
                Configuration::Range(from, to) => (from, to),
                _ => continue,
            };
            self.images
                .retain(|_, images| images.sid < from || images.sid > to);
        }
    }
}

impl Observer for spin::Mutex<State> {
    fn before_barrier(&self, stores: &[(u64, u64)]) {
        self.lock().check_images(stores);
    }
}
