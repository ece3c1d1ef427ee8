//! Transactions that stall for a guest's SMMU: from the hardware's event to the guest's queue, and from the guest's command,
//! or from the end of its time, back.

use super::machine::{Bench, Hardware, boot_info, bundle, configuration, roots};
use crate::guest_map as map;
use crate::mmio;
use crate::tick;
use crate::viommu::PATIENCE_NS;
use alloc::vec::Vec;
use iommu::addr::Gpa;
use iommu::hal::GuestMemory;
use iommu::id::IommuIndex;

/// StreamID of the attacker's edu in the machine.
const STREAM: u64 = 0x10;
const IOMMU: IommuIndex = IommuIndex(0);
/// Where the guest has its queues, its stream table, its context and its first table.
const COMMANDS: u64 = map::RAM.0 + 0x1_0000;
const EVENTS: u64 = map::RAM.0 + 0x2_0000;
const STREAMS: u64 = map::RAM.0 + 0x3_0000;
const CONTEXT: u64 = map::RAM.0 + 0x4_0000;
const TABLE: u64 = map::RAM.0 + 0x5_0000;
/// Tag of the hardware's.
const TAG: u64 = 0x1234;

impl Bench {
    fn stalling(stalls: bool) -> Self {
        let mut machine = configuration();
        machine.partitions[0].viommu = true;
        let built = Hardware::with_stalls(&boot_info(), roots(), bundle(&machine), stalls);
        let bench = Self::started(1, built);
        arch::cpu::set_index(0);
        bench
    }

    /// What the guest calls the edu.
    fn name(&self) -> u64 {
        let owned = &self.system.partitions[0].devices.owned[1];
        u64::from(owned.virt.0)
    }

    fn smmu_register(&self, offset: u64, value: Option<u64>) -> u64 {
        let own = &self.system.partitions[0];
        let size = if matches!(offset, 0x80 | 0x90 | 0xa0) {
            8
        } else {
            4
        };
        let at = map::SMMU.base.0 + offset;
        mmio::access(self.system, own, 0, at, size, value).unwrap_or(0)
    }

    fn store(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let ram = &self.system.partitions[0].ram;
        ram.write(Gpa(at), &bytes).expect("the guest's own");
    }

    fn load(&self, at: u64) -> [u64; 4] {
        let mut bytes = [0; 32];
        let ram = &self.system.partitions[0].ram;
        ram.read(Gpa(at), &mut bytes).expect("the guest's own");
        let (words, _) = bytes.as_chunks::<8>();
        core::array::from_fn(|word| u64::from_le_bytes(words[word]))
    }

    /// The guest's driver: its queues, one stream whose faults stall.
    fn drive(&self) {
        // CD: T0SZ 25, V, IPS 40 bits, AA64, S, R, A, ASID 1; EPD1 (IHI 0070, 5.4).
        let context = 25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 7 << 44 | 1 << 48;
        self.store(CONTEXT, &[context, TABLE, 0, 0xff]);
        // STE: V, stage 1.
        self.store(
            STREAMS + self.name() * 64,
            &[1 | 0b101 << 1 | CONTEXT, 0, 0, 0],
        );
        for (offset, value) in [
            (0x90, COMMANDS | 6),
            (0xa0, EVENTS | 6),
            (0x80, STREAMS),
            (0x88, 8),
            (0x20, 0b1101),
        ] {
            self.smmu_register(offset, Some(value));
        }
        self.say(0, &[[0x03 | self.name() << 32, 1]]);
        assert_eq!(self.smmu.entry(STREAM)[0] & 0xf, 0xf, "nested");
    }

    /// Commands of the guest from slot `at` of its queue on.
    fn say(&self, at: u64, commands: &[[u64; 2]]) {
        for (slot, command) in (at..).zip(commands) {
            self.store(COMMANDS + slot * 16, command);
        }
        let prod = at + commands.len() as u64;
        self.smmu_register(0x98, Some(prod));
        for _ in 0..8 {
            self.system.partitions[0].serve_viommus(self.system);
        }
        assert_eq!(self.smmu_register(0x9c, None), prod);
    }

    /// F_PERMISSION of a privileged instruction fetch that stalls.
    fn stall(&self) {
        let second = TAG | 1 << 31 | 1 << 33 | 1 << 34 | 1 << 35 | 2 << 40;
        self.smmu.report([0x13 | STREAM << 32, second, 0x7000, 0]);
        assert!(!self.system.gate.serve_faults(self.system, IOMMU));
    }

    fn answers(&self) -> Vec<[u64; 2]> {
        core::mem::take(&mut *self.smmu.answers.lock().unwrap())
    }
}

#[test]
fn a_stall_reaches_the_guest_and_its_resume_the_hardware() {
    let bench = Bench::stalling(true);
    assert_eq!(bench.smmu_register(0, None) >> 24 & 3, 0, "offered");
    bench.drive();
    bench.answers();
    for (at, (ab, resumed)) in [(1 << 12, 1 << 12), (0, 2 << 12)].into_iter().enumerate() {
        bench.stall();
        let prod = at as u64 + 1;
        assert_eq!(bench.smmu_register(0x1_00a8, None), prod);
        let [first, second, input, last] = bench.load(EVENTS + at as u64 * 32);
        assert_eq!((first, input, last), (0x13 | bench.name() << 32, 0x7000, 0));
        // STALL, PnU, InD, RnW, CLASS = IN; the tag is the guest's own.
        assert_eq!(second >> 16, 1 << 15 | 0b111 << 17 | 2 << 24);
        assert!(bench.answers().is_empty());
        let tag = second & 0xffff;
        // CMD_RESUME: retry, or terminate (4.7.1).
        bench.say(prod, &[[0x44 | bench.name() << 32 | ab, tag]]);
        assert_eq!(bench.answers(), [[0x44 | STREAM << 32 | resumed, TAG]]);
        bench.smmu_register(0x1_00ac, Some(prod));
    }
}

#[test]
fn a_stall_that_its_guest_does_not_answer_ends_in_time() {
    let bench = Bench::stalling(true);
    bench.drive();
    bench.answers();
    bench.stall();
    tick::serve(bench.system);
    assert!(bench.answers().is_empty());
    arch::clock::advance(PATIENCE_NS + 20_000_000);
    tick::serve(bench.system);
    assert_eq!(bench.answers(), [[0x44 | STREAM << 32 | 2 << 12, TAG]]);
    // What the guest says afterwards is too late, and changes nothing.
    let [_, second, ..] = bench.load(EVENTS);
    bench.say(1, &[[0x44 | bench.name() << 32 | 1 << 12, second & 0xffff]]);
    assert!(bench.answers().is_empty());
    // A guest that is gone leaves nobody waiting.
    bench.stall();
    let own = &bench.system.partitions[0];
    own.life.ask(crate::life::Change::Stop);
    own.carry(bench.system, crate::life::Change::Stop);
    let ended = bench.answers();
    assert!(
        ended
            .iter()
            .any(|it| it[0] as u8 == 0x44 || it[0] as u8 == 0x45)
    );
}

#[test]
fn what_the_hardware_cannot_do_is_not_offered() {
    let bench = Bench::stalling(false);
    // Terminate; no page requests, no ATS.
    let idr0 = bench.smmu_register(0, None);
    assert_eq!((idr0 >> 24 & 3, idr0 >> 16 & 1, idr0 >> 10 & 1), (1, 0, 0));
}
