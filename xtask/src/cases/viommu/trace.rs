//! What QEMU's trace says of its SMMU, as counts and sets, and how they agree with the hypervisor's own.

use super::lines;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// The events that [`Trace::parse`] reads.
pub const EVENTS: [&str; 8] = [
    "smmuv3_cmdq_opcode",
    "smmuv3_cmdq_tlbi_nh",
    "smmuv3_cmdq_tlbi_s12_vmid",
    "smmuv3_range_inval",
    "smmuv3_translate_*",
    "smmuv3_propagate_event",
    "smmu_iotlb_insert",
    "smmu_iotlb_inv_asid_vmid",
];

/// QEMU's names of commands (behind `SMMU_CMD_`), and their opcodes (IHI 0070, 4.1.1).
const OPCODES: [(&str, u64); 13] = [
    ("CFGI_STE", 0x03),
    ("CFGI_STE_RANGE", 0x04),
    ("CFGI_CD", 0x05),
    ("CFGI_CD_ALL", 0x06),
    ("TLBI_NH_ALL", 0x10),
    ("TLBI_NH_ASID", 0x11),
    ("TLBI_NH_VA", 0x12),
    ("TLBI_NH_VAA", 0x13),
    ("TLBI_S12_VMALL", 0x28),
    ("TLBI_S2_IPA", 0x2a),
    ("TLBI_NSNH_ALL", 0x30),
    ("ATC_INV", 0x40),
    ("SYNC", SYNC),
];
const SYNC: u64 = 0x46;
/// By address: as precise as a driver that unmaps is.
pub const TLBI_NH_VA: u64 = 0x12;

/// Counts and sets of all that a trace has.
#[derive(Default, Debug)]
pub struct Trace {
    /// Commands by opcode.
    pub commands: BTreeMap<u64, u64>,
    /// Streams whose DMA went through both stages, with the VMID of what was cached for it.
    pub nested: BTreeSet<(u64, u64)>,
    /// VMIDs that invalidations named.
    pub invalidated: BTreeSet<u64>,
    /// Event records, by stream.
    pub events: BTreeMap<u64, u64>,
    /// Transactions that passed without translation, or by one stage only.
    pub single: u64,
    /// Transactions that both stages translated.
    pub both: u64,
}

impl Trace {
    /// Reads a trace; lines of other events are passed over.
    pub fn parse(text: &str) -> Result<Self> {
        let mut trace = Self::default();
        // What was cached since the last transaction: QEMU translates one at a time.
        let mut cached = Vec::new();
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let field = |key: &str| {
                let value = value(rest, key);
                value.with_context(|| format!("QEMU's trace has changed: {line}"))
            };
            match name {
                "smmuv3_cmdq_opcode" => {
                    let command = rest.trim_end().rsplit("SMMU_CMD_").next();
                    let known = OPCODES.iter().find(|(name, _)| Some(*name) == command);
                    let (_, opcode) = known.with_context(|| format!("a new command: {line}"))?;
                    *trace.commands.entry(*opcode).or_default() += 1;
                }
                "smmuv3_cmdq_tlbi_nh"
                | "smmuv3_cmdq_tlbi_s12_vmid"
                | "smmuv3_range_inval"
                | "smmu_iotlb_inv_asid_vmid" => {
                    trace.invalidated.insert(unsigned(field("vmid")?)?);
                }
                "smmuv3_propagate_event" => {
                    *trace.events.entry(unsigned(field("sid")?)?).or_default() += 1;
                }
                // What stage 2 alone cached, for walks, has no ASID.
                "smmu_iotlb_insert" if field("asid")? >= 0 => {
                    cached.push(unsigned(field("vmid")?)?);
                }
                "smmuv3_translate_success" => {
                    let stream = unsigned(field("sid")?)?;
                    let vmids = cached.drain(..);
                    trace.nested.extend(vmids.map(|vmid| (stream, vmid)));
                    match field("stage")? {
                        3 => trace.both += 1,
                        _ => trace.single += 1,
                    }
                }
                "smmuv3_translate_abort" => cached.clear(),
                _ if name.starts_with("smmuv3_translate") => trace.single += 1,
                _ => {}
            }
        }
        Ok(trace)
    }

    /// Every command, CMD_SYNC and event record of the trace is one that the hypervisor counted for its SMMUs, by opcode, and the other way round; and what became of each record is known: `guests` have SMMUs of their own, `others`
    /// have not. The counts, in a line.
    pub fn agrees(&self, console: &str, guests: &[&str], others: &[&str]) -> Result<String> {
        let counts = Counts::starting(console, "sent to smmu")?;
        let mut ours = BTreeMap::new();
        for line in lines::of(console, "sluice").filter(|line| line.starts_with("sent to smmu")) {
            let (_, opcodes) = line
                .split_once("by opcode:")
                .context("no opcodes in the closing line")?;
            for word in opcodes.split_whitespace() {
                let (opcode, count) = word.split_once('=').context("no count of an opcode")?;
                *ours.entry(lines::number(opcode)?).or_default() += lines::number(count)?;
            }
        }
        ensure!(
            ours == self.commands,
            "QEMU took {:x?}, Sluice sent {ours:x?}",
            self.commands
        );
        let syncs = self.commands.get(&SYNC).copied().unwrap_or(0);
        let all: u64 = self.commands.values().sum();
        ensure!(counts.get("syncs")? == syncs && counts.get("commands")? == all - syncs);

        let recorded: u64 = self.events.values().sum();
        ensure!(
            counts.get("events")? == recorded,
            "QEMU recorded {recorded} events: {counts:?}"
        );
        let mut told = lines::behind(console, "sluice", "nobody: ").and_then(lines::number)?;
        for guest in guests.iter().chain(others) {
            told += lines::summary(console, guest)?.0;
        }
        let mut batches = 0;
        for guest in guests {
            let own = Counts::of(console, guest)?;
            let [delivered, pending, dropped] =
                ["delivered", "pending", "dropped"].map(|what| own.get(what));
            let parts = delivered? + pending? + dropped?;
            ensure!(own.get("events")? == parts, "{guest}: {own:?}");
            told += parts;
            batches += own.get("batches")?;
        }
        ensure!(
            told == recorded,
            "{recorded} events were recorded, {told} counted for somebody"
        );
        // Each batch of a guest is one CMD_SYNC; the others are of the hypervisor's own.
        ensure!(batches <= syncs, "{batches} batches, {syncs} CMD_SYNCs");
        Ok(format!(
            "{} commands, {syncs} CMD_SYNCs ({batches} of guests' batches), {recorded} events: QEMU's trace has as many of each opcode",
            all - syncs
        ))
    }

    /// The DMA of `streams`, one of each guest, and of no other went through both stages, each under a VMID of its own;
    /// invalidations named these VMIDs, all of them and no other.
    pub fn separates(&self, streams: &[u64]) -> Result<()> {
        let vmids = streams.iter().map(|stream| self.vmid(*stream));
        let vmids = vmids.collect::<Result<BTreeSet<_>>>()?;
        ensure!(
            self.nested.len() == streams.len()
                && vmids.len() == streams.len()
                && self.invalidated == vmids,
            "VMIDs {:?} were cached, {:?} invalidated",
            self.nested,
            self.invalidated
        );
        Ok(())
    }

    /// The only VMID of `stream`, whose DMA both stages translate.
    pub fn vmid(&self, stream: u64) -> Result<u64> {
        let mut vmids = self.nested.iter().filter(|(of, _)| *of == stream);
        match (vmids.next(), vmids.next()) {
            (Some((_, vmid)), None) => Ok(*vmid),
            _ => bail!("stream {stream:#x}: not one VMID: {:?}", self.nested),
        }
    }
}

/// The counts of closing lines: `COUNT WHAT`, between commas, colons and semicolons.
#[derive(Default, Debug)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Those of the SMMUs of a guest.
    pub fn of(console: &str, guest: &str) -> Result<Self> {
        Self::starting(console, &format!("{guest}: its smmu"))
    }

    /// The sums of those in the hypervisor's lines that start so; there has to be one.
    fn starting(console: &str, start: &str) -> Result<Self> {
        let mut sums = Self::default();
        for line in lines::of(console, "sluice").filter(|line| line.starts_with(start)) {
            for (what, count) in parts(line) {
                *sums.0.entry(what.to_owned()).or_default() += count;
            }
        }
        ensure!(!sums.0.is_empty(), "the hypervisor has no line `{start}`");
        Ok(sums)
    }

    /// That of `what`, by its first word.
    pub fn get(&self, what: &str) -> Result<u64> {
        let found = self.0.get(what).copied();
        found.with_context(|| format!("no count of {what} in {:?}", self.0))
    }
}

fn parts(line: &str) -> impl Iterator<Item = (&str, u64)> {
    line.split([',', ':', ';']).filter_map(|part| {
        let (count, what) = part.trim().split_once(' ')?;
        Some((what.split(' ').next()?, count.parse().ok()?))
    })
}

/// The number behind `key=`, in decimal with a sign or in hexadecimal.
fn value(text: &str, key: &str) -> Option<i64> {
    let fields = text.split_whitespace();
    let value = fields.filter_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let value = value.into_iter().next()?;
    match value.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn unsigned(value: i64) -> Result<u64> {
    u64::try_from(value).ok().context("a negative number")
}

#[cfg(test)]
mod tests {
    use super::{Counts, Trace};

    const TRACE: &str = "PL011 data written to disabled UART\n\
        smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NH_VA\n\
        smmuv3_range_inval vmid=1 asid=2 addr=0xfff00000 tg=1 num_pages=0x1 ttl=3 leaf=1 stage=1\n\
        smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\n\
        smmu_iotlb_insert IOTLB ++ asid=-1 vmid=1 addr=0x40200000 tg=1 level=2\n\
        smmu_iotlb_insert IOTLB ++ asid=2 vmid=1 addr=0xfff00000 tg=1 level=3\n\
        smmuv3_translate_success smmuv3-iommu-memory-region-16-2 sid=0x10 iova=0xfff00000 translated=0x50000000 perm=0x3 stage=3\n\
        smmuv3_propagate_event F_TRANSLATION sid=0x18\n";
    const CONSOLE: &str = "[sluice] linux: 0 dma faults recorded, 0 refused accesses\n\
        [sluice] linux: its smmu0: 2 commands, 1 syncs, 1 batches, 0 streams set, 0 errors; 1 events: 1 delivered, 0 pending, 0 dropped\n\
        [sluice] nobody: 0 dma faults recorded; records lost 0 times\n\
        [sluice] sent to smmu0: 1 commands, 1 syncs; 1 events read; by opcode: 0x12=1 0x46=1\n";

    #[test]
    fn a_trace_is_counted_and_compared() {
        let trace = Trace::parse(TRACE).unwrap();
        assert_eq!((trace.both, trace.single), (1, 0));
        assert_eq!(trace.vmid(0x10).unwrap(), 1);
        assert!(trace.vmid(0x18).is_err());
        trace.separates(&[0x10]).unwrap();
        assert!(trace.separates(&[0x10, 0x18]).is_err() && trace.separates(&[]).is_err());
        trace.agrees(CONSOLE, &["linux"], &[]).unwrap();
    }

    #[test]
    fn one_more_or_less_is_a_difference() {
        let twice = format!("{TRACE}smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\n");
        let other = TRACE.replace("NH_VA", "NH_VAA");
        let silent = TRACE.replace("smmuv3_propagate_event", "smmuv3_else");
        for text in [twice, other, silent] {
            let trace = Trace::parse(&text).unwrap();
            assert!(trace.agrees(CONSOLE, &["linux"], &[]).is_err(), "{text}");
        }
        let trace = Trace::parse(TRACE).unwrap();
        for (is, not) in [("1 delivered", "0 delivered"), ("0 pending", "1 pending")] {
            let console = CONSOLE.replace(is, not);
            assert!(
                trace.agrees(&console, &["linux"], &[]).is_err(),
                "{console}"
            );
        }
        assert!(Trace::parse("smmuv3_cmdq_opcode <--- SMMU_CMD_NEW").is_err());
        assert!(Trace::parse("smmuv3_range_inval id=1").is_err());
    }

    #[test]
    fn counts_have_the_names_that_stand_behind_them() {
        let counts = Counts::of(CONSOLE, "linux").unwrap();
        assert_eq!(counts.get("commands").unwrap(), 2);
        assert!(counts.get("misses").is_err());
    }
}
