//! A guest that drives the SMMU it sees, on a model SMMU: its stage 1, its invalidations, its events and stalls, by its
//! own registers and queues.

mod vm;

use std::sync::Arc;

use iommu::addr::{Gpa, Iova};
use iommu::guest::vsmmu::{
    Behind, ContextCopies, Effect, Interrupts, ObjectSlice, Setup, VirtSmmu,
};
use iommu::hal::{DmaBuffer, GuestMemory, GuestMemoryError, Platform};
use iommu::id::{DeviceId, IommuIndex, VirtDeviceId};
use iommu::model::memory::{Buffer, Memory};
use iommu::model::smmu::{Config, Denied};
use iommu::object::driver::Access;
use iommu::object::{Context, Delivery, Device, HwptPaging, Ioas};
use iommu::smmuv3::slice::guest_record;
use iommu::smmuv3::{Identity, Offer, event};
use vm::{BYTES, GUEST, PAGE, Piece, RAM, Space, Vm, entry};

const STREAM: u32 = 0x108;
/// What the guest calls it.
const NAME: u32 = 0x20;
const VA: u64 = 0x1000;
/// Where the guest has what it needs.
const COMMANDS: u64 = GUEST + 0x10_0000;
const EVENTS: u64 = GUEST + 0x20_0000;
const TABLE: u64 = GUEST + 0x30_0000;
const LOG2: u32 = 6;

const SYNC: [u64; 2] = [0x46, 0];

/// Guest memory: `BYTES` of the machine's from `at` on.
struct Ram {
    memory: Memory,
    at: u64,
}

impl Ram {
    fn check(at: Gpa, len: usize) -> Result<u64, GuestMemoryError> {
        let offset = at.0.checked_sub(GUEST).ok_or(GuestMemoryError(at))?;
        let end = offset.checked_add(len as u64).filter(|end| *end <= BYTES);
        end.map(|_| offset).ok_or(GuestMemoryError(at))
    }
}

impl GuestMemory for Ram {
    fn read(&self, at: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let offset = Self::check(at, bytes.len())?;
        for (at, byte) in (self.at + offset..).zip(bytes) {
            *byte = (self.memory.load(at & !7) >> (at % 8 * 8)) as u8;
        }
        Ok(())
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let offset = Self::check(at, bytes.len())?;
        for (at, byte) in (self.at + offset..).zip(bytes) {
            let shift = at % 8 * 8;
            let old = self.memory.load(at & !7) & !(0xff << shift);
            self.memory.store(at & !7, old | u64::from(*byte) << shift);
            self.memory.write_barrier();
        }
        Ok(())
    }
}

/// One guest with one device, and its driver.
struct Guest {
    ram: Ram,
    smmu: VirtSmmu<Memory, ObjectSlice>,
    device: Arc<Device>,
    prod: u32,
}

fn identity(vm: &Vm) -> Identity {
    let device = vm.device(0, 0x7ff);
    let (info, _) = device.hw_info(0).expect("known");
    let [_, a, b, c, d] = info.words;
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let [[i0, i1], [i2, i3], [i4, i5], [iidr, aidr]] = [a, b, c, d].map(halves);
    Identity {
        idr: [i0, i1, i2, i3, i4, i5],
        iidr,
        aidr,
    }
}

fn setup(vm: &Vm) -> Setup<Buffer> {
    Setup {
        hardware: identity(vm),
        offer: Offer {
            stalls: true,
            address_bits: 40,
            ..Offer::default()
        },
        messages: false,
        wake: false,
        stream_bits: 8,
        command_queue_log2: 10,
        event_queue_log2: 10,
        request_queue_log2: 0,
        budget: 64,
        waiting: 4,
        patience_ns: 1_000_000_000,
        contexts: None,
    }
}

/// What a guest is in: objects of its own, and its memory.
struct Place<'a> {
    vm: &'a Vm,
    context: &'a Context,
    parent: &'a HwptPaging,
    at: u64,
}

impl<'a> Place<'a> {
    fn of(vm: &'a Vm) -> Self {
        Self {
            vm,
            context: &vm.context,
            parent: &vm.parent,
            at: RAM,
        }
    }
}

impl Guest {
    fn new(place: &Place<'_>, stream: u32, setup: Setup<Buffer>) -> Self {
        let iommu = &place.vm.iommus[0];
        let driver = iommu.driver();
        let slice = ObjectSlice::new(place.context, place.parent, &driver, 64, 8);
        let mut slice = slice.expect("a slice");
        let streams = [DeviceId(stream)];
        let device = place.context.bind(&iommu.info(&streams)).expect("bound");
        let device = Arc::new(device);
        slice.add(Arc::clone(&device), NAME).expect("named");
        let behind = Behind {
            stream: VirtDeviceId(NAME),
            ats: false,
        };
        let memory = place.vm.memory.clone();
        let smmu = VirtSmmu::new(Arc::new(memory.clone()), setup, slice, &[behind]);
        let mut guest = Self {
            ram: Ram {
                memory,
                at: place.at,
            },
            smmu: smmu.expect("it fits"),
            device,
            prod: 0,
        };
        let started = guest.smmu.start(&guest.ram);
        assert_eq!(started, Effect::default());
        guest
    }

    fn of(vm: &Vm) -> Self {
        Self::new(&Place::of(vm), STREAM, setup(vm))
    }

    fn store(&self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            self.ram
                .write(Gpa(at), &word.to_le_bytes())
                .expect("its own");
        }
    }

    fn load<const N: usize>(&self, at: u64) -> [u64; N] {
        core::array::from_fn(|word| {
            let mut bytes = [0; 8];
            let at = Gpa(at + word as u64 * 8);
            self.ram.read(at, &mut bytes).expect("its own");
            u64::from_le_bytes(bytes)
        })
    }

    fn write(&mut self, offset: u64, value: u64) -> Effect {
        let size = if matches!(offset, 0x80 | 0x90 | 0xa0) {
            8
        } else {
            4
        };
        self.smmu.write(&self.ram, offset, size, value)
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.smmu.read(offset, 4) as u32
    }

    /// All on, as a driver does it: its table is empty.
    fn up(&mut self) {
        self.write(0x90, COMMANDS | u64::from(LOG2));
        self.write(0xa0, EVENTS | 6);
        self.write(0x80, TABLE);
        self.write(0x88, 8);
        self.write(0x2c, 2);
        self.write(0x50, 5);
        self.write(0x20, 0b1101);
        self.settle();
        assert_eq!(self.read(0x24), 0b1101);
    }

    fn settle(&mut self) {
        while self.smmu.has_work() {
            let effect = self.smmu.run(&self.ram);
            assert_eq!(effect.failed, None);
        }
    }

    /// Commands and a CMD_SYNC, which completes.
    fn say(&mut self, commands: &[[u64; 2]]) {
        let mask = (2u32 << LOG2) - 1;
        for command in commands.iter().chain([&SYNC]) {
            let index = u64::from(self.prod & (mask >> 1));
            self.store(COMMANDS + index * 16, command);
            self.prod = (self.prod + 1) & mask;
        }
        let effect = self.write(0x98, self.prod.into());
        assert_eq!(effect.failed, None);
        self.settle();
        assert_eq!(self.read(0x9c), self.prod, "no error");
    }

    fn entry(&mut self, words: [u64; 2]) {
        let at = TABLE + u64::from(NAME) * 64;
        self.store(at + 8, &words[1..]);
        self.store(at, &words[..1]);
        self.say(&[[0x03 | u64::from(NAME) << 32, 1]]);
    }

    /// Takes faults of the hardware where they belong.
    fn serve(&mut self, vm: &Vm) -> Effect {
        for (_, delivery) in vm.serve(0) {
            let own = !matches!(delivery, Delivery::Record | Delivery::NotMine);
            assert_eq!(self.smmu.slice().holds(delivery), own, "{delivery:?}");
        }
        self.smmu.deliver(&self.ram)
    }
}

/// A stage 1 with `VA` at page `page`, and its context.
fn space(vm: &Vm, page: u64) -> (Space, u64) {
    let space = Space::plain(vm, 1);
    space.map(vm, VA, Some(GUEST + page * PAGE));
    let contexts = vm.take(64);
    space.place(vm, contexts);
    (space, contexts)
}

fn refused(number: u8) -> Result<u64, Denied> {
    Err(Denied::Fault {
        number,
        stage_two: false,
    })
}

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

/// xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// The words of the hardware's entry for a stream, by its own tables of two levels, split at 8.
fn physical_entry(vm: &Vm, stream: u32) -> [u64; 4] {
    let layout = vm.iommus[0].unit.physical().lock().layout();
    assert!(layout.two_level);
    let first = layout.stream_table.base.0 + u64::from(stream >> 8) * 8;
    let second = vm.memory.load(first) & 0x000f_ffff_ffff_ffc0;
    let at = second + u64::from(stream & 0xff) * 64;
    core::array::from_fn(|word| vm.memory.load(at + word as u64 * 8))
}

#[test]
fn whatever_a_guest_writes_its_streams_are_refused_or_on_stage_2() {
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    guest.up();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let (_, contexts) = space(&vm, 3);
    let [_, _, own, root] = physical_entry_of_bypass(&vm, &mut guest);
    let offsets = [
        0x20, 0x28, 0x2c, 0x44, 0x50, 0x64, 0x80, 0x88, 0x90, 0x98, 0x9c, 0xa0, 0x1_00a8, 0x1_00ac,
    ];
    let mut seen = [0u32; 8];
    for round in 0..20_000u64 {
        let roll = dice.roll();
        // Entries and commands that mean something now and then.
        let entry_at = TABLE + u64::from(NAME) * 64;
        match roll % 5 {
            0 => guest.store(entry_at, &entry(contexts, 0)),
            1 => guest.store(entry_at, &[0b1001, 0]),
            2 => guest.store(entry_at, &[dice.roll(), dice.roll(), dice.roll()]),
            _ => {}
        }
        let command = [
            [0x04, 31],
            [0x03 | u64::from(NAME) << 32, 1],
            [dice.roll() & 0xff, 0],
        ];
        let index = dice.roll() % 64;
        guest.store(COMMANDS + index * 16, &command[(roll >> 8) as usize % 3]);
        let offset = offsets[(roll >> 16) as usize % offsets.len()];
        let value = match (roll >> 32) % 4 {
            0 => dice.roll(),
            1 => [0b1101, 0b1000, 0, 1][(roll >> 40) as usize % 4],
            2 => [TABLE, COMMANDS | 6, EVENTS | 6, 8][(roll >> 40) as usize % 4],
            _ => 1 << 31 | dice.roll() & 0x101f_3f1f,
        };
        guest.write(offset, value);
        if round % 7 == 0 {
            guest.settle();
        }
        let [first, second, two, table] = physical_entry(&vm, STREAM);
        let config = (first >> 1 & 7) as usize;
        if first & 1 == 0 || config < 4 {
            seen[0] += 1;
            continue;
        }
        seen[config] += 1;
        assert!(config & 2 != 0, "{first:#x}: without stage 2");
        assert_eq!((two, table), (own, root), "stage 2 is ours");
        assert_eq!(second >> 28 & 3, 0, "EATS");
    }
    assert!(seen[0] > 100 && seen[6] > 100 && seen[7] > 100, "{seen:?}");
}

/// The hardware's entry while the guest's says bypass.
fn physical_entry_of_bypass(vm: &Vm, guest: &mut Guest) -> [u64; 4] {
    guest.entry([0b1001, 0]);
    physical_entry(vm, STREAM)
}

#[test]
fn no_event_has_an_address_of_the_host_or_anothers_stream() {
    const HOST: u64 = 0x000d_ead0_0000_0000;
    let vm = Vm::one(Config::default());
    let mut guest = Guest::of(&vm);
    guest.up();
    let (_, contexts) = space(&vm, 3);
    guest.entry(entry(contexts, 0));
    let mut dice = Dice(0x9876_5432_1234_5677);
    let (mut delivered, mut none) = (0u64, 0u64);
    for round in 0..1_000_000u64 {
        // Any type, any flags; the guest's own input address in word 2, the host's addresses elsewhere.
        let roll = dice.roll();
        let number = match roll >> 60 {
            0..8 => [0x02, 0x03, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x10][(roll >> 56) as usize % 8],
            8..12 => [0x11, 0x12, 0x13, 0x20][(roll >> 56) as usize % 4],
            _ => roll & 0xff,
        };
        let stream = if roll & 1 << 20 == 0 {
            STREAM
        } else {
            STREAM + 1
        };
        let raw = [
            number | roll & 0xffff_ff00 | u64::from(stream) << 32,
            dice.roll(),
            dice.roll() & 0xffff_f000,
            HOST | dice.roll() & 0xffff_f000,
        ];
        let fault = event::decode(IommuIndex(0), raw);
        vm.context.deliver(&fault);
        if round % 32 == 31 {
            guest.smmu.deliver(&guest.ram);
            guest.settle();
            let (prod, cons) = (guest.read(0x1_00a8), guest.read(0x1_00ac));
            let mut at = cons & 0x7f;
            while at != prod & 0x7f {
                let record: [u64; 4] = guest.load(EVENTS + u64::from(at & 0x3f) * 32);
                assert_eq!(record[0] >> 32, NAME.into(), "{record:x?}");
                assert_eq!(record[1] >> 39 & 1, 0, "stage 2 is ours: {record:x?}");
                let words = [record[0], record[2], record[3]];
                assert!(words.iter().all(|word| word & HOST != HOST), "{record:x?}");
                assert_eq!(record[3], 0);
                // Stalls are counted with the page requests.
                delivered += u64::from(record[1] >> 31 & 1 == 0);
                at = (at + 1) & 0x7f;
            }
            guest.write(0x1_00ac, prod.into());
        }
        none += u64::from(guest_record(&fault, NAME).is_none());
        while vm.context.record().is_some() {}
    }
    let events = guest.smmu.counters().events;
    assert_eq!(events.recorded, events.delivered + events.dropped());
    assert_eq!(events.delivered, delivered);
    assert!(delivered > 100_000 && none > 100_000, "{delivered}, {none}");
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
