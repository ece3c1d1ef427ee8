//! Page walks in tables that a builder fills, entry by entry.

use crate::instruction::walk::{Access, Fault, Paging};
use iommu::addr::Gpa;
use std::collections::BTreeMap;

/// Memory by address; what is not in it below 16 MiB is zero, above there is none.
#[derive(Default)]
struct Memory(BTreeMap<u64, u64>);

impl Memory {
    fn translate(&self, paging: &Paging, linear: u64, access: Access) -> Result<u64, Fault> {
        let mut reads = 0;
        let result = paging.translate(linear, access, &mut |at, size| {
            reads += 1;
            assert_eq!(at.0 % u64::from(size), 0);
            let entry = self.0.get(&at.0).copied().unwrap_or(0);
            (at.0 < 16 << 20).then_some(entry)
        });
        assert!(reads <= 4, "{reads}");
        result.map(|at| at.0)
    }
}

const LONG: Paging = Paging {
    cr0: 1 << 31 | 1 << 16,
    cr3: 0x1018,
    cr4: 1 << 5,
    efer: 0x500,
    alignment_check: false,
    user: false,
};

/// Of ordinary rights: present, writable, for users.
const ALL: u64 = 7;

fn long() -> Memory {
    Memory(BTreeMap::from([
        // 0xffff_8880_4020_3000 and up: 273, 1, 1, 3 and 4; bit 63 and ignored bits are set.
        (0x1000 + 8 * 273, 1 << 63 | 0x2000 | ALL),
        (0x2000 + 8, 0x3000 | ALL | 0xf << 52),
        (0x3000 + 8, 0x4000 | ALL),
        (0x4000 + 8 * 3, 0xab_cdef_5000 | ALL),
        (0x4000 + 8 * 4, 0x5000 | 5),
        (0x4000 + 8 * 5, 0x6000 | 3),
        (0x4000 + 8 * 6, 0x7000 | 6),
        // 2 MiB with PAT (bit 12), 1 GiB.
        (0x3000 + 8 * 2, 0x60_0000 | 1 << 12 | 1 << 7 | ALL),
        (0x2000 + 8 * 2, 0x1_4000_0000 | 1 << 7 | ALL),
        // The first entry of the lower half: a table beyond memory.
        (0x1000, 0x100_0000 | ALL),
    ]))
}

const BASE: u64 = 0xffff_8880_4020_0000;

#[test]
fn long_mode_has_pages_of_three_sizes() {
    let memory = long();
    let at = |linear| memory.translate(&LONG, linear, Access::Read);
    assert_eq!(at(BASE + 0x3123), Ok(0xab_cdef_5123));
    assert_eq!(at(BASE + 0x20_0000 + 0x1_2345), Ok(0x61_2345));
    assert_eq!(at(0xffff_8880_8000_0000 + 0x1234_5678), Ok(0x1_5234_5678));
    assert_eq!(at(BASE + 0x2000), Err(Fault::Page(0)));
    assert_eq!(at(0xffff_8880_c000_0000), Err(Fault::Page(0)));
    assert_eq!(at(0), Err(Fault::Table(Gpa(0x100_0000))));
    for linear in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63] {
        assert_eq!(at(linear), Err(Fault::NotCanonical));
    }
    // Large pages of the top level there are none: the bit is reserved, and its table is read.
    let mut memory = memory;
    memory.0.insert(0x1000, 0x2000 | 1 << 7 | ALL);
    assert_eq!(
        memory.translate(&LONG, 0x8000_0000, Access::Read),
        Ok(0x1_4000_0000)
    );
}

#[test]
fn rights_are_those_of_all_levels_and_of_who_asks() {
    let memory = long();
    let user = Paging { user: true, ..LONG };
    let lax = Paging {
        cr0: 1 << 31,
        ..LONG
    };
    let smap = Paging {
        cr4: 1 << 5 | 1 << 21,
        ..LONG
    };
    let stac = Paging {
        alignment_check: true,
        ..smap
    };
    let (read_only, kernel, absent) = (BASE + 0x4000, BASE + 0x5000, BASE + 0x6000);
    use Access::{Fetch, Read, Write};
    for (paging, linear, access, expected) in [
        (&LONG, read_only, Read, Ok(0x5000)),
        (&LONG, read_only, Write, Err(Fault::Page(0b11))),
        (&lax, read_only, Write, Ok(0x5000)),
        (&user, read_only, Write, Err(Fault::Page(0b111))),
        (&user, kernel, Read, Err(Fault::Page(0b101))),
        (&user, kernel, Write, Err(Fault::Page(0b111))),
        (&user, absent, Write, Err(Fault::Page(0b110))),
        (&LONG, kernel, Write, Ok(0x6000)),
        (&smap, kernel, Write, Ok(0x6000)),
        (&smap, read_only, Read, Err(Fault::Page(0b01))),
        (&stac, read_only, Read, Ok(0x5000)),
        // What has been executed was allowed.
        (&user, kernel, Fetch, Ok(0x6000)),
        (&smap, read_only, Fetch, Ok(0x5000)),
        (&user, absent, Fetch, Err(Fault::Page(0b100))),
    ] {
        let result = memory.translate(paging, linear, access);
        assert_eq!(result, expected, "{paging:x?} {linear:#x} {access:?}");
    }
    for forbids in [
        Paging {
            efer: 0xd00,
            ..LONG
        },
        Paging {
            cr4: 1 << 5 | 1 << 20,
            ..LONG
        },
    ] {
        assert_eq!(
            memory.translate(&forbids, absent, Fetch),
            Err(Fault::Page(0b1_0000))
        );
        assert_eq!(
            memory.translate(&forbids, absent, Read),
            Err(Fault::Page(0))
        );
    }
    // One level without the right is enough.
    let mut memory = memory;
    memory.0.insert(0x2008, 0x3000 | 1);
    assert_eq!(
        memory.translate(&LONG, BASE + 0x3000, Write),
        Err(Fault::Page(0b11))
    );
    assert_eq!(
        memory.translate(&user, BASE + 0x3000, Read),
        Err(Fault::Page(0b101))
    );
}

#[test]
fn protected_mode_has_its_own_formats() {
    let flat = Paging {
        cr0: 0,
        efer: 0,
        ..LONG
    };
    let memory = Memory::default();
    assert_eq!(
        memory.translate(&flat, 0x1_fee0_0000, Access::Read),
        Ok(0xfee0_0000)
    );
    // Two levels, with a page of 4 MiB above 4 GiB.
    let two = Paging {
        cr3: 0x1fff,
        cr4: 1 << 4,
        efer: 0,
        ..LONG
    };
    let memory = Memory(BTreeMap::from([
        (0x1000 + 4 * 3, 0x2000 | ALL),
        (0x2000 + 4 * 5, 0xfee0_0000 | ALL),
        (0x1000 + 4 * 4, 0x0040_0000 | 0x12 << 13 | 1 << 7 | ALL),
    ]));
    let at = |paging: &Paging, linear| memory.translate(paging, linear, Access::Read);
    assert_eq!(at(&two, 0xc0_5030), Ok(0xfee0_0030));
    assert_eq!(at(&two, 0x112_3456), Ok(0x12_0052_3456));
    assert_eq!(at(&two, 0xc0_6000), Err(Fault::Page(0)));
    let no_pse = Paging { cr4: 0, ..two };
    // Its table: at 0x424000, as bits 20:13 are of its address then.
    assert_eq!(at(&no_pse, 0x112_3456), Err(Fault::Page(0)));
    // PAE: four entries at 32 bytes, then two levels of nine bits.
    let pae = Paging {
        cr3: 0x1020,
        efer: 0,
        ..LONG
    };
    let memory = Memory(BTreeMap::from([
        (0x1020 + 8 * 3, 0x2001),
        (0x2000 + 8 * 0x1f7, 0x3000 | ALL),
        (0x3000, 0x5_fee0_0000 | ALL),
        (0x2000, 0x20_0000 | 1 << 7 | ALL),
    ]));
    let at = |linear| memory.translate(&pae, linear, Access::Read);
    assert_eq!(at(0xfee0_0030), Ok(0x5_fee0_0030));
    assert_eq!(at(0xc001_2345), Ok(0x21_2345));
    assert_eq!(at(0x4000_0000), Err(Fault::Page(0)));
}
