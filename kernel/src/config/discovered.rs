//! The facts of the machine that we really run on: from firmware, the PCI topology and the bundle.

use super::{
    Content, DeviceAddress, File, Function, ImageHeader, MachineFacts, PciAddress, Stream,
};
use crate::boot_info::{BootInfo, Smmu};
use crate::bundle::{Bundle, Kind};
use crate::pci::{FunctionInfo, Header, Identity, Topology, reset_kind};
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};
use iommu::id::IommuIndex;

/// Facts for [`super::validate`]. `kept` is what the hypervisor itself has of the RAM: its image with the bundle, its
/// heap and tables.
pub fn discovered(
    boot: &BootInfo,
    kept: &[Span<Hpa>],
    topology: &Topology,
    bundle: &Bundle<'_>,
) -> MachineFacts {
    let files = bundle.entries().filter(|entry| entry.kind == Kind::File);
    let function = |info: &FunctionInfo| Function {
        address: DeviceAddress::Pci(PciAddress::from_requester_id(
            info.address.segment,
            info.address.bdf.requester_id(),
        )),
        streams: streams(&boot.smmus, info),
        // Endpoints and nothing else: an unknown header layout is kept silent like a bridge.
        bridge: info.header != Header::Endpoint || info.is_host_bridge(),
        usable: info.is_assignable(),
        group: u32::try_from(info.group).unwrap_or(u32::MAX),
        resettable: Some(reset_kind(topology, info).is_some()),
    };
    MachineFacts {
        memory: boot.memory.clone(),
        reserved: boot.reserved.iter().chain(kept).copied().collect(),
        cpus: boot.cpus.len(),
        functions: topology.functions.iter().map(function).collect(),
        files: files
            .map(|entry| File {
                name: entry.name.into(),
                content: Content::Bytes {
                    len: entry.data.len() as u64,
                    image: ImageHeader::parse(entry.data),
                },
            })
            .collect(),
    }
}

/// Its identities at the machine's SMMUs; none if any of its requests could pass without one.
fn streams(smmus: &[Smmu], info: &FunctionInfo) -> Vec<Stream> {
    let stream = |identity: &Identity| {
        let index = smmus.iter().position(|s| s.phandle == identity.target)?;
        Some(Stream {
            smmu: IommuIndex(u8::try_from(index).ok()?),
            id: identity.id,
        })
    };
    if !info.is_behind_smmu() {
        return Vec::new();
    }
    let all: Option<Vec<Stream>> = info.streams.iter().map(stream).collect();
    all.unwrap_or_default()
}
