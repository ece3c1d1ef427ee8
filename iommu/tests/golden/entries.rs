//! Entries of streams and contexts.

use std::sync::Arc;

use crate::fake::Fake;
use crate::genmask;
use iommu::addr::Hpa;
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Granule, PhysicalIommu, StageOneConfig, StageTwo, StreamConfig};
use iommu::smmuv3::{ContextDescriptor, GuestEntry, IllegalEntry, Smmu, StageOneTable};

/// What one device's attach leaves in memory, and what was programmed, on the SMMU of QEMU's virt machine.
#[test]
fn an_entry_of_a_39_bit_stage_2() {
    let fake = Fake::new();
    let mut smmu =
        Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone())).expect("starts");
    let attach = |smmu: &mut Smmu<Fake, Fake>, input_bits| {
        smmu.attach(
            DeviceId(0x0108),
            StreamConfig::StageTwo(StageTwo {
                tag: CacheTag(7),
                root: Hpa(0x8_1234_5000),
                input_bits,
                ats: false,
            }),
        )
        .expect("fits");
        fake.state().entry(0x0108).expect("has an entry")
    };
    // V, Config = stage 2 | SHCFG = incoming | R, PTW, AFFD, AA64, PS = 44 bits, SH inner, WB, SL0 = 1, T0SZ = 25, VMID 7.
    let words = attach(&mut smmu, 39);
    assert_eq!(
        words,
        [
            0xd,
            0x1000_0000_0000,
            0x046c_3559_0000_0007,
            0x8_1234_5000,
            0,
            0,
            0,
            0
        ]
    );
    // 44 bits: T0SZ = 20, SL0 = 2.
    let words = attach(&mut smmu, 44);
    assert_eq!(words[2], 0x046c_3594_0000_0007);

    let state = fake.state();
    // Read-allocate, two-level, split 8, 16 bits of StreamID.
    assert_eq!(state.registers[&0x80] >> 52, 0x400);
    assert_eq!(state.registers[&0x88], 0x1_0210);
    // Read-allocate, 256 commands; write-allocate, 1,024 events.
    assert_eq!(
        state.registers[&0x90] & 0xfff0_0000_0000_001f,
        0x4000_0000_0000_0008
    );
    assert_eq!(
        state.registers[&0xa0] & 0xfff0_0000_0000_001f,
        0x4000_0000_0000_000a
    );
    // Write-back inner shareable tables and queues; record bad StreamIDs, private TLB maintenance.
    assert_eq!(state.registers[&0x28], 0xd75);
    assert_eq!(state.registers[&0x2c], 6);
    assert_eq!(state.registers[&0x50], 5);
    // The level 1 descriptor of bus 1: 2^8 entries.
    let base = state.registers[&0x80] & 0x000f_ffff_ffff_ffc0;
    assert_eq!(state.memory[&(base + 8)] & 0x3f, 9);
}

#[test]
fn an_entry_with_a_stage_1_of_the_guest() {
    let fake = Fake::new();
    let mut smmu =
        Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone())).expect("starts");
    let two = StageTwo {
        tag: CacheTag(7),
        root: Hpa(0x8_1234_5000),
        input_bits: 39,
        ats: false,
    };
    // As Linux writes it: V, S1 translates, table at 0x4567_8000 | write-back, inner shareable.
    let words = [0xb | 0x4567_8000, 0xd4];
    let Ok(GuestEntry::Translate { stage_one, ats }) = GuestEntry::read(words) else {
        panic!("legal");
    };
    assert!(!ats);
    let nested = StreamConfig::Nested {
        stage_two: two,
        stage_one,
    };
    smmu.attach(DeviceId(0x108), nested).expect("fits");
    assert_eq!(
        fake.state().entry(0x108).expect("has an entry"),
        [
            0xf | 0x4567_8000,
            // SHCFG incoming, MEV, CSH, COR, CIR.
            0x1000_0008_00d4,
            0x046c_3559_0000_0007,
            0x8_1234_5000,
            0,
            0,
            0,
            0
        ]
    );
    let one = StreamConfig::StageOne {
        tag: CacheTag(7),
        stage_one,
    };
    smmu.attach(DeviceId(0x108), one).expect("fits");
    assert_eq!(
        fake.state().entry(0x108).expect("has an entry"),
        [0xb | 0x4567_8000, 0x1000_0000_00d4, 7, 0, 0, 0, 0, 0]
    );
}

#[test]
fn what_a_guest_entry_may_say() {
    assert_eq!(
        GuestEntry::read([0xffff_fffe, u64::MAX]),
        Ok(GuestEntry::Abort { invalid: true })
    );
    assert_eq!(
        GuestEntry::read([1, 0]),
        Ok(GuestEntry::Abort { invalid: false })
    );
    assert_eq!(GuestEntry::read([0x9, 0]), Ok(GuestEntry::Bypass));
    // Reserved Configs, stage 2, nested.
    for config in [1u64, 2, 3, 6, 7] {
        assert_eq!(
            GuestEntry::read([1 | config << 1, 0]),
            Err(IllegalEntry([config << 1, 0]))
        );
    }
    // Bit by bit, in each Config: on the list or refused.
    let first = genmask(5, 0) | genmask(51, 6) | genmask(63, 59);
    let second = genmask(7, 0) | genmask(27, 27) | genmask(29, 28);
    for config in [0u64, 4, 5] {
        for bit in 6..64 {
            let entry = GuestEntry::read([1 | config << 1 | 1 << bit, 0]);
            assert_eq!(entry.is_ok(), first >> bit & 1 != 0, "word 0 bit {bit}");
        }
        for bit in 0..64 {
            let entry = GuestEntry::read([1 | config << 1, 1 << bit]);
            // EATS = 0b10 is split stage ATS.
            let allowed = second >> bit & 1 != 0 && bit != 29;
            assert_eq!(entry.is_ok(), allowed, "word 1 bit {bit}");
        }
    }
    let everything = GuestEntry::read([0x1b | 0x000f_ffff_ffff_ffc0 | 20 << 59, 0x1800_00de]);
    assert_eq!(
        everything,
        Ok(GuestEntry::Translate {
            stage_one: StageOneConfig {
                format: 1,
                contexts: 0x000f_ffff_ffff_ffc0,
                contexts_log2: 20,
                default_context: 2,
                inner: 3,
                outer: 1,
                shareability: 3,
                no_stall: true,
                ats: false,
            },
            ats: true
        })
    );
    // Reserved S1Fmt and S1DSS, which mean nothing with one context.
    assert_eq!(
        GuestEntry::read([0x3b | 1 << 59, 0]),
        Err(IllegalEntry([0x30, 0]))
    );
    assert_eq!(
        GuestEntry::read([0xb | 1 << 59, 3]),
        Err(IllegalEntry([0, 3]))
    );
    assert!(GuestEntry::read([0x3b, 3]).is_ok());
}

#[test]
fn a_context_descriptor() {
    let fake = Fake::new();
    let smmu = Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone())).expect("starts");
    let table = StageOneTable {
        asid: 0x1234,
        root: Hpa(0x8_1234_0000),
        input_bits: 48,
        granule: Granule::Size4K,
        attributes: 0xff44_0c04_00ff,
    };
    let words = |table| ContextDescriptor::new(&table, &smmu.features()).map(|it| it.0);
    // ASID | ASET, A, R, AA64, AFFD, IPS = 44 bits | V, EPD1, inner shareable, WB, T0SZ = 16.
    assert_eq!(
        words(table),
        Ok([
            0x1234_e20c_c000_3510,
            0x8_1234_0000,
            0,
            0xff44_0c04_00ff,
            0,
            0,
            0,
            0
        ])
    );
    let other = |granule| words(StageOneTable { granule, ..table }).expect("has it")[0];
    assert_eq!(other(Granule::Size16K) >> 6 & 3, 2);
    assert_eq!(other(Granule::Size64K) >> 6 & 3, 1);
}
