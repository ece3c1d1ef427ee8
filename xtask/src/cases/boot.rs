//! How the hypervisor is entered, and where it refuses to run.

use super::{Case, Context, case};
use crate::project;
use crate::qemu::{Boot, Machine};
use crate::setup::kit;
use crate::tasks::run;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("boot::boots_at_el2", boots_at_el2),
    case("boot::boots_with_its_bundle", boots_with_its_bundle),
    case("boot::refuses_el1", refuses_el1),
    case(
        "boot::refuses_el2_that_stays_a_hosts",
        refuses_el2_that_stays_a_hosts,
    ),
    case("boot::boots_through_uboot", boots_through_uboot),
    case("boot::boots_through_uefi", boots_through_uefi),
    case(
        "boot::uefi_starts_it_at_el2_only",
        uefi_starts_it_at_el2_only,
    ),
];

const START_LIMIT: Duration = Duration::from_secs(30);
/// QEMU's `virt` has its RAM here, and puts the image into the first part of it.
const RAM: u64 = 0x4000_0000;
const SEARCHED: u64 = 8 << 20;
/// EDK2 takes its time.
const UEFI_LIMIT: Duration = Duration::from_secs(120);

fn by_kernel(image: PathBuf) -> Boot {
    Boot::Kernel {
        image,
        initrd: None,
        append: None,
    }
}

/// QEMU's `-kernel`: the arm64 boot protocol with x0 = device tree, at EL2.
fn boots_at_el2(context: &Context) -> Result<()> {
    let mut guest = context.start(&Machine::new(by_kernel(context.hypervisor()?.flat)))?;
    let line = guest.wait_line("Sluice", START_LIMIT)?;
    ensure!(
        line.contains("EL2"),
        "the first line does not say EL2: {line}"
    );
    Ok(())
}

/// The same with configuration, guests and symbols behind it.
fn boots_with_its_bundle(context: &Context) -> Result<()> {
    let machine = context.pack(
        "[machine]\nname = 'one'\n[machine.qemu]\nmemory = '512M'\ncpus = 1\n\
         [[partition]]\nname = 'canary'\nmemory = '64M'\ncpus = [0]\npayload = 'canary'\n",
    )?;
    let mut guest = context.start(&machine)?;
    let line = guest.wait_line("Sluice", START_LIMIT)?;
    ensure!(
        line.contains("EL2"),
        "the first line does not say EL2: {line}"
    );
    Ok(())
}

/// A machine without EL2 gets a readable line and nothing else.
fn refuses_el1(context: &Context) -> Result<()> {
    let mut machine = Machine::new(by_kernel(context.hypervisor()?.flat));
    machine.el2 = false;
    let mut guest = context.start(&machine)?;
    let line = guest.wait_line("Sluice", START_LIMIT)?;
    ensure!(
        line.contains("entered at EL1") && line.contains("EL2 only"),
        "it says: {line}"
    );
    ensure!(guest.console().lines().count() == 1, "it went on");
    Ok(())
}

/// A CPU whose HCR_EL2.E2H cannot be cleared gets a readable line, too. There is none in QEMU: the instruction that clears
/// it is made one that sets it, before it has run.
fn refuses_el2_that_stays_a_hosts(context: &Context) -> Result<()> {
    // mov x0, #(1 << 31); msr HCR_EL2, x0; and mov x0, #(1 << 34).
    const CLEARS: u64 = 0xd51c_1100_d2b0_0000;
    const SETS: u32 = 0xd2c0_0080;
    let mut machine = Machine::new(by_kernel(context.hypervisor()?.flat));
    machine.halted = true;
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    let memory = guest.monitor()?.memory(RAM, SEARCHED)?;
    let at = memory
        .windows(8)
        .step_by(4)
        .position(|bytes| bytes == CLEARS.to_le_bytes())
        .context("the image does not clear E2H")?;
    debugger.write32(RAM + 4 * at as u64, SETS)?;
    debugger.go()?;
    let line = guest.wait_line("Sluice", START_LIMIT)?;
    ensure!(line.contains("no FEAT_E2H0"), "it says: {line}");
    ensure!(guest.console().lines().count() == 1, "it went on");
    Ok(())
}

/// U-Boot's `booti`, with U-Boot's own device tree.
fn boots_through_uboot(context: &Context) -> Result<()> {
    let machine = Machine::new(Boot::Firmware {
        bios: kit::firmware()?.u_boot,
        files: vec![(context.hypervisor()?.flat, 0x5000_0000)],
    });
    let mut guest = context.start(&machine)?;
    guest.wait_for("stop autoboot", START_LIMIT)?;
    guest.send("\n")?;
    guest.wait_for("=> ", START_LIMIT)?;
    guest.send("booti 0x50000000 - ${fdtcontroladdr}\n")?;
    guest.wait_for("Starting kernel", START_LIMIT)?;
    let line = guest.wait_line("Sluice", START_LIMIT)?;
    ensure!(
        line.contains("EL2"),
        "the first line does not say EL2: {line}"
    );
    Ok(())
}

/// The demonstration, started by EDK2 as an application, on a machine that only ACPI describes.
fn boots_through_uefi(context: &Context) -> Result<()> {
    let text = fs::read_to_string(project::root().join("boot/configs/demo.toml"))?;
    let mut machine = context.pack(&text)?;
    by_uefi(&mut machine)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(UEFI_LIMIT)?;
    let console = guest.console();
    ensure!(
        console.contains("(ACPI)"),
        "it does not say that ACPI described the machine"
    );
    run::verdict(&console, &toml::from_str(&text)?)
}

/// Firmware gets the application back, with a readable line, where there is no EL2.
fn uefi_starts_it_at_el2_only(context: &Context) -> Result<()> {
    let mut machine = Machine::new(by_kernel(context.hypervisor()?.flat));
    machine.el2 = false;
    by_uefi(&mut machine)?;
    let mut guest = context.start(&machine)?;
    let line = guest.wait_line("Sluice", UEFI_LIMIT)?;
    ensure!(
        line.contains("entered at EL1") && line.contains("EL2 only"),
        "it says: {line}"
    );
    Ok(())
}

/// Has EDK2 start what QEMU would have started itself.
pub fn by_uefi(machine: &mut Machine) -> Result<()> {
    if let Boot::Kernel { image, .. } = &machine.boot {
        machine.boot = Boot::Uefi {
            bios: kit::firmware()?.edk2,
            image: image.clone(),
        };
    }
    Ok(())
}
