//! What the host knows of QEMU's `q35`, and whether a guest on x86_64 can be started, decided by the code that starts it.

use super::files::{self, Made};
use super::parse::Parsed;
use super::report::Finding;
use iommu::addr::{Gpa, Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};
use kernel::config::{Function, Key, Machine, Path, PciAddress, Platform, Stream};
use kernel::pc_boot;
use std::fs;
use std::path::Path as FilePath;

/// RAM of `q35` goes on here, if not all of it is below.
const HIGH_RAM: Hpa = Hpa(0x1_0000_0000);
/// Where ECAM is: with less RAM all of it is below (QEMU's `pc_q35_init`).
const ECAM: u64 = 0xb000_0000;
/// With more, as much is below.
const LOW_RAM: u64 = 0x8000_0000;
/// The slot of `q35`'s own functions.
pub const CHIPSET_SLOT: u8 = 0x1f;

/// RAM of `q35`, `memory` bytes of it.
pub fn memory(memory: u64) -> Vec<Span<Hpa>> {
    let low = if memory < ECAM { memory } else { LOW_RAM };
    let parts = [(Hpa(0), low), (HIGH_RAM, memory - low)];
    let parts = parts.into_iter().filter(|(_, len)| *len != 0);
    parts
        .filter_map(|(base, len)| Span::<Hpa>::new(base, len))
        .collect()
}

/// The functions that every `q35` has beside its host bridge: ISA bridge, SATA and SMBus of its ICH9, without ACS.
pub fn chipset(vtd: bool) -> [Function; 3] {
    [0, 2, 3].map(|number| {
        let address = PciAddress::new(0, CHIPSET_SLOT, number);
        let stream = Stream {
            smmu: IommuIndex(0),
            id: DeviceId(address.requester_id().into()),
        };
        Function {
            address,
            physical: None,
            vfs: 0,
            streams: if vtd { vec![stream] } else { Vec::new() },
            group: PciAddress::new(0, CHIPSET_SLOT, 0).requester_id().into(),
            bridge: number == 0,
            usable: true,
            resettable: Some(false),
            ats: Some(false),
        }
    })
}

/// Whether the hypervisor could start each partition's files, as far as they are there.
pub fn start(
    machine: &Machine,
    folder: &FilePath,
    made: &Made,
    parsed: &Parsed<'_>,
    findings: &mut Vec<Finding>,
) {
    let read = |name: &String| {
        let path = made.get(name).cloned();
        fs::read(path.unwrap_or_else(|| files::on_disk(folder, name))).ok()
    };
    for (i, partition) in machine.partitions.iter().enumerate() {
        let (name, key) = match (&partition.kernel, &partition.payload) {
            (Some(name), _) => (name, Key::Kernel),
            (None, Some(name)) => (name, Key::Payload),
            (None, None) => continue,
        };
        // Not built yet.
        let Some(kernel) = read(name) else { continue };
        let initrd = partition.initrd.as_ref().and_then(read);
        let ram = Platform::X86_64.ram(partition.memory.get());
        let memory: Vec<Span<Gpa>> = ram.into_iter().filter(|span| span.len != 0).collect();
        let plan = pc_boot::plan(
            &kernel,
            &pc_boot::Guest {
                memory: &memory,
                command_line: partition.cmdline.as_deref().unwrap_or_default(),
                initrd: initrd.as_deref().unwrap_or_default(),
                acpi: &[],
            },
        );
        if let Err(refused) = plan {
            let message = refused.to_string();
            let (key, help) = match refused {
                pc_boot::Refused::Overlap(_) | pc_boot::Refused::Fixed => {
                    (Key::Memory, "give the partition more memory")
                }
                _ => (
                    key,
                    "use a Linux bzImage, or an ELF program for PVH or Multiboot",
                ),
            };
            findings.push(Finding {
                message,
                span: parsed.span(&Path::partition(i).key(key)),
                help: Some(help.to_owned()),
                ..Finding::default()
            });
        }
    }
}
