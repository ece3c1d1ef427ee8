//! Configurations for x86_64: rules that hold there too, with a PC's places, and what there is on AArch64 alone.

use super::super::{Checked, Made, Report, check_text};
use super::Case;
use crate::arch::Arch;
use std::fs;
use std::sync::LazyLock;
use tempfile::TempDir;

/// A configuration without a fault. The cases below count its lines.
const GOOD: &str = r#"[machine]
name = "pc"

[machine.qemu]
memory = "6G"
cpus = 3
devices = ["nvme,addr=03.0", "nvme,addr=04.0", "virtio-rng-pci,addr=05.0"]

[[partition]]
name = "a"
memory = "4G"
cpus = [0]
payload = "hello"

[[partition.device]]
address = "00:03.0"

[[partition.dma_window]]
base = 0x1_0000_0000
size = "1M"

[[partition]]
name = "b"
memory = "64M"
cpus = [1, 2]
kernel = "bzImage"
cmdline = "quiet"

[[partition.device]]
address = "00:04.0"
"#;

#[rustfmt::skip]
const CASES: &[Case] = &[
    // The machine.
    ("cpus = 3", "cpus = 3\ndtb = \"raw\"", "7:7", "a machine with x86_64 has no device tree"),
    ("cpus = 3", "cpus = 3\nserials = [\"null\"]", "7:11", "a second UART could not be given away on x86_64"),
    ("\"nvme,addr=04.0\"", "\"nvme,addr=04.0\", \"edu,addr=1f.1\"", "7:11", "slot 1f of QEMU's `q35` is its chipset's"),
    // Names, CPUs, memory.
    ("name = \"b\"", "name = \"a\"", "23:8", "two partitions have one name"),
    ("cpus = [1, 2]", "cpus = [1, 3]", "25:12", "CPU 3 does not exist, the machine has 3"),
    ("cpus = [1, 2]", "cpus = [1, 0]", "25:12", "CPU 0 is given twice"),
    ("cpus = [1, 2]", "cpus = []", "25:8", "the partition has no CPU"),
    ("memory = \"64M\"", "memory = \"63M\"", "24:10", "63 MiB of memory is not a multiple of 2 MiB"),
    ("memory = \"64M\"", "memory = \"2G\"", "24:10", "the partitions need 6 GiB of memory"),
    ("memory = \"64M\"", "memory = \"262144G\"", "24:10", "262144 GiB of memory, a guest can have at most 262143 GiB"),
    ("memory = \"4G\"", "memory = \"5G\"", "11:10", "no free range of memory has 5 GiB"),
    // Guests.
    ("payload = \"hello\"", "", "9:1", "the partition has neither `kernel` nor `payload`"),
    ("payload = \"hello\"", "payload = \"clock\"", "13:11", "there is no small guest `clock`"),
    ("kernel = \"bzImage\"", "kernel = \"none\"", "26:10", "there is no file `none`"),
    ("kernel = \"bzImage\"", "kernel = \"debian:kernel-16k\"", "26:10", "there is no file `debian:kernel-16k`"),
    ("kernel = \"bzImage\"", "kernel = \"empty\"", "26:10", "the file is empty"),
    ("kernel = \"bzImage\"", "kernel = \"Image\"", "26:10", "the kernel is neither a bzImage nor an ELF program"),
    ("kernel = \"bzImage\"", "kernel = \"old\"", "26:10", "boot protocol 0x20b is older than 2.12"),
    ("memory = \"64M\"", "memory = \"2M\"", "24:10", "the bzImage has no room where it has to be"),
    // Devices.
    ("\"00:04.0\"", "\"00:03.0\"", "30:11", "the device is given twice"),
    ("\"00:04.0\"", "\"00:06.0\"", "30:11", "the machine has no such device"),
    ("\"00:04.0\"", "\"00:05.0\"", "30:11", "the device stands behind no VT-d unit"),
    ("\"00:04.0\"", "\"00:1f.0\"", "30:11", "the device is a bridge"),
    ("\"00:04.0\"", "\"00:1f.2\"", "30:11", "the device cannot be reset"),
    ("\"00:04.0\"", "\"00:04.0\"\nguest = \"01:01.0\"", "31:9", "guest address 01:01.0 is not on bus 0"),
    // DMA windows.
    ("base = 0x1_0000_0000", "base = 0xbfff_f000", "20:8", "DMA window 0xbffff000..0xc00ff000 is not all in the partition's RAM, 0x0..0xc0000000"),
    ("base = 0x1_0000_0000", "base = 0xc000_0000", "19:8", "is not all in the partition's RAM, 0x0..0xc0000000"),
    ("base = 0x1_0000_0000", "base = 0x1_4000_0000", "19:8", "is not all in the partition's RAM, 0x100000000..0x140000000"),
    ("base = 0x1_0000_0000", "base = 0x800", "19:8", "0x800 is not a multiple of 4 KiB"),
    // What is not there.
    ("cmdline = \"quiet\"", "tables = \"acpi\"", "27:10", "a choice of `tables` is not there on x86_64 yet"),
    ("cmdline = \"quiet\"", "base = 0x4000_0000", "27:8", "`base` is not there on x86_64 yet"),
    ("\"00:04.0\"", "\"/pl031@9010000\"", "30:11", "a device of a device tree is not there on x86_64 yet"),
    // Policies.
    ("cmdline = \"quiet\"", "on_fault = { threshold = 0 }", "27:26", "a threshold of 0 faults"),
];

/// A kernel image of a boot protocol's version, as far as its header says (Linux `Documentation/arch/x86/boot.rst`).
fn bzimage(version: u16) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x201] = 0x6a;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    // relocatable_kernel, xloadflags with XLF_KERNEL_64, cmdline_size.
    image[0x234] = 1;
    image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    image[0x236] = 3;
    image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x20_0000u32.to_le_bytes());
    image
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("bzImage", &bzimage(0x20c)),
        ("old", &bzimage(0x20b)),
        ("Image", &[0; 0x1000]),
        ("empty", b""),
    ];
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn check(text: &str) -> Result<Checked, Report> {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);
    let (folder, made) = (FOLDER.path(), Made::new());
    check_text("pc.toml", text.to_owned(), folder, &made, Arch::X86_64)
}

#[test]
fn the_configuration_without_a_fault_is_accepted() {
    if let Err(report) = check(GOOD) {
        panic!("{}", report.render(false));
    }
}

#[test]
fn every_malformed_configuration_is_refused_at_its_fault() {
    let mut wrong = String::new();
    for (from, to, place, message) in CASES {
        assert!(GOOD.contains(from), "{from:?}");
        let Err(report) = check(&GOOD.replacen(from, to, 1)) else {
            wrong += &format!("{to:?}: accepted\n");
            continue;
        };
        let shown = report.render(false);
        let title = shown.lines().next().unwrap_or_default();
        let expected = format!("--> pc.toml:{place}\n");
        if !title.contains(message) || !shown.contains(&expected) || report.findings.len() != 1 {
            wrong += &format!("{to:?}: expected {place} {message:?}, found\n{shown}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn functions_that_share_a_source_go_to_one_partition() {
    let text = GOOD
        .replace(
            "\"nvme,addr=04.0\"",
            "\"pcie-pci-bridge,id=cb,addr=04.0\", \"edu,bus=cb,addr=01.0\", \"edu,bus=cb,addr=02.0\"",
        )
        .replace("\"00:03.0\"", "\"01:01.0\"\nreset = \"best-effort\"")
        .replace("\"00:04.0\"", "\"01:02.0\"\nreset = \"best-effort\"");
    let report = check(&text).expect_err("two owners of one source");
    assert_eq!(
        report.findings[0].message,
        "the device shares source 0x20 of VT-d unit 0 with another partition's"
    );
    assert_eq!(report.position(report.findings[0].span.start), (31, 11));
}

#[test]
fn a_machine_that_is_not_described_is_checked_without_its_hardware() {
    let start = GOOD.find("[machine.qemu]").unwrap();
    let end = GOOD.find("[[partition]]").unwrap();
    let text = format!("{}{}", &GOOD[..start], &GOOD[end..]);
    if let Err(report) = check(&text) {
        panic!("{}", report.render(false));
    }
    let report = check(&text.replace("cpus = [1, 2]", "cpus = [1, 0]"));
    let report = report.expect_err("a CPU for two");
    assert_eq!(report.findings[0].message, "CPU 0 is given twice");
}
