//! From a device through a unit of VT-d, as the driver has programmed it, to what a vCPU takes.

use super::x2apic;
use crate::vdev::msi::{Interrupt, Msi};
use arch::x86_64::vcpu::Posted;
use iommu::addr::Hpa;
use iommu::id::IommuIndex;
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, VtdModel};
use iommu::vtd::errata::Errata;
use iommu::vtd::interrupt_post::{Notification, Posting};
use iommu::vtd::interrupt_remap::{Destinations, Message, Source};
use iommu::vtd::{Setup, Vtd};
use std::sync::Arc;

const RAM: u64 = 0x2000_0000;
const DESCRIPTOR: u64 = RAM + 0x8000;
const DEVICE: u16 = 0x310;

#[test]
fn a_message_of_a_device_is_the_vector_that_the_guest_wants() {
    let memory = Memory::coherent();
    memory.add_ram(RAM, 0x100_0000);
    let config = Config {
        posted_interrupts: true,
        ..Config::default()
    };
    let model = VtdModel::new(config, &memory);
    let setup = Setup {
        address_bits: 46,
        interrupts: Some(Destinations::Wide),
        scalable: None,
        errata: Errata::default(),
    };
    let started = Vtd::start(
        IommuIndex(0),
        model.clone(),
        Arc::new(memory.clone()),
        setup,
    );
    let mut unit = started.expect("it starts");
    let mut apics = x2apic(2);
    // What the guest has written: vector 0xa1 to cluster 0, member 1.
    let wanted = Msi {
        address: 0xfee0_2004,
        data: 0x40a1,
    };
    let Some(Interrupt::Message(message)) = wanted.decode() else {
        panic!("no interrupt");
    };
    let (vcpu, vector) = apics.posts_to(&message).expect("one vCPU");
    assert_eq!((vcpu, vector), (1, 0xa1));
    let notification = Notification {
        destination: 7,
        vector: 0xf3,
        suppressed: false,
    };
    let control = notification.word(Destinations::Wide).expect("a word");
    memory.device_write(DESCRIPTOR + 32, control, true).unwrap();
    let index = unit.take_interrupts(1).unwrap();
    let posting = Posting {
        descriptor: Hpa(DESCRIPTOR),
        vector,
        urgent: false,
        source: Source::Requester {
            id: DEVICE,
            phantom: 0,
        },
    };
    unit.post_interrupt(index, &posting).unwrap();
    let sent = model.message(DEVICE, Message::new(index).address, 0);
    assert_eq!(
        sent.map(|sent| (sent.destination, sent.vector)),
        Ok((7, 0xf3))
    );
    // The descriptor as the unit left it: the same as one that another vCPU has posted to.
    let words: [u64; 5] = core::array::from_fn(|word| {
        memory
            .device_read(DESCRIPTOR + 8 * word as u64, true)
            .unwrap()
    });
    assert_eq!(words[4], control | 1);
    let posted = Posted::new(control);
    assert!(posted.post([words[0], words[1], words[2], words[3]]));
    apics.take_posted(vcpu, posted.take().expect("one"));
    assert_eq!((apics.pending(0), apics.acknowledge(1)), (None, Some(0xa1)));
}
