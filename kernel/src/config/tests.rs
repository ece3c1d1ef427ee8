//! The rules on machines that no host describes, the decisions that both sides take alike, and values as text.

mod ats;
mod nodes;
mod sriov;

use super::*;
use alloc::string::ToString;
use alloc::{format, vec};
use iommu::addr::{Gpa, Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};

fn ram(base: u64, len: u64) -> Span<Hpa> {
    Span {
        base: Hpa(base),
        len,
    }
}

fn image(image_size: u64) -> Content {
    Content::Bytes {
        len: 4096,
        image: Ok(ImageHeader {
            text_offset: 0,
            image_size,
        }),
    }
}

fn function(address: &str, ids: &[u32], group: u32) -> Function {
    let stream = |id: &u32| Stream {
        smmu: IommuIndex(0),
        id: DeviceId(*id),
    };
    Function {
        address: address.parse().unwrap(),
        physical: None,
        vfs: 0,
        streams: ids.iter().map(stream).collect(),
        group,
        bridge: false,
        usable: true,
        resettable: Some(true),
        ats: Some(false),
    }
}

fn facts() -> MachineFacts {
    MachineFacts {
        memory: vec![ram(0x4000_0000, 1 << 30), ram(0x1_0000_0000, 256 << 20)],
        reserved: vec![ram(0x4000_0000, 16 << 20)],
        cpus: 4,
        functions: vec![
            function("00:01.0", &[8], 1),
            function("00:02.0", &[16], 2),
            function("01:00.0", &[0x100, 8], 3),
            function("01:01.0", &[0x108], 2),
        ],
        files: vec![File {
            name: "k".to_string(),
            content: image(8 << 20),
        }],
        ..MachineFacts::default()
    }
}

fn partition(name: &str, cpu: u16) -> Partition {
    Partition {
        name: name.to_string(),
        memory: Bytes(64 << 20),
        base: None,
        cpus: vec![cpu],
        kernel: Some("k".to_string()),
        initrd: None,
        cmdline: None,
        payload: None,
        autostart: true,
        viommu: false,
        tables: Tables::DeviceTree,
        restart: true,
        on_fault: OnFault::default(),
        devices: vec![],
        dma_windows: vec![],
    }
}

fn machine() -> Machine {
    Machine {
        machine: Identity {
            name: "m".to_string(),
            qemu: None,
            board: None,
            sriov: vec![],
        },
        partitions: vec![partition("a", 0), partition("b", 1)],
    }
}

fn device(address: &str) -> Device {
    Device {
        address: address.parse().unwrap(),
        guest: None,
        reset: ResetPolicy::Required,
        dma: true,
        manages_vfs: false,
        ats: false,
        reserved_memory: false,
    }
}

/// Paths and rules that a changed machine breaks.
fn broken(change: impl FnOnce(&mut Machine)) -> Vec<(String, Rule)> {
    broken_on(&facts(), change)
}

fn broken_on(facts: &MachineFacts, change: impl FnOnce(&mut Machine)) -> Vec<(String, Rule)> {
    let mut machine = machine();
    change(&mut machine);
    validate(&machine, facts)
        .into_iter()
        .map(|problem| (problem.at.to_string(), problem.rule))
        .collect()
}

#[test]
fn a_machine_without_a_fault_breaks_no_rule() {
    assert_eq!(broken(|_| {}), []);
}

#[test]
fn all_problems_are_reported_not_the_first() {
    let found = broken(|m| {
        m.partitions[0].name.clear();
        m.partitions[1].cpus = vec![0, 9];
        m.partitions[1].memory = Bytes(3 << 20);
        m.partitions[1].kernel = None;
    });
    let names: Vec<&str> = found.iter().map(|(at, _)| at.as_str()).collect();
    assert_eq!(
        names,
        [
            "partition[0].name",
            "partition[1].cpus[0]",
            "partition[1].cpus[1]",
            "partition[1].memory",
            "partition[1]"
        ]
    );
}

#[test]
fn what_collides_names_both_places() {
    let mut machine = machine();
    machine.partitions[1].cpus = vec![2, 0];
    let problems = validate(&machine, &facts());
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "partition[1].cpus[1]: CPU 0 is given twice (see partition[0].cpus[0])"
    );
}

#[test]
fn too_many_of_anything_is_refused() {
    let found = broken(|m| m.partitions = (0..33).map(|i| partition("p", i)).collect());
    let many = Rule::TooManyPartitions { count: 33 };
    assert!(found.contains(&("partition[32]".to_string(), many)));
    let found = broken(|m| m.partitions[0].cpus = (0..65).collect());
    assert!(found.iter().any(|f| f.1 == Rule::TooManyCpus { count: 65 }));
    let found = broken(|m| m.partitions[0].devices = vec![device("00:01.0"); 32]);
    assert!(found.iter().any(|f| f.1 == Rule::GuestBusFull));
}

#[test]
fn memory_is_counted_without_what_is_reserved() {
    let rest = (1 << 30) - (16 << 20);
    assert_eq!(broken(|m| m.partitions[0].memory = Bytes(rest)), []);
    // All of it is enough for both; no range is enough for the first.
    let found = broken(|m| m.partitions[0].memory = Bytes(rest + (2 << 20)));
    let scattered = Rule::MemoryScattered {
        size: Bytes(rest + (2 << 20)),
        largest: Bytes(rest),
    };
    assert_eq!(found, [("partition[0].memory".to_string(), scattered)]);
    let found = broken(|m| m.partitions[1].memory = Bytes(2 << 30));
    let short = Rule::MemoryShort {
        wanted: Bytes((2 << 30) + (64 << 20)),
        have: Bytes(rest + (256 << 20)),
    };
    assert_eq!(found, [("partition[1].memory".to_string(), short)]);
}

#[test]
fn fixed_bases_lie_in_free_ram_and_apart() {
    let at = |base: u64| broken(|m| m.partitions[1].base = Some(Bytes(base)));
    assert_eq!(at(0x1_0000_0000), []);
    assert!(matches!(at(0)[..], [(_, Rule::BaseNotRam { .. })]));
    assert!(matches!(
        at(u64::MAX - 4095)[..],
        [
            (_, Rule::BaseUnaligned { .. }),
            (_, Rule::BaseNotRam { .. })
        ]
    ));
    assert!(matches!(
        at(0x40e0_0000)[..],
        [(_, Rule::BaseReserved { .. })]
    ));
    let both = broken(|m| {
        m.partitions[0].base = Some(Bytes(0x5000_0000));
        m.partitions[1].base = Some(Bytes(0x5200_0000));
    });
    assert!(matches!(both[..], [(_, Rule::BaseOverlap { .. })]));
}

#[test]
fn placed_memory_never_overlaps() {
    let mut machine = machine();
    machine.partitions[1].base = Some(Bytes(0x4100_0000));
    let placed = place_memory(&machine, &facts());
    assert_eq!(placed[1], Ok(ram(0x4100_0000, 64 << 20)));
    assert_eq!(placed[0], Ok(ram(0x4500_0000, 64 << 20)));
    machine.partitions[0].base = Some(Bytes(0x4200_0000));
    assert!(place_memory(&machine, &facts())[1].is_err());
    machine.partitions[0].memory = Bytes(u64::MAX);
    assert!(place_memory(&machine, &facts())[0].is_err());
}

#[test]
fn an_alias_counts_like_an_own_stream() {
    let split = |first: &str, second: &str| {
        let (first, second) = (device(first), device(second));
        broken(|m| {
            m.partitions[0].devices = vec![first];
            m.partitions[1].devices = vec![second];
        })
    };
    assert_eq!(split("00:01.0", "00:02.0"), []);
    let stream = facts().functions[0].streams[0];
    assert_eq!(
        split("00:01.0", "01:00.0"),
        [(
            "partition[1].device[0].address".to_string(),
            Rule::DeviceSharesStream { stream }
        )]
    );
    let shared = split("01:01.0", "00:02.0");
    assert_eq!(shared[0].1, Rule::DeviceSharesGroup { group: 2 });
    let together = broken(|m| {
        m.partitions[0].devices = vec![device("00:01.0"), device("01:00.0")];
    });
    assert_eq!(together, []);
}

#[test]
fn a_device_that_cannot_be_confined_or_used_is_refused() {
    let with = |change: fn(&mut Function)| {
        let mut facts = facts();
        change(&mut facts.functions[0]);
        let found = broken_on(&facts, |m| {
            m.partitions[0].devices = vec![device("00:01.0")]
        });
        found.into_iter().map(|f| f.1).collect::<Vec<_>>()
    };
    assert_eq!(with(|f| f.streams.clear()), [Rule::DeviceBehindNoSmmu]);
    assert_eq!(with(|f| f.bridge = true), [Rule::DeviceIsBridge]);
    assert_eq!(with(|f| f.usable = false), [Rule::DeviceWithoutAddresses]);
    assert_eq!(
        with(|f| f.resettable = Some(false)),
        [Rule::DeviceCannotReset]
    );
    assert_eq!(with(|f| f.resettable = None), []);
    let mut facts = facts();
    facts.functions[0].resettable = Some(false);
    let best_effort = Device {
        reset: ResetPolicy::BestEffort,
        ..device("00:01.0")
    };
    assert_eq!(
        broken_on(&facts, |m| m.partitions[0].devices = vec![best_effort]),
        []
    );
}

#[test]
fn guests_see_devices_where_it_says_or_at_the_next_free_number() {
    let at = |guest: &str| Device {
        guest: Some(guest.parse().unwrap()),
        ..device("00:01.0")
    };
    let any = || device("00:01.0");
    let devices = [any(), at("00:02.0"), at("00:01.3"), any(), at("01:03.0")];
    let given: Vec<String> = guest_addresses(&devices)
        .iter()
        .map(|a| a.unwrap().to_string())
        .collect();
    assert_eq!(
        given,
        ["00:03.0", "00:02.0", "00:01.3", "00:04.0", "01:03.0"]
    );
}

#[test]
fn only_a_kernel_is_given_acpi_tables() {
    assert_eq!(broken(|m| m.partitions[0].tables = Tables::Acpi), []);
    let found = broken(|m| {
        m.partitions[0].tables = Tables::Acpi;
        m.partitions[0].payload = m.partitions[0].kernel.take();
    });
    let at = "partition[0].tables".to_string();
    assert_eq!(found, [(at, Rule::AcpiForPayload)]);
}

#[test]
fn boot_files_lie_apart_and_within_memory() {
    let header = ImageHeader {
        text_offset: 0x8_0000,
        image_size: 0x123_4567,
    };
    let placed = place(64 << 20, header, 1000).unwrap();
    assert_eq!(placed.kernel.base, Gpa(0x4008_0000));
    assert!(placed.kernel.end() <= placed.dtb.base);
    assert!(placed.dtb.base.is_aligned(2 << 20));
    assert_eq!(placed.dtb.end(), placed.initrd.base);
    assert_eq!(placed.initrd.len, 1000);
    let needed = placed.initrd.end() - Gpa(0x4000_0000);
    assert!(place(needed, header, 1000).is_ok());
    assert_eq!(place(needed - 1, header, 1000), Err(NoRoom { needed }));
    let huge = ImageHeader {
        text_offset: 1,
        image_size: u64::MAX,
    };
    assert!(place(64 << 20, huge, 0).is_err());
    assert!(place(u64::MAX, header, u64::MAX - (64 << 20)).is_err());
}

#[test]
fn image_headers_are_told_from_other_files() {
    let mut header = [0; 64];
    // text_offset 0, image_size 0x1f4_0000, flags: little-endian, 4 KiB pages, as Linux 6.12 has them.
    header[16..20].copy_from_slice(&[0, 0, 0xf4, 1]);
    header[24] = 0xa;
    header[56..60].copy_from_slice(b"ARMd");
    let good = ImageHeader {
        text_offset: 0,
        image_size: 0x1f4_0000,
    };
    assert_eq!(ImageHeader::parse(&header), Ok(good));
    assert_eq!(ImageHeader::parse(&header[..63]), Err(ImageError::Short));
    assert_eq!(ImageHeader::parse(&[]), Err(ImageError::Short));
    assert_eq!(ImageHeader::parse(&[0; 64]), Err(ImageError::Magic));
    assert_eq!(ImageHeader::parse(&[0x1f, 0x8b]), Err(ImageError::Gzip));
    let with = |at: usize, bytes: &[u8]| {
        let mut header = header;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        ImageHeader::parse(&header)
    };
    assert_eq!(with(16, &[0; 8]), Err(ImageError::NoSize));
    assert_eq!(with(24, &[0xb]), Err(ImageError::BigEndian));
    assert_eq!(with(0, b"MZ\0\0zimg"), Err(ImageError::Zboot));
}

#[test]
fn sizes_and_addresses_are_read_as_people_write_them() {
    let bytes = |text: &str| text.parse::<Bytes>().map(Bytes::get);
    assert_eq!(bytes("512M"), Ok(512 << 20));
    assert_eq!(bytes("4096"), Ok(4096));
    assert_eq!(bytes("1_000K"), Ok(1_024_000));
    assert_eq!(bytes("0x8000_0000"), Ok(0x8000_0000));
    assert_eq!(bytes(""), Err(TextError::NotANumber));
    assert_eq!(bytes("G"), Err(TextError::NotANumber));
    assert_eq!(bytes("-1"), Err(TextError::NotANumber));
    assert_eq!(bytes("1m"), Err(TextError::Suffix('m')));
    assert_eq!(bytes("1MÄ"), Err(TextError::Suffix('Ä')));
    assert_eq!(bytes("16777216T"), Err(TextError::TooLarge));
    assert_eq!(bytes("0x10000000000000000"), Err(TextError::TooLarge));

    let address = |text: &str| text.parse::<PciAddress>();
    assert_eq!(address("00:02.1"), Ok(PciAddress::new(0, 2, 1)));
    let far = address("0012:ab:1f.7").unwrap();
    assert_eq!((far.segment, far.requester_id()), (0x12, 0xabff));
    assert_eq!(far.to_string(), "0012:ab:1f.7");
    assert_eq!(PciAddress::from_requester_id(0x12, 0xabff), far);
    for bad in [
        "",
        "1",
        "00:02",
        "0:0:0:0.0",
        "+1:02.0",
        "00:02.",
        ":02.0",
        "00:02.0 ",
    ] {
        assert_eq!(address(bad), Err(TextError::NotAnAddress), "{bad:?}");
    }
    assert_eq!(address("00:20.0"), Err(TextError::Device(0x20)));
    assert_eq!(address("00:00.8"), Err(TextError::Function(8)));
    assert_eq!(format!("{}", Bytes(3 << 20)), "3 MiB");
    assert_eq!(format!("{}", Bytes(0)), "0 bytes");
}
