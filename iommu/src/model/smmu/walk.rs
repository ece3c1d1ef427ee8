//! One walk of a VMSAv8-64 table (DDI 0487, D8; IHI 0070, §3.4), and what its descriptors allow.

use super::State;
use super::ste::{Regime, StageTwo, bits};
use super::tlb::{Entry, Kind, Tag};

/// Event numbers of translation (§7.3.12 to §7.3.17).
pub(super) const WALK_ABORT: u8 = 0x0b;
pub(super) const TRANSLATION: u8 = 0x10;
pub(super) const ADDRESS_SIZE: u8 = 0x11;
pub(super) const ACCESS: u8 = 0x12;
pub(super) const PERMISSION: u8 = 0x13;
pub(super) const CONFLICT: u8 = 0x20;

/// CLASS of an event (§7.3.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Cd = 0,
    Table = 1,
    Input = 2,
}

/// Why a translation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub number: u8,
    pub two: bool,
    pub class: Class,
    /// Stage 2 input, for stage 2 faults.
    pub ipa: u64,
    /// What could not be read, for aborts.
    pub fetch: u64,
}

/// What one stage allows: unprivileged, then privileged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub read: [bool; 2],
    pub write: [bool; 2],
    pub execute: [bool; 2],
}

impl Rights {
    pub(super) const ALL: Self = Self {
        read: [true; 2],
        write: [true; 2],
        execute: [true; 2],
    };
}

/// How memory is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Use {
    pub write: bool,
    pub execute: bool,
    pub privileged: bool,
}

impl Use {
    /// A read of a table or of a descriptor.
    pub(super) const FETCH: Self = Self {
        write: false,
        execute: false,
        privileged: true,
    };

    pub(super) fn allowed(self, rights: &Rights) -> bool {
        let who = usize::from(self.privileged);
        if self.write {
            rights.write[who]
        } else if self.execute {
            rights.execute[who]
        } else {
            rights.read[who]
        }
    }
}

/// A page or block that a walk found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub base: u64,
    pub size: u64,
    pub output: u64,
    pub level: i8,
    pub descriptor: u64,
    /// Where the descriptor is.
    pub at: u64,
    /// APTable, UXNTable and PXNTable of the tables above: bits 3:2, 1, 0.
    pub hierarchy: u8,
}

/// What stage 2 is asked for.
#[derive(Clone, Copy)]
pub(super) struct Purpose {
    pub how: Use,
    pub class: Class,
    /// Speculative: no state changes.
    pub quiet: bool,
    /// Stream, substream and address of the transaction.
    pub from: (u32, Option<u32>, u64),
}

/// One walk.
pub(super) struct Walk<'a> {
    pub regime: &'a Regime,
    pub tag: Tag,
    /// Stage 2 under the table addresses of a stage 1.
    pub under: Option<&'a StageTwo>,
    pub had: bool,
    /// What the input left out of the address: the ones above a TTB1 input.
    pub high: u64,
    /// Speculative: no state changes.
    pub quiet: bool,
    pub from: (u32, Option<u32>, u64),
}

impl State {
    /// Walks to the page or block of `input`, which is within the input width.
    pub(super) fn walk(&mut self, walk: &Walk<'_>, input: u64) -> Result<Leaf, Fault> {
        let regime = walk.regime;
        let two = walk.tag.kind == Kind::Two;
        let fault = |number| Fault {
            number,
            two,
            class: Class::Input,
            ipa: if two { input } else { 0 },
            fetch: 0,
        };
        let per_level = u32::from(regime.granule) - 3;
        let shift = |level: i8| u32::from(regime.granule) + per_level * (3 - level) as u32;
        let (mut level, mut table, mut hierarchy) = (regime.start, regime.root, 0);
        if let Some((cached, at, inherited)) = self.tlb.table(walk.tag, input | walk.high)
            && cached > level
        {
            (level, table, hierarchy) = (cached, at, inherited);
        }
        self.counters.walks += 1;
        loop {
            let index = if level == regime.start {
                // Concatenated start tables have more than one table's entries.
                input >> shift(level)
            } else {
                input >> shift(level) & ((1 << per_level) - 1)
            };
            let at = table + index * 8;
            let at = match walk.under {
                None => at,
                Some(under) => {
                    let tag = Tag {
                        kind: Kind::Two,
                        asid: None,
                        ..walk.tag
                    };
                    let purpose = Purpose {
                        how: Use::FETCH,
                        class: Class::Table,
                        quiet: walk.quiet,
                        from: walk.from,
                    };
                    self.stage_two(under, tag, at, purpose)?.1
                }
            };
            self.counters.descriptors += 1;
            let descriptor = self.fetch(at).map_err(|_| Fault {
                fetch: at,
                class: Class::Table,
                ..fault(WALK_ABORT)
            })?;
            // D8.3: bit 0 valid, bit 1 table or page; no blocks where the level has none.
            let block_level = match regime.granule {
                12 => level == 1 || level == 2,
                _ => level == 2,
            };
            let (valid, is_table) = (descriptor & 1 != 0, descriptor & 2 != 0);
            if !valid || !is_table && !block_level {
                return Err(fault(TRANSLATION));
            }
            let address = descriptor & 0x0000_ffff_ffff_f000;
            if is_table && level < 3 {
                let next = address & !((1 << regime.granule) - 1);
                if next >> regime.output_bits != 0 {
                    return Err(fault(ADDRESS_SIZE));
                }
                if !two && !walk.had {
                    hierarchy |= (bits(descriptor, 62, 61) << 2 | bits(descriptor, 60, 59)) as u8;
                }
                let size = 1 << shift(level);
                level += 1;
                table = next;
                let base = input & !(size - 1) | walk.high;
                self.tlb
                    .insert_table(walk.tag, level, base, size, table, hierarchy);
                continue;
            }
            let size = 1u64 << shift(level);
            let output = address & !(size - 1);
            if output >> regime.output_bits != 0 {
                return Err(fault(ADDRESS_SIZE));
            }
            let mut descriptor = descriptor;
            if descriptor >> 10 & 1 == 0 {
                if regime.ha && !walk.quiet {
                    descriptor |= 1 << 10;
                    let _ = self.memory.device_write(at, descriptor, true);
                } else if !regime.affd {
                    return Err(fault(ACCESS));
                }
            }
            return Ok(Leaf {
                base: input & !(size - 1),
                size,
                output,
                level,
                descriptor,
                at,
                hierarchy,
            });
        }
    }

    /// IPA to PA, with the bytes from there that one entry covers: the entry's first input and size, and the PA.
    pub(super) fn stage_two(
        &mut self,
        two: &StageTwo,
        tag: Tag,
        ipa: u64,
        purpose: Purpose,
    ) -> Result<((u64, Entry), u64), Fault> {
        let Purpose {
            how,
            class,
            quiet,
            from,
        } = purpose;
        let fault = |number| Fault {
            number,
            two: true,
            class,
            ipa,
            fetch: 0,
        };
        if ipa >> two.regime.input_bits != 0 {
            return Err(fault(TRANSLATION));
        }
        let mut found = self.tlb.lookup(tag, ipa);
        if found.is_some_and(|(_, entry)| entry.clean && how.write) {
            found = None;
        }
        let (base, entry) = match found {
            Some(hit) => {
                self.counters.hits += 1;
                hit
            }
            None => {
                let inner = Walk {
                    regime: &two.regime,
                    tag,
                    under: None,
                    had: true,
                    high: 0,
                    quiet,
                    from,
                };
                let leaf = self
                    .walk(&inner, ipa)
                    .map_err(|found| Fault { class, ..found })?;
                let (rights, clean) = self.rights_two(two, &leaf, how, quiet);
                let entry = Entry {
                    size: leaf.size,
                    output: leaf.output,
                    level: leaf.level,
                    granule: two.regime.granule,
                    one: Rights::ALL,
                    two: rights,
                    ipa: leaf.base,
                    span: (leaf.base, leaf.size),
                    clean,
                    from,
                };
                self.remember(tag, leaf.base, entry).map_err(fault)?;
                (leaf.base, entry)
            }
        };
        if !how.allowed(&entry.two) {
            return Err(fault(PERMISSION));
        }
        Ok(((base, entry), entry.output + (ipa - base)))
    }

    /// What a stage 2 descriptor allows (DDI 0487, D8.4.2): S2AP, XN. Sets dirty state for a write where hardware does.
    fn rights_two(&mut self, two: &StageTwo, leaf: &Leaf, how: Use, quiet: bool) -> (Rights, bool) {
        let mut writable = leaf.descriptor >> 7 & 1 != 0;
        let mut clean = false;
        if !writable && two.regime.hd && leaf.descriptor >> 51 & 1 != 0 {
            writable = true;
            clean = true;
            if how.write && !quiet {
                let dirty = leaf.descriptor | 1 << 7;
                clean = self.memory.device_write(leaf.at, dirty, true).is_err();
            }
        }
        let readable = leaf.descriptor >> 6 & 1 != 0;
        let execute = match bits(leaf.descriptor, 54, 53) {
            xn if !self.config.xnx => [xn & 2 == 0; 2],
            0 => [true; 2],
            1 => [true, false],
            2 => [false; 2],
            _ => [false, true],
        };
        let rights = Rights {
            read: [readable; 2],
            write: [writable; 2],
            execute: execute.map(|execute| execute && readable),
        };
        (rights, clean)
    }

    /// What a stage 1 descriptor allows (DDI 0487, D8.4.1): AP, UXN, PXN and those of the tables above.
    pub(super) fn rights_one(
        &mut self,
        regime: &Regime,
        leaf: &Leaf,
        how: Use,
        flags: (bool, bool, bool),
        quiet: bool,
    ) -> (Rights, bool) {
        let (el2, wxn, pan) = flags;
        let mut writable = leaf.descriptor >> 7 & 1 == 0;
        let mut clean = false;
        if !writable && regime.hd && leaf.descriptor >> 51 & 1 != 0 {
            writable = true;
            clean = true;
            if how.write && !quiet {
                let dirty = leaf.descriptor & !(1 << 7);
                clean = self.memory.device_write(leaf.at, dirty, true).is_err();
            }
        }
        let writable = writable && leaf.hierarchy & 0b1000 == 0;
        let unprivileged = leaf.descriptor >> 6 & 1 != 0 && leaf.hierarchy & 0b0100 == 0;
        let uxn = leaf.descriptor >> 54 & 1 != 0 || leaf.hierarchy & 0b10 != 0;
        let pxn = leaf.descriptor >> 53 & 1 != 0 || leaf.hierarchy & 0b01 != 0;
        let rights = if el2 {
            // One privilege level: AP[1] is RES1, bit 54 is XN.
            Rights {
                read: [true; 2],
                write: [writable; 2],
                execute: [!(uxn || wxn && writable); 2],
            }
        } else {
            let privileged = !(pan && unprivileged);
            let user_write = writable && unprivileged;
            Rights {
                read: [unprivileged, privileged],
                write: [user_write, writable && privileged],
                execute: [
                    unprivileged && !uxn && !(wxn && user_write),
                    // Code that the unprivileged may write is never executed by the privileged.
                    !(pxn || user_write || wxn && writable),
                ],
            }
        };
        (rights, clean)
    }
}
