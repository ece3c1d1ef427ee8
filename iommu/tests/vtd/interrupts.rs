//! Interrupt remapping.

use super::{DEVICE, RAM, Rig, ZEROS, parts, route, setup};
use iommu::addr::Hpa;
use iommu::fault::FaultReason;
use iommu::hal::{Mmio, Platform};
use iommu::id::IommuIndex;
use iommu::model::vtd::{Config, Delivered, Denied, Refused, VtdModel};
use iommu::physical::IommuError;
use iommu::vtd::interrupt_post::{Notification, Posting};
use iommu::vtd::interrupt_remap::{
    Destinations, INTERRUPTS, Message, Route, Source, io_apic_entry,
};
use iommu::vtd::{StartError, Vtd, deny_interrupts, event};
use std::sync::{Arc, Mutex};

#[test]
fn an_interrupt_goes_where_its_route_says_and_from_nobody_else() {
    for (destinations, destination) in
        [(Destinations::Narrow, 0xab), (Destinations::Wide, 0x1_2345)]
    {
        for coherent in [true, false] {
            let config = Config {
                coherent,
                ..Config::default()
            };
            let mut rig = Rig::with(config, Some(destinations));
            let index = rig.driver.take_interrupts(4).unwrap();
            assert_eq!(index % 4, 0);
            let second = index + 1;
            let message = Message::new(index);
            let send = |rig: &Rig, source| rig.vtd.message(source, message.address, 1);
            assert_eq!(send(&rig, DEVICE), Err(Refused(0x22)));
            let first = Route {
                destination,
                ..route(0x41)
            };
            rig.driver.route_interrupt(second, &first).unwrap();
            let arrived = Delivered {
                destination,
                vector: 0x41,
                level: false,
                remapped: true,
                silent: false,
            };
            assert_eq!(send(&rig, DEVICE), Ok(arrived));
            assert_eq!(send(&rig, DEVICE ^ 1), Err(Refused(0x26)));
            assert_eq!(send(&rig, 0), Err(Refused(0x26)));
            // Elsewhere, at once; and nowhere.
            rig.driver
                .route_interrupt(
                    second,
                    &Route {
                        vector: 0x99,
                        ..first
                    },
                )
                .unwrap();
            assert_eq!(send(&rig, DEVICE).unwrap().vector, 0x99);
            rig.driver.block_interrupt(second).unwrap();
            assert_eq!(send(&rig, DEVICE), Err(Refused(0x22)));
            // The device's DMA to the address is the same.
            let address = message.address.into();
            let dma = rig.vtd.dma_write(DEVICE, address, &1u32.to_le_bytes());
            assert_eq!(dma, Err(Denied::Fault(0x22)));
            rig.driver.give_interrupts(index, 4).unwrap();
            assert_eq!(rig.driver.take_interrupts(4), Ok(index));
        }
    }
}

#[test]
fn sources_can_be_phantom_functions_or_the_buses_of_a_bridge() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Wide));
    let index = rig.driver.take_interrupts(1).unwrap();
    let message = Message::new(index);
    let with = |rig: &mut Rig, source| {
        rig.driver
            .route_interrupt(
                index,
                &Route {
                    source,
                    ..route(0x41)
                },
            )
            .unwrap();
        let passes = |source: &u16| rig.vtd.message(*source, message.address, 0).is_ok();
        [0x310, 0x314, 0x312, 0x311, 0x318, 0x400, 0x5ff, 0x600].map(|it| passes(&it))
    };
    let phantom = |phantom| Source::Requester { id: 0x310, phantom };
    let y = true;
    let n = false;
    assert_eq!(with(&mut rig, phantom(0)), [y, n, n, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(1)), [y, y, n, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(2)), [y, y, y, n, n, n, n, n]);
    assert_eq!(with(&mut rig, phantom(3)), [y, y, y, y, n, n, n, n]);
    let buses = Source::Buses { first: 4, last: 5 };
    assert_eq!(with(&mut rig, buses), [n, n, n, n, n, y, y, n]);
}

#[test]
fn the_compatibility_format_is_blocked_and_recorded() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Narrow));
    assert_eq!(
        rig.vtd.message(DEVICE, 0xfee0_3000, 0x41),
        Err(Refused(0x25))
    );
    // Past the table, and a forged remappable one.
    let forged = Message::new(INTERRUPTS);
    assert_eq!(
        rig.vtd.message(DEVICE, forged.address, 0),
        Err(Refused(0x21))
    );
    assert!(rig.vtd.take_delivered().is_empty());
    let (faults, lost) = rig.drain();
    assert!(!lost && faults.iter().all(|it| it.iova.is_none() && !it.write));
    let reasons: Vec<_> = faults.iter().map(|it| it.reason).collect();
    assert_eq!(
        reasons,
        [FaultReason::Other(0x25), FaultReason::Other(0x21)]
    );
    assert_eq!(event::interrupt_index(faults[1].raw), Some(INTERRUPTS));
    assert_eq!(rig.vtd.counters().unremapped, 0);
}

#[test]
fn interrupts_can_be_denied_before_there_is_a_driver() {
    let (memory, vtd) = parts(Config::default());
    deny_interrupts(&vtd, Hpa(ZEROS), || memory.now_ns()).unwrap();
    assert_eq!(memory.allocations(), 0);
    for handle in [0, 1, 255] {
        let message = Message::new(handle);
        assert_eq!(vtd.message(DEVICE, message.address, 0), Err(Refused(0x22)));
    }
    let past = Message::new(256);
    assert_eq!(vtd.message(DEVICE, past.address, 0), Err(Refused(0x21)));
    assert_eq!(vtd.message(DEVICE, 0xfee0_0000, 0x41), Err(Refused(0x25)));
    let (memory, vtd) = parts(Config {
        interrupt_remapping: false,
        ..Config::default()
    });
    let result = deny_interrupts(&vtd, Hpa(ZEROS), || memory.now_ns());
    assert!(matches!(result, Err(StartError::NoInterruptRemapping(_))));
}

#[test]
fn a_route_that_the_table_cannot_hold_blocks_the_interrupt() {
    let mut rig = Rig::with(Config::default(), Some(Destinations::Narrow));
    let index = rig.driver.take_interrupts(1).unwrap();
    let message = Message::new(index);
    let bad = [
        Route {
            destination: 0x100,
            ..route(0x41)
        },
        Route {
            vector: 15,
            ..route(0x41)
        },
        Route {
            source: Source::Buses { first: 2, last: 1 },
            ..route(0x41)
        },
        Route {
            source: Source::Requester { id: 0, phantom: 4 },
            ..route(0x41)
        },
    ];
    for bad in bad {
        rig.driver.route_interrupt(index, &route(0x41)).unwrap();
        assert!(rig.vtd.message(DEVICE, message.address, 0).is_ok());
        let result = rig.driver.route_interrupt(index, &bad);
        assert_eq!(result, Err(IommuError::Unsupported));
        assert_eq!(
            rig.vtd.message(DEVICE, message.address, 0),
            Err(Refused(0x22))
        );
    }
    // Not taken, too many, an odd number; and where nothing is remapped.
    assert_eq!(
        rig.driver.block_interrupt(index + 1),
        Err(IommuError::Unsupported)
    );
    assert_eq!(rig.driver.take_interrupts(3), Err(IommuError::Unsupported));
    assert_eq!(
        rig.driver.take_interrupts(INTERRUPTS),
        Err(IommuError::OutOfMemory)
    );
    let mut plain = Rig::new(Config::default());
    assert_eq!(
        plain.driver.take_interrupts(1),
        Err(IommuError::Unsupported)
    );
}

/// 5.1.2.2, by hand: handle 0x8123 with SHV; 5.1.5.1: index 0x8123 in an I/O APIC's entry.
#[test]
fn messages_and_io_apic_entries_are_those_of_the_document() {
    assert_eq!(
        Message::new(0x8123).address,
        0xfee0_0000 | 0x123 << 5 | 1 << 4 | 1 << 3 | 1 << 2
    );
    assert_eq!(Message::new(3).data, 0);
    assert_eq!(io_apic_entry(0x8123), 0x123 << 49 | 1 << 48 | 1 << 11);
}

/// Descriptor and entries by their bits (9.10, 9.11), not by the driver's names for them.
#[test]
fn an_interrupt_is_posted_and_its_cpu_told_once() {
    for (destinations, control) in [
        (Destinations::Narrow, 0x0000_ab00_00f2_0000),
        (Destinations::Wide, 0x0000_00ab_00f2_0000),
    ] {
        let config = Config {
            posted_interrupts: true,
            ..Config::default()
        };
        let mut rig = Rig::with(config, Some(destinations));
        let at = RAM + 0x1040;
        let notification = Notification {
            destination: 0xab,
            vector: 0xf2,
            suppressed: false,
        };
        assert_eq!(notification.word(destinations), Ok(control));
        let set = |rig: &Rig, word: u64, value| rig.memory.device_write(at + word * 8, value, true);
        let get = |rig: &Rig, word: u64| rig.memory.device_read(at + word * 8, true).unwrap();
        set(&rig, 4, control).unwrap();
        let index = rig.driver.take_interrupts(1).unwrap();
        let posting = Posting {
            descriptor: Hpa(at),
            vector: 0x91,
            urgent: false,
            source: route(0x41).source,
        };
        let words = posting.entry().unwrap();
        assert_eq!(
            words,
            [(at << 32 | 0x0091_8001), u64::from(DEVICE) | 1 << 18]
        );
        rig.driver.post_interrupt(index, &posting).unwrap();
        let message = Message::new(index);
        let send = |rig: &Rig, source| rig.vtd.message(source, message.address, 0);
        let told = Delivered {
            destination: 0xab,
            vector: 0xf2,
            level: false,
            remapped: true,
            silent: false,
        };
        let silent = Delivered {
            silent: true,
            ..told
        };
        assert_eq!(send(&rig, DEVICE ^ 1), Err(Refused(0x26)));
        assert_eq!(send(&rig, DEVICE), Ok(told));
        assert_eq!((get(&rig, 2), get(&rig, 4)), (1 << 0x11, control | 1));
        assert_eq!(send(&rig, DEVICE), Ok(silent), "it knows");
        assert_eq!(rig.vtd.take_delivered(), [told]);
        // Suppressed: noted, and told where it is urgent.
        set(&rig, 2, 0).unwrap();
        set(&rig, 4, control | 2).unwrap();
        assert_eq!(send(&rig, DEVICE), Ok(silent));
        assert_eq!((get(&rig, 2), get(&rig, 4)), (1 << 0x11, control | 2));
        let urgent = Posting {
            urgent: true,
            vector: 0x20,
            ..posting
        };
        rig.driver.post_interrupt(index, &urgent).unwrap();
        assert_eq!(send(&rig, DEVICE), Ok(told));
        assert_eq!((get(&rig, 0), get(&rig, 4)), (1 << 0x20, control | 3));
        // Reserved bits of the descriptor, and one that is not there.
        set(&rig, 7, 1).unwrap();
        assert_eq!(send(&rig, DEVICE), Err(Refused(0x28)));
        set(&rig, 7, 0).unwrap();
        let nowhere = Posting {
            descriptor: Hpa(0x3f_0000_0000),
            ..posting
        };
        rig.driver.post_interrupt(index, &nowhere).unwrap();
        assert_eq!(send(&rig, DEVICE), Err(Refused(0x27)));
        // Back to a vector, and to nothing.
        rig.driver.route_interrupt(index, &route(0x41)).unwrap();
        assert_eq!(send(&rig, DEVICE).unwrap().vector, 0x41);
        rig.driver.block_interrupt(index).unwrap();
        assert_eq!(send(&rig, DEVICE), Err(Refused(0x22)));
    }
}

/// Registers whose device sends a message before each access, once it has one to send; how many arrived.
struct Sending {
    vtd: VtdModel,
    message: Arc<Mutex<Option<(Message, usize)>>>,
}

impl Sending {
    fn send(&self) {
        if let Some((message, arrived)) = &mut *self.message.lock().unwrap() {
            let sent = self.vtd.message(DEVICE, message.address, 0);
            assert!(sent.is_ok(), "{sent:?} after {arrived}");
            *arrived += 1;
        }
    }
}

impl Mmio for Sending {
    fn read32(&self, offset: usize) -> u32 {
        self.send();
        self.vtd.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.send();
        self.vtd.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.send();
        self.vtd.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.send();
        self.vtd.write64(offset, value);
    }
}

#[test]
fn nothing_is_refused_while_an_interrupt_changes_its_way() {
    let config = Config {
        posted_interrupts: true,
        ..Config::default()
    };
    let (memory, vtd) = parts(config);
    let sending = Sending {
        vtd: vtd.clone(),
        message: Arc::new(Mutex::new(None)),
    };
    let message = Arc::clone(&sending.message);
    let setup = setup(Some(Destinations::Wide));
    let started = Vtd::start(IommuIndex(0), sending, Arc::new(memory), setup);
    let mut driver = started.expect("it starts");
    let index = driver.take_interrupts(1).unwrap();
    let remapped = route(0x41);
    let posting = Posting {
        descriptor: Hpa(RAM + 0x1040),
        vector: 0x91,
        urgent: false,
        source: remapped.source,
    };
    driver.route_interrupt(index, &remapped).unwrap();
    *message.lock().unwrap() = Some((Message::new(index), 0));
    let arrived = || message.lock().unwrap().unwrap().1;
    // Each as the last change says, once that is made.
    let next = || vtd.message(DEVICE, Message::new(index).address, 0).unwrap();
    driver.post_interrupt(index, &posting).unwrap();
    let posted = arrived();
    assert!(posted > 0 && next().vector == 0);
    let other = Posting {
        vector: 0x92,
        ..posting
    };
    driver.post_interrupt(index, &other).unwrap();
    driver.route_interrupt(index, &remapped).unwrap();
    assert!(arrived() > posted && next().vector == 0x41);
    // What is no route leads nowhere, even in the place of one.
    *message.lock().unwrap() = None;
    let none = Posting {
        vector: 15,
        ..posting
    };
    assert_eq!(
        driver.post_interrupt(index, &none),
        Err(IommuError::Unsupported)
    );
    let sent = vtd.message(DEVICE, Message::new(index).address, 0);
    assert_eq!(sent, Err(Refused(0x22)));
}

#[test]
fn what_cannot_be_posted_is_blocked() {
    let good = Posting {
        descriptor: Hpa(RAM),
        vector: 0x91,
        urgent: false,
        source: route(0x41).source,
    };
    let bad = [
        Posting {
            descriptor: Hpa(RAM + 32),
            ..good
        },
        Posting {
            descriptor: Hpa(1 << 46),
            ..good
        },
        Posting { vector: 15, ..good },
        Posting {
            source: Source::Buses { first: 2, last: 1 },
            ..good
        },
    ];
    for (posted_interrupts, postings) in [(true, &bad[..]), (false, &[good])] {
        let config = Config {
            posted_interrupts,
            ..Config::default()
        };
        let mut rig = Rig::with(config, Some(Destinations::Wide));
        let index = rig.driver.take_interrupts(1).unwrap();
        let message = Message::new(index);
        for posting in postings {
            rig.driver.route_interrupt(index, &route(0x41)).unwrap();
            let result = rig.driver.post_interrupt(index, posting);
            assert_eq!(result, Err(IommuError::Unsupported), "{posting:?}");
            let sent = rig.vtd.message(DEVICE, message.address, 0);
            assert_eq!(sent, Err(Refused(0x22)));
        }
    }
    let far = Notification {
        destination: 0x100,
        vector: 0xf2,
        suppressed: true,
    };
    assert_eq!(far.word(Destinations::Narrow), Err(IommuError::Unsupported));
    assert_eq!(far.word(Destinations::Wide), Ok(0x0000_0100_00f2_0002));
}
