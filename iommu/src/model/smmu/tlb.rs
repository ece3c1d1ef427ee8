//! TLBs that forget nothing by themselves: each entry stays until the invalidation that must remove it (IHI 0070, §4.4).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::walk::Rights;

/// What an entry translates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// VA to PA or to IPA, by stage 1.
    One,
    /// VA to PA, by both stages.
    Combined,
    /// IPA to PA, by stage 2.
    Two,
}

/// Whose an entry is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Tag {
    pub kind: Kind,
    pub el2: bool,
    pub vmid: u16,
    /// `None`: global, or stage 2.
    pub asid: Option<u16>,
}

impl Tag {
    /// Of what stage 2 alone translates.
    pub(super) fn stage_two(vmid: u16) -> Self {
        Self {
            kind: Kind::Two,
            el2: false,
            vmid,
            asid: None,
        }
    }
}

/// One translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub size: u64,
    pub output: u64,
    pub level: i8,
    pub granule: u8,
    pub one: Rights,
    pub two: Rights,
    /// Stage 2 input of the first byte.
    pub ipa: u64,
    /// The stage 1 block or page that it is part of: an invalidation of any of it removes this.
    pub span: (u64, u64),
    /// A write has to set dirty state first.
    pub clean: bool,
    /// The transaction that brought it in: stream, substream, address.
    pub from: (u32, Option<u32>, u64),
}

/// A table on the way: level it is at, and where.
#[derive(Clone, Copy, Debug)]
struct Partial {
    size: u64,
    table: u64,
    hierarchy: u8,
}

/// Bytes `[base, base + len)` with what a range command says about the entries (§4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub base: u64,
    /// Exclusive end would overflow at the top: the last byte.
    pub last: u64,
    pub leaf: bool,
    /// log2 of the granule of the entries, where the command gives one.
    pub granule: Option<u8>,
    pub level: Option<i8>,
}

impl Range {
    fn overlaps(&self, base: u64, size: u64) -> bool {
        base <= self.last && self.base <= base + (size - 1)
    }
}

/// What a TLB invalidation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// CMD_TLBI_NSNH_ALL.
    Everything,
    /// CMD_TLBI_EL2_ALL.
    El2,
    /// CMD_TLBI_EL2_ASID.
    El2Asid(u16),
    /// CMD_TLBI_NH_ALL: stage 1 and combined entries.
    StageOne(u16),
    /// CMD_TLBI_NH_ASID.
    Asid(u16, u16),
    /// CMD_TLBI_NH_VA, NH_VAA, EL2_VA, EL2_VAA; no ASID is every ASID.
    Address {
        el2: bool,
        vmid: u16,
        asid: Option<u16>,
        range: Range,
    },
    /// CMD_TLBI_S12_VMALL.
    Vmid(u16),
    /// CMD_TLBI_S2_IPA: entries of stage 2 alone.
    Ipa(u16, Range),
}

impl Scope {
    /// Whether a last-level entry goes. `base`, `size` is what it was made from.
    fn takes(&self, tag: &Tag, at: Option<(u64, u64, u8, i8)>, table: bool) -> bool {
        let stage_one = tag.kind != Kind::Two;
        let hit = |range: &Range| {
            at.is_none_or(|(base, size, granule, level)| {
                let shape = table
                    || range.granule.is_none_or(|asked| asked == granule)
                        && range.level.is_none_or(|asked| asked == level);
                range.overlaps(base, size) && shape && !(table && range.leaf)
            })
        };
        match self {
            Self::Everything => !tag.el2,
            Self::El2 => tag.el2,
            Self::El2Asid(asid) => tag.el2 && tag.asid == Some(*asid),
            Self::StageOne(vmid) => !tag.el2 && stage_one && tag.vmid == *vmid,
            Self::Asid(vmid, asid) => {
                !tag.el2 && stage_one && tag.vmid == *vmid && tag.asid == Some(*asid)
            }
            Self::Address {
                el2,
                vmid,
                asid,
                range,
            } => {
                let ours = tag.el2 == *el2 && stage_one && (*el2 || tag.vmid == *vmid);
                // A global entry goes whatever ASID is given.
                let asid = asid.is_none() || tag.asid.is_none() || tag.asid == *asid;
                ours && asid && hit(range)
            }
            Self::Vmid(vmid) => !tag.el2 && tag.vmid == *vmid,
            Self::Ipa(vmid, range) => {
                !tag.el2 && tag.kind == Kind::Two && tag.vmid == *vmid && hit(range)
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Tlb {
    entries: BTreeMap<(Tag, u64), Entry>,
    sizes: BTreeSet<u64>,
    /// By level of the table, too.
    partials: BTreeMap<(Tag, i8, u64), Partial>,
}

impl Tlb {
    /// The entry for `address`, and its first address.
    pub(super) fn lookup(&self, tag: Tag, address: u64) -> Option<(u64, Entry)> {
        self.sizes.iter().find_map(|size| {
            let base = address & !(size - 1);
            let entry = self.entries.get(&(tag, base))?;
            (address - base < entry.size).then_some((base, *entry))
        })
    }

    /// The entry of any ASID for `address`.
    pub(super) fn find(&self, kind: Kind, vmid: u16, address: u64) -> Option<(u64, Entry)> {
        let mut all = self.entries.iter();
        all.find_map(|((tag, base), entry)| {
            let ours = tag.kind == kind && tag.vmid == vmid && *base <= address;
            (ours && address - base < entry.size).then_some((*base, *entry))
        })
    }

    /// Adds an entry. `Err`: another one covers a part of it, as a table was changed without break-before-make.
    pub(super) fn insert(&mut self, tag: Tag, base: u64, entry: Entry) -> Result<(), u64> {
        let mut inside = self
            .entries
            .range((tag, base)..=(tag, base + (entry.size - 1)));
        let other = inside.find(|(_, other)| other.size != entry.size);
        let conflict = other.map(|((_, at), _)| *at);
        self.sizes.insert(entry.size);
        self.entries.insert((tag, base), entry);
        conflict.map_or(Ok(()), Err)
    }

    /// The deepest table that is known for `address`: its level, where it is, and what it inherits.
    pub(super) fn table(&self, tag: Tag, address: u64) -> Option<(i8, u64, u8)> {
        (0..=3).rev().find_map(|level| {
            let key = (tag, level, address);
            let ((found, at, base), partial) = self.partials.range(..=key).next_back()?;
            let covers = *found == tag && *at == level && address - base < partial.size;
            covers.then_some((level, partial.table, partial.hierarchy))
        })
    }

    /// Remembers a table of `level` that covers `size` bytes from `base` on.
    pub(super) fn insert_table(
        &mut self,
        tag: Tag,
        level: i8,
        base: u64,
        size: u64,
        table: u64,
        hierarchy: u8,
    ) {
        let partial = Partial {
            size,
            table,
            hierarchy,
        };
        self.partials.insert((tag, level, base), partial);
    }

    /// Removes what `scope` says; what brought the removed entries in.
    pub(super) fn invalidate(&mut self, scope: &Scope) -> Vec<(u32, Option<u32>, u64)> {
        let mut removed = Vec::new();
        self.entries.retain(|(tag, base), entry| {
            let (start, size) = if tag.kind == Kind::Two {
                (*base, entry.size)
            } else {
                entry.span
            };
            let goes = scope.takes(tag, Some((start, size, entry.granule, entry.level)), false);
            if goes {
                removed.push(entry.from);
            }
            !goes
        });
        self.partials.retain(|(tag, level, base), partial| {
            !scope.takes(tag, Some((*base, partial.size, 0, *level)), true)
        });
        removed
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
