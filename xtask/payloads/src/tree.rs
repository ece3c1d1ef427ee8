//! The device tree a guest was given: where its devices are, and what it was asked to do.

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

/// The parts of the tree that payloads use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree<'a> {
    /// PL011 registers.
    pub uart: Option<u64>,
    /// ECAM of the PCIe host.
    pub ecam: Option<Region>,
    /// RAM.
    pub memory: Option<Region>,
    /// Registers of its first IOMMU: an SMMUv3, or a VT-d unit.
    pub iommu: Option<Region>,
    /// PL031, a clock.
    pub clock: Option<Clock>,
    /// `/chosen/bootargs`: what the configuration asks of the scenario.
    pub arguments: &'a str,
}

/// An assigned PL031.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Registers.
    pub registers: Region,
    /// Its interrupt.
    pub intid: u32,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

impl<'a> Tree<'a> {
    /// Reads the tree; `None` if it is not one.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let fdt = Fdt::new(bytes).ok()?;
        let mut tree = Self {
            uart: None,
            ecam: None,
            memory: None,
            iommu: None,
            clock: None,
            arguments: "",
        };
        for node in fdt.root().children() {
            let is = |name: &str| {
                node.compatible()
                    .is_some_and(|mut all| all.any(|one| one == name))
            };
            let region = || {
                let reg = node.reg().ok()??.next()?;
                Some(Region {
                    base: reg.address().ok()?,
                    len: reg.size().ok()?,
                })
            };
            if is("arm,pl011") {
                // A second one is an assigned device, behind the console's.
                tree.uart = tree.uart.or(region().map(|region| region.base));
            } else if is("arm,pl031") {
                // SPI, number, flags (the GICv3 binding).
                let irq = node.property("interrupts");
                let cells = irq.and_then(|value| value.value().get(4..8)?.try_into().ok());
                tree.clock = region().zip(cells).map(|(registers, cells)| Clock {
                    registers,
                    intid: 32 + u32::from_be_bytes(cells),
                });
            } else if is("arm,smmu-v3") {
                tree.iommu = tree.iommu.or(region());
            } else if is("pci-host-ecam-generic") {
                tree.ecam = region();
            } else if node.name_without_address() == "memory" {
                tree.memory = region();
            } else if node.name() == "chosen" {
                tree.arguments = node
                    .property("bootargs")
                    .and_then(|value| value.value_as::<&str>().ok())
                    .unwrap_or("");
            }
        }
        Some(tree)
    }

    /// Whether `word` stands in the arguments.
    pub fn has_word(&self, word: &str) -> bool {
        self.arguments.split_whitespace().any(|other| other == word)
    }

    /// The value of `key=value` in the arguments.
    pub fn argument(&self, key: &str) -> Option<&'a str> {
        self.arguments
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// Length of a flattened tree (Devicetree Specification, §5.2), at most 2 MiB.
pub fn tree_len(header: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let len = word(4)? as usize;
    (word(0)? == 0xd00d_feed && len <= 2 << 20).then_some(len)
}

/// Reads a decimal or `0x` number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
