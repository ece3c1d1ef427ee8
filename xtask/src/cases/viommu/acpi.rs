//! The same from ACPI tables: what ACPICA's own tool says of them, and Debian's kernel on them.

use super::disk::DISK;
use super::{
    Context, Layout, Linux, MIB, RUN_LIMIT, Result, answers, disk, ensure, lines, random, sha256,
};
use crate::setup::kit;
use anyhow::Context as _;
use iommu::addr::{Gpa, Span};
use kernel::guest_acpi::{self, Places};
use kernel::guest_tree::{GuestTree, Pcie};
use std::path::Path;

/// Every table, taken apart and put together again by iasl without an error or a warning, is the same as before.
pub fn iasl_takes_the_acpi_tables(context: &Context) -> Result<()> {
    let ram = [Span {
        base: Gpa(0x4000_0000),
        len: 64 << 20,
    }];
    let none: &[Vec<u16>] = &[];
    let two = [vec![8, 0x10], vec![0x18]];
    let pcie = Pcie {
        dma_coherent: true,
        msi: true,
    };
    let silent = Pcie {
        dma_coherent: false,
        msi: false,
    };
    for (name, vcpus, pcie, smmus) in [
        ("bare", 1, None, none),
        ("plain", 64, Some(pcie), none),
        ("silent", 2, Some(silent), none),
        ("two", 17, Some(pcie), &two),
    ] {
        let guest = GuestTree {
            name,
            vcpus,
            memory: &ram,
            bootargs: "",
            initrd: None,
            pcie,
            smmus,
            platform: &[],
        };
        let places = Places::from(Gpa(0x4200_0000));
        let built = guest_acpi::build(&guest, &places);
        let tables = tables(&built.acpi, places.acpi.base.0)?;
        let expected = if pcie.is_some() { 8 } else { 6 };
        ensure!(tables.len() == expected, "{name}: {} tables", tables.len());
        for table in tables {
            let signature = std::str::from_utf8(&table[..4])?.to_owned();
            let file = format!("{name}-{signature}");
            let path = context.file(&format!("{file}.aml"), table)?;
            again(&path, &file).with_context(|| format!("{name}: {signature}"))?;
            let compiled = std::fs::read(path.with_file_name(format!("{file}-again.aml")))?;
            same(&signature, table, &compiled).with_context(|| format!("{name}: {signature}"))?;
        }
    }
    Ok(())
}

/// The XSDT, what it lists, and the DSDT.
fn tables(bytes: &[u8], base: u64) -> Result<Vec<&[u8]>> {
    let word = |bytes: &[u8], at: usize| -> Result<u64> {
        let word = bytes.get(at..at + 8).context("too short")?;
        Ok(u64::from_le_bytes(word.try_into()?))
    };
    let table = |address: u64| -> Result<&[u8]> {
        let at = usize::try_from(address.checked_sub(base).context("outside")?)?;
        let all = bytes.get(at..).context("outside")?;
        let len = all.get(4..8).context("outside")?;
        let len = u32::from_le_bytes(len.try_into()?) as usize;
        all.get(..len).context("outside")
    };
    let xsdt = table(word(bytes, 24)?)?;
    let mut all = vec![xsdt];
    for entry in xsdt[36..].chunks(8) {
        let found = table(word(entry, 0)?)?;
        all.push(found);
        if found.starts_with(b"FACP") {
            all.push(table(word(found, 140)?)?);
        }
    }
    Ok(all)
}

/// Takes the table in `path` apart, and puts what comes of it together as `FILE-again.aml`.
fn again(path: &Path, file: &str) -> Result<()> {
    let iasl = kit::iasl()?;
    let folder = path.parent().context("no folder")?;
    let run = |args: &[&str]| -> Result<String> {
        let out = iasl.command().current_dir(folder).args(args).output()?;
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(out.status.success(), "iasl {}: {text}", args.join(" "));
        let bad = |line: &&str| {
            let counts = line.contains("0 Errors, 0 Warnings, 0 Remarks");
            let line = line.to_lowercase();
            !counts
                && ["error", "warning", "remark", "invalid"]
                    .iter()
                    .any(|word| line.contains(word))
        };
        if let Some(line) = text.lines().find(bad) {
            anyhow::bail!("iasl {}: {line}", args.join(" "));
        }
        Ok(text)
    };
    run(&["-d", &format!("{file}.aml")])?;
    // The compiler knows its last revision only, which has more fields.
    if file.ends_with("SPCR") {
        std::fs::copy(path, path.with_file_name(format!("{file}-again.aml")))?;
        return Ok(());
    }
    let text = run(&[
        "-oa",
        "-p",
        &format!("{file}-again"),
        &format!("{file}.dsl"),
    ])?;
    ensure!(
        text.contains("0 Errors") || !file.ends_with("DSDT"),
        "{text}"
    );
    Ok(())
}

/// But for the compiler's name, its revision and the checksum.
fn same(signature: &str, table: &[u8], compiled: &[u8]) -> Result<()> {
    let bare = |table: &[u8]| {
        let mut table = table.to_vec();
        if table.len() >= 36 {
            table[9] = 0;
            table[28..36].fill(0);
        }
        table
    };
    let (table, compiled) = (bare(table), bare(compiled));
    let differs = table
        .iter()
        .zip(&compiled)
        .position(|(one, other)| one != other);
    ensure!(
        table == compiled,
        "{signature} has {} bytes, what iasl makes of it {}; the first that differs is {differs:?}",
        table.len(),
        compiled.len()
    );
    Ok(())
}

/// In both lives of the guest: it says that ACPI describes it, what its own driver says, and reads and writes its disk past
/// the SMMU that it drives, with a message for each queue.
const SCRIPT: &str = r#"
life=$(part 90 1 | head -c 1)
key life $life
key tree "$life $(ls /proc/device-tree 2>/dev/null | wc -l)"
key tables "$life $(ls /sys/firmware/acpi/tables | xargs)"
key cpus "$life $(nproc)"
key probed "$life $(dmesg | grep -c 'arm-smmu-v3 .*oas')"
group=$(readlink /sys/bus/pci/devices/0000:00:01.0/iommu_group)
key domain "$life $(cat /sys/kernel/iommu_groups/${group##*/}/type)"
key strict "$life $(dmesg | grep -c 'invalidation policy: strict')"
key read "$life $(part 0 64 | sum)"
key messages "$life $(grep nvme0q /proc/interrupts | grep -c 'ITS-PCI-MSIX')"
key smmu "$life $(grep arm-smmu-v3 /proc/interrupts | wc -l)"
part 13 16 > /tmp/copy
dd if=/tmp/copy of=$disk bs=1M seek=68 oflag=direct conv=fsync 2>/dev/null
key back "$life $(part 68 16 | sum)"
key faults "$life $(dmesg | grep -c 'event 0x')"
dmesg | grep 'BUG:\|cut here\|WARNING:\|ACPI Error\|ACPI Warning\|ACPI BIOS\|Firmware Bug' | while read line; do key bad "$life $line"; done
if [ $life = 1 ]; then
  printf 2 | dd of=$disk bs=1M seek=90 conv=fsync 2>/dev/null
  sync
  reboot -f
fi
"#;

/// Debian's kernel, unmodified, with two CPUs, started again once by PSCI.
pub fn linux_probes_from_acpi(context: &Context) -> Result<()> {
    let given = random(64 * MIB)?;
    let mut whole = given.clone();
    whole.resize(90 * MIB, 0);
    whole.push(b'1');
    disk(context, "disk.img", &whole, 96 * MIB)?;
    crate::cases::linux::initial_disk(context, SCRIPT)?;
    let linux = Linux {
        cpus: &[0, 1],
        functions: &["00:02.0"],
        tables: "acpi",
        ..Linux::default()
    };
    let layout = Layout::new(&[DISK]).linux(&linux);
    let mut guest = context.start(&context.pack(&layout.text())?)?;
    guest.wait_off(RUN_LIMIT)?;
    let console = guest.console();
    ensure!(answers(&console, "linux", "life") == ["1", "2"]);
    let (read, back) = (sha256(&given)?, sha256(&given[13 * MIB..29 * MIB])?);
    for (key, expected) in [
        ("tree", "0"),
        ("tables", "APIC DSDT FACP GTDT IORT MCFG SPCR data dynamic"),
        ("cpus", "2"),
        ("probed", "1"),
        ("domain", "DMA"),
        ("strict", "1"),
        ("read", &read),
        // The administration's queue, and one a CPU.
        ("messages", "3"),
        // Events and errors.
        ("smmu", "2"),
        ("back", &back),
        ("faults", "0"),
    ] {
        let found = answers(&console, "linux", key);
        let both = [1, 2].map(|life| format!("{life} {expected}"));
        ensure!(found == both, "{key}: {found:?}, not {both:?}");
    }
    let bad = answers(&console, "linux", "bad");
    ensure!(bad.is_empty(), "the kernel complains: {bad:?}");
    lines::hypervisor(&console, "linux: restarts")?;
    lines::hypervisor(&console, "linux: stopped")?;
    let summary = lines::summary(&console, "linux")?;
    ensure!(summary == (0, 0), "{summary:?}");
    Ok(())
}
