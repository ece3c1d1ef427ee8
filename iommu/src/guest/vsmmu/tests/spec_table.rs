//! Every opcode with every bit: accepted exactly if a table written from chapter 4 says so, and what goes on to the slice
//! has no bit that the table does not name.

use super::*;

/// What the guest's ID registers offer.
#[derive(Clone, Copy)]
struct Offered {
    ats: bool,
    pri: bool,
    stalls: bool,
    ranges: bool,
    asid_bits: u32,
    substreams: bool,
}

fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & (u64::MAX >> (63 - high + low))
}

/// Whether a Non-secure SMMU with these features and without stage 2 consumes the command (§4.1 to §4.7).
fn legal(it: Offered, [w0, w1]: [u64; 2]) -> bool {
    let secure = bits(w0, 10, 10) == 1;
    match bits(w0, 7, 0) {
        // CMD_PREFETCH_CONFIG, _ADDR; CMD_CFGI_STE, _STE_RANGE, _CD, _CD_ALL.
        0x01..=0x06 => !secure,
        // CMD_TLBI_NH_ALL, _NH_ASID, _NSNH_ALL.
        0x10 | 0x11 | 0x30 => true,
        // CMD_TLBI_NH_VA, _VAA.
        0x12 | 0x13 => {
            let (granule, level) = (bits(w1, 11, 10), bits(w1, 9, 8));
            let size = (bits(w0, 16, 12), bits(w0, 24, 20));
            let reserved = size == (0, 0) && level == 0 || granule == 2 && level == 1;
            !it.ranges || granule == 0 || !reserved
        }
        // CMD_ATC_INV, CMD_PRI_RESP, CMD_RESUME, CMD_STALL_TERM.
        0x40 => it.ats && !secure,
        0x41 => it.pri && !secure && bits(w1, 13, 12) != 3,
        0x44 => it.stalls && !secure && bits(w0, 13, 12) != 3,
        0x45 => it.stalls && !secure,
        // CMD_SYNC.
        0x46 => bits(w0, 13, 12) != 3,
        _ => false,
    }
}

/// The bits that the slice may see of a command.
fn named(it: Offered, opcode: u64) -> [u64; 2] {
    const STREAM: u64 = 0xffff_ffff_0000_0000;
    let substream = if it.substreams { 0xffff_f000 } else { 0 };
    let asid = u64::MAX << 48 & u64::MAX >> (16 - it.asid_bits);
    let [range0, range1] = if it.ranges {
        [0x01f1_f000, 0xf00]
    } else {
        [0, 0]
    };
    let [w0, w1] = match opcode {
        0x05 => [STREAM | substream, 1],
        0x06 => [STREAM, 0],
        0x10 | 0x30 => [0, 0],
        0x11 => [asid, 0],
        0x12 => [asid | range0, !0xfff | 1 | range1],
        0x13 => [range0, !0xfff | 1 | range1],
        0x40 => [
            STREAM | substream | if it.substreams { 0xa00 } else { 0 },
            !0xfff | 0x3f,
        ],
        _ => panic!("{opcode:#x} is not for the slice"),
    };
    [w0 | 0xff, w1]
}

fn sweep(setup: Setup<crate::model::memory::Buffer>, it: Offered) -> u64 {
    let device = Behind {
        ats: true,
        ..behind(0x10)
    };
    let mut guest = Guest::with(setup, &[device]);
    guest.up(8, 4);
    let mut tried = 0;
    for opcode in 0..=0xffu64 {
        let bases = [
            [opcode, 0],
            [opcode | 0x10 << 32, 0],
            [opcode | 0x3 << 12 | 0x10 << 32, 0x2_2401],
            [opcode | (!0x4ff & !(3 << 12)), !0xfff],
            [opcode | !0xff, u64::MAX],
        ];
        for base in bases {
            let single = (8..64)
                .map(|bit| [base[0] ^ 1 << bit, base[1]])
                .chain((0..64).map(|bit| [base[0], base[1] ^ 1 << bit]));
            for words in single.chain([base]) {
                tried += 1;
                let before = guest.consumed();
                guest.say(&[words]);
                guest.settle();
                let stopped = guest.command_error();
                if legal(it, words) {
                    assert_eq!(stopped, None, "{words:x?} is legal");
                    assert_ne!(guest.consumed(), before);
                } else {
                    assert_eq!(stopped, Some(1), "{words:x?} is illegal");
                    assert_eq!(guest.consumed(), before, "{words:x?}");
                    // The guest puts another in its place, and goes on.
                    let index = u64::from(before & 0xff);
                    guest.ram.store(COMMANDS + index * 16, &SYNC);
                    guest.write(GERRORN, 1 ^ u64::from(guest.smmu.registers.get(0x64)));
                    assert_ne!(guest.consumed(), before);
                }
                for entry in guest.entries() {
                    // A stream's own command may become that of all its contexts.
                    let allowed = named(it, entry[0] & 0xff);
                    assert_eq!(entry[0] & !allowed[0], 0, "{words:x?} became {entry:x?}");
                    assert_eq!(entry[1] & !allowed[1], 0, "{words:x?} became {entry:x?}");
                    assert_eq!(entry[2..], [0, 0]);
                }
            }
        }
    }
    tried
}

#[test]
fn an_smmu_with_little_takes_what_the_table_says() {
    let tried = sweep(
        plain_setup(),
        Offered {
            ats: false,
            pri: false,
            stalls: false,
            ranges: true,
            asid_bits: 16,
            substreams: false,
        },
    );
    assert!(tried > 100_000);
}

#[test]
fn an_smmu_with_everything_takes_what_the_table_says() {
    sweep(
        rich_setup(),
        Offered {
            ats: true,
            pri: true,
            stalls: true,
            ranges: true,
            asid_bits: 16,
            substreams: true,
        },
    );
}

#[test]
fn without_ranges_and_wide_asids_their_bits_do_not_count() {
    let mut setup = plain_setup();
    setup.hardware.idr[0] &= !(1 << 12);
    setup.hardware.idr[3] &= !(1 << 10);
    sweep(
        setup,
        Offered {
            ats: false,
            pri: false,
            stalls: false,
            ranges: false,
            asid_bits: 8,
            substreams: false,
        },
    );
}
