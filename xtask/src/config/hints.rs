//! What to do about a problem, and what to write beside the places that it names.

use super::facts::hypervisor_memory;
use super::parse::nearest;
use super::report::Finding;
use super::{files, parse::Parsed};
use kernel::config::{
    DeviceAddress, ImageError, Machine, MachineFacts, NodeRule, Platform, Problem, Rule, Step,
    guest_addresses,
};

/// The finding for a problem.
pub fn finding(
    problem: &Problem,
    machine: &Machine,
    facts: &MachineFacts,
    parsed: &Parsed<'_>,
) -> Finding {
    let (label, other) = labels(&problem.rule);
    Finding {
        message: match (problem.rule, file(problem, machine)) {
            (Rule::FileMissing, Some((name, "payload"))) if !name.contains('/') => {
                format!("there is no small guest `{name}`")
            }
            (Rule::FileMissing, Some((name, _))) => format!("there is no file `{name}`"),
            // `kernel::config` knows one kind of IOMMU by name.
            (Rule::DeviceBehindNoSmmu, _) if is_x86(facts) => {
                "the device stands behind no VT-d unit".to_owned()
            }
            (Rule::DeviceSharesStream { stream }, _) if is_x86(facts) => format!(
                "the device shares source {} of VT-d unit {} with another partition's",
                stream.id, stream.smmu.0
            ),
            (rule, _) => rule.to_string(),
        },
        span: parsed.span(&problem.at),
        label: label.to_owned(),
        other: problem
            .other
            .map(|path| (parsed.span(&path), other.to_owned())),
        help: help(problem, machine, facts),
    }
}

fn is_x86(facts: &MachineFacts) -> bool {
    facts.platform == Platform::X86_64
}

/// What stands beside the place of a problem, and beside the other one.
fn labels(rule: &Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::CpuTwice { .. } | Rule::DeviceTwice | Rule::GuestAddressTwice { .. } => {
            ("given again here", "given here first")
        }
        Rule::NameTwice => ("and here", "used here first"),
        Rule::BaseOverlap { .. } | Rule::WindowOverlap => ("overlaps", "this one"),
        Rule::DeviceSharesStream { .. } => ("the same StreamID", "is another partition's"),
        Rule::Node(NodeRule::SharesPage { .. }) | Rule::Node(NodeRule::SharesInterrupt { .. }) => {
            ("shares with", "this one")
        }
        Rule::SriovTwice => ("given again here", "given here first"),
        Rule::SriovManaged { .. } => ("a virtual function of", "this one"),
        Rule::DeviceSharesGroup { .. } => ("cannot be isolated from", "this one"),
        Rule::Node(NodeRule::WithoutAcpi) => ("is in device trees only", "asks for ACPI"),
        Rule::AcpiForPayload => ("asks for ACPI", "is started with a device tree"),
        Rule::TwoGuests => ("and this", "either this"),
        Rule::RestartForbidden => ("would restart it", "forbids it"),
        _ => ("", ""),
    }
}

fn help(problem: &Problem, machine: &Machine, facts: &MachineFacts) -> Option<String> {
    let text = match problem.rule {
        Rule::NoPartition => "add a [[partition]]",
        Rule::TooManyPartitions { .. } => "split the work over fewer partitions",
        Rule::NameEmpty | Rule::NameIllFormed { .. } => "use letters, digits, `-`, `_` and `.`",
        Rule::NameTooLong { .. } => "the name stands before each console line: keep it short",
        Rule::NameTwice => "every partition needs a name of its own",
        Rule::NoCpu => "list physical CPUs, such as `cpus = [0]`",
        Rule::TooManyCpus { .. } => return None,
        Rule::CpuUnknown { count, .. } => {
            let last = count.checked_sub(1)?;
            return Some(format!("CPUs are numbered 0 to {last}"));
        }
        Rule::CpuTwice { .. } => return Some(free_cpus(machine, facts)),
        Rule::MemoryZero => "give a size, such as \"512M\"",
        Rule::MemoryUnaligned { size } => {
            let lower = size.get() >> 21;
            return Some(format!("use \"{}M\" or \"{}M\"", lower * 2, lower * 2 + 2));
        }
        Rule::MemoryBeyondMap { .. } => return None,
        Rule::MemoryShort { .. } => {
            return Some(format!(
                "{} and the length of all files stay with the hypervisor",
                hypervisor_memory()
            ));
        }
        Rule::MemoryScattered { .. } => "a partition's RAM is one range of the machine's",
        Rule::BaseUnaligned { .. } => "use a multiple of 0x200000",
        Rule::BaseNotRam { .. } => return Some(ranges("RAM is at", facts)),
        Rule::BaseReserved { .. } => "leave `base` out, and a free range is chosen",
        Rule::BaseOverlap { .. } => "leave one `base` out, and a free range is chosen",
        Rule::NoGuest => {
            return Some(format!(
                "add `kernel = \"PATH\"`, or `payload =` one of {}",
                payloads(facts)
            ));
        }
        Rule::TwoGuests => "keep one of the two",
        Rule::InitrdWithoutKernel => "only a `kernel` takes an initrd",
        Rule::AcpiForPayload => "leave `tables` out: payloads read a device tree",
        Rule::CmdlineTooLong { .. } => "Linux would cut it",
        Rule::CmdlineIllFormed { .. } => "write it on one line",
        Rule::FileMissing => return Some(missing_file(problem, facts)),
        Rule::FileEmpty => return None,
        Rule::NotAnImage { error } => match error {
            ImageError::Gzip => "unpack it with gunzip",
            ImageError::Zboot => "build the kernel with CONFIG_EFI_ZBOOT=n, or use its `Image`",
            ImageError::NoSize => "use a kernel of version 3.17 or later",
            ImageError::BigEndian => "use a little-endian kernel",
            ImageError::Short | ImageError::Magic => {
                "use arch/arm64/boot/Image, Debian's vmlinuz-*-arm64, or an ELF file as `payload`"
            }
        },
        Rule::GuestTooLarge { .. } => "give the partition more memory",
        Rule::DeviceTwice => "a device belongs to one partition",
        Rule::DeviceUnknown => return Some(known_devices(problem, machine, facts)),
        Rule::DeviceIsBridge => "give the functions behind it",
        Rule::DeviceWithoutAddresses => "its host bridge needs larger windows",
        Rule::Node(NodeRule::BehindNoSmmu) => {
            "if it does no DMA at all (a UART, a clock, GPIOs), say `dma = false`: where that is wrong, nothing stops it"
        }
        Rule::DeviceDoesDma => "leave `dma` out; only what stands behind an SMMU can be given",
        Rule::Node(NodeRule::Disabled) => {
            "firmware or a driver of its own keeps it; set `status` in the device tree if not"
        }
        Rule::Node(NodeRule::Unreadable { .. }) => {
            "it is on a bus with addresses of its own, or the device tree is wrong"
        }
        Rule::Node(NodeRule::WithoutRegisters) => "give the node that has `reg`",
        Rule::Node(NodeRule::OfHypervisor { .. }) => {
            "partitions get one of their own from the hypervisor"
        }
        Rule::Node(NodeRule::SharesPage { .. }) => {
            "who has the page has both: give both to one partition, or neither"
        }
        Rule::Node(NodeRule::Interrupt { .. }) => {
            "only shared peripheral interrupts (SPIs) can be given"
        }
        Rule::Node(NodeRule::InterruptTaken { .. }) => "it cannot be shared with a guest",
        Rule::Node(NodeRule::SharesInterrupt { .. }) => "give both to one partition",
        Rule::GuestAddressOfNode => {
            "leave `guest` out: registers keep their address where they can"
        }
        Rule::Node(NodeRule::WindowFull { .. }) => "leave out a device with so many registers",
        Rule::Node(NodeRule::WithoutAcpi) => {
            "leave `tables` out: the guest's device tree has the device"
        }
        Rule::Node(NodeRule::TooManyInterrupts { .. }) => "spread the devices over more partitions",
        Rule::DeviceBehindNoSmmu
            if matches!(device(problem, machine), Some(DeviceAddress::Path(_))) =>
        {
            "its DMA could not be confined"
        }
        Rule::DeviceBehindNoSmmu => {
            "its DMA could not be confined; QEMU's virtio devices need iommu_platform=on,disable-legacy=on"
        }
        Rule::DeviceSharesStream { .. } => "give both to one partition, or move one to another bus",
        Rule::DeviceSharesGroup { .. } => {
            "give both to one partition, or put one behind a port of its own"
        }
        Rule::DeviceCannotReset => {
            "`reset = \"best-effort\"` hands it over with the state that it has"
        }
        Rule::SriovTwice => "give all of them in one place",
        Rule::SriovNone => "leave [[machine.sriov]] out",
        Rule::SriovUnknown => return Some(known_sriov(facts)),
        Rule::SriovTooMany { total, .. } => {
            return Some(format!("use a number up to {total}"));
        }
        Rule::SriovManaged { .. } => {
            "its driver has power over the virtual functions: say `manages_vfs = true` there if that is meant, or \
             give all to one partition"
        }
        Rule::SriovManagesNone => {
            "leave it out, or add [[machine.sriov]] with the device's address"
        }
        Rule::AtsNone => "leave it out",
        Rule::AtsBehindGuest => "leave one of the two out",
        Rule::ReservedMemory => "leave it out",
        Rule::AtsOfOne => "say it of both, or of none",
        Rule::GuestAddressTwice { .. } | Rule::GuestBusFull => {
            return free_guest_address(problem, machine);
        }
        Rule::GuestAddressOutOfRange { .. } => "use an address such as \"00:01.0\"",
        Rule::GuestFunctionAlone { .. } => "use function 0, or give another device that function",
        Rule::TooManyWindows { .. } => "join windows that touch",
        Rule::WindowZero => "leave the window out",
        Rule::WindowUnaligned { .. } => "use a multiple of 0x1000",
        Rule::WindowOutsideRam { .. } if is_x86(facts) => {
            "windows are guest physical; RAM starts at 0 and goes on at 4 GiB where it has more than 3 GiB"
        }
        Rule::WindowOutsideRam { .. } => "windows are guest physical; RAM starts at 0x40000000",
        Rule::WindowOverlap => "join them",
        Rule::NotOnX86 { .. } => match problem.at.steps().last() {
            Some(Step::Key("tables")) => "leave it out: guests are told by ACPI what they have",
            Some(Step::Key("base")) => "leave it out: the hypervisor chooses",
            Some(Step::Key("address")) => "only PCI functions can be given",
            _ => "leave it out",
        },
        Rule::ThresholdZero => "use 1 to act on the first fault",
        Rule::RestartForbidden => "use action = \"stop\", or restart = true",
    };
    Some(text.to_owned())
}

fn free_cpus(machine: &Machine, facts: &MachineFacts) -> String {
    let taken = |cpu: &usize| {
        let all = machine.partitions.iter().flat_map(|p| &p.cpus);
        all.into_iter().any(|given| usize::from(*given) == *cpu)
    };
    let free: Vec<_> = (0..facts.cpus).filter(|cpu| !taken(cpu)).collect();
    let list: Vec<_> = free.iter().take(8).map(usize::to_string).collect();
    match list.is_empty() {
        true => "each CPU runs one vCPU, and none is free".to_owned(),
        false => format!("each CPU runs one vCPU; free: {}", list.join(", ")),
    }
}

fn ranges(start: &str, facts: &MachineFacts) -> String {
    let list: Vec<_> = facts
        .memory
        .iter()
        .map(|range| format!("{}..{}", range.base, range.end()))
        .collect();
    format!("{start} {}", list.join(", "))
}

fn payloads(facts: &MachineFacts) -> String {
    let names: Vec<_> = files::payloads(facts.platform).into_iter().collect();
    names.join(", ")
}

fn missing_file(problem: &Problem, facts: &MachineFacts) -> String {
    match problem.at.steps().last() {
        Some(Step::Key("payload")) => {
            format!("small guests are {}; a path has a `/`", payloads(facts))
        }
        _ => format!(
            "paths count from the configuration's folder; `{}` and `{}` are what set-up fetches",
            files::DEBIAN_KERNEL,
            files::DEBIAN_SHELL
        ),
    }
}

fn known_devices(problem: &Problem, machine: &Machine, facts: &MachineFacts) -> String {
    let wanted = device(problem, machine);
    if let Some(DeviceAddress::Path(path)) = wanted {
        return known_nodes(path, facts);
    }
    let usable: Vec<String> = facts
        .functions
        .iter()
        .filter(|function| !function.bridge)
        .map(|function| function.address.to_string())
        .collect();
    let wanted = wanted.map(DeviceAddress::to_string);
    let near = wanted.and_then(|w| nearest(&w, usable.iter().map(String::as_str)));
    let known = match (near, usable.is_empty()) {
        (Some(near), _) if usable.len() > 6 => format!("did you mean {near}?"),
        (_, false) => format!("the machine has {}", usable.join(", ")),
        (_, true) => "the machine has no device that can be assigned".to_owned(),
    };
    match virtuals(facts).as_slice() {
        [] => known,
        list => format!(
            "{known}; [[machine.sriov]] adds virtual functions of {}",
            list.join(", ")
        ),
    }
}

/// Functions that can have virtual functions, and how many.
fn virtuals(facts: &MachineFacts) -> Vec<String> {
    let with = facts.functions.iter().filter(|function| function.vfs != 0);
    with.map(|function| format!("{} ({})", function.address, function.vfs))
        .collect()
}

fn known_sriov(facts: &MachineFacts) -> String {
    match virtuals(facts).as_slice() {
        [] => {
            "no function of the machine can have any; QEMU's `nvme` needs sriov_max_vfs".to_owned()
        }
        list => format!("functions that can: {}", list.join(", ")),
    }
}

fn known_nodes(path: &str, facts: &MachineFacts) -> String {
    if facts.nodes.is_empty() {
        return "nodes are known from the machine's device tree: say `dtb = \"FILE\"`".to_owned();
    }
    match nearest(path, facts.nodes.iter().map(|node| &*node.path)) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            "give the full path of a node, such as \"/soc/serial@1000\"; QEMU's second UART needs \
                 `serials = [\"null\"]`"
                .to_owned()
        }
    }
}

/// The file that a problem is about, and its key.
fn file<'m>(problem: &Problem, machine: &'m Machine) -> Option<(&'m str, &'static str)> {
    let steps: Vec<Step> = problem.at.steps().collect();
    let [_, Step::Index(partition), Step::Key(key)] = steps[..] else {
        return None;
    };
    let partition = machine.partitions.get(partition)?;
    let name = match key {
        "kernel" => &partition.kernel,
        "payload" => &partition.payload,
        "initrd" => &partition.initrd,
        _ => return None,
    };
    Some((name.as_deref()?, key))
}

/// The address of the device that a problem is about.
fn device<'m>(problem: &Problem, machine: &'m Machine) -> Option<&'m DeviceAddress> {
    let steps: Vec<Step> = problem.at.steps().collect();
    match steps[..] {
        [_, Step::Index(partition), _, Step::Index(device), ..] => {
            let partition = machine.partitions.get(partition)?;
            Some(&partition.devices.get(device)?.address)
        }
        _ => None,
    }
}

fn free_guest_address(problem: &Problem, machine: &Machine) -> Option<String> {
    let Some(Step::Index(partition)) = problem.at.steps().nth(1) else {
        return None;
    };
    let devices = &machine.partitions.get(partition)?.devices;
    let taken = guest_addresses(devices);
    let mut numbers = 1..32;
    let is_taken = |number: u8| taken.iter().flatten().any(|a| a.device == number);
    Some(match numbers.find(|number| !is_taken(*number)) {
        Some(free) => format!("00:{free:02x}.0 is free"),
        None => "use functions 1 to 7 of a device number".to_owned(),
    })
}
