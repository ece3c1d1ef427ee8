//! Devices of the memory bus in partitions, by their path in the device tree. QEMU's `virt` has none that does DMA behind
//! its SMMU: what is seen of DMA is seen with PCI functions; here it is registers, interrupts, and stream table entries.

use super::layout::{Layout, Small};
use super::lines::{self, answer, answers};
use super::stream_table::{self, Config};
use super::{Case, Context, case};
use crate::arch::Arch;
use crate::config::tree;
use crate::initrd::{self, DRAIN, Init};
use crate::setup::linux;
use anyhow::{Context as _, Result, ensure};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use kernel::config::MachineFacts;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    case(
        "platform::the_host_knows_qemus_nodes",
        the_host_knows_qemus_nodes,
    ),
    case("platform::linux_has_a_uart", linux_has_a_uart),
    case(
        "platform::a_stream_is_open_while_it_is_owned",
        a_stream_is_open_while_it_is_owned,
    ),
    case(
        "platform::an_smmu_without_stage_2_is_nobodys",
        an_smmu_without_stage_2_is_nobodys,
    ),
];

const STREAM: &str = include_str!("../../configs/platform_stream.toml");
const UART: &str = include_str!("../../configs/platform_uart.toml");
const RUN_LIMIT: Duration = Duration::from_secs(150);
const LINE_LIMIT: Duration = Duration::from_secs(60);

/// The tree of QEMU's `virt` with this much memory, so many CPUs and UARTs.
fn dump(context: &Context, memory: &str, cpus: u32, uarts: usize) -> Result<Vec<u8>> {
    let path = context.file("dumped.dtb", b"")?;
    let machine = format!(
        "virt,virtualization=on,gic-version=3,dtb-randomness=off,iommu=smmuv3,dumpdtb={}",
        path.display()
    );
    let cpus = cpus.to_string();
    let mut command = context.qemu()?.command();
    command.args([
        "-machine", &machine, "-cpu", "max", "-m", memory, "-smp", &cpus,
    ]);
    command.args(["-nodefaults", "-display", "none"]);
    command.args(["-serial", "null"].repeat(uarts));
    let output = command.output()?;
    ensure!(output.status.success(), "QEMU does not dump its tree");
    Ok(std::fs::read(path)?)
}

/// What host checks take for the tree of QEMU's `virt` is what the QEMU at hand makes.
fn the_host_knows_qemus_nodes(context: &Context) -> Result<()> {
    for uarts in [0, 1] {
        let (mut known, mut dumped) = (MachineFacts::default(), MachineFacts::default());
        tree::describe_qemu(&mut known, uarts);
        let bytes = dump(context, "1G", 1, 1 + uarts)?;
        tree::describe(&mut dumped, &bytes).map_err(anyhow::Error::msg)?;
        for facts in [&mut known, &mut dumped] {
            facts.nodes.sort_by(|a, b| a.path.cmp(&b.path));
        }
        ensure!(
            known.nodes == dumped.nodes,
            "the tree in the source is another QEMU's: dump it again"
        );
    }
    Ok(())
}

/// Linux's own driver takes the second UART, sends a line and hears one, again after a restart; a small guest beside it
/// has the clock.
fn linux_has_a_uart(context: &Context) -> Result<()> {
    const SCRIPT: &str = "
key() { echo \"$1=$2;\"; }
uart=/sys/class/tty/ttyAMA1
for at in /sys/bus/amba/drivers/uart-pl011/*.pl011; do key driver ${at##*/}; done
key at $(cat $uart/iomem_base)
exec 3<>/dev/ttyAMA1
stty raw -echo <&3
echo hello >&3
read line <&3
key heard \"$line\"
grep uart-pl011 /proc/interrupts | while read line; do key interrupt \"$line\"; done
if [ \"$line\" = again ]; then drain; reboot -f; fi
";
    let script = format!("drain() {{ {DRAIN}; }}\n{SCRIPT}");
    let archive = initrd::build(&linux::linux(Arch::Aarch64)?, Init::Script(&script))?;
    context.file("initrd.cpio", &archive)?;
    let mut machine = context.pack(UART)?;
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("uart");
    machine.serials = vec![format!("unix:{},server=on,wait=off", socket.display())];
    let mut guest = context.start(&machine)?;
    let mut uart = connect(&socket)?;
    uart.set_read_timeout(Some(LINE_LIMIT))?;
    let mut lines = BufReader::new(uart.try_clone()?);
    for said in ["again", "enough"] {
        let mut heard = String::new();
        lines.read_line(&mut heard).context("nothing on the UART")?;
        ensure!(heard.trim_end() == "hello", "on the UART stands {heard:?}");
        writeln!(uart, "{said}")?;
    }
    guest.wait_off(RUN_LIMIT)?;

    let console = guest.console();
    ensure!(answers(&console, "linux", "heard") == ["again", "enough"]);
    ensure!(answers(&console, "linux", "driver").contains(&"a000000.pl011"));
    ensure!(lines::number(answer(&console, "linux", "at")?)? == 0xa00_0000);
    // Two of the driver's: the console's, and that of the second, which has come on its one CPU.
    let interrupts = answers(&console, "linux", "interrupt");
    let second = interrupts.iter().filter(|line| line.contains(" 64 Level "));
    let counts = second.map(|line| lines::number(line.split_whitespace().nth(1).unwrap_or("")));
    let counts = counts.collect::<Result<Vec<_>>>()?;
    ensure!(
        !counts.is_empty() && counts.iter().all(|count| *count > 0),
        "{interrupts:?}"
    );
    lines::hypervisor(&console, "linux: restarts")?;
    let line = lines::hypervisor(&console, "linux: /pl011@9040000, ")?;
    ensure!(
        line == "registers 0x9040000+0x1000 as 0xa000000, interrupt 40 as 64; does no DMA by the \
                 configuration's word; cannot be reset: it keeps its state",
        "{line}"
    );
    lines::passed(&console, "clock")
}

/// The device tree says that the clock and the GPIOs do DMA through the SMMU, each with a StreamID of its own; QEMU's do
/// none. The clock is a partition's: its stream is let through stage 2 while that runs, and refused after it has
/// stopped, as that of the GPIOs, which are nobody's, always is.
fn a_stream_is_open_while_it_is_owned(context: &Context) -> Result<()> {
    const CLOCK: u64 = 0x4242;
    const GPIOS: u64 = 0x4321;
    let bytes = dump(context, "256M", 2, 1)?;
    let fdt = Fdt::new(&bytes).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let smmu = fdt.find_node("/smmuv3@9050000").context("no SMMU")?;
    let smmu = smmu.property("phandle").context("no phandle")?;
    for (path, stream) in [("/pl031@9010000", CLOCK), ("/pl061@9030000", GPIOS)] {
        let node = tree.find_node_mut(path).context("a node of QEMU's")?;
        let iommus = [smmu.value(), &(stream as u32).to_be_bytes()].concat();
        node.add_property(DeviceTreeProperty::new_unchecked("iommus", &iommus[..]));
    }
    context.file("edited.dtb", &tree.to_dtb())?;

    let mut guest = context.start(&context.pack(STREAM)?)?;
    guest.wait_all(&["[owner] watching", "[other] watching"], LINE_LIMIT)?;
    let mut monitor = guest.monitor()?;
    let mut entries = || -> Result<[Config; 2]> {
        monitor.stop()?;
        let entries = [
            stream_table::entry(&mut monitor, CLOCK)?,
            stream_table::entry(&mut monitor, GPIOS)?,
        ];
        monitor.cont()?;
        Ok(entries)
    };
    let refused = |config| matches!(config, Config::Nothing | Config::Abort);
    let [owned, nobodys] = entries()?;
    ensure!(
        matches!(owned, Config::StageTwo(table) if table != 0) && refused(nobodys),
        "while it is owned: {owned:?}; nobody's: {nobodys:?}"
    );
    guest.send("\n")?;
    guest.wait_for("[sluice] owner: stopped", LINE_LIMIT)?;
    let after = entries()?;
    ensure!(after.into_iter().all(refused), "after the stop: {after:?}");
    guest.send("\x1d1\n")?;
    guest.wait_off(RUN_LIMIT)?;

    let console = guest.console();
    let line = lines::hypervisor(&console, "owner: /pl031@9010000, ")?;
    ensure!(
        line == "registers 0x9010000+0x1000 as 0xa000000, interrupt 34 as 64, stream 0x4242 of smmu0; \
                 cannot be reset: it keeps its state",
        "{line}"
    );
    lines::passed(&console, "owner")?;
    lines::passed(&console, "other")
}

/// Of two SMMUs the first has no stage 2: the partition with a device behind it does not start, and has nothing; the other
/// one, with a device behind the second, runs as on a machine without the first.
fn an_smmu_without_stage_2_is_nobodys(context: &Context) -> Result<()> {
    const RUNS: &str = "edu_again";
    let small = |payload, cpu, function| Small {
        payload,
        cpu,
        cmdline: "buffer=0x41ff0000 lives=3",
        function: Some(function),
        ..Small::default()
    };
    let layout = Layout::with_own_smmus(&[
        "arm-smmuv3,primary-bus=pcie.0,stage=1",
        "pxb-pcie,id=pcie.1,bus=pcie.0,bus_nr=8",
        "arm-smmuv3,primary-bus=pcie.1,stage=nested",
        "pcie-root-port,id=rp1,bus=pcie.1,chassis=2",
        "edu,bus=pcie.0,addr=02.0",
        "edu,bus=rp1,dma_mask=0xffffffffffffffff",
    ]);
    let layout = layout.small(&small("clock", 1, "00:02.0"));
    let layout = layout.small(&small(RUNS, 0, "09:00.0"));
    let mut machine = context.pack(&layout.text())?;
    super::boot::by_uefi(&mut machine)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;

    let console = guest.console();
    let line = lines::hypervisor(&console, "smmu at ")?;
    ensure!(
        line.contains(": no stage 2: IDR0 ")
            && line.ends_with(": nobody can have a device behind it"),
        "{line}"
    );
    let line = lines::hypervisor(&console, "clock: ")?;
    ensure!(
        line == "cannot start: 0000:00:02.0 is behind an IOMMU that cannot be used",
        "{line}"
    );
    ensure!(lines::of(&console, "clock").next().is_none());
    lines::passed(&console, RUNS)?;
    ensure!(answers(&console, RUNS, "life") == ["1", "2", "3"]);
    ensure!(lines::summary(&console, RUNS)?.0 == 0 && lines::summary(&console, "nobody")?.0 == 0);
    lines::left(&console, RUNS, 2)?;
    Ok(())
}

/// QEMU makes the socket a little after it was started.
fn connect(socket: &Path) -> Result<UnixStream> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(error).context("QEMU has no socket for the UART");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
