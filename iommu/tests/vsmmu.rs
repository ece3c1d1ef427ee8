//! A guest that drives the SMMU it sees, on a model SMMU: its stage 1, its invalidations, its events and stalls, by its
//! own registers and queues.

mod guest;

use std::sync::Arc;

use guest::vm::{self, BYTES, GUEST, PAGE, Piece, RAM, Vm, entry};
use guest::{EVENTS, Guest, NAME, Place, STREAM, TABLE, VA, refused, setup, space};
use iommu::addr::{Gpa, Iova};
use iommu::guest::vsmmu::{ContextCopies, Interrupts, ObjectSlice, Setup, VirtSmmu};
use iommu::hal::{DmaBuffer, Platform};
use iommu::id::IommuIndex;
use iommu::model::memory::Memory;
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::Access;
use iommu::object::{Context, Ioas};
use iommu::smmuv3::event;

/// It can be given from CPU to CPU.
const _: fn() = || {
    fn sent<T: Send>() {}
    sent::<VirtSmmu<Memory, ObjectSlice>>();
};

#[test]
fn a_guests_stage_1_is_walked_by_the_hardware_and_its_invalidations_reach_it() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    // Out of reset: through stage 2, and nowhere else.
    assert_eq!(vm.reaches(0, STREAM, GUEST + VA), Ok(GUEST + VA));
    assert!(vm.model().translate(STREAM, VA, true).is_err());
    guest.up();
    assert_eq!(vm.reaches(0, STREAM, GUEST + VA), refused(0x04));
    let (space, contexts) = space(&vm, 3);
    guest.entry(entry(contexts, 0));
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
    for (page, command) in [
        (4, [0x12 | 1 << 48, VA | 1]),
        (5, [0x13, VA | 1]),
        (6, [0x11 | 1 << 48, 0]),
        (7, [0x10, 0]),
        (8, [0x30, 0]),
        // A range: 2 pages, level 3, leaf.
        (9, [0x12 | 1 << 12 | 1 << 48, VA | 1 << 10 | 3 << 8 | 1]),
    ] {
        let before = vm.reaches(0, STREAM, VA);
        space.map(&vm, VA, Some(GUEST + page * PAGE));
        assert_eq!(vm.reaches(0, STREAM, VA), before, "not before its command");
        guest.say(&[command]);
        assert_eq!(
            vm.reaches(0, STREAM, VA),
            Ok(GUEST + page * PAGE),
            "{command:x?}"
        );
    }
    // An ASID of another leaves it.
    space.map(&vm, VA, Some(GUEST));
    guest.say(&[[0x11 | 2 << 48, 0]]);
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 9 * PAGE));
    // Off: through stage 2 again; or not at all.
    guest.write(0x20, 0);
    assert_eq!(vm.reaches(0, STREAM, GUEST + VA), Ok(GUEST + VA));
    guest.write(0x44, 1 << 31 | 1 << 20);
    assert_eq!(vm.reaches(0, STREAM, GUEST + VA), Err(Denied::StreamAbort));
}

/// IDR0.ATS, STE.EATS, CMD_ATC_INV: for a device that the owner trusts, and no other.
#[test]
fn a_trusted_device_caches_what_its_guest_lets_it_and_forgets_as_told() {
    const EATS: u64 = 1 << 28;
    let atc = [0x40 | u64::from(NAME) << 32, VA];
    for (hardware, offered, trusted) in [
        (true, true, true),
        (true, true, false),
        (true, false, true),
        (false, true, true),
    ] {
        let vm = Vm::one(Config {
            ats: hardware,
            ..Config::default()
        });
        let mut setup = setup(&vm);
        setup.offer.ats = offered;
        let mut guest = Guest::trusted(&Place::of(&vm), STREAM, setup, trusted);
        assert_eq!(guest.read(0) >> 10 & 1 != 0, hardware && offered);
        guest.up();
        let (space, contexts) = space(&vm, 3);
        let [first, second] = entry(contexts, 0);
        guest.entry([first, second | EATS]);
        assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
        let asked = vm.model().ats_translate(STREAM, VA, true);
        if !(hardware && offered && trusted) {
            assert_eq!(asked, refused(0x05));
            let forbidden = vm.model().translated_write(STREAM, RAM, &[1]);
            assert_eq!(forbidden.map(|()| 0), refused(0x07));
            continue;
        }
        assert_eq!(asked, Ok(RAM + 3 * PAGE));
        space.map(&vm, VA, Some(GUEST + 4 * PAGE));
        guest.say(&[[0x12 | 1 << 48, VA | 1]]);
        let asked = vm.model().ats_translate(STREAM, VA, true);
        assert_eq!(asked, Ok(RAM + 3 * PAGE), "the device was not told");
        guest.say(&[[0x12 | 1 << 48, VA | 1], atc]);
        let asked = vm.model().ats_translate(STREAM, VA, true);
        assert_eq!(asked, Ok(RAM + 4 * PAGE));
        // An entry without EATS ends it for good; one with it begins anew.
        guest.entry([first, second]);
        assert_eq!(
            vm.model().ats_translate(STREAM, VA + PAGE, true),
            refused(0x05)
        );
        guest.entry([first, second | EATS]);
        space.map(&vm, VA, Some(GUEST + 5 * PAGE));
        guest.say(&[[0x10, 0], atc]);
        let asked = vm.model().ats_translate(STREAM, VA, true);
        assert_eq!(asked, Ok(RAM + 5 * PAGE));
        // The device does not answer: the guest hears it from its queue, and the device is out.
        vm.model().mute(STREAM, true);
        guest.store(guest::COMMANDS + u64::from(guest.prod) * 16, &atc);
        guest.store(guest::COMMANDS + u64::from(guest.prod + 1) * 16, &[0x46, 0]);
        guest.write(0x98, u64::from(guest.prod) + 2);
        assert_eq!(guest.read(0x9c), guest.prod | 3 << 24);
        assert_eq!(guest.read(0x60) & 1, 1, "GERROR.CMDQ_ERR");
        let write = vm.model().translated_write(STREAM, RAM + 5 * PAGE, &[1]);
        assert_eq!(write.map(|()| 0), refused(0x07));
        // It acknowledges, and goes on.
        guest.write(0x64, 1);
        guest.settle();
        assert_eq!(guest.read(0x9c) & 0xff_ffff, guest.prod + 2);
    }
}

#[test]
fn a_changed_entry_is_hitless_where_the_architecture_allows() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    guest.up();
    let spaces = [space(&vm, 3), space(&vm, 4)];
    for (_, contexts) in &spaces {
        guest.entry(entry(*contexts, 0));
    }
    guest.say(&[[0x10, 0]]);
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 4 * PAGE));
    guest.entry([0b1001, 0]);
    assert_eq!(vm.reaches(0, STREAM, GUEST), Ok(GUEST));
    guest.entry([1, 0]);
    assert_eq!(vm.reaches(0, STREAM, GUEST), Err(Denied::StreamAbort));
}

#[test]
fn two_guests_call_different_devices_alike_and_meet_nowhere() {
    const OTHER: u64 = RAM + 0x1000_0000;
    let vm = Vm::one(Config::default());
    let (first_space, contexts) = space(&vm, 3);
    // The other's memory is the same but for its place: so are its tables.
    vm.memory.add_ram(OTHER, BYTES);
    for offset in (0..BYTES).step_by(8) {
        let word = vm.memory.load(RAM + offset);
        if word != 0 {
            vm.memory.store(OTHER + offset, word);
        }
    }
    vm.memory.write_barrier();
    let context = Context::new(64, 8).expect("memory");
    let ioas: Ioas = context.ioas().expect("memory");
    let access = Access::READ | Access::WRITE;
    ioas.map(Iova(GUEST), Arc::new(Piece(OTHER, BYTES)), 0, BYTES, access)
        .expect("mapped");
    let parent = ioas.nest_parent(&vm.iommus[0].driver()).expect("a parent");
    let place = Place {
        vm: &vm,
        context: &context,
        parent: &parent,
        at: OTHER,
    };
    let mut first = Guest::of(&vm);
    let mut second = Guest::new(&place, STREAM + 8, setup(&vm));
    for guest in [&mut first, &mut second] {
        guest.up();
        guest.entry(entry(contexts, 0));
    }
    let reaches = |stream: u32| vm.model().translate(stream, VA, true);
    assert_eq!(reaches(STREAM), Ok(RAM + 3 * PAGE));
    assert_eq!(reaches(STREAM + 8), Ok(OTHER + 3 * PAGE));
    // Both change theirs; one says so, as loudly as it can.
    let leaf = first_space.entry(&vm, VA);
    for guest in [&first, &second] {
        guest.store(leaf, &[(GUEST + 5 * PAGE) | vm::LEAF]);
    }
    vm.model().commands();
    first.say(&[[0x30, 0], [0x10 | 0xffff << 32, 0], [0x04, 31]]);
    assert_eq!(reaches(STREAM), Ok(RAM + 5 * PAGE));
    assert_eq!(
        reaches(STREAM + 8),
        Ok(OTHER + 3 * PAGE),
        "not its own word"
    );
    for command in vm.model().commands() {
        match command[0] as u8 {
            0x10 => assert_eq!(command[0] >> 32, 1, "its own VMID"),
            0x03 | 0x05 | 0x06 => assert_eq!(command[0] >> 32, STREAM.into()),
            0x46 => {}
            other => panic!("{other:#x}"),
        }
    }
    // An event of one is none of the other's.
    assert!(vm.model().translate(STREAM + 8, 0x9000, true).is_err());
    let delivered = vm.iommus[0].unit.physical().lock();
    drop(delivered);
    second.serve_in(&vm, &context);
    assert_eq!(second.read(0x1_00a8), 1);
    assert_eq!(first.read(0x1_00a8), 0);
}

impl Guest {
    /// As `serve`, for a guest with a context of its own.
    fn serve_in(&mut self, vm: &Vm, context: &Context) {
        use iommu::physical::PhysicalIommu;
        let mut faults = [event::decode(IommuIndex(0), [0; 4]); 8];
        let drained = vm.iommus[0]
            .unit
            .physical()
            .lock()
            .drain_faults(&mut faults);
        for fault in &faults[..drained.count] {
            context.deliver(fault);
            vm.context.deliver(fault);
        }
        self.smmu.deliver(&self.ram);
    }
}

#[test]
fn a_fault_is_an_event_in_the_guests_queue_under_the_guests_name() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    guest.up();
    // No entry yet.
    assert!(vm.model().translate(STREAM, VA, true).is_err());
    assert_eq!(guest.serve(&vm).interrupts, Interrupts::EVENTS);
    let name = u64::from(NAME) << 32;
    assert_eq!(guest.load(EVENTS), [0x04 | name, 0, 0, 0]);
    let (_, contexts) = space(&vm, 3);
    guest.entry(entry(contexts, 0));
    assert!(vm.model().translate(STREAM, 0x9abc, true).is_err());
    assert_eq!(
        guest.serve(&vm).interrupts,
        Interrupts::empty(),
        "not empty"
    );
    let [first, second, input, last] = guest.load(EVENTS + 32);
    assert_eq!((first, input, last), (0x10 | name, 0x9abc, 0));
    assert_eq!(second >> 31 & 1, 0, "not stalled");
    // Stage 2 is none of the guest's business.
    guest.entry([0b1001, 0]);
    assert!(vm.model().translate(STREAM, GUEST + BYTES, true).is_err());
    guest.serve(&vm);
    assert_eq!(guest.read(0x1_00a8), 2);
    let events = guest.smmu.counters().events;
    assert_eq!((events.recorded, events.delivered), (2, 2));
}

#[test]
fn a_stall_waits_for_the_guests_own_command() {
    let vm = Vm::one(Config::full());
    let mut guest = Guest::of(&vm);
    assert_eq!(guest.read(0) >> 24 & 3, 0, "stalls by choice");
    guest.up();
    let (space, contexts) = space(&vm, 3);
    let stalling = space.context()[0] | 1 << 44;
    guest.store(contexts, &[stalling]);
    guest.entry(entry(contexts, 0));
    let Err(Denied::Stalled(tag)) = vm.reaches(0, STREAM, 0x9000) else {
        panic!("it stalls");
    };
    assert_eq!(guest.serve(&vm).interrupts, Interrupts::EVENTS);
    let [first, second, input, _] = guest.load(EVENTS);
    assert_eq!(
        (first as u8, first >> 32, input),
        (0x10, NAME.into(), 0x9000)
    );
    assert_eq!(second >> 31 & 1, 1, "stalled");
    space.map(&vm, 0x9000, Some(GUEST + 5 * PAGE));
    // Retry, by the guest's own tag.
    let resume = 0x44 | 1 << 12 | u64::from(NAME) << 32;
    guest.say(&[[resume, second & 0xffff]]);
    assert_eq!(vm.model().resumed(), [(tag, true)]);
    assert_eq!(vm.reaches(0, STREAM, 0x9000), Ok(GUEST + 5 * PAGE));
    // One that the guest leaves ends with the guest.
    let Err(Denied::Stalled(_)) = vm.reaches(0, STREAM, 0xa000) else {
        panic!("it stalls");
    };
    guest.serve(&vm);
    guest.smmu.stop().expect("stopped");
    assert_eq!(vm.model().stalled(), 0);
    let requests = guest.smmu.counters().requests;
    assert_eq!(
        (requests.taken, requests.answered, requests.dropped),
        (2, 1, 1)
    );
}

/// §7.3.13 to §7.3.16: what stalled and why is the guest's to know, field by field.
#[test]
fn the_record_of_a_stall_says_what_it_was() {
    let vm = Vm::one(Config::full());
    let mut guest = Guest::of(&vm);
    guest.up();
    let (space, contexts) = space(&vm, 3);
    guest.store(contexts, &[space.context()[0] | 1 << 44]);
    // Read-only (AP[2]), never executable when privileged (PXN), not accessed (AF), past the output.
    let page = (GUEST + PAGE) | vm::LEAF;
    let pages = [
        (0x10_0000, page | 1 << 7),
        (0x10_1000, page | 1 << 53),
        (0x10_2000, page & !(1 << 10)),
        (0x10_3000, 1 << 47 | vm::LEAF),
    ];
    for (va, word) in pages {
        vm.store(space.entry(&vm, va), word);
    }
    guest.entry(entry(contexts, 0));
    let plain = Initiator::from(STREAM);
    let kernel = Initiator {
        privileged: true,
        ..plain
    };
    let fetch = Initiator {
        instruction: true,
        ..kernel
    };
    // Event, PnU, InD, RnW.
    let cases = [
        (plain, 0x10_4000, true, [0x10, 0, 0, 0]),
        (kernel, 0x10_0000, true, [0x13, 1, 0, 0]),
        (fetch, 0x10_1000, false, [0x13, 1, 1, 1]),
        (plain, 0x10_2000, false, [0x12, 0, 0, 1]),
        (kernel, 0x10_3000, false, [0x11, 1, 0, 1]),
    ];
    for (at, (from, va, write, [event, pnu, ind, rnw])) in (0..).zip(cases) {
        let Err(Denied::Stalled(_)) = vm.model().translate(from, va, write) else {
            panic!("{va:#x} stalls");
        };
        guest.serve(&vm);
        let [first, second, input, _] = guest.load(EVENTS + at * 32);
        assert_eq!((first & 0xff, input), (event, va));
        assert_eq!(second >> 33 & 7, pnu | ind << 1 | rnw << 2, "{va:#x}");
        assert_eq!((second >> 31 & 1, second >> 40 & 3), (1, 2));
        guest.say(&[[0x44 | 2 << 12 | u64::from(NAME) << 32, second & 0xffff]]);
        guest.write(0x1_00ac, at + 1);
    }
}

#[test]
fn a_restart_leaves_nothing_of_the_guest_before() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    for _ in 0..20 {
        guest.prod = 0;
        guest.up();
        let (_, contexts) = space(&vm, 3);
        guest.entry(entry(contexts, 0));
        assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
        assert!(vm.model().translate(STREAM, 0x9000, true).is_err());
        vm.serve(0);
        guest.smmu.stop().expect("stopped");
        assert_eq!(vm.reaches(0, STREAM, VA), Err(Denied::StreamAbort));
        assert_eq!((guest.read(0x20), guest.read(0x24)), (0, 0));
        assert_eq!(guest.read(0x1_00a8), 0);
        guest.smmu.start(&guest.ram);
        assert_eq!(vm.reaches(0, STREAM, GUEST), Ok(GUEST));
        guest.store(TABLE + u64::from(NAME) * 64, &[0, 0]);
    }
    // Gone with a stage 1 in force, it leaves none; the device can still be taken away.
    guest.prod = 0;
    guest.up();
    let (_, contexts) = space(&vm, 3);
    guest.entry(entry(contexts, 0));
    drop(guest.smmu);
    assert!(vm.model().translate(STREAM, VA, true).is_err());
    let device = Arc::into_inner(guest.device).expect("nobody else has it");
    device.unbind().expect("stopped");
}

#[test]
fn a_copied_context_is_what_the_hardware_sees() {
    /// Where devices find the copies: not the guest's memory.
    const COPIES: u64 = GUEST + 2 * BYTES;
    let vm = Vm::one(Config::default());
    let buffer = vm.memory.allocate(4096).expect("memory");
    let piece = Arc::new(Piece(buffer.hpa().0, 4096));
    vm.ioas
        .map(Iova(COPIES), piece, 0, 4096, Access::READ)
        .expect("mapped");
    let copies = ContextCopies {
        buffer,
        at: Gpa(COPIES),
    };
    let setup = Setup {
        contexts: Some(copies),
        ..setup(&vm)
    };
    let mut guest = Guest::new(&Place::of(&vm), STREAM, setup);
    guest.up();
    let (_, contexts) = space(&vm, 3);
    // What would end an emulator: IPS = 7.
    let [context] = guest.load(contexts);
    guest.store(contexts, &[context | 7 << 32]);
    guest.entry(entry(contexts, 0));
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
    // Another table: seen after its command, and only then.
    let (other, _) = space(&vm, 4);
    guest.store(contexts + 8, &[other.root]);
    guest.say(&[[0x10, 0]]);
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 3 * PAGE));
    guest.say(&[[0x05 | u64::from(NAME) << 32, 1], [0x10, 0]]);
    assert_eq!(vm.reaches(0, STREAM, VA), Ok(GUEST + 4 * PAGE));
    // The device cannot write it.
    guest.entry([0b1001, 0]);
    let written = vm.model().translate(STREAM, COPIES, true);
    assert!(written.is_err(), "{written:?}");
}

#[test]
fn invalidations_take_no_memory_of_the_machine() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    guest.up();
    let (_, contexts) = space(&vm, 3);
    guest.entry(entry(contexts, 0));
    vm.memory.fail_allocation(0, true);
    for page in 0..100 {
        guest.say(&[
            [0x12 | 1 << 48, page << 12 | 1],
            [0x05 | u64::from(NAME) << 32, 1],
        ]);
    }
    vm.memory.heal();
}
