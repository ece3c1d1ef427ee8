//! A mistake of the hypervisor's own: the last thing that it does is to say where, and who called whom, by name.

use super::{Case, Context, case, lines};
use crate::symbols;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

pub const CASES: &[Case] = &[case("panic::names_who_called_whom", names_who_called_whom)];

const LIMIT: Duration = Duration::from_secs(60);
/// Where the mistake is, and who has called whom on the way there; functions between them may be inlined.
const AT: &str = "kernel::mmio::access";
const CALLERS: [&str; 3] = [
    "kernel::vcpu::run",
    "kernel::start::start",
    "boot::aarch64::boot_main",
];
/// Behind the first instructions, which make the frame record.
const INTO: u64 = 0x10;
/// UDF #0 (DDI 0487, C6.2).
const UNDEFINED: u32 = 0;

/// An undefined instruction is put into a function on the way of a guest's access to its UART, in the image as it is shipped.
fn names_who_called_whom(context: &Context) -> Result<()> {
    let config = include_str!("../../configs/edu_unowned.toml");
    // The guest looks at its UART all the time.
    let mut machine = context.pack(&config.replace("seconds=1", "silent seconds=200"))?;
    machine.halted = true;
    let mut guest = context.start(&machine)?;
    let mut debugger = guest.debugger()?;
    debugger.go()?;
    guest.wait_line("[canary] watching", LIMIT)?;
    debugger.halt()?;
    let console = guest.console();
    let (_, base) = console
        .split_once(" KiB at ")
        .context("the hypervisor does not say where it is")?;
    let functions = symbols::functions(&context.hypervisor()?.elf)?;
    let (offset, _) = functions
        .iter()
        .find(|(_, name)| name == AT)
        .with_context(|| format!("there is no function {AT}"))?;
    let address = lines::number(base)? + u64::from(*offset) + INTO;
    debugger.write32(address, UNDEFINED)?;
    debugger.go()?;
    guest.wait_line("Sluice stopped.", LIMIT)?;
    guest.wait_off(LIMIT)?;

    let console = guest.console();
    let (_, last) = console.split_once("panic on CPU 0").context("no panic")?;
    // The registers as they were, and the exception's class: unknown reason.
    ensure!(
        last.contains(&format!("{address:#x}")),
        "not at {address:#x}"
    );
    ensure!(last.contains("unknown reason"), "no reason: {last}");
    let chain: Vec<&str> = last
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(' ')?.1.split_once(' '))
        .map(|(_, name)| name)
        .collect();
    let expected = format!("{AT}+{INTO:#x}");
    ensure!(chain.first() == Some(&&*expected), "{chain:?}");
    let mut rest = chain.iter().filter_map(|found| found.split_once('+'));
    for name in CALLERS {
        ensure!(rest.any(|(is, _)| is == name), "{name} is not in {chain:?}");
    }
    context.note(&chain.join(" <- "));
    // What the CPU did last: the exit that brought it there.
    ensure!(
        last.lines()
            .any(|line| line.contains("CPU 0 at ") && line.contains("mmio read 0x9000018")),
        "no word of the exit"
    );
    Ok(())
}
