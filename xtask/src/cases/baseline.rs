//! QEMU and Linux without us: when one of these fails, no other machine test can tell anything.

use super::{Case, Context, case, sha256};
use crate::arch::Arch;
use crate::initrd::{self, Init};
use crate::qemu::{Boot, Machine};
use crate::setup::{kit, linux};
use anyhow::{Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[
    case(
        "baseline::control_socket_reads_memory",
        control_socket_reads_memory,
    ),
    case(
        "baseline::linux_alone_reads_a_disk_behind_the_smmu",
        linux_alone_reads_a_disk,
    ),
];

/// Linux as Debian ships it, at EL2, an NVMe disk behind QEMU's SMMU: its modules load and the data is the host's.
fn linux_alone_reads_a_disk(context: &Context) -> Result<()> {
    let linux = linux::linux(Arch::Aarch64)?;
    let words: Vec<u8> = (0..1_u32 << 18)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let disk = context.file("disk.img", &words)?;
    let script = "ls /sys/class/iommu | sed 's/^/iommu: /'\n\
                  sha256sum < /dev/nvme0n1 | sed 's/^/disk: /'";
    let initrd = context.file("initrd.cpio", &initrd::build(&linux, Init::Script(script))?)?;
    let mut machine = Machine::new(Boot::Kernel {
        image: linux.image,
        initrd: Some(initrd),
        append: Some("console=ttyAMA0 loglevel=4 panic=-1".into()),
    });
    machine.disks.push(("d".into(), disk));
    machine.devices.push("nvme,drive=d,serial=baseline".into());
    machine.trace.push("smmuv3_cmdq_opcode".into());
    let mut guest = context.start(&machine)?;
    guest.wait_line("iommu: smmu3", Duration::from_secs(120))?;
    let line = guest.wait_line("disk: ", Duration::from_secs(60))?;
    let expected = sha256(&words)?;
    ensure!(
        line.contains(&expected),
        "the guest read {line:?}, the host wrote {expected}"
    );
    guest.wait_off(Duration::from_secs(30))?;
    ensure!(
        guest.trace()?.contains("smmuv3_cmdq_opcode"),
        "QEMU's trace shows no command to the SMMU"
    );
    Ok(())
}

/// What the host lays into memory is what the machine has there, as its control socket shows it.
fn control_socket_reads_memory(context: &Context) -> Result<()> {
    const AT: u64 = 0x5000_0000;
    let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let machine = Machine::new(Boot::Firmware {
        bios: kit::firmware()?.u_boot,
        files: vec![(context.file("pattern", &bytes)?, AT)],
    });
    let guest = context.start(&machine)?;
    let mut monitor = guest.monitor()?;
    monitor.stop()?;
    ensure!(
        monitor.memory(AT, 4096)? == bytes,
        "memory differs from the file"
    );
    let word = monitor.human(&format!("xp /1xw {AT:#x}"))?;
    ensure!(
        word.trim_end().ends_with("0x03020100"),
        "`xp` answers {word:?}"
    );
    monitor.cont()
}
