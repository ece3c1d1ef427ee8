//! Caches that forget nothing by themselves: each entry stays until the invalidation that must remove it (6.2).

use alloc::collections::BTreeMap;

use super::State;
use super::first_stage::FirstStages;

/// A translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    pub size: u64,
    pub output: u64,
    pub read: bool,
    pub write: bool,
}

/// A table on the way: bytes that it covers, where it is, and what is readable and writable below it.
type Partial = (u64, u64, bool, bool);

#[derive(Default)]
pub(super) struct Cache {
    /// Context entries by source.
    pub contexts: BTreeMap<u16, [u64; 2]>,
    /// PASID directory entries by source and place.
    pub directories: BTreeMap<(u16, u32), u64>,
    /// PASID table entries by source and PASID.
    pub pasids: BTreeMap<(u16, u32), [u64; 8]>,
    /// What first stages took part in.
    pub first: FirstStages,
    /// Translations by domain and first address.
    pub translations: BTreeMap<(u16, u64), Translation>,
    /// Tables on the way by domain, height of the entry that leads there and first address.
    pub tables: BTreeMap<(u16, u8, u64), Partial>,
    /// What devices have cached, by source, PASID and page: the page that it is.
    pub devices: BTreeMap<(u16, Option<u32>, u64), u64>,
    /// Interrupt entries by index.
    pub interrupts: BTreeMap<u16, [u64; 2]>,
}

/// What an invalidation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    AllContexts,
    /// Those whose entry has this domain.
    ContextsOf(u16),
    /// Sources but for the masked bits of the function, if their entry has this domain.
    Context {
        source: u16,
        mask: u16,
        domain: u16,
    },
    AllPasids,
    /// Those of a domain.
    PasidsOf(u16),
    /// Those of a domain with one PASID.
    Pasid {
        domain: u16,
        pasid: u32,
    },
    Everything,
    Domain(u16),
    /// What first stages took part in, by domain and PASID.
    FirstStage {
        domain: u16,
        pasid: u32,
        first: u64,
        last: u64,
        leaf: bool,
    },
    Pages {
        domain: u16,
        first: u64,
        last: u64,
        leaf: bool,
    },
    /// What a device has cached; `None` of every PASID.
    DeviceTlb {
        source: u16,
        pasid: Option<Option<u32>>,
        first: u64,
        last: u64,
    },
    AllInterrupts,
    Interrupts {
        first: u16,
        last: u16,
    },
}

impl Scope {
    /// From granularity, domain, source and function mask (6.5.2.1).
    pub fn contexts(granularity: u64, domain: u64, source: u64, mask: u64) -> Option<Self> {
        Some(match granularity {
            1 => Self::AllContexts,
            2 => Self::ContextsOf(domain as u16),
            3 => Self::Context {
                source: source as u16,
                mask: [0, 0b100, 0b110, 0b111][mask as usize & 3],
                domain: domain as u16,
            },
            _ => return None,
        })
    }

    /// From granularity, domain and PASID (6.5.2.2).
    pub fn pasids(granularity: u64, domain: u64, pasid: u64) -> Option<Self> {
        Some(match granularity {
            0 => Self::PasidsOf(domain as u16),
            1 => Self::Pasid {
                domain: domain as u16,
                pasid: pasid as u32 & 0xf_ffff,
            },
            3 => Self::AllPasids,
            _ => return None,
        })
    }

    /// From the word that says which pages, with the place of S in it (6.5.2.5).
    pub fn device(source: u64, pasid: Option<Option<u32>>, word: u64, size: u32) -> Self {
        let page = word >> 12;
        let log2 = match word >> size & 1 {
            0 => 0,
            _ => page.trailing_ones() + 1,
        };
        let (first, last) = match log2 {
            52.. => (0, u64::MAX),
            _ => {
                let first = page >> log2 << log2 << 12;
                (first, first + ((4096u64 << log2) - 1))
            }
        };
        Self::DeviceTlb {
            source: source as u16,
            pasid,
            first,
            last,
        }
    }

    /// From granularity, domain, PASID and address (6.5.2.4).
    pub fn first_stage(
        granularity: u64,
        domain: u64,
        pasid: u64,
        address: u64,
        largest: Option<u8>,
    ) -> Option<Self> {
        let (first, last, leaf) = match granularity {
            2 => (0, u64::MAX, false),
            3 => match Self::translations(3, domain, address, largest)? {
                Self::Pages {
                    first, last, leaf, ..
                } => (first, last, leaf),
                _ => return None,
            },
            _ => return None,
        };
        Some(Self::FirstStage {
            domain: domain as u16,
            pasid: pasid as u32 & 0xf_ffff,
            first,
            last,
            leaf,
        })
    }

    /// From granularity, domain and address (6.5.2.3).
    pub fn translations(
        granularity: u64,
        domain: u64,
        address: u64,
        largest: Option<u8>,
    ) -> Option<Self> {
        Some(match granularity {
            1 => Self::Everything,
            2 => Self::Domain(domain as u16),
            3 => {
                let log2 = address & 0x3f;
                if log2 > largest?.into() {
                    return None;
                }
                let size = 4096u64 << log2;
                // Low bits of the address below the mask are taken for zeros.
                let first = address & !(size - 1);
                Self::Pages {
                    domain: domain as u16,
                    first,
                    last: first + (size - 1),
                    leaf: address >> 6 & 1 != 0,
                }
            }
            _ => return None,
        })
    }
}

impl Cache {
    /// The translation of `address`, and its first address.
    pub fn find(&self, domain: u16, address: u64) -> Option<(u64, Translation)> {
        let (&(found, base), &it) = self.translations.range(..=(domain, address)).next_back()?;
        (found == domain && address - base < it.size).then_some((base, it))
    }

    /// The lowest table that is known for `address`: height of its entries, where it is, and the rights on the way.
    pub fn table(&self, domain: u16, address: u64) -> Option<(u8, u64, bool, bool)> {
        (1..5).find_map(|height| {
            let key = (domain, height, address);
            let (&(of, at, base), &(size, table, read, write)) =
                self.tables.range(..=key).next_back()?;
            let covers = of == domain && at == height && address - base < size;
            covers.then_some((height - 1, table, read, write))
        })
    }

    pub fn forget_translations(&mut self, scope: &Scope) {
        self.first.forget(scope);
        self.translations.retain(|(of, base), it| match *scope {
            Scope::Everything => false,
            Scope::Domain(domain) => *of != domain,
            Scope::Pages {
                domain,
                first,
                last,
                ..
            } => *of != domain || *base > last || base + (it.size - 1) < first,
            _ => true,
        });
        self.tables
            .retain(|(of, _, base), (size, ..)| match *scope {
                Scope::Everything => false,
                Scope::Domain(domain) => *of != domain,
                Scope::Pages {
                    domain,
                    first,
                    last,
                    leaf,
                } => leaf || *of != domain || *base > last || *base + (*size - 1) < first,
                _ => true,
            });
    }
}

impl State {
    /// Forgets what `scope` says.
    pub(super) fn forget(&mut self, scope: &Scope) {
        let domain_of = |entry: &[u64; 2]| (entry[1] >> 8) as u16;
        let scalable = self.is_scalable();
        match *scope {
            Scope::AllContexts => self.cache.contexts.clear(),
            Scope::ContextsOf(domain) => {
                let contexts = &mut self.cache.contexts;
                contexts.retain(|_, entry| domain_of(entry) != domain);
            }
            // 6.5.2.1: the domain is that of the entry before it was changed.
            Scope::Context {
                source,
                mask,
                domain,
            } => self.cache.contexts.retain(|of, entry| {
                // In scalable mode the entry has none.
                (of ^ source) & !mask != 0 || !scalable && domain_of(entry) != domain
            }),
            Scope::AllPasids => {
                self.cache.pasids.clear();
                // Directory entries have no domain: nothing less takes them.
                self.cache.directories.clear();
            }
            Scope::PasidsOf(domain) => {
                let pasids = &mut self.cache.pasids;
                pasids.retain(|_, entry| entry[1] as u16 != domain);
            }
            Scope::Pasid { domain, pasid } => {
                let pasids = &mut self.cache.pasids;
                pasids.retain(|(_, of), entry| *of != pasid || entry[1] as u16 != domain);
            }
            Scope::DeviceTlb {
                source,
                pasid,
                first,
                last,
            } => self.cache.devices.retain(|(of, at, page), _| {
                // 6.5.2.6: of every PASID is what has one.
                let other = pasid.map_or(at.is_none(), |pasid| pasid != *at);
                *of != source || other || *page > last || page + 4095 < first
            }),
            Scope::AllInterrupts => self.cache.interrupts.clear(),
            Scope::Interrupts { first, last } => {
                let interrupts = &mut self.cache.interrupts;
                interrupts.retain(|index, _| !(first..=last).contains(index));
            }
            _ => self.cache.forget_translations(scope),
        }
    }
}
