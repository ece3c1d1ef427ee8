//! The IOMMUs that guests see, each on top of one slice ([`object::Viommu`](crate::object::Viommu)).

use crate::object::{Attachable, Device, Error};

pub mod vsmmu;
pub mod vvtd;

/// Whatever the device goes through, or nothing, is replaced.
fn put(device: &Device, to: &impl Attachable) -> Result<(), Error> {
    match device.replace(0, to) {
        Err(Error::NotAttached(_)) => device.attach(0, to),
        result => result,
    }
    .map(drop)
}
