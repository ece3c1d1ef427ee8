//! What the host knows of a machine: QEMU's `virt` with its devices, or a board as its configuration describes it; and
//! what can be wrong with such a description.

use super::files;
use super::parse::Parsed;
use super::qemu;
use super::report::Finding;
use super::tree;
use super::virtuals::virtuals;
use super::x86_64;
use crate::arch::Arch;
use iommu::addr::{Hpa, Span};
use iommu::id::{DeviceId, IommuIndex};
use kernel::config::{
    Board, BoardRange, Bytes, Content, Function, Identity, Key, MachineFacts, Path, Qemu, Rule,
    Sriov, Stream,
};
use std::path::Path as FilePath;

/// RAM of QEMU's `virt` starts here.
const QEMU_RAM: Hpa = Hpa(0x4000_0000);
/// Room for the hypervisor itself, its tables and heap, and the device tree, at the start of RAM.
const HYPERVISOR: u64 = 32 << 20;

/// The hardware of a machine, as far as it was described.
pub struct Hardware {
    /// Without files.
    pub facts: MachineFacts,
    /// Rules that would only repeat that the description is wrong.
    pub unknown: fn(&Rule) -> bool,
}

/// Reads the description of the machine; what is wrong with it goes to `findings`.
pub fn hardware(
    machine: &Identity,
    arch: Arch,
    parsed: &Parsed<'_>,
    folder: &FilePath,
    findings: &mut Vec<Finding>,
) -> Hardware {
    let at = Path::ROOT.key(Key::Machine);
    let mut add = |message: String, at: Path, other: Option<Path>, help: &str| {
        findings.push(Finding {
            message,
            span: parsed.span(&at),
            other: other.map(|other| (parsed.span(&other), "first here".to_owned())),
            help: (!help.is_empty()).then(|| help.to_owned()),
            ..Finding::default()
        });
    };
    let mut hardware = match (&machine.qemu, &machine.board) {
        (Some(qemu), None) => {
            let at = at.key(Key::Qemu);
            qemu_machine(qemu, arch, &machine.sriov, at, folder, &mut add)
        }
        (None, Some(board)) => {
            let at = at.key(Key::Board);
            board_machine(board, arch, &machine.sriov, at, folder, &mut add)
        }
        // The hypervisor looks for itself; what it does not find there, it says.
        (None, None) if arch == Arch::X86_64 => Hardware::unknown(),
        (Some(_), Some(_)) => {
            let message = "the machine is described twice: as `qemu` and as `board`".to_owned();
            let other = Some(at.key(Key::Qemu));
            add(message, at.key(Key::Board), other, "keep one of the two");
            Hardware::unknown()
        }
        (None, None) => {
            let help = "add [machine.qemu], or [machine.board] with what the board has";
            add("the machine is not described".to_owned(), at, None, help);
            Hardware::unknown()
        }
    };
    hardware.facts.platform = arch.platform();
    hardware
}

type Add<'a> = &'a mut dyn FnMut(String, Path, Option<Path>, &str);

impl Hardware {
    fn unknown() -> Self {
        let facts = MachineFacts::default();
        let unknown = |rule: &Rule| {
            matches!(
                rule,
                Rule::CpuUnknown { .. }
                    | Rule::MemoryShort { .. }
                    | Rule::MemoryScattered { .. }
                    | Rule::BaseNotRam { .. }
                    | Rule::DeviceUnknown
            )
        };
        Self { facts, unknown }
    }
}

fn qemu_machine(
    machine: &Qemu,
    arch: Arch,
    wanted: &[Sriov],
    at: Path,
    folder: &FilePath,
    add: Add<'_>,
) -> Hardware {
    let memory = machine.memory;
    if memory.get() == 0 || !memory.get().is_multiple_of(1 << 20) {
        let message = format!("QEMU cannot have {memory} of memory");
        add(message, at.key(Key::Memory), None, "use whole MiB");
    }
    if machine.cpus == 0 {
        add(
            "a machine without a CPU".into(),
            at.key(Key::Cpus),
            None,
            "",
        );
    }
    disks(machine, at, folder, add);
    let (mut functions, unknown): (_, fn(&Rule) -> bool) =
        match qemu::functions(&machine.devices, wanted, machine.smmu) {
            Ok(functions) => (functions, |_| false),
            Err(bad) => {
                for bad in bad {
                    let device = |index| at.key(Key::Devices).index(index);
                    let message = format!("QEMU would refuse this device: {}", bad.message);
                    add(message, device(bad.index), bad.other.map(device), "");
                }
                (Vec::new(), |rule| matches!(rule, Rule::DeviceUnknown))
            }
        };
    if arch == Arch::X86_64 {
        let slot = |function: &Function| (function.address.bus, function.address.device);
        let chipset = (0, x86_64::CHIPSET_SLOT);
        if functions.iter().any(|function| slot(function) == chipset) {
            let message = "slot 1f of QEMU's `q35` is its chipset's".to_owned();
            add(message, at.key(Key::Devices), None, "use another slot");
        }
        functions.extend(x86_64::chipset(machine.smmu));
    }
    let mut facts = MachineFacts {
        memory: match arch {
            Arch::Aarch64 => Span::<Hpa>::new(QEMU_RAM, memory.get())
                .into_iter()
                .collect(),
            Arch::X86_64 => x86_64::memory(memory.get()),
        },
        cpus: machine.cpus.into(),
        functions,
        ..MachineFacts::default()
    };
    if arch == Arch::X86_64 {
        if !machine.serials.is_empty() {
            let message = "a second UART could not be given away on x86_64".to_owned();
            add(message, at.key(Key::Serials), None, "leave it out");
        }
        if machine.dtb.is_some() {
            no_device_tree(at, add);
        }
        return Hardware { facts, unknown };
    }
    if machine.serials.len() > 1 {
        let message = "QEMU's `virt` has one UART beside the console's".to_owned();
        add(message, at.key(Key::Serials).index(1), None, "");
    }
    match &machine.dtb {
        Some(dtb) => device_tree(&mut facts, dtb, at, folder, add),
        None => tree::describe_qemu(&mut facts, machine.serials.len()),
    }
    Hardware { facts, unknown }
}

fn no_device_tree(at: Path, add: Add<'_>) {
    let message = "a machine with x86_64 has no device tree".to_owned();
    add(message, at.key(Key::Dtb), None, "leave it out");
}

/// Adds what the device tree in the file `dtb` says.
fn device_tree(facts: &mut MachineFacts, dtb: &str, at: Path, folder: &FilePath, add: Add<'_>) {
    let read = std::fs::read(files::on_disk(folder, dtb));
    let message = match read.map(|bytes| tree::describe(facts, &bytes)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(error) => format!("the device tree `{dtb}` cannot be read: {error}"),
    };
    let help = "a flattened device tree (.dtb), of a machine with GICv3, PSCI and a generic timer";
    add(message, at.key(Key::Dtb), None, help);
}

fn disks(machine: &Qemu, at: Path, folder: &FilePath, add: Add<'_>) {
    for (i, disk) in machine.disks.iter().enumerate() {
        let at = at.key(Key::Disk);
        if let Some(first) = machine.disks[..i].iter().position(|d| d.id == disk.id) {
            let other = Some(at.index(first).key(Key::Id));
            let message = format!("two disks have the id `{}`", disk.id);
            add(message, at.index(i).key(Key::Id), other, "");
        }
        match (&disk.file, disk.size) {
            (Some(file), None) => {
                if !files::on_disk(folder, file).is_file() {
                    let message = format!("the disk image `{file}` does not exist");
                    add(message, at.index(i).key(Key::File), None, "");
                }
            }
            (None, Some(size)) => {
                if size.get() == 0 || !size.get().is_multiple_of(512) {
                    let message = format!("a disk cannot have {size}");
                    let help = "use whole sectors of 512 bytes";
                    add(message, at.index(i).key(Key::Size), None, help);
                }
            }
            _ => {
                let help = "give exactly one of the two";
                let message = "a disk needs `file` or `size`".to_owned();
                add(message, at.index(i), None, help);
            }
        }
    }
    for (i, device) in machine.devices.iter().enumerate() {
        let drive = device.split(',').find_map(|p| p.strip_prefix("drive="));
        if let Some(drive) = drive.filter(|id| machine.disks.iter().all(|disk| disk.id != **id)) {
            let message = format!("there is no disk `{drive}`");
            let help = format!("add [[machine.qemu.disk]] with id = \"{drive}\"");
            add(message, at.key(Key::Devices).index(i), None, &help);
        }
    }
}

fn board_machine(
    board: &Board,
    arch: Arch,
    wanted: &[Sriov],
    at: Path,
    folder: &FilePath,
    add: Add<'_>,
) -> Hardware {
    let mut ranges = |ranges: &[BoardRange], at: Path| {
        let mut spans: Vec<Span<Hpa>> = Vec::new();
        for (i, range) in ranges.iter().enumerate() {
            match Span::<Hpa>::new(Hpa(range.base.get()), range.size.get()) {
                Some(span) if span.len != 0 => {
                    if let Some(first) = spans.iter().position(|other| other.overlaps(&span)) {
                        let other = Some(at.index(first));
                        add("two ranges overlap".into(), at.index(i), other, "");
                    }
                    spans.push(span);
                }
                _ => add("a range of no addresses".into(), at.index(i), None, ""),
            }
        }
        spans
    };
    let memory = ranges(&board.memory, at.key(Key::Memory));
    let reserved = ranges(&board.reserved, at.key(Key::Reserved));
    for (i, function) in board.functions.iter().enumerate() {
        let earlier = &board.functions[..i];
        let at = at.key(Key::Function);
        if let Some(first) = earlier.iter().position(|f| f.address == function.address) {
            let other = Some(at.index(first).key(Key::Address));
            let message = format!("{} is described twice", function.address);
            add(message, at.index(i).key(Key::Address), other, "");
        }
    }
    let alone = |index: usize| u32::MAX - u32::try_from(index).unwrap_or(0);
    let functions = board.functions.iter().enumerate();
    let functions = functions.map(|(i, function)| Function {
        address: function.address,
        physical: None,
        vfs: function.sriov.map_or(0, |sriov| sriov.total),
        streams: Vec::from_iter(function.stream.map(|id| Stream {
            smmu: IommuIndex(function.smmu),
            id: DeviceId(id),
        })),
        usable: true,
        group: function.group.unwrap_or(alone(i)),
        bridge: function.bridge,
        resettable: function.resettable,
        ats: None,
    });
    let mut functions: Vec<Function> = functions.collect();
    for (i, function) in board.functions.iter().enumerate() {
        if let Some(sriov) = &function.sriov {
            let virtuals = virtuals(&functions[i], sriov, wanted);
            functions.extend(virtuals);
        }
    }
    let mut facts = MachineFacts {
        memory,
        reserved,
        cpus: board.cpus.into(),
        functions,
        ..MachineFacts::default()
    };
    if let Some(dtb) = &board.dtb {
        if arch == Arch::X86_64 {
            no_device_tree(at, add);
        } else {
            device_tree(&mut facts, dtb, at, folder, add);
        }
    }
    Hardware {
        facts,
        unknown: |_| false,
    }
}

/// Reserves what the hypervisor and the files behind it take, on machines where it is loaded at the start of RAM.
pub fn reserve_image(facts: &mut MachineFacts) {
    let files = facts.files.iter().map(|file| match file.content {
        Content::Bytes { len, .. } => len,
        Content::NotBuilt => 0,
    });
    let len = files
        .fold(HYPERVISOR, u64::saturating_add)
        .checked_next_multiple_of(2 << 20);
    if let (Some(ram), Some(len)) = (facts.memory.first(), len) {
        let len = len.min(ram.len);
        facts.reserved.push(Span {
            base: ram.base,
            len,
        });
    }
}

/// What the hypervisor itself is thought to take of the memory, for messages.
pub const fn hypervisor_memory() -> Bytes {
    Bytes(HYPERVISOR)
}
