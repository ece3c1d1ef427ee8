//! Turning it on and off, and its tables.

use super::{BASE, LPIS, TARGETS, its, its_with, working};
use crate::aarch64::its::fake::{Fake, Traits};
use crate::aarch64::its::{Intid, Its, ItsError};
use crate::mmio::MmioRegion;
use alloc::sync::Arc;

#[test]
fn cpus_are_named_by_number_or_by_address() {
    let (_, fake, _its) = working(Traits::default());
    assert_eq!(fake.state.lock().collections, [(0, 0), (1, 1)].into());
    let pta = Traits::default().typer | 1 << 19;
    let (_, fake, its) = working(Traits {
        typer: pta,
        ..Traits::default()
    });
    assert_eq!(
        fake.state.lock().collections,
        [(0, 0x80A), (1, 0x80C)].into()
    );
    assert_eq!(its.translater(), BASE + 0x1_0000);
}

#[test]
fn device_memory_grows_with_the_devices() {
    let (pool, fake, its) = working(Traits::default());
    let free = pool.free_bytes();
    // Of 64 KiB pages, one holds 8192 entries of 8 bytes.
    its.map_device(0, 1).unwrap();
    its.map_device(0x1FFF, 1).unwrap();
    assert_eq!(free - pool.free_bytes(), 0x1_0000 + 2 * 0x1000);
    its.map_device(0xFFFF, 1).unwrap();
    assert_eq!(free - pool.free_bytes(), 2 * 0x1_0000 + 3 * 0x1000);
    // Valid, indirect, write-back, type, entry size, Inner Shareable, 64 KiB pages, one of them.
    let baser = fake.state.lock().baser[0];
    assert_eq!(
        baser & !0xFFFF_FFFF_F000 | baser & 0xF00,
        0xF907_0000_0000_0600
    );
}

#[test]
fn a_flat_table_serves_where_there_is_no_other() {
    let (_, fake, its) = working(Traits {
        indirect: false,
        page_size: Some(0),
        ..Traits::default()
    });
    its.map_device(0xFFFF, 1).unwrap();
    // 65536 entries of 8 bytes are 128 pages of 4 KiB.
    let baser = fake.state.lock().baser[0];
    assert_eq!(baser & 0x4000_0000_0000_03FF, 127);
}

#[test]
fn a_table_that_cannot_be_large_enough_refuses_what_it_cannot_hold() {
    // 20 bits of DeviceID, entries of 32 bytes: 256 pages of 4 KiB hold 32768.
    let typer = Traits::default().typer & !(0x1F << 13) | 19 << 13;
    let basers = [1 << 56 | 31 << 48, 4 << 56 | 7 << 48];
    let traits = Traits {
        typer,
        basers,
        indirect: false,
        page_size: Some(0),
        ..Traits::default()
    };
    let (_, _, its) = working(traits);
    its.map_device(0x7FFF, 1).unwrap();
    assert_eq!(its.map_device(0x8000, 1), Err(ItsError::TableRange(0x8000)));
    assert_eq!(
        its.map_device(0x10_0000, 1),
        Err(ItsError::TableRange(0x10_0000))
    );
}

#[test]
fn an_its_that_does_not_snoop_is_told_so() {
    let (_, fake, its) = working(Traits {
        coherent: false,
        ..Traits::default()
    });
    its.map_device(1, 1).unwrap();
    its.map_event(1, 1, Intid(8192), 0).unwrap();
    assert_eq!(fake.translate(1, 1), Some((8192, 0)));
    // Non-cacheable, Non-shareable.
    let baser = fake.state.lock().baser[0];
    assert_eq!((baser >> 59 & 7, baser >> 10 & 3), (1, 0));
}

#[test]
fn an_its_with_its_own_memory_needs_no_tables() {
    // 16 collections inside, no GITS_BASER at all.
    let typer = Traits::default().typer | 16 << 24;
    let (_, fake, its) = its(Traits {
        typer,
        basers: [0; 2],
        ..Traits::default()
    });
    assert!(its.is_ok());
    assert!(fake.state.lock().baser.iter().all(|baser| *baser == 0));
    // No room for two collections.
    let (_, _, its) = super::its(Traits {
        basers: [1 << 56 | 7 << 48, 0],
        ..Traits::default()
    });
    assert_eq!(its.err(), Some(ItsError::Cpus(2)));
}

#[test]
fn what_is_no_its_is_refused() {
    let refused = |traits| its(traits).2.err();
    let default = Traits::default();
    assert_eq!(
        refused(Traits {
            pidr2: 0x2B,
            ..default
        }),
        Some(ItsError::NotGicV3(0x2B))
    );
    assert_eq!(
        refused(Traits {
            typer: default.typer & !1,
            ..default
        }),
        Some(ItsError::NoPhysicalLpis)
    );
    let (pool, _, _) = its(default);
    let short = MmioRegion::memory(BASE, 0x1_0000);
    assert_eq!(
        Its::new(short, pool, &TARGETS, LPIS).err(),
        Some(ItsError::RegionTooShort(0x1_0000))
    );
    assert_eq!(
        refused(Traits {
            restless: true,
            ..default
        }),
        Some(ItsError::NotQuiescent)
    );
    // One bit of collection numbers is enough for two, and no CPU is too few.
    let cil = default.typer | 1 << 36;
    assert!(
        its(Traits {
            typer: cil,
            ..default
        })
        .2
        .is_ok()
    );
    let registers = MmioRegion::fake(BASE, 0x2_0000, Arc::new(Fake::new(pool, default)));
    assert_eq!(
        Its::new(registers, pool, &[], LPIS).err(),
        Some(ItsError::Cpus(0))
    );
}

#[test]
fn without_memory_it_stays_off() {
    for pages in 1..40 {
        let (pool, fake, its) = its_with(Traits::default(), pages * 0x1000);
        match its {
            Ok(_) => unreachable!("a ring alone is 64 KiB, aligned, beside two tables"),
            Err(error) => assert_eq!(error, ItsError::NoMemory),
        }
        assert_eq!(pool.free_bytes(), pages * 0x1000);
        assert!(fake.state.lock().collections.is_empty());
    }
}

#[test]
fn it_is_off_before_its_memory_is_free() {
    let (pool, _, its) = its(Traits::default());
    let all = 8 << 20;
    let its = its.unwrap();
    its.map_device(1, 4).unwrap();
    assert!(pool.free_bytes() < all);
    drop(its);
    assert_eq!(pool.free_bytes(), all);
}
