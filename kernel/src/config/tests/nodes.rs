//! Rules on nodes of the device tree, and where a guest sees their registers.

use super::*;
use crate::boot_info::{BootInfo, Gic, Irq, Its, PlatformDevice, Smmu, StreamOf, Uart};
use crate::guest_map;
use core::slice::from_ref;

const SMMU: u32 = 7;

fn level(intid: u32) -> Irq {
    Irq { intid, edge: false }
}

fn node(path: &str, base: u64, len: u64, irq: u32) -> PlatformDevice {
    PlatformDevice {
        path: path.into(),
        enabled: true,
        registers: vec![ram(base, len)],
        irqs: vec![Some(level(irq))],
        ..PlatformDevice::default()
    }
}

/// One behind the SMMU, with this StreamID.
fn master(path: &str, base: u64, irq: u32, id: u32) -> PlatformDevice {
    PlatformDevice {
        streams: vec![StreamOf {
            iommu: SMMU,
            id: DeviceId(id),
        }],
        does_dma: true,
        ..node(path, base, 0x1000, irq)
    }
}

fn devices() -> Vec<PlatformDevice> {
    vec![
        node("/rtc@9010000", 0x901_0000, 0x1000, 34),
        node("/uart@9040000", 0x904_0000, 0x1000, 40),
        // Two in one page, and a part of the first.
        node("/bus/gpio@9060000", 0x906_0000, 0x200, 50),
        node("/bus/gpio@9060000/port@100", 0x906_0100, 0x10, 51),
        node("/bus/gpio@9060200", 0x906_0200, 0x200, 52),
        node("/second@9070000", 0x907_0000, 0x1000, 40),
        master("/dma@9080000", 0x908_0000, 60, 0x40),
        master("/dma@9081000", 0x908_1000, 61, 0x40),
        master("/function@9082000", 0x908_2000, 62, 8),
        // What is the hypervisor's.
        node("/console@9000000", 0x900_0800, 0x10, 63),
        node("/gic@8000000", 0x800_0000, 0x1_0000, 64),
        node("/its@8080000", 0x808_0000, 0x1000, 64),
        node("/smmu@9050000", 0x905_0000, 0x1000, 64),
        node("/memory@40000000", 0x4000_0000, 0x1000, 64),
        node("/wire@9090000", 0x909_0000, 0x1000, 33),
        node("/private@9091000", 0x909_1000, 0x1000, 27),
        node("/large@100000000", 0x2_0000_0000, 1 << 40, 65),
    ]
}

fn info() -> BootInfo {
    BootInfo {
        uart: Some(Uart {
            registers: ram(0x900_0000, 0x1000),
            irq: Some(level(33)),
        }),
        gic: Some(Gic {
            distributor: ram(0x800_0000, 0x1_0000),
            redistributors: vec![ram(0x80a_0000, 0x2_0000)],
            maintenance: None,
            its: vec![Its {
                registers: ram(0x808_0000, 0x2_0000),
                phandle: 1,
            }],
        }),
        smmus: vec![Smmu {
            registers: ram(0x905_0000, 0x2_0000 - 0x1_0000),
            phandle: SMMU,
            event_irq: None,
            pri_irq: None,
            gerror_irq: None,
            dma_coherent: true,
        }],
        ..BootInfo::default()
    }
}

fn facts_of(devices: &[PlatformDevice]) -> MachineFacts {
    let mut facts = facts();
    facts.describe(&info(), devices);
    facts
}

/// A device that does no DMA and may stay as it is.
fn quiet(path: &str) -> Device {
    Device {
        reset: ResetPolicy::BestEffort,
        dma: false,
        ..device(path)
    }
}

fn loud(path: &str) -> Device {
    Device {
        dma: true,
        ..quiet(path)
    }
}

/// What is wrong when the partitions have these.
fn given(first: &[Device], second: &[Device]) -> Vec<(String, Rule)> {
    broken_on(&facts_of(&devices()), |m| {
        m.partitions[0].devices = first.to_vec();
        m.partitions[1].devices = second.to_vec();
    })
}

/// The only rule that this breaks.
fn only(first: &[Device], second: &[Device]) -> (String, Rule) {
    let found = given(first, second);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

fn at(partition: usize, device: usize, key: &str) -> String {
    format!("partition[{partition}].device[{device}].{key}")
}

#[test]
fn a_node_without_dma_is_given_when_the_configuration_says_so() {
    assert_eq!(
        given(&[quiet("/uart@9040000")], &[quiet("/rtc@9010000")]),
        []
    );
    let found = only(&[loud("/uart@9040000")], &[]);
    assert_eq!(
        found,
        (at(0, 0, "address"), Rule::Node(NodeRule::BehindNoSmmu))
    );
    assert!(found.1.to_string().contains("`dma = false`"));
}

#[test]
fn a_node_that_does_dma_is_given_behind_its_smmu_only() {
    assert_eq!(given(&[loud("/dma@9080000")], &[]), []);
    assert_eq!(
        only(&[quiet("/dma@9080000")], &[]),
        (at(0, 0, "dma"), Rule::DeviceDoesDma)
    );
    // Coherent by its own word, and behind nothing; behind an IOMMU that nobody drives; behind two, one of them such.
    let stray = StreamOf {
        iommu: SMMU + 1,
        id: DeviceId(1),
    };
    for streams in [vec![], vec![stray], vec![stray, devices()[6].streams[0]]] {
        let mut devices = devices();
        devices[6].streams = streams;
        let found = broken_on(&facts_of(&devices), |m| {
            m.partitions[0].devices = vec![loud("/dma@9080000")];
        });
        assert_eq!(found, [(at(0, 0, "address"), Rule::DeviceBehindNoSmmu)]);
    }
}

#[test]
fn a_functions_dma_cannot_be_talked_away() {
    assert_eq!(
        only(&[quiet("00:01.0")], &[]),
        (at(0, 0, "dma"), Rule::DeviceDoesDma)
    );
}

#[test]
fn a_node_is_in_device_trees_only() {
    let found = broken_on(&facts_of(&devices()), |m| {
        m.partitions[0].tables = Tables::Acpi;
        m.partitions[0].devices = vec![device("00:01.0"), quiet("/uart@9040000")];
        m.partitions[1].devices = vec![quiet("/rtc@9010000")];
    });
    assert_eq!(
        found,
        [(at(0, 1, "address"), Rule::Node(NodeRule::WithoutAcpi))]
    );
}

#[test]
fn a_node_is_never_reset() {
    let required = Device {
        reset: ResetPolicy::Required,
        ..quiet("/uart@9040000")
    };
    assert_eq!(
        only(&[required], &[]),
        (at(0, 0, "address"), Rule::DeviceCannotReset)
    );
}

#[test]
fn what_the_hypervisor_uses_is_nobodys() {
    let cases = [
        ("/console@9000000", Part::Console),
        ("/gic@8000000", Part::Gic),
        ("/its@8080000", Part::Its),
        ("/smmu@9050000", Part::Smmu),
        ("/memory@40000000", Part::Ram),
    ];
    for (path, part) in cases {
        assert_eq!(
            only(&[quiet(path)], &[]),
            (
                at(0, 0, "address"),
                Rule::Node(NodeRule::OfHypervisor { part })
            ),
            "{path}"
        );
    }
    assert_eq!(
        only(&[quiet("/wire@9090000")], &[]).1,
        Rule::Node(NodeRule::InterruptTaken { intid: 33 })
    );
    assert_eq!(
        only(&[quiet("/private@9091000")], &[]).1,
        Rule::Node(NodeRule::Interrupt { intid: 27 })
    );
}

#[test]
fn a_node_is_given_once() {
    let twice = quiet("/uart@9040000");
    for (first, second) in [
        (vec![twice.clone(), twice.clone()], vec![]),
        (vec![twice.clone()], vec![twice.clone()]),
    ] {
        assert_eq!(only(&first, &second).1, Rule::DeviceTwice);
    }
    assert_eq!(only(&[quiet("/none@0")], &[]).1, Rule::DeviceUnknown);
}

#[test]
fn a_page_belongs_to_one_partition_with_all_that_is_in_it() {
    let (a, b) = ("/bus/gpio@9060000", "/bus/gpio@9060200");
    let shares = |with| {
        Rule::Node(NodeRule::SharesPage {
            page: Hpa(0x906_0000),
            with: Name::new(with),
        })
    };
    // Nobody owns the other one; what lies below the first belongs to it.
    let found = only(&[quiet(a)], &[]);
    assert_eq!(found, (at(0, 0, "address"), shares(b)));
    assert_eq!(
        found.1.to_string(),
        "the device shares the page of registers at 0x9060000 with /bus/gpio@9060200"
    );
    assert_eq!(given(&[quiet(a), quiet(b)], &[]), []);
    let found: Vec<_> = given(&[quiet(a)], &[quiet(b)]);
    assert_eq!(found[0], (at(0, 0, "address"), shares(b)));
    assert_eq!(found[1], (at(1, 0, "address"), shares(a)));
    // The part without the whole.
    let part = "/bus/gpio@9060000/port@100";
    assert_eq!(only(&[quiet(part)], &[]).1, shares(a));
}

#[test]
fn an_interrupt_belongs_to_one_partition() {
    let (a, b) = (quiet("/uart@9040000"), quiet("/second@9070000"));
    assert_eq!(
        only(from_ref(&a), from_ref(&b)),
        (
            at(1, 0, "address"),
            Rule::Node(NodeRule::SharesInterrupt { intid: 40 })
        )
    );
    assert_eq!(given(&[a, b], &[]), []);
}

#[test]
fn a_stream_belongs_to_one_partition() {
    let stream = |id| Rule::DeviceSharesStream {
        stream: Stream {
            smmu: IommuIndex(0),
            id: DeviceId(id),
        },
    };
    let (a, b) = (loud("/dma@9080000"), loud("/dma@9081000"));
    assert_eq!(only(from_ref(&a), from_ref(&b)).1, stream(0x40));
    assert_eq!(given(&[a, b], &[]), []);
    // A function and a node.
    let found = only(&[device("00:01.0")], &[loud("/function@9082000")]);
    assert_eq!(found.1, stream(8));
}

#[test]
fn what_cannot_be_used_or_read_is_refused() {
    let case = |change: fn(&mut PlatformDevice)| {
        let mut devices = devices();
        change(&mut devices[1]);
        let found = broken_on(&facts_of(&devices), |m| {
            m.partitions[0].devices = vec![quiet("/uart@9040000")];
        });
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].1
    };
    assert_eq!(case(|d| d.enabled = false), Rule::Node(NodeRule::Disabled));
    assert_eq!(
        case(|d| d.registers.clear()),
        Rule::Node(NodeRule::WithoutRegisters)
    );
    let property = "reg";
    let unreadable = Rule::Node(NodeRule::Unreadable { property });
    assert_eq!(case(|d| d.unreadable = Some("reg")), unreadable);
    let many = case(|d| d.irqs = (64..93).map(|intid| Some(level(intid))).collect());
    assert_eq!(many, Rule::Node(NodeRule::TooManyInterrupts { count: 29 }));
}

#[test]
fn a_node_has_no_pci_address_and_takes_none() {
    let with_address = Device {
        guest: Some("00:05.0".parse().unwrap()),
        ..quiet("/uart@9040000")
    };
    assert_eq!(
        only(&[with_address], &[]),
        (at(0, 0, "guest"), Rule::GuestAddressOfNode)
    );
    let both = [quiet("/uart@9040000"), device("00:01.0")];
    let addresses = guest_addresses(&both);
    assert_eq!(addresses, [None, Some(PciAddress::new(0, 1, 0))]);
}

#[test]
fn registers_stay_where_they_are_if_the_guest_has_nothing_there() {
    let place = |registers: &[Span<Hpa>]| place_registers(64 << 20, registers);
    let map = |host, guest| Mapping {
        host,
        guest: Gpa(guest),
    };
    let free = ram(0x3000_1000, 0x1000);
    assert_eq!(place(&[free]), Ok(vec![map(free, 0x3000_1000)]));
    // Behind the guest's RAM, but not in it.
    let behind = ram(0x4400_0000, 0x2000);
    assert_eq!(place(&[behind]), Ok(vec![map(behind, 0x4400_0000)]));
    let inside = ram(0x43ff_f000, 0x2000);
    let base = guest_map::PLATFORM.base.0;
    assert_eq!(place(&[inside]), Ok(vec![map(inside, base)]));
    // Where virtual devices are, and past what the guest addresses.
    let (uart, far) = (ram(0x904_0000, 0x1000), ram(1 << 40, 0x1000));
    assert_eq!(
        place(&[far, uart]),
        Ok(vec![map(uart, base), map(far, base + 0x1000)])
    );
}

#[test]
fn pages_that_touch_registers_are_mapped_once_and_whole() {
    let registers = [
        ram(0x906_0200, 0x200),
        ram(0x906_0000, 0x10),
        ram(0x906_0ff0, 0x20),
    ];
    let mappings = place_registers(64 << 20, &registers).unwrap();
    let host = ram(0x906_0000, 0x2000);
    let guest = guest_map::PLATFORM.base;
    assert_eq!(mappings, [Mapping { host, guest }]);
    let place = mappings[0].find(&registers[0]).unwrap();
    assert_eq!((place.base, place.len), (guest + 0x200, 0x200));
    assert_eq!(mappings[0].find(&ram(0x906_1ff0, 0x20)), None);
}

#[test]
fn registers_that_find_no_room_are_refused() {
    let large = ram(2 << 40, guest_map::PLATFORM.len);
    let page = ram(1 << 40, 0x1000);
    assert!(place_registers(64 << 20, &[large]).is_ok());
    assert_eq!(
        place_registers(64 << 20, &[large, page]),
        Err(NoWindow(large))
    );
    let end = ram(u64::MAX - 0xfff, 0xfff);
    assert_eq!(place_registers(64 << 20, &[end]), Err(NoWindow(end)));
    let found = only(&[quiet("/large@100000000")], &[]);
    assert!(
        matches!(found.1, Rule::Node(NodeRule::WindowFull { .. })),
        "{found:?}"
    );
}

#[test]
fn a_long_path_is_named_by_its_end() {
    let long = format!("/{}/uart@9040000", "x".repeat(60));
    let name = Name::new(&long).to_string();
    assert!(name.starts_with("..x") && name.ends_with("/uart@9040000"));
    assert_eq!(name.len(), 50);
    assert_eq!(Name::new("/uart").to_string(), "/uart");
    // A cut in the middle of a character.
    assert!(Name::new(&"é".repeat(40)).to_string().ends_with('é'));
}
