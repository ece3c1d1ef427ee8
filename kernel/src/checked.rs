//! A configuration on the machine that was found: every rule, before anything starts, and RAM for each of its partitions.

use crate::boot_info::{BootInfo, PlatformDevice};
use crate::bundle::Bundle;
use crate::config::{self, Machine};
use crate::pci::Topology;
use crate::say;
use alloc::vec::Vec;
use arch::memory::{FramePool, Frames};
use core::fmt;
use iommu::addr::{Hpa, Span};

/// Why nothing of it may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It breaks this many rules; each was said.
    Rules(usize),
    /// No memory for a partition's RAM; how much was asked for.
    Memory(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(count) => write!(f, "the configuration breaks {count} rules"),
            Self::Memory(len) => write!(f, "no {} MiB of contiguous memory", len >> 20),
        }
    }
}

/// Checks `machine` against every rule, says which it breaks, and takes RAM for each partition out of `frames`. `devices` are
/// those of the memory bus, if one is named.
///
/// # Errors
/// See [`Error`].
#[inline(never)]
pub fn check(
    machine: &Machine,
    info: &BootInfo,
    frames: &'static FramePool,
    topology: &Topology,
    devices: &[PlatformDevice],
    bundle: &Bundle<'_>,
) -> Result<Vec<Frames>, Error> {
    let kept = kept(info, frames);
    let facts = config::discovered(info, &kept, topology, devices, bundle);
    let problems = config::validate(machine, &facts);
    for problem in &problems {
        say!("configuration: {problem}");
    }
    if !problems.is_empty() {
        return Err(Error::Rules(problems.len()));
    }
    let mut ram = Vec::new();
    for place in config::place_memory(machine, &facts) {
        let span = place.map_err(Error::Memory)?;
        let taken = frames.reserve_exact(span.base.0, span.len);
        ram.push(taken.ok_or(Error::Memory(span.len))?);
    }
    Ok(ram)
}

/// RAM that is not free: what the hypervisor itself has.
fn kept(info: &BootInfo, frames: &'static FramePool) -> Vec<Span<Hpa>> {
    let free = frames.free_ranges();
    let mut kept = Vec::new();
    let mut keep = |from: u64, to: u64| {
        if from < to {
            let base = Hpa(from);
            let len = to - from;
            kept.push(Span { base, len });
        }
    };
    for memory in &info.memory {
        let (mut at, end) = (memory.base.0, memory.end().0);
        for range in &free {
            keep(at, end.min(range.start));
            at = at.max(range.end);
        }
        keep(at, end);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{Error, check, kept};
    use crate::boot_info::{BootInfo, Cpu, Dmar, IoApic, Vtd};
    use crate::bundle::{Builder, Bundle};
    use crate::composition::machine::{PARTITION_LEN, partition};
    use crate::config::{self, Bytes, DmaWindow, Machine, Tables};
    use crate::pci::Topology;
    use crate::pci::fake::FakeBus;
    use crate::pci::fixtures::{edu, enumerate, host_bridge, nvme, virt_host};
    use alloc::vec;
    use alloc::vec::Vec;
    use arch::host::memory::pool;
    use arch::memory::{FramePool, Frames};
    use iommu::addr::{Hpa, Span};

    const RAM: u64 = 0x4000_0000;
    const RAM_LEN: u64 = 48 << 20;
    const MIB: u64 = 1 << 20;

    fn span(base: u64, len: u64) -> Span<Hpa> {
        let base = Hpa(base);
        Span { base, len }
    }

    /// A PC with one VT-d unit, whose place names it.
    fn pc() -> BootInfo {
        BootInfo {
            memory: vec![span(RAM, RAM_LEN)],
            cpus: vec![Cpu { id: 0 }; 4],
            io_apics: vec![IoApic {
                id: 0,
                registers: span(0xfec0_0000, 0x1000),
                first: 0,
            }],
            dmar: Dmar {
                vtds: vec![Vtd {
                    registers: span(0xfed9_0000, 0x1000),
                    segment: 0,
                    scopes: Vec::new(),
                    include_all: true,
                    proximity: None,
                }],
                ..Dmar::default()
            },
            ..BootInfo::default()
        }
    }

    /// Its functions: an NVMe at 00:01.0 and an edu at 00:02.0.
    fn topology(info: &BootInfo) -> Topology {
        let roots = vec![host_bridge(), nvme(1, 9), edu(2)];
        let mut bus = FakeBus::new(vec![(0, roots)]);
        let mut topology = enumerate(&mut bus, &[virt_host()]);
        topology.name_sources(&info.dmar);
        topology
    }

    fn machine() -> Machine {
        Machine {
            machine: config::Identity {
                name: "pc".into(),
                qemu: None,
                board: None,
                sriov: Vec::new(),
            },
            partitions: vec![
                partition("disk", [0, 1], &["00:01.0"]),
                partition("edu", [2, 3], &["00:02.0"]),
            ],
        }
    }

    /// The guest's file is no arm64 Image, and there is an empty one.
    fn checked(
        machine: Machine,
        info: &BootInfo,
        frames: &'static FramePool,
    ) -> Result<Vec<Frames>, Error> {
        let mut builder = Builder::new();
        builder.file("guest", b"for a PC".to_vec()).unwrap();
        builder.file("empty", Vec::new()).unwrap();
        let bytes = builder.finish();
        let bundle = Bundle::parse(&bytes).unwrap();
        check(&machine, info, frames, &topology(info), &[], &bundle)
    }

    #[test]
    fn what_breaks_no_rule_has_its_ram() {
        let frames = pool(RAM, RAM_LEN);
        let own = frames.reserve_exact(RAM, 3 * MIB).unwrap();
        let ram = checked(machine(), &pc(), frames).unwrap();
        let places: Vec<_> = ram.iter().map(Frames::base).collect();
        assert_eq!(places, [RAM + 4 * MIB, RAM + 4 * MIB + PARTITION_LEN]);
        assert!(ram.iter().all(|ram| ram.len() == PARTITION_LEN));
        let taken = own.len() + 2 * PARTITION_LEN;
        assert_eq!(frames.free_bytes(), RAM_LEN - taken);
    }

    #[test]
    fn one_broken_rule_keeps_everybody_from_starting() {
        fn window(base: u64) -> Vec<DmaWindow> {
            vec![DmaWindow {
                base: Bytes(base),
                size: Bytes(0x1000),
            }]
        }
        let breaks: &[fn(&mut Machine)] = &[
            |it| it.partitions[1].name = "disk".into(),
            |it| it.partitions[1].name = "a b".into(),
            |it| it.machine.name.clear(),
            |it| it.partitions[1].cpus = vec![1],
            |it| it.partitions[1].cpus = vec![4],
            |it| it.partitions[1].memory = Bytes(PARTITION_LEN + 0x1000),
            |it| it.partitions[1].memory = Bytes(RAM_LEN),
            |it| it.partitions[1].base = Some(Bytes(RAM)),
            |it| it.partitions[1].tables = Tables::Acpi,
            |it| it.partitions[1].payload = None,
            |it| it.partitions[1].payload = Some("empty".into()),
            |it| it.partitions[1].initrd = Some("guest".into()),
            |it| it.partitions[1].cmdline = Some("\u{7}".into()),
            |it| it.partitions[1].on_fault.threshold = 0,
            |it| it.partitions[1].dma_windows = window(PARTITION_LEN),
            |it| it.partitions[1].dma_windows = window(0x800),
            |it| it.partitions[1].devices[0].address = "00:03.0".parse().unwrap(),
            |it| it.partitions[1].devices[0].address = "00:01.0".parse().unwrap(),
            |it| it.partitions[1].devices[0].address = "00:00.0".parse().unwrap(),
            |it| it.partitions[1].devices[0].address = "/pl011@9040000".parse().unwrap(),
            |it| it.partitions[1].devices[0].reset = config::ResetPolicy::Required,
            |it| it.partitions[1].devices[0].guest = Some("01:00.0".parse().unwrap()),
            |it| it.partitions[1].devices[0].dma = false,
            |it| it.partitions[1].devices[0].ats = true,
            |it| it.partitions[1].devices[0].manages_vfs = true,
        ];
        for (number, change) in breaks.iter().enumerate() {
            let frames = pool(RAM, RAM_LEN);
            let mut machine = machine();
            change(&mut machine);
            let found = checked(machine, &pc(), frames);
            assert_eq!(found.err(), Some(Error::Rules(1)), "number {number}");
            assert_eq!(frames.free_bytes(), RAM_LEN);
        }
        let none = Machine {
            partitions: Vec::new(),
            ..machine()
        };
        let found = checked(none, &pc(), pool(RAM, RAM_LEN));
        assert_eq!(found.err(), Some(Error::Rules(1)));
    }

    #[test]
    fn without_a_unit_no_function_can_be_had() {
        let mut info = pc();
        info.dmar.vtds.clear();
        let found = checked(machine(), &info, pool(RAM, RAM_LEN));
        assert_eq!(found.err(), Some(Error::Rules(2)));
    }

    #[test]
    fn what_is_not_free_is_kept() {
        let frames = pool(RAM, RAM_LEN);
        let own = [(RAM, MIB), (RAM + 8 * MIB, MIB), (RAM + 47 * MIB, MIB)];
        let _own = own.map(|(base, len)| frames.reserve_exact(base, len).unwrap());
        let [first, middle, last] = own.map(|(base, len)| span(base, len));
        assert_eq!(kept(&pc(), frames), [first, middle, last]);
        // In two parts that touch, and with one that is nobody's to give.
        let parts = BootInfo {
            memory: vec![
                span(0, MIB),
                span(RAM, 2 * MIB),
                span(RAM + 2 * MIB, 46 * MIB),
            ],
            ..pc()
        };
        assert_eq!(kept(&parts, frames), [span(0, MIB), first, middle, last]);
    }
}
