//! A DMAR, structure by structure as chapter 8 of VT-d lists the fields, and what is refused of one.

use super::made::{Writer, damaged};
use super::span;
use crate::acpi_tables::{AcpiError, Table, dmar, units};
use kernel::boot_info::{Dmar, ScopeKind};

/// Type, enumeration ID, start bus, path.
type Scope<'a> = (u8, u8, u8, &'a [(u8, u8)]);

/// The table that QEMU makes (10.0, q35 with intel-iommu): one unit with a scope for each device.
fn whole() -> Made {
    let mut made = Made::default();
    let io_apic: Scope<'_> = (3, 0, 0xff, &[(0, 0)]);
    let disk: Scope<'_> = (1, 0, 0, &[(2, 0)]);
    let bridge: Scope<'_> = (2, 0, 0, &[(0x1c, 0), (0, 0)]);
    made.unit(1, 0, 0xfed9_0000, &[io_apic]);
    made.unit(0, 0, 0xfed9_1000, &[disk, bridge]);
    made.reserved(0, 0x7f00_0000, 0x7f1f_ffff, &[disk]);
    made.structure(2, |data| {
        data.u8(0).u8(0).u16(0);
        scopes(data, &[bridge]);
    });
    made.structure(5, |data| {
        data.u8(1).u8(0).u16(0);
        scopes(data, &[disk]);
    });
    made.structure(3, |data| {
        data.u32(0).u64(0xfed9_1000).u32(7);
    });
    made.structure(4, |data| {
        data.u8(0).u16(0).u8(1);
        data.0.extend_from_slice(b"\\_SB.I2C0\0");
    });
    // One that a later revision may have.
    made.structure(99, |data| {
        data.u32(0xffff_ffff);
    });
    made
}

#[derive(Clone, Default)]
struct Made(Writer);

fn scopes(data: &mut Writer, scopes: &[Scope<'_>]) {
    for &(kind, id, bus, path) in scopes {
        data.u8(kind).u8(6 + path.len() as u8 * 2).u16(0);
        data.u8(id).u8(bus);
        for &(device, function) in path {
            data.u8(device).u8(function);
        }
    }
}

impl Made {
    fn structure(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        let mut data = Writer::default();
        fill(&mut data);
        self.0.u16(kind).u16(4 + data.0.len() as u16);
        self.0.0.extend_from_slice(&data.0);
    }

    fn unit(&mut self, flags: u8, size: u8, base: u64, all: &[Scope<'_>]) {
        self.structure(0, |data| {
            data.u8(flags).u8(size).u16(0).u64(base);
            scopes(data, all);
        });
    }

    fn reserved(&mut self, segment: u16, base: u64, limit: u64, all: &[Scope<'_>]) {
        self.structure(1, |data| {
            data.u16(0).u16(segment).u64(base).u64(limit);
            scopes(data, all);
        });
    }

    fn table(&self) -> Vec<u8> {
        let mut writer = Writer::header(b"DMAR", 1);
        writer.u8(38).u8(5).u64(0).u16(0);
        writer.0.extend_from_slice(&self.0.0);
        writer.table()
    }

    fn read(&self) -> Result<Dmar, AcpiError> {
        dmar::read(&self.table())
    }
}

#[test]
fn every_part_of_the_table_is_found() {
    let dmar = whole().read().unwrap();
    assert_eq!((dmar.address_bits, dmar.interrupt_remapping), (39, true));
    assert!(dmar.dma_opt_in && !dmar.xapic_only);
    let [all, own] = &dmar.vtds[..] else {
        panic!("{:?}", dmar.vtds)
    };
    assert_eq!(all.registers, span(0xfed9_0000, 0x1000));
    assert!(all.include_all && !own.include_all);
    assert_eq!((all.proximity, own.proximity), (None, Some(7)));
    let apic = &all.scopes[0];
    assert_eq!((apic.kind, apic.bus), (ScopeKind::IoApic, 0xff));
    assert_eq!(apic.requester(|_| None), Some(0xff00));
    let [disk, bridge] = &own.scopes[..] else {
        panic!("{:?}", own.scopes)
    };
    assert_eq!(disk.requester(|_| None), Some(0x10));
    assert_eq!(bridge.requester(|_| None), None);
    assert_eq!(
        bridge.requester(|at| (at == 0xe0).then_some(5)),
        Some(0x500)
    );
    assert_eq!(dmar.reserved[0].memory, span(0x7f00_0000, 0x20_0000));
    assert_eq!(&dmar.reserved[0].scopes[0], disk);
    let reserved = |requester| dmar.reserved_of(0, requester, |_| None).collect::<Vec<_>>();
    assert_eq!(reserved(0x10), [span(0x7f00_0000, 0x20_0000)]);
    assert_eq!(reserved(0x11), []);
    assert!(!dmar.ats_ports[0].all && dmar.ats_devices[0].required);
}

#[test]
fn large_register_files_have_their_size() {
    let mut made = Made::default();
    made.unit(1, 3, 0xfed9_0000, &[]);
    let dmar = made.read().unwrap();
    assert_eq!(dmar.vtds[0].registers, span(0xfed9_0000, 0x8000));
}

#[test]
fn every_truncation_is_refused() {
    let table = whole().table();
    for len in 0..table.len() {
        let error = dmar::read(&table[..len]).unwrap_err();
        assert!(
            matches!(error, AcpiError::Malformed(Table::Dmar, _)),
            "{len}"
        );
    }
    // The same with a header that agrees: only between two structures is it a table again.
    let mut read = 0;
    for len in 48..table.len() {
        let mut cut = table[..len].to_vec();
        cut[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        read += u32::from(dmar::read(&cut).is_ok());
    }
    assert_eq!(read, 8, "as many as there are structures");
}

#[test]
fn no_byte_can_stop_us() {
    let table = whole().table();
    for at in 0..table.len() {
        for value in 0..=255 {
            let mut broken = table.clone();
            broken[at] = value;
            let _ = dmar::read(&broken);
        }
    }
}

/// Whatever is read of a table that is wrong in several places keeps what its users rely on.
#[test]
fn what_is_read_of_a_damaged_table_is_sound() {
    let mut read = 0;
    damaged(&whole().table(), 20_000, |table| {
        let Ok(dmar) = dmar::read(table) else { return };
        read += 1;
        assert!((1..=64).contains(&dmar.address_bits));
        for (at, unit) in dmar.vtds.iter().enumerate() {
            for other in &dmar.vtds[..at] {
                assert!(!unit.registers.overlaps(&other.registers), "{table:x?}");
                let same_segment = unit.segment == other.segment;
                assert!(!(same_segment && unit.include_all && other.include_all));
                let both = unit.scopes.iter().find(|it| other.scopes.contains(it));
                assert!(!same_segment || both.is_none(), "{both:?}");
            }
        }
        let memory = dmar.reserved.iter().map(|reserved| reserved.memory);
        let mut memory = memory.map(|memory| memory.base.0 | memory.len);
        assert!(memory.all(|both| both % 4096 == 0));
        let scopes = dmar.vtds.iter().flat_map(|unit| &unit.scopes);
        let scopes = scopes.chain(dmar.reserved.iter().flat_map(|it| &it.scopes));
        let scopes = scopes.chain(dmar.ats_ports.iter().flat_map(|it| &it.scopes));
        for scope in scopes.chain(dmar.ats_devices.iter().flat_map(|it| &it.scopes)) {
            assert!(!scope.path.is_empty());
            // Every bridge leads back to the first bus: the walk ends with the path.
            scope.requester(|_| Some(scope.bus));
        }
        assert!(units::find(table).unwrap().are(&dmar.vtds));
    });
    assert!((1_000..19_000).contains(&read), "{read} were read");
}

#[test]
fn what_overlaps_or_cannot_be_is_refused() {
    let disk: Scope<'_> = (1, 0, 0, &[(2, 0)]);
    let refused = |at: usize, fill: &dyn Fn(&mut Made)| {
        let mut made = Made::default();
        fill(&mut made);
        assert_eq!(
            made.read().unwrap_err(),
            AcpiError::Malformed(Table::Dmar, at)
        );
    };
    // One register file, a part of one, two for the rest, one device of two units.
    refused(64 + 8, &|made| {
        made.unit(0, 0, 0xfed9_0000, &[]);
        made.unit(0, 0, 0xfed9_0000, &[]);
    });
    refused(64 + 8, &|made| {
        made.unit(0, 1, 0xfed9_0000, &[]);
        made.unit(0, 0, 0xfed9_1000, &[]);
    });
    refused(64 + 4, &|made| {
        made.unit(1, 0, 0xfed9_0000, &[]);
        made.unit(1, 0, 0xfed9_1000, &[]);
    });
    refused(72 + 16, &|made| {
        made.unit(0, 0, 0xfed9_0000, &[disk]);
        made.unit(0, 0, 0xfed9_1000, &[disk]);
    });
    // Twice in one unit.
    refused(48 + 24, &|made| made.unit(0, 0, 0xfed9_0000, &[disk, disk]));
    // Registers that are nowhere, not on a page, or past the end.
    for base in [0, 0xfed9_0800, u64::MAX - 0xfff] {
        refused(48 + 8, &|made| made.unit(0, 0, base, &[]));
    }
    // Memory that ends before it starts, or in the middle of a page.
    for (base, limit) in [
        (0x2000, 0xfff),
        (0x1000, 0x17ff),
        (0x1800, 0x1fff),
        (0, u64::MAX),
    ] {
        refused(48 + 8, &|made| made.reserved(0, base, limit, &[]));
    }
    // A node for a unit that is not there, a device number that is none, a path without an end.
    refused(48 + 8, &|made| {
        made.structure(3, |data| {
            data.u32(0).u64(0xfed9_0000).u32(7);
        });
    });
    // Two for one unit.
    refused(64 + 20 + 8, &|made| {
        made.unit(0, 0, 0xfed9_0000, &[]);
        for node in [7, 8] {
            made.structure(3, |data| {
                data.u32(0).u64(0xfed9_0000).u32(node);
            });
        }
    });
    refused(48 + 16 + 6, &|made| {
        made.unit(0, 0, 0xfed9_0000, &[(1, 0, 0, &[(32, 0)])])
    });
    refused(48 + 16 + 1, &|made| {
        made.unit(0, 0, 0xfed9_0000, &[(1, 0, 0, &[])])
    });
    // A structure without a length, and one that is too short for its own.
    let mut table = whole().table();
    table[50] = 0;
    assert_eq!(
        dmar::read(&table).unwrap_err(),
        AcpiError::Malformed(Table::Dmar, 50)
    );
    table[50] = 12;
    assert!(dmar::read(&table).is_err());
}

/// The first look sees the units that the second one does, in every table that the second one reads.
#[test]
fn the_first_look_finds_the_same_units() {
    let table = whole().table();
    let units = units::find(&table).unwrap();
    assert_eq!(units.registers().len(), 2);
    assert!(units.are(&dmar::read(&table).unwrap().vtds));
    // From the flags on.
    for at in 37..table.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut broken = table.clone();
            broken[at] = value;
            let (first, second) = (units::find(&broken), dmar::read(&broken));
            if let Ok(second) = second {
                let first = first.unwrap();
                assert!(first.are(&second.vtds), "byte {at} = {value}");
                assert_eq!(first.interrupt_remapping, second.interrupt_remapping);
            }
        }
    }
    for len in 0..table.len() {
        let found = units::find(&table[..len]).map_or(0, |units| units.registers().len());
        assert!(found <= 2);
    }
}
