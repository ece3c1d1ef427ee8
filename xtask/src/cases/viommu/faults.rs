//! Devices that step outside of what their guest has mapped.

use super::{Context, Layout, Linux, MIB, RUN_LIMIT, Result, answer, disk, ensure, lines, random};

/// `edu`, which is the guest's 00:02.0 and the machine's 00:03.0, without a driver: a write of 64 bytes to an address that
/// its domain does not map.
const STRAY: &str = r#"
dev=/sys/bus/pci/devices/0000:00:02.0
# A driver that wants it, and finds that it is no disk, is what puts a device into a domain.
echo 1234 11e8 > /sys/bus/pci/drivers/nvme/new_id
sleep 3
key domain $(cat $dev/iommu_group/type)
echo 1 > $dev/enable
printf '\006\000' | dd of=$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
bar=$(head -n 1 $dev/resource | cut -d' ' -f1)
poke() { devmem $(printf '0x%x' $((bar + $1))) 64 $2; }
poke 0x80 0x40000
poke 0x88 0x123456000
poke 0x90 64
poke 0x98 3
sleep 2
key streams "$(dmesg | grep -A1 'event 0x10 received' | grep -o '0x[0-9a-f]\{16\}' | sort -u)"
key words "$(dmesg | grep -m 1 -A4 'event 0x10 received' | grep -o '0x[0-9a-f]\{16\}' | tr '\n' ' ')"
"#;

/// The event that the hardware records is in the guest's own queue, under the guest's own StreamID, and its own driver
/// prints it; it is no fault against the partition, and none of it is the other partition's.
pub fn a_guest_is_told_of_its_own_faults(context: &Context) -> Result<()> {
    disk(context, "disk.img", &random(MIB)?)?;
    crate::cases::linux::initial_disk(context, STRAY)?;
    let linux = Linux {
        functions: &["00:02.0", "00:03.0"],
        unresettable: &["00:03.0"],
        ..Linux::default()
    };
    let devices = [
        "nvme,addr=02.0,drive=disk,serial=s0",
        "edu,addr=03.0,dma_mask=0xffffffffffffffff",
    ];
    let layout = Layout::new(&devices).linux(&linux).canary(1);
    let mut guest = context.start(&context.pack(&layout.text())?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    let of = |key| answer(&console, "linux", key);
    ensure!(of("domain")? == "DMA", "it is in no translated domain");
    // One each 4 bytes of the write, all of the same stream.
    ensure!(of("streams")? == "0x0000001000000010", "{}", of("streams")?);
    let words = of("words")?;
    let words: Vec<u64> = words
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16))
        .collect::<Result<_, _>>()?;
    let [first, second, address, last] = words[..] else {
        anyhow::bail!("an event of {} words", words.len());
    };
    // F_TRANSLATION (IHI 0070, 7.3.13), StreamID 0x10 where the machine has 0x18; a write; stage 1; its input address.
    ensure!(first & 0xff == 0x10 && first >> 32 == 0x10, "{first:#x}");
    ensure!(
        second >> 35 & 1 == 0 && second >> 39 & 1 == 0,
        "{second:#x}"
    );
    ensure!(
        address == 0x1_2345_6000 && last == 0,
        "{address:#x} {last:#x}"
    );
    // 64 bytes in words of 4, and what the device tried while it was in no domain: all of it reached the guest.
    let line = lines::hypervisor(&console, "linux: its smmu0:")?;
    let count = |what: &str| {
        let at = line.split(", ").find(|part| part.contains(what));
        at.and_then(|part| {
            part.split_whitespace()
                .find_map(|word| word.parse::<u64>().ok())
        })
    };
    ensure!(count("events").is_some_and(|events| events >= 16), "{line}");
    ensure!(
        count("dropped") == Some(0) && count("errors") == Some(0),
        "{line}"
    );
    ensure!(lines::summary(&console, "linux")?.0 == 0);
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    ensure!(console.contains("[canary] result: passed"));
    Ok(())
}
