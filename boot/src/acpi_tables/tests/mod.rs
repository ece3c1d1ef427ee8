//! Tables of a machine with two root complexes, an SMMU before each, and what is refused of them.

mod dmar;
mod guests;
mod made;

use super::{AcpiError, Table, Tables, parse};
use iommu::addr::{Hpa, Span};
use kernel::boot_info::{Cpu, IdMap, Irq, PsciConduit};
use made::{Iort, Made, damaged};

fn span(base: u64, len: u64) -> Span<Hpa> {
    Span::<Hpa>::new(Hpa(base), len).unwrap()
}

#[test]
fn every_part_of_the_machine_is_found() {
    let made = Made::two_smmus();
    let info = parse(&made.tables()).unwrap();
    assert_eq!(info.model, "SLUICE MACHINE (ACPI)");
    assert_eq!(info.psci, Some(PsciConduit::Smc));
    assert_eq!(info.cpus, [Cpu { id: 0 }, Cpu { id: 0x100 }]);
    let gic = info.gic.unwrap();
    assert_eq!(gic.distributor, span(0x800_0000, 0x1_0000));
    assert_eq!(gic.redistributors, [span(0x80a_0000, 0xf6_0000)]);
    let level = |intid| Irq { intid, edge: false };
    assert_eq!(gic.maintenance, Some(level(25)));
    assert_eq!(gic.its[0].registers, span(0x808_0000, 0x2_0000));
    let timer = info.timer.unwrap();
    assert_eq!(
        [timer.phys, timer.virt, timer.hyp],
        [30, 27, 26].map(level),
        "in the order NS EL1, virtual, EL2"
    );
    let uart = info.uart.unwrap();
    assert_eq!(uart.registers, span(0x900_0000, 0x1000));
    assert_eq!(uart.irq, Some(level(33)));
    let [host] = &info.pcie[..] else {
        panic!("{:?}", info.pcie)
    };
    assert_eq!((host.segment, host.buses), (0, (0, 255)));
    assert_eq!(host.ecam, span(0x40_1000_0000, 256 << 20));
    assert!(host.dma_coherent && host.windows.is_empty());
    let [first, second] = &info.smmus[..] else {
        panic!("{:?}", info.smmus)
    };
    assert_eq!(first.registers, span(0x905_0000, 0x2_0000));
    assert_eq!(second.registers, span(0x907_0000, 0x2_0000));
    let edge = |intid| Some(Irq { intid, edge: true });
    assert_eq!((first.event_irq, first.gerror_irq), (edge(106), edge(109)));
    assert!(first.dma_coherent);
}

#[test]
fn streams_and_messages_go_where_the_iort_sends_them() {
    let info = parse(&Made::two_smmus().tables()).unwrap();
    let host = &info.pcie[0];
    let names = [info.smmus[0].phandle, info.smmus[1].phandle];
    let its = info.gic.unwrap().its[0].phandle;
    let of = |maps: &[IdMap], rid: u32| {
        let mut found = maps
            .iter()
            .filter_map(|map| Some((map.target, map.translate(rid)?)));
        (found.next(), found.next())
    };
    // Buses 0 to 7 are behind the first, 8 and more behind the second, whose StreamIDs start at 0.
    assert_eq!(of(&host.iommu_map, 0x10), (Some((names[0], 0x10)), None));
    assert_eq!(of(&host.iommu_map, 0x900), (Some((names[1], 0x100)), None));
    assert_eq!(of(&host.msi_map, 0x10), (Some((its, 0x10)), None));
    // The second SMMU gives its streams other identities at the ITS.
    assert_eq!(of(&host.msi_map, 0x900), (Some((its, 0x4100)), None));
}

#[test]
fn a_complex_around_the_smmus_has_messages_only() {
    let mut iort = Iort::default();
    let its = iort.its_group(&[0]);
    iort.complex(0, &[(0, 0xffff, 0, its, 0)]);
    let mut made = Made::two_smmus();
    made.iort = iort.table();
    let info = parse(&made.tables()).unwrap();
    assert!(info.smmus.is_empty() && info.pcie[0].iommu_map.is_empty());
    assert_eq!(info.pcie[0].msi_map[0].translate(0x123), Some(0x123));
}

#[test]
fn every_truncation_is_refused_or_read() {
    let made = Made::two_smmus();
    let whole = made.tables();
    let lists: [fn(&mut Tables<'_>, usize); 6] = [
        |tables, len| tables.fadt = tables.fadt.map(|bytes| &bytes[..len.min(bytes.len())]),
        |tables, len| tables.madt = tables.madt.map(|bytes| &bytes[..len.min(bytes.len())]),
        |tables, len| tables.gtdt = tables.gtdt.map(|bytes| &bytes[..len.min(bytes.len())]),
        |tables, len| tables.mcfg = tables.mcfg.map(|bytes| &bytes[..len.min(bytes.len())]),
        |tables, len| tables.spcr = tables.spcr.map(|bytes| &bytes[..len.min(bytes.len())]),
        |tables, len| tables.iort = tables.iort.map(|bytes| &bytes[..len.min(bytes.len())]),
    ];
    let mut refused = 0;
    for cut in lists {
        for len in 0..600 {
            let mut tables = whole;
            cut(&mut tables, len);
            refused += usize::from(parse(&tables).is_err());
        }
    }
    assert!(refused > 500, "only {refused}");
}

/// Each byte of each table, set to values that lengths, counts and references are wrong with.
#[test]
fn no_byte_can_stop_us() {
    let made = Made::two_smmus();
    for table in 0..6 {
        let len = made.bytes(table).len();
        for at in 0..len {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = made.clone();
                broken.bytes_mut(table)[at] = value;
                let _ = parse(&broken.tables());
            }
        }
    }
}

#[test]
fn an_iort_that_loops_or_overlaps_is_refused() {
    let refused = |iort: Iort| {
        let mut made = Made::two_smmus();
        made.iort = iort.table();
        let error = parse(&made.tables()).unwrap_err();
        assert!(
            matches!(error, AcpiError::Malformed(Table::Iort, _)),
            "{error}"
        );
    };
    // An SMMU that leads to itself.
    let mut iort = Iort::default();
    let own = iort.next();
    iort.smmu(0x905_0000, &[(0, 0xffff, 0, own, 0)]);
    iort.complex(0, &[(0, 0xffff, 0, own, 0)]);
    refused(iort);
    // Two SMMUs that lead to each other.
    let mut iort = Iort::default();
    let first = iort.next();
    let second = first + 68 + 20;
    iort.smmu(0x905_0000, &[(0, 0xffff, 0, second, 0)]);
    assert_eq!(iort.next(), second);
    iort.smmu(0x907_0000, &[(0, 0xffff, 0, first, 0)]);
    iort.complex(0, &[(0, 0xffff, 0, first, 0)]);
    refused(iort);
    // A complex that leads to a complex.
    let mut iort = Iort::default();
    let own = iort.next();
    iort.complex(0, &[(0, 0xffff, 0, own, 0)]);
    refused(iort);
    // A reference to nothing, and into the middle of a node.
    for offset in [0, 4] {
        let mut iort = Iort::default();
        let its = iort.its_group(&[0]);
        iort.complex(0, &[(0, 0xffff, 0, its + 2 + offset, 0)]);
        refused(iort);
    }
    // One requester ID with two identities.
    let mut iort = Iort::default();
    let its = iort.its_group(&[0]);
    iort.complex(0, &[(0, 0xff, 0, its, 0), (0x80, 0xff, 0, its, 0)]);
    refused(iort);
    // The same by two complexes of one segment, at an ITS and at an SMMU.
    for behind_smmu in [false, true] {
        let mut iort = Iort::default();
        let its = iort.its_group(&[0]);
        let to = match behind_smmu {
            true => iort.smmu(0x905_0000, &[]),
            false => its,
        };
        iort.complex(0, &[(0, 0xff, 0, to, 0)]);
        iort.complex(0, &[(0xff, 0xff, 0x1000, to, 0)]);
        refused(iort);
    }
    // Two SMMUs with one page of registers in common.
    let mut iort = Iort::default();
    iort.smmu(0x905_0000, &[]);
    iort.smmu(0x906_0000, &[]);
    refused(iort);
    // A node more than are counted.
    let mut iort = Iort::default();
    iort.smmu(0x905_0000, &[]);
    iort.smmu(0x907_0000, &[]);
    iort.count -= 1;
    refused(iort);
    // A complex that leads to what translates nothing.
    let mut iort = Iort::default();
    let other = iort.other(1, &[]);
    iort.complex(0, &[(0, 0xffff, 0, other, 0)]);
    refused(iort);
    // Identities past 32 bits.
    let mut iort = Iort::default();
    let its = iort.its_group(&[0]);
    iort.complex(0, &[(0, 0xffff, 0xffff_8000, its, 0)]);
    refused(iort);
    // An empty ITS group.
    let mut iort = Iort::default();
    let its = iort.its_group(&[]);
    iort.complex(0, &[(0, 0xffff, 0, its, 0)]);
    refused(iort);
}

#[test]
fn complexes_of_other_segments_have_requester_ids_of_their_own() {
    let mut iort = Iort::default();
    let its = iort.its_group(&[0]);
    for segment in [0, 1] {
        iort.complex(segment, &[(0, 0xffff, segment << 16, its, 0)]);
    }
    let mut made = Made::two_smmus();
    made.iort = iort.table();
    assert_eq!(parse(&made.tables()).unwrap().pcie[0].msi_map.len(), 1);
}

/// Whatever is read of a table that is wrong in several places keeps what its users rely on.
#[test]
fn what_is_read_of_a_damaged_iort_is_sound() {
    let made = Made::two_smmus();
    let mut read = 0;
    damaged(&made.iort, 20_000, |table| {
        let tables = Tables {
            iort: Some(table),
            ..made.tables()
        };
        let Ok(info) = parse(&tables) else { return };
        read += 1;
        for (at, smmu) in info.smmus.iter().enumerate() {
            let mut others = info.smmus[..at].iter();
            assert!(!others.any(|it| it.registers.overlaps(&smmu.registers)));
            assert!(!info.smmus[..at].iter().any(|it| it.phandle == smmu.phandle));
        }
        let host = &info.pcie[0];
        for map in &host.iommu_map {
            assert!(info.smmus.iter().any(|smmu| smmu.phandle == map.target));
        }
        for rid in (0..=0xffff).step_by(0x11) {
            for maps in [&host.iommu_map, &host.msi_map] {
                let all = maps.iter().filter_map(|map| map.translate(rid));
                assert!(all.count() < 2, "{rid:#x} in {table:x?}");
            }
        }
    });
    assert!((1_000..19_000).contains(&read), "{read} were read");
}

#[test]
fn a_single_mapping_is_nobodys_identity() {
    let mut iort = Iort::default();
    let its = iort.its_group(&[0]);
    let smmu = iort.next();
    iort.smmu(0x905_0000, &[(0, 0, 7, its, 1), (0, 0xffff, 0x100, its, 0)]);
    iort.complex(0, &[(0, 0xffff, 0, smmu, 0)]);
    let mut made = Made::two_smmus();
    made.iort = iort.table();
    let info = parse(&made.tables()).unwrap();
    assert_eq!(info.pcie[0].msi_map.len(), 1);
    assert_eq!(info.pcie[0].msi_map[0].translate(0), Some(0x100));
}

#[test]
fn a_structure_without_length_ends_the_reading() {
    let mut made = Made::two_smmus();
    made.madt[44 + 1] = 0;
    assert_eq!(
        parse(&made.tables()).unwrap_err(),
        AcpiError::Malformed(Table::Madt, 44)
    );
}

#[test]
fn what_nothing_runs_without_is_asked_for() {
    let made = Made::two_smmus();
    let tables = made.tables();
    for (without, table) in [
        (
            Tables {
                madt: None,
                ..tables
            },
            Table::Madt,
        ),
        (
            Tables {
                fadt: None,
                ..tables
            },
            Table::Fadt,
        ),
        (
            Tables {
                gtdt: None,
                ..tables
            },
            Table::Gtdt,
        ),
    ] {
        assert_eq!(parse(&without).unwrap_err(), AcpiError::Missing(table));
    }
    // A console and an IORT are not: what needs them says so.
    let info = parse(&Tables {
        spcr: None,
        iort: None,
        ..tables
    });
    let info = info.unwrap();
    assert!(info.uart.is_none() && info.smmus.is_empty());
}
