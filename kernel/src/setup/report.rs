//! What the hypervisor says of a machine that it has taken over: one line a thing, with the addresses that matter.

use crate::functions::dma_windows;
use crate::gate::Gate;
use crate::guest_map;
use crate::partition::Partition;
use crate::pci::Topology;
use crate::platform::Assigned;
use crate::say;
use crate::vdev::vpci::intx_intid;
use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};
use iommu::addr::Span;
use iommu::id::IommuIndex;
use iommu::physical::Caps;
use iommu::smmuv3::Layout;

/// `BASE+LENGTH`.
struct Place<A>(Span<A>);

impl<A: fmt::Display> fmt::Display for Place<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.0.base, self.0.len)
    }
}

/// `[0, 1]`.
struct Numbers<'a>(&'a [usize]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "[";
        for number in self.0 {
            write!(f, "{before}{number}")?;
            before = ", ";
        }
        f.write_str("]")
    }
}

/// An SMMU, every stream of which is refused.
pub fn smmu(index: IommuIndex, layout: &Layout, caps: &Caps) {
    say!("{}", SmmuLine(index, layout, caps));
}

struct SmmuLine<'a>(IommuIndex, &'a Layout, &'a Caps);

impl fmt::Display for SmmuLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(index, layout, caps) = self;
        let levels = if layout.two_level {
            "two-level"
        } else {
            "linear"
        };
        write!(
            f,
            "smmu{}: {levels} stream table {} for {} bits, command queue {}, event queue {}",
            index.0,
            Place(layout.stream_table),
            layout.stream_bits,
            Place(layout.command_queue),
            Place(layout.event_queue)
        )?;
        f.write_str("; stage 2")?;
        write!(f, ", {}-bit VMIDs", caps.cache_tag_bits)?;
        f.write_str(if caps.coherent {
            ", coherent"
        } else {
            ", cleaned by hand"
        })?;
        if caps.range_invalidation {
            f.write_str(", range invalidation")?;
        }
        Ok(())
    }
}

/// Where the virtual functions of each function are.
pub fn virtual_functions(topology: &Topology) {
    for (index, physical) in topology.functions.iter().enumerate() {
        let all = topology.functions.iter();
        let mut all = all.filter(|info| info.physical == Some(index));
        if let Some(first) = all.next() {
            let last = all.next_back().unwrap_or(first);
            let (first, last) = (first.address, last.address);
            say!(
                "pci: {}: {} virtual functions, {first} to {last}",
                physical.address,
                physical.vfs()
            );
        }
    }
}

/// A partition: its memory, what its devices reach, and each of them.
pub fn partition(partition: &Partition, gate: &Gate) {
    let name = partition.name();
    let ram = partition.ram.guest();
    say!(
        "partition {name}: memory {}+{:#x}, cpus {}, the guest's at {}",
        partition.ram.host(),
        ram.len,
        Numbers(&partition.cpus),
        ram.base
    );
    for assigned in &partition.platform.devices {
        say!("{name}: {}", PlatformLine(assigned));
    }
    if partition.devices.owned.is_empty() {
        return;
    }
    for (window, offset) in dma_windows(&partition.config, partition.ram.spans()) {
        let host = iommu::addr::Hpa(partition.ram.host().0 + offset);
        say!("{name}: dma at {} reaches {host}", Place(window));
    }
    if let Some(its) = &gate.messages.its {
        say!(
            "{name}: dma at {}+0x1000 reaches the ITS at {:#x}",
            guest_map::ITS_TRANSLATION.base,
            its.translater()
        );
    }
    for slot in 0..partition.devices.owned.len() {
        say!("{name}: {}", device(partition, gate, slot));
    }
}

/// A function: where it is, where the guest sees it, and by which ways it reaches out.
fn device(partition: &Partition, gate: &Gate, slot: usize) -> String {
    let owned = &partition.devices.owned[slot];
    let info = &gate.topology.functions[owned.info];
    let bus = partition.devices.bus.lock();
    let guest = bus.guest(slot);
    let mut line = format!(
        "{} {:04x}:{:04x} is the guest's {guest}",
        info.address, info.vendor, info.device
    );
    // Writing to a string does not fail.
    for (iommu, stream) in &owned.streams {
        let _ = write!(line, ", stream {stream} of smmu{}", iommu.0);
    }
    for (index, bar) in info.bars.iter().enumerate() {
        if let Some(host) = bar.and_then(|bar| bar.host_span()) {
            let _ = write!(line, ", BAR {index} at {}", Place(host));
        }
    }
    let requester = u32::from(guest.requester_id());
    let mut sources = partition.devices.sources.iter();
    if let Some(source) = sources.find(|source| source.virt.0 == requester) {
        let last = source.first + source.count - 1;
        let _ = write!(
            line,
            ", messages as LPIs {} to {last} of device {:#x}",
            source.first, source.device
        );
    }
    let pin = bus.intx(slot).filter(|_| info.intx.is_some());
    debug_assert!(pin.is_none() || pin == intx_intid(guest.device(), info.interrupt_pin));
    if let (Some(pin), Some(irq)) = (pin, info.intx) {
        let _ = write!(line, ", INTx {} as {pin}", irq.intid);
    }
    line
}

/// A device on the memory bus.
struct PlatformLine<'a>(&'a Assigned);

impl fmt::Display for PlatformLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Assigned {
            device,
            registers,
            irqs,
            streams,
        } = self.0;
        f.write_str(&device.path)?;
        for (host, guest) in device.registers.iter().zip(registers) {
            write!(f, ", registers {} as {}", Place(*host), guest.base)?;
        }
        for (host, guest) in device.irqs.iter().zip(irqs) {
            if let (Some(host), Some(guest)) = (host, guest) {
                write!(f, ", interrupt {} as {}", host.intid, guest.intid)?;
            }
        }
        for (iommu, stream) in streams {
            write!(f, ", stream {stream} of smmu{}", iommu.0)?;
        }
        if streams.is_empty() {
            f.write_str("; does no DMA by the configuration's word")?;
        }
        f.write_str("; cannot be reset: it keeps its state")
    }
}

#[cfg(test)]
mod tests {
    use super::{PlatformLine, SmmuLine};
    use crate::boot_info::{Irq, PlatformDevice};
    use crate::platform::Assigned;
    use alloc::vec::Vec;
    use iommu::addr::Gpa;
    use iommu::addr::{Hpa, Span};
    use iommu::id::DeviceId;
    use iommu::id::IommuIndex;
    use iommu::physical::Caps;
    use iommu::smmuv3::Layout;

    #[test]
    fn a_line_names_every_address_that_an_smmu_reads_or_writes() {
        let place = |base| Span {
            base: Hpa(base),
            len: 0x1000,
        };
        let layout = Layout {
            stream_table: place(0x1000),
            two_level: true,
            stream_bits: 16,
            command_queue: place(0x2000),
            event_queue: place(0x3000),
        };
        let caps = Caps {
            output_bits: 44,
            device_id_bits: 16,
            cache_tag_bits: 16,
            nested: false,
            coherent: true,
            range_invalidation: true,
            address_space_bits: 16,
            pasid_bits: 0,
            ats: false,
        };
        assert_eq!(
            SmmuLine(IommuIndex(2), &layout, &caps).to_string(),
            "smmu2: two-level stream table 0x1000+0x1000 for 16 bits, command queue 0x2000+0x1000, \
             event queue 0x3000+0x1000; stage 2, 16-bit VMIDs, coherent, range invalidation"
        );
        let linear = Layout {
            two_level: false,
            ..layout
        };
        let plain = Caps {
            coherent: false,
            range_invalidation: false,
            cache_tag_bits: 8,
            ..caps
        };
        let line = SmmuLine(IommuIndex(0), &linear, &plain).to_string();
        assert!(line.starts_with("smmu0: linear stream table"), "{line}");
        assert!(
            line.ends_with("stage 2, 8-bit VMIDs, cleaned by hand"),
            "{line}"
        );
    }

    #[test]
    fn a_line_names_what_a_device_on_the_memory_bus_is_in_the_guest() {
        let level = |intid| Irq { intid, edge: false };
        let assigned = Assigned {
            device: PlatformDevice {
                path: "/pl011@9040000".into(),
                registers: [Span {
                    base: Hpa(0x904_0000),
                    len: 0x1000,
                }]
                .into(),
                irqs: [Some(level(40)), Some(level(41)), None].into(),
                ..PlatformDevice::default()
            },
            registers: [Span {
                base: Gpa(0xa00_0000),
                len: 0x1000,
            }]
            .into(),
            irqs: [Some(level(64)), None, None].into(),
            streams: Vec::new(),
        };
        assert_eq!(
            PlatformLine(&assigned).to_string(),
            "/pl011@9040000, registers 0x9040000+0x1000 as 0xa000000, interrupt 40 as 64; does no DMA by \
             the configuration's word; cannot be reset: it keeps its state"
        );
        let master = Assigned {
            streams: [(IommuIndex(1), DeviceId(0x40))].into(),
            ..assigned
        };
        let line = PlatformLine(&master).to_string();
        assert!(
            line.ends_with(" as 64, stream 0x40 of smmu1; cannot be reset: it keeps its state"),
            "{line}"
        );
    }
}
