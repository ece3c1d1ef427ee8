//! Flattened device tree → [`BootInfo`]. Refuses what it cannot read, and says which node and property that is.
//!
//! [`parse`] lists the pieces in the order of the structure it fills; `tree` holds what every piece needs (registers
//! translated to CPU addresses, interrupts decoded), `pcie` the maps of a host bridge, [`devices`] what is on the memory
//! bus beside all that.
//!
//! Sections are those of the Devicetree Specification 0.4 (DTSpec) unless said otherwise.

pub mod early;
mod pcie;
mod platform;
#[cfg(test)]
mod tests;
mod tree;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use kernel::gather::Grow;

use dtoolkit::fdt::Fdt;
use iommu::addr::{Hpa, Span};
use kernel::boot_info::{BootInfo, Cpu, Gic, Irq, Its, PsciConduit, Smmu, Timer, Uart};

use crate::spans::merge;
pub use platform::devices;
use tree::Tree;

/// Largest tree that is read, in bytes: the arm64 boot protocol's own limit.
pub const MAX_SIZE: usize = 2 << 20;
/// First bytes of a tree, enough for [`total_size`].
pub const HEADER_SIZE: usize = 8;

/// Affinity fields of `MPIDR_EL1` (DDI 0487, D24.2): Aff3 and Aff2 to Aff0.
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// Why a tree is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FdtError {
    /// Not a flattened device tree of version 17, or inconsistent in itself.
    Malformed,
    /// Says that it is this long: more than [`MAX_SIZE`], or than what was handed over.
    Size(usize),
    /// More nodes than are read.
    TooManyNodes(usize),
    /// Nodes nested deeper than is read.
    TooDeep(usize),
    /// More SMMUs than are read.
    TooManySmmus(usize),
    /// The SMMUs that were stopped first are not those of the tree.
    OtherSmmus,
    /// The machine lacks something that nothing runs without.
    Missing(Item),
    /// A property of this item is missing, malformed, or says something that cannot be supported.
    Property(Item, &'static str),
}

/// What an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// `device_type = "memory"`.
    Memory,
    /// A child of `/reserved-memory`.
    ReservedMemory,
    /// A child of `/cpus` that PSCI can start.
    Cpu,
    /// `arm,psci-1.0` or `arm,psci-0.2`.
    Psci,
    /// `arm,pl011`.
    Uart,
    /// `arm,gic-v3`.
    Gic,
    /// `arm,gic-v3-its`.
    Its,
    /// `arm,armv8-timer`.
    Timer,
    /// `pci-host-ecam-generic`.
    Pcie,
    /// `arm,smmu-v3`.
    Smmu,
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "not a well-formed device tree"),
            Self::Size(size) => write!(f, "device tree claims {size} bytes"),
            Self::TooManyNodes(limit) => write!(f, "device tree has more than {limit} nodes"),
            Self::TooDeep(limit) => write!(f, "device tree is nested deeper than {limit}"),
            Self::TooManySmmus(limit) => write!(f, "device tree has more than {limit} SMMUs"),
            Self::OtherSmmus => write!(f, "device tree: it has other SMMUs than those first found"),
            Self::Missing(item) => write!(f, "device tree has no usable {item}"),
            Self::Property(item, name) => write!(f, "device tree: {name} of {item}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::ReservedMemory => "reserved memory",
            Self::Cpu => "CPU",
            Self::Psci => "PSCI",
            Self::Uart => "PL011",
            Self::Gic => "GICv3",
            Self::Its => "ITS",
            Self::Timer => "generic timer",
            Self::Pcie => "PCIe host",
            Self::Smmu => "SMMUv3",
        })
    }
}

/// Length of the tree that starts with `header`, in bytes (DTSpec 5.2), so that the rest of it can be looked at.
pub fn total_size(header: &[u8; HEADER_SIZE]) -> Result<usize, FdtError> {
    let [m0, m1, m2, m3, s0, s1, s2, s3] = *header;
    if u32::from_be_bytes([m0, m1, m2, m3]) != 0xd00d_feed {
        return Err(FdtError::Malformed);
    }
    match u32::from_be_bytes([s0, s1, s2, s3]) as usize {
        size if size <= MAX_SIZE => Ok(size),
        size => Err(FdtError::Size(size)),
    }
}

/// Only the console, for a line about why [`parse`] refused the rest.
pub fn console(bytes: &[u8]) -> Option<Uart> {
    let tree = open(bytes).ok()?;
    let node = uart_node(&tree)?;
    Some(Uart {
        registers: first_reg(&tree, node).ok()?,
        irq: None,
    })
}

/// The whole machine. `bytes` may be longer than the tree. What is reserved does not hold the tree itself: the caller
/// knows where it lies.
pub fn parse(bytes: &[u8]) -> Result<BootInfo, FdtError> {
    let tree = open(bytes)?;
    // First, because every interrupt is one of its own.
    let gic = gic(&tree)?;
    Ok(BootInfo {
        model: model(&tree),
        memory: memory(&tree)?,
        reserved: reserved(&tree)?,
        cpus: cpus(&tree)?,
        psci: psci(&tree)?,
        uart: uart(&tree)?,
        gic: Some(gic),
        timer: Some(timer(&tree)?),
        pcie: pcie::hosts(&tree)?,
        smmus: smmus(&tree)?,
        ..BootInfo::default()
    })
}

fn open(bytes: &[u8]) -> Result<Tree<'_>, FdtError> {
    let header = bytes.first_chunk().ok_or(FdtError::Malformed)?;
    let size = total_size(header)?;
    let bytes = bytes.get(..size).ok_or(FdtError::Size(size))?;
    Tree::new(Fdt::new(bytes).map_err(|_| FdtError::Malformed)?)
}

fn model(tree: &Tree<'_>) -> String {
    let of = |name| tree.strings(Tree::ROOT, name).next();
    of("model").or(of("compatible")).unwrap_or("").to_string()
}

/// §3.4.
fn memory(tree: &Tree<'_>) -> Result<Vec<Span<Hpa>>, FdtError> {
    let mut spans = Vec::new();
    for node in tree.children(Tree::ROOT) {
        if tree.is_enabled(node) && tree.strings(node, "device_type").eq(["memory"]) {
            spans.add_all(
                tree.reg(node)
                    .map_err(|p| FdtError::Property(Item::Memory, p))?,
            );
        }
    }
    match merge(spans) {
        spans if spans.is_empty() => Err(FdtError::Missing(Item::Memory)),
        spans => Ok(spans),
    }
}

/// §3.5 and the memory reservation block (§5.3). Children without `reg` only ask an operating system to reserve
/// something somewhere: nothing is there yet.
fn reserved(tree: &Tree<'_>) -> Result<Vec<Span<Hpa>>, FdtError> {
    let bad = |p| FdtError::Property(Item::ReservedMemory, p);
    let mut spans = Vec::new();
    for entry in tree.memory_reservations() {
        let span = Span::<Hpa>::new(Hpa(entry.address()), entry.size());
        spans.push(span.ok_or(bad("/memreserve/"))?);
    }
    if let Some(parent) = tree.find("/reserved-memory") {
        for node in tree.children(parent) {
            if tree.is_enabled(node) && tree.has(node, "reg") {
                spans.add_all(tree.reg(node).map_err(bad)?);
            }
        }
    }
    Ok(merge(spans))
}

/// §3.7, §3.8; `enable-method` as the arm `cpus` binding has it. A CPU that PSCI cannot start is left out, unless it
/// is alone: then it is the one that runs this.
fn cpus(tree: &Tree<'_>) -> Result<Vec<Cpu>, FdtError> {
    let bad = |p| FdtError::Property(Item::Cpu, p);
    let mut cpus: Vec<Cpu> = Vec::new();
    let parent = tree.find("/cpus").ok_or(FdtError::Missing(Item::Cpu))?;
    let is_cpu =
        |&node: &usize| tree.is_enabled(node) && tree.strings(node, "device_type").eq(["cpu"]);
    let alone = tree.children(parent).filter(is_cpu).count() == 1;
    for node in tree.children(parent).filter(is_cpu) {
        let by_psci = tree
            .strings(node, "enable-method")
            .any(|method| method == "psci");
        if !(by_psci || alone && !tree.has(node, "enable-method")) {
            continue;
        }
        let mpidr = tree.unit(node).map_err(bad)?;
        if mpidr & !MPIDR_AFFINITY != 0 || cpus.iter().any(|cpu| cpu.id == mpidr) {
            return Err(bad("reg"));
        }
        cpus.push(Cpu { id: mpidr });
    }
    if cpus.is_empty() {
        return Err(FdtError::Missing(Item::Cpu));
    }
    Ok(cpus)
}

/// The arm PSCI binding. Version 0.1 has no fixed function numbers and is not used.
fn psci(tree: &Tree<'_>) -> Result<Option<PsciConduit>, FdtError> {
    let Some(node) = tree.compatible(&["arm,psci-1.0", "arm,psci-0.2"]).next() else {
        return Ok(None);
    };
    match tree.strings(node, "method").next() {
        Some("smc") => Ok(Some(PsciConduit::Smc)),
        Some("hvc") => Ok(Some(PsciConduit::Hvc)),
        _ => Err(FdtError::Property(Item::Psci, "method")),
    }
}

fn uart(tree: &Tree<'_>) -> Result<Option<Uart>, FdtError> {
    let bad = |p| FdtError::Property(Item::Uart, p);
    let Some(node) = uart_node(tree) else {
        return Ok(None);
    };
    let irqs = tree.interrupts(node).map_err(bad)?;
    Ok(Some(Uart {
        registers: first_reg(tree, node).map_err(bad)?,
        irq: irqs.first().copied().flatten(),
    }))
}

/// `stdout-path` (§3.6) where that is a PL011, else the first one.
fn uart_node(tree: &Tree<'_>) -> Option<usize> {
    let chosen = tree.find("/chosen").and_then(|chosen| {
        // Options of the line follow a colon: "serial0:115200n8".
        let path = tree.strings(chosen, "stdout-path").next()?;
        let path = path.split(':').next()?;
        if path.starts_with('/') {
            return tree.find(path);
        }
        tree.find(tree.strings(tree.find("/aliases")?, path).next()?)
    });
    let usable = |&node: &usize| tree.is_enabled(node) && tree.is_compatible(node, "arm,pl011");
    chosen
        .filter(usable)
        .or_else(|| tree.compatible(&["arm,pl011"]).next())
}

fn first_reg(tree: &Tree<'_>, node: usize) -> Result<Span<Hpa>, &'static str> {
    tree.reg(node)?
        .first()
        .copied()
        .filter(|span| span.len != 0)
        .ok_or("reg")
}

/// The arm GICv3 binding.
fn gic(tree: &Tree<'_>) -> Result<Gic, FdtError> {
    let bad = |p| FdtError::Property(Item::Gic, p);
    let node = tree.gic().ok_or(FdtError::Missing(Item::Gic))?;
    // Without VLPIs two 64 KiB frames a CPU; with them GICR_TYPER says so. Anything else needs a stride of its own.
    match tree.number(node, "redistributor-stride").map_err(bad)? {
        None | Some(0 | 0x2_0000) => {}
        Some(_) => return Err(bad("redistributor-stride")),
    }
    let regions = tree
        .number(node, "#redistributor-regions")
        .map_err(bad)?
        .unwrap_or(1);
    let regions = usize::try_from(regions).map_err(|_| bad("#redistributor-regions"))?;
    let reg = tree.reg(node).map_err(bad)?;
    let (distributor, rest) = reg.split_first().ok_or(bad("reg"))?;
    let redistributors = rest
        .get(..regions)
        .filter(|regions| !regions.is_empty())
        .ok_or(bad("reg"))?;

    let mut its = Vec::new();
    for child in tree.children(node) {
        if tree.is_enabled(child) && tree.is_compatible(child, "arm,gic-v3-its") {
            its.push(Its {
                registers: first_reg(tree, child).map_err(|p| FdtError::Property(Item::Its, p))?,
                phandle: tree.phandle(child),
            });
        }
    }
    Ok(Gic {
        distributor: *distributor,
        redistributors: redistributors.to_vec(),
        maintenance: tree
            .interrupts(node)
            .map_err(bad)?
            .first()
            .copied()
            .flatten(),
        its,
    })
}

/// The arm architected timer binding: by name, or in the order secure, EL1 physical, EL1 virtual, EL2 physical.
fn timer(tree: &Tree<'_>) -> Result<Timer, FdtError> {
    let node = tree
        .compatible(&["arm,armv8-timer"])
        .next()
        .ok_or(FdtError::Missing(Item::Timer))?;
    let bad = |p| FdtError::Property(Item::Timer, p);
    let irqs = tree.interrupts(node).map_err(bad)?;
    let named = tree.has(node, "interrupt-names");
    let of = |name, position| -> Result<Irq, FdtError> {
        let position = match named {
            true => tree
                .strings(node, "interrupt-names")
                .position(|n| n == name),
            false => Some(position),
        };
        position
            .and_then(|i| irqs.get(i).copied().flatten())
            .ok_or(bad("interrupts"))
    };
    Ok(Timer {
        phys: of("phys", 1)?,
        virt: of("virt", 2)?,
        hyp: of("hyp-phys", 3)?,
    })
}

/// The arm SMMUv3 binding.
fn smmus(tree: &Tree<'_>) -> Result<Vec<Smmu>, FdtError> {
    let bad = |p| FdtError::Property(Item::Smmu, p);
    let mut smmus = Vec::new();
    for node in tree.compatible(&["arm,smmu-v3"]) {
        let irqs = tree.interrupts(node).map_err(bad)?;
        let named = |name| {
            let position = tree
                .strings(node, "interrupt-names")
                .position(|n| n == name)?;
            irqs.get(position).copied().flatten()
        };
        let combined = named("combined");
        smmus.push(Smmu {
            registers: first_reg(tree, node).map_err(bad)?,
            phandle: tree.phandle(node),
            event_irq: named("eventq").or(combined),
            pri_irq: named("priq"),
            gerror_irq: named("gerror").or(combined),
            dma_coherent: tree.is_coherent(node),
        });
    }
    Ok(smmus)
}
