//! What the rules need to know of a machine. The hypervisor fills it from `BootInfo`, the PCI topology and its bundle;
//! the host from `[machine.qemu]` or `[machine.board]` and its files.

use super::PciAddress;
use crate::boot_info::{BootInfo, Irq, PlatformDevice, Smmu, StreamOf};
use crate::gather::{Gather, Grow};
use crate::guest_map::{self, x86_64 as pc};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};

/// For which guests the machine is: what there is for them, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Platform {
    /// As [`guest_map`] says.
    #[default]
    Aarch64,
    /// As [`guest_map::x86_64`] says.
    X86_64,
}

impl Platform {
    /// The one that this image is for, so that nothing of the other's rules is in it; a host's program is for both.
    pub const IMAGE: Option<Self> = match (cfg!(target_os = "none"), cfg!(target_arch = "x86_64")) {
        (true, true) => Some(Self::X86_64),
        (true, false) => Some(Self::Aarch64),
        (false, _) => None,
    };

    /// Where a guest has `memory` bytes of RAM, lowest first. The second part may be empty.
    pub fn ram(self, memory: u64) -> [Span<Gpa>; 2] {
        let (low, low_max, high) = match self {
            Self::Aarch64 => (guest_map::RAM, u64::MAX, guest_map::RAM),
            Self::X86_64 => (pc::RAM, pc::LOW_RAM_END - pc::RAM, pc::HIGH_RAM),
        };
        let len = memory.min(low_max);
        let rest = memory - len;
        [(low, len), (high, rest)].map(|(base, len)| Span { base, len })
    }

    /// Most RAM that fits a guest's address space, in bytes.
    pub fn max_memory(self) -> u64 {
        match self {
            Self::Aarch64 => (1 << guest_map::IPA_BITS) - guest_map::RAM.0,
            Self::X86_64 => (1 << pc::ADDRESS_BITS) - (pc::HIGH_RAM - pc::LOW_RAM_END),
        }
    }
}

/// A machine, as far as [`validate()`](super::validate()) looks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineFacts {
    /// What its guests find.
    pub platform: Platform,
    /// All RAM.
    pub memory: Vec<Span<Hpa>>,
    /// Parts of it that no partition can have: firmware's, and the hypervisor's own.
    pub reserved: Vec<Span<Hpa>>,
    /// Number of CPUs.
    pub cpus: usize,
    /// Every PCI function, bridges included.
    pub functions: Vec<Function>,
    /// Every node of the device tree that is on the memory bus, or could be thought to be.
    pub nodes: Vec<Node>,
    /// Registers of the hypervisor's own.
    pub own: Vec<(Part, Span<Hpa>)>,
    /// Interrupts of the hypervisor's own, by INTID.
    pub own_irqs: Vec<u32>,
    /// Every file that a partition can name.
    pub files: Vec<File>,
}

/// One function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// The function that it is a virtual one of.
    pub physical: Option<PciAddress>,
    /// How many virtual functions it could have.
    pub vfs: u16,
    /// What SMMUs see of it: one for each requester ID that its requests may carry. Empty if any of them passes none.
    pub streams: Vec<Stream>,
    /// Functions with one number cannot be isolated from each other: multi-function devices and ports without ACS,
    /// everything below a conventional bridge.
    pub group: u32,
    /// It is a bridge, or another part of the fabric that no partition can own.
    pub bridge: bool,
    /// All its registers have addresses.
    pub usable: bool,
    /// Whether it can be reset alone; `None`: not known here.
    pub resettable: Option<bool>,
    /// Whether it has ATS; `None`: not known here.
    pub ats: Option<bool>,
}

/// One node of the device tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Its full path.
    pub path: String,
    /// Firmware says that it may be used.
    pub enabled: bool,
    /// A property that has no meaning.
    pub unreadable: Option<&'static str>,
    /// Its registers.
    pub registers: Vec<Span<Hpa>>,
    /// Its interrupts at the GIC, by INTID.
    pub irqs: Vec<u32>,
    /// What SMMUs see of it. Empty if it stands behind none, or if any of its requests might pass none.
    pub streams: Vec<Stream>,
    /// Firmware says that it does DMA.
    pub does_dma: bool,
}

/// What the hypervisor itself needs of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Memory.
    Ram,
    /// The interrupt controller.
    Gic,
    /// The interrupt controller's part for messages.
    Its,
    /// An SMMU.
    Smmu,
    /// The UART of the console.
    Console,
    /// A PCIe host, with its windows.
    PcieHost,
}

/// Identity of a DMA master at its SMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Which SMMU.
    pub smmu: IommuIndex,
    /// StreamID.
    pub id: DeviceId,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// As the configuration names it.
    pub name: String,
    /// What is known of it.
    pub content: Content,
}

/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// A payload that the build makes later.
    NotBuilt,
    /// It is there.
    Bytes {
        /// Its length.
        len: u64,
        /// Its header, if it is bootable.
        image: Result<ImageHeader, ImageError>,
    },
}

/// The header of an arm64 `Image`, as far as placing it needs it (Linux `Documentation/arch/arm64/booting.rst`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageHeader {
    /// Load offset from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory it needs, its BSS included.
    pub image_size: u64,
}

/// Why a file is no arm64 `Image`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// Shorter than the header.
    Short,
    /// No "ARM\x64" at offset 56.
    Magic,
    /// Compressed with gzip.
    Gzip,
    /// An EFI "zboot" file: a compressed kernel behind a PE stub.
    Zboot,
    /// `image_size` 0: a kernel before 3.17, whose size nobody knows.
    NoSize,
    /// Big-endian.
    BigEndian,
}

impl ImageHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 64;

    /// Reads the header at the start of `file`.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        if file.starts_with(&[0x1f, 0x8b]) {
            return Err(ImageError::Gzip);
        }
        let header: &[u8; Self::LEN] = file.first_chunk().ok_or(ImageError::Short)?;
        if header.starts_with(b"MZ") && &header[4..8] == b"zimg" {
            return Err(ImageError::Zboot);
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        if &header[56..60] != b"ARM\x64" {
            return Err(ImageError::Magic);
        }
        let (text_offset, image_size, flags) = (word(8), word(16), word(24));
        if image_size == 0 {
            return Err(ImageError::NoSize);
        }
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        Ok(Self {
            text_offset,
            image_size,
        })
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "shorter than an arm64 Image header",
            Self::Magic => "no arm64 Image",
            Self::Gzip => "compressed with gzip, not an arm64 Image",
            Self::Zboot => "an EFI zboot file, not an arm64 Image",
            Self::NoSize => "an arm64 Image without a size",
            Self::BigEndian => "a big-endian arm64 Image",
        })
    }
}

impl Node {
    fn of(device: &PlatformDevice, smmus: &[Smmu]) -> Self {
        let stream = |of: &StreamOf| {
            let index = smmus.iter().position(|smmu| smmu.phandle == of.iommu)?;
            Some(Stream {
                smmu: IommuIndex(u8::try_from(index).ok()?),
                id: of.id,
            })
        };
        let streams: Option<Vec<Stream>> = device.streams.iter().map(stream).gather_all();
        let irqs = device.irqs.iter().flatten();
        Self {
            path: device.path.clone(),
            enabled: device.enabled,
            unreadable: device.unreadable,
            registers: device.registers.clone(),
            irqs: irqs.map(|irq| irq.intid).gather(),
            streams: streams.unwrap_or_default(),
            does_dma: device.does_dma,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ram => "memory",
            Self::Gic => "GIC",
            Self::Its => "ITS",
            Self::Smmu => "SMMU",
            Self::Console => "console",
            Self::PcieHost => "PCIe host",
        })
    }
}

impl MachineFacts {
    /// What its guests find.
    pub fn platform(&self) -> Platform {
        Platform::IMAGE.unwrap_or(self.platform)
    }

    /// The function at `address`.
    pub fn function(&self, address: &PciAddress) -> Option<&Function> {
        self.functions.iter().find(|f| f.address == *address)
    }

    /// The node at `path`.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.path == path)
    }

    /// Adds what firmware says of the memory bus: `devices`, and what the hypervisor itself needs of `info`.
    pub fn describe(&mut self, info: &BootInfo, devices: &[PlatformDevice]) {
        let gic = info.gic.iter();
        let gic = gic.flat_map(|gic| {
            let frames = gic.redistributors.iter().chain([&gic.distributor]);
            let its = gic.its.iter().map(|its| (Part::Its, its.registers));
            frames.map(|&frame| (Part::Gic, frame)).chain(its)
        });
        let hosts = info.pcie.iter();
        let hosts = hosts.flat_map(|host| {
            let windows = host.windows.iter().map(|window| window.cpu);
            windows.chain([host.ecam])
        });
        self.own.add_all(gic);
        self.own.add_all(hosts.map(|span| (Part::PcieHost, span)));
        self.own
            .add_all(info.smmus.iter().map(|smmu| (Part::Smmu, smmu.registers)));
        self.own
            .add_all(info.uart.iter().map(|uart| (Part::Console, uart.registers)));
        let smmus = info.smmus.iter();
        let irqs = smmus.flat_map(|smmu| [smmu.event_irq, smmu.pri_irq, smmu.gerror_irq]);
        let irqs = irqs.chain(info.uart.iter().map(|uart| uart.irq));
        self.own_irqs
            .add_all(irqs.flatten().map(|irq: Irq| irq.intid));
        self.nodes
            .add_all(devices.iter().map(|device| Node::of(device, &info.smmus)));
    }

    /// The file `name`.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|f| f.name == name)
    }
}
