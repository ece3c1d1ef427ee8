//! Why an operation on an object was refused, and the number that the outer ABI has for it.

use crate::physical::IommuError;

/// Why an operation was refused. Nothing has changed then, unless a variant says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// No object of the kind asked for has this ID.
    NoSuchObject(u32),
    /// Nothing is mapped at this IOVA.
    NotMapped(u64),
    /// The range ends inside the area that starts at this IOVA.
    CutsArea(u64),
    /// This device has no vDEVICE on the vIOMMU that its stage 1 belongs to.
    NoVdevice(u32),
    /// Something still uses the object with this ID.
    InUse(u32),
    /// The device is attached at this PASID already.
    AlreadyAttached(u32),
    /// Another context owns this group.
    GroupOwned(u32),
    /// A function of this group is being reset.
    GroupInReset(u32),
    /// A hardware queue reads the area at this IOVA.
    AreaLocked(u64),
    /// The object with this ID is not of a kind that fits here.
    WrongKind(u32),
    /// The rest of the group is attached to another table at this PASID.
    OtherAttachment(u32),
    /// The device is not attached at this PASID.
    NotAttached(u32),
    /// The device has no such PASID.
    PasidRange(u32),
    /// Tables with and without PASID support cannot be mixed in one device.
    PasidMix(u32),
    /// A value that is never right here.
    Invalid(u64),
    /// A length of nothing.
    Empty,
    /// Neither readable nor writable.
    Access,
    /// No multiple of the address space's alignment.
    Misaligned(u64),
    /// A mapping was asked for at this reserved IOVA.
    InReserved(u64),
    /// The HWPT with this ID is no nest parent.
    NotNestParent(u32),
    /// The device and the object are behind different physical IOMMUs.
    OtherIommu,
    /// The device or its IOMMU cannot use this table.
    Incompatible,
    /// The IOMMU of the device does not snoop CPU caches on DMA.
    NotCoherent,
    /// Data of a type that is not known here.
    DataType(u32),
    /// Data of a length that its type does not have.
    DataLength(usize),
    /// A reservation meets a mapping, an allowed range or a chosen window at this IOVA.
    AddressInUse(u64),
    /// The hardware, its driver or this version has no such thing; the flag, type or option.
    Unsupported(u32),
    /// A reserved word is not zero.
    ReservedWord(u32),
    /// Bytes past the known end of an entry are not zero.
    TooBig(usize),
    /// The end of a range is past the end of the space.
    Overflow,
    /// Something is mapped at this IOVA already.
    Occupied(u64),
    /// Such an object exists already: the virtual ID, type or index.
    Exists(u64),
    /// No room is left: no IOVA, cache tag, window page or ID.
    NoSpace,
    /// No memory.
    OutOfMemory,
    /// The memory cannot be held for DMA.
    PinFailed,
    /// The memory is not physically contiguous.
    NotContiguous(u64),
    /// Writing was asked for what may only be read, reading for what may not be; or messages are not isolated.
    NotPermitted,
    /// An access user holds the memory at this IOVA; it has been told that its unmapping was asked for.
    Pinned(u64),
    /// A guest's stage 1 configuration that no hardware would take.
    IllegalStageOne,
    /// A guest's invalidation that no hardware may see.
    IllegalEntry(u64),
    /// A hardware queue that has to come first is missing; its index.
    QueueOrder(u32),
    /// A buffer too small; what it has to hold.
    MessageSize(usize),
    /// No IOMMU is in front of the device.
    NoIommu,
    /// The context was closed.
    Closed,
    /// The hardware failed. What the operation was about to let through is refused.
    Hardware(IommuError),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoSuchObject(id) => ("no such object:", Some(id.into())),
            Self::NotMapped(iova) => ("not mapped:", Some(iova)),
            Self::CutsArea(iova) => ("cuts the area at", Some(iova)),
            Self::NoVdevice(id) => ("no vDEVICE for device", Some(id.into())),
            Self::InUse(id) => ("in use by object", Some(id.into())),
            Self::AlreadyAttached(id) => ("attached already:", Some(id.into())),
            Self::GroupOwned(id) => ("another owner of group", Some(id.into())),
            Self::GroupInReset(id) => ("in reset: group", Some(id.into())),
            Self::AreaLocked(iova) => ("a hardware queue reads the area at", Some(iova)),
            Self::WrongKind(id) => ("wrong kind of object:", Some(id.into())),
            Self::OtherAttachment(id) => ("another table for group", Some(id.into())),
            Self::NotAttached(id) => ("not attached:", Some(id.into())),
            Self::PasidRange(id) => ("no such PASID:", Some(id.into())),
            Self::PasidMix(id) => ("mix of PASID support:", Some(id.into())),
            Self::Invalid(value) => ("never right:", Some(value)),
            Self::Empty => ("empty range", None),
            Self::Access => ("no such access", None),
            Self::Misaligned(at) => ("misaligned:", Some(at)),
            Self::InReserved(iova) => ("reserved IOVA", Some(iova)),
            Self::NotNestParent(id) => ("no nest parent:", Some(id.into())),
            Self::OtherIommu => ("behind another IOMMU", None),
            Self::Incompatible => ("a table that it cannot use", None),
            Self::NotCoherent => ("no snooping of caches", None),
            Self::DataType(id) => ("unknown type of data:", Some(id.into())),
            Self::DataLength(len) => ("wrong length of data:", Some(len as u64)),
            Self::AddressInUse(iova) => ("in use: IOVA", Some(iova)),
            Self::Unsupported(id) => ("not supported:", Some(id.into())),
            Self::ReservedWord(id) => ("not zero: reserved word", Some(id.into())),
            Self::TooBig(len) => ("not zero past the known end:", Some(len as u64)),
            Self::Overflow => ("past the end of the space", None),
            Self::Occupied(iova) => ("mapped already:", Some(iova)),
            Self::Exists(id) => ("exists already:", Some(id)),
            Self::NoSpace => ("no room left", None),
            Self::OutOfMemory => ("out of memory", None),
            Self::PinFailed => ("memory cannot be held", None),
            Self::NotContiguous(at) => ("not contiguous:", Some(at)),
            Self::NotPermitted => ("not permitted", None),
            Self::Pinned(iova) => ("held by an access: IOVA", Some(iova)),
            Self::IllegalStageOne => ("illegal stage 1", None),
            Self::IllegalEntry(entry) => ("illegal invalidation:", Some(entry)),
            Self::QueueOrder(id) => ("missing before it: queue", Some(id.into())),
            Self::MessageSize(len) => ("buffer too small for", Some(len as u64)),
            Self::NoIommu => ("no IOMMU in front of it", None),
            Self::Closed => ("closed", None),
            Self::Hardware(error) => return error.fmt(f),
        };
        crate::text::write(f, what, value)
    }
}

impl core::error::Error for Error {}

impl From<IommuError> for Error {
    fn from(error: IommuError) -> Self {
        match error {
            IommuError::OutOfMemory => Self::OutOfMemory,
            IommuError::Unsupported => Self::Unsupported(0),
            error => Self::Hardware(error),
        }
    }
}

/// Linux's generic error numbers, as far as the objects and their outer ABI use them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    EIO = 5,
    E2BIG = 7,
    EBADF = 9,
    ENOMEM = 12,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ENOTTY = 25,
    ENOSPC = 28,
    ESPIPE = 29,
    EDEADLK = 35,
    EOVERFLOW = 75,
    EMSGSIZE = 90,
    EOPNOTSUPP = 95,
    EADDRINUSE = 98,
}

impl Error {
    /// The number that the outer ABI answers.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoSuchObject(_) | Self::NotMapped(_) | Self::CutsArea(_) | Self::NoVdevice(_) => {
                Errno::ENOENT
            }
            Self::InUse(_)
            | Self::AlreadyAttached(_)
            | Self::GroupOwned(_)
            | Self::GroupInReset(_)
            | Self::AreaLocked(_) => Errno::EBUSY,
            Self::WrongKind(_)
            | Self::OtherAttachment(_)
            | Self::NotAttached(_)
            | Self::PasidRange(_)
            | Self::PasidMix(_)
            | Self::Invalid(_)
            | Self::Empty
            | Self::Access
            | Self::Misaligned(_)
            | Self::InReserved(_)
            | Self::NotNestParent(_)
            | Self::OtherIommu
            | Self::Incompatible
            | Self::NotCoherent
            | Self::DataType(_)
            | Self::DataLength(_) => Errno::EINVAL,
            Self::AddressInUse(_) => Errno::EADDRINUSE,
            Self::Unsupported(_) | Self::ReservedWord(_) => Errno::EOPNOTSUPP,
            Self::TooBig(_) => Errno::E2BIG,
            Self::Overflow => Errno::EOVERFLOW,
            Self::Occupied(_) | Self::Exists(_) => Errno::EEXIST,
            Self::NoSpace => Errno::ENOSPC,
            Self::OutOfMemory => Errno::ENOMEM,
            Self::PinFailed | Self::NotContiguous(_) => Errno::EFAULT,
            Self::NotPermitted => Errno::EPERM,
            Self::Pinned(_) => Errno::EDEADLK,
            Self::IllegalStageOne
            | Self::IllegalEntry(_)
            | Self::QueueOrder(_)
            | Self::Hardware(_) => Errno::EIO,
            Self::MessageSize(_) => Errno::EMSGSIZE,
            Self::NoIommu | Self::Closed => Errno::ENODEV,
        }
    }
}
