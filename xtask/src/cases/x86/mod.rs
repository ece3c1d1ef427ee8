//! The hypervisor on x86_64.

mod devices;
mod firmware;
mod linux;
mod messages;
mod rules;
mod sriov;
mod viommu;

use super::{Case, Context, case, lines};
use crate::arch::Arch;
use crate::bochs::{self, Cpus};
use crate::project;
use crate::qemu::{Boot, Guest, Machine};
use crate::symbols;
use crate::tasks::build::{self, Profile, Program};
use crate::tasks::{image, run};
use anyhow::{Context as _, Result, ensure};
use kernel::config;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("x86::boots", boots),
    case("x86::names_who_called_whom", names_who_called_whom),
    case("x86::describes_a_full_stack", describes_a_full_stack),
    case("x86::enters_a_guest", enters_a_guest),
    case("x86::runs_two_partitions", runs_two_partitions),
    case("x86::runs_the_demo", runs_the_demo),
    case(
        "x86::what_is_not_isolated_is_refused",
        rules::what_is_not_isolated_is_refused,
    ),
    case(
        "x86::what_is_not_there_is_refused",
        rules::what_is_not_there_is_refused,
    ),
    case("x86::runs_a_multiboot_program", runs_a_multiboot_program),
    case(
        "x86::misuse_harms_nobody_else",
        devices::misuse_harms_nobody_else,
    ),
    case("x86::linux_boots", linux::boots),
    case("x86::linux_has_two_cpus", linux::has_two_cpus),
    case(
        "x86::two_linux_hear_and_restart",
        linux::two_hear_and_restart,
    ),
    case(
        "x86::two_linux_read_their_disks",
        linux::two_read_their_disks,
    ),
    case(
        "x86::linux_stops_with_dma_in_flight",
        linux::stops_with_dma_in_flight,
    ),
    case(
        "x86::linux_restarts_with_dma_in_flight",
        linux::restarts_with_dma_in_flight,
    ),
    case(
        "x86::edu_is_stopped_before_anybody_owns_it",
        devices::edu_is_stopped_before_anybody_owns_it,
    ),
    case(
        "x86::a_hundred_lives_leave_nothing_over",
        devices::a_hundred_lives_leave_nothing_over,
    ),
    case(
        "x86::edu_is_stopped_without_an_owner",
        devices::edu_is_stopped_without_an_owner,
    ),
    case(
        "x86::messages_arrive_where_they_may",
        messages::arrive_where_they_may,
    ),
    case("x86::messages_arrive_by_xapic", messages::arrive_by_xapic),
    case(
        "x86::messages_arrive_at_narrow_destinations",
        messages::arrive_at_narrow_destinations,
    ),
    case(
        "x86::without_remapping_no_function_is_given",
        messages::without_remapping_no_function_is_given,
    ),
    case(
        "x86::without_a_unit_no_function_is_given",
        messages::without_a_unit_no_function_is_given,
    ),
    case(
        "x86::edu_reaches_its_memory_only_in_legacy_mode",
        devices::reaches_its_memory_only_in_legacy_mode,
    ),
    case(
        "x86::edu_reaches_its_memory_only_in_scalable_mode",
        devices::reaches_its_memory_only_in_scalable_mode,
    ),
    case(
        "x86::nvme_reaches_its_memory_only",
        devices::nvme_reaches_its_memory_only,
    ),
    case(
        "x86::faults_stop_and_restart",
        devices::faults_stop_and_restart,
    ),
    case(
        "x86::viommu_is_driven_in_legacy_mode",
        viommu::is_driven_in_legacy_mode,
    ),
    case(
        "x86::viommu_is_driven_in_scalable_mode",
        viommu::is_driven_in_scalable_mode,
    ),
    case(
        "x86::viommu_two_guests_use_equal_names",
        viommu::two_guests_use_equal_names,
    ),
    case(
        "x86::viommu_tells_its_own_faults_in_legacy_mode",
        viommu::tells_its_own_faults_in_legacy_mode,
    ),
    case(
        "x86::viommu_tells_its_own_faults_in_scalable_mode",
        viommu::tells_its_own_faults_in_scalable_mode,
    ),
    case(
        "x86::viommu_tells_of_messages_that_its_table_refuses",
        viommu::tells_of_messages_that_its_table_refuses,
    ),
    case(
        "x86::viommu_restarts_leave_nothing_over",
        viommu::restarts_leave_nothing_over,
    ),
    case(
        "x86::sriov_each_partition_has_one",
        sriov::each_partition_has_one,
    ),
    case(
        "x86::sriov_a_manager_that_starts_again_takes_them_along",
        sriov::a_manager_that_starts_again_takes_them_along,
    ),
    case(
        "x86::sriov_igb_s_functions_send_and_receive",
        sriov::igb_s_functions_send_and_receive,
    ),
    case(
        "x86::sriov_whoever_does_not_serve_is_alone",
        sriov::whoever_does_not_serve_is_alone,
    ),
    case(
        "x86::sriov_without_addresses_there_are_none",
        sriov::without_addresses_there_are_none,
    ),
    case("x86::boots_through_grub", firmware::boots_through_grub),
    case("x86::boots_through_uefi", firmware::boots_through_uefi),
    case(
        "x86::boots_from_a_cd_by_uefi",
        firmware::boots_from_a_cd_by_uefi,
    ),
    Case {
        name: "x86::enters_a_guest_by_vmx",
        long: true,
        run: enters_a_guest_by_vmx,
    },
    Case {
        name: "x86::runs_two_partitions_by_vmx",
        long: true,
        run: runs_two_partitions_by_vmx,
    },
    Case {
        name: "x86::linux_boots_by_vmx",
        long: true,
        run: linux::boots_by_vmx,
    },
];

const LIMIT: Duration = Duration::from_secs(60);
/// Bochs interprets, without a just-in-time compiler.
const BOCHS_LIMIT: Duration = Duration::from_secs(1500);
/// Firmware takes its time.
const LIMIT_WITH_FIRMWARE: Duration = Duration::from_secs(180);

fn hypervisor() -> Result<Program> {
    build::hypervisor(Arch::X86_64, Profile::Release)
}

fn by_pvh(image: PathBuf) -> Machine {
    let mut machine = Machine::new(Boot::Kernel {
        image,
        initrd: None,
        append: None,
    });
    machine.arch = Arch::X86_64;
    machine
}

/// A machine that boots the configuration `text`.
pub fn packed(context: &Context, text: &str) -> Result<Machine> {
    Ok(by_pvh(packed_file(context, text)?))
}

/// The image with the configuration `text`.
fn packed_file(context: &Context, text: &str) -> Result<PathBuf> {
    let config = context.file("machine.toml", text.as_bytes())?;
    let image = config.with_extension("img");
    image::pack(&config, Some(image.clone()), Arch::X86_64, Profile::Release)?
        .context("the configuration has problems, see above")?;
    Ok(image)
}

/// By its PVH note, on three CPUs behind VT-d. Without a bundle there is nothing to do, so it ends by itself.
fn boots(context: &Context) -> Result<()> {
    let mut machine = by_pvh(hypervisor()?.elf);
    machine.cpus = 3;
    machine.memory = 5 << 30;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    let line = |word: &str| {
        let found = console.lines().find(|line| line.contains(word));
        found.with_context(|| format!("no `{word}` in: {console}"))
    };
    line("on x86_64")?;
    // All but the hole for the BIOS; some of it is above 4 GiB.
    let found = line("3 CPUs, 5119 MiB of RAM, 1 I/O APICs")?;
    context.note(found);
    line("pcie: segment 0, buses 0-255 at 0xb0000000")?;
    line("all dma is denied")?;
    for cpu in 1..3 {
        line(&format!("CPU {cpu} runs; its timer was "))?;
    }
    line("vt-d: segment 0, registers at 0xfed90000")?;
    Ok(())
}

/// Behind `push rbp; mov rbp, rsp`, which make the frame record.
const INTO: u64 = 4;

/// A machine with a bundle, and so with names, that stands still, and where `function` is in it.
fn halted(context: &Context, function: &str) -> Result<(Guest, u64)> {
    let mut machine = packed(context, TWO)?;
    machine.halted = true;
    let functions = symbols::functions(&hypervisor()?.elf)?;
    let (address, _) = functions
        .iter()
        .find(|(_, name)| name == function)
        .with_context(|| format!("there is no function {function}"))?;
    Ok((context.start(&machine)?, u64::from(*address)))
}

/// An undefined instruction in the image as it is shipped: what happened, and who called whom, by name.
fn names_who_called_whom(context: &Context) -> Result<()> {
    const AT: &str = "boot::layout::take";
    const CALLER: &str = "boot::x86_64::boot_main";
    let (mut guest, address) = halted(context, AT)?;
    let mut debugger = guest.debugger()?;
    // UD2
    debugger.write(address + INTO, &[0x0f, 0x0b])?;
    debugger.go()?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    let (_, last) = console.split_once("panic on CPU 0").context("no panic")?;
    ensure!(last.contains("invalid opcode (vector 6)"), "{last}");
    ensure!(
        last.contains(&format!("rip {:016x}", address + INTO)),
        "{last}"
    );
    let chain: Vec<&str> = last
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(' ')?.1.split_once(' '))
        .map(|(_, name)| name)
        .collect();
    ensure!(
        chain.first() == Some(&&*format!("{AT}+{INTO:#x}")),
        "{chain:?}"
    );
    ensure!(
        chain.iter().any(|name| name.starts_with(CALLER)),
        "{CALLER} is not in {chain:?}"
    );
    context.note(&chain.join(" <- "));
    Ok(())
}

/// One that pushes without end: the page below the stack is not there, and the exception has a stack of its own.
fn describes_a_full_stack(context: &Context) -> Result<()> {
    let (mut guest, address) = halted(context, "arch::x86_64::power::off")?;
    let mut debugger = guest.debugger()?;
    // push rax; jmp to it
    debugger.write(address + INTO, &[0x50, 0xeb, 0xfd])?;
    debugger.go()?;
    // The machine is not switched off: the panic comes to the same place.
    guest.wait_line("stack overflow", LIMIT)?;
    guest.wait_line("page fault (vector 14)", LIMIT)?;
    guest.wait_line("Sluice stopped.", LIMIT)?;
    Ok(())
}

/// A guest under SVM and nested paging, by the hypervisor's own CPU code.
fn enters_a_guest(context: &Context) -> Result<()> {
    let mut machine = by_pvh(build::trial()?.elf);
    machine.cpus = 1;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    // SVM exits at the IRET, VMX behind it.
    said_all(&guest.console(), "SVM", "not ready")
}

/// A CPU of Bochs's that has all of VMX that is asked for.
const VMX_CPU: Cpus = Cpus {
    model: "corei7_icelake_u",
    count: 1,
};

/// The same guest under VMX and EPT, in Bochs.
fn enters_a_guest_by_vmx(context: &Context) -> Result<()> {
    let trial = build::trial()?;
    let console = bochs::run(&trial.elf, VMX_CPU, &context.folder, LIMIT)?;
    said_all(&console, "VMX", "ready")
}

/// What the guest says through its port: CPUID's answer (S), #GP with its error code for a register that is denied (G), #UD for
/// VMRUN (U), a register of its own (K), floating point as after reset (F), a load (L) and an IN (i) that the hypervisor answers,
/// three interrupts (I), an NMI (N), and that a timer interrupt took the CPU from it (T).
fn said_all(console: &str, way: &str, at_iret: &str) -> Result<()> {
    let mut rest = console;
    for line in [
        &format!("trial: {way}"),
        "trial: store to 0x40000123, walk false, present false",
        "trial: load from 0x40000124, walk false, present false",
        "trial: it takes interrupts",
        // The delivery is interrupted at the first word that it pushes, and done once the page is there.
        "trial: its stack is missed at 0xaff8",
        &format!("trial: end of its NMI handler, {at_iret} for another"),
        "trial: the timer's interrupt comes first",
        "guest: hello from a guest: SGUKFLiIIINT",
        "trial: it has shut itself down",
    ] {
        let at = rest.find(line);
        let at = at.with_context(|| format!("no `{line}` in its turn in: {console}"))?;
        rest = &rest[at + line.len()..];
    }
    ensure!(!rest.contains("trial:"), "more than that in: {console}");
    Ok(())
}

/// Two partitions, each with a CPU of its own, from a configuration: small guests that look at their CPU, their interrupt
/// controllers, their timer and their serial port, and switch themselves off; the machine follows.
fn runs_two_partitions(context: &Context) -> Result<()> {
    let machine = packed(context, TWO)?;
    two_run(context, machine)?;
    Ok(())
}

/// What `cargo xtask run --arch x86_64` shows: every attack is stopped, and counted.
fn runs_the_demo(context: &Context) -> Result<()> {
    let text = fs::read_to_string(project::root().join("boot/configs/demo.toml"))?;
    let described: config::Machine = toml::from_str(&text)?;
    let qemu = described.machine.qemu.as_ref();
    let qemu = qemu.context("the demo has no [machine.qemu]")?;
    let image = packed_file(context, &text)?;
    let mut machine = Machine::of_config(qemu, image, &context.folder, &context.folder)?;
    machine.arch = Arch::X86_64;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    run::verdict(&console, &described)?;
    let attempts = lines::number(lines::behind(&console, "attacker", "attempts: ")?)?;
    let (faults, _) = lines::summary(&console, "attacker")?;
    ensure!(
        attempts > 0 && faults >= 2 * attempts,
        "{faults} faults of {attempts} attempts"
    );
    ensure!(lines::summary(&console, "canary")?.0 == 0);
    context.note(&format!("{attempts} attempts, {faults} faults recorded"));
    Ok(())
}

/// The program of `hello` without the note for PVH: what is left is a header of Multiboot 1.
fn runs_a_multiboot_program(context: &Context) -> Result<()> {
    let payloads = build::payloads(Arch::X86_64, Profile::Release)?;
    let hello = payloads.iter().find(|payload| payload.name == "hello");
    let mut program = fs::read(&hello.context("there is no hello")?.elf)?;
    let note = [4_u32, 4, 18].map(u32::to_le_bytes);
    let note = [note.as_flattened(), b"Xen\0"].concat();
    let mut found = program.windows(note.len()).enumerate();
    let at = found.find(|(_, window)| *window == note);
    let (at, _) = at.context("hello has no note for PVH")?;
    // Somebody else's.
    program[at + 12] = b'x';
    context.file("hello.elf", &program)?;
    let text = "[machine]\nname = 'multiboot'\n\
        [[partition]]\nname = 'old'\nmemory = '32M'\ncpus = [0]\npayload = './hello.elf'\n";
    let machine = packed(context, text)?;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT)?;
    let console = guest.console();
    run::verdict(&console, &toml::from_str(text)?)?;
    lines::hypervisor(&console, "old: vCPU 0 has switched itself off").map(drop)
}

const TWO: &str = "[machine]\nname = 'two'\n\
    [[partition]]\nname = 'left'\nmemory = '64M'\ncpus = [0]\npayload = 'hello'\n\
    [[partition]]\nname = 'right'\nmemory = '32M'\ncpus = [2]\npayload = 'hello'\n";

/// The same under VMX, on CPUs that post interrupts, in Bochs.
fn runs_two_partitions_by_vmx(context: &Context) -> Result<()> {
    let cpus = Cpus {
        count: 3,
        ..VMX_CPU
    };
    let image = packed_file(context, TWO)?;
    let console = bochs::run(&image, cpus, &context.folder, BOCHS_LIMIT)?;
    two_ran(&console)
}

/// Runs `machine`, whose image is of [`TWO`], to its end; what it said.
fn two_run(context: &Context, mut machine: Machine) -> Result<String> {
    machine.cpus = 3;
    let mut guest = context.start(&machine)?;
    guest.wait_off(LIMIT_WITH_FIRMWARE)?;
    let console = guest.console();
    two_ran(&console)?;
    Ok(console)
}

/// What the two of [`TWO`] have to say.
fn two_ran(console: &str) -> Result<()> {
    run::verdict(console, &toml::from_str(TWO)?)?;
    for name in ["left", "right"] {
        for line in [
            format!("[{name}] hello from a guest on x86_64"),
            format!("[{name}] check ok: ten deadlines are ten interrupts"),
            format!("[sluice] {name}: vCPU 0 has switched itself off"),
            format!("[sluice] {name}: stopped"),
        ] {
            ensure!(console.contains(&line), "no `{line}` in: {console}");
        }
    }
    Ok(())
}
