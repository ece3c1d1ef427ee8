//! Single commands, their errors, and the bounds of the queue.

use super::bench::{
    Bench, CLEAR, DEVICES, DISCARD, INT, INV, QUEUE, RAM, invall, mapc, mapd, mapti, movall, movi,
    on_event, sync,
};
use crate::vdev::CpuSet;
use crate::vdev::vits::{BackendError, CommandError, Vits, VitsError};
use iommu::id::VirtDeviceId;

/// Device 8 mapped, its events 0 to 2 on LPIs 8192 to 8194, enabled, CPU 0.
fn mapped(cpus: usize) -> Bench {
    let mut bench = Bench::ready(cpus);
    for n in 0..8 {
        bench.set_property(8192 + n, 0x81);
    }
    bench.run(&[
        mapd(8, 3, 1),
        mapti(8, 0, 8192, 0),
        mapti(8, 1, 8193, 0),
        mapti(8, 2, 8194, 0),
    ]);
    assert_eq!(bench.vits.errors(), 0);
    bench
}

#[test]
fn commands_that_make_no_sense_are_ignored_and_counted() {
    let mut bench = mapped(2);
    let before = bench.backend.mapped.clone();
    let cases = [
        ([0xff, 0, 0, 0], CommandError::Opcode(0xff)),
        (mapd(9, 3, 1), CommandError::Device(9)),
        (mapd(8, 17, 1), CommandError::EventBits(17)),
        (mapc(2, 2), CommandError::Cpu(2)),
        (mapc(64, 0), CommandError::Collection(64)),
        (mapti(8, 8, 8300, 0), CommandError::Event(8)),
        (mapti(8, 3, 8191, 0), CommandError::Lpi(8191)),
        (mapti(8, 3, 65536, 0), CommandError::Lpi(65536)),
        (mapti(8, 3, 8193, 0), CommandError::Lpi(8193)),
        (mapti(8, 3, 8300, 64), CommandError::Collection(64)),
        (mapti(0x10, 0, 8300, 0), CommandError::Device(0x10)),
        (movi(8, 0, 5), CommandError::Collection(5)),
        (movi(8, 3, 0), CommandError::Event(3)),
        (on_event(INT, 8, 3), CommandError::Event(3)),
        (on_event(CLEAR, 9, 0), CommandError::Device(9)),
        (
            on_event(INV, 8, 0xffff_ffff),
            CommandError::Event(0xffff_ffff),
        ),
        (on_event(DISCARD, 8, 3), CommandError::Event(3)),
        (invall(7), CommandError::Collection(7)),
        (movall(0, 2), CommandError::Cpu(2)),
        // MAPI: the EventID is the LPI.
        ([8 << 32 | 0x0b, 3, 0, 0], CommandError::Lpi(3)),
    ];
    for (n, (command, error)) in (1..).zip(cases) {
        bench.run(&[command]);
        assert_eq!(
            (bench.vits.last_error(), bench.vits.errors()),
            (Some(error), n)
        );
    }
    assert_eq!(bench.backend.mapped, before);
}

#[test]
fn a_device_has_as_many_events_as_vectors_and_as_it_was_mapped_with() {
    let mut bench = Bench::ready(1);
    bench.run(&[
        mapd(0x10, 16, 1),
        mapti(0x10, 4, 8192, 0),
        mapti(0x10, 5, 8193, 0),
    ]);
    assert_eq!(bench.vits.last_error(), Some(CommandError::Event(5)));
    bench.run(&[mapd(8, 1, 1), mapti(8, 1, 8193, 0), mapti(8, 2, 8194, 0)]);
    assert_eq!(bench.vits.last_error(), Some(CommandError::Event(2)));
    assert_eq!(
        bench.backend.mapped.keys().copied().collect::<Vec<_>>(),
        [(8, 1), (0x10, 4)]
    );
}

#[test]
fn without_tables_nothing_can_be_mapped() {
    let mut bench = Bench::new(1);
    bench.vits.write(0x80, 8, 1 << 63 | QUEUE);
    bench.vits.write(0, 4, 1);
    bench.run(&[mapd(8, 1, 1), mapc(0, 0)]);
    assert_eq!(bench.vits.errors(), 2);
    // A table of one page, flat: 512 devices, not 0x8000.
    bench.vits.write(0, 4, 0);
    bench.vits.write(0x100, 8, 1 << 63 | 0x4003_0000);
    bench.vits.write(0, 4, 1);
    bench.run(&[mapd(8, 1, 1)]);
    assert_eq!(bench.vits.errors(), 2);
}

#[test]
fn software_can_trigger_and_clear() {
    let mut bench = mapped(2);
    assert_eq!(bench.run(&[on_event(INT, 8, 1)]), CpuSet(1));
    assert_eq!(bench.next(0), Some((8193, 0x80)));
    bench.run(&[on_event(INT, 8, 1), on_event(CLEAR, 8, 1)]);
    assert_eq!(bench.next(0), None);
    assert_eq!(
        bench.backend.mapped[&(8, 1)].cleared,
        1,
        "in the physical ITS too"
    );
}

#[test]
fn moving_a_collection_moves_its_events() {
    let mut bench = mapped(2);
    bench.signal(8, 0);
    assert_eq!(bench.run(&[mapc(0, 1)]), CpuSet(2));
    assert_eq!(bench.next(1), Some((8192, 0x80)));
    assert!(bench.backend.mapped.values().all(|m| m.cpu == 1));
    bench.run(&[[0x09, 0, 0, 0]]);
    assert_eq!(bench.signal(8, 0), None, "unmapped collection");
    bench.run(&[on_event(INT, 8, 0)]);
    assert_eq!(bench.vits.last_error(), Some(CommandError::Collection(0)));
}

#[test]
fn movall_takes_what_is_pending_along() {
    let mut bench = mapped(2);
    bench.signal(8, 0);
    bench.run(&[movall(0, 1), sync(1)]);
    assert_eq!((bench.next(0), bench.next(1)), (None, Some((8192, 0x80))));
}

#[test]
fn properties_are_read_when_the_guest_says_so() {
    let mut bench = mapped(1);
    for lpi in 8192..8195 {
        bench.set_property(lpi, 0x40);
    }
    bench.signal(8, 1);
    assert_eq!(bench.next(0), Some((8193, 0x80)), "cached");
    bench.signal(8, 1);
    bench.run(&[on_event(INV, 8, 1)]);
    assert_eq!(bench.next(0), None, "disabled");
    assert!(!bench.backend.mapped[&(8, 1)].enabled && bench.backend.mapped[&(8, 2)].enabled);
    bench.set_property(8193, 0x41);
    bench.run(&[invall(0)]);
    assert_eq!(bench.next(0), Some((8193, 0x40)));
    assert!(!bench.backend.mapped[&(8, 2)].enabled);
}

#[test]
fn properties_follow_once_a_cpu_enables_lpis() {
    let mut bench = Bench::ready(1);
    bench.vgic.write_redistributor(0, 4, 0);
    bench.set_property(8192, 0x81);
    bench.run(&[mapd(8, 3, 1), mapti(8, 0, 8192, 0)]);
    assert!(!bench.backend.mapped[&(8, 0)].enabled);
    assert!(bench.vgic.write_redistributor(0, 4, 1).reload_lpis);
    bench
        .vits
        .reload(&mut bench.vgic, &bench.memory, &mut bench.backend);
    assert!(bench.backend.mapped[&(8, 0)].enabled);
}

#[test]
fn a_property_table_outside_ram_disables() {
    let mut bench = mapped(1);
    bench.vgic.write_redistributor(0, 4, 0);
    bench
        .vgic
        .write_redistributor(0x70, 8, 0x000f_ffff_ffff_f00f);
    bench.vgic.write_redistributor(0, 4, 1);
    bench.run(&[invall(0)]);
    assert!(bench.backend.mapped.values().all(|m| !m.enabled));
    // A table for 13-bit INTIDs has no LPI in it.
    bench.vgic.write_redistributor(0, 4, 0);
    bench
        .vgic
        .write_redistributor(0x70, 8, super::bench::PROPERTIES | 12);
    bench.vgic.write_redistributor(0, 4, 1);
    bench.run(&[mapti(8, 4, 8200, 0)]);
    assert_eq!(bench.vits.last_error(), Some(CommandError::Lpi(8200)));
}

#[test]
fn a_physical_its_that_is_full_leaves_the_event_unmapped() {
    let mut bench = mapped(1);
    bench.backend.room = Some(0);
    bench.run(&[mapti(8, 3, 8195, 0), on_event(INT, 8, 3)]);
    assert_eq!(bench.vits.errors(), 2);
    assert_eq!(bench.signal(8, 3), None);
    bench.backend.room = None;
    bench.run(&[mapti(8, 3, 8195, 0)]);
    assert_eq!(
        bench.signal(8, 3),
        Some(CpuSet(1)),
        "its LPI was not used up"
    );
    bench.backend.room = Some(0);
    bench.run(&[mapti(8, 3, 8196, 0)]);
    assert_eq!(
        bench.vits.last_error(),
        Some(CommandError::Backend(BackendError::NoLpi))
    );
    assert_eq!(bench.signal(8, 3), None);
}

#[test]
fn an_event_mapped_again_gives_its_old_lpi_back() {
    let mut bench = mapped(1);
    bench.signal(8, 0);
    bench.run(&[mapti(8, 0, 8195, 0), mapti(8, 3, 8192, 0)]);
    assert_eq!(bench.vits.errors(), 0);
    assert_eq!(bench.next(0), None, "what was pending went with it");
    bench.signal(8, 0);
    assert_eq!(bench.next(0), Some((8195, 0x80)));
}

#[test]
fn one_poll_does_a_bounded_number_and_the_read_pointer_tells_which() {
    let mut bench = mapped(1);
    let start = bench.vits.read(0x90, 8);
    bench.queue(&vec![sync(0); 100]);
    assert_eq!(
        bench.vits.read(0x90, 8),
        start,
        "nothing is done by the write"
    );
    bench.poll();
    assert_eq!((bench.vits.read(0x90, 8) + 4096 - start) % 4096, 64 * 32);
    assert!(bench.vits.has_work());
    bench.poll();
    assert_eq!(bench.vits.read(0x90, 8), bench.vits.read(0x88, 8));
    assert!(!bench.vits.has_work());
}

#[test]
fn a_sweep_counts_as_the_events_it_touches() {
    let mut bench = mapped(1);
    bench.queue(&vec![invall(0); 60]);
    let start = bench.vits.read(0x90, 8);
    bench.poll();
    assert_eq!(
        (bench.vits.read(0x90, 8) + 4096 - start) % 4096,
        16 * 32,
        "four each"
    );
}

#[test]
fn every_command_is_read_once() {
    let mut bench = mapped(1);
    bench.memory.1.borrow_mut().clear();
    bench.run(&[sync(0), on_event(INV, 8, 0)]);
    assert!(bench.memory.1.borrow().values().all(|&times| times == 1));
    assert_eq!(
        bench.memory.1.borrow().len(),
        3,
        "two commands, one property"
    );
}

#[test]
fn a_queue_outside_ram_stalls_until_it_is_retried() {
    let mut bench = Bench::ready(1);
    bench.vits.write(0, 4, 0);
    bench.vits.write(0x80, 8, 1 << 63 | (RAM - 0x1000));
    bench.vits.write(0, 4, 1);
    bench.vits.write(0x88, 8, 64);
    bench.poll();
    assert_eq!(bench.vits.read(0x90, 8), 1, "stalled at the first");
    assert!(!bench.vits.has_work());
    assert_eq!(bench.vits.last_error(), Some(CommandError::Queue(0)));
    bench.vits.write(0x88, 8, 64 | 1);
    assert!(bench.vits.has_work());
    bench.vits.write(0x88, 8, 0x1000);
    assert_eq!(bench.vits.read(0x88, 8), 64, "past the end of the queue");
}

#[test]
fn nothing_is_translated_while_it_is_off() {
    let mut bench = mapped(1);
    assert!(bench.signal(8, 0).is_some());
    bench.vits.write(0, 4, 0);
    assert!(bench.signal(8, 0).is_none());
    bench.queue(&[sync(0)]);
    assert!(!bench.vits.has_work());
    bench.vits.write(0, 4, 1);
    assert!(bench.vits.has_work());
    bench.vits.write(0x100, 8, 0);
    bench.vits.write(0x80, 8, 0);
    assert_eq!(
        bench.vits.misuse(),
        2,
        "tables and queue stay while it is on"
    );
    bench.poll();
    assert!(bench.signal(8, 0).is_some());
}

#[test]
fn a_reset_unmaps_everything() {
    let mut bench = mapped(1);
    bench.signal(8, 0);
    bench
        .vits
        .reset(&mut bench.vgic, &bench.memory, &mut bench.backend);
    assert!(bench.backend.mapped.is_empty());
    assert_eq!(bench.next(0), None);
    let mut fresh = Bench::new(1);
    for offset in (0..0x1_0000).step_by(4) {
        assert_eq!(
            bench.vits.read(offset, 4),
            fresh.vits.read(offset, 4),
            "{offset:#x}"
        );
    }
}

#[test]
fn impossible_devices_are_refused() {
    let twice = [DEVICES[0], DEVICES[0]];
    assert_eq!(
        Vits::new(&twice, 1).err(),
        Some(VitsError::Device(DEVICES[0].0))
    );
    assert_eq!(
        Vits::new(&[(VirtDeviceId(0x1_0000), 1)], 1).err(),
        Some(VitsError::Device(VirtDeviceId(0x1_0000)))
    );
    assert_eq!(
        Vits::new(&[(VirtDeviceId(1), u32::MAX)], 1).err(),
        Some(VitsError::Events(u32::MAX as usize))
    );
    assert_eq!(Vits::new(&[], 0).err(), Some(VitsError::Cpus(0)));
    assert_eq!(Vits::new(&[], 65).err(), Some(VitsError::Cpus(65)));
}
