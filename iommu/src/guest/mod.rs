//! The IOMMUs that guests see, each on top of one slice ([`object::Viommu`](crate::object::Viommu)).

use crate::object::{Attachable, Device, Error};

pub mod vsmmu;
pub mod vvtd;
mod waiting;

pub use waiting::{GROUP, RequestCounters, Requests};

/// Whatever the device goes through with a PASID (0 is without), or nothing, is replaced.
fn put(device: &Device, pasid: u32, to: &impl Attachable) -> Result<(), Error> {
    match device.replace(pasid, to) {
        Err(Error::NotAttached(_)) => device.attach(pasid, to),
        result => result,
    }
    .map(drop)
}
