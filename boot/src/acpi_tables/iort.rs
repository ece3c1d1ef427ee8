//! The IO Remapping Table (DEN0049): root complexes, the SMMUv3s that translate their DMA, the ITSs that get their messages.
//!
//! A root complex may point to an SMMU or to an ITS group, an SMMU to an ITS group, and nothing back: so there is no loop
//! to fall into. Other nodes (named components, older SMMUs, PMCGs, RMRs) have no devices that are assigned here.

use alloc::vec::Vec;
use core::ops::Range;

use iommu::addr::{Hpa, Span};
use kernel::boot_info::{IdMap, Irq, Smmu};

use super::fields::Fields;
use super::{AcpiError, HEADER, MAX_STRUCTURES};

/// Node types.
const ITS_GROUP: u8 = 0;
const ROOT_COMPLEX: u8 = 2;
const SMMU_V3: u8 = 4;

/// Registers of an SMMUv3 without its optional pages: two pages of 64 KiB (IHI 0070, chapter 6).
const SMMU_REGISTERS: u64 = 0x2_0000;

/// What is used of it.
#[derive(Default)]
pub struct Iort {
    /// In the order of the table.
    pub smmus: Vec<Smmu>,
    /// In the order of the table.
    pub complexes: Vec<RootComplex>,
}

/// A root complex: one or more buses of a segment.
pub struct RootComplex {
    /// PCI segment.
    pub segment: u16,
    /// Its DMA snoops CPU caches.
    pub coherent: bool,
    /// Requester IDs → StreamIDs.
    pub iommu_map: Vec<IdMap>,
    /// Requester IDs → ITS DeviceIDs, through the SMMUs.
    pub msi_map: Vec<IdMap>,
}

impl RootComplex {
    /// Whether a requester ID is of both, and so would have two identities.
    fn shares(&self, other: &Self) -> bool {
        let common = |one: &[IdMap], two: &[IdMap]| {
            let range = |map: &IdMap| {
                let start = u64::from(map.rid_base);
                start..start + u64::from(map.len)
            };
            let mut pairs = one.iter().flat_map(|a| two.iter().map(move |b| (a, b)));
            pairs.any(|(a, b)| range(a).start < range(b).end && range(b).start < range(a).end)
        };
        self.segment == other.segment
            && (common(&self.iommu_map, &other.iommu_map) || common(&self.msi_map, &other.msi_map))
    }
}

/// What stands for the ITS with this MADT identifier where device trees have a phandle: not 0.
pub fn its_name(id: u32) -> u32 {
    id.wrapping_add(1)
}

/// What stands for the SMMU at this offset.
fn smmu_name(offset: usize) -> u32 {
    offset as u32
}

/// One node.
#[derive(Clone, Copy)]
struct Node<'a> {
    kind: u8,
    fields: Fields<'a>,
}

/// One ID mapping of a node.
#[derive(Clone)]
struct Mapping<'n, 'a> {
    input: Range<u64>,
    output: u32,
    to: &'n Node<'a>,
}

/// Reads the whole table.
pub fn read(table: Fields<'_>) -> Result<Iort, AcpiError> {
    let nodes = nodes(table)?;
    let mut iort = Iort::default();
    for node in &nodes {
        match node.kind {
            SMMU_V3 => {
                let smmu = smmu(node)?;
                let overlaps = |other: &Smmu| other.registers.overlaps(&smmu.registers);
                if iort.smmus.iter().any(overlaps) {
                    return Err(node.fields.bad(16));
                }
                iort.smmus.push(smmu);
            }
            ROOT_COMPLEX => {
                let complex = complex(node, &nodes)?;
                if iort.complexes.iter().any(|other| other.shares(&complex)) {
                    return Err(node.fields.bad(0));
                }
                iort.complexes.push(complex);
            }
            _ => {}
        }
    }
    Ok(iort)
}

/// All nodes; each ends before the next one starts, so that none overlap.
fn nodes(table: Fields<'_>) -> Result<Vec<Node<'_>>, AcpiError> {
    let count = table.u32(HEADER)? as usize;
    if count > MAX_STRUCTURES {
        return Err(table.bad(HEADER));
    }
    let mut at = table.u32(HEADER + 4)? as usize;
    if at < HEADER + 12 {
        return Err(table.bad(HEADER + 4));
    }
    let mut nodes = Vec::new();
    for _ in 0..count {
        let len = usize::from(table.u16(at.saturating_add(1))?);
        if len < 16 {
            return Err(table.bad(at));
        }
        let fields = table.part(at, len)?;
        nodes.push(Node {
            kind: fields.u8(0)?,
            fields,
        });
        at += len;
    }
    // One that the count leaves out would be an SMMU that is neither seen nor denied. Padding is none: it has no length.
    if table.u16(at.saturating_add(1)).is_ok_and(|len| len >= 16) {
        return Err(table.bad(HEADER));
    }
    Ok(nodes)
}

/// The SMMUv3 node: wired interrupts are edges (IHI 0070, §3.18).
fn smmu(node: &Node<'_>) -> Result<Smmu, AcpiError> {
    let fields = &node.fields;
    let base = Hpa(fields.u64(16)?);
    let irq = |offset| -> Result<Option<Irq>, AcpiError> {
        let intid = fields.u32(offset)?;
        Ok((intid != 0).then_some(Irq { intid, edge: true }))
    };
    Ok(Smmu {
        registers: Span::<Hpa>::new(base, SMMU_REGISTERS).ok_or(fields.bad(16))?,
        phandle: smmu_name(fields.offset()),
        event_irq: irq(44)?,
        pri_irq: irq(48)?,
        gerror_irq: irq(52)?,
        // COHACC Override: the table's word where IDR0 has none.
        dma_coherent: fields.u32(24)? & 1 != 0,
    })
}

/// The root complex node, and what its identities become further on.
fn complex(node: &Node<'_>, nodes: &[Node<'_>]) -> Result<RootComplex, AcpiError> {
    let fields = &node.fields;
    let segment = u16::try_from(fields.u32(28)?).map_err(|_| fields.bad(28))?;
    let mut complex = RootComplex {
        segment,
        coherent: fields.u32(16)? & 1 != 0,
        iommu_map: Vec::new(),
        msi_map: Vec::new(),
    };
    for mapping in mappings(node, nodes)? {
        match mapping.to.kind {
            ITS_GROUP => complex.msi_map.push(to_its(&mapping, fields)?),
            SMMU_V3 => {
                let name = smmu_name(mapping.to.fields.offset());
                complex.iommu_map.push(id_map(&mapping, name, fields)?);
                through_smmu(&mapping, nodes, &mut complex.msi_map)?;
            }
            _ => return Err(fields.bad(0)),
        }
    }
    Ok(complex)
}

/// What the messages of `mapping`'s devices carry behind the SMMU that it leads to.
fn through_smmu(
    mapping: &Mapping<'_, '_>,
    nodes: &[Node<'_>],
    msi_map: &mut Vec<IdMap>,
) -> Result<(), AcpiError> {
    let streams = u64::from(mapping.output)..u64::from(mapping.output) + len(&mapping.input);
    for behind in mappings(mapping.to, nodes)? {
        let fields = &mapping.to.fields;
        if behind.to.kind != ITS_GROUP {
            return Err(fields.bad(0));
        }
        let both = streams.start.max(behind.input.start)..streams.end.min(behind.input.end);
        if both.is_empty() {
            continue;
        }
        let first = mapping.input.start + (both.start - streams.start);
        let output = u64::from(behind.output) + (both.start - behind.input.start);
        let part = Mapping {
            input: first..first + len(&both),
            output: u32::try_from(output).map_err(|_| fields.bad(0))?,
            to: behind.to,
        };
        msi_map.push(to_its(&part, fields)?);
    }
    Ok(())
}

/// The first ITS of the group: one is enough, and a driver is told of no more than one.
fn to_its(mapping: &Mapping<'_, '_>, from: &Fields<'_>) -> Result<IdMap, AcpiError> {
    let group = &mapping.to.fields;
    if group.u32(16)? == 0 {
        return Err(group.bad(16));
    }
    id_map(mapping, its_name(group.u32(20)?), from)
}

fn id_map(mapping: &Mapping<'_, '_>, target: u32, from: &Fields<'_>) -> Result<IdMap, AcpiError> {
    let bad = |_| from.bad(0);
    Ok(IdMap {
        rid_base: u32::try_from(mapping.input.start).map_err(bad)?,
        target,
        output_base: mapping.output,
        len: u32::try_from(len(&mapping.input)).map_err(bad)?,
        mask: u32::MAX,
    })
}

/// The ID mappings of a node. A single mapping is for messages of the node itself and maps nobody's identity.
fn mappings<'n, 'a>(
    node: &Node<'a>,
    nodes: &'n [Node<'a>],
) -> Result<Vec<Mapping<'n, 'a>>, AcpiError> {
    let fields = &node.fields;
    let (count, start) = (fields.u32(8)? as usize, fields.u32(12)? as usize);
    if count > fields.len() / 20 {
        return Err(fields.bad(8));
    }
    let mut mappings: Vec<Mapping<'_, '_>> = Vec::new();
    for index in 0..count {
        let entry = fields.part(start.saturating_add(index * 20), 20)?;
        if entry.u32(16)? & 1 != 0 {
            continue;
        }
        let base = u64::from(entry.u32(0)?);
        // "The number of IDs in the range minus one".
        let input = base..base + u64::from(entry.u32(4)?) + 1;
        let output = entry.u32(8)?;
        let fits = u64::from(output) + len(&input) <= 1 << 32 && input.end <= 1 << 32;
        let overlaps = |other: &Mapping<'_, '_>| {
            other.input.start < input.end && input.start < other.input.end
        };
        if !fits || mappings.iter().any(overlaps) {
            return Err(entry.bad(0));
        }
        let reference = entry.u32(12)? as usize;
        let to = nodes.iter().find(|node| node.fields.offset() == reference);
        mappings.push(Mapping {
            input,
            output,
            to: to.ok_or(entry.bad(12))?,
        });
    }
    Ok(mappings)
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}
