//! Partition configuration: its form, and every rule it has to meet.
//!
//! [`Machine`] is one TOML file on the host and one [`record`] in the bundle. [`validate()`] holds every rule and has
//! no side effect; the host runs it before anything boots, the hypervisor runs it again on what it really found. What
//! it needs to know of the machine is [`MachineFacts`]; what it says is a list of [`Problem`]s, each with the [`Path`] of
//! the value that is wrong. [`place`] and [`guest_addresses`] are the decisions that both sides must take alike.

mod discovered;
mod facts;
mod node_rule;
mod path;
mod placement;
mod problem;
pub mod record;
mod text;
mod validate;

pub use discovered::discovered;
pub use facts::{
    Content, File, Function, ImageError, ImageHeader, MachineFacts, Node, Part, Platform, Stream,
};
pub use node_rule::NodeRule;
pub use path::{Key, Name, Path, Step};
pub use placement::{
    DTB_LEN, Mapping, NoRoom, NoWindow, Placement, guest_addresses, place, place_memory,
    place_registers,
};
pub use problem::{Problem, Rule};
pub use text::{Bytes, DeviceAddress, PciAddress, TextError};
pub use validate::validate;

use crate::pci::{self, Bdf, Wanted};
use alloc::string::String;
use alloc::vec::Vec;
use serde::Deserialize;

/// Most partitions of one machine.
pub const MAX_PARTITIONS: usize = 32;
/// Most vCPUs of one partition: one bit each in a 64-bit set.
pub const MAX_VCPUS: usize = 64;
/// Longest name of a machine or partition, in bytes.
pub const MAX_NAME: usize = 31;
/// Longest kernel command line, in bytes: Linux's arm64 `COMMAND_LINE_SIZE` is 2048 with the NUL.
pub const MAX_CMDLINE: usize = 2047;
/// Most DMA windows of one partition.
pub const MAX_DMA_WINDOWS: usize = 16;
/// Partition memory comes in blocks of this many bytes, so that stage 2 never needs a page for RAM.
pub const MEMORY_BLOCK: u64 = 2 << 20;

/// One machine and all that runs on it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `[machine]`: which machine this is for.
    pub machine: Identity,
    /// `[[partition]]`, in the order in which they are created and started.
    #[serde(rename = "partition", default)]
    pub partitions: Vec<Partition>,
}

/// `[machine]`. At most one of `qemu` and `board` describes the hardware to the host's checks; neither goes into an
/// image, where the hypervisor looks for itself.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// For messages: letters, digits, `-`, `_` and `.`, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// The machine is QEMU's `virt`, started like this.
    #[serde(default)]
    pub qemu: Option<Qemu>,
    /// The machine is a board, with this hardware.
    #[serde(default)]
    pub board: Option<Board>,
    /// `[[machine.sriov]]`: functions that have virtual ones (VFs), each a function of its own to be given away.
    #[serde(default)]
    pub sriov: Vec<Sriov>,
}

/// `[[machine.sriov]]`: one PCI function with its VFs (PCIe 9), which the hypervisor turns on at start. Their addresses
/// follow from the device's First VF Offset and VF Stride; `cargo xtask check` and the console name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sriov {
    /// The physical function: `00:02.0`.
    pub address: PciAddress,
    /// How many VFs it has: always all of them, whoever runs.
    pub vfs: u16,
}

/// `[machine.qemu]`: how to start QEMU's `virt` (with an SMMUv3, a GICv3 and EL2) for this configuration.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// RAM of the machine, from 0x4000_0000 on.
    pub memory: Bytes,
    /// Number of CPUs.
    pub cpus: u16,
    /// `-cpu`; `max` if absent.
    #[serde(default = "default_cpu")]
    pub cpu: String,
    /// One `-device` argument each, in QEMU's own words. Give functions their `addr=`, so that it cannot move.
    #[serde(default)]
    pub devices: Vec<String>,
    /// `[[machine.qemu.disk]]`: disk images that `devices` name as `drive=ID`.
    #[serde(rename = "disk", default)]
    pub disks: Vec<Disk>,
    /// `iommu=smmuv3`; true if absent. Without it no device can do DMA for a partition.
    #[serde(default = "yes")]
    pub smmu: bool,
    /// One `-serial` argument each, in QEMU's own words, behind that of the console: the second UART of `virt`, which is
    /// `/pl011@9040000`. It has no more.
    #[serde(default)]
    pub serials: Vec<String>,
    /// A flattened device tree for `-dtb`, in place of the one that QEMU makes.
    #[serde(default)]
    pub dtb: Option<String>,
}

/// One disk image. Either an existing file, or one made for the run and filled with zeros.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// What `drive=` says.
    pub id: String,
    /// Length of the file to make.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// The file to use.
    #[serde(default)]
    pub file: Option<String>,
}

/// `[machine.board]`: the hardware that a board has, for the host's checks.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Number of CPUs.
    pub cpus: u16,
    /// RAM.
    pub memory: Vec<BoardRange>,
    /// Parts of RAM that firmware keeps.
    #[serde(default)]
    pub reserved: Vec<BoardRange>,
    /// Its flattened device tree: what nodes there are to assign.
    #[serde(default)]
    pub dtb: Option<String>,
    /// `[[machine.board.function]]`: PCI functions that can be assigned.
    #[serde(rename = "function", default)]
    pub functions: Vec<BoardFunction>,
}

/// A range of host physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardRange {
    /// First address.
    pub base: Bytes,
    /// Length in bytes.
    pub size: Bytes,
}

/// `[[machine.board.function]]`: one function of a board.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardFunction {
    /// Where it is.
    pub address: PciAddress,
    /// Its StreamID; absent if it stands behind no SMMU.
    #[serde(default)]
    pub stream: Option<u32>,
    /// Index of its SMMU, in the order of the device tree.
    #[serde(default)]
    pub smmu: u8,
    /// Functions with one number cannot be told apart, or reach each other past the SMMU (no ACS between them).
    /// Absent: alone.
    #[serde(default)]
    pub group: Option<u32>,
    /// It is a bridge.
    #[serde(default)]
    pub bridge: bool,
    /// Whether it can be reset alone. Absent: not known.
    #[serde(default)]
    pub resettable: Option<bool>,
    /// What VFs it could have. The StreamIDs of VFs follow its own as their requester IDs do.
    #[serde(default)]
    pub sriov: Option<BoardSriov>,
}

/// `sriov = { .. }` of a board's function: its SR-IOV capability, as `lspci -v` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardSriov {
    /// Total VFs.
    pub total: u16,
    /// VF offset.
    pub offset: u16,
    /// VF stride.
    pub stride: u16,
}

/// `[[partition]]`: one VM.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Letters, digits, `-`, `_` and `.`, at most [`MAX_NAME`] bytes; prefix of its console lines.
    pub name: String,
    /// RAM: bytes, or a number with K, M or G (powers of 1024); a multiple of 2 MiB.
    pub memory: Bytes,
    /// Host physical address of its RAM, 2 MiB aligned. Absent: the hypervisor chooses.
    #[serde(default)]
    pub base: Option<Bytes>,
    /// Physical CPU of each vCPU: `[2, 3]` puts vCPU 0 on CPU 2.
    pub cpus: Vec<u16>,
    /// An arm64 `Image`. Exactly one of `kernel` and `payload`.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Initial RAM disk for `kernel`.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Command line of the kernel, or arguments of the payload, at most [`MAX_CMDLINE`] bytes.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// A small guest of our own by name, or the path of an ELF file linked for the guest's RAM.
    #[serde(default)]
    pub payload: Option<String>,
    /// Runs from the start; true if absent.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// It sees an IOMMU of its own for each one that its functions are behind; false if absent: it sees none. On AArch64
    /// these are SMMUs, with a stage 1 that it builds on our stage 2; on x86_64 VT-d units, whose second stage is
    /// composed with ours in a shadow, and which remap its interrupts.
    #[serde(default)]
    pub viommu: bool,
    /// How it is told what it has: `"device-tree"`, if absent, or `"acpi"`, which a Linux kernel with its EFI stub takes.
    /// Devices of the memory bus are in device trees only.
    #[serde(default)]
    pub tables: Tables,
    /// PSCI SYSTEM_RESET restarts it (true, if absent) or stops it (false).
    #[serde(default = "yes")]
    pub restart: bool,
    /// What happens when its devices step outside.
    #[serde(default)]
    pub on_fault: OnFault,
    /// `[[partition.device]]`: functions and nodes that it owns.
    #[serde(rename = "device", default)]
    pub devices: Vec<Device>,
    /// `[[partition.dma_window]]`: what its devices may reach; all of its RAM if there is none.
    #[serde(rename = "dma_window", default)]
    pub dma_windows: Vec<DmaWindow>,
}

/// What describes a guest's hardware to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tables {
    /// A flattened device tree.
    #[default]
    DeviceTree,
    /// ACPI tables, found as if EFI had handed over.
    Acpi,
}

/// `[[partition.device]]`: one PCI function, or one node of the device tree, given to a partition.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where the machine has it: `00:02.0`, `0000:00:02.0`, or a device tree path.
    pub address: DeviceAddress,
    /// Where the guest sees a function. Absent: the next free device number on bus 0. A node has no such address.
    #[serde(default)]
    pub guest: Option<PciAddress>,
    /// Whether it may be handed over without a reset. No node can be reset.
    #[serde(default)]
    pub reset: ResetPolicy,
    /// `false`: it does no DMA at all, says the integrator, and so may stand behind no SMMU. For nodes such as a UART, a
    /// clock or GPIOs, of which no device tree says it; where that is wrong, nothing stops the device.
    #[serde(default = "yes")]
    pub dma: bool,
    /// The function's driver in this partition also serves the VFs of other partitions, which trust it: it can stop and
    /// reset them, and with many a device send their DMA, though not past what their own partition may reach.
    #[serde(default)]
    pub manages_vfs: bool,
    /// The function is trusted with address translation services (ATS): it keeps what it is told of its partition's memory,
    /// and what it says to be translated passes the SMMU. The hypervisor turns ATS on and off; guests do not see it. Not
    /// together with `viommu`.
    #[serde(default)]
    pub ats: bool,
    /// Firmware goes on to use memory by the function (RMRR), and may: the partition's devices reach that memory at the
    /// machine's own addresses, beside its RAM. Without this such a function is refused. On x86_64, not together with
    /// `viommu`.
    #[serde(default)]
    pub reserved_memory: bool,
}

/// What to do with a device that cannot be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetPolicy {
    /// Refuse it.
    #[default]
    Required,
    /// Name it, switch bus mastering off and on, and hand it over with the state it has.
    BestEffort,
}

/// `[[partition.dma_window]]`: guest RAM that the partition's devices may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DmaWindow {
    /// Guest physical address, 4 KiB aligned; RAM starts at 0x4000_0000.
    pub base: Bytes,
    /// Length in bytes, a multiple of 4 KiB.
    pub size: Bytes,
}

/// `on_fault`: the policy on DMA faults that stay with the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnFault {
    /// What happens; every fault is counted and recorded in any case.
    #[serde(default)]
    pub action: FaultAction,
    /// After how many faults since the partition's last start; 1 if absent.
    #[serde(default = "one")]
    pub threshold: u32,
}

/// What `on_fault` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// Nothing more.
    #[default]
    Log,
    /// The device's stream aborts until the partition restarts.
    AbortStream,
    /// The partition stops.
    Stop,
    /// The partition restarts; one that has done so 8 times within a minute stops.
    Restart,
}

impl Default for OnFault {
    fn default() -> Self {
        Self {
            action: FaultAction::Log,
            threshold: 1,
        }
    }
}

impl Machine {
    /// Whether a partition is to have a node of the device tree.
    pub fn names_nodes(&self) -> bool {
        let mut devices = self.partitions.iter().flat_map(|p| &p.devices);
        devices.any(|device| matches!(device.address, DeviceAddress::Path(_)))
    }

    /// The functions that shall have VFs.
    pub fn vfs(&self) -> Vec<Wanted> {
        let wanted = |sriov: &Sriov| Wanted {
            function: pci::Function {
                segment: sriov.address.segment,
                bdf: Bdf::from_requester_id(sriov.address.requester_id()),
            },
            vfs: sriov.vfs,
        };
        self.machine.sriov.iter().map(wanted).collect()
    }
}

impl Partition {
    /// All files that it names: kernel or payload first, then the initrd.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        [&self.kernel, &self.payload, &self.initrd]
            .into_iter()
            .filter_map(|file| file.as_deref())
    }
}

fn default_cpu() -> String {
    String::from("max")
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests;
