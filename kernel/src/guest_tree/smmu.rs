//! SMMUs of the guest's own (arm,smmu-v3), and who is behind which.

use super::node::Node;
use super::{GuestTree, PHANDLE_SMMU, SPI, at, reg};
use crate::gather::{Gather, Grow};
use crate::guest_map::{MAX_SMMUS, SMMU, SMMU_INTIDS, SMMU_STRIDE};
use alloc::vec::Vec;
use iommu::addr::Span;

/// Interrupt flags of the GICv3 binding.
const EDGE_RISING: u32 = 1;

/// One node an SMMU.
pub fn nodes(tree: &GuestTree<'_>) -> impl Iterator<Item = Node> {
    let coherent = tree.pcie.is_some_and(|pcie| pcie.dma_coherent);
    (0..tree.smmus.len().min(MAX_SMMUS)).map(move |index| {
        let registers = Span {
            base: SMMU.base + index as u64 * SMMU_STRIDE,
            len: SMMU_STRIDE,
        };
        let first = SMMU_INTIDS.start - 32 + 4 * index as u32;
        let wires: Vec<[u32; 3]> = (first..first + 4)
            .map(|spi| [SPI, spi, EDGE_RISING])
            .gather();
        let node = at("smmu", registers.base)
            .set("phandle", PHANDLE_SMMU + index as u32)
            .set("compatible", "arm,smmu-v3")
            .set("reg", reg(registers))
            .set("interrupts", wires.as_flattened())
            .set(
                "interrupt-names",
                &["eventq", "priq", "cmdq-sync", "gerror"][..],
            )
            .set("#iommu-cells", 1u32);
        match coherent {
            true => node.set("dma-coherent", &[][..] as &[u8]),
            false => node,
        }
    })
}

/// The host `pcie` with an `iommu-map`: requester IDs are StreamIDs.
pub fn behind(pcie: Node, smmus: &[Vec<u16>]) -> Node {
    let mut map: Vec<[u32; 4]> = Vec::new();
    for (index, functions) in smmus.iter().enumerate() {
        let phandle = PHANDLE_SMMU + index as u32;
        let ids = functions.iter().map(|&rid| u32::from(rid));
        map.add_all(ids.map(|rid| [rid, phandle, rid, 1]));
    }
    match map.is_empty() {
        true => pcie,
        false => pcie.set("iommu-map", map.as_flattened()),
    }
}
