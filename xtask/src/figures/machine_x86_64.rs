//! What exits cost on x86_64, in instructions, on a machine in which one takes one nanosecond (`-icount shift=0`): a partition
//! runs the payload `exit_cost` under SVM, as on AArch64.

use super::{Figure, Source};
use crate::cases::{Context, lines, x86};
use crate::project;
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// All of them, from one run.
pub const MACHINE_X86_64: Source = Source {
    ids: &[
        "B12.x86_64.hypercall",
        "B12.x86_64.cpuid",
        "B12.x86_64.msr_read",
        "B12.x86_64.uart_read",
        "B12.x86_64.ioapic_read",
        "B15.x86_64.machine",
    ],
    measure: machine,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Of its device, with one function of one bus in use.
const TEXT: &str = "[machine]\nname = 'exit-cost'\n\
    [[partition]]\nname = 'probe'\nmemory = '64M'\ncpus = [0]\npayload = 'exit_cost'\n\
    [[partition.device]]\naddress = '00:02.0'\nreset = 'best-effort'\n";

fn machine() -> Result<Vec<Figure>> {
    let folder = project::target().join("bench");
    let _alone = project::lock(&folder)?;
    let context = Context::new(folder.join("exit-cost-x86_64"));
    let mut machine = x86::packed(&context, TEXT)?;
    machine.cpus = 1;
    // With x2APIC a write to a register of its timer ends QEMU: "Bad icount read". Its page of registers does as well.
    machine.cpu = "max,-x2apic".into();
    machine.icount = true;
    machine.devices = vec!["edu,addr=02.0".into()];
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    lines::passed(&console, "probe")?;
    // As measured by another clock of the machine's; its counter is the number of instructions, whatever comes out.
    let frequency = lines::number(lines::answer(&console, "probe", "frequency")?)?;
    ensure!(
        frequency.abs_diff(1_000_000_000) < 1_000_000,
        "an instruction is not a tick of the counter, which has {frequency} Hz"
    );
    let each = |key| -> Result<f64> {
        let text = lines::answer(&console, "probe", key)?;
        let (ticks, rounds) = text.split_once('/').context("no number of rounds")?;
        Ok(lines::number(ticks)? as f64 / lines::number(rounds)? as f64)
    };
    let sent = lines::hypervisor(&console, "sent to vtd0: ")?;
    let figure = |id, what, value, unit, bound| Figure {
        id,
        what,
        value,
        unit,
        bound: Some(bound),
        peers: Vec::new(),
    };
    let exit = |id, what, key, bound| {
        each(key).map(|value| figure(id, what, value, "instructions", bound))
    };
    Ok(vec![
        exit(
            "B12.x86_64.hypercall",
            "VMMCALL, from a guest and back to it",
            "vmmcall",
            700.0,
        )?,
        exit(
            "B12.x86_64.cpuid",
            "CPUID of leaf 0, from a guest and back to it",
            "cpuid",
            1000.0,
        )?,
        exit(
            "B12.x86_64.msr_read",
            "RDMSR of IA32_APIC_BASE, from a guest and back to it",
            "rdmsr",
            930.0,
        )?,
        exit(
            "B12.x86_64.uart_read",
            "IN of the UART's line status, from a guest and back to it",
            "uart_read",
            900.0,
        )?,
        exit(
            "B12.x86_64.ioapic_read",
            "a load of a register of the I/O APIC, from a guest and back to it, decoded",
            "ioapic_read",
            2000.0,
        )?,
        figure(
            "B15.x86_64.machine",
            "root, context and PASID tables, one function of one bus in use",
            lines::counted(sent, "bytes of tables")? as f64,
            "bytes",
            8192.0,
        ),
    ])
}
