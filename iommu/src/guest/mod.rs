//! The IOMMUs that guests see, each on top of one slice ([`object::Viommu`](crate::object::Viommu)).

pub mod vsmmu;
