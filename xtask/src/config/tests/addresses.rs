//! What QEMU's machine has at which address: functions behind bridges, virtual ones, nodes of its device tree.

use super::super::{Made, check_text, qemu};
use super::{changed, check, problems};
use kernel::config::Function;
use std::fs;

fn functions(devices: &[&str]) -> Vec<Function> {
    let devices: Vec<String> = devices.iter().map(|d| (*d).to_owned()).collect();
    qemu::functions(&devices, &[], true).unwrap()
}

/// Address, StreamIDs and group of each function.
fn identities(devices: &[&str]) -> Vec<(String, Vec<u32>, u32)> {
    functions(devices)
        .into_iter()
        .skip(1)
        .map(|f| {
            let ids = f.streams.iter().map(|stream| stream.id.0).collect();
            (f.address.to_string(), ids, f.group)
        })
        .collect()
}

#[test]
fn buses_are_numbered_as_enumeration_does_it() {
    let found = identities(&[
        "pcie-root-port,id=second,addr=05.0",
        "pcie-root-port,id=first,addr=02.0",
        "nvme,bus=second",
        "nvme,bus=first",
        "nvme",
    ]);
    let addresses: Vec<_> = found.iter().map(|f| f.0.as_str()).collect();
    assert_eq!(
        addresses,
        ["00:05.0", "00:02.0", "02:00.0", "01:00.0", "00:01.0"]
    );
    // StreamID = requester ID; every function alone in its group.
    assert_eq!(found[2].1, [0x200]);
    let mut groups: Vec<_> = found.iter().map(|f| f.2).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len(), found.len());
}

#[test]
fn conventional_bridges_alias_and_join_what_is_behind_them() {
    let found = identities(&[
        "pcie-pci-bridge,id=a,addr=01.0",
        "edu,bus=a,addr=04.0",
        "pci-bridge,id=b,bus=a,addr=05.0,chassis_nr=1",
        "edu,bus=b,addr=01.0",
    ]);
    assert_eq!(found[1].0, "01:04.0");
    assert_eq!(found[1].1, [0x120, 0x08, 0x100]);
    assert_eq!(found[3].0, "02:01.0");
    assert_eq!(found[3].1, [0x208, 0x128, 0x08, 0x100]);
    assert!(found.iter().all(|f| f.2 == found[0].2));
}

#[test]
fn what_goes_around_the_smmu_has_no_stream() {
    let found = identities(&[
        "virtio-blk-pci,addr=01.0",
        "virtio-blk-pci,addr=02.0,iommu_platform=on,disable-legacy=on",
        "pxb-pcie,id=x,addr=03.0,bus_nr=64,bypass_iommu=on",
        "pcie-root-port,id=rp,bus=x,addr=00.0",
        "nvme,bus=rp",
    ]);
    assert!(found[0].1.is_empty());
    assert_eq!(found[1].1, [0x10]);
    assert_eq!(found[4].0, "41:00.0");
    assert!(found[4].1.is_empty());
}

/// [`GOOD`] with virtual functions: two of a second disk, one of which the first partition has instead of its own.
fn with_virtuals() -> String {
    let disk = "\"virtio-rng-pci,addr=07.0\", \"nvme-subsys,id=s\", \"nvme,addr=08.0,serial=s,subsys=s,sriov_max_vfs=3\"";
    changed("\"virtio-rng-pci,addr=07.0\"", disk)
        .replace(
            "\n[[partition]]\nname = \"a\"",
            "\n[[machine.sriov]]\naddress = \"00:08.0\"\nvfs = 2\n\n[[partition]]\nname = \"a\"",
        )
        .replace("\"00:03.0\"", "\"00:08.1\"")
}

#[test]
fn virtual_functions_are_known_by_their_addresses() {
    if let Err(report) = check(&with_virtuals()) {
        panic!("{}", report.render(false));
    }
    let show = |from: &str, to: &str| problems(&with_virtuals().replace(from, to)).render(false);
    let shown = show("\"00:08.1\"", "\"00:08.3\"");
    assert!(shown.contains("the machine has no such device"), "{shown}");
    assert!(shown.contains("26:11"), "{shown}");
    assert!(
        shown.contains("adds virtual functions of 00:06.0 (8), 00:06.1 (8), 00:08.0 (3)"),
        "{shown}"
    );
    let shown = show("vfs = 2", "vfs = 4");
    assert!(
        shown.contains("4 virtual functions, the function can have 3"),
        "{shown}"
    );
    assert!(shown.contains("use a number up to 3"), "{shown}");
    let shown = show("\"00:08.0\"\nvfs", "\"00:02.0\"\nvfs");
    assert!(
        shown.contains("the function can have no virtual functions"),
        "{shown}"
    );
    assert!(shown.contains("functions that can: 00:06.0 (8)"), "{shown}");
    // The physical function is another partition's.
    let shown = show("\"01:00.0\"", "\"00:08.0\"");
    assert!(shown.contains("say `manages_vfs = true` there"), "{shown}");
    let said = with_virtuals().replace("\"01:00.0\"", "\"00:08.0\"\nmanages_vfs = true");
    assert!(check(&said).is_ok());
    let shown = problems(
        &said
            .replace("[[machine.sriov]]\naddress = \"00:08.0\"\nvfs = 2", "")
            .replace("00:08.1", "00:03.0"),
    );
    assert!(
        shown
            .render(false)
            .contains("the device has no virtual functions")
    );
}

#[test]
fn virtual_functions_have_numbers_that_follow_their_physical_one() {
    let wanted = |address: &str, vfs| kernel::config::Sriov {
        address: address.parse().unwrap(),
        vfs,
    };
    let devices = [
        "pcie-root-port,id=a,addr=02.0",
        "igb,bus=a",
        // Past the end of its bus.
        "nvme,addr=1f.6,multifunction=on,sriov_max_vfs=4",
    ];
    let devices = devices.map(str::to_owned);
    let all = qemu::functions(
        &devices,
        &[wanted("00:1f.6", 4), wanted("02:00.0", 2)],
        true,
    );
    let all = all.unwrap();
    let found: Vec<_> = all[1..].iter().map(|it| it.address.to_string()).collect();
    let expected = [
        "00:02.0", "02:00.0", "02:10.0", "02:10.2", "00:1f.6", "00:1f.7", "01:00.0", "01:00.1",
        "01:00.2",
    ];
    assert_eq!(found, expected);
    for vf in all.iter().filter(|it| it.physical.is_some()) {
        assert_eq!(vf.streams[0].id.0, u32::from(vf.address.requester_id()));
        assert_eq!(all.iter().filter(|it| it.group == vf.group).count(), 1);
    }
}

/// [`GOOD`] on a QEMU with a second UART, which the first partition has instead of its disk.
fn with_uart() -> String {
    changed("cpus = 4", "cpus = 4\nserials = [\"null\"]").replace(
        "\"00:03.0\"",
        "\"/pl011@9040000\"\nreset = \"best-effort\"\ndma = false",
    )
}

#[test]
fn a_node_can_be_given_and_a_wrong_path_is_answered_with_the_right_one() {
    if let Err(report) = check(&with_uart()) {
        panic!("{}", report.render(false));
    }
    let shown = problems(&with_uart().replace("/pl011@9040000", "/pl011@9040001")).render(false);
    assert!(shown.contains("did you mean /pl011@9040000?"), "{shown}");
}

#[test]
fn two_partitions_cannot_have_one_page() {
    let virtio = |n: u32| format!("\"/virtio_mmio@a000{n}00\"\nreset = \"best-effort\"");
    let text = changed("\"00:03.0\"", &virtio(0)).replace("\"01:00.0\"", &virtio(2));
    let report = problems(&text);
    let shares =
        |finding: &&crate::config::report::Finding| finding.message.contains("shares the page");
    let found: Vec<_> = report.findings.iter().filter(shares).collect();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|finding| finding.other.is_some()));
}

#[test]
fn nodes_are_those_of_the_device_tree_that_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let tree = include_bytes!("../qemu-virt.dtb");
    fs::write(dir.path().join("m.dtb"), tree).unwrap();
    let board = r#"
[machine]
name = "board"
[machine.board]
cpus = 1
memory = [{ base = 0x4000_0000, size = "512M" }]
dtb = "m.dtb"
[[partition]]
name = "p"
memory = "64M"
cpus = [0]
payload = "canary"
[[partition.device]]
address = "/pl031@9010000"
reset = "best-effort"
dma = false
"#;
    let check = |text: String| {
        check_text(
            "m.toml",
            text,
            dir.path(),
            &Made::new(),
            crate::arch::Arch::Aarch64,
        )
    };
    if let Err(report) = check(board.to_owned()) {
        panic!("{}", report.render(false));
    }
    let unknown = check(board.replace("dtb = \"m.dtb\"\n", "")).expect_err("no node is known");
    let shown = unknown.render(false);
    assert!(shown.contains("say `dtb = \"FILE\"`"), "{shown}");
}
