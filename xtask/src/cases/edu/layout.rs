//! What lies where in the machine's memory: from QEMU's own registers where it has them, else from what the hypervisor
//! says at its start.

use crate::cases::stream_table::{ADDRESS, STRTAB_BASE, STRTAB_BASE_CFG, register};
use crate::cases::{Context, lines};
use crate::qemu::Monitor;
use crate::tasks::build;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::ops::Range;

/// RAM of QEMU's `virt` starts here.
pub const RAM: u64 = 0x4000_0000;
/// Registers of its SMMU (IHI 0070, 6.3): CMDQ_BASE, EVENTQ_BASE.
const CMDQ_BASE: u64 = 0x90;
const EVENTQ_BASE: u64 = 0xa0;
/// The attacker's device is 00:02.0.
const STREAM: u64 = 0x10;
/// The DMA window in the configuration.
const WINDOW: Range<u64> = 0x43ff_0000..0x4400_0000;

/// RAM of a machine at one moment.
pub struct Memory(pub Vec<u8>);

impl Memory {
    /// Takes it, with all CPUs stopped.
    pub fn save(monitor: &mut Monitor, len: u64) -> Result<Self> {
        monitor.stop()?;
        let bytes = monitor.memory(RAM, len)?;
        monitor.cont()?;
        ensure!(bytes.len() as u64 == len, "QEMU saved too little memory");
        Ok(Self(bytes))
    }

    /// The bytes of `range`.
    pub fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        let at = |address: u64| usize::try_from(address.checked_sub(RAM)?).ok();
        self.0.get(at(range.start)?..at(range.end)?)
    }

    /// The word at `address`.
    pub fn word(&self, address: u64) -> Result<u64> {
        let bytes = self.bytes(address..address + 8);
        let bytes = bytes.with_context(|| format!("{address:#x} is not in RAM"))?;
        Ok(u64::from_le_bytes(bytes.try_into()?))
    }

    /// The words of `range`.
    pub fn words(&self, range: Range<u64>) -> Option<Vec<u64>> {
        let (words, _) = self.bytes(range)?.as_chunks::<8>();
        Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// All of RAM but `holes`.
    pub fn without(&self, holes: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut holes = holes.to_vec();
        holes.sort_by_key(|hole| hole.start);
        let mut left = Vec::new();
        let mut at = RAM;
        for hole in holes {
            left.push(at..hole.start.max(at));
            at = at.max(hole.end);
        }
        left.push(at..RAM + self.0.len() as u64);
        left.retain(|range| !range.is_empty());
        left
    }

    /// The first address in `range` where `other` holds another byte.
    pub fn difference(&self, other: &Self, range: Range<u64>) -> Option<u64> {
        let (ours, theirs) = (self.bytes(range.clone())?, other.bytes(range.clone())?);
        let at = ours.iter().zip(theirs).position(|(a, b)| a != b)?;
        Some(range.start + at as u64)
    }
}

/// See the module's description.
pub struct Layout {
    /// RAM of partitions, by name.
    partitions: Vec<(String, Range<u64>)>,
    /// RAM of the canary.
    pub canary: Range<u64>,
    /// Code and constants of the hypervisor.
    pub constant: Range<u64>,
    /// What it writes at any time: data in its image, heap, stacks.
    pub changing: [Range<u64>; 3],
    /// Configuration and guests behind its image.
    pub bundle: u64,
    /// Stream table, level 1.
    pub stream_table: u64,
    /// The attacker's device in it.
    pub stream_entry: u64,
    /// Stage 2 of that device.
    pub table: u64,
    /// Commands to the SMMU.
    pub command_queue: Range<u64>,
    /// Events from it.
    pub event_queue: Range<u64>,
}

impl Layout {
    /// Finds out, and checks that what was found is that.
    pub fn find(
        context: &Context,
        console: &str,
        monitor: &mut Monitor,
        memory: &Memory,
    ) -> Result<Self> {
        let partition = |name: &str| -> Result<Range<u64>> {
            let text = lines::hypervisor(console, &format!("partition {name}: memory "))?;
            let (base, len) = lines::range(text)?;
            Ok(base..base + len)
        };
        let image = image(context, memory)?;
        let elf = context.hypervisor()?.elf;
        let symbol = |name| {
            let offset = build::symbol(&elf, name)? - build::symbol(&elf, "__image_start")?;
            anyhow::Ok(image + offset)
        };
        let (constants_end, bundle) = (symbol("__rodata_end")?, symbol("__bundle_start")?);
        let heap = said(console, "heap at ")?;
        let stacks = said(console, "stacks at ")?;

        let stream_table = register(monitor, STRTAB_BASE)? & ADDRESS & !0x3f;
        let two_levels = register(monitor, STRTAB_BASE_CFG)? >> 16 & 3 == 1;
        let entries = match two_levels {
            // A level 1 descriptor: L2Ptr, and Span in its low bits (5.1).
            true => memory.word(stream_table)? & ADDRESS & !0x3f,
            false => stream_table,
        };
        let stream_entry = entries + STREAM * 64;
        let first = memory.word(stream_entry)?;
        ensure!(
            first & 0xf == 0b1101,
            "the device's stream table entry is {first:#x}: not stage 2"
        );
        let table = memory.word(stream_entry + 24)? & ADDRESS & !0xf;
        let queue = |register: u64, entry: u64| {
            let base = register & ADDRESS & !0x1f;
            base..base + (entry << (register & 0x1f))
        };
        let layout = Self {
            partitions: vec![
                ("attacker".into(), partition("attacker")?),
                ("canary".into(), partition("canary")?),
            ],
            canary: partition("canary")?,
            constant: image..constants_end,
            changing: [constants_end..bundle, heap, stacks],
            bundle,
            stream_table,
            stream_entry,
            table,
            command_queue: queue(register(monitor, CMDQ_BASE)?, 16),
            event_queue: queue(register(monitor, EVENTQ_BASE)?, 32),
        };
        layout.check(memory)?;
        Ok(layout)
    }

    /// RAM of a partition.
    pub fn partition(&self, name: &str) -> Result<Range<u64>> {
        let found = self.partitions.iter().find(|(other, _)| other == name);
        Ok(found.context("no such partition")?.1.clone())
    }

    /// What the device may reach, as it sees addresses.
    pub fn window(&self) -> Range<u64> {
        WINDOW
    }

    /// Every part is in RAM, apart from the others, and outside of the window's numbers.
    fn check(&self, memory: &Memory) -> Result<()> {
        let single = |at: u64| at..at + 64;
        let parts = [
            self.constant.clone(),
            self.changing[0].clone(),
            self.changing[1].clone(),
            self.changing[2].clone(),
            single(self.bundle),
            single(self.stream_table),
            single(self.stream_entry),
            single(self.table),
            self.command_queue.clone(),
            self.event_queue.clone(),
            self.partition("attacker")?,
            self.canary.clone(),
        ];
        for (index, part) in parts.iter().enumerate() {
            ensure!(
                !part.is_empty() && memory.bytes(part.clone()).is_some(),
                "{part:x?} is not in RAM"
            );
            let overlaps = |other: &Range<u64>| part.start < other.end && other.start < part.end;
            if let Some(other) = parts[..index].iter().find(|other| overlaps(other)) {
                anyhow::bail!("{part:x?} and {other:x?} overlap");
            }
            let own = index == parts.len() - 2;
            ensure!(
                own || !overlaps(&WINDOW),
                "{part:x?} has numbers of the window"
            );
        }
        Ok(())
    }
}

/// Where the hypervisor was loaded: its code is nowhere else behind a 2 MiB boundary. The page before it has the headers,
/// which packing completes.
pub fn image(context: &Context, memory: &Memory) -> Result<u64> {
    let file = fs::read(context.hypervisor()?.flat)?;
    let code = file.get(4096..8192).context("a short image")?;
    let mut found = (RAM..RAM + memory.0.len() as u64)
        .step_by(2 << 20)
        .filter(|at| memory.bytes(at + 4096..at + 8192) == Some(code));
    let image = found.next().context("the hypervisor is not in memory")?;
    ensure!(found.next().is_none(), "the hypervisor is there twice");
    Ok(image)
}

/// `WHAT0xBASE+0xLENGTH` in one of the first lines.
fn said(console: &str, what: &str) -> Result<Range<u64>> {
    let (_, text) = console
        .split_once(what)
        .with_context(|| format!("the hypervisor does not say its {what}"))?;
    let (base, len) = lines::range(text)?;
    Ok(base..base + len)
}
