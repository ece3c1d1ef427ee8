//! A guest in scalable mode: second and first stages of requests without PASID, and interrupts of devices.

use iommu::guest::vvtd::{FirstStages, GuestInterrupt};
use iommu::id::{IommuIndex, VirtDeviceId};
use iommu::model::vtd::Config;
use iommu::vtd::event;

use super::guest::{
    CONTEXTS, CONTEXTS_ALL, GCMD, How, IOTLB_ALL, Machine, PASIDS_ALL, QIE, RAM, ROOT, RW, SOURCES,
    STATUS, Stage,
};

const DATA: u64 = RAM + 0x100_0000;
const DIRECTORY: u64 = RAM + 0x4000;
const PASIDS: u64 = RAM + 0x5000;
/// The root table of scalable mode.
const SCALABLE_ROOT: u64 = ROOT | 1 << 10;

/// The entry of PASID 0 of the first source, and what leads there.
fn pasid_entry(machine: &Machine, words: [u64; 3]) {
    let memory = &machine.memory;
    memory.store(ROOT, CONTEXTS | 1);
    memory.store(CONTEXTS + u64::from(SOURCES[0]) * 32, DIRECTORY | 1);
    memory.store(DIRECTORY, PASIDS | 1);
    for (at, word) in [PASIDS, PASIDS + 8, PASIDS + 16].into_iter().zip(words) {
        memory.store(at, word);
    }
}

/// On hardware of either mode: what the guest has is its own.
fn both(test: impl Fn(Machine)) {
    for scalable in [false, true] {
        let config = Config {
            scalable,
            ..Config::default()
        };
        let mut machine = Machine::new(&How {
            config,
            ..How::default()
        });
        machine.enable(SCALABLE_ROOT);
        test(machine);
    }
}

#[test]
fn second_stages_of_scalable_mode() {
    both(|mut machine| {
        let mut stage = Stage::new(0, 4);
        stage.set(&machine.memory, 0x7f_ffff_f000, DATA | RW);
        pasid_entry(&machine, [stage.root | 2 << 6 | 2 << 2 | 1, 9, 0]);
        machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, [0x26 | 9 << 16, 0]]);
        assert_eq!(machine.reach(0, 0x7f_ffff_f000, true), Some(DATA));
        stage.set(&machine.memory, 0x7f_ffff_f000, (DATA + 0x1000) | 1);
        // By page, of the PASID.
        machine.invalidate(&[[0x36 | 9 << 16, 0x7f_ffff_f000]]);
        assert_eq!(machine.reach(0, 0x7f_ffff_f000, true), None);
        assert_eq!(machine.reach(0, 0x7f_ffff_f000, false), Some(DATA + 0x1000));
        machine.faults();
        let word = 1 << 63 | 0x79 << 32 | u64::from(SOURCES[0]);
        assert_eq!(machine.fault_record(0), [0x7f_ffff_f000, word]);
    });
}

#[test]
fn first_stages_of_scalable_mode() {
    both(|mut machine| {
        let mut stage = Stage::first(0);
        stage.set(&machine.memory, 0x7000, DATA | 7);
        stage.set(&machine.memory, 0x8000, (DATA + 0x1000) | 5);
        // Not for user requests, whatever else.
        stage.set(&machine.memory, 0x9000, (DATA + 0x2000) | 3);
        pasid_entry(&machine, [1 << 6 | 1, 9, stage.root]);
        machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, [0x26 | 9 << 16, 0]]);
        assert_eq!(machine.reach(0, 0x7000, true), Some(DATA));
        assert_eq!(machine.reach(0, 0x8000, false), Some(DATA + 0x1000));
        assert_eq!(machine.reach(0, 0x8000, true), None);
        machine.faults();
        assert_eq!(machine.reach(0, 0x9000, false), None);
        machine.faults();
        assert_eq!(machine.reach(0, 0xa000, false), None);
        machine.faults();
        for (index, (page, reason, read)) in
            [(0x8000, 0x85, 0), (0x9000, 0x71, 1), (0xa000, 0x71, 1)]
                .into_iter()
                .enumerate()
        {
            let word = 1 << 63 | read << 62 | reason << 32 | u64::from(SOURCES[0]);
            assert_eq!(machine.fault_record(index as u64), [page, word]);
        }
        // Its block of 2 MiB is one of ours.
        let slot = stage.slot(&machine.memory, 0x20_0000, 1);
        machine.memory.store(slot, DATA | 0x87);
        machine.invalidate(&[[0x36 | 9 << 16, 0x20_0000 | 9]]);
        assert_eq!(machine.reach(0, 0x20_0000, true), Some(DATA));
        let walks = machine.model.counters().walks;
        assert_eq!(machine.reach(0, 0x3f_f000, true), Some(DATA + 0x1f_f000));
        assert_eq!(machine.model.counters().walks, walks);
        // Pass-through is the guest's memory.
        pasid_entry(&machine, [4 << 6 | 1, 0, 0]);
        machine.invalidate(&[PASIDS_ALL, IOTLB_ALL]);
        assert_eq!(machine.reach(0, DATA, true), Some(DATA));
    });
}

/// As for Linux, which does not say when an entry of a first stage becomes present, on hardware that does not walk it.
#[test]
fn first_stages_that_are_not_offered_are_refused() {
    let offers = |machine: &mut Machine| {
        let (cap, ecap) = (machine.unit.read(8, 8), machine.unit.read(0x10, 8));
        // CAP.FS1GP; ECAP.SMTS, SSTS and FSTS.
        (cap >> 56 & 1, ecap >> 43 & 1, ecap >> 46 & 3)
    };
    assert_eq!(offers(&mut Machine::new(&How::default())), (1, 1, 3));
    let mut machine = Machine::new(&How {
        first_stages: FirstStages::Nested,
        ..How::default()
    });
    assert_eq!(offers(&mut machine), (0, 1, 1));
    machine.enable(SCALABLE_ROOT);
    let mut stage = Stage::first(0);
    stage.set(&machine.memory, 0x7000, DATA | 7);
    pasid_entry(&machine, [1 << 6 | 1, 9, stage.root]);
    machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL, [0x26 | 9 << 16, 0]]);
    assert_eq!(machine.reach(0, 0x7000, false), None);
    machine.faults();
    let word = 1 << 63 | 1 << 62 | 0x5b << 32 | u64::from(SOURCES[0]);
    assert_eq!(machine.fault_record(0), [0x7000, word]);
}

/// Each table on the way, wrong in one way; the reason is the guest's to see (7.1.3).
#[test]
fn what_is_wrong_on_the_way_has_its_reason() {
    let rows: [(u64, u64, u64); 10] = [
        (ROOT, 0, 0x39),
        (ROOT, CONTEXTS | 1 | 2, 0x3a),
        (CONTEXTS + SOURCES[0] as u64 * 32, 0, 0x41),
        (CONTEXTS + SOURCES[0] as u64 * 32, DIRECTORY | 1 | 4, 0x42),
        (DIRECTORY, 0, 0x51),
        (DIRECTORY, PASIDS | 1 | 4, 0x52),
        (DIRECTORY, 0x80_0000_0000 | 1, 0x58),
        (PASIDS, 0, 0x59),
        (PASIDS, 2 << 6 | 2 << 2 | 1 | 1 << 9, 0x5a),
        (PASIDS, 3 << 6 | 2 << 2 | 1, 0x5b),
    ];
    for (at, word, reason) in rows {
        let mut machine = Machine::new(&How::default());
        machine.enable(SCALABLE_ROOT);
        let stage = Stage::new(0, 4);
        pasid_entry(&machine, [stage.root | 2 << 6 | 2 << 2 | 1, 9, 0]);
        machine.memory.store(at, word);
        machine.invalidate(&[CONTEXTS_ALL, PASIDS_ALL]);
        assert_eq!(machine.reach(0, 0x7000, true), None);
        machine.faults();
        let expected = 1 << 63 | reason << 32 | u64::from(SOURCES[0]);
        assert_eq!(machine.fault_record(0), [0x7000, expected], "{reason:#x}");
    }
}

const IRTA: u64 = 0xb8;
const TABLE: u64 = RAM + 0x8000;

#[test]
fn messages_are_what_the_guests_table_says() {
    let mut machine = Machine::new(&How::default());
    machine.enable(SCALABLE_ROOT);
    let source = SOURCES[0];
    let remap = |machine: &mut Machine, source, address, data| {
        let (found, _) = machine.unit.remap(&machine.memory, source, address, data);
        found
    };
    let plain = GuestInterrupt::of_message(0xfee0_3000, 0x41);
    assert_eq!((plain.destination, plain.vector), (3, 0x41));
    let everybody = GuestInterrupt::of_message(0xfeef_f000, 0x41);
    assert_eq!(everybody.destination, u32::MAX);
    assert_eq!(remap(&mut machine, source, 0xfee0_3000, 0x41), Some(plain));
    // 256 entries, wide destinations.
    machine.write(IRTA, 8, TABLE | 1 << 11 | 7);
    let on = QIE | 1 << 31;
    let effects = machine.write(GCMD, 4, on | 1 << 24);
    assert_eq!(effects[0].interrupts, Some((0, u16::MAX)));
    machine.write(GCMD, 4, on | 1 << 25);
    machine
        .memory
        .store(TABLE + 5 * 16, 0x1_0002 << 32 | 0x51 << 16 | 1);
    machine
        .memory
        .store(TABLE + 5 * 16 + 8, 1 << 18 | u64::from(source));
    let address = |index: u32| 0xfee0_0010 | index << 5;
    let found = remap(&mut machine, source, address(5), 0).expect("an entry");
    assert_eq!((found.destination, found.vector), (0x1_0002, 0x51));
    // The data is added where the message says so.
    assert_eq!(remap(&mut machine, source, address(2) | 8, 3), Some(found));
    let rows = [
        (SOURCES[1], address(5), 0, 0x26, 5),
        (source, address(6), 0, 0x22, 6),
        (source, address(256), 0, 0x21, 256),
        (source, address(5) | 8, 1 << 16, 0x20, 5),
        (source, 0xfee0_3000, 0x41, 0x25, 0),
    ];
    for (row, (source, address, data, reason, index)) in rows.into_iter().enumerate() {
        assert_eq!(remap(&mut machine, source, address, data), None);
        let record = row as u64 % 4;
        let expected = 1 << 63 | reason << 32 | u64::from(source);
        assert_eq!(machine.fault_record(record), [index << 48, expected]);
        machine.write(0x200 + record * 16 + 12, 4, 1 << 31);
    }
    // The same of messages that the hardware has refused: with the guest's reason, not the hardware's.
    let refused = |machine: &mut Machine, reason: u64, index: u64| {
        let raw = [index << 48, 1 << 63 | reason << 32 | 0x999];
        let fault = event::decode(IommuIndex(0), raw);
        let source = VirtDeviceId(SOURCES[1].into());
        let effect = machine.unit.refuse(&machine.memory, source, &fault);
        effect.is_some()
    };
    let rows = [
        (0x21, 5, 0x26, 5),
        (0x26, 0x8006, 0x21, 0x8006),
        (0x25, 0, 0x25, 0),
    ];
    for (row, (by, index, reason, told)) in (5..).zip(rows) {
        assert!(refused(&mut machine, by, index), "{by:#x}");
        let record = row % 4;
        let expected = 1 << 63 | reason << 32 | u64::from(SOURCES[1]);
        assert_eq!(machine.fault_record(record), [told << 48, expected]);
        machine.write(0x200 + record * 16 + 12, 4, 1 << 31);
    }
    // One that the guest's unit would let through, and a fault of another kind, are not the guest's.
    machine
        .memory
        .store(TABLE + 5 * 16 + 8, 1 << 18 | u64::from(SOURCES[1]));
    let recorded = machine.unit.counters().faults;
    assert!(!refused(&mut machine, 0x22, 5));
    assert!(!refused(&mut machine, 5, 5));
    assert_eq!(machine.unit.counters().faults, recorded);
    // Entries that are told to have changed are told on.
    let effects = machine.invalidate(&[[0x14 | 1 << 27 | 6 << 32, 0], [0x14 | 3 << 32, 0]]);
    assert_eq!(effects[0].interrupts, Some((3, 7)));
    assert_ne!(machine.memory.load(STATUS), 0);
}
