//! Fields and offsets.

use crate::genmask;
use iommu::smmuv3::spec::cd;

use iommu::smmuv3::spec::command as c;
use iommu::smmuv3::spec::event as e;
use iommu::smmuv3::spec::registers as r;
use iommu::smmuv3::spec::ste as s;

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
    // STRTAB_BASE_RA, Q_BASE_RWA.
    assert_eq!(r::STRTAB_BASE_RA, genmask(62, 62));
    assert_eq!(r::QUEUE_BASE_ALLOCATE, genmask(62, 62));
}
