//! A device tree as a flat list of nodes, with what each inherits: parents come before their children.

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::standard::NodeStandard;
use dtoolkit::{FdtStringListIterator, Node, Property};
use iommu::addr::{Hpa, Span};
use kernel::boot_info::Irq;

use super::FdtError;

const MAX_NODES: usize = 4096;
// While the list grows there is half of it besides, and the heap of the image (768 KiB) has room for more than that.
const _: () = assert!(size_of::<Entry<'_>>() * MAX_NODES / 2 * 3 <= 576 << 10);
pub const MAX_DEPTH: usize = 32;
/// Most register ranges, and most interrupts, of one node that are read.
const MAX_ENTRIES: usize = 256;

/// The name of the property that is wrong.
pub type Bad = &'static str;

pub struct Tree<'a> {
    fdt: Fdt<'a>,
    nodes: Vec<Entry<'a>>,
    gic: Option<usize>,
}

struct Entry<'a> {
    node: FdtNode<'a>,
    parent: usize,
    depth: usize,
    /// This node and all above it are usable.
    enabled: bool,
    coherent: bool,
    phandle: u32,
    /// phandle of the interrupt parent, 0 for none.
    interrupt_parent: u32,
    /// Of the addresses of its children.
    address_cells: u32,
    size_cells: u32,
}

impl<'a> Tree<'a> {
    pub const ROOT: usize = 0;

    pub fn new(fdt: Fdt<'a>) -> Result<Self, FdtError> {
        let mut nodes = Vec::new();
        nodes.push(Entry::new(fdt.root(), None));
        let mut next = 0;
        while let Some(parent) = nodes.get(next) {
            let (node, depth) = (parent.node, parent.depth + 1);
            for child in node.children() {
                if depth > MAX_DEPTH {
                    return Err(FdtError::TooDeep(MAX_DEPTH));
                }
                if nodes.len() >= MAX_NODES {
                    return Err(FdtError::TooManyNodes(MAX_NODES));
                }
                let entry = Entry::new(child, Some((next, &nodes[next])));
                nodes.push(entry);
            }
            next += 1;
        }
        let mut tree = Self {
            fdt,
            nodes,
            gic: None,
        };
        let gic = tree.compatible(&["arm,gic-v3"]).next();
        tree.gic = gic;
        Ok(tree)
    }

    /// The first enabled GICv3: where interrupts have to end.
    pub fn gic(&self) -> Option<usize> {
        self.gic
    }

    pub fn memory_reservations(&self) -> impl Iterator<Item = MemoryReservation> + 'a {
        self.fdt.memory_reservations()
    }

    pub fn children(&self, parent: usize) -> impl Iterator<Item = usize> + '_ {
        (1..self.nodes.len()).filter(move |&node| self.nodes[node].parent == parent)
    }

    /// Enabled nodes that are compatible with any of `names`.
    pub fn compatible<'s>(&'s self, names: &'s [&'s str]) -> impl Iterator<Item = usize> + 's {
        (0..self.nodes.len()).filter(move |&node| {
            self.nodes[node].enabled && names.iter().any(|name| self.is_compatible(node, name))
        })
    }

    pub fn is_compatible(&self, node: usize, name: &str) -> bool {
        self.nodes[node].node.is_compatible(name)
    }

    pub fn is_enabled(&self, node: usize) -> bool {
        self.nodes[node].enabled
    }

    pub fn is_coherent(&self, node: usize) -> bool {
        self.nodes[node].coherent
    }

    /// 0 for none.
    pub fn phandle(&self, node: usize) -> u32 {
        self.nodes[node].phandle
    }

    pub fn by_phandle(&self, phandle: u32) -> Option<usize> {
        (0..self.nodes.len()).find(|&node| phandle != 0 && self.nodes[node].phandle == phandle)
    }

    pub fn name(&self, node: usize) -> &'a str {
        self.nodes[node].node.name()
    }

    pub fn parent(&self, node: usize) -> usize {
        self.nodes[node].parent
    }

    pub fn path(&self, node: usize) -> String {
        let mut path = String::new();
        let mut at = node;
        while at != Self::ROOT {
            path.insert_str(0, self.name(at));
            path.insert(0, '/');
            at = self.parent(at);
        }
        path
    }

    /// All nodes but the root.
    pub fn nodes(&self) -> impl Iterator<Item = usize> + use<> {
        1..self.nodes.len()
    }

    /// The node at an absolute path; unit addresses may be left out (DTSpec 2.2.3).
    pub fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(Self::ROOT, |parent, part| {
                self.children(parent).find(|&node| {
                    let name = self.name(node);
                    name == part || name.split('@').next() == Some(part)
                })
            })
    }

    pub fn has(&self, node: usize, name: &str) -> bool {
        self.bytes(node, name).is_some()
    }

    pub fn bytes(&self, node: usize, name: &str) -> Option<&'a [u8]> {
        bytes(&self.nodes[node].node, name)
    }

    /// A property as a list of strings, empty if it is missing.
    pub fn strings(&self, node: usize, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let property = self.nodes[node].node.property(name);
        let list =
            property.and_then(|property| property.value_as::<FdtStringListIterator<'a>>().ok());
        list.into_iter().flatten()
    }

    /// A property that is one number of one or two cells.
    pub fn number(&self, node: usize, name: &'static str) -> Result<Option<u64>, Bad> {
        let Some(bytes) = self.bytes(node, name) else {
            return Ok(None);
        };
        match bytes.len() {
            4 | 8 => Ok(Cells(bytes).number(bytes.len() / 4)),
            _ => Err(name),
        }
    }

    /// Cells of an address and of a size among the children of `node`.
    pub fn cells(&self, node: usize) -> (usize, usize) {
        let entry = &self.nodes[node];
        (entry.address_cells as usize, entry.size_cells as usize)
    }

    /// The one address in `reg`, of a node that has no registers to map (a CPU).
    pub fn unit(&self, node: usize) -> Result<u64, Bad> {
        let bytes = self.bytes(node, "reg").ok_or("reg")?;
        let (address, size) = self.cells(self.parent(node));
        match bytes.len() == 4 * address && size == 0 {
            true => Cells(bytes).number(address).ok_or("reg"),
            false => Err("reg"),
        }
    }

    /// `reg` (DTSpec 2.3.6), as the CPU sees it.
    pub fn reg(&self, node: usize) -> Result<Vec<Span<Hpa>>, Bad> {
        let (address, size) = self.cells(self.parent(node));
        let mut cells = Cells(self.bytes(node, "reg").ok_or("reg")?);
        let mut spans = Vec::new();
        while !cells.is_empty() && spans.len() < MAX_ENTRIES {
            let base = cells.number(address).ok_or("reg")?;
            let len = cells.number(size).ok_or("reg")?;
            spans.push(self.translate(self.parent(node), base, len)?);
        }
        if cells.is_empty() {
            Ok(spans)
        } else {
            Err("reg")
        }
    }

    /// An address on `bus`, as the CPU sees it: through the `ranges` (DTSpec 2.3.8) of the buses above.
    pub fn translate(&self, bus: usize, base: u64, len: u64) -> Result<Span<Hpa>, Bad> {
        let mut span = Span::<Hpa>::new(Hpa(base), len).ok_or("reg")?;
        let mut bus = bus;
        while bus != Self::ROOT {
            let parent = self.parent(bus);
            let (parent_address, _) = self.cells(parent);
            let ranges = self.bytes(bus, "ranges").ok_or("ranges")?;
            span = through(ranges, self.cells(bus), parent_address, span)?;
            bus = parent;
        }
        Ok(span)
    }

    /// All interrupts of a node, in order; `None` for those that end elsewhere than at the GIC. Empty if it has none.
    pub fn interrupts(&self, node: usize) -> Result<Vec<Option<Irq>>, Bad> {
        let mut irqs = Vec::new();
        if let Some(bytes) = self.bytes(node, "interrupts-extended") {
            let mut cells = Cells(bytes);
            while !cells.is_empty() && irqs.len() < MAX_ENTRIES {
                let parent = cells.next().and_then(|phandle| self.by_phandle(phandle));
                irqs.push(self.interrupt(parent.ok_or("interrupts-extended")?, &mut cells)?);
            }
        } else if let Some(bytes) = self.bytes(node, "interrupts") {
            let mut cells = Cells(bytes);
            let parent = self
                .by_phandle(self.nodes[node].interrupt_parent)
                .ok_or("interrupt-parent")?;
            while !cells.is_empty() && irqs.len() < MAX_ENTRIES {
                irqs.push(self.interrupt(parent, &mut cells)?);
            }
        }
        Ok(irqs)
    }

    /// Reads one specifier for `controller`. A GICv3's (its binding): kind, number, flags, and cells not used here.
    pub fn interrupt(&self, controller: usize, cells: &mut Cells<'_>) -> Result<Option<Irq>, Bad> {
        let count = self
            .number(controller, "#interrupt-cells")?
            .ok_or("#interrupt-cells")?;
        // An interrupt takes at least a cell: the loops over a list of them depend on that.
        if !(1..=8).contains(&count) {
            return Err("#interrupt-cells");
        }
        let mut specifier = [0; 8];
        for cell in &mut specifier[..count as usize] {
            *cell = cells.next().ok_or("interrupts")?;
        }
        if Some(controller) != self.gic {
            return Ok(None);
        }
        let [kind, number, flags, ..] = specifier;
        let intid = match (kind, number) {
            _ if count < 3 => return Err("#interrupt-cells"),
            (0, 0..988) => 32 + number,
            (1, 0..16) => 16 + number,
            _ => return Err("interrupts"),
        };
        // 1 and 2 are edges, 4 and 8 levels.
        Ok(Some(Irq {
            intid,
            edge: flags & 3 != 0,
        }))
    }
}

impl<'a> Entry<'a> {
    fn new(node: FdtNode<'a>, parent: Option<(usize, &Entry<'a>)>) -> Self {
        let above = parent.map(|(_, entry)| entry);
        let cell = |name| bytes(&node, name).and_then(|value| Cells(value).next());
        // DTSpec 2.3.4: "okay" is the default; "ok" is what old trees say.
        let status = bytes(&node, "status");
        let enabled = matches!(status, None | Some(b"okay\0" | b"ok\0"));
        let coherent =
            above.is_some_and(|entry| entry.coherent) && bytes(&node, "dma-noncoherent").is_none();
        Self {
            node,
            parent: parent.map_or(0, |(index, _)| index),
            depth: above.map_or(0, |entry| entry.depth + 1),
            enabled: enabled && above.is_none_or(|entry| entry.enabled),
            coherent: coherent || bytes(&node, "dma-coherent").is_some(),
            phandle: cell("phandle").unwrap_or(0),
            interrupt_parent: cell("interrupt-parent")
                .or(above.map(|entry| entry.interrupt_parent))
                .unwrap_or(0),
            // DTSpec 2.3.5: not inherited, 2 and 1 where missing.
            address_cells: cell("#address-cells").unwrap_or(2),
            size_cells: cell("#size-cells").unwrap_or(1),
        }
    }
}

fn bytes<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    node.property(name)?.value_as().ok()
}

/// Where `span` on a bus is on the bus above, by the `ranges` (DTSpec 2.3.8) of the one that it is on. Addresses and sizes
/// have so many cells: `child` on the bus itself, `parent` above it.
pub fn through(
    ranges: &[u8],
    (child, size): (usize, usize),
    parent: usize,
    span: Span<Hpa>,
) -> Result<Span<Hpa>, Bad> {
    let mut cells = Cells(ranges);
    if cells.is_empty() {
        return Ok(span);
    }
    // An entry without cells would be read for ever.
    if child.saturating_add(parent).saturating_add(size) == 0 {
        return Err("ranges");
    }
    while !cells.is_empty() {
        let first = cells.wide(child).ok_or("ranges")?;
        let base = cells.wide(parent).ok_or("ranges")?;
        let size = cells.wide(size).ok_or("ranges")?;
        let offset = u128::from(span.base.0).checked_sub(first);
        let found = offset
            .filter(|offset| offset + u128::from(span.len) <= size)
            .and_then(|offset| u64::try_from(base.checked_add(offset)?).ok())
            .and_then(|base| Span::<Hpa>::new(Hpa(base), span.len));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err("ranges")
}

/// Big-endian 32-bit cells, read from the front.
pub struct Cells<'a>(pub &'a [u8]);

impl Cells<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline(never)]
    pub fn next(&mut self) -> Option<u32> {
        let (cell, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*cell))
    }

    /// A number of `cells` cells; `None` past the end or if it has more than 64 bits.
    pub fn number(&mut self, cells: usize) -> Option<u64> {
        u64::try_from(self.wide(cells)?).ok()
    }

    /// The same up to 128 bits: the three cells of a PCI address fit.
    pub fn wide(&mut self, cells: usize) -> Option<u128> {
        if cells > 4 {
            return None;
        }
        (0..cells).try_fold(0, |value, _| Some(value << 32 | u128::from(self.next()?)))
    }
}
