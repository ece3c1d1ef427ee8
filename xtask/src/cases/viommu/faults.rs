//! Devices that step outside of what their guest has mapped.

use super::disk::DISK;
use super::trace::{self, Counts, Trace};
use super::{
    Context, EDU, Layout, Linux, MIB, RUN_LIMIT, Result, answer, answers, disk, ensure, lines,
    random,
};

/// `edu`, which is the guest's 00:02.0 and the machine's 00:03.0, without a driver: eight writes of 4 bytes, each to another
/// page that its domain does not map. QEMU has one event for 4 bytes, and Linux prints ten in a row.
pub const STRAY: &str = r#"
dev=/sys/bus/pci/devices/0000:00:02.0
# A driver that wants it, and finds that it is no disk, is what puts a device into a domain.
echo 1234 11e8 > /sys/bus/pci/drivers/nvme/new_id
await "dmesg | grep -q 'nvme1: pci function 0000:00:02.0'"
await "[ ! -e $dev/driver ]"
key domain $(cat $dev/iommu_group/type)
echo 1 > $dev/enable
printf '\006\000' | dd of=$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
bar=$(head -n 1 $dev/resource | cut -d' ' -f1)
register() { devmem $(printf '0x%x' $((bar + $1))) 64 $2; }
register 0x80 0x40000
register 0x90 4
for page in 0 1 2 3 4 5 6 7; do
  register 0x88 $(printf '0x%x' $((0x123456000 + page * 4096)))
  register 0x98 3
  await '[ $(($(register 0x98) & 1)) = 0 ]'
done
"#;

/// What Linux prints of its SMMU's events.
const EVENTS: &str = r#"
count() { dmesg | grep -c 'event 0x.. received'; }
await '[ $(count) -ge 8 ]'
key events $(count)
dmesg | grep -A4 'event 0x.. received' | grep -o '0x[0-9a-f]\{16\}' | while read first; do
  read second; read address; read last
  key event "$first $second $address $last"
done
"#;

/// The events that the hardware records are in the guest's own queue, under the guest's own StreamID, and its own driver
/// prints them: as many as Sluice counts and as QEMU's trace has. They are no faults against the partition, and none of
/// them is the other partition's.
pub fn a_guest_is_told_of_its_own_faults(context: &Context) -> Result<()> {
    disk(context, "disk.img", &random(MIB)?, MIB)?;
    crate::cases::linux::initial_disk(context, &format!("{STRAY}{EVENTS}"))?;
    let linux = Linux {
        functions: &["00:02.0", "00:03.0"],
        unresettable: &["00:03.0"],
        ..Linux::default()
    };
    let layout = Layout::new(&[DISK, EDU]).linux(&linux).canary(1);
    let mut machine = context.pack(&layout.text())?;
    machine.trace = trace::EVENTS.map(str::to_owned).to_vec();
    let mut guest = context.start(&machine)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(of("domain")? == "DMA", "it is in no translated domain");

    // F_TRANSLATION (IHI 0070, 7.3.13), StreamID 0x10 where the machine has 0x18; a write; stage 1; its input address.
    let told: Vec<String> = (0..8)
        .map(|page| {
            let address = 0x1_2345_6000u64 + page * 4096;
            format!(
                "0x0000001000000010 0x0000020000000000 {address:#018x} {:#018x}",
                0
            )
        })
        .collect();
    let printed = answers(&console, "linux", "event");
    ensure!(printed == told, "{printed:?}");
    ensure!(of("events")? == "8", "{} in its log", of("events")?);
    let own = Counts::of(&console, "linux")?;
    ensure!(
        own.get("events")? == 8 && own.get("delivered")? == 8,
        "{own:?}"
    );
    ensure!(own.get("errors")? == 0, "{own:?}");
    let trace = Trace::parse(&guest.trace()?)?;
    ensure!(trace.events.iter().eq([(&0x18, &8)]), "{:x?}", trace.events);
    context.note(&trace.agrees(&console, &["linux"], &["canary"])?);
    for who in ["linux", "canary"] {
        ensure!(lines::summary(&console, who)? == (0, 0), "{who}");
    }
    lines::passed(&console, "canary")
}
