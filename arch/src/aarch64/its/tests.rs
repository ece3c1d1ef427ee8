//! The driver against an ITS that executes what it reads, and command words by hand.

use super::fake::{Fake, Traits};
use super::spec::Command;
use super::{Intid, Its, ItsError, MAX_DEVICES, Target};
use crate::host;
use crate::memory::FramePool;
use crate::mmio::MmioRegion;
use alloc::sync::Arc;

const BASE: u64 = 0x808_0000;
const LPIS: u32 = 8192;
const TARGETS: [Target; 2] = [
    Target {
        redistributor: 0x80A_0000,
        processor: 0,
    },
    Target {
        redistributor: 0x80C_0000,
        processor: 1,
    },
];

fn its(traits: Traits) -> (&'static FramePool, Arc<Fake>, Result<Its, ItsError>) {
    its_with(traits, 8 << 20)
}

fn its_with(traits: Traits, ram: u64) -> (&'static FramePool, Arc<Fake>, Result<Its, ItsError>) {
    let pool = host::memory::pool(0x4000_0000, ram);
    let fake = Arc::new(Fake::new(pool, traits));
    let registers = MmioRegion::fake(BASE, 0x2_0000, fake.clone());
    (pool, fake, Its::new(registers, pool, &TARGETS, LPIS))
}

fn working(traits: Traits) -> (&'static FramePool, Arc<Fake>, Its) {
    let (pool, fake, its) = its(traits);
    (pool, fake, its.unwrap())
}

/// Transcribed from the command figures of IHI 0069, 5.3, with opcodes and fields as Linux's driver has them.
#[test]
fn commands_are_the_architecture_s_words() {
    let words = |command: Command| command.0;
    let device = 0x0001_0203;
    let in_dw0 = 0x0001_0203_0000_0000;
    assert_eq!(
        words(Command::mapd(device, 5, 0x4765_4300)),
        [in_dw0 | 0x08, 4, 1 << 63 | 0x4765_4300, 0]
    );
    assert_eq!(
        words(Command::mapd_remove(device)),
        [in_dw0 | 0x08, 0, 0, 0]
    );
    assert_eq!(
        words(Command::mapc(3, 7)),
        [0x09, 0, 0x8000_0000_0007_0003, 0]
    );
    assert_eq!(
        words(Command::mapti(device, 0x11, 0x2345, 3)),
        [in_dw0 | 0x0A, 0x0000_2345_0000_0011, 3, 0]
    );
    assert_eq!(
        words(Command::movi(device, 0x11, 2)),
        [in_dw0 | 0x01, 0x11, 2, 0]
    );
    assert_eq!(
        words(Command::int(device, 0x11)),
        [in_dw0 | 0x03, 0x11, 0, 0]
    );
    assert_eq!(
        words(Command::clear(device, 0x11)),
        [in_dw0 | 0x04, 0x11, 0, 0]
    );
    assert_eq!(
        words(Command::inv(device, 0x11)),
        [in_dw0 | 0x0C, 0x11, 0, 0]
    );
    assert_eq!(words(Command::invall(9)), [0x0D, 0, 9, 0]);
    assert_eq!(
        words(Command::discard(device, 0x11)),
        [in_dw0 | 0x0F, 0x11, 0, 0]
    );
    // RDbase has bits [51:16] of an address, in their place.
    assert_eq!(
        words(Command::sync(0x80A_0000 >> 16)),
        [0x05, 0, 0x80A_0000, 0]
    );
    assert_eq!(
        words(Command::sync(0xF_FFFF_FFFF)),
        [0x05, 0, 0xF_FFFF_FFFF_0000, 0]
    );
}

#[test]
fn an_event_becomes_its_lpi_at_its_cpu() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(0x18, 5).unwrap();
    its.map_event(0x18, 7, Intid(8200), 1).unwrap();
    assert_eq!(fake.translate(0x18, 7), Some((8200, 1)));
    assert_eq!(fake.translate(0x18, 6), None);
    assert_eq!(fake.translate(0x19, 7), None);
    assert_eq!(its.lookup(0x18, 7), Some((Intid(8200), 1)));
    let state = fake.state.lock();
    assert_eq!(
        (state.invalidated.as_slice(), state.synced.last()),
        ([8200].as_slice(), Some(&1))
    );
    assert!(state.errors.is_empty());
}

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
fn an_event_moves() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    its.move_event(1, 0, 1).unwrap();
    assert_eq!(fake.translate(1, 0), Some((8192, 1)));
    assert_eq!(its.lookup(1, 0), Some((Intid(8192), 1)));
    assert!(fake.state.lock().synced.ends_with(&[0, 1]));
    assert_eq!(its.move_event(1, 0, 2), Err(ItsError::Cpu(2)));
    assert_eq!(its.move_event(1, 1, 0), Err(ItsError::EventUnmapped(1)));
}

#[test]
fn events_are_sent_and_forgotten_by_command() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    its.set_pending(1, 0).unwrap();
    assert!(fake.state.lock().pending.contains(&8192));
    its.clear_pending(1, 0).unwrap();
    assert!(fake.state.lock().pending.is_empty());
    its.invalidate(1, 0).unwrap();
    its.invalidate_all(1).unwrap();
    assert_eq!(fake.state.lock().invalidated, [8192, 8192]);
    assert_eq!(its.invalidate(1, 1), Err(ItsError::EventUnmapped(1)));
    assert_eq!(its.invalidate_all(2), Err(ItsError::Cpu(2)));
}

#[test]
fn what_cannot_be_mapped_reaches_no_hardware() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(1, 2).unwrap();
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    let executed = fake.state.lock().executed;
    assert_eq!(its.map_device(1, 2), Err(ItsError::DeviceMapped(1)));
    assert_eq!(
        its.map_device(0x1_0000, 2),
        Err(ItsError::TableRange(0x1_0000))
    );
    assert_eq!(its.map_device(2, 0), Err(ItsError::EventBits(0)));
    assert_eq!(its.map_device(2, 12), Err(ItsError::EventBits(12)));
    assert_eq!(
        its.map_event(2, 0, Intid(8193), 0),
        Err(ItsError::DeviceUnmapped(2))
    );
    assert_eq!(
        its.map_event(1, 4, Intid(8193), 0),
        Err(ItsError::EventRange(4))
    );
    assert_eq!(
        its.map_event(1, 0, Intid(8193), 0),
        Err(ItsError::EventMapped(0))
    );
    assert_eq!(its.map_event(1, 1, Intid(8193), 2), Err(ItsError::Cpu(2)));
    let past = Intid(8192 + LPIS);
    assert_eq!(its.map_event(1, 1, past, 0), Err(ItsError::Lpi(past)));
    assert_eq!(
        its.map_event(1, 1, Intid(33), 0),
        Err(ItsError::Lpi(Intid(33)))
    );
    assert_eq!(its.unmap_event(1, 1), Err(ItsError::EventUnmapped(1)));
    assert_eq!(its.unmap_device(2), Err(ItsError::DeviceUnmapped(2)));
    assert_eq!(fake.state.lock().executed, executed);
    assert_eq!(its.lookup(1, 1), None);
}

#[test]
fn an_event_that_is_unmapped_leaves_nothing_pending() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    its.set_pending(1, 0).unwrap();
    its.unmap_event(1, 0).unwrap();
    assert!(fake.state.lock().pending.is_empty());
    assert_eq!(fake.translate(1, 0), None);
    // Its place and its LPI serve again.
    its.map_event(1, 0, Intid(8192), 1).unwrap();
    assert_eq!(fake.translate(1, 0), Some((8192, 1)));
}

#[test]
fn a_device_that_is_unmapped_gives_back_events_and_memory() {
    let (pool, fake, its) = working(Traits::default());
    // The page of the device table that covers it stays.
    its.map_device(1, 1).unwrap();
    let free = pool.free_bytes();
    its.map_device(2, 7).unwrap();
    assert!(pool.free_bytes() < free);
    for event in 0..100 {
        its.map_event(2, event, Intid(8192 + event), 0).unwrap();
        its.set_pending(2, event).unwrap();
    }
    its.unmap_device(2).unwrap();
    assert_eq!(pool.free_bytes(), free);
    {
        let state = fake.state.lock();
        assert!(state.pending.is_empty() && state.events.is_empty() && state.errors.is_empty());
        assert_eq!(
            state
                .devices
                .keys()
                .copied()
                .collect::<alloc::vec::Vec<_>>(),
            [1]
        );
    }
    its.map_device(2, 1).unwrap();
}

#[test]
fn an_its_that_dies_costs_one_wait_and_keeps_the_memory() {
    let alive = 2 * 3 + 2;
    let (pool, fake, its) = working(Traits {
        dies_after: alive,
        ..Traits::default()
    });
    its.map_device(1, 1).unwrap();
    assert_eq!(fake.state.lock().executed, alive);
    let free = pool.free_bytes();
    let before = host::clock::now_ns();
    assert_eq!(its.map_event(1, 0, Intid(8192), 0), Err(ItsError::Timeout));
    let waited = host::clock::now_ns() - before;
    assert!((1_000_000_000..1_010_000_000).contains(&waited));
    let before = host::clock::now_ns();
    assert_eq!(its.unmap_device(1), Err(ItsError::Dead));
    assert_eq!(its.map_device(2, 1), Err(ItsError::Dead));
    assert!(host::clock::now_ns() - before < 1_000_000);
    // Whether it has the second table is not known, so that one stays out of the pool as well.
    assert!(pool.free_bytes() < free);
}

#[test]
fn a_command_that_stalls_is_reported_and_the_ring_goes_on() {
    for stalls in [true, false] {
        let (pool, fake, its) = working(Traits {
            stalls,
            ..Traits::default()
        });
        its.map_device(1, 1).unwrap();
        // The hardware forgets the device behind the driver's back: MAPTI and INV are wrong.
        fake.state.lock().devices.clear();
        let mapped = its.map_event(1, 0, Intid(8192), 0);
        let expected = if stalls {
            Err(ItsError::Rejected(0x0A))
        } else {
            Ok(())
        };
        assert_eq!(mapped, expected);
        assert_eq!(fake.state.lock().errors, [0x0A, 0x0C]);
        // Another device is none the worse.
        let free = pool.free_bytes();
        its.map_device(2, 1).unwrap();
        its.map_event(2, 1, Intid(8193), 1).unwrap();
        assert_eq!(fake.translate(2, 1), Some((8193, 1)));
        its.unmap_device(2).unwrap();
        assert_eq!(pool.free_bytes(), free);
    }
}

#[test]
fn the_ring_wraps_at_every_place() {
    let (_, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    // Batches of three commands, so that the end of the ring falls at each place in a batch.
    for turn in 0..3 * 2048 {
        its.move_event(1, 0, (turn + 1) % 2).unwrap();
        let expected = (turn as u64 + 1) % 2;
        assert_eq!(fake.translate(1, 0), Some((8192, expected)));
    }
    assert!(fake.state.lock().errors.is_empty());
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
    let (_, _, its) = self::its(Traits {
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
fn a_device_without_memory_is_not_mapped() {
    let (pool, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    let rest = pool.allocate(pool.largest_free(), 0x1000);
    let mut small = alloc::vec::Vec::new();
    while let Some(frames) = pool.allocate(0x1000, 0x1000) {
        small.push(frames);
    }
    assert_eq!(its.map_device(2, 1), Err(ItsError::NoMemory));
    assert_eq!(its.map_device(0xFFFF, 1), Err(ItsError::NoMemory));
    drop((rest, small));
    its.map_device(2, 1).unwrap();
    assert!(fake.state.lock().errors.is_empty());
}

#[test]
fn there_is_an_end_to_devices() {
    let (_, _, its) = its_with(Traits::default(), 32 << 20);
    let its = its.unwrap();
    for device in 0..MAX_DEVICES as u32 {
        its.map_device(device, 1).unwrap();
    }
    let next = MAX_DEVICES as u32;
    assert_eq!(its.map_device(next, 1), Err(ItsError::TooManyDevices(next)));
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
