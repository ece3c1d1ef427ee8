//! What is read from an open queue, and written to it.

use super::filled;
use super::layout::{PageFault, PageResponse};
use crate::object::driver::Answer;
use crate::object::{Errno, FaultQueue, PageRequest, Veventq};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bits of [`PageFault::flags`].
const PASID_VALID: u32 = 1;
const LAST_PAGE: u32 = 2;
/// Codes of [`PageResponse`].
const SUCCESS: u32 = 0;
const INVALID: u32 = 1;
/// Page requests that are read at once.
const REQUESTS: usize = 4096;

/// Reads whole events, each of `event_len` bytes behind a header of flags and sequence; returns the bytes.
///
/// # Errors
/// EINVAL for less room than a header, or than the first event takes.
pub fn read_events(queue: &Veventq, event_len: usize, bytes: &mut [u8]) -> Result<usize, Errno> {
    queue.read(event_len, bytes).map_err(|_| Errno::EINVAL)
}

/// Reads whole groups of page requests, as many as fit; returns the bytes.
///
/// # Errors
/// ESPIPE for room of no whole number of [`PageFault`]s; EINVAL where the first group does not fit; ENOMEM.
pub fn read_faults(queue: &FaultQueue, bytes: &mut [u8]) -> Result<usize, Errno> {
    let each = size_of::<PageFault>();
    if !bytes.len().is_multiple_of(each) {
        return Err(Errno::ESPIPE);
    }
    let mut left = (bytes.len() / each).min(REQUESTS);
    let mut requests = filled(PageRequest::default(), left)?;
    let mut done = 0;
    loop {
        let count = match queue.read(&mut requests[..left]) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error.errno()),
        };
        for request in &requests[..count] {
            bytes[done..done + each].copy_from_slice(message(request).as_bytes());
            done += each;
        }
        left -= count;
    }
}

fn message(request: &PageRequest) -> PageFault {
    let mut fault = PageFault::new_zeroed();
    let mut flags = if request.last { LAST_PAGE } else { 0 };
    if let Some(pasid) = request.pasid {
        flags |= PASID_VALID;
        fault.pasid.set(pasid);
    }
    fault.flags.set(flags);
    fault.dev_id.set(request.device);
    fault.grpid.set(request.group.into());
    fault.perm.set(request.access);
    fault.addr.set(request.address);
    fault.cookie.set(request.cookie);
    fault
}

/// Answers groups of page requests, in order up to the first answer that is wrong; returns the bytes that were taken.
///
/// # Errors
/// ESPIPE for no whole number of [`PageResponse`]s; EINVAL where the first one has an unknown code or cookie.
pub fn write_faults(queue: &FaultQueue, bytes: &[u8]) -> Result<usize, Errno> {
    let each = size_of::<PageResponse>();
    if !bytes.len().is_multiple_of(each) {
        return Err(Errno::ESPIPE);
    }
    let mut done = 0;
    for response in bytes.chunks_exact(each) {
        match answer(queue, response) {
            Ok(()) => done += each,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

fn answer(queue: &FaultQueue, response: &[u8]) -> Result<(), Errno> {
    let response = PageResponse::read_from_bytes(response).map_err(|_| Errno::ESPIPE)?;
    let answer = match response.code.get() {
        SUCCESS => Answer::Success,
        INVALID => Answer::Invalid,
        _ => return Err(Errno::EINVAL),
    };
    Ok(queue.respond(response.cookie.get(), answer)?)
}
