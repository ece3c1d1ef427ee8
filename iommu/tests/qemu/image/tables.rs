//! Page tables along one path: what lies beside it is 0.

use std::collections::BTreeMap;

use super::{DATA, Dice, HOLE, POOL_END};
use crate::machine::RAM;

/// One stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage {
    /// log2 of the granule.
    pub granule: u8,
    /// Input bits.
    pub bits: u8,
    /// Start level.
    pub start: u8,
    /// Start table, as this stage's entry or descriptor has it.
    pub root: u64,
    /// Where that table is.
    pub place: u64,
}

impl Stage {
    pub fn shift(&self, level: u8) -> u8 {
        self.granule + (self.granule - 3) * (3 - level)
    }

    fn index(&self, level: u8, input: u64) -> u64 {
        let index = input >> self.shift(level);
        if level == self.start {
            index
        } else {
            index & ((1 << (self.granule - 3)) - 1)
        }
    }

    fn has_blocks(&self, level: u8) -> bool {
        level == 2 || level == 1 && self.granule == 12
    }

    /// Bytes of the start table.
    pub fn root_bytes(&self) -> u64 {
        let entries = self.bits.saturating_sub(self.shift(self.start));
        (8 << entries.min(17)).max(64)
    }
}

/// Where a translation should lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Here.
    At(u64),
    /// Anywhere that a device may reach.
    Data,
}

pub struct Tables<'a> {
    pub dice: &'a mut Dice,
    pub words: BTreeMap<u64, u64>,
    pub two: Option<Stage>,
    odd: u64,
    next: u64,
}

/// What a descriptor leads to.
enum Next {
    Nothing,
    Table(u64),
    Output { base: u64, size: u64 },
}

impl<'a> Tables<'a> {
    pub fn new(dice: &'a mut Dice, odd: u64, next: u64) -> Self {
        Self {
            dice,
            words: BTreeMap::new(),
            two: None,
            odd,
            next,
        }
    }

    /// Whether the next thing is not as it should be.
    pub fn odd(&mut self) -> bool {
        self.dice.chance(self.odd)
    }

    /// Whether a leaf does not let everything pass, which software means now and then.
    pub fn unusual(&mut self) -> bool {
        self.odd > 0 && self.dice.chance(60)
    }

    /// Memory for a table, aligned to its size.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let at = self.next.next_multiple_of(bytes.next_power_of_two());
        self.next = at + bytes;
        assert!(self.next <= POOL_END, "the pool is too small");
        at
    }

    /// The address by which stage 1 finds what is at `place`: an IPA where there is a stage 2.
    pub fn named(&mut self, place: u64) -> u64 {
        let Some(two) = self.two else {
            return place;
        };
        let low = two.bits.min(30);
        let high = two.bits.saturating_sub(30);
        let high = self.dice.bits(30, high.into());
        high | place & ((1 << low) - 1)
    }

    fn decode(&self, stage: &Stage, level: u8, descriptor: u64) -> Next {
        let address = descriptor & 0x0000_ffff_ffff_f000;
        let size = 1u64 << stage.shift(level);
        match descriptor & 3 {
            3 if level < 3 => Next::Table(address & !((1 << stage.granule) - 1)),
            3 => Next::Output {
                base: address & !(size - 1),
                size,
            },
            1 if stage.has_blocks(level) => Next::Output {
                base: address & !(size - 1),
                size,
            },
            _ => Next::Nothing,
        }
    }

    /// An output of `size` bytes for `goal`.
    fn output(&mut self, size: u64, goal: Goal) -> u64 {
        if self.odd() {
            let beyond = self.dice.bits(32, 16);
            return (self.dice.pick(&[HOLE, beyond, 0x1 << 44]) | DATA) & !(size - 1);
        }
        match goal {
            Goal::At(place) => place & !(size - 1),
            Goal::Data if size > 1 << 29 => RAM & !(size - 1),
            Goal::Data => (DATA + self.dice.below(1 << 29)) & !(size - 1),
        }
    }

    /// The kind of a descriptor, in its two low bits: at a level with a choice most are tables.
    fn kind(&mut self, stage: &Stage, level: u8) -> u64 {
        if self.odd() {
            return self.dice.below(4);
        }
        if stage.has_blocks(level) && self.dice.chance(250) {
            1
        } else {
            3
        }
    }

    fn table_bits(&mut self, granule: u8) -> u64 {
        let place = self.allocate(1 << granule);
        let mut address = place;
        if self.odd() {
            address = self.dice.pick(&[HOLE, place | 1 << 46, place | 1 << 44]);
        }
        address | 3
    }

    /// Stage 2 of `ipa`: follows what is there and makes what is not. `None` where it leads nowhere.
    pub fn second(&mut self, ipa: u64, goal: Goal) -> Option<u64> {
        let two = self.two?;
        if ipa >> two.bits != 0 {
            return None;
        }
        let (mut level, mut table) = (two.start, two.place);
        loop {
            let at = table + two.index(level, ipa) * 8;
            let descriptor = match self.words.get(&at) {
                Some(descriptor) => *descriptor,
                None => {
                    let descriptor = self.second_descriptor(&two, level, goal);
                    self.words.insert(at, descriptor);
                    descriptor
                }
            };
            match self.decode(&two, level, descriptor) {
                Next::Nothing => return None,
                Next::Table(next) => (level, table) = (level + 1, next),
                Next::Output { base, size } => return Some(base | ipa & (size - 1)),
            }
        }
    }

    fn second_descriptor(&mut self, two: &Stage, level: u8, goal: Goal) -> u64 {
        let kind = self.kind(two, level);
        if kind == 3 && level < 3 {
            // Ignored bits.
            return self.table_bits(two.granule) | self.dice.bits(52, 12);
        }
        let output = self.output(1 << two.shift(level), goal);
        // MemAttr, S2AP, SH, AF; DBM, Contiguous and XN; ignored bits.
        let mut bits = self.dice.bits(2, 4) | self.dice.bits(8, 2) | self.dice.bits(55, 4);
        bits |= 1 << 10 | 3 << 6;
        if self.unusual() {
            bits ^= 1 << 10;
        }
        if self.unusual() {
            bits ^= self.dice.bits(6, 2);
        }
        if self.odd() {
            bits |= self.dice.bits(51, 4);
        }
        output | bits | kind
    }

    /// Stage 1 of `input`, through stage 2 if there is one. As far as the path goes.
    pub fn first(&mut self, one: &Stage, input: u64) {
        let (mut level, mut table, mut place) = (one.start, one.root, one.place);
        loop {
            let index = one.index(level, input) * 8;
            let at = if self.two.is_some() {
                let found = self.second(table + index, Goal::At(place + index));
                match found {
                    Some(at) if (super::POOL..POOL_END).contains(&at) => at,
                    _ => return,
                }
            } else {
                place + index
            };
            let kind = self.kind(one, level);
            if kind == 3 && level < 3 {
                let descriptor = self.table_bits(one.granule);
                let address = descriptor & 0x0000_ffff_ffff_f000;
                // A table in the pool gets a name; one at an odd address keeps it.
                let named = if address < POOL_END {
                    place = address;
                    self.named(address)
                } else {
                    address
                };
                let mut bits = self.dice.bits(52, 7);
                if self.odd() || self.odd() {
                    bits |= self.dice.bits(59, 5);
                }
                self.words.insert(at, named | bits | 3);
                if address >= POOL_END {
                    // Its stage 2 may be looked at nevertheless.
                    return;
                }
                (level, table) = (level + 1, named);
                continue;
            }
            let size = 1u64 << one.shift(level);
            self.first_leaf(at, kind, size, input);
            return;
        }
    }

    fn first_leaf(&mut self, at: u64, kind: u64, size: u64, input: u64) {
        let place = self.output(size, Goal::Data);
        let within = input & (size - 1);
        let output = if place >= HOLE {
            place
        } else {
            self.named(place | within) & !(size - 1)
        };
        // AttrIndx, SH, nG, AF, AP[1]; NS, AP[2], Contiguous, PXN, UXN, DBM, ignored bits.
        let mut bits = self.dice.bits(2, 3) | self.dice.bits(8, 2) | self.dice.bits(11, 1);
        bits |= 1 << 10 | 1 << 6 | self.dice.bits(55, 4);
        if self.unusual() {
            bits ^= 1 << 10;
        }
        if self.odd() {
            bits ^= 1 << 6;
        }
        if self.unusual() {
            bits |= 1 << 7;
        }
        if self.odd() {
            bits |= self.dice.bits(51, 4) | self.dice.bits(59, 5);
        }
        self.words.insert(at, output | bits | kind);
        if self.two.is_some() && kind & 1 != 0 {
            let ipa = output | within;
            self.second(ipa, Goal::At(place | within));
        }
    }
}
