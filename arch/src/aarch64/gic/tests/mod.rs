//! The driver against a GIC that behaves.

mod lpis;

use super::fake::{FakeDistributor, FakeRedistributors, Frame};
use super::sysreg::{self, Register};
use super::{Gic, GicError, Intid, Kind, Trigger};
use crate::mmio::MmioRegion;
use alloc::sync::Arc;
use alloc::vec;

/// GICD_TYPER: 8 × 32 interrupts, LPIs, 16 bits of INTID.
const TYPER: u32 = 7 | 1 << 17 | 15 << 19;
const GICD: u64 = 0x800_0000;
const GICR: u64 = 0x80A_0000;
/// Affinities 0 and 1, with the RES1 and MT bits that an MPIDR has.
const CPUS: [u64; 2] = [0x8000_0000, 0x8100_0001];

struct Machine {
    distributor: Arc<FakeDistributor>,
    redistributors: Arc<FakeRedistributors>,
    gic: Result<Gic, GicError>,
}

fn machine(
    distributor: FakeDistributor,
    stride: u64,
    frames: &[Frame],
    stated: Option<u64>,
    cpus: &[u64],
) -> Machine {
    let distributor = Arc::new(distributor);
    let redistributors = Arc::new(FakeRedistributors::new(stride, frames));
    let region = MmioRegion::fake(GICR, redistributors.len(), redistributors.clone());
    let gic = Gic::new(
        MmioRegion::fake(GICD, 0x1_0000, distributor.clone()),
        vec![region],
        stated,
        cpus,
    );
    Machine {
        distributor,
        redistributors,
        gic,
    }
}

fn two_cpus() -> (Arc<FakeDistributor>, Arc<FakeRedistributors>, Gic) {
    let frames = [Frame::new(0), Frame::new(1).last()];
    let machine = machine(
        FakeDistributor::new(TYPER, 0x3B, 3),
        0x2_0000,
        &frames,
        None,
        &CPUS,
    );
    (
        machine.distributor,
        machine.redistributors,
        machine.gic.unwrap(),
    )
}

fn with_frames(frames: &[Frame]) -> Result<Gic, GicError> {
    machine(
        FakeDistributor::new(TYPER, 0x3B, 0),
        0x2_0000,
        frames,
        None,
        &CPUS,
    )
    .gic
}

#[test]
fn numbers_have_kinds() {
    let kinds = [0, 15, 16, 31, 32, 1019].map(|n| Intid(n).kind());
    assert_eq!(
        kinds,
        [
            Kind::Sgi,
            Kind::Sgi,
            Kind::Ppi,
            Kind::Ppi,
            Kind::Spi,
            Kind::Spi
        ]
    );
    assert!(
        [1020, 1023, 1056, 4096, 8191]
            .iter()
            .all(|n| Intid(*n).kind() == Kind::None)
    );
    assert_eq!(Intid(8192).kind(), Kind::Lpi);
    assert_eq!(
        (Intid::sgi(15).0, Intid::ppi(9).0, Intid::spi(74).0),
        (15, 25, 106)
    );
}

#[test]
fn nothing_that_firmware_left_on_stays_on() {
    let (distributor, _, _gic) = two_cpus();
    // ARE_NS, EnableGrp1, one Security state.
    assert_eq!(distributor.control(), 0b101_0010);
    for word in 1..8 {
        let state = [0x100, 0x200, 0x300].map(|register| distributor.word(register + 4 * word));
        assert_eq!(state, [0; 3]);
        assert_eq!(distributor.word(0x080 + 4 * word), !0, "Group 1");
    }
    assert!((8..64).all(|word| distributor.word(0x400 + 4 * word) == 0x8080_8080));
    // What is not an SPI belongs to the Redistributors.
    assert_eq!(distributor.word(0x100), !0);
}

#[test]
fn an_spi_goes_to_one_cpu_and_stops() {
    let (distributor, _, gic) = two_cpus();
    let spi = Intid(106);
    gic.enable(spi, Trigger::Edge, 1).unwrap();
    assert_eq!(distributor.word(0x10C), 1 << 10);
    assert_eq!(distributor.word(0xC18), 0b10 << 20);
    assert_eq!(distributor.route(106), 1);
    gic.route(spi, 0).unwrap();
    assert_eq!(distributor.route(106), 0);
    // Enabled again with another trigger, while it is enabled: the fake panics if it is not stopped in between.
    gic.enable(spi, Trigger::Level, 1).unwrap();
    assert_eq!((distributor.word(0xC18), distributor.route(106)), (0, 1));
    gic.disable(spi, 0).unwrap();
    assert_eq!(distributor.word(0x10C), 0);
}

#[test]
fn ppis_and_sgis_are_of_their_cpu() {
    let (distributor, redistributors, gic) = two_cpus();
    gic.init_cpu(1).unwrap();
    gic.enable(Intid::ppi(9), Trigger::Level, 1).unwrap();
    gic.enable(Intid::ppi(10), Trigger::Edge, 1).unwrap();
    gic.enable(Intid::sgi(3), Trigger::Edge, 1).unwrap();
    assert_eq!(redistributors.word(1, 0x100), 1 << 25 | 1 << 26 | 1 << 3);
    assert_eq!(redistributors.word(1, 0xC04), 0b10 << 20);
    assert_eq!(
        redistributors.word(0, 0x100),
        !0,
        "the other CPU has not been set up"
    );
    gic.disable(Intid::ppi(9), 1).unwrap();
    assert_eq!(redistributors.word(1, 0x100), 1 << 26 | 1 << 3);
    assert_eq!(distributor.word(0x100), !0);
}

#[test]
fn state_is_set_and_read_where_the_interrupt_lives() {
    let (distributor, redistributors, gic) = two_cpus();
    gic.init_cpu(0).unwrap();
    gic.set_active(Intid(40), 0, true).unwrap();
    gic.set_pending(Intid::ppi(11), 0, true).unwrap();
    assert_eq!(
        (distributor.word(0x304), redistributors.word(0, 0x200)),
        (1 << 8, 1 << 27)
    );
    assert_eq!(
        (
            gic.is_active(Intid(40), 0),
            gic.is_pending(Intid::ppi(11), 0)
        ),
        (Ok(true), Ok(true))
    );
    assert_eq!(
        (
            gic.is_pending(Intid(40), 0),
            gic.is_active(Intid::ppi(11), 0)
        ),
        (Ok(false), Ok(false))
    );
    gic.set_active(Intid(40), 0, false).unwrap();
    gic.set_pending(Intid::ppi(11), 0, false).unwrap();
    assert_eq!(
        (distributor.word(0x304), redistributors.word(0, 0x200)),
        (0, 0)
    );
}

#[test]
fn interrupts_that_are_not_there_are_refused() {
    let (_, _, gic) = two_cpus();
    for n in [256, 1019, 1020, 1023, 4096, 8192, u32::MAX] {
        assert_eq!(
            gic.enable(Intid(n), Trigger::Level, 0),
            Err(GicError::Intid(Intid(n)))
        );
        assert_eq!(gic.disable(Intid(n), 0), Err(GicError::Intid(Intid(n))));
        assert_eq!(
            gic.set_active(Intid(n), 0, true),
            Err(GicError::Intid(Intid(n)))
        );
        assert_eq!(gic.route(Intid(n), 0), Err(GicError::Intid(Intid(n))));
    }
    assert_eq!(
        gic.enable(Intid(40), Trigger::Level, 2),
        Err(GicError::Cpu(2))
    );
    assert_eq!(gic.send_sgi(0, Intid(16)), Err(GicError::Intid(Intid(16))));
    assert_eq!(gic.send_sgi(2, Intid(1)), Err(GicError::Cpu(2)));
}

#[test]
fn redistributors_are_found_by_affinity_in_any_order() {
    let (_, redistributors, gic) = two_cpus();
    let swapped = [CPUS[1], CPUS[0]];
    let gic_swapped = machine(
        FakeDistributor::new(TYPER, 0x3B, 0),
        0x2_0000,
        &[Frame::new(0), Frame::new(1)],
        None,
        &swapped,
    );
    let target = gic_swapped.gic.unwrap().its_target(0).unwrap();
    assert_eq!(
        (target.redistributor, target.processor),
        (GICR + 0x2_0000, 1)
    );
    let target = gic.its_target(1).unwrap();
    assert_eq!(
        (target.redistributor, target.processor),
        (GICR + 0x2_0000, 1)
    );
    assert!(!redistributors.is_awake(0));
}

#[test]
fn each_region_is_walked_to_its_last_frame() {
    let first = Arc::new(FakeRedistributors::new(
        0x2_0000,
        &[Frame::new(7), Frame::new(0).last(), Frame::new(1)],
    ));
    let cluster = Frame {
        typer: Frame::new(0).typer | 0x0102_0300 << 32 | 1 << 4,
        ..Frame::new(0)
    };
    let second = Arc::new(FakeRedistributors::new(0x2_0000, &[cluster]));
    let regions = |cpus: &[u64]| {
        let distributor = Arc::new(FakeDistributor::new(TYPER, 0x3B, 0));
        let regions = [(GICR, first.clone()), (0x10_0000_0000, second.clone())];
        let regions = regions
            .map(|(base, device)| MmioRegion::fake(base, device.len(), device))
            .into();
        Gic::new(
            MmioRegion::fake(GICD, 0x1_0000, distributor),
            regions,
            None,
            cpus,
        )
    };
    // Aff3 is MPIDR_EL1[39:32].
    let far = 0x01_8002_0300;
    let gic = regions(&[0x8000_0000, far]).unwrap();
    assert_eq!(gic.its_target(0).unwrap().redistributor, GICR + 0x2_0000);
    assert_eq!(gic.its_target(1).unwrap().redistributor, 0x10_0000_0000);
    // The frame after the last one is none.
    assert_eq!(regions(&[1]).err(), Some(GicError::NoRedistributor(1)));
}

#[test]
fn virtual_lpis_and_firmware_widen_the_stride() {
    let wide = |number| Frame {
        typer: Frame::new(number).typer | 1 << 1,
        ..Frame::new(number)
    };
    let cpus = [0, 1];
    let distributor = || FakeDistributor::new(TYPER, 0x3B, 0);
    let by_type = machine(
        distributor(),
        0x4_0000,
        &[wide(0), wide(1).last()],
        None,
        &cpus,
    );
    assert_eq!(
        by_type.gic.unwrap().its_target(1).unwrap().redistributor,
        GICR + 0x4_0000
    );
    let stated = machine(
        distributor(),
        0x8_0000,
        &[Frame::new(0), Frame::new(1).last()],
        Some(0x8_0000),
        &cpus,
    );
    assert_eq!(
        stated.gic.unwrap().its_target(1).unwrap().redistributor,
        GICR + 0x8_0000
    );
    for stride in [0, 0x1_0000, 0x2_8000] {
        let refused = machine(
            distributor(),
            0x2_0000,
            &[Frame::new(0)],
            Some(stride),
            &[0],
        );
        assert_eq!(refused.gic.err(), Some(GicError::Stride(stride)));
    }
    // Half of a wide frame.
    let cut = machine(distributor(), 0x2_0000, &[wide(0)], None, &[0]);
    assert_eq!(cut.gic.err(), Some(GicError::RegionTooShort(GICR)));
}

#[test]
fn two_redistributors_for_one_cpu_are_refused() {
    assert_eq!(
        with_frames(&[Frame::new(0), Frame::new(1), Frame::new(0)]).err(),
        Some(GicError::TwoRedistributors(CPUS[0]))
    );
    assert_eq!(
        with_frames(&[Frame::new(0)]).err(),
        Some(GicError::NoRedistributor(CPUS[1]))
    );
}

#[test]
fn hardware_that_does_not_answer_is_given_up() {
    let broken = machine(
        FakeDistributor::new(TYPER, 0x3B, u32::MAX),
        0x2_0000,
        &[Frame::new(0)],
        None,
        &[0],
    );
    assert_eq!(broken.gic.err(), Some(GicError::DistributorTimeout));
    let gic_v2 = machine(
        FakeDistributor::new(TYPER, 0x2B, 0),
        0x2_0000,
        &[Frame::new(0)],
        None,
        &[0],
    );
    assert_eq!(gic_v2.gic.err(), Some(GicError::NotGicV3(0x2B)));
    let asleep = Frame {
        sleepy: u32::MAX,
        ..Frame::new(0)
    };
    let gic = with_frames(&[asleep, Frame::new(1)]).unwrap();
    assert_eq!(gic.init_cpu(0), Err(GicError::WakeTimeout(0)));
    let stuck = Frame {
        stuck: true,
        ..Frame::new(0)
    };
    let gic = with_frames(&[stuck, Frame::new(1)]).unwrap();
    assert_eq!(gic.init_cpu(0), Err(GicError::RedistributorTimeout(0)));
}

#[test]
fn a_cpu_interface_needs_system_registers() {
    let (_, redistributors, gic) = two_cpus();
    gic.init_cpu(0).unwrap();
    assert!(redistributors.is_awake(0) && !redistributors.is_awake(1));
    assert_eq!(
        [0x100, 0x200, 0x300, 0xC04].map(|register| redistributors.word(0, register)),
        [0; 4]
    );
    assert_eq!(redistributors.word(0, 0x080), !0);
    let writes = sysreg::fake::take_writes();
    assert_eq!(writes[0], (Register::ICC_SRE_EL2, 0xF));
    assert!(writes.contains(&(Register::ICC_CTLR_EL1, 0b10)), "EOImode");
    assert!(writes.contains(&(Register::ICC_PMR_EL1, 0xFF)));
    assert_eq!(writes.last(), Some(&(Register::ICC_IGRPEN1_EL1, 1)));
}

#[test]
fn no_priority_that_firmware_left_active_masks_anything() {
    let (_, _, gic) = two_cpus();
    // ICC_CTLR_EL1.PRIbits: 5, 6 and 7 bits. The fake's PMR keeps every bit: Group 0 is ours.
    for (bits, registers) in [(5, 1), (6, 2), (7, 4)] {
        sysreg::fake::set(Register::ICC_CTLR_EL1, (bits - 1) << 8);
        sysreg::fake::take_writes();
        gic.init_cpu(0).unwrap();
        let writes = sysreg::fake::take_writes();
        let place = |register, value| writes.iter().position(|write| *write == (register, value));
        let all = [
            [Register::ICC_AP1R0_EL1, Register::ICC_AP0R0_EL1],
            [Register::ICC_AP1R1_EL1, Register::ICC_AP0R1_EL1],
            [Register::ICC_AP1R2_EL1, Register::ICC_AP0R2_EL1],
            [Register::ICC_AP1R3_EL1, Register::ICC_AP0R3_EL1],
        ];
        for (n, register) in all
            .into_iter()
            .enumerate()
            .flat_map(|(n, pair)| pair.map(|r| (n, r)))
        {
            assert_eq!(
                place(register, 0).is_some(),
                n < registers,
                "{register:?} with {bits} bits"
            );
        }
        assert!(place(Register::ICC_IGRPEN0_EL1, 0).is_some());
        assert!(place(Register::ICC_PMR_EL1, 1 << (8 - bits)) < place(Register::ICC_PMR_EL1, 0xFF));
    }
}

#[test]
fn taking_and_ending_are_one_register_each() {
    let (_, _, gic) = two_cpus();
    sysreg::fake::take_writes();
    let take = |value| {
        sysreg::fake::set(Register::ICC_IAR1_EL1, value);
        gic.acknowledge()
    };
    assert_eq!(take(27), Some(Intid(27)));
    assert_eq!(take(8192), Some(Intid(8192)));
    assert_eq!([1020, 1022, 1023].map(take), [None; 3]);
    gic.end(Intid(27));
    gic.deactivate(Intid(27));
    gic.end(Intid(8192));
    gic.deactivate(Intid(8192));
    let expected = [
        (Register::ICC_EOIR1_EL1, 27),
        (Register::ICC_DIR_EL1, 27),
        (Register::ICC_EOIR1_EL1, 8192),
    ];
    assert_eq!(sysreg::fake::take_writes(), expected);
}

#[test]
fn an_sgi_names_one_cpu() {
    // ICC_SGI1R_EL1: Aff3 [55:48], RS [47:44], Aff2 [39:32], INTID [27:24], Aff1 [23:16], targets [15:0].
    assert_eq!(super::sgi_word(0, Intid(0)), 1);
    assert_eq!(super::sgi_word(0x03, Intid(5)), 0x0500_0008);
    assert_eq!(
        super::sgi_word(0x04_0003_0212, Intid(15)),
        0x0004_1003_0F02_0004
    );
    let (_, _, gic) = two_cpus();
    sysreg::fake::take_writes();
    gic.send_sgi(1, Intid::sgi(2)).unwrap();
    assert_eq!(
        sysreg::fake::take_writes(),
        [(Register::ICC_SGI1R_EL1, 0x0200_0002)]
    );
}
