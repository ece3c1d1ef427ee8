//! The facts of the machine that we really run on: from firmware, the PCI topology and the bundle.

use super::{Content, File, Function as Fact, ImageError, ImageHeader, MachineFacts, PciAddress};
use super::{Platform, Stream};
use crate::boot_info::{BootInfo, PlatformDevice};
use crate::bundle::{Bundle, Entry, Kind};
use crate::gather::Gather;
use crate::pci::{Function, FunctionInfo, Header, Topology, reset_kind};
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};
use iommu::id::IommuIndex;

/// Facts for [`validate()`](super::validate()). `kept` is what the hypervisor itself has of the RAM: its image with the bundle, its
/// heap and tables.
pub fn discovered(
    boot: &BootInfo,
    kept: &[Span<Hpa>],
    topology: &Topology,
    devices: &[PlatformDevice],
    bundle: &Bundle<'_>,
) -> MachineFacts {
    let mut facts = MachineFacts {
        platform: match boot.io_apics.is_empty() {
            true => Platform::Aarch64,
            false => Platform::X86_64,
        },
        ..MachineFacts::default()
    };
    let platform = facts.platform();
    let files = bundle.entries().filter(|entry| entry.kind == Kind::File);
    let address = |info: &FunctionInfo| {
        let Function { segment, bdf } = info.address;
        PciAddress::from_requester_id(segment, bdf.requester_id())
    };
    let function = |info: &FunctionInfo| Fact {
        address: address(info),
        physical: info
            .physical
            .map(|index| address(&topology.functions[index])),
        vfs: info.sriov.as_ref().map_or(0, |sriov| sriov.total),
        streams: streams(boot, platform, info),
        // Endpoints and nothing else: an unknown header layout is kept silent like a bridge.
        bridge: info.header != Header::Endpoint || info.is_host_bridge(),
        usable: info.is_assignable(),
        group: u32::try_from(info.group).unwrap_or(u32::MAX),
        resettable: Some(reset_kind(topology, info).is_some()),
        ats: Some(info.capabilities.ats.is_some()),
    };
    let file = |entry: Entry<'_>| File {
        name: entry.name.into(),
        content: Content::Bytes {
            len: entry.data.len() as u64,
            image: match platform {
                Platform::Aarch64 => ImageHeader::parse(entry.data),
                // Nobody asks.
                Platform::X86_64 => Err(ImageError::Magic),
            },
        },
    };
    facts.memory = boot.memory.clone();
    facts.reserved = boot.reserved.iter().chain(kept).copied().gather();
    facts.cpus = boot.cpus.len();
    facts.functions = topology.functions.iter().map(function).gather();
    facts.files = files.map(file).gather();
    if platform == Platform::Aarch64 {
        facts.describe(boot, devices);
    }
    facts
}

/// Its identities at the machine's IOMMUs; none if any of its requests could pass without one.
fn streams(boot: &BootInfo, platform: Platform, info: &FunctionInfo) -> Vec<Stream> {
    let mut streams = Vec::new();
    for identity in &info.streams {
        let target = identity.target;
        let unit = match platform {
            Platform::Aarch64 => boot.smmus.iter().position(|smmu| smmu.phandle == target),
            // By its place, of which there is one.
            Platform::X86_64 => Some(target as usize),
        };
        let Some(Ok(index)) = unit.map(u8::try_from) else {
            return Vec::new();
        };
        streams.push(Stream {
            smmu: IommuIndex(index),
            id: identity.id,
        });
    }
    match info.is_behind_smmu() {
        true => streams,
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_info::{Cpu, Smmu};
    use crate::bundle::Builder;
    use crate::pci::fake::FakeBus;
    use crate::pci::fixtures::{SMMU, edu, enumerate, host_bridge, nvme, root_port, virt_host};
    use alloc::vec;
    use iommu::id::DeviceId;

    fn boot(smmu_phandle: u32) -> BootInfo {
        let smmu = Smmu {
            registers: Span {
                base: Hpa(0x905_0000),
                len: 0x2_0000,
            },
            phandle: smmu_phandle,
            event_irq: None,
            pri_irq: None,
            gerror_irq: None,
            dma_coherent: true,
        };
        BootInfo {
            cpus: vec![Cpu { id: 0 }; 3],
            smmus: vec![smmu],
            ..BootInfo::default()
        }
    }

    fn facts(boot: &BootInfo) -> MachineFacts {
        let behind = root_port(3).with_child(nvme(0, 0));
        let roots = vec![host_bridge(), nvme(1, 9), edu(2), behind];
        let mut bus = FakeBus::new(vec![(0, roots)]);
        let topology = enumerate(&mut bus, &[virt_host()]);
        let mut builder = Builder::new();
        builder.file("text", b"not an image".to_vec()).unwrap();
        builder.symbols(vec![0; 4]).unwrap();
        let bytes = builder.finish();
        let kept = [Span {
            base: Hpa(0x4020_0000),
            len: 0x10_0000,
        }];
        discovered(boot, &kept, &topology, &[], &Bundle::parse(&bytes).unwrap())
    }

    fn function<'f>(facts: &'f MachineFacts, address: &str) -> &'f Fact {
        facts.function(&address.parse().unwrap()).unwrap()
    }

    #[test]
    fn what_enumeration_found_becomes_facts() {
        let facts = facts(&boot(SMMU));
        assert_eq!(facts.cpus, 3);
        assert_eq!(facts.reserved.len(), 1);
        let disk = function(&facts, "01:00.0");
        let stream = Stream {
            smmu: IommuIndex(0),
            id: DeviceId(0x100),
        };
        assert_eq!(disk.streams, [stream]);
        assert_eq!(
            (disk.bridge, disk.usable, disk.resettable),
            (false, true, Some(true))
        );
        assert_eq!(function(&facts, "00:02.0").resettable, Some(false));
        assert!(function(&facts, "00:00.0").bridge);
        assert!(function(&facts, "00:03.0").bridge);
    }

    #[test]
    fn files_are_listed_and_symbols_are_not() {
        let facts = facts(&boot(SMMU));
        assert_eq!(facts.files.len(), 1);
        assert!(matches!(
            facts.files[0].content,
            Content::Bytes {
                len: 12,
                image: Err(_)
            }
        ));
    }

    #[test]
    fn a_function_behind_an_smmu_that_is_not_there_has_no_stream() {
        let facts = facts(&boot(SMMU + 1));
        assert!(facts.functions.iter().all(|f| f.streams.is_empty()));
    }
}
