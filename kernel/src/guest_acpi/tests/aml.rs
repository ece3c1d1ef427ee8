//! Byte code beside what acpi_tables makes of the same objects.

use super::{GUEST, GuestTree, PCIE, Pcie, Read};
use crate::guest_acpi::aml::{Aml as Writer, eisa_id};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Equal, If,
    Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, PackageBuilder, Path,
    ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};

fn path(name: &str) -> Path {
    Path::new(name)
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// What is made already.
struct Made(Vec<u8>);

impl Aml for Made {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn osc() -> Made {
    let (cdw1, cdw3) = (path("CDW1"), path("CDW3"));
    Made(bytes(&Method::new(
        path("_OSC"),
        4,
        true,
        vec![
            &CreateDWordField::new(&cdw1, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new("33db4d5b-1ff7-401c-9657-7441c03dd766")),
                vec![
                    &CreateDWordField::new(&cdw3, &Arg(3), &8u8),
                    &And::new(&Local(0), &cdw3, &0x10u8),
                    &If::new(
                        &NotEqual::new(&Local(0), &cdw3),
                        vec![
                            &Or::new(&cdw1, &cdw1, &0x10u8),
                            &Store::new(&cdw3, &Local(0)),
                        ],
                    ),
                    &If::new(
                        &NotEqual::new(&Arg(1), &ONE),
                        vec![&Or::new(&cdw1, &cdw1, &8u8)],
                    ),
                    &Return::new(&Arg(3)),
                ],
            ),
            &Or::new(&cdw1, &cdw1, &4u8),
            &Return::new(&Arg(3)),
        ],
    )))
}

fn name(name: &str, value: &dyn Aml) -> Made {
    Made(bytes(&Name::new(path(name), value)))
}

fn device(name: &str, parts: &[Made]) -> Made {
    let parts = parts.iter().map(|part| part as &dyn Aml).collect();
    Made(bytes(&Device::new(path(name), parts)))
}

fn resources(parts: &[&dyn Aml]) -> Made {
    name("_CRS", &ResourceTemplate::new(parts.to_vec()))
}

fn routes() -> Made {
    let mut routes = PackageBuilder::new();
    for device in 0..32u32 {
        for pin in 0..4 {
            let mut route = PackageBuilder::new();
            route.add_element(&(device << 16 | 0xffff));
            route.add_element(&pin);
            route.add_element(&ZERO);
            route.add_element(&(35 + (device + pin) % 4));
            routes.add_element(&route);
        }
    }
    name("_PRT", &routes)
}

fn host(coherent: bool) -> Made {
    let space = device(
        "RES0",
        &[
            name("_HID", &EISAName::new("PNP0C02")),
            resources(&[&Memory32Fixed::new(true, 0x3f00_0000, 0x100_0000)]),
        ],
    );
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        0x1000_0000u32,
        0x2fff_ffff,
        None,
    );
    device(
        "PCI0",
        &[
            name("_HID", &EISAName::new("PNP0A08")),
            name("_CID", &EISAName::new("PNP0A03")),
            name("_UID", &ZERO),
            name("_SEG", &ZERO),
            name("_BBN", &ZERO),
            name("_CCA", &u32::from(coherent)),
            name("_CBA", &0x3f00_0000u32),
            resources(&[&AddressSpace::new_bus_number(0u16, 15), &window]),
            routes(),
            osc(),
            space,
        ],
    )
}

/// The body of a DSDT.
fn expected(vcpus: u32, pcie: Option<Pcie>) -> Vec<u8> {
    let cpu = |vcpu: u32| {
        let parts = [name("_HID", &"ACPI0007"), name("_UID", &vcpu)];
        device(&format!("CP{vcpu:02X}"), &parts)
    };
    let mut parts: Vec<Made> = (0..vcpus).map(cpu).collect();
    let uart = resources(&[
        &Memory32Fixed::new(true, 0x900_0000, 0x1000),
        &Interrupt::new(true, false, false, false, 33),
    ]);
    let uart = [name("_HID", &"ARMH0011"), name("_UID", &ZERO), uart];
    parts.push(device("COM0", &uart));
    parts.extend(pcie.map(|pcie| host(pcie.dma_coherent)));
    let parts = parts.iter().map(|part| part as &dyn Aml).collect();
    bytes(&Scope::new(path("\\_SB_"), parts))
}

#[test]
fn the_namespace_is_what_another_writer_makes_of_it() {
    let other = Pcie {
        dma_coherent: false,
        ..PCIE
    };
    for (vcpus, pcie) in [
        (1, None),
        (2, Some(PCIE)),
        (17, Some(other)),
        (64, Some(PCIE)),
    ] {
        let read = Read::new(&GuestTree {
            vcpus,
            pcie,
            ..GUEST
        });
        let dsdt = read.table(b"DSDT");
        assert_eq!(dsdt[8], 2, "numbers of 64 bits");
        let (ours, expected) = (&dsdt[36..], expected(vcpus as u32, pcie));
        let differs = ours.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(
            (ours.len(), differs),
            (expected.len(), None),
            "{vcpus} CPUs"
        );
    }
}

#[test]
fn lengths_and_numbers_are_as_short_as_they_can_be() {
    // Around each length at which PkgLength takes a byte more.
    for len in (0..200).chain(4000..4200) {
        let content = vec![0u8; len];
        let mut ours = Writer::default();
        let package = ours.package(0);
        ours.0.bytes(&content);
        ours.end(package);
        let mut element = PackageBuilder::new();
        (0..len).for_each(|_| element.add_element(&ZERO));
        let mut expected = bytes(&element);
        // The number of elements is a byte, which this does not count.
        let at = expected.len() - len - 1;
        expected[at] = 0;
        assert_eq!(ours.0.0, expected, "{len}");
    }
    for value in [0, 1, 2, 255, 256, 65535, 65536, u32::MAX] {
        let mut ours = Writer::default();
        ours.number(value);
        assert_eq!(ours.0.0, bytes(&value), "{value}");
    }
    for id in ["PNP0A08", "PNP0C0F", "ABZ9FE1"] {
        let mut expected = vec![0xc];
        expected.extend(eisa_id(id.as_bytes().try_into().unwrap()).to_le_bytes());
        assert_eq!(bytes(&EISAName::new(id)), expected, "{id}");
    }
}
