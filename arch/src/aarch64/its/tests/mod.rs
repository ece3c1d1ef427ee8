//! The driver against an ITS that executes what it reads, and command words by hand.

mod setup;

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
fn what_was_refused_is_not_mapped() {
    let (pool, fake, its) = working(Traits::default());
    its.map_device(1, 1).unwrap();
    let free = pool.free_bytes();
    fake.state.lock().refuses = Some(0x08);
    assert_eq!(its.map_device(2, 1), Err(ItsError::Rejected(0x08)));
    assert_eq!(pool.free_bytes(), free, "the ITS never had that table");
    // A device whose removal is refused keeps its table: the ITS may write to it.
    assert_eq!(its.unmap_device(1), Err(ItsError::Rejected(0x08)));
    assert_eq!(pool.free_bytes(), free);
    assert_eq!(its.map_device(1, 1), Err(ItsError::DeviceMapped(1)));
    fake.state.lock().refuses = Some(0x0A);
    assert_eq!(
        its.map_event(1, 0, Intid(8192), 0),
        Err(ItsError::Rejected(0x0A))
    );
    assert_eq!(its.lookup(1, 0), None);
    fake.state.lock().refuses = None;
    its.map_event(1, 0, Intid(8192), 0).unwrap();
    fake.state.lock().refuses = Some(0x0F);
    assert_eq!(its.unmap_event(1, 0), Err(ItsError::Rejected(0x0F)));
    assert_eq!(
        its.lookup(1, 0),
        Some((Intid(8192), 0)),
        "its LPI is not free"
    );
    fake.state.lock().refuses = None;
    its.unmap_device(1).unwrap();
    its.map_device(2, 1).unwrap();
}
