//! A device that goes wherever it is told, QEMU's `edu`, in the hands of a partition that attacks, and of nobody. What it
//! reached is judged from outside: by the machine's memory, SMMU registers and trace as QEMU has them.

pub mod armed;
mod layout;

use super::{Case, Context, case, lines};
use anyhow::{Context as _, Result, ensure};
use layout::{Layout, Memory};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

pub const CASES: &[Case] = &[
    case("edu::reaches_its_window_only", reaches_its_window_only),
    case(
        "edu::is_stopped_before_anybody_owns_it",
        armed::is_stopped_before_anybody_owns_it,
    ),
    case(
        "edu::is_stopped_after_its_owner",
        armed::is_stopped_after_its_owner,
    ),
    case(
        "edu::is_stopped_by_an_smmu_that_lost_its_state",
        armed::is_stopped_by_an_smmu_that_lost_its_state,
    ),
];

/// The configuration's devices sit at 00:02.0, and QEMU's StreamIDs are the requester IDs.
const STREAM: &str = "stream 0x10 0000:00:02.0 ";
const START_LIMIT: Duration = Duration::from_secs(60);
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Selects the second partition for input, then types a byte: a silent canary looks at its memory and ends.
const WAKE_CANARY: &str = "\x1d1.";

/// QEMU's words for an access that its SMMU refused and reported, and for one that it refused silently (Config = abort).
const REPORTED: &str = " translation failed for iova=";
const SILENT_ABORT: &str = "smmuv3_translate_abort";

/// Bytes of one attack, and the words that make it: those of the payload.
const ATTACK: u64 = 64;

/// A window of the attacker's RAM is open; nothing else is, whether it is memory of the other partition, of the hypervisor,
/// of the attacker itself, a device, or nothing.
fn reaches_its_window_only(context: &Context) -> Result<()> {
    let mut machine = context.pack(include_str!("../../../configs/edu_isolation.toml"))?;
    machine.trace.push(SILENT_ABORT.into());
    let mut guest = context.start(&machine)?;
    guest.wait_all(
        &["[canary] watching", "[attacker] what, and where?"],
        START_LIMIT,
    )?;

    let pattern = pattern()?;
    guest.send(&format!("{pattern:#x}\n"))?;
    guest.wait_line("its own memory holds the pattern", STEP_LIMIT)?;
    let mut monitor = guest.monitor()?;
    let before = Memory::save(&mut monitor, machine.memory)?;
    let layout = Layout::find(context, &guest.console(), &mut monitor, &before)?;
    let attacker = layout.partition("attacker")?;
    ensure!(
        carries(&before, attacker.clone(), pattern),
        "the attacker's memory does not hold the pattern: what follows would see nothing"
    );
    let targets = targets(&layout);
    for &(_, target) in &targets {
        guest.send(&format!("{target:#x}\n"))?;
        guest.wait_line(&format!("dma to {target:#x} is stopped"), STEP_LIMIT)?;
    }
    let after = Memory::save(&mut monitor, machine.memory)?;
    guest.send("end\n")?;
    guest.wait_line("[sluice] attacker: stopped", STEP_LIMIT)?;
    guest.send(WAKE_CANARY)?;
    guest.wait_off(START_LIMIT)?;

    let console = guest.console();
    lines::passed(&console, "attacker")?;
    lines::passed(&console, "canary")?;
    recorded(&console, &targets)?;
    counted(&console, &guest.trace()?, &targets)?;

    for range in after.without(std::slice::from_ref(&attacker)) {
        ensure!(
            !carries(&after, range.clone(), pattern),
            "the pattern lies in {range:x?}"
        );
    }
    // What the hypervisor writes while it handles exits and faults: its data, heap and stacks; and what the SMMU writes.
    let mut changing = layout.changing.to_vec();
    changing.push(attacker);
    changing.push(layout.event_queue.clone());
    for range in after.without(&changing) {
        if let Some(at) = before.difference(&after, range) {
            anyhow::bail!("memory changed at {at:#x}");
        }
    }
    Ok(())
}

/// Where the attacks go, and what is there.
fn targets(layout: &Layout) -> Vec<(String, u64)> {
    let mut targets = Vec::new();
    let mut add = |what: &str, address: u64| targets.push((what.to_owned(), address));
    let mut ends = |what: &str, range: &Range<u64>| {
        add(&format!("start of {what}"), range.start);
        add(&format!("end of {what}"), range.end - ATTACK);
    };
    ends("the canary's memory", &layout.canary);
    ends("the hypervisor's code and constants", &layout.constant);
    ends("the hypervisor's data", &layout.changing[0]);
    ends("the command queue", &layout.command_queue);
    ends("the event queue", &layout.event_queue);
    // The canary's array is 1 MiB right behind its few pages of code.
    add("what the canary watches", layout.canary.start + 0x8_0000);
    add("the middle of the canary's memory", middle(&layout.canary));
    add("the heap", middle(&layout.changing[1]));
    add("a stack", layout.changing[2].end - 0x5000);
    add("the bundle", layout.bundle);
    add("the stream table", layout.stream_table);
    add("its own stream table entry", layout.stream_entry);
    add("its own translation table", layout.table);
    let own = layout.window();
    add("its partition's program", 0x4000_1000);
    add("right before its window", own.start - ATTACK);
    add("right behind its window", own.end);
    for (device, address) in [
        ("the GIC distributor", 0x0800_0000),
        ("the ITS control frame", 0x0808_0000),
        ("the UART", 0x0900_0000),
        ("the SMMU", 0x0905_0000),
        ("the PCI configuration space", 0x40_1000_0000),
        ("address 0", 0),
        ("nothing", 0x2_0000_0000),
        ("the last page of the address space", 0x7f_ffff_f000),
        ("behind the address space", 0x80_0000_0000),
    ] {
        add(device, address);
    }
    targets
}

fn middle(range: &Range<u64>) -> u64 {
    (range.start + (range.end - range.start) / 2) & !(ATTACK - 1)
}

/// Each attack has a line for its write and one for its read, under the right device and partition.
fn recorded(console: &str, targets: &[(String, u64)]) -> Result<()> {
    let faults: Vec<&str> = lines::of(console, "sluice")
        .filter_map(|line| line.strip_prefix("dma fault: smmu0 ")?.strip_prefix(STREAM))
        .filter(|line| line.contains(" (attacker)"))
        .collect();
    for (what, target) in targets {
        for kind in ["write", "read"] {
            let start = format!("{kind} at {target:#x}: ");
            ensure!(
                faults.iter().any(|line| line.starts_with(&start)),
                "no record of the {kind} at {target:#x}: {what}"
            );
        }
    }
    Ok(())
}

/// The hypervisor's count is what QEMU's SMMU reported, all of it to the attacker's account.
fn counted(console: &str, trace: &str, targets: &[(String, u64)]) -> Result<()> {
    let events = trace.matches(REPORTED).count() as u64;
    let (faults, _) = lines::summary(console, "attacker")?;
    ensure!(
        faults == events,
        "{faults} faults counted, {events} events by QEMU's account"
    );
    ensure!(faults >= 2 * targets.len() as u64);
    for other in ["canary", "nobody"] {
        let (faults, _) = lines::summary(console, other)?;
        ensure!(faults == 0, "{faults} faults on the account of {other}");
    }
    ensure!(console.contains("records lost 0 times"));
    Ok(())
}

/// A word that is in nobody's memory, another one at each run.
fn pattern() -> Result<u64> {
    let bytes = super::random(8)?;
    let bytes: [u8; 8] = bytes.as_slice().try_into().context("8 bytes")?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

/// Whether two words of the attack lie side by side in `range`. One alone may be in a saved register of the attacker.
fn carries(memory: &Memory, range: Range<u64>, pattern: u64) -> bool {
    let word = |at: u64| pattern.wrapping_mul(2 * at + 1);
    let pairs: BTreeSet<[u64; 2]> = (0..ATTACK / 8 - 1)
        .map(|at| [word(at), word(at + 1)])
        .collect();
    memory.words(range).is_some_and(|words| {
        words
            .windows(2)
            .any(|pair| pairs.contains(&[pair[0], pair[1]]))
    })
}

#[cfg(test)]
mod tests {
    use super::{Memory, carries};
    use crate::cases::edu::layout::RAM;

    /// A page with two neighbouring words of an attack at 0x100, and one alone at 0x200.
    fn memory(pattern: u64) -> Memory {
        let mut bytes = vec![0; 4096];
        for (at, factor) in [(0x100, 5), (0x108, 7), (0x200, 3)] {
            let word = pattern.wrapping_mul(factor);
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        Memory(bytes)
    }

    #[test]
    fn two_words_of_an_attack_are_found_and_one_alone_is_not() {
        let pattern = 0x1234_5678_9abc_def1;
        let memory = memory(pattern);
        assert!(carries(&memory, RAM..RAM + 4096, pattern));
        assert!(!carries(&memory, RAM + 0x108..RAM + 4096, pattern));
        assert!(!carries(&memory, RAM..RAM + 0x108, pattern));
        assert!(!carries(&memory, RAM..RAM + 4096, pattern + 2));
    }

    #[test]
    fn all_of_memory_but_the_holes_is_compared() {
        let (before, after) = (memory(1), memory(9));
        let all = before.without(&[]);
        assert!(all.len() == 1 && all[0] == (RAM..RAM + 4096));
        assert_eq!(before.difference(&after, all[0].clone()), Some(RAM + 0x100));
        let holes = [RAM + 0x200..RAM + 0x208, RAM + 0x100..RAM + 0x110];
        let rest = before.without(&holes);
        assert_eq!(
            rest,
            [
                RAM..RAM + 0x100,
                RAM + 0x110..RAM + 0x200,
                RAM + 0x208..RAM + 4096
            ]
        );
        assert!(
            rest.into_iter()
                .all(|range| before.difference(&after, range).is_none())
        );
    }
}
