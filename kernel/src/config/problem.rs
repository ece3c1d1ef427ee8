//! What is wrong with a configuration, and where.

use super::{Bytes, ImageError, MAX_CMDLINE, MAX_DMA_WINDOWS, MAX_NAME, MAX_PARTITIONS, MAX_VCPUS};
use super::{DTB_LEN, NodeRule, Path, PciAddress, Platform, Stream};
use core::fmt::{self, Write};
use iommu::addr::{Gpa, Hpa, Span};

/// One rule that a configuration breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Which, with the offending values.
    pub rule: Rule,
    /// The value that is wrong.
    pub at: Path,
    /// The other place, where two collide.
    pub other: Option<Path>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.rule)?;
        if let Some(other) = self.other {
            write!(f, " (see {other})")?;
        }
        Ok(())
    }
}

/// A rule, with the values that break it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields are what the messages below print")]
pub enum Rule {
    /// Nothing to run.
    NoPartition,
    /// More than [`MAX_PARTITIONS`].
    TooManyPartitions { count: usize },
    /// A name of no characters.
    NameEmpty,
    /// A name of more than [`MAX_NAME`] bytes.
    NameTooLong { len: usize },
    /// A name with a character that is not allowed.
    NameIllFormed { character: char },
    /// Two partitions of one name.
    NameTwice,

    /// A partition without a CPU.
    NoCpu,
    /// More than [`MAX_VCPUS`].
    TooManyCpus { count: usize },
    /// A CPU that the machine does not have.
    CpuUnknown { cpu: u16, count: usize },
    /// A CPU given twice.
    CpuTwice { cpu: u16 },

    /// A partition without RAM.
    MemoryZero,
    /// RAM that is not whole 2 MiB blocks.
    MemoryUnaligned { size: Bytes },
    /// RAM past the guest's address space.
    MemoryBeyondMap { size: Bytes, max: Bytes },
    /// All partitions together want more than the machine has.
    MemoryShort { wanted: Bytes, have: Bytes },
    /// There is no free range as large.
    MemoryScattered { size: Bytes, largest: Bytes },
    /// A fixed base that is not 2 MiB aligned.
    BaseUnaligned { base: Hpa },
    /// A fixed base where there is no RAM.
    BaseNotRam { base: Hpa, end: Hpa },
    /// A fixed base in what the firmware or the hypervisor keeps.
    BaseReserved { base: Hpa, end: Hpa },
    /// Two fixed ranges that overlap.
    BaseOverlap { base: Hpa, end: Hpa },

    /// Neither `kernel` nor `payload`.
    NoGuest,
    /// Both.
    TwoGuests,
    /// An initrd without a kernel.
    InitrdWithoutKernel,
    /// ACPI tables for a payload.
    AcpiForPayload,
    /// A command line of more than [`MAX_CMDLINE`] bytes.
    CmdlineTooLong { len: usize },
    /// A command line with a control character.
    CmdlineIllFormed { character: char },
    /// A file that is not there.
    FileMissing,
    /// A file of no bytes.
    FileEmpty,
    /// A kernel or payload that is no arm64 Image.
    NotAnImage { error: ImageError },
    /// Kernel, device tree and initrd need more RAM than there is.
    GuestTooLarge { needed: Bytes, memory: Bytes },

    /// A device given twice.
    DeviceTwice,
    /// A device that the machine does not have.
    DeviceUnknown,
    /// A bridge.
    DeviceIsBridge,
    /// A device whose registers have no place in the machine's address space.
    DeviceWithoutAddresses,
    /// A device behind no SMMU.
    DeviceBehindNoSmmu,
    /// A device that does DMA, though the configuration says that it does none.
    DeviceDoesDma,
    /// One on nodes of the device tree.
    Node(NodeRule),
    /// A device whose StreamID another partition's device has too.
    DeviceSharesStream { stream: Stream },
    /// A device that cannot be isolated from another partition's.
    DeviceSharesGroup { group: u32 },
    /// A device that cannot be reset, though that is required.
    DeviceCannotReset,

    /// Virtual functions of one function asked for twice.
    SriovTwice,
    /// No virtual functions asked for.
    SriovNone,
    /// A function that cannot have virtual functions.
    SriovUnknown,
    /// More virtual functions than the function can have.
    SriovTooMany { vfs: u16, total: u16 },
    /// A virtual function in another partition than its physical one, which does not say so.
    SriovManaged { physical: PciAddress },
    /// A function that manages virtual functions without having any.
    SriovManagesNone,

    /// A device that is trusted with ATS and has none.
    AtsNone,
    /// ATS for a device whose guest has an SMMU of its own, through which it does not reach yet.
    AtsBehindGuest,
    /// Two devices with one StreamID, and only one is trusted with ATS.
    AtsOfOne,

    /// Reserved memory where no function can have it.
    ReservedMemory,

    /// Two devices at one guest address.
    GuestAddressTwice { address: PciAddress },
    /// A guest address that the guest would not find.
    GuestAddressOutOfRange { address: PciAddress },
    /// Function 1 to 7 without function 0: no enumeration would find it.
    GuestFunctionAlone { address: PciAddress },
    /// No device number is left on the guest's bus.
    GuestBusFull,
    /// A PCI address for a node.
    GuestAddressOfNode,
    /// More than [`MAX_DMA_WINDOWS`].
    TooManyWindows { count: usize },
    /// A window of no bytes.
    WindowZero,
    /// A window that is not whole 4 KiB pages.
    WindowUnaligned { value: Bytes },
    /// A window that is not all in the partition's RAM.
    WindowOutsideRam { base: u64, end: u64, ram: Span<Gpa> },
    /// Two windows that overlap.
    WindowOverlap,

    /// What the hypervisor does not have for guests on x86_64.
    NotOnX86 { what: &'static str },

    /// A fault policy that acts after no fault.
    ThresholdZero,
    /// A fault policy that restarts a partition which does not restart.
    RestartForbidden,
}

/// A character, by its number where a terminal would not show it.
struct Shown(char);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ' '..='~' => f.write_char(self.0),
            '\n' => f.write_str("\\n"),
            other => write!(f, "\\u{{{:x}}}", u32::from(other)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoPartition => f.write_str("there is no partition"),
            Self::TooManyPartitions { count } => {
                write!(
                    f,
                    "{count} partitions, at most {MAX_PARTITIONS} are possible"
                )
            }
            Self::NameEmpty => f.write_str("the name is empty"),
            Self::NameTooLong { len } => {
                write!(
                    f,
                    "the name has {len} bytes, at most {MAX_NAME} are possible"
                )
            }
            Self::NameIllFormed { character } => {
                write!(f, "the name contains '{}'", Shown(character))
            }
            Self::NameTwice => f.write_str("two partitions have one name"),
            Self::NoCpu => f.write_str("the partition has no CPU"),
            Self::TooManyCpus { count } => {
                write!(f, "{count} CPUs, at most {MAX_VCPUS} are possible")
            }
            Self::CpuUnknown { cpu, count } => {
                write!(f, "CPU {cpu} does not exist, the machine has {count}")
            }
            Self::CpuTwice { cpu } => write!(f, "CPU {cpu} is given twice"),
            Self::MemoryZero => f.write_str("the partition has no memory"),
            Self::MemoryUnaligned { size } => {
                write!(f, "{size} of memory is not a multiple of 2 MiB")
            }
            Self::MemoryBeyondMap { size, max } => {
                write!(f, "{size} of memory, a guest can have at most {max}")
            }
            Self::MemoryShort { wanted, have } => write!(
                f,
                "the partitions need {wanted} of memory, the machine has {have} to give"
            ),
            Self::MemoryScattered { size, largest } => write!(
                f,
                "no free range of memory has {size}, the largest has {largest}"
            ),
            Self::BaseUnaligned { base } => write!(f, "base {base} is not 2 MiB aligned"),
            Self::BaseNotRam { base, end } => {
                write!(f, "{base}..{end} is not all RAM of the machine")
            }
            Self::BaseReserved { base, end } => {
                write!(f, "the memory overlaps the reserved range {base}..{end}")
            }
            Self::BaseOverlap { base, end } => {
                write!(f, "the memory {base}..{end} overlaps another partition's")
            }
            Self::NoGuest => f.write_str("the partition has neither `kernel` nor `payload`"),
            Self::TwoGuests => f.write_str("the partition has both `kernel` and `payload`"),
            Self::InitrdWithoutKernel => f.write_str("`initrd` without `kernel`"),
            Self::AcpiForPayload => f.write_str("only a `kernel` finds ACPI tables"),
            Self::CmdlineTooLong { len } => write!(
                f,
                "the command line has {len} bytes, at most {MAX_CMDLINE} are possible"
            ),
            Self::CmdlineIllFormed { character } => {
                write!(f, "the command line contains '{}'", Shown(character))
            }
            Self::FileMissing => f.write_str("there is no such file"),
            Self::FileEmpty => f.write_str("the file is empty"),
            Self::NotAnImage { error } => write!(f, "the file is {error}"),
            Self::GuestTooLarge { needed, memory } => write!(
                f,
                "kernel, initrd and {} for the device tree need {needed}, the partition has {memory}",
                Bytes(DTB_LEN)
            ),
            Self::DeviceTwice => f.write_str("the device is given twice"),
            Self::DeviceUnknown => f.write_str("the machine has no such device"),
            Self::DeviceIsBridge => f.write_str("the device is a bridge"),
            Self::DeviceWithoutAddresses => {
                f.write_str("the device's registers have no place in the machine's address space")
            }
            Self::DeviceBehindNoSmmu => f.write_str("the device stands behind no SMMU"),
            Self::DeviceDoesDma => f.write_str("`dma = false`, but the device does DMA"),
            // No image for x86_64 has to say it.
            Self::Node(_) if Platform::IMAGE == Some(Platform::X86_64) => Ok(()),
            Self::Node(rule) => rule.fmt(f),
            Self::DeviceSharesStream { stream } => write!(
                f,
                "the device shares StreamID {} of SMMU {} with another partition's",
                stream.id, stream.smmu.0
            ),
            Self::DeviceSharesGroup { group } => write!(
                f,
                "the device shares isolation group {group} (ACS) with another partition's"
            ),
            Self::DeviceCannotReset => f.write_str("the device cannot be reset"),
            Self::SriovTwice => f.write_str("the function's virtual functions are given twice"),
            Self::SriovNone => f.write_str("no virtual functions"),
            Self::SriovUnknown => {
                f.write_str("the function can have no virtual functions (SR-IOV)")
            }
            Self::SriovTooMany { vfs, total } => {
                write!(f, "{vfs} virtual functions, the function can have {total}")
            }
            Self::SriovManaged { physical } => write!(
                f,
                "the physical function {physical} of the device is another partition's"
            ),
            Self::SriovManagesNone => {
                f.write_str("`manages_vfs`, but the device has no virtual functions")
            }
            Self::AtsNone => f.write_str("`ats`, but the device has none"),
            Self::AtsBehindGuest => {
                f.write_str("`ats` does not reach through an SMMU of the guest's own")
            }
            Self::ReservedMemory => f.write_str(
                "`reserved_memory` is for functions on x86_64 whose guest has no unit of its own",
            ),
            Self::AtsOfOne => f.write_str("`ats` for one of two devices with one StreamID"),
            Self::GuestAddressTwice { address } => {
                write!(f, "guest address {address} is given twice")
            }
            Self::GuestAddressOutOfRange { address } => {
                write!(f, "guest address {address} is not on bus 0 of segment 0")
            }
            Self::GuestFunctionAlone { address } => {
                write!(f, "guest address {address} has no function 0 beside it")
            }
            Self::GuestBusFull => f.write_str("no device number is left on the guest's bus"),
            Self::GuestAddressOfNode => {
                f.write_str("a node of the device tree has no PCI address in the guest")
            }
            Self::TooManyWindows { count } => {
                write!(
                    f,
                    "{count} DMA windows, at most {MAX_DMA_WINDOWS} are possible"
                )
            }
            Self::WindowZero => f.write_str("the DMA window is empty"),
            Self::WindowUnaligned { value } => {
                write!(f, "{:#x} is not a multiple of 4 KiB", value.get())
            }
            Self::WindowOutsideRam { base, end, ram } => write!(
                f,
                "DMA window {base:#x}..{end:#x} is not all in the partition's RAM, {}..{}",
                ram.base,
                ram.end()
            ),
            Self::WindowOverlap => f.write_str("two DMA windows overlap"),
            Self::NotOnX86 { what } => write!(f, "{what} is not there on x86_64 yet"),
            Self::ThresholdZero => f.write_str("a threshold of 0 faults acts without a fault"),
            Self::RestartForbidden => {
                f.write_str("`on_fault` restarts a partition that has `restart = false`")
            }
        }
    }
}
