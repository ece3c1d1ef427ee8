//! Commands.

use std::sync::Arc;

use crate::fake::Fake;
use iommu::addr::{Hpa, Iova, Span};
use iommu::id::{CacheTag, DeviceId, IommuIndex};
use iommu::physical::{Granule, Invalidation, PhysicalIommu};
use iommu::smmuv3::Smmu;
use iommu::smmuv3::command::{Command, PageResponse, Range, Resume, Scope, Signal};

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
