//! What firmware says of the machine, in one form for device trees and ACPI. Nothing else describes hardware to us.

mod dmar;

use alloc::string::String;
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};
use iommu::id::DeviceId;

pub use dmar::{AtsDevices, AtsPorts, DeviceScope, Dmar, ReservedDma, ScopeKind, Vtd};

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BootInfo {
    /// `model` or `compatible` of the machine, for the first line on the console.
    pub model: String,
    /// All RAM, sorted, not overlapping.
    pub memory: Vec<Span<Hpa>>,
    /// Parts of RAM that are not ours to use (reserved-memory, /memreserve/, the firmware tables themselves).
    pub reserved: Vec<Span<Hpa>>,
    /// CPUs in firmware order; the index is the CPU number used everywhere else.
    pub cpus: Vec<Cpu>,
    /// How to call PSCI, if the machine has it.
    pub psci: Option<PsciConduit>,
    /// The console, `stdout-path` first, else the first enabled PL011.
    pub uart: Option<Uart>,
    /// The GICv3.
    pub gic: Option<Gic>,
    /// Interrupts of the generic timer.
    pub timer: Option<Timer>,
    /// PCIe host bridges that offer ECAM.
    pub pcie: Vec<PcieHost>,
    /// SMMUv3 instances.
    pub smmus: Vec<Smmu>,
    /// VT-d units, and what firmware says for all of them.
    pub dmar: Dmar,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// Interrupts of ISA devices that are not at the I/O APICs' input of their own number.
    pub isa_interrupts: Vec<IsaInterrupt>,
    /// ACPI's fixed hardware, on x86_64.
    pub fixed: Option<FixedHardware>,
}

/// One CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// What firmware calls it: the affinity fields of `MPIDR_EL1`; on x86_64 the x2APIC ID.
    pub id: u64,
}

/// The instruction that reaches PSCI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PsciConduit {
    /// Secure monitor call.
    Smc,
    /// Hypervisor call: firmware above us does not exist, so we cannot use it.
    Hvc,
}

/// One interrupt of the GIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Irq {
    /// INTID: 16..32 for PPIs, 32.. for SPIs.
    pub intid: u32,
    /// Edge-triggered; level otherwise.
    pub edge: bool,
}

/// A PL011.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// Registers.
    pub registers: Span<Hpa>,
    /// Receive interrupt, if wired.
    pub irq: Option<Irq>,
}

/// The GICv3 and its ITSs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gic {
    /// Distributor.
    pub distributor: Span<Hpa>,
    /// Redistributor regions.
    pub redistributors: Vec<Span<Hpa>>,
    /// Maintenance interrupt of the virtual CPU interface.
    pub maintenance: Option<Irq>,
    /// ITS instances.
    pub its: Vec<Its>,
}

/// One ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Its {
    /// Control and translation frames (128 KiB).
    pub registers: Span<Hpa>,
    /// Device tree phandle, or what stands for it, to match `msi-map`.
    pub phandle: u32,
}

/// Interrupts of the generic timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    /// EL1 virtual timer.
    pub virt: Irq,
    /// EL1 physical timer.
    pub phys: Irq,
    /// EL2 physical timer.
    pub hyp: Irq,
}

/// One range of an `iommu-map` or `msi-map`: requester IDs → identities at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdMap {
    /// First requester ID.
    pub rid_base: u32,
    /// phandle of the IOMMU or ITS.
    pub target: u32,
    /// First identity at the target.
    pub output_base: u32,
    /// How many.
    pub len: u32,
    /// Applied to the requester ID first (`iommu-map-mask`, `msi-map-mask`).
    pub mask: u32,
}

/// What a PCI window of a host bridge carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowKind {
    /// I/O space.
    Io,
    /// 32-bit non-prefetchable memory.
    Memory32,
    /// 64-bit memory.
    Memory64,
}

/// One window of a host bridge (`ranges`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// What it carries.
    pub kind: WindowKind,
    /// First address on the PCI side.
    pub pci: u64,
    /// Where the CPU finds it.
    pub cpu: Span<Hpa>,
}

/// One entry of `interrupt-map`, for INTx.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntxRoute {
    /// Device number on the root bus.
    pub device: u8,
    /// 0 = INTA .. 3 = INTD.
    pub pin: u8,
    /// Where it goes.
    pub irq: Irq,
}

/// One PCIe host bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcieHost {
    /// Path in the device tree, or the segment, for messages.
    pub path: String,
    /// PCI segment (domain) number.
    pub segment: u16,
    /// First and last bus number.
    pub buses: (u8, u8),
    /// ECAM, starting at the first bus.
    pub ecam: Span<Hpa>,
    /// Windows; none where they are not known, and BARs can only stay where firmware has put them.
    pub windows: Vec<Window>,
    /// Requester ID → SMMU StreamID.
    pub iommu_map: Vec<IdMap>,
    /// Requester ID → ITS DeviceID.
    pub msi_map: Vec<IdMap>,
    /// INTx, with `interrupt-map-mask` applied.
    pub intx: Vec<IntxRoute>,
    /// Devices snoop CPU caches.
    pub dma_coherent: bool,
}

/// One SMMUv3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Smmu {
    /// Register pages.
    pub registers: Span<Hpa>,
    /// Device tree phandle, or what stands for it, to match `iommu-map`.
    pub phandle: u32,
    /// Event queue interrupt, or the combined one.
    pub event_irq: Option<Irq>,
    /// Page request queue interrupt, where it is not the combined one.
    pub pri_irq: Option<Irq>,
    /// Global error interrupt.
    pub gerror_irq: Option<Irq>,
    /// Table walks snoop CPU caches.
    pub dma_coherent: bool,
}

/// One I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its own name, by which the DMAR table speaks of it.
    pub id: u8,
    /// Registers.
    pub registers: Span<Hpa>,
    /// Number of its first input among those of all.
    pub first: u32,
}

/// Where the interrupt of an ISA device arrives (ACPI 6.5, 5.2.12.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsaInterrupt {
    /// Its number on the ISA bus.
    pub isa: u8,
    /// The input among those of all I/O APICs.
    pub input: u32,
    /// Edge-triggered; level otherwise.
    pub edge: bool,
    /// Active low; high otherwise.
    pub low: bool,
}

/// Registers of ACPI's fixed hardware, as ports (ACPI 6.5, 4.8.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FixedHardware {
    /// The power management timer.
    pub timer: Option<u16>,
    /// `PM1a_CNT_BLK` and `PM1b_CNT_BLK`, 0 where there is none.
    pub control: [u16; 2],
    /// `SLP_TYPx` of S5 for each of them, if the DSDT says it in so many words.
    pub soft_off: Option<[u8; 2]>,
    /// The reset register, and what is written to it.
    pub reset: Option<(u16, u8)>,
    /// There is a clock that knows the date, where every PC has it.
    pub rtc: bool,
}

/// A device on the memory bus, or what might be one: a node of the device tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlatformDevice {
    /// Full path in the device tree.
    pub path: String,
    /// What it is, most exact first.
    pub compatible: Vec<String>,
    /// Firmware says that it may be used.
    pub enabled: bool,
    /// Registers as the CPU sees them; none if it has none, or if it lies on a bus with addresses of its own.
    pub registers: Vec<Span<Hpa>>,
    /// Interrupts in order; `None` for one that does not arrive at the GIC.
    pub irqs: Vec<Option<Irq>>,
    /// Its identities at IOMMUs.
    pub streams: Vec<StreamOf>,
    /// Firmware says that it does DMA: it has identities, or is called coherent by itself. Silence says nothing.
    pub does_dma: bool,
    /// Its DMA snoops CPU caches.
    pub dma_coherent: bool,
    /// Rates in Hz of its clocks, in order; `None` for one that somebody has to turn on.
    pub clocks: Vec<Option<u32>>,
    /// Properties that mean the same wherever the device is, as they are.
    pub properties: Vec<(&'static str, Vec<u8>)>,
    /// A property that has no meaning: nobody can own the device.
    pub unreadable: Option<&'static str>,
}

/// The identity of a device at an IOMMU (`iommus`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamOf {
    /// phandle of the IOMMU.
    pub iommu: u32,
    /// StreamID there.
    pub id: DeviceId,
}

/// Where the machine's [`PlatformDevice`]s are described. Read later than the rest, once no device can do DMA any more,
/// and only if a partition wants one.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    /// Firmware's tables.
    pub tables: &'static [u8],
    /// Reads them.
    pub read: fn(&'static [u8]) -> Vec<PlatformDevice>,
}

impl Devices {
    /// All of them.
    pub fn list(&self) -> Vec<PlatformDevice> {
        (self.read)(self.tables)
    }
}

impl IdMap {
    /// The identity of `rid` at the target, if this range holds it.
    pub fn translate(&self, rid: u32) -> Option<u32> {
        let offset = (rid & self.mask).checked_sub(self.rid_base)?;
        if offset < self.len {
            self.output_base.checked_add(offset)
        } else {
            None
        }
    }
}
