//! Devices on the memory bus: every node that has registers or says what it is compatible with.
//!
//! None of them is needed to run, so none can refuse the machine: what cannot be read is noted, and nobody owns it then.

use alloc::string::ToString;
use alloc::vec::Vec;
use kernel::gather::Gather;

use iommu::id::DeviceId;
use kernel::boot_info::{PlatformDevice, StreamOf};

use super::tree::{Bad, Cells, Tree};
use super::{FdtError, open};

/// Most entries of one list that are read.
const MAX_ENTRIES: usize = 64;
/// Longest property that is kept as it is, in bytes.
const MAX_KEPT: usize = 256;

/// Properties that mean the same wherever the device is: no addresses, no phandles (DTSpec 2.3, 4.2; the bindings of
/// `serial`, `gpio`, `arm,primecell`, `mtd-physmap`). What is not here is lost on the way into a guest.
const KEPT: [&str; 14] = [
    "reg-names",
    "interrupt-names",
    "clock-names",
    "reg-shift",
    "reg-offset",
    "reg-io-width",
    "clock-frequency",
    "current-speed",
    "fifo-size",
    "arm,primecell-periphid",
    "gpio-controller",
    "#gpio-cells",
    "bank-width",
    "big-endian",
];

/// All of them, in the order of the tree's levels. `bytes` may be longer than the tree.
///
/// # Errors
/// Those of a tree as a whole: one that [`super::parse`] takes has none.
pub fn devices(bytes: &[u8]) -> Result<Vec<PlatformDevice>, FdtError> {
    let tree = open(bytes)?;
    let nodes = tree.nodes();
    let nodes = nodes.filter(|&node| tree.has(node, "compatible") || tree.has(node, "reg"));
    Ok(nodes.map(|node| device(&tree, node)).gather())
}

fn device(tree: &Tree<'_>, node: usize) -> PlatformDevice {
    let mut unreadable = None;
    let compatible = tree.strings(node, "compatible");
    let compatible = compatible.take(MAX_ENTRIES).map(ToString::to_string);
    let kept = KEPT.into_iter().filter_map(|name| {
        let bytes = tree.bytes(node, name)?;
        (bytes.len() <= MAX_KEPT).then(|| (name, bytes.to_vec()))
    });
    let mut registers = match tree.has(node, "reg") {
        true => read(tree.reg(node), &mut unreadable),
        false => Vec::new(),
    };
    registers.retain(|span| span.len != 0);
    let streams = read(streams(tree, node), &mut unreadable);
    PlatformDevice {
        path: tree.path(node),
        compatible: compatible.gather(),
        enabled: tree.is_enabled(node),
        registers,
        irqs: read(tree.interrupts(node), &mut unreadable),
        does_dma: tree.has(node, "iommus") || tree.has(node, "dma-coherent"),
        streams,
        dma_coherent: tree.is_coherent(node),
        clocks: read(clocks(tree, node), &mut unreadable),
        properties: kept.gather(),
        unreadable,
    }
}

/// What is there; the first property without a meaning is noted.
fn read<T>(result: Result<Vec<T>, Bad>, unreadable: &mut Option<&'static str>) -> Vec<T> {
    result.unwrap_or_else(|bad| {
        unreadable.get_or_insert(bad);
        Vec::new()
    })
}

/// `iommus` (the generic `iommu` binding): each a phandle and what that IOMMU wants; the SMMUv3 binding wants a
/// StreamID. What another kind wants is not looked at: nobody drives it here.
fn streams(tree: &Tree<'_>, node: usize) -> Result<Vec<StreamOf>, Bad> {
    const NAME: &str = "iommus";
    list(tree, node, NAME, "#iommu-cells", |target, cells| {
        if tree.is_compatible(target, "arm,smmu-v3") && cells.0.len() != 4 {
            return Err("#iommu-cells");
        }
        Ok(StreamOf {
            iommu: tree.phandle(target),
            id: DeviceId(cells.next().unwrap_or(0)),
        })
    })
}

/// `clocks` (the `clock` bindings): the rate of a `fixed-clock`.
fn clocks(tree: &Tree<'_>, node: usize) -> Result<Vec<Option<u32>>, Bad> {
    list(tree, node, "clocks", "#clock-cells", |target, _| {
        if !tree.is_compatible(target, "fixed-clock") {
            return Ok(None);
        }
        let rate = tree.number(target, "clock-frequency")?;
        Ok(rate.and_then(|rate| u32::try_from(rate).ok()))
    })
}

/// A list of phandles, each with as many cells behind it as its node says in `cells_name`.
fn list<T>(
    tree: &Tree<'_>,
    node: usize,
    name: &'static str,
    cells_name: &'static str,
    mut entry: impl FnMut(usize, &mut Cells<'_>) -> Result<T, Bad>,
) -> Result<Vec<T>, Bad> {
    let mut bytes = tree.bytes(node, name).unwrap_or(&[]);
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (phandle, rest) = bytes.split_first_chunk().ok_or(name)?;
        let target = tree.by_phandle(u32::from_be_bytes(*phandle)).ok_or(name)?;
        let count = tree.number(target, cells_name)?.ok_or(cells_name)?;
        let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(4));
        let (specifier, rest) = len.and_then(|len| rest.split_at_checked(len)).ok_or(name)?;
        if entries.len() >= MAX_ENTRIES {
            return Err(name);
        }
        entries.push(entry(target, &mut Cells(specifier))?);
        bytes = rest;
    }
    Ok(entries)
}
