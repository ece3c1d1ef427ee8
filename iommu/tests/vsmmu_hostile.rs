//! A hostile guest behind the SMMU it sees, on a model SMMU: what its streams go through, and what its events hold.

mod guest;

use guest::vm::{Vm, entry};
use guest::{COMMANDS, EVENTS, Guest, NAME, STREAM, TABLE, space};
use iommu::id::IommuIndex;
use iommu::model::smmu::Config;
use iommu::smmuv3::event;
use iommu::smmuv3::slice::guest_record;

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
