//! LPIs and their tables.

use super::{CPUS, TYPER, machine, two_cpus, with_frames};
use crate::aarch64::gic::fake::{FakeDistributor, Frame};
use crate::aarch64::gic::{GicError, Intid};
use crate::host;

#[test]
fn lpis_are_on_with_tables_of_ours() {
    let (_, redistributors, gic) = two_cpus();
    let pool = host::memory::pool(0x4000_0000, 1 << 20);
    assert_eq!(gic.lpi_count(), 0);
    assert_eq!(
        gic.set_lpi(Intid(8192), true, 0x80),
        Err(GicError::LpiState)
    );
    gic.enable_lpis(pool).unwrap();
    assert_eq!(gic.lpi_count(), 8192);
    let (control, propbaser, pendbaser) = redistributors.lpi_registers(1);
    // 14 bits of INTID, write-back, Inner Shareable.
    assert_eq!((control, propbaser & 0xFFF), (1, 0x400 | 7 << 7 | 13));
    assert_eq!(pendbaser & 0x4000_0000_0000_FFFF, 1 << 62 | 0x400 | 7 << 7);
    assert_ne!(
        pendbaser,
        redistributors.lpi_registers(0).2,
        "a pending table each"
    );
    assert_eq!(
        propbaser,
        redistributors.lpi_registers(0).1,
        "one configuration"
    );

    let byte = |lpi: u64| {
        let at = (propbaser & 0xF_FFFF_FFFF_F000) + lpi - 8192;
        pool.window().read64(at & !7) >> (8 * (at & 7)) & 0xFF
    };
    assert_eq!((byte(8192), byte(16383)), (0x02, 0x02), "all disabled");
    gic.set_lpi(Intid(8195), true, 0xA3).unwrap();
    assert_eq!((byte(8194), byte(8195), byte(8196)), (0x02, 0xA3, 0x02));
    gic.set_lpi(Intid(8195), false, 0xA0).unwrap();
    assert_eq!(byte(8195), 0xA2);
    for lpi in [0, 8191, 16384, u32::MAX] {
        assert_eq!(
            gic.set_lpi(Intid(lpi), true, 0),
            Err(GicError::Intid(Intid(lpi)))
        );
    }
    assert_eq!(gic.enable_lpis(pool), Err(GicError::LpiState));
}

#[test]
fn a_machine_has_as_many_lpis_as_it_says() {
    let count = |typer| {
        let frames = [Frame::new(0), Frame::new(1).last()];
        let gic = machine(
            FakeDistributor::new(typer, 0x3B, 0),
            0x2_0000,
            &frames,
            None,
            &CPUS,
        )
        .gic
        .unwrap();
        gic.enable_lpis(host::memory::pool(0x4000_0000, 1 << 20))
            .map(|()| gic.lpi_count())
    };
    // num_LPIs = 7: 256 of them. No LPIs; too few bits for any.
    assert_eq!(count(TYPER | 7 << 11), Ok(256));
    assert_eq!(count(TYPER & !(1 << 17)), Err(GicError::NoLpis(None)));
    assert_eq!(
        count(TYPER & !(0x1F << 19) | 9 << 19),
        Err(GicError::NoLpis(None))
    );
}

#[test]
fn lpis_that_cannot_be_had_are_an_error() {
    let pool = || host::memory::pool(0x4000_0000, 1 << 20);
    let enable = |first: Frame| {
        with_frames(&[first, Frame::new(1)])
            .unwrap()
            .enable_lpis(pool())
    };
    let without = Frame {
        typer: Frame::new(0).typer & !1,
        ..Frame::new(0)
    };
    assert_eq!(enable(without), Err(GicError::NoLpis(Some(0))));
    // The fake panics if a table is changed before firmware's LPIs are off.
    assert_eq!(
        enable(Frame {
            lpis_on: Some(true),
            ..Frame::new(0)
        }),
        Ok(())
    );
    let small = host::memory::pool(0x4000_0000, 0x2_0000);
    assert_eq!(
        with_frames(&[Frame::new(0), Frame::new(1)])
            .unwrap()
            .enable_lpis(small),
        Err(GicError::NoMemory)
    );
    assert_eq!(small.free_bytes(), 0x2_0000);
}

#[test]
fn tables_that_are_in_use_are_not_given_back() {
    let pool = host::memory::pool(0x4000_0000, 1 << 20);
    let deaf = Frame {
        refuses: true,
        ..Frame::new(1)
    };
    let gic = with_frames(&[Frame::new(0), deaf]).unwrap();
    assert_eq!(gic.enable_lpis(pool), Err(GicError::LpisRefused(1)));
    assert!(pool.free_bytes() < 1 << 20, "CPU 0 writes to its table");
}

#[test]
fn tables_of_firmware_are_in_use_no_longer_or_nothing_starts() {
    let left = |can_stop| Frame {
        lpis_on: Some(can_stop),
        ..Frame::new(0)
    };
    let start = |frame| {
        let distributor = FakeDistributor::new(TYPER, 0x3B, 0);
        machine(distributor, 0x2_0000, &[frame], None, &[0])
    };
    let stopped = start(left(true));
    assert!(stopped.gic.is_ok());
    assert_eq!(stopped.redistributors.lpi_registers(0).0, 0);
    let locked = start(left(false));
    assert_eq!(locked.gic.err(), Some(GicError::LpisLocked(0)));
}

#[test]
fn a_redistributor_that_does_not_snoop_is_told_so() {
    let plain = Frame {
        coherent: false,
        ..Frame::new(0)
    };
    let machine = machine(
        FakeDistributor::new(TYPER, 0x3B, 0),
        0x2_0000,
        &[plain],
        None,
        &[0],
    );
    machine
        .gic
        .unwrap()
        .enable_lpis(host::memory::pool(0x4000_0000, 1 << 20))
        .unwrap();
    let (_, propbaser, pendbaser) = machine.redistributors.lpi_registers(0);
    assert_eq!([propbaser, pendbaser].map(|word| word & 0xF80), [1 << 7; 2]);
}
