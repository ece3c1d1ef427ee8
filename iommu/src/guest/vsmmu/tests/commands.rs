//! The command queue.

use proptest::prelude::*;

use super::*;
use crate::physical::IommuError;

const fn va(asid: u64, address: u64) -> [u64; 2] {
    [0x12 | asid << 48, address | 1]
}

const PREFETCH: [u64; 2] = [0x01, 0];
const BAD: [u64; 2] = [0x20, 0];

fn entry_of(words: [u64; 2]) -> Entry {
    [words[0], words[1], 0, 0]
}

#[test]
fn a_batch_is_one_submission_and_keeps_what_the_guest_said() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.ram.reads.set(0);
    let commands: Vec<_> = (0..40).map(|page| va(7, page << 12)).collect();
    guest.post(&commands);
    let effect = guest.say(&[SYNC]);
    assert_eq!(effect, Effect::default());
    assert_eq!(guest.consumed(), 41);
    assert_eq!(guest.batches(), [40]);
    let expected: Vec<_> = commands.into_iter().map(entry_of).collect();
    assert_eq!(guest.entries(), expected);
    let counters = guest.smmu.counters();
    assert_eq!(
        (counters.commands, counters.syncs, counters.batches),
        (41, 1, 1)
    );
    assert_eq!(guest.ram.reads.get(), 41, "each command is read once");
}

#[test]
fn an_unmap_as_linux_posts_it_is_one_call_of_a_small_budget() {
    // CS = SIG_SEV (4.7.3), though IDR0.SEV says that there are none.
    const BY_EVENT: [u64; 2] = [0x46 | 2 << 12, 0];
    let mut guest = Guest::new(Setup {
        wake: false,
        ..plain_setup()
    });
    guest.up(8, 4);
    guest.smmu.budget = 6;
    let effect = guest.say(&[va(1, 0x1000), BY_EVENT]);
    assert_eq!(effect, Effect::default());
    assert_eq!((guest.consumed(), guest.batches()), (2, vec![1]));
    assert_eq!(guest.smmu.counters().syncs, 1);
}

#[test]
fn without_a_sync_what_was_rung_for_is_complete_too() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.say(&[NH_ALL, NH_ALL]);
    assert_eq!((guest.consumed(), guest.batches()), (2, vec![2]));
}

#[test]
fn half_a_million_invalidations_are_done_a_budget_at_a_time() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.write(CR0, 0);
    guest.settle();
    // The largest queue there is, full.
    let base = RAM + 0x80_0000;
    let words: Vec<u64> = (0..1 << 19).flat_map(|page| va(1, page << 12)).collect();
    guest.ram.store(base, &words);
    guest.write(CMDQ_BASE, base | 19);
    guest.write(CR0, 8);
    let mut effect = guest.write(CMDQ_PROD, 1 << 19);
    let mut before = 0;
    let mut calls = 1;
    loop {
        let done = guest.consumed();
        assert!(done - before <= BUDGET, "{} in one call", done - before);
        let batches = guest.batches();
        assert!(batches.len() <= 2 && batches.iter().sum::<usize>() as u32 == done - before);
        before = done;
        if !effect.more {
            break;
        }
        let reads = guest.ram.reads.get();
        effect = guest.run();
        assert!(guest.ram.reads.get() - reads <= BUDGET.into());
        calls += 1;
    }
    assert_eq!(before, 1 << 19);
    assert_eq!(calls, (1 << 19) / BUDGET);
    assert_eq!(guest.entries().len(), 1 << 19);
}

#[test]
fn the_queue_stops_exactly_at_a_bad_entry_and_goes_on_after_the_acknowledgement() {
    let mut guest = Guest::plain();
    guest.up(4, 4);
    for bad_at in 0..16u32 {
        let start = guest.consumed();
        let mut commands = [NH_ALL; 16];
        commands[bad_at as usize] = BAD;
        guest.post(&commands[..15.max(bad_at as usize + 1)]);
        let effect = guest.ring();
        assert_eq!(guest.command_error(), Some(1));
        assert_eq!(effect.interrupts, Interrupts::ERRORS);
        assert!(!effect.more);
        let stopped = guest.consumed();
        assert_eq!(stopped.wrapping_sub(start) & 31, bad_at);
        assert_eq!(guest.entries().len() as u32, bad_at, "all before it");
        // Ringing does not help.
        guest.ring();
        assert_eq!(guest.consumed(), stopped);
        // As Linux does: a CMD_SYNC in its place.
        let index = u64::from(stopped & 15);
        guest.ram.store(COMMANDS + index * 16, &SYNC);
        let errors = guest.read(GERROR);
        guest.write(GERRORN, errors.into());
        guest.settle();
        assert_eq!(guest.command_error(), None);
        assert_eq!(guest.consumed(), guest.prod);
        guest.entries();
    }
}

#[test]
fn a_failure_inside_a_batch_stops_at_its_own_command() {
    let reasons = [
        (Error::IllegalEntry(0), 1, None),
        (Error::Hardware(IommuError::Command(3)), 3, None),
        (Error::Hardware(IommuError::Timeout), 2, Some(())),
        (Error::OutOfMemory, 2, Some(())),
    ];
    for (error, code, failed) in reasons {
        for after in 0..10usize {
            let mut guest = Guest::plain();
            guest.up(8, 4);
            guest.told.borrow_mut().fails = Some((after, error));
            // Hints in between take a place in the queue and none in the batch; the end is bad too.
            let mut commands = Vec::new();
            for _ in 0..10 {
                commands.extend([PREFETCH, NH_ALL]);
            }
            commands.push(BAD);
            let effect = guest.say(&commands);
            assert_eq!(guest.command_error(), Some(code), "{error:?}");
            assert_eq!(guest.consumed() as usize, 2 * after + 1);
            assert_eq!(effect.failed, failed.map(|()| error));
            assert_eq!(guest.smmu.counters().errors, 1);
        }
    }
}

#[test]
fn a_sync_that_cannot_complete_is_not_consumed() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.told.borrow_mut().fails = Some((1, Error::Hardware(IommuError::Timeout)));
    let sync = [0x46 | 1 << 12, 0];
    let effect = guest.say(&[NH_ALL, NH_ALL, sync]);
    assert_eq!(guest.consumed(), 1);
    assert!(!effect.interrupts.contains(Interrupts::SYNC));
    assert_eq!(guest.smmu.counters().syncs, 0);
}

#[test]
fn a_queue_that_is_not_in_the_guests_memory_is_an_abort() {
    let end = RAM + BYTES as u64;
    let bases = [
        0,
        RAM - 0x1000,
        end,
        0x0800_0000,
        0x000f_ffff_ffff_f000,
        0x000f_ffff_ffff_ffe0,
    ];
    for base in bases {
        let mut guest = Guest::plain();
        guest.write(CMDQ_BASE, base | 8);
        guest.write(CR0, 8);
        let effect = guest.write(CMDQ_PROD, 3);
        assert_eq!(guest.command_error(), Some(2), "{base:#x}");
        assert_eq!(guest.consumed(), 0);
        assert_eq!(effect.interrupts, Interrupts::empty(), "none is on");
    }
    // One that hangs over the end stops where memory does.
    let mut guest = Guest::plain();
    guest.write(CMDQ_BASE, (end - 0x1000) | 9);
    let index = 0x1000 / 16;
    guest.write(CMDQ_CONS, 0);
    guest.write(CR0, 8);
    for slot in 0..index {
        guest.ram.store(end - 0x1000 + slot * 16, &SYNC);
    }
    guest.write(CMDQ_PROD, index + 5);
    guest.settle();
    // The base is aligned to the size: the queue starts 4 KiB earlier, with zeroes, which are no commands.
    assert_eq!(guest.command_error(), Some(1));
}

#[test]
fn queues_and_tables_that_overlap_are_the_guests_own_trouble() {
    let mut guest = Guest::plain();
    guest.write(CMDQ_BASE, RAM | 8);
    guest.write(EVENTQ_BASE, RAM | 4);
    guest.write(STRTAB_BASE, RAM);
    guest.write(STRTAB_CONFIG, 8);
    guest.write(CR0, 0b1101);
    guest.settle();
    guest.log2 = 8;
    for round in 0..300u64 {
        let record = [round | 0x10, u64::MAX, 0x46, 0];
        guest.told.borrow_mut().events.push_back(Item::Record {
            sequence: round as u32,
            record,
        });
        guest.smmu.deliver(&guest.ram);
        guest.say(&[CFGI_ALL, NH_ALL]);
        guest.settle();
        let errors = guest.read(GERROR);
        guest.write(GERRORN, errors.into());
        guest.settle();
    }
    let events = guest.smmu.counters().events;
    assert_eq!(events.recorded, events.delivered + events.dropped());
}

#[test]
fn an_index_that_is_nowhere_in_the_queue_ends_somewhere() {
    let mut guest = Guest::plain();
    guest.up(4, 4);
    guest.ram.store(COMMANDS, &[SYNC; 16].concat());
    // 20 ahead of a consumer at 0, in a queue of 16.
    guest.write(CMDQ_PROD, 20);
    guest.settle();
    assert_eq!(guest.consumed(), 20);
    // Bits that no index of this queue has do not count.
    guest.write(CMDQ_PROD, 0xf_ff00 | 21);
    guest.settle();
    assert_eq!(guest.consumed(), 21);
}

#[test]
fn commands_about_streams_of_nobody_are_consumed_and_do_nothing() {
    let mut guest = Guest::rich();
    guest.up(8, 4);
    let reads = guest.ram.reads.get();
    let nobody = 0x99u64 << 32;
    guest.say(&[
        [0x03 | nobody, 1],
        [0x04 | nobody, 0],
        [0x05 | nobody, 1],
        [0x06 | nobody, 0],
        [0x40 | nobody, 52],
        [0x41 | nobody, 0],
        [0x44 | nobody, 0],
        [0x45 | nobody, 0],
        // Has no cache of its own.
        [0x40 | 0x10 << 32, 52],
    ]);
    assert_eq!(guest.consumed(), 9);
    assert_eq!(guest.command_error(), None);
    assert_eq!(guest.batches(), Vec::<usize>::new());
    assert_eq!(guest.ram.reads.get() - reads, 9, "no entry is read");
}

#[test]
fn cfgi_all_costs_by_devices_and_not_by_the_table() {
    let devices: Vec<_> = (0..20).map(|n| behind(n * 0x100)).collect();
    let mut guest = Guest::with(plain_setup(), &devices);
    guest.up(8, 4);
    let reads = guest.ram.reads.get();
    guest.post(&[CFGI_ALL, SYNC]);
    let mut effect = guest.ring();
    let mut calls = 1;
    while effect.more {
        let streams = guest.smmu.counters().streams;
        assert_eq!(
            guest.consumed(),
            u32::from(streams == 60),
            "not before the last"
        );
        effect = guest.run();
        calls += 1;
    }
    assert_eq!(guest.consumed(), 2);
    // One read of the command, and one each of the entries that are in the table; the CMD_SYNC, which was read ahead too.
    assert_eq!(guest.ram.reads.get() - reads, 1 + 1 + 2);
    assert_eq!(calls, 6);
}

#[test]
fn a_command_that_was_begun_is_not_read_again() {
    let devices: Vec<_> = (0..20).map(behind).collect();
    let mut guest = Guest::with(plain_setup(), &devices);
    guest.up(8, 4);
    let effect = guest.say(&[CFGI_ALL]);
    assert!(effect.more);
    // The guest changes its mind, too late.
    guest.ram.store(COMMANDS, &BAD);
    guest.settle();
    assert_eq!((guest.consumed(), guest.command_error()), (1, None));
    // Turned off and on again, it begins anew, and is read anew.
    guest.say(&[CFGI_ALL]);
    guest.ram.store(COMMANDS + 16, &BAD);
    guest.write(CR0, 0b0101);
    assert!(!guest.smmu.has_work());
    guest.write(CR0, 0b1101);
    guest.settle();
    assert_eq!((guest.consumed(), guest.command_error()), (1, Some(1)));
}

#[test]
fn ranges_of_streams_are_those_that_the_stream_is_in() {
    let devices: Vec<_> = [0x0f, 0x10, 0x1f, 0x20].map(behind).into();
    let mut guest = Guest::with(plain_setup(), &devices);
    guest.up(8, 4);
    for stream in [0x0f, 0x10, 0x1f, 0x20] {
        guest.entry(stream, stage_one(CONTEXTS));
    }
    // 2^4 streams, of which 0x15 is one.
    guest.say(&[[0x04 | 0x15 << 32, 3]]);
    let streams: Vec<_> = guest.attached().iter().map(|it| it.0).collect();
    assert_eq!(streams, [1, 2]);
    // All, whatever the stream.
    guest.say(&[[0x04 | 0xffff_ffff << 32, 31]]);
    guest.settle();
    let streams: Vec<_> = guest.attached().iter().map(|it| it.0).collect();
    assert_eq!(streams, [0, 3]);
}

#[test]
fn a_sync_tells_as_it_was_asked_to() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    let irq = [0x46 | 1 << 12 | 0xabcd << 32, CONTEXTS];
    let effect = guest.say(&[irq]);
    assert_eq!(
        effect.interrupts,
        Interrupts::SYNC,
        "messages are not offered"
    );
    assert!(guest.say(&[[0x46 | 2 << 12, 0]]).wake);

    let mut guest = Guest::rich();
    guest.up(8, 4);
    let effect = guest.say(&[irq]);
    assert_eq!(effect.interrupts, Interrupts::empty());
    assert_eq!(guest.ram.load::<1>(CONTEXTS), [0xabcd]);
    let effect = guest.say(&[[irq[0], 0]]);
    assert_eq!(
        effect.interrupts,
        Interrupts::SYNC,
        "no address is the wire"
    );
    // Not memory: for whoever has doorbells.
    let doorbell = 0x0809_0040;
    guest.say(&[[irq[0], doorbell]]);
    let message = Message {
        source: Interrupts::SYNC,
        address: Gpa(doorbell),
        data: 0xabcd,
    };
    assert_eq!(guest.smmu.messages(), [message]);
    let effect = guest.smmu.message_refused(&guest.ram, Interrupts::SYNC);
    assert_eq!(guest.error(), 1 << 4);
    assert_eq!(effect.interrupts, Interrupts::ERRORS);
}

#[test]
fn many_messages_make_a_call_shorter_and_none_is_lost() {
    let mut guest = Guest::rich();
    guest.up(8, 4);
    let commands: Vec<_> = (0..100)
        .map(|n| [0x46 | 1 << 12 | n << 32, 0x0809_0040])
        .collect();
    guest.post(&commands);
    let mut effect = guest.ring();
    let mut seen = Vec::new();
    loop {
        seen.extend(guest.smmu.messages().iter().map(|it| it.data));
        if !effect.more {
            break;
        }
        effect = guest.run();
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn an_smmu_that_is_off_reads_no_entries() {
    let mut guest = Guest::plain();
    guest.up(8, 4);
    guest.write(CR0, 0b1000);
    guest.settle();
    let reads = guest.ram.reads.get();
    guest.attached();
    guest.say(&[CFGI_ALL, cfgi_ste(8)]);
    assert_eq!(guest.consumed(), 2);
    assert_eq!(guest.ram.reads.get() - reads, 2);
    assert_eq!(guest.attached(), []);
}

fn any_command() -> impl Strategy<Value = [u64; 2]> {
    prop_oneof![
        8 => (0..4u64, 0..64u64).prop_map(|(asid, page)| va(asid, page << 12)),
        2 => Just(PREFETCH),
        2 => Just(SYNC),
        1 => Just(BAD),
        1 => Just([0x03 | 0x99 << 32, 0]),
        1 => Just(cfgi_ste(8)),
    ]
}

proptest! {
    /// Whatever is posted, and however the work is cut: the slice hears it all once and in order up to what stops the
    /// queue, and CONS is there.
    #[test]
    fn cutting_the_work_changes_nothing(
        posts in prop::collection::vec(prop::collection::vec(any_command(), 0..100), 1..6),
        budgets in prop::collection::vec(1..70u32, 1..8),
    ) {
        let mut guest = Guest::plain();
        guest.up(7, 4);
        let mut expected = Vec::new();
        let mut position = 0u32;
        for post in posts {
            guest.post(&post);
            let stops = post.iter().position(|command| *command == BAD);
            let done = &post[..stops.unwrap_or(post.len())];
            expected.extend(done.iter().filter(|it| it[0] as u8 == 0x12).map(|it| entry_of(*it)));
            // The doorbell does its own budget; then come others.
            guest.ring();
            let mut turns = budgets.iter().cycle();
            while guest.smmu.has_work() {
                let before = guest.consumed();
                guest.smmu.budget = *turns.next().unwrap_or(&1);
                let effect = guest.smmu.run(&guest.ram);
                prop_assert_eq!(effect.more, guest.smmu.has_work());
                let after = guest.consumed();
                prop_assert!((after.wrapping_sub(before) & 0xff) <= 128);
            }
            position = (position + done.len() as u32) & 0xff;
            prop_assert_eq!(guest.consumed(), position);
            prop_assert_eq!(guest.command_error(), stops.map(|_| 1));
            if stops.is_some() {
                break;
            }
        }
        prop_assert_eq!(guest.entries(), expected);
    }
}
