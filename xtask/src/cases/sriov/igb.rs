//! Virtual functions of QEMU's `igb`, whose drivers need the physical function's: a small guest has that one.

use crate::arch::Arch;
use crate::cases::viommu::trace::{self, Trace};
use crate::cases::{Context, lines, linux};
use crate::qemu::Guest;
use anyhow::{Result, ensure};
use lines::{answer, answers};
use std::time::Duration;

const RUN_LIMIT: Duration = Duration::from_secs(300);
/// The machine's names of the two streams: 82576 VFs are 0x80 functions behind the physical one, and 2 from each other.
const STREAMS: [u64; 2] = [0x90, 0x92];
/// Bytes that go each way, in MiB.
const SENT: usize = 4;

const MACHINE: &str = "
[machine]
name = 'sriov-igb'
[machine.qemu]
memory = '1G'
cpus = 3
devices = ['igb,addr=02.0']
[[machine.sriov]]
address = '00:02.0'
vfs = 2
[[partition]]
name = 'manager'
memory = '32M'
cpus = [0]
payload = 'igb_manager'
cmdline = 'vfs=2'
[[partition.device]]
address = '00:02.0'
manages_vfs = true
";

const GUEST: &str = "
[[partition]]
name = 'NAME'
memory = '256M'
cpus = [CPU]
kernel = 'debian:kernel'
initrd = 'initrd.cpio'
cmdline = 'console=ttyAMA0 loglevel=4 own=OWN other=OTHER'
viommu = true
[[partition.device]]
address = 'FUNCTION'
guest = '00:01.0'
";

/// Both have their frames sent and received by their card; what the first made up comes back to it from the second. What is
/// on the command line is in the script's environment.
const SCRIPT: &str = r#"
functions
net=/sys/class/net/eth0
await '[ -d $net ]'
key mac $(cat $net/address)
ip link set eth0 up
ip addr add 10.0.0.$own/24 dev eth0
await '[ "$(cat $net/carrier)" = 1 ]'
there=10.0.0.$other
# What listens ends with its input, which this has no end of.
mkfifo /tmp/endless
exec 3<>/tmp/endless
if [ $own = 1 ]; then
  await 'ping -c 1 -W 1 $there > /dev/null'
  key ping "$(ping -c 5 $there | grep -o '[0-9]* packets received')"
  dd if=/dev/urandom of=/tmp/sent bs=1M count=MIB 2>/dev/null
  key sent $(sum < /tmp/sent)
  await 'nc $there 9 < /tmp/sent > /dev/null'
  nc -l -p 9 <&3 > /tmp/back
  key back $(sum < /tmp/back)
else
  nc -l -p 9 <&3 > /tmp/got
  key got $(sum < /tmp/got)
  await 'nc $there 9 < /tmp/got > /dev/null'
fi
key rx $(cat $net/statistics/rx_bytes)
key tx $(cat $net/statistics/tx_bytes)
grep eth0 /proc/interrupts | while read line; do key interrupt "$line"; done
key domain $(cat $net/device/iommu_group/type)
key faults $(dmesg | grep -c -e 'event 0x' -e 'DMAR: \[')
key end now
"#;

/// Two Linux with a virtual function each, behind SMMUs of their own, and the small guest that manages the card: what one
/// sends reaches the other and comes back, by DMA through both stages of two slices.
pub fn igb_s_functions_send_and_receive(context: &Context) -> Result<()> {
    initial_disk(context, Arch::Aarch64)?;
    let guest = |name, cpu, own, other, function| {
        GUEST
            .replace("NAME", name)
            .replace("CPU", cpu)
            .replace("OWN", own)
            .replace("OTHER", other)
            .replace("FUNCTION", function)
    };
    let text = [
        MACHINE,
        &guest("left", "1", "1", "2", "00:12.0"),
        &guest("right", "2", "2", "1", "00:12.2"),
    ];
    let mut machine = context.pack(&text.concat())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let mut guest = context.start(&machine)?;
    has_exchanged(&mut guest, "ITS-PCI-MSIX")?;
    let console = guest.console();
    let trace = Trace::parse(&guest.trace()?)?;
    // A VMID each; the third that was ever invalidated is the manager's, whose function did nothing.
    let [left, right] = STREAMS.map(|stream| trace.vmid(stream));
    let (left, right) = (left?, right?);
    let told = &trace.invalidated;
    ensure!(
        left != right && trace.nested.len() == 2 && told.len() == 3,
        "VMIDs {:?} were cached, {told:?} invalidated",
        trace.nested
    );
    ensure!(told.contains(&left) && told.contains(&right));
    context.note(&trace.agrees(&console, &["left", "right"], &["manager"])?);
    context.note(&format!(
        "{} transactions of two virtual functions through both stages, {} past one of them",
        trace.both, trace.single
    ));
    Ok(())
}

/// That of both Linux.
pub fn initial_disk(context: &Context, arch: Arch) -> Result<()> {
    linux::network_disk(context, arch, &SCRIPT.replace("MIB", &SENT.to_string()))
}

/// Waits for the end of a machine of `left`, `right` and `manager`, and for what they have to say; of messages, that they are
/// such `interrupts`.
pub fn has_exchanged(guest: &mut Guest, interrupts: &str) -> Result<()> {
    guest.wait_all(&["[left] end=now;", "[right] end=now;"], RUN_LIMIT)?;
    // The manager has the input.
    guest.send(".")?;
    guest.wait_off(RUN_LIMIT)?;
    let console = &guest.console();
    lines::passed(console, "manager")?;
    let (sent, back) = (
        answer(console, "left", "sent")?,
        answer(console, "left", "back")?,
    );
    let got = answer(console, "right", "got")?;
    ensure!(sent.len() == 64, "no checksum: {sent}");
    ensure!(got == sent && back == sent, "{sent} sent, {got}, {back}");
    ensure!(answer(console, "left", "ping")? == "5 packets received");
    for (who, address) in [
        ("left", "02:53:4c:55:49:01"),
        ("right", "02:53:4c:55:49:02"),
    ] {
        let of = |key| answer(console, who, key);
        // What the manager gave it.
        ensure!(of("mac")? == address, "{who}: {}", of("mac")?);
        ensure!(of("domain")? == "DMA" && of("faults")? == "0", "{who}");
        for way in ["rx", "tx"] {
            let bytes = lines::number(of(way)?)?;
            ensure!(bytes >= (SENT << 20) as u64, "{who}: {bytes} bytes {way}");
        }
        // Its own function alone: a network card (02.00.00), as every VF of this kind.
        let mut functions = answers(console, who, "pci");
        functions.retain(|function| !function.contains(" 0x06"));
        ensure!(
            functions == ["0000:00:01.0 0x020000"],
            "{who}: {functions:?}"
        );
        let taken = answers(console, who, "interrupt");
        ensure!(
            !taken.is_empty() && taken.iter().all(|line| line.contains(interrupts)),
            "{who}: {taken:?}"
        );
        ensure!(lines::summary(console, who)?.0 == 0, "DMA of {who}");
    }
    for other in ["manager", "nobody"] {
        ensure!(lines::summary(console, other)?.0 == 0, "DMA of {other}");
    }
    Ok(())
}
