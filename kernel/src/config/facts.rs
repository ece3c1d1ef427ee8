//! What the rules need to know of a machine. The hypervisor fills it from `BootInfo`, the PCI topology and its bundle;
//! the host from `[machine.qemu]` or `[machine.board]` and its files.

use super::DeviceAddress;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use iommu::addr::{Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};

/// A machine, as far as [`validate()`](super::validate()) looks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineFacts {
    /// All RAM.
    pub memory: Vec<Span<Hpa>>,
    /// Parts of it that no partition can have: firmware's, and the hypervisor's own.
    pub reserved: Vec<Span<Hpa>>,
    /// Number of CPUs.
    pub cpus: usize,
    /// Every function, bridges included, and every other DMA master with a StreamID.
    pub functions: Vec<Function>,
    /// Every file that a partition can name.
    pub files: Vec<File>,
}

/// One function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub address: DeviceAddress,
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

impl MachineFacts {
    /// The function at `address`.
    pub fn function(&self, address: &DeviceAddress) -> Option<&Function> {
        self.functions.iter().find(|f| f.address == *address)
    }

    /// The file `name`.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|f| f.name == name)
    }
}
