//! Rules on what partitions share out of one machine: CPUs and memory.

use super::super::placement::{free_memory, place_memory};
use super::super::{
    Bytes, Key, MAX_VCPUS, MEMORY_BLOCK, Machine, MachineFacts, Partition, Path, Platform, Rule,
};
use super::Problems;
use alloc::vec::Vec;
use iommu::addr::{Hpa, Span};

pub fn cpus(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    let mut given: Vec<(u16, Path)> = Vec::new();
    for (i, partition) in machine.partitions.iter().enumerate() {
        let at = Path::partition(i).key(Key::Cpus);
        let count = partition.cpus.len();
        if count == 0 {
            out.add(Rule::NoCpu, at);
        }
        if count > MAX_VCPUS {
            out.add(Rule::TooManyCpus { count }, at);
        }
        for (vcpu, &cpu) in partition.cpus.iter().enumerate() {
            let at = at.index(vcpu);
            if usize::from(cpu) >= facts.cpus {
                let count = facts.cpus;
                out.add(Rule::CpuUnknown { cpu, count }, at);
            }
            match given.iter().find(|(other, _)| *other == cpu) {
                Some(&(_, first)) => out.add_two(Rule::CpuTwice { cpu }, at, Some(first)),
                None => given.push((cpu, at)),
            }
        }
    }
}

pub fn memory(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    let found_before = out.0.len();
    for (i, partition) in machine.partitions.iter().enumerate() {
        let most = facts.platform().max_memory();
        size(partition, most, Path::partition(i).key(Key::Memory), out);
        if facts.platform() == Platform::X86_64 {
            continue;
        }
        let at = Path::partition(i).key(Key::Base);
        if let Some(span) = fixed(partition, at, facts, out) {
            let overlaps = |other: &Partition| fixed_span(other).is_some_and(|o| o.overlaps(&span));
            if let Some(first) = machine.partitions[..i].iter().position(overlaps) {
                let (base, end) = (span.base, span.end());
                let other = Some(Path::partition(first).key(Key::Base));
                out.add_two(Rule::BaseOverlap { base, end }, at, other);
            }
        }
    }
    // What follows from a wrong size or base is not worth a second message.
    if out.0.len() == found_before && total(machine, facts, out) {
        for (i, place) in place_memory(machine, facts).into_iter().enumerate() {
            if let Err(largest) = place {
                let size = machine.partitions[i].memory;
                let largest = Bytes(largest);
                let at = Path::partition(i).key(Key::Memory);
                out.add(Rule::MemoryScattered { size, largest }, at);
            }
        }
    }
}

fn size(partition: &Partition, most: u64, at: Path, out: &mut Problems) {
    let size = partition.memory;
    if size.get() == 0 {
        out.add(Rule::MemoryZero, at);
    } else if !size.get().is_multiple_of(MEMORY_BLOCK) {
        out.add(Rule::MemoryUnaligned { size }, at);
    }
    if size.get() > most {
        let max = Bytes(most);
        out.add(Rule::MemoryBeyondMap { size, max }, at);
    }
}

fn fixed_span(partition: &Partition) -> Option<Span<Hpa>> {
    Span::<Hpa>::new(Hpa(partition.base?.get()), partition.memory.get())
}

/// The range at a fixed base, if there is one that lies in RAM.
fn fixed(
    partition: &Partition,
    at: Path,
    facts: &MachineFacts,
    out: &mut Problems,
) -> Option<Span<Hpa>> {
    let base = Hpa(partition.base?.get());
    if !base.is_aligned(MEMORY_BLOCK) {
        out.add(Rule::BaseUnaligned { base }, at);
    }
    let span = fixed_span(partition).filter(|span| in_ram(span, facts));
    let Some(span) = span else {
        let end = Hpa(base.0.saturating_add(partition.memory.get()));
        out.add(Rule::BaseNotRam { base, end }, at);
        return None;
    };
    if let Some(reserved) = facts.reserved.iter().find(|r| r.overlaps(&span)) {
        let (base, end) = (reserved.base, reserved.end());
        out.add(Rule::BaseReserved { base, end }, at);
    }
    Some(span)
}

fn in_ram(span: &Span<Hpa>, facts: &MachineFacts) -> bool {
    facts.memory.iter().any(|ram| ram.covers(span))
}

/// Whether all partitions together fit what the machine has.
fn total(machine: &Machine, facts: &MachineFacts, out: &mut Problems) -> bool {
    let have = free_memory(facts);
    let mut wanted: u64 = 0;
    let mut crossing = None;
    for (i, partition) in machine.partitions.iter().enumerate() {
        wanted = wanted.saturating_add(partition.memory.get());
        if wanted > have && crossing.is_none() {
            crossing = Some(Path::partition(i).key(Key::Memory));
        }
    }
    if let Some(at) = crossing {
        let (wanted, have) = (Bytes(wanted), Bytes(have));
        out.add(Rule::MemoryShort { wanted, have }, at);
    }
    crossing.is_none()
}
