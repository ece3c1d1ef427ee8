//! Trees are read back; expected cells are those of QEMU's `virt`, which the map follows, or of the bindings.

mod platform;
mod smmu;

use super::{GuestTree, Pcie};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use iommu::addr::{Gpa, Span};

const RAM: Span<Gpa> = Span {
    base: Gpa(0x4000_0000),
    len: 256 << 20,
};

const TREE: GuestTree<'_> = GuestTree {
    name: "linux",
    vcpus: 2,
    memory: &[RAM],
    bootargs: "console=ttyAMA0",
    initrd: Some(Span {
        base: Gpa(0x4800_0000),
        len: 0x12_3456,
    }),
    pcie: Some(Pcie {
        dma_coherent: true,
        msi: true,
    }),
    smmus: &[],
    platform: &[],
};

struct Read(Vec<u8>);

impl Read {
    fn new(tree: GuestTree<'_>) -> Self {
        Self(tree.build())
    }

    fn node(&self, path: &str) -> Option<FdtNode<'_>> {
        Fdt::new(&self.0).unwrap().find_node(path)
    }

    fn bytes(&self, path: &str, name: &str) -> Vec<u8> {
        let node = self.node(path).unwrap_or_else(|| panic!("{path}"));
        let property = node
            .property(name)
            .unwrap_or_else(|| panic!("{path} {name}"));
        property.value().to_vec()
    }

    fn cells(&self, path: &str, name: &str) -> Vec<u32> {
        let bytes = self.bytes(path, name);
        assert_eq!(bytes.len() % 4, 0);
        bytes
            .chunks(4)
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    fn text(&self, path: &str, name: &str) -> String {
        String::from_utf8(self.bytes(path, name)).unwrap()
    }

    fn has(&self, path: &str, name: &str) -> bool {
        self.node(path).unwrap().property(name).is_some()
    }
}

const GIC: &str = "/intc@8000000";
const ITS: &str = "/intc@8000000/its@8080000";
const UART: &str = "/pl011@9000000";
const PCIE: &str = "/pcie@3f000000";

#[test]
fn says_what_a_kernel_needs_to_start() {
    let tree = Read::new(TREE);
    assert_eq!(tree.text("/", "model"), "linux\0");
    assert_eq!(tree.text("/chosen", "bootargs"), "console=ttyAMA0\0");
    assert_eq!(tree.text("/chosen", "stdout-path"), "/pl011@9000000\0");
    assert_eq!(
        tree.cells("/chosen", "linux,initrd-start"),
        [0, 0x4800_0000]
    );
    assert_eq!(tree.cells("/chosen", "linux,initrd-end"), [0, 0x4812_3456]);
    assert_eq!(
        tree.cells("/memory@40000000", "reg"),
        [0, 0x4000_0000, 0, 0x1000_0000]
    );
    assert_eq!(tree.text("/memory@40000000", "device_type"), "memory\0");
    assert_eq!(tree.text("/psci", "method"), "hvc\0");
    assert_eq!(
        tree.text("/psci", "compatible"),
        "arm,psci-1.0\0arm,psci-0.2\0"
    );
    assert_eq!(tree.text("/cpus/cpu@1", "enable-method"), "psci\0");
    assert_eq!(tree.cells("/cpus/cpu@1", "reg"), [1]);
    assert!(tree.node("/cpus/cpu@2").is_none());
}

#[test]
fn the_gic_has_a_redistributor_for_each_vcpu() {
    let tree = Read::new(TREE);
    assert_eq!(
        tree.cells(GIC, "reg"),
        [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000]
    );
    assert_eq!(
        tree.cells("/", "interrupt-parent"),
        tree.cells(GIC, "phandle")
    );
    assert_eq!(tree.cells(GIC, "#interrupt-cells"), [3]);
    assert!(
        tree.has(GIC, "interrupt-controller")
            && tree.has(GIC, "ranges")
            && !tree.has(GIC, "interrupts")
    );
    assert_eq!(tree.cells(ITS, "reg"), [0, 0x808_0000, 0, 0x2_0000]);
    assert!(tree.has(ITS, "msi-controller"));
    let many = Read::new(GuestTree { vcpus: 100, ..TREE });
    assert_eq!(many.cells(GIC, "reg")[7], 0x80_0000);
    // vCPU 63 is the sixteenth of its cluster.
    assert_eq!(many.cells("/cpus/cpu@30f", "reg"), [0x30f]);
    assert!(many.node("/cpus/cpu@400").is_none());
}

#[test]
fn timer_and_uart_have_the_interrupts_of_the_map() {
    let tree = Read::new(TREE);
    assert_eq!(
        tree.cells("/timer", "interrupts"),
        [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]
    );
    assert_eq!(tree.cells(UART, "interrupts"), [0, 1, 4]);
    assert_eq!(tree.cells(UART, "reg"), [0, 0x900_0000, 0, 0x1000]);
    assert_eq!(tree.text(UART, "compatible"), "arm,pl011\0arm,primecell\0");
    let clock = tree.cells("/apb-pclk", "phandle")[0];
    assert_eq!(tree.cells(UART, "clocks"), [clock, clock]);
}

#[test]
fn the_pcie_host_shows_one_window_and_sends_messages_to_the_its() {
    let tree = Read::new(TREE);
    assert_eq!(tree.text(PCIE, "compatible"), "pci-host-ecam-generic\0");
    assert_eq!(tree.cells(PCIE, "reg"), [0, 0x3f00_0000, 0, 0x100_0000]);
    assert_eq!(tree.cells(PCIE, "bus-range"), [0, 15]);
    assert_eq!(
        tree.cells(PCIE, "ranges"),
        [0x200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2000_0000]
    );
    assert_eq!(
        tree.cells(PCIE, "msi-map"),
        [0, tree.cells(ITS, "phandle")[0], 0, 0x1_0000]
    );
    assert!(tree.has(PCIE, "dma-coherent"));
}

#[test]
fn intx_pins_are_swizzled_over_four_interrupts() {
    let tree = Read::new(TREE);
    assert_eq!(tree.cells(PCIE, "interrupt-map-mask"), [0x1800, 0, 0, 7]);
    let map = tree.cells(PCIE, "interrupt-map");
    let gic = tree.cells(GIC, "phandle")[0];
    assert_eq!(map.len(), 16 * 10);
    assert_eq!(map[..10], [0, 0, 0, 1, gic, 0, 0, 0, 3, 4]);
    // INTD of device 3: SPI 3 + (3 + 3) mod 4.
    assert_eq!(map[150..], [0x1800, 0, 0, 4, gic, 0, 0, 0, 5, 4]);
}

#[test]
fn what_a_partition_lacks_is_not_there() {
    let bare = Read::new(GuestTree {
        initrd: None,
        pcie: None,
        vcpus: 1,
        ..TREE
    });
    assert!(bare.node(PCIE).is_none() && bare.node(ITS).is_none());
    assert!(!bare.has("/chosen", "linux,initrd-start"));
    let plain = Read::new(GuestTree {
        pcie: Some(Pcie {
            dma_coherent: false,
            msi: false,
        }),
        ..TREE
    });
    assert!(plain.node(ITS).is_none());
    assert!(!plain.has(PCIE, "dma-coherent") && !plain.has(PCIE, "msi-map"));
}

#[test]
fn high_memory_keeps_both_cells() {
    let high = Span {
        base: Gpa(0x12_4000_0000),
        len: 0x1_8000_0000,
    };
    let tree = Read::new(GuestTree {
        memory: &[RAM, high],
        ..TREE
    });
    assert_eq!(
        tree.cells("/memory@1240000000", "reg"),
        [0x12, 0x4000_0000, 1, 0x8000_0000]
    );
    assert!(tree.node("/memory@40000000").is_some());
}

#[test]
fn phandles_are_unique_and_every_name_is_valid() {
    let tree = Read::new(GuestTree { vcpus: 64, ..TREE });
    let mut seen = Vec::new();
    let mut nodes = vec![Fdt::new(&tree.0).unwrap().root()];
    while let Some(node) = nodes.pop() {
        if let Some(phandle) = node.property("phandle") {
            seen.push(phandle.value().to_vec());
        }
        nodes.extend(node.children());
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), count), (3, 3));
}
