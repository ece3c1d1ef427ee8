//! From the first access to a driver: denied, then started or refused.

use super::{DEVICE, EVERYTHING, RAM, Rig, ZEROS, parts, setup, start};
use iommu::addr::Hpa;
use iommu::hal::{Mmio, Platform};
use iommu::model::vtd::Config;
use iommu::physical::IommuError;
use iommu::vtd::errata::Errata;
use iommu::vtd::interrupt_remap::Destinations;
use iommu::vtd::{Setup, StartError, deny_all, deny_interrupts};

#[test]
fn all_dma_is_denied_in_few_accesses_and_before_any_allocation() {
    let (memory, vtd) = parts(Config::default());
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    // VER, CAP, ECAP; GSTS twice and RTADDR; its write, SRTP and three looks; two invalidations with theirs; TE.
    assert!(vtd.accesses() <= 32, "{}", vtd.accesses());
    assert_eq!(memory.allocations(), 0);
    for source in [0, DEVICE, 0xffff] {
        for address in [0, RAM, 0xffff_ffff_f000] {
            assert_eq!(vtd.translate(source, address, true), Err(EVERYTHING));
        }
    }
    assert_eq!(vtd.counters().bypassed, 0);
    // Once more, by whoever comes next.
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(vtd.translate(DEVICE, RAM, false), Err(EVERYTHING));
}

#[test]
fn protected_memory_is_closed_before_the_root_table_is() {
    let (memory, vtd) = parts(Config {
        protected_memory: true,
        ..Config::default()
    });
    // Whatever the unit is told after it: DMA is tried at each look at the clock.
    let tried = || {
        let seen = vtd.translate(DEVICE, RAM, true);
        let high = vtd.translate(DEVICE, 1 << 40, true);
        (seen, high, memory.now_ns())
    };
    let passed = std::cell::Cell::new(0);
    deny_all(&vtd, Hpa(ZEROS), || {
        let (seen, high, now) = tried();
        passed.set(passed.get() + u32::from(seen.is_ok()) + u32::from(high.is_ok()));
        now
    })
    .unwrap();
    // The first look comes with the first wait, when the ranges are in force.
    assert_eq!(passed.get(), 0);
    let driver = start(&memory, &vtd, setup(None)).unwrap();
    assert_eq!(vtd.read32(0x64) >> 31, 0, "not protected any more");
    drop(driver);
}

#[test]
fn a_unit_that_firmware_left_on_is_closed_without_a_gap() {
    let mut rig = Rig::new(Config::default());
    let _table = rig.open();
    assert!(rig.vtd.dma_write(DEVICE, 0, &[1; 8]).is_ok());
    // The queue is on, and everything is cached. Somebody else takes over.
    let (vtd, memory) = (rig.vtd.clone(), rig.memory.clone());
    core::mem::forget(rig.driver);
    deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(vtd.translate(DEVICE, 0, true), Err(EVERYTHING));
    assert_eq!(vtd.counters().bypassed, 0);
}

#[test]
fn a_unit_that_never_obeys_is_an_error_in_time() {
    let (memory, vtd) = parts(Config::default());
    vtd.deafen(true);
    let before = memory.now_ns();
    let result = deny_all(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert_eq!(result, Err(StartError::Hardware(IommuError::Timeout)));
    assert!(memory.now_ns() - before < 1_100_000_000);
    vtd.vanish(true);
    let result = deny_all(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert_eq!(result, Err(StartError::NotThere(u32::MAX)));
}

#[test]
fn hardware_that_cannot_do_the_job_is_refused_and_refuses() {
    let base = Config::default();
    let with = |config: Config, setup: Setup| {
        let (memory, vtd) = parts(config);
        let error = start(&memory, &vtd, setup).err();
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
        error.expect("refused")
    };
    let plain = setup(None);
    let caching_mode = with(
        Config {
            caching_mode: true,
            ..base
        },
        plain,
    );
    assert!(matches!(caching_mode, StartError::NeedsToldOfMaps(_)));
    let buffers = with(
        Config {
            write_buffers: true,
            ..base
        },
        plain,
    );
    assert!(matches!(buffers, StartError::NeedsToldOfMaps(_)));
    let widths = with(Config { widths: 1, ..base }, plain);
    assert!(matches!(widths, StartError::NoSecondStage(_)));
}

/// A unit that cannot remap interrupts, or not to CPUs with IDs so wide, has DMA only: what [`deny_interrupts`] has left of them
/// stays, and nobody takes any.
#[test]
fn a_unit_that_cannot_remap_as_asked_has_no_interrupts() {
    let base = Config::default();
    let without = Config {
        interrupt_remapping: false,
        ..base
    };
    let narrow = Config {
        wide_destinations: false,
        ..base
    };
    let unqueued = Config {
        queue: false,
        ..base
    };
    for (config, wanted, remaps) in [
        (base, Destinations::Wide, true),
        (without, Destinations::Wide, false),
        (without, Destinations::Narrow, false),
        (narrow, Destinations::Wide, false),
        (narrow, Destinations::Narrow, true),
        (unqueued, Destinations::Narrow, false),
    ] {
        let (memory, vtd) = parts(config);
        let denied = deny_interrupts(&vtd, Hpa(ZEROS), || memory.now_ns());
        match denied {
            Ok(wide) => assert_eq!(wide, config.wide_destinations),
            Err(error) => {
                assert!(matches!(error, StartError::NoInterruptRemapping(_)));
                assert!(!config.interrupt_remapping);
            }
        }
        let mut driver = start(&memory, &vtd, setup(Some(wanted))).unwrap();
        assert_eq!(driver.layout().interrupts.is_some(), remaps, "{config:?}");
        assert_eq!(driver.take_interrupts(1).is_ok(), remaps);
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
        let sent = vtd.message(DEVICE, 0xfee0_0000, 0x41);
        assert_eq!(sent.is_err(), config.interrupt_remapping);
    }
}

#[test]
fn a_start_without_memory_leaves_everything_closed() {
    for nth in 0..4 {
        let (memory, vtd) = parts(Config::default());
        deny_all(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
        memory.fail_allocation(nth, false);
        let started = start(&memory, &vtd, setup(Some(Destinations::Narrow)));
        assert_eq!(started.is_ok(), nth == 3, "{nth}");
        if let Err(error) = started {
            assert_eq!(error, StartError::OutOfMemory);
        }
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
    }
}

#[test]
fn what_a_chipset_gets_wrong_is_not_used() {
    let with = |errata: Errata, interrupts: Option<Destinations>| {
        let (memory, vtd) = parts(Config::default());
        let setup = Setup {
            errata,
            ..setup(interrupts)
        };
        let started = start(&memory, &vtd, setup);
        assert_eq!(vtd.translate(DEVICE, RAM, true), Err(EVERYTHING));
        started.map(|unit| unit.layout().interrupts.is_some())
    };
    let buffers = Errata {
        write_buffers: true,
        ..Errata::default()
    };
    let refused = with(buffers, None);
    assert!(matches!(refused, Err(StartError::NeedsToldOfMaps(_))));
    let drains = Errata {
        no_interrupt_remapping: true,
        ..Errata::default()
    };
    for wanted in [Destinations::Wide, Destinations::Narrow] {
        assert_eq!(with(drains, Some(wanted)), Ok(false));
        assert_eq!(with(Errata::default(), Some(wanted)), Ok(true));
    }
}

/// Firmware left a unit on in legacy mode, which could have scalable mode.
#[test]
fn translation_stays_on_where_graphics_need_it() {
    for keeps_translating in [false, true] {
        let (memory, vtd) = parts(Config {
            scalable: true,
            ..Config::default()
        });
        let legacy = Setup {
            scalable: Some(false),
            ..setup(None)
        };
        core::mem::forget(start(&memory, &vtd, legacy).unwrap());
        let denied = |now_ns: &dyn Fn() -> u64| deny_all(&vtd, Hpa(ZEROS), now_ns);
        denied(&|| memory.now_ns()).unwrap();
        let before = vtd.counters();
        let errata = Errata {
            keeps_translating,
            ..Errata::default()
        };
        let wanted = Setup {
            errata,
            ..setup(None)
        };
        let driver = start(&memory, &vtd, wanted).unwrap();
        assert_eq!(driver.is_scalable(), !keeps_translating);
        let off = vtd.counters().turned_off - before.turned_off;
        assert_eq!(off, u64::from(!keeps_translating));
    }
}
