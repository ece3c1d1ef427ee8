//! Layouts against words transcribed from elsewhere: bit ranges as Linux's `arm-smmu-v3.h` names them (`GENMASK(high,
//! low)`, `BIT`), entries put together by hand from the tables of IHI 0070 and DDI 0487. Nothing here uses the crate's
//! own definitions to say what is expected.

mod fake;

use std::sync::Arc;

use fake::Fake;
use iommu::addr::{Hpa, Iova, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Invalidation, PhysicalIommu, StageTwo, StreamConfig};
use iommu::smmuv3::Smmu;
use iommu::smmuv3::command::Command;
use iommu::smmuv3::spec::{command as c, event as e, registers as r, ste as s};

const fn genmask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

macro_rules! fields {
    ($($ours:expr => $high:literal, $low:literal;)*) => {
        $(
            let field = $ours;
            assert_eq!(
                u64::from(field.mask) << field.shift,
                genmask($high, $low),
                stringify!($ours),
            );
        )*
    };
}

#[test]
fn entry_fields() {
    fields! {
        s::STE0::V => 0, 0;
        s::STE0::CONFIG => 3, 1;
        s::STE1::EATS => 29, 28;
        s::STE1::SHCFG => 45, 44;
        s::STE2::S2VMID => 15, 0;
        s::STE2::S2T0SZ => 37, 32;
        s::STE2::S2SL0 => 39, 38;
        s::STE2::S2IR0 => 41, 40;
        s::STE2::S2OR0 => 43, 42;
        s::STE2::S2SH0 => 45, 44;
        s::STE2::S2TG => 47, 46;
        s::STE2::S2PS => 50, 48;
        s::STE2::S2AA64 => 51, 51;
        s::STE2::S2ENDI => 52, 52;
        s::STE2::S2AFFD => 53, 53;
        s::STE2::S2PTW => 54, 54;
        s::STE2::S2S => 57, 57;
        s::STE2::S2R => 58, 58;
        s::STE3::S2TTB => 51, 4;
        s::L1STD::SPAN => 4, 0;
        s::L1STD::L2PTR => 51, 6;
    }
}

#[test]
fn command_fields() {
    fields! {
        c::CMD0::OPCODE => 7, 0;
        c::CMD0::STREAM_ID => 63, 32;
        c::CMD0::NUM => 16, 12;
        c::CMD0::SCALE => 24, 20;
        c::CMD0::VMID => 47, 32;
        c::CMD0::CS => 13, 12;
        c::CMD1::LEAF => 0, 0;
        c::CMD1::RANGE => 4, 0;
        c::CMD1::TTL => 9, 8;
        c::CMD1::TG => 11, 10;
        c::CMD1::ADDRESS => 51, 12;
    }
}

#[test]
fn event_fields() {
    fields! {
        e::EVENT0::TYPE => 7, 0;
        e::EVENT0::SSV => 11, 11;
        e::EVENT0::SUBSTREAM_ID => 31, 12;
        e::EVENT0::STREAM_ID => 63, 32;
        e::EVENT1::STAG => 15, 0;
        e::EVENT1::STALL => 31, 31;
        e::EVENT1::PNU => 33, 33;
        e::EVENT1::IND => 34, 34;
        e::EVENT1::RNW => 35, 35;
        e::EVENT1::S2 => 39, 39;
        e::EVENT1::CLASS => 41, 40;
        e::EVENT3::IPA => 51, 12;
    }
}

#[test]
fn register_fields() {
    fields! {
        r::IDR0_FIELDS::S2P => 0, 0;
        r::IDR0_FIELDS::S1P => 1, 1;
        r::IDR0_FIELDS::TTF => 3, 2;
        r::IDR0_FIELDS::COHACC => 4, 4;
        r::IDR0_FIELDS::HYP => 9, 9;
        r::IDR0_FIELDS::VMID16 => 18, 18;
        r::IDR0_FIELDS::TTENDIAN => 22, 21;
        r::IDR0_FIELDS::ST_LEVEL => 28, 27;
        r::IDR1_FIELDS::SIDSIZE => 5, 0;
        r::IDR1_FIELDS::EVENTQS => 20, 16;
        r::IDR1_FIELDS::CMDQS => 25, 21;
        r::IDR1_FIELDS::QUEUES_PRESET => 29, 29;
        r::IDR1_FIELDS::TABLES_PRESET => 30, 30;
        r::IDR3_FIELDS::RIL => 10, 10;
        r::IDR5_FIELDS::OAS => 2, 0;
        r::IDR5_FIELDS::GRAN4K => 4, 4;
        r::CR0_FIELDS::SMMUEN => 0, 0;
        r::CR0_FIELDS::EVENTQEN => 2, 2;
        r::CR0_FIELDS::CMDQEN => 3, 3;
        r::CR1_FIELDS::TABLE_SH => 11, 10;
        r::CR1_FIELDS::TABLE_OC => 9, 8;
        r::CR1_FIELDS::TABLE_IC => 7, 6;
        r::CR1_FIELDS::QUEUE_SH => 5, 4;
        r::CR1_FIELDS::QUEUE_OC => 3, 2;
        r::CR1_FIELDS::QUEUE_IC => 1, 0;
        r::CR2_FIELDS::RECINVSID => 1, 1;
        r::CR2_FIELDS::PTM => 2, 2;
        r::GBPA_FIELDS::UPDATE => 31, 31;
        r::GBPA_FIELDS::ABORT => 20, 20;
        r::IRQ_CTRL_FIELDS::GERROR_IRQEN => 0, 0;
        r::IRQ_CTRL_FIELDS::EVENTQ_IRQEN => 2, 2;
        r::GERROR_FIELDS::CMDQ_ERR => 0, 0;
        r::GERROR_FIELDS::EVENTQ_ABT_ERR => 2, 2;
        r::GERROR_FIELDS::SFM_ERR => 8, 8;
        r::STRTAB_BASE_CFG_FIELDS::LOG2SIZE => 5, 0;
        r::STRTAB_BASE_CFG_FIELDS::SPLIT => 10, 6;
        r::STRTAB_BASE_CFG_FIELDS::FMT => 17, 16;
        r::CMDQ_CONS_FIELDS::ERR => 30, 24;
        r::EVENTQ_INDEX_FIELDS::OVERFLOW => 31, 31;
    }
    let offsets = [
        (r::IDR0, 0x0),
        (r::IDR1, 0x4),
        (r::IDR3, 0xc),
        (r::IDR5, 0x14),
        (r::CR0, 0x20),
        (r::CR0ACK, 0x24),
        (r::CR1, 0x28),
        (r::CR2, 0x2c),
        (r::GBPA, 0x44),
        (r::IRQ_CTRL, 0x50),
        (r::IRQ_CTRLACK, 0x54),
        (r::GERROR, 0x60),
        (r::GERRORN, 0x64),
        (r::STRTAB_BASE, 0x80),
        (r::STRTAB_BASE_CFG, 0x88),
        (r::CMDQ_BASE, 0x90),
        (r::CMDQ_PROD, 0x98),
        (r::CMDQ_CONS, 0x9c),
        (r::EVENTQ_BASE, 0xa0),
        (r::EVENTQ_PROD, 0x1_00a8),
        (r::EVENTQ_CONS, 0x1_00ac),
    ];
    for (ours, theirs) in offsets {
        assert_eq!(ours, theirs);
    }
}

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
    // 256 commands, 1,024 events.
    assert_eq!(state.registers[&0x90] & 0x1f, 8);
    assert_eq!(state.registers[&0xa0] & 0x1f, 10);
    // Write-back inner shareable tables and queues; record bad StreamIDs, private TLB maintenance.
    assert_eq!(state.registers[&0x28], 0xd75);
    assert_eq!(state.registers[&0x2c], 6);
    assert_eq!(state.registers[&0x50], 5);
    // The level 1 descriptor of bus 1: 2^8 entries.
    let base = state.registers[&0x80] & 0x000f_ffff_ffff_ffc0;
    assert_eq!(state.memory[&(base + 8)] & 0x3f, 9);
}

#[test]
fn commands() {
    let device = DeviceId(0x1_2345);
    assert_eq!(
        Command::cfgi_ste(device, true).0,
        [0x0001_2345_0000_0003, 1]
    );
    assert_eq!(
        Command::cfgi_ste(device, false).0,
        [0x0001_2345_0000_0003, 0]
    );
    assert_eq!(Command::cfgi_all().0, [0x04, 0x1f]);
    assert_eq!(Command::tlbi_nsnh_all().0, [0x30, 0]);
    assert_eq!(Command::tlbi_el2_all().0, [0x20, 0]);
    assert_eq!(
        Command::tlbi_s12_vmall(CacheTag(0xbeef)).0,
        [0x0000_beef_0000_0028, 0]
    );
    assert_eq!(Command::sync().0, [0x46, 0]);

    let fake = Fake::new();
    let mut smmu =
        Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone())).expect("starts");
    fake.commands();
    let range = |pages: u64| Invalidation::StageTwoRange {
        tag: CacheTag(5),
        range: Span::<Iova>::new(Iova(0x4020_0000), pages << 12).expect("range"),
        leaf: false,
    };
    smmu.invalidate(&[range(512), range(33)]).expect("works");
    assert_eq!(
        fake.commands(),
        [
            // 512 pages: SCALE 9, NUM 0. 33: one page, then SCALE 5, NUM 0.
            [0x0000_0005_0090_002a, 0x4020_0400],
            [0x0000_0005_0000_002a, 0x4020_0000],
            [0x0000_0005_0050_002a, 0x4020_1400],
            [0x46, 0],
        ]
    );
}
