//! Queues and tables in every wrong place: the guest is told, in the way that the document has for each, and nobody else.

use super::*;
use crate::object::{Event, Item};

const END: u64 = RAM + BYTES as u64;

/// Bases that are not, or not all, in the guest's memory, for `bytes` there, and some that are.
fn places(bytes: u64) -> Vec<u64> {
    let mut all = alloc::vec![
        0,
        0x1000,
        0x0900_0000,
        RAM - bytes.min(RAM),
        RAM - 0x40,
        RAM,
        RAM + 0x40,
        END - bytes.min(BYTES as u64),
        END - 0x40,
        END,
        1 << 39,
        (1 << 40) - 0x40,
        1 << 40,
        1 << 47,
        (1 << 52) - 0x1000,
        (1 << 52) - 0x40,
    ];
    all.extend(
        all.clone()
            .iter()
            .map(|base| base & !(bytes.next_power_of_two() - 1)),
    );
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether `bytes` at `at` are the guest's.
fn inside(at: u64, bytes: u64) -> bool {
    (RAM..=END).contains(&at) && END - at >= bytes
}

/// Where an array of 2^`log2` entries of `entry` bytes is that is said to be at `base`: aligned to its size (§6.3.26).
fn aligned(base: u64, log2: u32, entry: u64) -> u64 {
    base & 0x000f_ffff_ffff_ffe0 & !((entry << log2).max(32) - 1)
}

#[test]
fn a_command_queue_of_every_size_in_every_place() {
    for log2 in 0..=31u32 {
        let used = log2.min(19);
        for base in places(16 << used) {
            let mut guest = Guest::plain();
            guest.write(CMDQ_BASE, base & !0x1f | u64::from(log2));
            guest.write(CR0, 8);
            let at = aligned(base, used, 16);
            if inside(at, 16) {
                guest.ram.store(at, &SYNC);
            }
            guest.write(CMDQ_PROD, 1);
            guest.settle();
            if inside(at, 16) {
                assert_eq!((guest.command_error(), guest.consumed()), (None, 1));
            } else {
                // CERROR_ABT.
                assert_eq!((guest.command_error(), guest.consumed()), (Some(2), 0));
            }
            assert!(guest.ram.writes.borrow().is_empty());
            assert_eq!(guest.entries(), Vec::<Entry>::new());
        }
    }
}

#[test]
fn an_event_queue_of_every_size_in_every_place() {
    for log2 in 0..=31u32 {
        let used = log2.min(10);
        for base in places(32 << used) {
            let mut guest = Guest::plain();
            guest.write(EVENTQ_BASE, base & !0x1f | u64::from(log2));
            guest.write(CR0, 4);
            for sequence in 0..2 {
                let record = [0x10, 0, 0xabc, 0];
                let item: Item<Event> = Item::Record { sequence, record };
                guest.told.borrow_mut().events.push_back(item);
            }
            guest.smmu.deliver(&guest.ram);
            let at = aligned(base, used, 32);
            let fits = (0..2u64.min(1 << used))
                .filter(|n| inside(at + n * 32, 32))
                .count() as u32;
            let writes = guest.ram.writes.borrow().clone();
            assert!(writes.iter().all(|(to, len)| inside(*to, *len as u64)));
            assert!(
                writes
                    .iter()
                    .all(|(to, _)| (at..at + (32 << used)).contains(to))
            );
            assert_eq!(writes.len() as u32, fits);
            // EVENTQ_ABT_ERR where a record could not be written.
            let missed = fits < 2u32.min(1 << used);
            assert_eq!(guest.error() & 1 << 2 != 0, missed, "{base:#x}, 2^{log2}");
        }
    }
}

#[test]
fn a_stream_table_of_every_form_in_every_place() {
    for config in (0..=31u32).flat_map(|log2| {
        [0, 6, 8, 10]
            .into_iter()
            .flat_map(move |split| (0..4).map(move |format| log2 | split << 6 | format << 16))
    }) {
        for base in places(1 << 14) {
            let mut guest = Guest::plain();
            guest.log2 = 8;
            guest.write(CMDQ_BASE, COMMANDS | 8);
            guest.write(STRTAB_BASE, base);
            guest.write(STRTAB_CONFIG, config.into());
            guest.write(CR0, 0b1001);
            guest.settle();
            guest.attached();
            // Where the table is over the commands: words that are neither entries nor descriptors.
            guest.say(&[CFGI_ALL, SYNC]);
            guest.settle();
            assert_eq!((guest.command_error(), guest.consumed()), (None, 2));
            // Memory that has no entry for a stream has none that translates.
            let translates = |(_, to): &(usize, StageOne)| matches!(to, StageOne::Translate(_));
            assert!(
                !guest.attached().iter().any(translates),
                "{base:#x}, {config:#x}"
            );
            assert!(guest.ram.writes.borrow().is_empty());
        }
    }
}

#[test]
fn a_queue_at_the_end_of_memory_stops_there_and_not_before() {
    // Half of it hangs over: the guest's memory ends in the middle of what is aligned to twice as much.
    let mut guest = Guest::plain();
    let entries = 2 * BYTES as u64 / 16;
    let log2 = entries.ilog2().min(19);
    let base = aligned(END - 1, log2, 16);
    guest.write(CMDQ_BASE, base | u64::from(log2));
    guest.write(CR0, 8);
    let inside_of_it = (END - base) / 16;
    for slot in 0..inside_of_it.min(300) {
        guest.ram.store(END - (slot + 1) * 16, &SYNC);
    }
    let last = inside_of_it as u32;
    guest.write(CR0, 0);
    guest.write(CMDQ_CONS, u64::from(last - 300));
    guest.write(CMDQ_PROD, u64::from(last - 300));
    guest.write(CR0, 8);
    guest.write(CMDQ_PROD, u64::from(last + 3) & (2 * (1 << log2) - 1));
    guest.settle();
    let wraps = inside_of_it == 1 << log2;
    if wraps {
        // All of it is memory: the index wraps to the start, where there is no command.
        assert_eq!(guest.command_error(), Some(1));
    } else {
        assert_eq!(guest.command_error(), Some(2));
    }
    assert_eq!(guest.consumed(), last);
}
