//! Every rule that a configuration has to meet. No side effects; all problems are reported, not the first.

mod ats;
mod devices;
mod given;
mod guest;
mod nodes;
mod resources;
mod sriov;
mod x86_64;

use super::{FaultAction, MAX_NAME, MAX_PARTITIONS, Machine, MachineFacts};
use super::{Key, Path, Platform, Problem, Rule};
use alloc::vec::Vec;

/// Checks `machine` against every rule, on a machine with `facts`. An empty answer means that it can be created.
pub fn validate(machine: &Machine, facts: &MachineFacts) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    let out = &mut problems;
    partitions(machine, out);
    resources::cpus(machine, facts, out);
    resources::memory(machine, facts, out);
    for (i, partition) in machine.partitions.iter().enumerate() {
        let at = Path::partition(i);
        guest::files(partition, facts, at, out);
        guest::cmdline(partition, at, out);
        match facts.platform() {
            Platform::Aarch64 => {
                guest::tables(partition, at, out);
                nodes::guest_side(partition, facts, at, out);
            }
            Platform::X86_64 => x86_64::not_there(partition, at, out),
        }
        guest::dma_windows(partition, facts.platform(), at, out);
        devices::guest_side(partition, at, out);
        if partition.on_fault.threshold == 0 {
            out.add(
                Rule::ThresholdZero,
                at.key(Key::OnFault).key(Key::Threshold),
            );
        }
        if partition.on_fault.action == FaultAction::Restart && !partition.restart {
            let other = Some(at.key(Key::Restart));
            out.add_two(
                Rule::RestartForbidden,
                at.key(Key::OnFault).key(Key::Action),
                other,
            );
        }
    }
    let given = &given::all(machine, facts);
    devices::machine_side(given, facts, out);
    if facts.platform() == Platform::Aarch64 {
        nodes::shared(given, facts, out);
    }
    x86_64::reserved_memory(given, facts.platform(), out);
    ats::trusted(given, out);
    sriov::functions(machine, facts, out);
    sriov::managers(given, machine, out);
    problems.0
}

/// Where the rules put what they find.
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, rule: Rule, at: Path) {
        self.add_two(rule, at, None);
    }

    fn add_two(&mut self, rule: Rule, at: Path, other: Option<Path>) {
        self.0.push(Problem { rule, at, other });
    }
}

fn partitions(machine: &Machine, out: &mut Problems) {
    let count = machine.partitions.len();
    if count == 0 {
        out.add(Rule::NoPartition, Path::ROOT);
    }
    if count > MAX_PARTITIONS {
        let first_too_many = Path::partition(MAX_PARTITIONS);
        out.add(Rule::TooManyPartitions { count }, first_too_many);
    }
    name(
        &machine.machine.name,
        Path::ROOT.key(Key::Machine).key(Key::Name),
        out,
    );
    for (i, partition) in machine.partitions.iter().enumerate() {
        let at = Path::partition(i).key(Key::Name);
        name(&partition.name, at, out);
        let earlier = &machine.partitions[..i];
        if let Some(first) = earlier.iter().position(|p| p.name == partition.name) {
            let other = Path::partition(first).key(Key::Name);
            out.add_two(Rule::NameTwice, at, Some(other));
        }
    }
}

fn name(name: &str, at: Path, out: &mut Problems) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() {
        out.add(Rule::NameEmpty, at);
    }
    if name.len() > MAX_NAME {
        out.add(Rule::NameTooLong { len: name.len() }, at);
    }
    if let Some(character) = name.chars().find(|&c| !allowed(c)) {
        out.add(Rule::NameIllFormed { character }, at);
    }
}
