//! Layouts of VT-d against words transcribed from elsewhere: `BIT`, shifts and masks as Linux's `drivers/iommu/intel/{iommu,
//! pasid}.h` and VirtualBox's `include/VBox/iommu-intel.h` write them, entries and descriptors put together by hand.
//! Nothing here uses the crate's own definitions to say what is expected.

use iommu::vtd::spec::registers as r;
use iommu::vtd::spec::{
    context as c, descriptor as d, fault as f, irte as i, page_request as q, pasid as p,
};

/// The field has exactly these bits.
macro_rules! masks {
    ($($ours:expr => $mask:literal;)*) => {
        $(
            let field = $ours;
            assert_eq!(
                u64::from(field.mask) << field.shift,
                $mask,
                stringify!($ours),
            );
        )*
    };
}

#[test]
fn register_offsets() {
    // DMAR_*_REG of both; IQERCD of VirtualBox.
    let offsets = [
        (r::VER, 0x0),
        (r::CAP, 0x8),
        (r::ECAP, 0x10),
        (r::GCMD, 0x18),
        (r::GSTS, 0x1c),
        (r::RTADDR, 0x20),
        (r::CCMD, 0x28),
        (r::FSTS, 0x34),
        (r::FECTL, 0x38),
        (r::FEDATA, 0x3c),
        (r::FEADDR, 0x40),
        (r::FEUADDR, 0x44),
        (r::PMEN, 0x64),
        (r::PLMBASE, 0x68),
        (r::PLMLIMIT, 0x6c),
        (r::PHMBASE, 0x70),
        (r::PHMLIMIT, 0x78),
        (r::IQH, 0x80),
        (r::IQT, 0x88),
        (r::IQA, 0x90),
        (r::IECTL, 0xa0),
        (r::IQERCD, 0xb0),
        (r::IRTA, 0xb8),
        (r::PQH, 0xc0),
        (r::PQT, 0xc8),
        (r::PQA, 0xd0),
        (r::PRS, 0xdc),
        (r::PECTL, 0xe0),
    ];
    for (ours, theirs) in offsets {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn capabilities() {
    masks! {
        r::CAP_FIELDS::ND => 0x7;
        r::CAP_FIELDS::AFL => 0x8;
        r::CAP_FIELDS::RWBF => 0x10;
        r::CAP_FIELDS::PLMR => 0x20;
        r::CAP_FIELDS::PHMR => 0x40;
        r::CAP_FIELDS::CM => 0x80;
        r::CAP_FIELDS::SAGAW => 0x1f00;
        r::CAP_FIELDS::MGAW => 0x3f_0000;
        r::CAP_FIELDS::ZLR => 0x40_0000;
        r::CAP_FIELDS::FRO => 0x3_ff00_0000;
        r::CAP_FIELDS::SLLPS => 0x3c_0000_0000;
        r::CAP_FIELDS::PSI => 0x80_0000_0000;
        r::CAP_FIELDS::NFR => 0xff00_0000_0000;
        r::CAP_FIELDS::MAMV => 0x3f_0000_0000_0000;
        r::CAP_FIELDS::DWD => 0x40_0000_0000_0000;
        r::CAP_FIELDS::DRD => 0x80_0000_0000_0000;
        r::CAP_FIELDS::FS1GP => 0x100_0000_0000_0000;
        r::CAP_FIELDS::PI => 0x800_0000_0000_0000;
        r::CAP_FIELDS::FS5LP => 0x1000_0000_0000_0000;
        r::CAP_FIELDS::ESIRTPS => 0x4000_0000_0000_0000;
        r::CAP_FIELDS::ESRTPS => 0x8000_0000_0000_0000;
    }
    // Linux: ecap_*(e) ((e) >> shift) & mask.
    masks! {
        r::ECAP_FIELDS::C => 0x1;
        r::ECAP_FIELDS::QI => 0x2;
        r::ECAP_FIELDS::DT => 0x4;
        r::ECAP_FIELDS::IR => 0x8;
        r::ECAP_FIELDS::EIM => 0x10;
        r::ECAP_FIELDS::PT => 0x40;
        r::ECAP_FIELDS::SC => 0x80;
        r::ECAP_FIELDS::IRO => 0x3_ff00;
        r::ECAP_FIELDS::MHMV => 0xf0_0000;
        r::ECAP_FIELDS::NEST => 0x400_0000;
        r::ECAP_FIELDS::PRS => 0x2000_0000;
        r::ECAP_FIELDS::SRS => 0x8000_0000;
        r::ECAP_FIELDS::PSS => 0xf8_0000_0000;
        r::ECAP_FIELDS::PASID => 0x100_0000_0000;
        r::ECAP_FIELDS::EAFS => 0x4_0000_0000;
        r::ECAP_FIELDS::DIT => 0x200_0000_0000;
        r::ECAP_FIELDS::PDS => 0x400_0000_0000;
        r::ECAP_FIELDS::SMTS => 0x800_0000_0000;
        r::ECAP_FIELDS::SSADS => 0x2000_0000_0000;
        r::ECAP_FIELDS::SSTS => 0x4000_0000_0000;
        r::ECAP_FIELDS::FSTS => 0x8000_0000_0000;
        r::ECAP_FIELDS::SMPWCS => 0x1_0000_0000_0000;
    }
}

#[test]
fn controls() {
    masks! {
        r::GCMD_FIELDS::TE => 0x8000_0000;
        r::GCMD_FIELDS::SRTP => 0x4000_0000;
        r::GCMD_FIELDS::SFL => 0x2000_0000;
        r::GCMD_FIELDS::EAFL => 0x1000_0000;
        r::GCMD_FIELDS::WBF => 0x800_0000;
        r::GCMD_FIELDS::QIE => 0x400_0000;
        r::GCMD_FIELDS::IRE => 0x200_0000;
        r::GCMD_FIELDS::SIRTP => 0x100_0000;
        r::GCMD_FIELDS::CFI => 0x80_0000;
        r::FSTS_FIELDS::PFO => 0x1;
        r::FSTS_FIELDS::PPF => 0x2;
        r::FSTS_FIELDS::IQE => 0x10;
        r::FSTS_FIELDS::ICE => 0x20;
        r::FSTS_FIELDS::ITE => 0x40;
        r::FSTS_FIELDS::FRI => 0xff00;
        r::FECTL_FIELDS::IM => 0x8000_0000;
        r::FECTL_FIELDS::IP => 0x4000_0000;
        r::PMEN_FIELDS::EPM => 0x8000_0000;
        r::PMEN_FIELDS::PRS => 0x1;
        r::PRS_FIELDS::PPR => 0x1;
        r::PRS_FIELDS::PRO => 0x2;
    }
    masks! {
        // SMT is bit 10, of two bits in later revisions.
        r::RTADDR_FIELDS::TTM => 0xc00;
        r::CCMD_FIELDS::ICC => 0x8000_0000_0000_0000;
        r::CCMD_FIELDS::CIRG => 0x6000_0000_0000_0000;
        r::CCMD_FIELDS::FM => 0x3_0000_0000;
        r::CCMD_FIELDS::SID => 0xffff_0000;
        r::CCMD_FIELDS::DID => 0xffff;
        r::IOTLB_FIELDS::IVT => 0x8000_0000_0000_0000;
        r::IOTLB_FIELDS::IIRG => 0x3000_0000_0000_0000;
        r::IOTLB_FIELDS::DR => 0x2_0000_0000_0000;
        r::IOTLB_FIELDS::DW => 0x1_0000_0000_0000;
        r::IOTLB_FIELDS::DID => 0xffff_0000_0000;
        r::IVA_FIELDS::AM => 0x3f;
        r::IVA_FIELDS::IH => 0x40;
        r::IQA_FIELDS::QS => 0x7;
        r::IQA_FIELDS::DW => 0x800;
        r::IQ_FIELDS::INDEX => 0x7_fff0;
        r::IQERCD_FIELDS::IQEI => 0xf;
        r::IQERCD_FIELDS::ITESID => 0xffff_0000_0000;
        r::IQERCD_FIELDS::ICESID => 0xffff_0000_0000_0000;
        r::IRTA_FIELDS::S => 0xf;
        r::IRTA_FIELDS::EIME => 0x800;
    }
    assert_eq!(r::RTADDR_FIELDS::TTM::Scalable.value, 1 << 10);
    assert_eq!(r::CCMD_FIELDS::CIRG::Global.value, 1 << 61);
    assert_eq!(r::CCMD_FIELDS::CIRG::Device.value, 3 << 61);
    assert_eq!(r::IOTLB_FIELDS::IIRG::Global.value, 1 << 60);
    assert_eq!(r::IOTLB_FIELDS::IIRG::Page.value, 3 << 60);
}

#[test]
fn contexts() {
    const PAGE: u64 = 0xffff_ffff_ffff_f000;
    masks! {
        c::ROOT::P => 0x1;
        c::CONTEXT0::P => 0x1;
        c::CONTEXT0::FPD => 0x2;
        c::CONTEXT0::TT => 0xc;
        c::CONTEXT1::AW => 0x7;
        c::CONTEXT1::DID => 0xff_ff00;
        c::SCALABLE0::P => 0x1;
        c::SCALABLE0::FPD => 0x2;
        c::SCALABLE0::DTE => 0x4;
        c::SCALABLE0::PASIDE => 0x8;
        c::SCALABLE0::PRE => 0x10;
        c::SCALABLE0::PDTS => 0xe00;
        c::SCALABLE1::RID_PASID => 0xf_ffff;
        c::SCALABLE1::RID_PRIV => 0x10_0000;
        p::DIRECTORY::P => 0x1;
        p::DIRECTORY::FPD => 0x2;
        p::PASID0::P => 0x1;
        p::PASID0::FPD => 0x2;
        p::PASID0::AW => 0x1c;
        p::PASID0::PGTT => 0x1c0;
        p::PASID0::SSADE => 0x200;
        p::PASID1::DID => 0xffff;
        p::PASID1::PWSNP => 0x80_0000;
        p::PASID1::PGSNP => 0x100_0000;
        p::PASID2::SRE => 0x1;
        p::PASID2::FSPM => 0xc;
        p::PASID2::WPE => 0x10;
        p::PASID2::EAFE => 0x80;
    }
    let pointers = [
        (c::ROOT::CTP.mask, c::ROOT::CTP.shift),
        (c::CONTEXT0::SSPTPTR.mask, c::CONTEXT0::SSPTPTR.shift),
        (
            c::SCALABLE0::PASIDDIRPTR.mask,
            c::SCALABLE0::PASIDDIRPTR.shift,
        ),
        (p::DIRECTORY::SMPTBLPTR.mask, p::DIRECTORY::SMPTBLPTR.shift),
        (p::PASID0::SSPTPTR.mask, p::PASID0::SSPTPTR.shift),
        (p::PASID2::FSPTPTR.mask, p::PASID2::FSPTPTR.shift),
        (r::RTADDR_FIELDS::RTA.mask, r::RTADDR_FIELDS::RTA.shift),
        (r::IQA_FIELDS::IQA.mask, r::IQA_FIELDS::IQA.shift),
        (r::IRTA_FIELDS::IRTA.mask, r::IRTA_FIELDS::IRTA.shift),
        (d::IOTLB1::ADDR.mask, d::IOTLB1::ADDR.shift),
        (f::FAULT0::FI.mask, f::FAULT0::FI.shift),
    ];
    for (mask, shift) in pointers {
        assert_eq!(mask << shift, PAGE);
    }
    // CONTEXT_TT_*, PASID_ENTRY_PGTT_*.
    assert_eq!(c::CONTEXT0::TT::SecondStageAndDeviceTlb.value, 1 << 2);
    assert_eq!(c::CONTEXT0::TT::PassThrough.value, 2 << 2);
    assert_eq!(p::PASID0::PGTT::FirstStage.value, 1 << 6);
    assert_eq!(p::PASID0::PGTT::SecondStage.value, 2 << 6);
    assert_eq!(p::PASID0::PGTT::Nested.value, 3 << 6);
    assert_eq!(p::PASID0::PGTT::PassThrough.value, 4 << 6);
}

#[test]
fn descriptors() {
    masks! {
        d::DESCRIPTOR::TYPE => 0xf;
        d::CONTEXT_CACHE::G => 0x30;
        d::CONTEXT_CACHE::DID => 0xffff_0000;
        d::CONTEXT_CACHE::SID => 0xffff_0000_0000;
        d::CONTEXT_CACHE::FM => 0x3_0000_0000_0000;
        d::PASID_CACHE::G => 0x30;
        d::PASID_CACHE::DID => 0xffff_0000;
        d::PASID_CACHE::PASID => 0xf_ffff_0000_0000;
        d::IOTLB0::G => 0x30;
        d::IOTLB0::DW => 0x40;
        d::IOTLB0::DR => 0x80;
        d::IOTLB0::DID => 0xffff_0000;
        d::IOTLB1::AM => 0x3f;
        d::IOTLB1::IH => 0x40;
        d::PASID_IOTLB::G => 0x30;
        d::PASID_IOTLB::DID => 0xffff_0000;
        d::PASID_IOTLB::PASID => 0xf_ffff_0000_0000;
        // QI_DEV_IOTLB_QDEP, _SID, _SIZE; QI_DEV_EIOTLB_QDEP, _SID, _PASID, _GLOB, _SIZE.
        d::DEVICE_TLB0::MIP => 0x1f_0000;
        d::DEVICE_TLB0::SID => 0xffff_0000_0000;
        d::DEVICE_TLB1::S => 0x1;
        d::PASID_DEVICE_TLB0::MIP => 0x1f0;
        d::PASID_DEVICE_TLB0::SID => 0xffff_0000;
        d::PASID_DEVICE_TLB0::PASID => 0xf_ffff_0000_0000;
        d::PASID_DEVICE_TLB1::G => 0x1;
        d::PASID_DEVICE_TLB1::S => 0x800;
        d::INTERRUPT_ENTRY_CACHE::G => 0x10;
        d::INTERRUPT_ENTRY_CACHE::IM => 0xf800_0000;
        d::INTERRUPT_ENTRY_CACHE::IIDX => 0xffff_0000_0000;
        d::WAIT0::IF => 0x10;
        d::WAIT0::SW => 0x20;
        d::WAIT0::FN => 0x40;
        d::WAIT0::PD => 0x80;
        // struct page_req_dsc of Linux, drivers/iommu/intel/prq.c, as bit fields.
        q::REQUEST0::TYPE => 0xff;
        q::REQUEST0::PP => 0x100;
        q::REQUEST0::RID => 0xffff_0000;
        q::REQUEST0::PASID => 0xf_ffff_0000_0000;
        q::REQUEST0::EXR => 0x10_0000_0000_0000;
        q::REQUEST0::PMR => 0x20_0000_0000_0000;
        q::REQUEST1::RDR => 0x1;
        q::REQUEST1::WRR => 0x2;
        q::REQUEST1::LPIG => 0x4;
        q::REQUEST1::PRGI => 0xff8;
        q::REQUEST1::ADDRESS => 0xffff_ffff_ffff_f000;
        r::PQA_FIELDS::PQS => 0x7;
        r::PQA_FIELDS::PQA => 0xffff_ffff_ffff_f000;
        d::WAIT0::DATA => 0xffff_ffff_0000_0000;
        d::WAIT1::ADDR => 0xffff_ffff_ffff_fffc;
        d::PAGE_GROUP0::PP => 0x10;
        d::PAGE_GROUP0::RC => 0xf000;
        d::PAGE_GROUP0::RID => 0xffff_0000;
        d::PAGE_GROUP1::PRGI => 0xff8;
    }
    // QI_*_TYPE.
    let types = [
        (d::DESCRIPTOR::TYPE::ContextCache, 0x1),
        (d::DESCRIPTOR::TYPE::Iotlb, 0x2),
        (d::DESCRIPTOR::TYPE::DeviceTlb, 0x3),
        (d::DESCRIPTOR::TYPE::InterruptEntryCache, 0x4),
        (d::DESCRIPTOR::TYPE::Wait, 0x5),
        (d::DESCRIPTOR::TYPE::PasidIotlb, 0x6),
        (d::DESCRIPTOR::TYPE::PasidCache, 0x7),
        (d::DESCRIPTOR::TYPE::PasidDeviceTlb, 0x8),
        (d::DESCRIPTOR::TYPE::PageGroupResponse, 0x9),
    ];
    for (ours, theirs) in types {
        assert_eq!(ours.value, theirs);
    }
    // QI_PC_*, QI_GRAN_*_PASID, QI_RESP_*.
    assert_eq!(d::PASID_CACHE::G::Pasid.value, 1 << 4);
    assert_eq!(d::PASID_CACHE::G::Global.value, 3 << 4);
    assert_eq!(d::PASID_IOTLB::G::Pasid.value, 2 << 4);
    assert_eq!(d::PASID_IOTLB::G::Page.value, 3 << 4);
    assert_eq!(d::PAGE_GROUP0::RC::Failure.value, 0xf << 12);
}

#[test]
fn faults_and_interrupts() {
    masks! {
        f::FAULT1::SID => 0xffff;
        f::FAULT1::PRIV => 0x2000_0000;
        f::FAULT1::EXE => 0x4000_0000;
        f::FAULT1::PP => 0x8000_0000;
        f::FAULT1::FR => 0xff_0000_0000;
        f::FAULT1::PV => 0xfff_ff00_0000_0000;
        f::FAULT1::AT => 0x3000_0000_0000_0000;
        f::FAULT1::T1 => 0x4000_0000_0000_0000;
        f::FAULT1::F => 0x8000_0000_0000_0000;
        i::IRTE0::P => 0x1;
        i::IRTE0::FPD => 0x2;
        i::IRTE0::DM => 0x4;
        i::IRTE0::RH => 0x8;
        i::IRTE0::TM => 0x10;
        i::IRTE0::DLM => 0xe0;
        i::IRTE0::IM => 0x8000;
        i::IRTE0::V => 0xff_0000;
        i::IRTE0::DST => 0xffff_ffff_0000_0000;
        i::IRTE0::DST_XAPIC => 0xff00_0000_0000;
        i::IRTE1::SID => 0xffff;
        i::IRTE1::SQ => 0x3_0000;
        i::IRTE1::SVT => 0xc_0000;
    }
    // Linux: FRCD.F is the topmost of the last 32 bits.
    assert_eq!((r::FRCD_BYTES, r::FRCD_LAST, r::FRCD_F), (16, 12, 1 << 31));
}
