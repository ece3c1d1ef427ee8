//! Stream table entries (IHI 0070, §5.2) and context descriptors (§5.4), by bit positions of this file's own.

use super::tables::{Goal, Stage, Tables};

/// What was drawn.
pub struct Drawn {
    pub entry: [u64; 8],
    pub context: Option<[u64; 8]>,
    pub iova: u64,
}

/// The widest output address of QEMU's SMMU.
const OUTPUT_BITS: u8 = 44;

pub fn draw(tables: &mut Tables<'_>) -> Drawn {
    // Config: 0b101 stage 1, 0b110 stage 2, 0b111 both, 0b100 neither, 0b0xx abort.
    let mut config = tables
        .dice
        .pick(&[4, 5, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7]);
    if tables.odd() || tables.odd() {
        config = tables.dice.below(8);
    }
    let (one, two) = (config & 5 == 5, config & 6 == 6);
    let mut entry = [0; 8];
    entry[0] = u64::from(!tables.odd()) | config << 1;
    attributes(tables, &mut entry);
    if two {
        second(tables, &mut entry);
    }
    let mut iova = 0;
    let mut context = None;
    if one {
        let (words, halves) = descriptor(tables);
        context = Some(words);
        let place = tables.allocate(64);
        let mut named = tables.named(place);
        if tables.odd() {
            named |= 1 << tables.dice.pick(&[44, 47, 51]);
        }
        entry[0] |= named;
        let at = if tables.two.is_some() {
            tables.second(named, Goal::At(place))
        } else {
            Some(place)
        };
        if let Some(at) = at
            && (super::POOL..super::POOL_END).contains(&at)
        {
            super::put(tables, at, &words);
        }
        let upper = halves[1].is_some() && tables.dice.chance(400);
        if let Some(half) = halves[usize::from(upper)] {
            let input = input(tables, half.bits);
            iova = if upper {
                input | u64::MAX << half.bits
            } else {
                input
            };
            tables.first(&half, input);
        }
        if words[0] >> 38 & 3 != 0 && tables.dice.chance(500) {
            iova ^= tables.dice.bits(56, 8);
        }
    } else if two {
        let stage = tables.two.expect("made");
        iova = input(tables, stage.bits);
        tables.second(iova, Goal::Data);
    } else {
        iova = (super::DATA + tables.dice.below(1 << 29)) & !3;
        if tables.unusual() {
            iova |= 1 << (44 + tables.dice.below(20));
        }
    }
    if tables.odd() {
        iova ^= 1 << tables.dice.below(62).max(2);
    }
    Drawn {
        entry,
        context,
        iova,
    }
}

/// An input address. Bit 29 is set where there is one, so that blocks of 1 GiB lead to the data.
fn input(tables: &mut Tables<'_>, bits: u8) -> u64 {
    let any = tables.dice.bits(0, bits.into()) & !3;
    if bits > 29 { any | 1 << 29 } else { any }
}

/// Fields that have no say in where a transaction goes, and some that are ILLEGAL where a feature is missing.
fn attributes(tables: &mut Tables<'_>, entry: &mut [u64; 8]) {
    let dice = &mut *tables.dice;
    // S1DSS, S1CIR, S1COR, S1CSH; MEV; SHCFG and others.
    entry[1] = dice.bits(0, 8) | dice.bits(19, 1) | 1 << 44;
    // S2VMID.
    entry[2] = dice.bits(0, 16);
    if tables.odd() {
        // S1Fmt, S1CDMax.
        entry[0] |= tables.dice.bits(4, 2) | tables.dice.bits(59, 5);
    }
    if tables.odd() {
        // S1STALLD.
        entry[1] |= 1 << 27;
    }
    if tables.odd() {
        // EATS, STRW.
        entry[1] |= tables.dice.bits(28, 4);
    }
    if tables.odd() {
        // MemAttr, MTCFG, ALLOCCFG, SHCFG, NSCFG, PRIVCFG, INSTCFG.
        entry[1] |= tables.dice.bits(32, 20);
    }
    if tables.odd() {
        // PPAR, CONT.
        entry[1] |= tables.dice.bits(13, 5);
    }
}

/// Levels that resolve `bits` with this granule, and the first of them.
fn start(granule: u8, bits: u8) -> u8 {
    4 - (bits - granule).div_ceil(granule - 3).max(1)
}

fn granule(tables: &mut Tables<'_>) -> u8 {
    tables.dice.pick(&[12, 12, 12, 14, 16])
}

/// Stage 2 into `entry`.
fn second(tables: &mut Tables<'_>, entry: &mut [u64; 8]) {
    let granule = granule(tables);
    // §5.2, S2T0SZ: 25 to 44 bits here; a 48-bit input would be wider than OAS.
    let bits = 25 + tables.dice.below(u64::from(OUTPUT_BITS) - 24) as u8;
    let first = start(granule, bits).max(u8::from(granule != 12));
    let mut stage = Stage {
        granule,
        bits,
        start: first,
        root: 0,
        place: 0,
    };
    // Concatenated start tables: up to four bits more than a table has, one level down.
    let low = stage.shift(first);
    if first < 3 && bits - low <= 4 && tables.odd() {
        stage.start += 1;
    }
    if stage.start == 3 && granule == 12 {
        // A start at level 3 takes small translation tables (IDR3.STT), which QEMU does not have.
        stage.start = 2;
    }
    stage.place = tables.allocate(stage.root_bytes());
    stage.root = stage.place;
    let sl0 = if granule == 12 {
        2 - stage.start
    } else {
        3 - stage.start
    };
    let (mut sl0, mut t0sz) = (u64::from(sl0), u64::from(64 - bits));
    let mut tg = match granule {
        12 => 0,
        16 => 1,
        _ => 2,
    };
    let mut ps = 4 + tables.dice.below(2);
    if tables.odd() {
        sl0 = tables.dice.below(4);
    }
    if tables.odd() {
        t0sz = tables.dice.below(64);
    }
    if tables.odd() {
        tg = tables.dice.below(4);
    }
    if tables.odd() || tables.odd() {
        ps = tables.dice.below(8);
    }
    let mut root = stage.root;
    if tables.odd() {
        root |= tables.dice.pick(&[0x10, 0x800, 1 << 44, 1 << 40, 1 << 36]);
    }
    let dice = &mut *tables.dice;
    // S2IR0, S2OR0, S2SH0; S2AA64, without which QEMU ends; S2R.
    entry[2] |= dice.bits(40, 6) | 1 << 51;
    entry[2] |= t0sz << 32 | sl0 << 38 | tg << 46 | ps << 48;
    entry[2] |= u64::from(!dice.chance(150)) << 58;
    for (bit, often) in [(52, 1), (53, 3), (54, 3), (55, 1), (56, 1), (57, 1)] {
        // S2ENDI, S2AFFD, S2PTW, S2HD, S2HA, S2S.
        if (0..often).any(|_| tables.odd()) {
            entry[2] |= 1 << bit;
        }
    }
    entry[3] = root;
    tables.two = Some(stage);
}

/// A context descriptor and its two halves.
fn descriptor(tables: &mut Tables<'_>) -> ([u64; 8], [Option<Stage>; 2]) {
    let mut words = [0; 8];
    let zero = !tables.odd();
    let one = tables.dice.chance(300);
    let mut halves = [None; 2];
    for (index, enabled) in [zero, one].into_iter().enumerate() {
        let stage = half(tables, &mut words, index);
        if enabled {
            halves[index] = Some(stage);
        } else {
            words[0] |= 1 << [14, 30][index];
        }
    }
    let dice = &mut *tables.dice;
    // IR, OR, SH of both; ASID, ASET; IPS; MAIR.
    words[0] |= dice.bits(8, 6) | dice.bits(24, 6) | dice.bits(47, 17);
    words[0] |= (4 + dice.below(2)) << 32;
    words[0] |= u64::from(!dice.chance(150)) << 45;
    words[3] = dice.any();
    // V, AA64, A.
    for bit in [31, 41, 46] {
        words[0] |= u64::from(!tables.odd()) << bit;
    }
    // ENDI, HD, HA, S.
    for bit in [15, 42, 43, 44] {
        words[0] |= u64::from(tables.odd()) << bit;
    }
    // AFFD, WXN, TBI0, TBI1, PAN.
    for bit in [35, 36, 38, 39, 40] {
        words[0] |= u64::from(tables.unusual()) << bit;
    }
    if tables.odd() || tables.odd() {
        // 6 and 7 end QEMU.
        words[0] = words[0] & !(7 << 32) | tables.dice.below(6) << 32;
    }
    (words, halves)
}

/// One half into `words`.
fn half(tables: &mut Tables<'_>, words: &mut [u64; 8], index: usize) -> Stage {
    let granule = granule(tables);
    let bits = 25 + tables.dice.below(24) as u8;
    let start = start(granule, bits);
    let mut stage = Stage {
        granule,
        bits,
        start,
        root: 0,
        place: 0,
    };
    stage.place = tables.allocate(stage.root_bytes());
    stage.root = tables.named(stage.place);
    let mut tsz = u64::from(64 - bits);
    // TG0: 4, 64, 16 KiB; TG1: reserved, 16, 4, 64 KiB.
    let mut tg = match (granule, index) {
        (12, 0) => 0,
        (16, 0) | (14, 1) => 1,
        (14, 0) | (12, 1) => 2,
        _ => 3,
    };
    if tables.odd() {
        tsz = tables.dice.below(64);
    }
    if tables.odd() {
        tg = tables.dice.below(4);
    }
    let mut root = stage.root;
    if tables.odd() {
        root |= tables
            .dice
            .pick(&[0x10, 1 << 44, 1 << 47, 1 << 40, 1 << 36]);
    }
    // HAD.
    root |= u64::from(tables.odd()) << 1;
    words[0] |= tsz << [0, 16][index] | tg << [6, 22][index];
    words[1 + index] = root;
    stage
}
