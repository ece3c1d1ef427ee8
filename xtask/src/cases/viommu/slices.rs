//! Guests whose disks are behind two SMMUs.

use super::trace::{self, Trace};
use super::{
    Context, Layout, Linux, MIB, RUN_LIMIT, Result, answer, answers, ensure, lines, random, sha256,
};

/// How many SMMUs there are, and what is on each disk, by its serial number.
const EACH: &str = "
want=$(tr ' ' '\\n' < /proc/cmdline | sed -n 's/^disks=//p')
await '[ $(ls /dev | grep -c \"nvme.n1$\") -ge $want ]'
key iort $(ls /sys/firmware/acpi/tables 2>/dev/null | grep -c IORT)
key smmus $(ls /sys/class/iommu | wc -l)
key domains \"$(cat /sys/kernel/iommu_groups/*/type | tr '\\n' ' ')\"
for at in /sys/class/nvme/*; do
  disk=/dev/${at##*/}n1
  key disk \"$(cat $at/serial) $(part 0 16 | sum)\"
done
";

/// Two SMMUs, which QEMU describes by ACPI only: one before pcie.0, one before an expander.
const BEHIND_TWO: [&str; 8] = [
    "arm-smmuv3,primary-bus=pcie.0,stage=nested",
    "pxb-pcie,id=pcie.1,bus=pcie.0,bus_nr=8",
    "arm-smmuv3,primary-bus=pcie.1,stage=nested",
    "pcie-root-port,id=rp1,bus=pcie.1,chassis=2",
    "pcie-root-port,id=rp2,bus=pcie.1,chassis=3",
    "nvme,bus=pcie.0,addr=02.0,drive=a,serial=a",
    "nvme,drive=b,serial=b,bus=rp1",
    "nvme,drive=c,serial=c,bus=rp2",
];

/// Started by EDK2 on a machine with two SMMUs: a guest with a disk behind each sees two, a slice each, on one stage 2;
/// its neighbour, whose disk is behind the second, sees one.
pub fn two_smmus_are_two_slices(context: &Context) -> Result<()> {
    on_two_smmus(context, "device-tree", "0")
}

/// The same for a guest that is told of them by its IORT; its neighbour has a device tree.
pub fn two_smmus_are_probed_from_acpi(context: &Context) -> Result<()> {
    on_two_smmus(context, "acpi", "1")
}

fn on_two_smmus(context: &Context, tables: &str, iort: &str) -> Result<()> {
    let mut sums = Vec::new();
    for name in ["a", "b", "c"] {
        let data = random(16 * MIB)?;
        context.file(&format!("{name}.img"), &data)?;
        sums.push(format!("{name} {}", sha256(&data)?));
    }
    crate::cases::linux::initial_disk(context, EACH)?;
    let both = Linux {
        name: "both",
        cmdline: "disks=2",
        functions: &["00:02.0", "09:00.0"],
        tables,
        ..Linux::default()
    };
    let one = Linux {
        name: "one",
        cpus: &[1],
        cmdline: "disks=1",
        functions: &["0a:00.0"],
        ..Linux::default()
    };
    let layout = Layout::with_own_smmus(&BEHIND_TWO).linux(&both).linux(&one);
    let mut machine = context.pack(&layout.text())?;
    crate::cases::boot::by_uefi(&mut machine)?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    for (who, iort, smmus, disks) in [
        ("both", iort, "2", &sums[..2]),
        ("one", "0", "1", &sums[2..]),
    ] {
        ensure!(answer(&console, who, "iort")? == iort, "{who}");
        ensure!(answer(&console, who, "smmus")? == smmus, "{who}");
        let domains = answer(&console, who, "domains")?;
        ensure!(
            domains.split_whitespace().all(|domain| domain == "DMA"),
            "{who}: {domains}"
        );
        let mut read: Vec<_> = answers(&console, who, "disk");
        read.sort_unstable();
        let read: Vec<String> = read
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        ensure!(read == disks, "{who} read {read:?}");
        ensure!(lines::summary(&console, who)?.0 == 0);
    }
    let trace = Trace::parse(&guest.trace()?)?;
    context.note(&trace.agrees(&console, &["both", "one"], &[])?);
    Ok(())
}
