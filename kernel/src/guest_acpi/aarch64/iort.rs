//! Whose DMA and messages go through what (DEN0049, revision E.e): functions by their requester IDs, which are their
//! StreamIDs and DeviceIDs too.

use crate::guest_acpi::table::{Fields, HEADER};
use crate::guest_map::{MAX_SMMUS, SMMU, SMMU_INTIDS, SMMU_STRIDE};
use crate::guest_tree::Pcie;
use alloc::vec::Vec;

const ITS_GROUP: u8 = 0;
const ROOT_COMPLEX: u8 = 2;
const SMMU_V3: u8 = 4;

/// What stands before the nodes.
const START: u32 = HEADER as u32 + 12;
/// Lengths of nodes without their ID mappings.
const ITS_LEN: u16 = 24;
const SMMU_LEN: u16 = 68;
const COMPLEX_LEN: u16 = 36;
const MAPPING_LEN: u16 = 20;

/// The table: an ITS group if there is an ITS, the SMMUs, the root complex with what is behind each of `smmus`.
pub fn table(pcie: Pcie, smmus: &[Vec<u16>]) -> Vec<u8> {
    let smmus = &smmus[..smmus.len().min(MAX_SMMUS)];
    let mut table = Fields::table(b"IORT", 6);
    let nodes = u32::from(pcie.msi) + smmus.len() as u32 + 1;
    table.u32(nodes).u32(START).u32(0);
    let mut id = 0..;
    let mut node = |table: &mut Fields, kind, revision, len: u16, mappings: u16| {
        table
            .u8(kind)
            .u16(len + mappings * MAPPING_LEN)
            .u8(revision);
        table.u32(id.next().unwrap_or(0)).u32(mappings.into());
        table.u32(if mappings == 0 { 0 } else { len.into() });
    };
    if pcie.msi {
        node(&mut table, ITS_GROUP, 1, ITS_LEN, 0);
        table.u32(1).u32(super::ITS_ID);
    }
    let to_its = u16::from(pcie.msi);
    let mut places = Vec::new();
    for index in 0..smmus.len() {
        const GENERIC: u32 = 0;
        places.push(table.0.len() as u32);
        node(&mut table, SMMU_V3, 5, SMMU_LEN, to_its);
        let first = SMMU_INTIDS.start + 4 * index as u32;
        let [events, requests, sync, errors] = [0, 1, 2, 3].map(|wire| first + wire);
        table.u64(SMMU.base.0 + index as u64 * SMMU_STRIDE);
        // COHACC override.
        table.u32(pcie.dma_coherent.into()).u32(0);
        table.u64(0).u32(GENERIC);
        table.u32(events).u32(requests).u32(errors).u32(sync);
        table.u32(0).u32(0);
        if pcie.msi {
            mapping(&mut table, 0, 0xffff, START);
        }
    }
    let behind: usize = smmus.iter().map(Vec::len).sum();
    let count = if smmus.is_empty() {
        to_its
    } else {
        behind as u16
    };
    node(&mut table, ROOT_COMPLEX, 3, COMPLEX_LEN, count);
    // Coherent, and so with the attributes that CPUs use (CPM, DACS).
    let coherent = pcie.dma_coherent;
    table.u32(coherent.into()).zeros(3);
    table.u8(if coherent { 3 } else { 0 });
    // No ATS; segment 0; addresses of 64 bits; no PASIDs.
    table.u32(0).u32(0).u8(64).zeros(3);
    if smmus.is_empty() && pcie.msi {
        mapping(&mut table, 0, 0xffff, START);
    }
    for (functions, place) in smmus.iter().zip(places) {
        for &rid in functions {
            mapping(&mut table, rid.into(), 0, place);
        }
    }
    table.finish()
}

/// IDs `first` and `more` behind it are the same at the node `to`.
fn mapping(table: &mut Fields, first: u32, more: u32, to: u32) {
    table.u32(first).u32(more).u32(first).u32(to).u32(0);
}
