//! Malformed configurations, each refused with the message that names its fault at the right line and column.

mod addresses;
mod x86_64;

use super::{Checked, Made, Report, check_text};
use crate::arch::Arch;
use std::fs;
use std::sync::LazyLock;
use tempfile::TempDir;

/// A configuration without a fault. The cases below count its lines.
const GOOD: &str = r#"[machine]
name = "m"

[machine.qemu]
memory = "1G"
cpus = 4
devices = [
  "edu,addr=02.0", "nvme,addr=03.0,drive=d",
  "pcie-root-port,id=rp,addr=04.0", "nvme,bus=rp",
  "pcie-pci-bridge,id=cb,addr=05.0", "edu,bus=cb,addr=01.0", "edu,bus=cb,addr=02.0",
  "igb,addr=06.0,multifunction=on", "igb,addr=06.1", "virtio-rng-pci,addr=07.0",
]
disk = [{ id = "d", size = "1M" }]

[[partition]]
name = "a"
memory = "64M"
cpus = [0]
payload = "canary"

[[partition.device]]
address = "00:03.0"

[[partition.dma_window]]
base = 0x4000_0000
size = "1M"

[[partition]]
name = "b"
memory = "64M"
cpus = [1]
kernel = "Image"
initrd = "initrd"
cmdline = "quiet"

[[partition.device]]
address = "01:00.0"
"#;

/// What is replaced in [`GOOD`], by what, where the fault is shown, and what the message says.
type Case = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Form.
    ("name = \"m\"", "name = \"m", "2:10", "invalid basic string"),
    ("[machine.qemu]", "[machine.qemu", "4:14", "unclosed table"),
    ("cpus = [0]", "cpus = [0", "19:1", "missing comma between array elements"),
    ("cpus = 4", "cpus = 4\ncpus = 4", "7:1", "duplicate key"),
    ("cpus = 4", "cpus = 4\ncpu = 4", "7:7", "invalid type: integer `4`, expected a string"),
    ("cpus = 4\n", "", "4:1", "the key `cpus` is missing"),
    ("cpus = 4", "cpus = -4", "6:8", "invalid value: integer `-4`, expected u16"),
    ("payload = ", "payloda = ", "19:1", "unknown key `payloda`"),
    ("[[partition.dma_window]]", "[[partition.window]]", "24:13", "unknown key `window`"),
    ("memory = \"64M\"\ncpus = [0]", "cpus = [0]", "15:1", "the key `memory` is missing"),
    ("name = \"a\"\n", "", "15:1", "the key `name` is missing"),
    ("cpus = [0]", "cpus = [\"0\"]", "18:9", "invalid type: string \"0\", expected u16"),
    ("cpus = [0]", "cpus = 0", "18:8", "invalid type: integer `0`, expected a sequence"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"64Q\"\ncpus = [0]", "17:10", "unknown suffix `Q`"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"M\"\ncpus = [0]", "17:10", "not a number of bytes"),
    ("memory = \"64M\"\ncpus = [0]", "memory = -1\ncpus = [0]", "17:10", "a number of bytes cannot be negative"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"99999999999G\"\ncpus = [0]", "17:10", "number does not fit 64 bits"),
    ("memory = \"64M\"\ncpus = [0]", "memory = 6.4\ncpus = [0]", "17:10", "expected a number of bytes"),
    ("\"00:03.0\"", "\"00:03\"", "22:11", "not a PCI address"),
    ("\"00:03.0\"", "\"00:20.0\"", "22:11", "PCI device number 0x20 is above 0x1f"),
    ("\"00:03.0\"", "\"00:03.8\"", "22:11", "PCI function number 8 is above 7"),
    ("\"00:03.0\"", "\"00:03.0\"\nreset = \"maybe\"", "23:9", "unknown variant `maybe`"),
    ("cpus = [0]", "cpus = [0]\non_fault = { action = \"panic\" }", "19:23", "unknown variant `panic`"),
    ("cpus = [0]", "cpus = [0]\non_fault = { acton = \"log\" }", "19:14", "unknown key `acton`"),
    ("cpus = [0]", "cpus = [0]\nautostart = 1", "19:13", "invalid type: integer `1`, expected a boolean"),
    // The machine.
    ("memory = \"1G\"", "memory = \"1048577K\"", "5:10", "QEMU cannot have 1048577 KiB of memory"),
    ("disk = [{ id = \"d\", size = \"1M\" }]", "", "8:20", "there is no disk `d`"),
    ("size = \"1M\" }]", "size = \"1M\", file = \"x\" }]", "13:9", "a disk needs `file` or `size`"),
    ("size = \"1M\" }]", "file = \"none.img\" }]", "13:28", "the disk image `none.img` does not exist"),
    ("{ id = \"d\", size = \"1M\" }", "{ id = \"d\", size = \"1M\" }, { id = \"d\", size = \"1M\" }", "13:43", "two disks have the id `d`"),
    ("\"nvme,bus=rp\"", "\"nvme,bus=rq\"", "9:37", "no earlier device makes the bus `rq`"),
    ("\"igb,addr=06.1\"", "\"igb,addr=03.0\"", "11:37", "slot 3.0 of its bus is taken"),
    ("\"igb,addr=06.1\"", "\"igb,addr=3x\"", "11:37", "`addr=3x` is no slot"),
    // Names.
    ("name = \"a\"", "name = \"\"", "16:8", "the name is empty"),
    ("name = \"a\"", "name = \"a b\"", "16:8", "the name contains ' '"),
    ("name = \"a\"", "name = \"abcdefghijklmnopqrstuvwxyz-0123456\"", "16:8", "the name has 34 bytes"),
    ("name = \"b\"", "name = \"a\"", "29:8", "two partitions have one name"),
    ("name = \"m\"", "name = \"m/n\"", "2:8", "the name contains '/'"),
    // CPUs.
    ("cpus = [0]", "cpus = []", "18:8", "the partition has no CPU"),
    ("cpus = [0]", "cpus = [0, 4]", "18:12", "CPU 4 does not exist, the machine has 4"),
    ("cpus = [0]", "cpus = [0, 0]", "18:12", "CPU 0 is given twice"),
    ("cpus = [1]", "cpus = [0]", "31:9", "CPU 0 is given twice"),
    // Memory.
    ("memory = \"64M\"\ncpus = [0]", "memory = 0\ncpus = [0]", "17:10", "the partition has no memory"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"63M\"\ncpus = [0]", "17:10", "63 MiB of memory is not a multiple of 2 MiB"),
    ("memory = \"64M\"\ncpus = [1]", "memory = \"1G\"\ncpus = [1]", "30:10", "the partitions need 1088 MiB of memory"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"512G\"\ncpus = [0]", "17:10", "512 GiB of memory, a guest can have at most 511 GiB"),
    ("cpus = [0]", "cpus = [0]\nbase = 0x5010_0000", "19:8", "base 0x50100000 is not 2 MiB aligned"),
    ("cpus = [0]", "cpus = [0]\nbase = 0x7fe0_0000", "19:8", "0x7fe00000..0x83e00000 is not all RAM of the machine"),
    ("cpus = [0]", "cpus = [0]\nbase = 0x4000_0000", "19:8", "the memory overlaps the reserved range 0x40000000.."),
    ("cpus = [0]", "cpus = [0]\nbase = 0x5000_0000\npayload = \"canary\"\n[[partition]]\nname = \"c\"\nmemory = \"64M\"\ncpus = [2]\nbase = 0x5200_0000", "25:8", "the memory 0x52000000..0x56000000 overlaps another partition's"),
    ("memory = \"64M\"\ncpus = [0]", "memory = \"512M\"\nbase = 0x5000_0000\ncpus = [0]\npayload = \"canary\"\n[[partition]]\nname = \"c\"\nmemory = \"300M\"\ncpus = [2]", "23:10", "no free range of memory has 300 MiB"),
    // Guests.
    ("payload = \"canary\"", "", "15:1", "the partition has neither `kernel` nor `payload`"),
    ("payload = \"canary\"", "payload = \"canary\"\ntables = \"acpi\"", "20:10", "only a `kernel` finds ACPI tables"),
    ("payload = \"canary\"", "payload = \"canary\"\ntables = \"smbios\"", "20:10", "unknown variant `smbios`, expected `device-tree` or `acpi`"),
    ("cmdline = \"quiet\"", "payload = \"canary\"", "34:11", "the partition has both `kernel` and `payload`"),
    ("kernel = \"Image\"", "payload = \"canary\"", "33:10", "`initrd` without `kernel`"),
    ("payload = \"canary\"", "payload = \"canari\"", "19:11", "there is no small guest `canari`"),
    ("kernel = \"Image\"", "kernel = \"Imago\"", "32:10", "there is no file `Imago`"),
    ("initrd = \"initrd\"", "initrd = \"sub/initrd\"", "33:10", "there is no file `sub/initrd`"),
    ("initrd = \"initrd\"", "initrd = \"empty\"", "33:10", "the file is empty"),
    ("kernel = \"Image\"", "kernel = \"gzip\"", "32:10", "the file is compressed with gzip"),
    ("kernel = \"Image\"", "kernel = \"initrd\"", "32:10", "the file is shorter than an arm64 Image header"),
    ("kernel = \"Image\"", "kernel = \"raw\"", "32:10", "the file is no arm64 Image"),
    ("kernel = \"Image\"", "kernel = \"big\"", "30:10", "kernel, initrd and 2 MiB for the device tree need"),
    ("cmdline = \"quiet\"", "cmdline = \"a\\nb\"", "34:11", "the command line contains '\\n'"),
    // Devices.
    ("\"00:03.0\"", "\"00:08.0\"", "22:11", "the machine has no such device"),
    ("\"00:03.0\"", "\"/soc/dma@1000\"", "22:11", "the machine has no such device"),
    ("\"01:00.0\"", "\"00:03.0\"", "37:11", "the device is given twice"),
    ("\"00:03.0\"", "\"00:04.0\"", "22:11", "the device is a bridge"),
    ("\"00:03.0\"", "\"00:00.0\"", "22:11", "the device is a bridge"),
    ("\"00:03.0\"", "\"00:02.0\"", "22:11", "the device cannot be reset"),
    ("\"00:03.0\"", "\"00:07.0\"", "22:11", "the device stands behind no SMMU"),
    ("\"nvme,addr=03.0,drive=d\"", "\"virtio-blk-pci,addr=03.0,drive=d\"", "22:11", "the device stands behind no SMMU"),
    ("\"00:03.0\"", "\"00:03.0\"\nguest = \"01:01.0\"", "23:9", "guest address 01:01.0 is not on bus 0"),
    ("\"00:03.0\"", "\"00:03.0\"\nguest = \"00:01.1\"", "23:9", "guest address 00:01.1 has no function 0"),
    ("\"00:03.0\"", "\"00:03.0\"\nguest = \"00:05.0\"\n[[partition.device]]\naddress = \"00:06.0\"\nguest = \"00:05.0\"", "26:9", "guest address 00:05.0 is given twice"),
    // Nodes of the device tree.
    ("cmdline = \"quiet\"", "cmdline = \"quiet\"\ntables = \"acpi\"\n[[partition.device]]\naddress = \"/pl031@9010000\"\nreset = \"best-effort\"\ndma = false", "37:11", "a device of the memory bus has no ACPI description"),
    ("\"00:03.0\"", "\"/pl031@9010000\"\nreset = \"best-effort\"", "22:11", "nothing says that it does no DMA (`dma = false`)"),
    ("\"00:03.0\"", "\"/pl031@9010000\"\ndma = false", "22:11", "the device cannot be reset"),
    ("\"00:03.0\"", "\"/pl031@9010000\"\nreset = \"best-effort\"\ndma = 0", "24:7", "invalid type: integer `0`, expected a boolean"),
    ("\"00:03.0\"", "\"/pl031@9010000\"\nreset = \"best-effort\"\ndma = false\nguest = \"00:01.0\"", "25:9", "has no PCI address in the guest"),
    ("\"00:03.0\"", "\"00:03.0\"\ndma = false", "23:7", "`dma = false`, but the device does DMA"),
    ("\"00:03.0\"", "\"/fw-cfg@9020000\"\nreset = \"best-effort\"\ndma = false", "24:7", "`dma = false`, but the device does DMA"),
    ("\"00:03.0\"", "\"/fw-cfg@9020000\"\nreset = \"best-effort\"", "22:11", "the device stands behind no SMMU"),
    ("\"00:03.0\"", "\"/pl011@9000000\"", "22:11", "the device is the hypervisor's own (console)"),
    ("\"00:03.0\"", "\"/intc@8000000\"", "22:11", "the device is the hypervisor's own (GIC)"),
    ("\"00:03.0\"", "\"/intc@8000000/its@8080000\"", "22:11", "the device is the hypervisor's own (ITS)"),
    ("\"00:03.0\"", "\"/smmuv3@9050000\"", "22:11", "the device is the hypervisor's own (SMMU)"),
    ("\"00:03.0\"", "\"/pcie@10000000\"", "22:11", "the device is the hypervisor's own (PCIe host)"),
    ("\"00:03.0\"", "\"/memory@40000000\"", "22:11", "the device is the hypervisor's own (memory)"),
    ("\"00:03.0\"", "\"/timer\"", "22:11", "the device has no registers that could be given away"),
    ("\"00:03.0\"", "\"/cpus/cpu@0\"", "22:11", "`ranges` in the device tree has no meaning here"),
    ("\"00:03.0\"", "\"/pl011@9040000\"", "22:11", "the machine has no such device"),
    ("cpus = 4", "cpus = 4\nserials = [\"null\", \"null\"]", "7:20", "QEMU's `virt` has one UART beside the console's"),
    ("cpus = 4", "cpus = 4\ndtb = \"raw\"", "7:7", "not a well-formed device tree"),
    ("cpus = 4", "cpus = 4\ndtb = \"none\"", "7:7", "the device tree `none` cannot be read"),
    // DMA windows.
    ("size = \"1M\"\n\n", "size = 0\n\n", "26:8", "the DMA window is empty"),
    ("base = 0x4000_0000", "base = 0x4000_0800", "25:8", "0x40000800 is not a multiple of 4 KiB"),
    ("size = \"1M\"\n\n", "size = \"65M\"\n\n", "26:8", "is not all in the partition's RAM"),
    ("base = 0x4000_0000", "base = 0x3fff_f000", "25:8", "is not all in the partition's RAM"),
    ("size = \"1M\"\n\n", "size = \"1M\"\n[[partition.dma_window]]\nbase = 0x400f_f000\nsize = \"4K\"\n\n", "27:1", "two DMA windows overlap"),
    // Policies.
    ("cpus = [0]", "cpus = [0]\non_fault = { threshold = 0 }", "19:26", "a threshold of 0 faults"),
    ("cpus = [0]", "cpus = [0]\nrestart = false\non_fault = { action = \"restart\" }", "20:23", "`on_fault` restarts a partition"),
];

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let image = |size: u64| {
        let mut image = [0; 64];
        image[16..24].copy_from_slice(&size.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    };
    let files: [(&str, &[u8]); 6] = [
        ("Image", &image(8 << 20)),
        ("big", &image(63 << 20)),
        ("initrd", b"070701"),
        ("empty", b""),
        ("gzip", &[0x1f, 0x8b, 8]),
        ("raw", &[0; 100]),
    ];
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn check(text: &str) -> Result<Checked, Report> {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);
    check_text(
        "m.toml",
        text.to_owned(),
        FOLDER.path(),
        &Made::new(),
        Arch::Aarch64,
    )
}

/// [`GOOD`] with one change.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?}");
    GOOD.replacen(from, to, 1)
}

fn problems(text: &str) -> Report {
    check(text).expect_err("a configuration with a fault")
}

#[test]
fn the_configuration_without_a_fault_is_accepted() {
    if let Err(report) = check(GOOD) {
        panic!("{}", report.render(false));
    }
}

#[test]
fn the_configurations_that_come_with_the_source_are_accepted() {
    let dir = crate::project::root().join("boot/configs");
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(files.len() >= 3);
    for path in files {
        // Virtual functions.
        let of_arm = path.ends_with("sriov.toml");
        for arch in Arch::ALL {
            if of_arm && arch == Arch::X86_64 {
                continue;
            }
            if let Err(report) = super::check(&path, &Made::new(), arch).unwrap() {
                panic!("{}: {}", arch.target(), report.render(false));
            }
        }
    }
}

#[test]
fn every_malformed_configuration_is_refused_at_its_fault() {
    assert!(CASES.len() >= 40);
    let mut wrong = String::new();
    for (from, to, place, message) in CASES {
        let report = problems(&changed(from, to));
        let shown = report.render(false);
        let title = shown.lines().next().unwrap_or_default();
        let expected = format!("--> m.toml:{place}\n");
        if !title.contains(message) || !shown.contains(&expected) || report.findings.len() != 1 {
            wrong += &format!("{to:?}: expected {place} {message:?}, found\n{shown}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_problems_are_reported_in_their_order() {
    let text = changed("name = \"a\"", "name = \"\"")
        .replace("cpus = [1]", "cpus = [9]")
        .replace("\"01:00.0\"", "\"01:01.0\"");
    let report = problems(&text);
    let places: Vec<_> = report.findings.iter().map(|f| f.span.start).collect();
    let lines: Vec<_> = places.iter().map(|at| report.position(*at).0).collect();
    assert_eq!(lines, [16, 31, 37]);
}

#[test]
fn errors_of_form_do_not_hide_each_other() {
    let text = changed("cpus = [0]", "cpus = [true, \"x\"]\nfoo = 1")
        .replace("memory = \"64M\"\n", "")
        .replace("\"01:00.0\"", "5");
    let report = problems(&text);
    let mut messages: Vec<_> = report.findings.iter().map(|f| f.message.as_str()).collect();
    messages.sort_unstable();
    assert_eq!(
        messages,
        [
            "invalid type: boolean `true`, expected u16",
            "invalid type: integer `5`, expected a PCI address, such as \"00:02.0\", or a device tree path",
            "invalid type: string \"x\", expected u16",
            "the key `memory` is missing",
            "the key `memory` is missing",
            "unknown key `foo`",
        ]
    );
}

#[test]
fn an_unknown_key_does_not_hide_a_broken_rule() {
    let text = changed("cpus = [0]", "cpus = [7]\ncolour = 1");
    let report = problems(&text);
    let messages: Vec<_> = report.findings.iter().map(|f| &f.message).collect();
    assert_eq!(
        messages,
        [
            "CPU 7 does not exist, the machine has 4",
            "unknown key `colour`"
        ]
    );
}

#[test]
fn two_places_that_collide_are_both_shown_with_a_hint() {
    let shown = problems(&changed("\"01:00.0\"", "\"00:03.0\"")).render(false);
    for part in [
        "error: the device is given twice",
        "--> m.toml:37:11",
        "22 | address = \"00:03.0\"",
        "--------- given here first",
        "37 | address = \"00:03.0\"",
        "^^^^^^^^^ given again here",
        "= help: a device belongs to one partition",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
}

#[test]
fn a_misspelt_key_is_answered_with_the_right_one() {
    let shown = problems(&changed("payload = ", "paylod = ")).render(false);
    assert!(shown.contains("= help: did you mean `payload`?"), "{shown}");
}

#[test]
fn functions_that_share_a_stream_or_a_group_go_to_one_partition() {
    let split = |first: &str, second: &str| {
        let reset = "\nreset = \"best-effort\"";
        changed("\"00:03.0\"", &format!("\"{first}\"{reset}"))
            .replace("\"01:00.0\"", &format!("\"{second}\"{reset}"))
    };
    // Behind the conventional bridge, all requests carry one ID.
    let report = problems(&split("02:01.0", "02:02.0"));
    assert_eq!(
        report.findings[0].message,
        "the device shares StreamID 0x28 of SMMU 0 with another partition's"
    );
    assert_eq!(report.position(report.findings[0].span.start), (38, 11));
    // One device with two functions and no ACS.
    let report = problems(&split("00:06.0", "00:06.1"));
    let message = &report.findings[0].message;
    assert!(
        message.starts_with("the device shares isolation group"),
        "{message}"
    );
    let both = "\"02:01.0\"\nreset = \"best-effort\"\n\n[[partition.device]]\naddress = \"02:02.0\"\nreset = \"best-effort\"";
    assert!(check(&changed("\"00:03.0\"", both)).is_ok());
}

#[test]
fn long_command_lines_and_many_windows_are_refused() {
    let long = format!("cmdline = \"{}\"", "x".repeat(2048));
    let report = problems(&changed("cmdline = \"quiet\"", &long));
    assert!(report.findings[0].message.contains("2048 bytes"));
    let fits = format!("cmdline = \"{}\"", "x".repeat(2047));
    assert!(check(&changed("cmdline = \"quiet\"", &fits)).is_ok());

    let mut windows = String::from("size = \"1M\"\n");
    for i in 1..17 {
        let base = 0x4000_0000 + i * 0x10_0000;
        windows += &format!("[[partition.dma_window]]\nbase = {base}\nsize = \"1M\"\n");
    }
    let report = problems(&changed("size = \"1M\"\n\n", &windows));
    assert!(report.findings[0].message.contains("17 DMA windows"));
}

#[test]
fn a_machine_without_description_or_partition_is_refused() {
    let report = problems("[machine]\nname = \"m\"\n");
    let messages: Vec<_> = report.findings.iter().map(|f| &f.message).collect();
    assert_eq!(
        messages,
        ["the machine is not described", "there is no partition"]
    );
}

#[test]
fn a_board_is_checked_like_any_machine() {
    let board = r#"
[machine]
name = "board"

[machine.board]
cpus = 2
memory = [{ base = 0x8000_0000, size = "512M" }]

[[machine.board.function]]
address = "0001:01:00.0"
stream = 0x100
resettable = true

[[machine.board.function]]
address = "0001:02:00.0"
resettable = true

[[partition]]
name = "p"
memory = "128M"
base = 0x9000_0000
cpus = [0, 1]
payload = "canary"

[[partition.device]]
address = "0001:01:00.0"
"#;
    assert!(check(board).is_ok());
    let (described, assigned) = board.split_at(board.len() - 30);
    let other = format!(
        "{described}{}",
        assigned.replace("0001:01:00.0", "0001:02:00.0")
    );
    assert_eq!(
        problems(&other).findings[0].message,
        "the device stands behind no SMMU"
    );
    let unprotected = board.replace("stream = 0x100\n", "");
    let report = problems(&unprotected);
    assert_eq!(
        report.findings[0].message,
        "the device stands behind no SMMU"
    );
    let outside = board.replace("0x9000_0000", "0x9f00_0000");
    assert_eq!(
        problems(&outside).findings[0].message,
        "0x9f000000..0xa7000000 is not all RAM of the machine"
    );
}

#[test]
fn every_cut_of_a_configuration_is_refused_or_accepted_without_a_panic() {
    for len in 0..GOOD.len() {
        if let Err(report) = check(&GOOD[..len]) {
            assert!(!report.findings.is_empty());
            assert!(!report.render(false).is_empty());
        }
    }
}

#[test]
fn every_changed_byte_is_refused_or_accepted_without_a_panic() {
    for at in 0..GOOD.len() {
        for byte in ["\"", "]", "é", "0"] {
            let text = format!("{}{byte}{}", &GOOD[..at], &GOOD[at + 1..]);
            if let Err(report) = check(&text) {
                assert!(!report.render(false).is_empty());
            }
        }
    }
}
