//! PCIe host bridges: the `host-generic-pci`, `pci-iommu` and `pci-msi` bindings, and DTSpec 2.4.3 for INTx.

use alloc::vec::Vec;
use kernel::gather::Gather;

use kernel::boot_info::{IdMap, IntxRoute, Irq, PcieHost, Window, WindowKind};

use super::tree::{Bad, Cells, Tree};
use super::{FdtError, Item};

/// Configuration space of one bus, in bytes (PCIe 7.2.2).
const BUS_SIZE: u64 = 1 << 20;
/// Requester IDs of one segment.
const REQUESTERS: u32 = 1 << 16;
/// Most entries of one map that are read.
const MAX_ENTRIES: usize = 4096;

pub fn hosts(tree: &Tree<'_>) -> Result<Vec<PcieHost>, FdtError> {
    let mut hosts: Vec<PcieHost> = Vec::new();
    for node in tree.compatible(&["pci-host-ecam-generic"]) {
        let unnumbered = hosts.len() as u64;
        let host = host(tree, node, unnumbered).map_err(|p| FdtError::Property(Item::Pcie, p))?;
        if hosts
            .iter()
            .any(|other| other.segment == host.segment && overlap(other.buses, host.buses))
        {
            return Err(FdtError::Property(Item::Pcie, "linux,pci-domain"));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn overlap(a: (u8, u8), b: (u8, u8)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

fn host(tree: &Tree<'_>, node: usize, unnumbered: u64) -> Result<PcieHost, Bad> {
    // The PCI bus binding fixes both: an address is flags and 64 bits, a size 64 bits.
    if tree.cells(node) != (3, 2) {
        return Err("#address-cells");
    }
    let ecam = tree.reg(node)?.first().copied().ok_or("reg")?;
    let fit = ecam.len / BUS_SIZE;
    let (first, last) = match tree.bytes(node, "bus-range") {
        None => (0, u64::from(u8::MAX)),
        Some(bytes) if bytes.len() == 8 => {
            let mut cells = Cells(bytes);
            let mut bus = || {
                cells
                    .number(1)
                    .filter(|&bus| bus <= u64::from(u8::MAX))
                    .ok_or("bus-range")
            };
            (bus()?, bus()?)
        }
        Some(_) => return Err("bus-range"),
    };
    if fit == 0 || first > last {
        return Err(if fit == 0 { "reg" } else { "bus-range" });
    }
    let last = last.min(first + fit - 1);
    let segment = tree.number(node, "linux,pci-domain")?.unwrap_or(unnumbered);
    Ok(PcieHost {
        path: tree.path(node),
        segment: u16::try_from(segment).map_err(|_| "linux,pci-domain")?,
        // Both are at most 255, checked or defaulted above.
        buses: (first as u8, last as u8),
        ecam,
        windows: windows(tree, node)?,
        iommu_map: id_map(tree, node, "iommu-map", "iommu-map-mask", "#iommu-cells")?,
        msi_map: msi_map(tree, node)?,
        intx: intx(tree, node, first as u32)?,
        dma_coherent: tree.is_coherent(node),
    })
}

/// `ranges`: the space code is in bits 25:24 of the first cell (IEEE 1275 PCI binding 2.2.1.1).
fn windows(tree: &Tree<'_>, node: usize) -> Result<Vec<Window>, Bad> {
    let parent = tree.parent(node);
    let (parent_cells, _) = tree.cells(parent);
    let mut cells = Cells(tree.bytes(node, "ranges").ok_or("ranges")?);
    let mut windows = Vec::new();
    while !cells.is_empty() {
        let kind = cells.next().ok_or("ranges")?;
        let pci = cells.number(2).ok_or("ranges")?;
        let cpu = cells.number(parent_cells).ok_or("ranges")?;
        let len = cells.number(2).ok_or("ranges")?;
        let kind = match kind >> 24 & 3 {
            1 => WindowKind::Io,
            2 => WindowKind::Memory32,
            3 => WindowKind::Memory64,
            _ => continue, // configuration space is in `reg`
        };
        let end = pci.checked_add(len).ok_or("ranges")?;
        if kind != WindowKind::Memory64 && end > 1 << 32 || windows.len() >= MAX_ENTRIES {
            return Err("ranges");
        }
        windows.push(Window {
            kind,
            pci,
            cpu: tree.translate(parent, cpu, len)?,
        });
    }
    Ok(windows)
}

fn msi_map(tree: &Tree<'_>, node: usize) -> Result<Vec<IdMap>, Bad> {
    if tree.has(node, "msi-map") {
        return id_map(tree, node, "msi-map", "msi-map-mask", "#msi-cells");
    }
    // One controller for all, DeviceID = requester ID.
    let Some(bytes) = tree.bytes(node, "msi-parent") else {
        return Ok(Vec::new());
    };
    let target = Cells(bytes).next().ok_or("msi-parent")?;
    tree.by_phandle(target).ok_or("msi-parent")?;
    Ok([IdMap {
        rid_base: 0,
        target,
        output_base: 0,
        len: REQUESTERS,
        mask: u32::MAX,
    }]
    .into())
}

fn id_map(
    tree: &Tree<'_>,
    node: usize,
    name: &'static str,
    mask: &'static str,
    target_cells: &'static str,
) -> Result<Vec<IdMap>, Bad> {
    let mut cells = Cells(tree.bytes(node, name).unwrap_or(&[]));
    let mask = match tree.number(node, mask)? {
        Some(value) => u32::try_from(value).map_err(|_| mask)?,
        None => u32::MAX,
    };
    let mut map = Vec::new();
    while !cells.is_empty() {
        let mut cell = || cells.next().ok_or(name);
        let entry = IdMap {
            rid_base: cell()?,
            target: cell()?,
            output_base: cell()?,
            len: cell()?,
            mask,
        };
        let target = tree.by_phandle(entry.target).ok_or(name)?;
        // Entries are four cells only for a target that takes one. An ITS of before its binding had `#msi-cells` takes
        // one, too.
        if tree.number(target, target_cells)?.unwrap_or(1) != 1 {
            return Err(target_cells);
        }
        let fits = |base: u32| base.checked_add(entry.len).is_some();
        if !fits(entry.rid_base) || !fits(entry.output_base) || map.len() >= MAX_ENTRIES {
            return Err(name);
        }
        map.push(entry);
    }
    Ok(map)
}

/// `interrupt-map` with its mask applied to each device of the root bus, so that a route is found by equality.
fn intx(tree: &Tree<'_>, node: usize, bus: u32) -> Result<Vec<IntxRoute>, Bad> {
    let name = "interrupt-map";
    let Some(bytes) = tree.bytes(node, name) else {
        return Ok(Vec::new());
    };
    let mut mask = [u32::MAX; 4];
    if let Some(bytes) = tree.bytes(node, "interrupt-map-mask") {
        let mut cells = Cells(bytes);
        for cell in &mut mask {
            *cell = cells.next().ok_or("interrupt-map-mask")?;
        }
    }
    let mut routes: [[Option<Irq>; 4]; 32] = [[None; 4]; 32];
    let mut cells = Cells(bytes);
    let mut entries = 0;
    while !cells.is_empty() {
        let mut cell = || cells.next().ok_or(name);
        let entry = [cell()?, cell()?, cell()?, cell()?];
        let controller = tree.by_phandle(cell()?).ok_or(name)?;
        // §2.4.3.1: a unit address of the controller's own width; none if it does not say.
        let unit = tree.number(controller, "#address-cells")?.unwrap_or(0);
        for _ in 0..unit.min(4) {
            cell()?;
        }
        let irq = tree.interrupt(controller, &mut cells)?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(name);
        }
        for (device, pins) in (0..).zip(&mut routes) {
            for (pin, route) in (1..).zip(pins) {
                let unit = [bus << 16 | device << 11, 0, 0, pin];
                let matches = (0..4).all(|i| unit[i] & mask[i] == entry[i] & mask[i]);
                // The first entry that matches counts.
                *route = if matches { route.or(irq) } else { *route };
            }
        }
    }
    let all = (0..)
        .zip(routes)
        .flat_map(|(device, pins)| (0..).zip(pins).map(move |(pin, irq)| (device, pin, irq)));
    Ok(all
        .filter_map(|(device, pin, irq)| {
            Some(IntxRoute {
                device,
                pin,
                irq: irq?,
            })
        })
        .gather())
}
