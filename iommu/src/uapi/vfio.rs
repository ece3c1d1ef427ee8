//! The requests that VFIO has for a device behind IOMMUFD (Linux, `include/uapi/linux/vfio.h`): attach and detach. The
//! device was bound by whoever gives it to the caller.

use zerocopy::{FromZeros, IntoBytes};

use super::layout::{AttachPt, DetachPt};
use crate::object::{Context, Errno};

/// VFIO_DEVICE_ATTACH_IOMMUFD_PT.
pub const ATTACH: u32 = 0x3b77;
/// VFIO_DEVICE_DETACH_IOMMUFD_PT.
pub const DETACH: u32 = 0x3b78;
/// In the flags: the PASID counts.
const PASID: u32 = 1;
/// Bytes of an argument without the PASID.
const ATTACH_MIN: usize = 12;
const DETACH_MIN: usize = 8;

/// Serves one request about the device with this ID. A second attachment replaces the first.
///
/// # Errors
/// ENOTTY for another request; EINVAL for a size that is too small or a flag that is unknown; EFAULT; those of the
/// objects.
pub fn ioctl(
    context: &Context,
    device: u32,
    request: u32,
    argument: &mut [u8],
) -> Result<(), Errno> {
    match request {
        ATTACH => {
            let mut attach = AttachPt::new_zeroed();
            take(argument, attach.as_mut_bytes(), ATTACH_MIN)?;
            let pasid = pasid(attach.flags.get(), attach.pasid.get())?;
            let by_id = context.by_id();
            let hwpt = by_id.attach(device, pasid, attach.pt_id.get())?;
            argument[8..ATTACH_MIN].copy_from_slice(&hwpt.to_le_bytes());
            Ok(())
        }
        DETACH => {
            let mut detach = DetachPt::new_zeroed();
            take(argument, detach.as_mut_bytes(), DETACH_MIN)?;
            let pasid = pasid(detach.flags.get(), detach.pasid.get())?;
            Ok(context.by_id().detach(device, pasid)?)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// VFIO's rule for sizes: at least `min` bytes, all of them with a PASID; what comes after is not looked at.
fn take(argument: &[u8], out: &mut [u8], min: usize) -> Result<(), Errno> {
    let size = argument.first_chunk().ok_or(Errno::EFAULT)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size < min {
        return Err(Errno::EINVAL);
    }
    let flags = argument.get(4..8).ok_or(Errno::EFAULT)?;
    let whole = if flags[0] & PASID as u8 != 0 {
        out.len()
    } else {
        min
    };
    if size < whole {
        return Err(Errno::EINVAL);
    }
    out[..whole].copy_from_slice(argument.get(..whole).ok_or(Errno::EFAULT)?);
    Ok(())
}

/// The PASID that a request is about; 0 is none.
fn pasid(flags: u32, pasid: u32) -> Result<u32, Errno> {
    match flags {
        0 => Ok(0),
        PASID => Ok(pasid),
        _ => Err(Errno::EINVAL),
    }
}
