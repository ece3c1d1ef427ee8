//! Layouts against words transcribed from elsewhere: bit ranges as Linux's `arm-smmu-v3.h` names them (`GENMASK(high,
//! low)`, `BIT`), entries put together by hand from the tables of IHI 0070 and DDI 0487. Nothing here uses the crate's
//! own definitions to say what is expected.
//!
//! Fields that Linux does not name are by the headings of IHI 0070 H.a (`NAME, bits [high:low]`: §5.1 to §5.4, §6.3).

mod fake;

use std::sync::Arc;

use fake::Fake;
use iommu::addr::{Hpa, Iova, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{
    Granule, Invalidation, PhysicalIommu, StageOneConfig, StageTwo, StreamConfig,
};
use iommu::smmuv3::command::{Command, PageResponse, Range, Resume, Scope, Signal};
use iommu::smmuv3::spec::{cd, command as c, event as e, registers as r, ste as s};
use iommu::smmuv3::{ContextDescriptor, GuestEntry, IllegalEntry, Smmu, StageOneTable};

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
        s::STE0::S1FMT => 5, 4;
        s::STE0::S1CONTEXTPTR => 51, 6;
        s::STE0::S1CDMAX => 63, 59;
        s::STE1::S1DSS => 1, 0;
        s::STE1::S1CIR => 3, 2;
        s::STE1::S1COR => 5, 4;
        s::STE1::S1CSH => 7, 6;
        s::STE1::MEV => 19, 19;
        s::STE1::S2FWB => 25, 25;
        s::STE1::S1STALLD => 27, 27;
        s::STE1::STRW => 31, 30;
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
fn context_fields() {
    fields! {
        cd::L1CD::V => 0, 0;
        cd::L1CD::L2PTR => 51, 12;
        cd::CD0::T0SZ => 5, 0;
        cd::CD0::TG0 => 7, 6;
        cd::CD0::IR0 => 9, 8;
        cd::CD0::OR0 => 11, 10;
        cd::CD0::SH0 => 13, 12;
        cd::CD0::EPD0 => 14, 14;
        cd::CD0::ENDI => 15, 15;
        cd::CD0::T1SZ => 21, 16;
        cd::CD0::TG1 => 23, 22;
        cd::CD0::IR1 => 25, 24;
        cd::CD0::OR1 => 27, 26;
        cd::CD0::SH1 => 29, 28;
        cd::CD0::EPD1 => 30, 30;
        cd::CD0::V => 31, 31;
        cd::CD0::IPS => 34, 32;
        cd::CD0::AFFD => 35, 35;
        cd::CD0::WXN => 36, 36;
        cd::CD0::UWXN => 37, 37;
        cd::CD0::TBI0 => 38, 38;
        cd::CD0::TBI1 => 39, 39;
        cd::CD0::AA64 => 41, 41;
        cd::CD0::HD => 42, 42;
        cd::CD0::HA => 43, 43;
        cd::CD0::S => 44, 44;
        cd::CD0::R => 45, 45;
        cd::CD0::A => 46, 46;
        cd::CD0::ASET => 47, 47;
        cd::CD0::ASID => 63, 48;
        cd::CD1::TTB => 51, 4;
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
        c::CMD0::ASID => 63, 48;
        c::CMD0::GLOBAL => 9, 9;
        c::CMD0::SSV => 11, 11;
        c::CMD0::SSID => 31, 12;
        c::CMD0::AC => 12, 12;
        c::CMD0::AB => 13, 13;
        c::CMD0::MSH => 23, 22;
        c::CMD0::MSI_ATTR => 27, 24;
        c::CMD0::MSI_DATA => 63, 32;
        c::CMD0::CS => 13, 12;
        c::CMD1::LEAF => 0, 0;
        c::CMD1::RANGE => 4, 0;
        c::CMD1::TTL => 9, 8;
        c::CMD1::TG => 11, 10;
        c::CMD1::ADDRESS => 51, 12;
        c::CMD1::VA => 63, 12;
        c::CMD1::SIZE => 5, 0;
        c::CMD1::PRGI => 8, 0;
        c::CMD1::RESP => 13, 12;
        c::CMD1::STAG => 15, 0;
        c::CMD1::MSI_ADDRESS => 51, 2;
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
        r::IDR0_FIELDS::ATS => 10, 10;
        r::IDR0_FIELDS::ASID16 => 12, 12;
        r::IDR0_FIELDS::MSI => 13, 13;
        r::IDR0_FIELDS::SEV => 14, 14;
        r::IDR0_FIELDS::PRI => 16, 16;
        r::IDR0_FIELDS::CD2L => 19, 19;
        r::IDR0_FIELDS::STALL_MODEL => 25, 24;
        r::IDR0_FIELDS::TERM_MODEL => 26, 26;
        r::IDR1_FIELDS::SSIDSIZE => 10, 6;
        r::IDR3_FIELDS::FWB => 8, 8;
        r::IDR3_FIELDS::BBML => 12, 11;
        r::IDR5_FIELDS::GRAN16K => 5, 5;
        r::IDR5_FIELDS::GRAN64K => 6, 6;
        r::IIDR_FIELDS::IMPLEMENTER => 11, 0;
        r::IIDR_FIELDS::REVISION => 15, 12;
        r::IIDR_FIELDS::VARIANT => 19, 16;
        r::IIDR_FIELDS::PRODUCT_ID => 31, 20;
        r::GERROR_FIELDS::PRIQ_ABT_ERR => 3, 3;
        r::GERROR_FIELDS::MSI_CMDQ_ABT_ERR => 4, 4;
        r::GERROR_FIELDS::MSI_EVENTQ_ABT_ERR => 5, 5;
        r::GERROR_FIELDS::MSI_PRIQ_ABT_ERR => 6, 6;
        r::GERROR_FIELDS::MSI_GERROR_ABT_ERR => 7, 7;
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
        (r::IIDR, 0x18),
        (r::AIDR, 0x1c),
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
    assert_eq!(Command::sync(Signal::None).0, [0x46, 0]);

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
            // 512 pages: SCALE 4, NUM 31. 33: 32 from each end.
            [0x0000_0005_0041_f02a, 0x4020_0400],
            [0x0000_0005_0010_f02a, 0x4020_0400],
            [0x0000_0005_0001_f02a, 0x4020_1400],
            [0x46, 0],
        ]
    );
}

/// Opcodes by the names of Linux's `arm-smmu-v3.h` (`CMDQ_OP_*`), fields by its `GENMASK`s above; every command with all
/// of its fields at their ends, so that a stray bit shows.
#[test]
fn every_command() {
    let device = DeviceId(0xffff_fffe);
    let sid = 0xffff_fffe_0000_0000u64;
    let tag = CacheTag(0xfffe);
    let vmid = 0x0000_fffe_0000_0000u64;
    let asid = 0xfffd_0000_0000_0000u64;
    let va = Iova(0xffff_ffff_ffff_f000);
    let cases = [
        (Command::prefetch_config(device), [0x01 | sid, 0]),
        (Command::cfgi_ste_range(device, 8), [0x04 | sid, 7]),
        (Command::cfgi_ste_range(device, 31), [0x04 | sid, 30]),
        (
            Command::cfgi_cd(device, 0xf_fffe, true),
            [0x05 | 0xf_fffe << 12 | sid, 1],
        ),
        (
            Command::cfgi_cd(device, 1, false),
            [0x05 | 1 << 12 | sid, 0],
        ),
        (Command::cfgi_cd_all(device), [0x06 | sid, 0]),
        (Command::cfgi_vms_pidm(tag), [0x07 | vmid, 0]),
        (Command::tlbi_nh_all(tag), [0x10 | vmid, 0]),
        (Command::tlbi_nh_asid(tag, 0xfffd), [0x11 | vmid | asid, 0]),
        (
            Command::tlbi_address(Scope::Va(tag, 0xfffd), va, true),
            [0x12 | vmid | asid, 0xffff_ffff_ffff_f001],
        ),
        (
            Command::tlbi_address(Scope::Vaa(tag), va, false),
            [0x13 | vmid, 0xffff_ffff_ffff_f000],
        ),
        (Command::tlbi_el2_all(), [0x20, 0]),
        (Command::tlbi_el2_asid(0xfffd), [0x21 | asid, 0]),
        (
            Command::tlbi_address(Scope::El2Va(0xfffd), va, true),
            [0x22 | asid, 0xffff_ffff_ffff_f001],
        ),
        (
            Command::tlbi_address(Scope::El2Vaa, va, false),
            [0x23, 0xffff_ffff_ffff_f000],
        ),
        (Command::tlbi_s12_vmall(tag), [0x28 | vmid, 0]),
        // An IPA ends at bit 51.
        (
            Command::tlbi_address(Scope::Ipa(tag), va, true),
            [0x2a | vmid, 0x000f_ffff_ffff_f001],
        ),
        (Command::tlbi_nsnh_all(), [0x30, 0]),
        (
            Command::atc_inv(device, None, Some((va, 51))),
            [0x40 | sid, 0xffff_ffff_ffff_f000 | 51],
        ),
        (
            Command::atc_inv(device, Some(0xf_fffe), None),
            [0x40 | 1 << 11 | 0xf_fffe << 12 | sid, 52],
        ),
        (
            Command::atc_inv_global(device, None),
            [0x40 | 1 << 9 | 1 << 11 | sid, 52],
        ),
        (
            Command::pri_resp(device, None, 0x1ff, PageResponse::Failure),
            [0x41 | sid, 0x1ff],
        ),
        (
            Command::pri_resp(device, None, 1, PageResponse::Invalid),
            [0x41 | sid, 1 << 12 | 1],
        ),
        (
            Command::pri_resp(device, Some(3), 1, PageResponse::Success),
            [0x41 | 1 << 11 | 3 << 12 | sid, 2 << 12 | 1],
        ),
        (
            Command::resume(device, 0xfffe, Resume::Terminate),
            [0x44 | sid, 0xfffe],
        ),
        (
            Command::resume(device, 1, Resume::Retry),
            [0x44 | 1 << 12 | sid, 1],
        ),
        (
            Command::resume(device, 1, Resume::Abort),
            [0x44 | 2 << 12 | sid, 1],
        ),
        (Command::stall_term(device), [0x45 | sid, 0]),
        (Command::sync(Signal::Irq), [0x46 | 1 << 12, 0]),
        (Command::sync(Signal::Event), [0x46 | 2 << 12, 0]),
        (
            Command::sync(Signal::Message {
                address: Hpa(0x000f_ffff_ffff_fffc),
                data: 0xdead_beef,
                memory: true,
            }),
            [
                0xdead_beef_0000_0046 | 1 << 12 | 3 << 22 | 0xf << 24,
                0x000f_ffff_ffff_fffc,
            ],
        ),
        (
            Command::sync(Signal::Message {
                address: Hpa(0x0809_0040),
                data: 7,
                memory: false,
            }),
            [0x7_0000_0046 | 1 << 12 | 1 << 24, 0x0809_0040],
        ),
    ];
    for (command, words) in cases {
        assert_eq!(command.0, words, "{:#x}", words[0] & 0xff);
    }
    // NUM, SCALE, TTL, TG at their ends, each granule.
    for (granule, tg) in [(12, 1u64), (14, 2), (16, 3)] {
        let range = Range {
            granule,
            num: 31,
            scale: 31,
            level: 3,
        };
        let command = Command::tlbi_range(Scope::Va(tag, 0xfffd), va, range, true);
        let first = 0x12 | 31 << 12 | 31 << 20 | vmid | asid;
        let second = 0xffff_ffff_ffff_f000 | tg << 10 | 3 << 8 | 1;
        assert_eq!(command.0, [first, second]);
    }
}

#[test]
fn invalidations_of_stage_1() {
    let fake = Fake::with(0x18, 0x4872_143b);
    let mut smmu =
        Smmu::start(IommuIndex(0), fake.clone(), Arc::new(fake.clone())).expect("starts");
    fake.commands();
    let tag = CacheTag(5);
    let range = |level, granule, base, len| Invalidation::StageOneRange {
        tag,
        asid: Some(0x22),
        range: Span::<Iova>::new(Iova(base), len).expect("range"),
        granule,
        level,
        leaf: true,
    };
    let address = |asid| Invalidation::StageOneAddress {
        tag,
        asid,
        address: Iova(0x4020_1000),
        leaf: false,
    };
    let batch = [
        Invalidation::StageOne(tag),
        Invalidation::AddressSpace { tag, asid: 0x22 },
        address(Some(0x22)),
        address(None),
        // One 2 MiB block: TTL 2, SCALE 9; the same of 64 KiB granules, 512 MiB: SCALE 13.
        range(2, Granule::Size4K, 0x4020_0000, 0x20_0000),
        range(2, Granule::Size64K, 0x4000_0000, 0x2000_0000),
        // A page with its level: TG and TTL, without NUM and SCALE.
        range(3, Granule::Size16K, 0x4000_4000, 0x4000),
        // The same without: no TG either.
        range(0, Granule::Size16K, 0x4000_4000, 0x4000),
        Invalidation::Context {
            device: DeviceId(0x108),
            pasid: 0,
            leaf: true,
        },
        Invalidation::Contexts(DeviceId(0x108)),
        Invalidation::Device(DeviceId(0x108)),
    ];
    smmu.invalidate(&batch).expect("works");
    assert_eq!(
        fake.commands(),
        [
            [0x0000_0005_0000_0010, 0],
            [0x0022_0005_0000_0011, 0],
            [0x0022_0005_0000_0012, 0x4020_1000],
            [0x0000_0005_0000_0013, 0x4020_1000],
            [0x0022_0005_0090_0012, 0x4020_0601],
            [0x0022_0005_00d0_0012, 0x4000_0e01],
            [0x0022_0005_0000_0012, 0x4000_4b01],
            [0x0022_0005_0000_0012, 0x4000_4001],
            [0x0000_0108_0000_0005, 1],
            [0x0000_0108_0000_0006, 0],
            [0x0000_0108_0000_0003, 1],
            [0x46, 0],
        ]
    );
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
