//! The control ABI: IOMMUFD's requests as bytes (Linux, `include/uapi/linux/iommufd.h`), for callers outside.
//!
//! [`ioctl`] takes the number of a request and its argument, does what it says on the objects of one
//! [`Context`], and answers with Linux's error number. Numbers, layouts, sizes and errors are
//! Linux's; where its code and its documentation disagree, reserved words are checked and the count of an invalidation
//! is exact.
//!
//! * **Sizes.** The first word of every argument is its size. A shorter one than ours is zero-extended, down to a minimum
//!   of its own; a longer one needs a tail of zeros (`E2BIG`).
//! * **Memory** that an argument points to is the caller's, and reached by [`Caller`] alone: read once, in bounded pieces.
//! * **Descriptors**: an open queue is given to the caller, who makes a descriptor of it. What is read from and written to
//!   one is in [`queues`].
//! * **Not here**: VFIO's container (`ENOTTY`), and what is about processes or about no IOMMU at all, which answer that
//!   they are not supported. Devices are bound by the hypervisor, not by a caller; [`vfio`] attaches them. Nor mmap: no
//!   driver here has a window of registers to give to a caller (of Linux's, that of Tegra's command queues has).
//!
//! `layout` has the structures; `ioas`, `hwpt` and `slice` what each request does.

use alloc::sync::Arc;
use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::object::driver::Memory;
use crate::object::{Context, Errno, Error, FaultQueue, Veventq};

mod hwpt;
mod ioas;
pub mod layout;
pub mod queues;
mod slice;
#[cfg(test)]
mod tests;
pub mod vfio;

/// Bytes of a driver's own data at most.
const DATA: usize = 4096;

/// Who makes a request: its memory, and its descriptors.
pub trait Caller {
    /// Copies `bytes.len()` bytes from `at` in the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Errno>;
    /// Copies `bytes` to `at`.
    ///
    /// # Errors
    /// EFAULT.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// The memory at `at` as something that can be mapped for DMA, and the offset of `at` in it.
    ///
    /// # Errors
    /// EFAULT.
    fn memory(&self, at: u64, len: u64) -> Result<(Arc<dyn Memory>, u64), Errno>;
    /// The memory behind a descriptor.
    ///
    /// # Errors
    /// EBADF, where it has none; others of its own.
    fn file(&self, _fd: i32) -> Result<Arc<dyn Memory>, Errno> {
        Err(Errno::EBADF)
    }
    /// A descriptor for an open queue. Whoever closes it drops the queue.
    ///
    /// # Errors
    /// Its own; the queue is gone then.
    fn open(&mut self, queue: Queue) -> Result<i32, Errno>;
}

/// An open queue.
#[derive(Debug)]
pub enum Queue {
    /// Of a slice's events.
    Events(Veventq),
    /// Of page requests.
    Faults(FaultQueue),
}

/// One request under way.
struct Call<'a> {
    context: &'a Context,
    caller: &'a mut dyn Caller,
}

/// What each structure of a request does.
trait Request: Sized + FromBytes + IntoBytes + Immutable {
    /// The fewest bytes of it that are accepted.
    const MIN: usize = size_of::<Self>();

    fn run(&mut self, call: &mut Call<'_>) -> Result<(), Errno>;

    /// Whether the caller gets the structure back although the request failed so.
    fn returns(_errno: Errno) -> bool {
        false
    }
}

/// Serves one request of `caller` on `context`. `argument` is what the caller passed, as far as its size goes; results
/// are written to it.
///
/// # Errors
/// Those of the request; ENOTTY for a number that is none.
pub fn ioctl(
    context: &Context,
    caller: &mut dyn Caller,
    request: u32,
    argument: &mut [u8],
) -> Result<(), Errno> {
    let mut call = Call { context, caller };
    let call = &mut call;
    match request {
        0x3b80 => serve::<layout::Destroy>(call, argument),
        0x3b81 => serve::<layout::IoasAlloc>(call, argument),
        0x3b82 => serve::<layout::IoasAllowIovas>(call, argument),
        0x3b83 => serve::<layout::IoasCopy>(call, argument),
        0x3b84 => serve::<layout::IoasIovaRanges>(call, argument),
        0x3b85 => serve::<layout::IoasMap>(call, argument),
        0x3b86 => serve::<layout::IoasUnmap>(call, argument),
        0x3b87 => serve::<layout::IommuOption>(call, argument),
        0x3b88 => serve::<layout::VfioIoas>(call, argument),
        0x3b89 => serve::<layout::HwptAlloc>(call, argument),
        0x3b8a => serve::<layout::GetHwInfo>(call, argument),
        0x3b8b => serve::<layout::HwptSetDirtyTracking>(call, argument),
        0x3b8c => serve::<layout::HwptGetDirtyBitmap>(call, argument),
        0x3b8d => serve::<layout::HwptInvalidate>(call, argument),
        0x3b8e => serve::<layout::FaultQueueAlloc>(call, argument),
        0x3b8f => serve::<layout::IoasMapFile>(call, argument),
        0x3b90 => serve::<layout::ViommuAlloc>(call, argument),
        0x3b91 => serve::<layout::VdeviceAlloc>(call, argument),
        0x3b92 => serve::<layout::IoasChangeProcess>(call, argument),
        0x3b93 => serve::<layout::VeventqAlloc>(call, argument),
        0x3b94 => serve::<layout::HwQueueAlloc>(call, argument),
        0x3b95 => serve::<layout::IoasNoiommuGetPa>(call, argument),
        _ => Err(Errno::ENOTTY),
    }
}

/// Copies the structure in, runs it, and copies it out.
fn serve<R: Request>(call: &mut Call<'_>, argument: &mut [u8]) -> Result<(), Errno> {
    let known = size_of::<R>();
    let size = argument.first_chunk().ok_or(Errno::EFAULT)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size < R::MIN {
        return Err(Errno::EINVAL);
    }
    let given = argument.get_mut(..size).ok_or(Errno::EFAULT)?;
    if given.iter().skip(known).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let shared = size.min(known);
    let mut request = R::new_zeroed();
    request.as_mut_bytes()[..shared].copy_from_slice(&given[..shared]);
    let result = request.run(call);
    if result.err().is_none_or(R::returns) {
        given[..shared].copy_from_slice(&request.as_bytes()[..shared]);
    }
    result
}

/// A reserved word.
fn zero(word: impl Into<u64>) -> Result<(), Errno> {
    match word.into() {
        0 => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Room for `len` elements, all alike.
fn filled<T: Clone>(value: T, len: usize) -> Result<Vec<T>, Errno> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    vec.resize(len, value);
    Ok(vec)
}

impl Call<'_> {
    /// Reads from the caller; nothing is read from nowhere.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.caller.read(at, bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.caller.write(at, bytes)
    }

    /// `len` bytes of a driver's own data.
    fn data(&self, at: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let len = len as usize;
        if len > DATA {
            return Err(Errno::EINVAL);
        }
        let mut bytes = filled(0, len)?;
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        error.errno()
    }
}
