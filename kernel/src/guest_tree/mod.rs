//! The device tree that a partition gets: the places of [`guest_map`], and of its own only what [`GuestTree`] says.
//!
//! [`GuestTree::build`] is the tree's outline; one function a node follows, in the same order.

pub(crate) mod node;
mod platform;
mod smmu;

use crate::gather::Gather;
use alloc::format;
use alloc::vec::Vec;
use iommu::addr::{Gpa, Span};

use crate::guest_map;
use crate::platform::Assigned;
use crate::vdev::affinity;
use crate::vdev::vpci::intx_intid;
use node::Node;

/// Most vCPUs of a partition: as many as the map has redistributors for.
pub const MAX_VCPUS: usize = (guest_map::GICR.len / guest_map::GICR_STRIDE) as usize;

/// What differs between partitions.
#[derive(Clone, Copy, Debug)]
pub struct GuestTree<'a> {
    /// The partition's name.
    pub name: &'a str,
    /// vCPUs, 1 to [`MAX_VCPUS`]; more are left out.
    pub vcpus: usize,
    /// RAM.
    pub memory: &'a [Span<Gpa>],
    /// Command line; no NUL.
    pub bootargs: &'a str,
    /// The initial RAM disk, in RAM.
    pub initrd: Option<Span<Gpa>>,
    /// The PCIe host, if it has functions.
    pub pcie: Option<Pcie>,
    /// For each SMMU, the requester IDs behind it, which are its StreamIDs.
    pub smmus: &'a [Vec<u16>],
    /// Devices that are no functions.
    pub platform: &'a [Assigned],
}

/// What the PCIe host says of the physical ones behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pcie {
    /// All its functions snoop CPU caches.
    pub dma_coherent: bool,
    /// There is an ITS that takes MSIs: with the requester ID as DeviceID.
    pub msi: bool,
}

const PHANDLE_GIC: u32 = 1;
const PHANDLE_ITS: u32 = 2;
const PHANDLE_CLOCK: u32 = 3;
/// The first SMMU's; those of the others follow.
const PHANDLE_SMMU: u32 = 0x100;

/// `#interrupt-cells = <3>` of the GICv3 binding: kind, number, flags.
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// Rate that the PL011's clock claims; nothing comes of its divisors.
const CLOCK_HZ: u32 = 24_000_000;

/// First cell of a PCI address: 32-bit non-prefetchable memory (IEEE 1275 PCI binding 2.2.1.1).
const PCI_MEMORY_32: u32 = 0x0200_0000;
/// ECAM of one bus (PCIe 7.2.2).
const BUS_SIZE: u64 = 1 << 20;

impl GuestTree<'_> {
    /// The flattened tree, of version 17.
    pub fn build(&self) -> Vec<u8> {
        Node::new("")
            .set("#address-cells", 2u32)
            .set("#size-cells", 2u32)
            .set("interrupt-parent", PHANDLE_GIC)
            .set("model", self.name)
            .set("compatible", "sluice,partition")
            .add(self.chosen())
            .add_all(self.memory.iter().map(memory))
            .add(self.cpus())
            .add(psci())
            .add(timer())
            .add(self.gic())
            .add(clock())
            .add(uart())
            .add_all(smmu::nodes(self))
            .add_all(self.pcie.map(|host| smmu::behind(pcie(host), self.smmus)))
            .add_all(platform::nodes(self.platform))
            .flatten()
    }

    /// How many there are in fact.
    pub(crate) fn vcpus(&self) -> usize {
        self.vcpus.clamp(1, MAX_VCPUS)
    }

    fn chosen(&self) -> Node {
        self.boot_files()
            .set("stdout-path", format!("/{}", uart_name()).as_str())
    }

    /// What a kernel starts with, which no ACPI says.
    pub(crate) fn boot_files(&self) -> Node {
        let node = Node::new("chosen").set("bootargs", self.bootargs);
        let Some(initrd) = self.initrd else {
            return node;
        };
        node.set("linux,initrd-start", cells(initrd.base.0))
            .set("linux,initrd-end", cells(initrd.end().0))
    }

    fn cpus(&self) -> Node {
        let cpu = |vcpu| {
            // At most 64 vCPUs: Aff2 and Aff3 are zero.
            let reg = affinity(vcpu) as u32;
            Node::new(&format!("cpu@{reg:x}"))
                .set("device_type", "cpu")
                .set("compatible", "arm,armv8")
                .set("reg", reg)
                .set("enable-method", "psci")
        };
        Node::new("cpus")
            .set("#address-cells", 1u32)
            .set("#size-cells", 0u32)
            .add_all((0..self.vcpus()).map(cpu))
    }

    /// arm,gic-v3: without a maintenance interrupt, as there is no EL2.
    fn gic(&self) -> Node {
        let redistributors = Span {
            base: guest_map::GICR.base,
            len: guest_map::GICR_STRIDE * self.vcpus() as u64,
        };
        let node = at("intc", guest_map::GICD.base)
            .set("phandle", PHANDLE_GIC)
            .set("compatible", "arm,gic-v3")
            .set("#interrupt-cells", 3u32)
            .set("interrupt-controller", &[][..] as &[u8])
            .set("#address-cells", 2u32)
            .set("#size-cells", 2u32)
            .set("ranges", &[][..] as &[u8])
            .set(
                "reg",
                [reg(guest_map::GICD), reg(redistributors)].as_flattened(),
            );
        if self.pcie.is_some_and(|pcie| pcie.msi) {
            node.add(its())
        } else {
            node
        }
    }
}

fn memory(span: &Span<Gpa>) -> Node {
    at("memory", span.base)
        .set("device_type", "memory")
        .set("reg", reg(*span))
}

/// Calls are taken by HVC; SMC traps and does the same.
fn psci() -> Node {
    Node::new("psci")
        .set("compatible", &["arm,psci-1.0", "arm,psci-0.2"][..])
        .set("method", "hvc")
}

/// arm,armv8-timer.
fn timer() -> Node {
    let interrupts = guest_map::TIMER_INTIDS.map(|intid| [PPI, intid - 16, LEVEL_HIGH]);
    Node::new("timer")
        .set("compatible", "arm,armv8-timer")
        .set("interrupts", interrupts.as_flattened())
        .set("always-on", &[][..] as &[u8])
}

/// Both frames of the ITS, which lie side by side.
fn its() -> Node {
    const _: () = assert!(guest_map::ITS.end().0 == guest_map::ITS_TRANSLATION.base.0);
    let registers = Span {
        base: guest_map::ITS.base,
        len: guest_map::ITS.len + guest_map::ITS_TRANSLATION.len,
    };
    at("its", guest_map::ITS.base)
        .set("phandle", PHANDLE_ITS)
        .set("compatible", "arm,gic-v3-its")
        .set("msi-controller", &[][..] as &[u8])
        .set("#msi-cells", 1u32)
        .set("reg", reg(registers))
}

fn clock() -> Node {
    Node::new("apb-pclk")
        .set("phandle", PHANDLE_CLOCK)
        .set("compatible", "fixed-clock")
        .set("#clock-cells", 0u32)
        .set("clock-frequency", CLOCK_HZ)
        .set("clock-output-names", "clk24mhz")
}

fn uart_name() -> alloc::string::String {
    format!("pl011@{:x}", guest_map::UART.base.0)
}

fn uart() -> Node {
    Node::new(&uart_name())
        .set("compatible", &["arm,pl011", "arm,primecell"][..])
        .set("reg", reg(guest_map::UART))
        .set("interrupts", spi(guest_map::UART_INTID))
        .set("clocks", [PHANDLE_CLOCK, PHANDLE_CLOCK])
        .set("clock-names", &["uartclk", "apb_pclk"][..])
}

/// pci-host-ecam-generic, segment 0, bus 0 upwards.
fn pcie(host: Pcie) -> Node {
    let buses = (guest_map::ECAM.len / BUS_SIZE) as u32;
    let [base_high, base_low] = cells(guest_map::PCI_WINDOW.base.0);
    let [len_high, len_low] = cells(guest_map::PCI_WINDOW.len);
    let mut node = at("pcie", guest_map::ECAM.base)
        .set("compatible", "pci-host-ecam-generic")
        .set("device_type", "pci")
        .set("#address-cells", 3u32)
        .set("#size-cells", 2u32)
        .set("reg", reg(guest_map::ECAM))
        .set("bus-range", [0, buses - 1])
        .set("linux,pci-domain", 0u32)
        // The same address on both sides.
        .set(
            "ranges",
            [
                PCI_MEMORY_32,
                base_high,
                base_low,
                base_high,
                base_low,
                len_high,
                len_low,
            ],
        )
        .set("#interrupt-cells", 1u32)
        .set("interrupt-map-mask", [0x1800u32, 0, 0, 7])
        .set("interrupt-map", intx_map().as_flattened());
    if host.msi {
        node = node.set("msi-map", [0u32, PHANDLE_ITS, 0, 0x1_0000]);
    }
    if host.dma_coherent {
        node = node.set("dma-coherent", &[][..] as &[u8]);
    }
    node
}

/// Four devices, four pins each; the mask folds the others onto them.
fn intx_map() -> Vec<[u32; 10]> {
    let route = |device: u8, pin: u8| {
        let [kind, number, flags] = spi(intx_intid(device, pin)?);
        // Unit address and pin (1 = INTA); the GIC, its unit address of two cells, its specifier.
        let (device, pin) = (u32::from(device) << 11, u32::from(pin));
        Some([device, 0, 0, pin, PHANDLE_GIC, 0, 0, kind, number, flags])
    };
    (0..4)
        .flat_map(|device| (1..=4).filter_map(move |pin| route(device, pin)))
        .gather()
}

fn spi(intid: u32) -> [u32; 3] {
    [SPI, intid - 32, LEVEL_HIGH]
}

pub(crate) fn cells(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// One entry of `reg` with two cells each.
fn reg(span: Span<Gpa>) -> [u32; 4] {
    let ([base_high, base_low], [len_high, len_low]) = (cells(span.base.0), cells(span.len));
    [base_high, base_low, len_high, len_low]
}

fn at(name: &str, base: Gpa) -> Node {
    Node::new(&format!("{name}@{:x}", base.0))
}

#[cfg(test)]
mod tests;
