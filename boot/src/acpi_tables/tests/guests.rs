//! The tables that guests get, read as if they were the machine's.

use super::{Tables, parse, span};
use iommu::addr::{Gpa, Span};
use kernel::boot_info::{Cpu, Irq, PsciConduit};
use kernel::guest_acpi::{self, Places};
use kernel::guest_tree::{GuestTree, Pcie};

fn word(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The bytes at ACPI's place, and the table of each signature in them.
struct Made {
    base: usize,
    bytes: Vec<u8>,
}

impl Made {
    fn new(smmus: &[Vec<u16>]) -> Self {
        let ram = [Span {
            base: Gpa(0x4000_0000),
            len: 64 << 20,
        }];
        let guest = GuestTree {
            name: "guest",
            vcpus: 17,
            memory: &ram,
            bootargs: "",
            initrd: None,
            pcie: Some(Pcie {
                dma_coherent: true,
                msi: true,
            }),
            smmus,
            platform: &[],
        };
        let places = Places::from(Gpa(0x4200_0000));
        Self {
            base: places.acpi.base.0 as usize,
            bytes: guest_acpi::build(&guest, &places).acpi,
        }
    }

    fn table(&self, signature: &[u8; 4]) -> &[u8] {
        let at = |address: usize| {
            let all = &self.bytes[address - self.base..];
            let len = u32::from_le_bytes(all[4..8].try_into().unwrap());
            &all[..len as usize]
        };
        let xsdt = at(word(&self.bytes, 24));
        let mut all = xsdt[36..].chunks(8).map(|entry| at(word(entry, 0)));
        all.find(|table| table.starts_with(signature)).unwrap()
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            fadt: Some(self.table(b"FACP")),
            madt: Some(self.table(b"APIC")),
            gtdt: Some(self.table(b"GTDT")),
            mcfg: Some(self.table(b"MCFG")),
            spcr: Some(self.table(b"SPCR")),
            iort: Some(self.table(b"IORT")),
            dsdt: None,
            dmar: None,
        }
    }
}

#[test]
fn what_is_written_for_a_guest_is_read_back() {
    let made = Made::new(&[vec![8, 0x10], vec![0x18]]);
    let info = parse(&made.tables()).unwrap();
    assert_eq!(info.psci, Some(PsciConduit::Hvc));
    assert_eq!(info.cpus.len(), 17);
    assert_eq!(info.cpus[15..], [Cpu { id: 15 }, Cpu { id: 0x100 }]);
    let gic = info.gic.unwrap();
    assert_eq!(gic.distributor, span(0x800_0000, 0x1_0000));
    assert_eq!(gic.redistributors, [span(0x80a_0000, 17 * 0x2_0000)]);
    assert_eq!(gic.maintenance, None);
    assert_eq!(gic.its[0].registers, span(0x808_0000, 0x2_0000));
    let level = |intid| Irq { intid, edge: false };
    let timer = info.timer.unwrap();
    assert_eq!([timer.phys, timer.virt, timer.hyp], [30, 27, 26].map(level));
    let uart = info.uart.unwrap();
    assert_eq!(uart.registers, span(0x900_0000, 0x1000));
    assert_eq!(uart.irq, Some(level(33)));
    let [host] = &info.pcie[..] else {
        panic!("{:?}", info.pcie)
    };
    assert_eq!((host.segment, host.buses), (0, (0, 15)));
    assert_eq!(host.ecam, span(0x3f00_0000, 0x100_0000));
    assert!(host.dma_coherent);
    let [first, second] = &info.smmus[..] else {
        panic!("{:?}", info.smmus)
    };
    assert_eq!(first.registers, span(0x905_0000, 0x2_0000));
    assert_eq!(second.registers, span(0x907_0000, 0x2_0000));
    let edge = |intid| Some(Irq { intid, edge: true });
    assert_eq!((first.event_irq, first.gerror_irq), (edge(96), edge(99)));
    assert_eq!(
        (second.event_irq, second.gerror_irq),
        (edge(100), edge(103))
    );
    assert!(first.dma_coherent && second.dma_coherent);
    let stream = |rid| {
        let mut maps = host.iommu_map.iter();
        maps.find_map(|map| Some((map.target, map.translate(rid)?)))
    };
    assert_eq!(stream(8), Some((first.phandle, 8)));
    assert_eq!(stream(0x10), Some((first.phandle, 0x10)));
    assert_eq!(stream(0x18), Some((second.phandle, 0x18)));
    assert_eq!(stream(9), None);
    let message = |rid| {
        let mut maps = host.msi_map.iter();
        maps.find_map(|map| Some((map.target, map.translate(rid)?)))
    };
    let its = gic.its[0].phandle;
    assert_eq!(message(0x10), Some((its, 0x10)));
    assert_eq!(message(0x18), Some((its, 0x18)));
}

#[test]
fn without_smmus_all_messages_go_to_the_its() {
    let info = parse(&Made::new(&[]).tables()).unwrap();
    assert!(info.smmus.is_empty() && info.pcie[0].iommu_map.is_empty());
    let [map] = &info.pcie[0].msi_map[..] else {
        panic!("{:?}", info.pcie[0].msi_map)
    };
    assert_eq!(map.translate(0xffff), Some(0xffff));
}

/// No field of theirs lies behind the length that they have.
#[test]
fn a_table_cut_short_is_refused() {
    let made = Made::new(&[vec![8]]);
    for cut in 0..4 {
        let mut tables = made.tables();
        let table = [
            &mut tables.madt,
            &mut tables.gtdt,
            &mut tables.mcfg,
            &mut tables.iort,
        ];
        let used = [0, 80, 0, 0][cut];
        let table = table.into_iter().nth(cut).unwrap();
        let whole = table.unwrap();
        let shorter = if used == 0 { whole.len() - 1 } else { used - 1 };
        *table = Some(&whole[..shorter]);
        assert!(parse(&tables).is_err(), "{cut}");
    }
}
