//! SMMUs of the guest's own, by the arm,smmu-v3 and PCI `iommu-map` bindings.

use super::{GIC, ITS, PCIE, Read, TREE, UART};
use crate::guest_map::{CONTEXTS, SMMU, VIRTUAL};
use crate::guest_tree::GuestTree;

const FIRST: &str = "/smmu@9050000";
const SECOND: &str = "/smmu@9070000";

fn two() -> Read {
    let smmus = [vec![0x08, 0x18], vec![0x10]];
    Read::new(GuestTree {
        smmus: &smmus,
        ..TREE
    })
}

#[test]
fn each_has_registers_and_four_edges_of_its_own() {
    let tree = two();
    assert_eq!(tree.text(FIRST, "compatible"), "arm,smmu-v3\0");
    assert_eq!(tree.cells(FIRST, "reg"), [0, 0x0905_0000, 0, 0x2_0000]);
    assert_eq!(tree.cells(SECOND, "reg"), [0, 0x0907_0000, 0, 0x2_0000]);
    assert_eq!(
        tree.text(FIRST, "interrupt-names"),
        "eventq\0priq\0cmdq-sync\0gerror\0"
    );
    // SPI 64 up; 1: rising edge.
    assert_eq!(
        tree.cells(FIRST, "interrupts"),
        [0, 64, 1, 0, 65, 1, 0, 66, 1, 0, 67, 1]
    );
    assert_eq!(tree.cells(SECOND, "interrupts")[..3], [0, 68, 1]);
    assert_eq!(tree.cells(FIRST, "#iommu-cells"), [1]);
    assert!(tree.has(FIRST, "dma-coherent"));
}

#[test]
fn a_function_is_behind_one_of_them_under_its_own_name() {
    let tree = two();
    let [first, second] = [FIRST, SECOND].map(|path| tree.cells(path, "phandle")[0]);
    assert_ne!(first, second);
    for path in [GIC, ITS] {
        assert!(![first, second].contains(&tree.cells(path, "phandle")[0]));
    }
    assert_eq!(
        tree.cells(PCIE, "iommu-map"),
        [
            0x08, first, 0x08, 1, 0x18, first, 0x18, 1, 0x10, second, 0x10, 1
        ]
    );
}

#[test]
fn a_guest_without_has_none() {
    let tree = Read::new(TREE);
    assert!(tree.node(FIRST).is_none() && !tree.has(PCIE, "iommu-map"));
}

#[test]
fn their_places_are_nobody_elses() {
    assert!(VIRTUAL.contains(SMMU.base) && SMMU.end() <= CONTEXTS.base);
    assert!(CONTEXTS.end() <= VIRTUAL.end());
    let uart = Read::new(TREE).cells(UART, "reg");
    assert!(u64::from(uart[1] + uart[3]) <= SMMU.base.0);
}
