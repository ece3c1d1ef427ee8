//! What QEMU's trace says about its SMMU: register accesses, commands and translations, in order.

use anyhow::{Context, Result};

/// The events that [`Smmu::parse`] reads.
pub const EVENTS: [&str; 4] = [
    "smmuv3_read_mmio",
    "smmuv3_write_mmio",
    "smmuv3_cmdq_opcode",
    "smmuv3_translate_*",
];

// Registers and fields (IHI 0070, 6.3).
const CR0: u64 = 0x20;
const GBPA: u64 = 0x44;
pub const STRTAB_BASE: u64 = 0x80;
pub const STRTAB_BASE_CFG: u64 = 0x88;
const SMMUEN: u64 = 1;
const GBPA_UPDATE: u64 = 1 << 31;
const GBPA_ABORT: u64 = 1 << 20;

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Read(u64, u64),
    Write(u64, u64),
    Command {
        sync: bool,
    },
    /// A transaction of a device that was not aborted.
    Passed,
}

/// All of them.
pub struct Smmu(Vec<Event>);

impl Smmu {
    /// Reads a trace; lines of other events are passed over.
    pub fn parse(trace: &str) -> Result<Self> {
        let mut events = Vec::new();
        for line in trace.lines() {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let access = || {
                let field = |key: &str| {
                    let (_, text) = rest.split_once(key)?;
                    let digits = text.trim_start().strip_prefix("0x")?;
                    let end = digits.find(|c: char| !c.is_ascii_hexdigit());
                    u64::from_str_radix(&digits[..end.unwrap_or(digits.len())], 16).ok()
                };
                let access = field("addr:").zip(field("val:"));
                access.with_context(|| format!("QEMU's trace has changed: {line}"))
            };
            match name {
                "smmuv3_read_mmio" => {
                    events.push(access().map(|(at, value)| Event::Read(at, value))?)
                }
                "smmuv3_write_mmio" => {
                    events.push(access().map(|(at, value)| Event::Write(at, value))?)
                }
                "smmuv3_cmdq_opcode" => events.push(Event::Command {
                    sync: rest.contains("CMD_SYNC"),
                }),
                "smmuv3_translate_abort" => {}
                _ if name.starts_with("smmuv3_translate") => events.push(Event::Passed),
                _ => {}
            }
        }
        Ok(Self(events))
    }

    /// Register accesses until it is certain that every transaction is aborted (GBPA.ABORT was read back with no update
    /// going on, and CR0.SMMUEN as 0), and how many transactions passed before the first of them and up to there.
    pub fn denial(&self) -> Option<(u32, u32)> {
        let (mut accesses, mut passed) = (0, 0);
        let (mut aborts, mut disabled) = (false, false);
        for event in &self.0 {
            match *event {
                Event::Passed => passed += 1,
                Event::Command { .. } => {}
                Event::Read(at, value) | Event::Write(at, value) => {
                    accesses += 1;
                    let read = matches!(event, Event::Read(..));
                    match at {
                        GBPA => {
                            aborts = read && value & GBPA_ABORT != 0 && value & GBPA_UPDATE == 0
                        }
                        CR0 => disabled = read && value & SMMUEN == 0,
                        _ => {}
                    }
                }
            }
            if aborts && disabled {
                return Some((accesses, passed));
            }
        }
        None
    }

    /// Commands and CMD_SYNCs since translation is on.
    pub fn life(&self) -> (u32, u32) {
        let on = |event: &&Event| matches!(event, Event::Write(CR0, value) if value & SMMUEN != 0);
        let start = self
            .0
            .iter()
            .position(|event| on(&event))
            .unwrap_or(self.0.len());
        let count = |wanted: bool| {
            let commands = self.0[start..].iter();
            commands
                .filter(|event| matches!(event, Event::Command { sync } if *sync == wanted))
                .count() as u32
        };
        (count(false), count(true))
    }

    /// The last value written to a register.
    pub fn written(&self, register: u64) -> Option<u64> {
        self.0.iter().rev().find_map(|event| match *event {
            Event::Write(at, value) if at == register => Some(value),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{STRTAB_BASE, Smmu};

    const START: &str = "PL011 data written to disabled UART\n\
        smmuv3_write_mmio addr: 0x44 val:0x80101000 size: 0x4(0)\n\
        smmuv3_read_mmio addr: 0x44 val:0x101000 size: 0x4(0)\n\
        smmuv3_read_mmio addr: 0x20 val:0x0 size: 0x4(0)\n\
        smmuv3_write_mmio addr: 0x80 val:0x4000000040013000 size: 0x8(0)\n\
        smmuv3_cmdq_opcode <--- SMMU_CMD_CFGI_STE_RANGE\n\
        smmuv3_write_mmio addr: 0x20 val:0xd size: 0x4(0)\n\
        smmuv3_cmdq_opcode <--- SMMU_CMD_CFGI_STE\n\
        smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\n";

    #[test]
    fn a_start_is_read_as_it_happened() {
        let smmu = Smmu::parse(START).unwrap();
        assert_eq!(smmu.denial(), Some((3, 0)));
        assert_eq!(smmu.life(), (1, 1));
        assert_eq!(smmu.written(STRTAB_BASE), Some(0x4000_0000_4001_3000));
    }

    #[test]
    fn a_transaction_before_the_denial_is_seen() {
        let line = "smmuv3_translate_disable smmuv3-iommu-memory-region-16-2 sid=0x10 bypass (smmu disabled) iova:0x0 is_write=1\n";
        let smmu = Smmu::parse(&format!("{line}{START}{line}")).unwrap();
        assert_eq!(smmu.denial(), Some((3, 1)));
    }

    #[test]
    fn what_was_not_read_back_is_not_certain() {
        let smmu = Smmu::parse("smmuv3_write_mmio addr: 0x44 val:0x80101000 size: 0x4(0)").unwrap();
        assert_eq!(smmu.denial(), None);
        assert!(Smmu::parse("smmuv3_write_mmio at 0x44").is_err());
    }
}
