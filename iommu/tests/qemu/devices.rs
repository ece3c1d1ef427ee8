//! Devices behind the SMMU that do one DMA when they are told, and the PCI configuration that they need.
//!
//! * `iommu-testdev` (QEMU, docs/specs/iommu-testdev.rst) writes, and says whether it could.
//! * `edu` (QEMU, docs/specs/edu.rst) reads into a buffer of its own; a read that was refused leaves zeros there.

use crate::qtest::{Qtest, number};

/// A machine's memory map: configuration space, and the window for 32-bit BARs.
#[derive(Clone, Copy)]
pub struct Places {
    pub ecam: u64,
    pub window: u64,
}

/// Each device has so much of it: the register file of `edu`, and the granule of a bridge's window.
const SHARE: u64 = 1 << 20;

/// Where they are: bus, device. Those of other buses are behind root ports.
const WRITERS: [(u64, u64); 3] = [(0, 1), (0, 9), (1, 0)];
const READERS: [(u64, u64); 3] = [(0, 2), (0, 10), (2, 0)];
/// Devices of bus 0 that lead to the buses 1 and 2.
const PORTS: [u64; 2] = [3, 4];

/// StreamIDs of devices that write: PCI requester IDs.
pub const WRITING: [u32; 3] = [0x8, 0x48, 0x100];
/// StreamIDs of devices that read.
pub const READING: [u32; 3] = [0x10, 0x50, 0x200];

/// What QEMU has to be told of them.
pub fn args() -> Vec<String> {
    let mut all = Vec::new();
    let mut device = |text: String| all.extend(["-device".to_owned(), text]);
    for (index, slot) in PORTS.iter().enumerate() {
        let bus = index + 1;
        device(format!(
            "pcie-root-port,id=bus{bus},chassis={bus},bus=pcie.0,addr={slot:#x}"
        ));
    }
    let mut end = |name: &str, (bus, slot): (u64, u64)| {
        let bus = if bus == 0 {
            "pcie.0".to_owned()
        } else {
            format!("bus{bus}")
        };
        device(format!("{name},bus={bus},addr={slot:#x}"));
    };
    for place in WRITERS {
        end("iommu-testdev", place);
    }
    for place in READERS {
        end("edu,dma_mask=0xffffffffffffffff", place);
    }
    all
}

/// Numbers the buses, places the BARs, and lets all be masters.
pub fn bring_up(qtest: &mut Qtest, places: Places) -> (Vec<Writer>, Vec<Reader>) {
    let Places { ecam, window } = places;
    let config = |(bus, slot): (u64, u64)| ecam + (bus << 20) + (slot << 15);
    for (index, slot) in PORTS.into_iter().enumerate() {
        let (bus, port) = (index as u64 + 1, config((0, slot)));
        // Primary, secondary and subordinate bus; memory base and limit; command.
        qtest.tell(&format!(
            "writel {:#x} {:#x}",
            port + 0x18,
            bus << 16 | bus << 8
        ));
        let share = window + bus * SHARE;
        let both = share >> 16 | (share >> 16) << 16;
        qtest.tell(&format!("writel {:#x} {both:#x}", port + 0x20));
        qtest.tell(&format!("writew {:#x} 6", port + 4));
    }
    // The first shares are those of the buses behind the ports.
    let mut own = window + (PORTS.len() as u64 + 1) * SHARE;
    let mut place = |qtest: &mut Qtest, place: (u64, u64), id: u64| {
        let at = config(place);
        let found = qtest.number(&format!("readl {at:#x}"));
        assert_eq!(found, id, "a device that is not there");
        let bar = if place.0 == 0 {
            own += SHARE;
            own
        } else {
            window + place.0 * SHARE
        };
        qtest.tell(&format!("writel {:#x} {bar:#x}", at + 0x10));
        qtest.tell(&format!("writew {:#x} 6", at + 4));
        ((place.0 << 8 | place.1 << 3) as u32, bar)
    };
    let writers = WRITERS.map(|at| {
        let (stream, bar) = place(qtest, at, 0x0005_1b36);
        Writer { stream, bar }
    });
    let readers = READERS.map(|at| {
        let (stream, bar) = place(qtest, at, 0x11e8_1234);
        Reader { stream, bar }
    });
    assert_eq!(writers.each_ref().map(|writer| writer.stream), WRITING);
    assert_eq!(readers.each_ref().map(|reader| reader.stream), READING);
    (writers.into(), readers.into())
}

/// What `iommu-testdev` writes.
pub const WRITTEN: u32 = 0x1234_5678;

/// One `iommu-testdev`.
pub struct Writer {
    pub stream: u32,
    bar: u64,
}

impl Writer {
    /// Writes [`WRITTEN`] to `iova`, with an answer that [`Written::of`] understands, which is about the word at `at` too.
    pub fn write(&self, qtest: &mut Qtest, iova: u64, at: u64) {
        let values = [
            (0x04, iova & 0xffff_ffff),
            (0x08, iova >> 32),
            (0x1c, at & 0xffff_ffff),
            (0x20, at >> 32),
            (0x0c, 4),
            (0x14, 1),
        ];
        for (offset, value) in values {
            qtest.tell(&format!("writel {:#x} {value:#x}", self.bar + offset));
        }
        // The read of this register is the DMA.
        qtest.tell(&format!("readl {:#x}", self.bar));
        qtest.expect(&format!("readl {:#x}", self.bar + 0x10));
    }
}

/// What came of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It was done and is there.
    There,
    /// It was done and is somewhere else.
    Elsewhere,
    /// It was refused.
    Refused,
}

impl Written {
    pub fn of(answer: &str) -> Self {
        match number(answer) {
            0 => Self::There,
            0xdead_0004 => Self::Elsewhere,
            0xdead_0002 => Self::Refused,
            other => panic!("iommu-testdev: {other:#x}"),
        }
    }
}

/// Slots of a reader.
pub const SLOTS: usize = 1024;

/// Where the buffer of `edu` is, in its own addresses.
const BUFFER: u64 = 0x4_0000;

/// One `edu`.
pub struct Reader {
    pub stream: u32,
    bar: u64,
}

impl Reader {
    /// Reads 32 bits from `iova` into `slot`, and answers `lines` then.
    pub fn read(&self, qtest: &mut Qtest, iova: u64, slot: usize, lines: &[String]) -> Vec<String> {
        // Beyond its buffer it would overwrite QEMU itself.
        assert!(slot < SLOTS);
        self.copy(qtest, iova, BUFFER + slot as u64 * 4, 4, 1, lines)
    }

    /// The first `count` slots, by way of the memory at `at`.
    pub fn show(&self, qtest: &mut Qtest, at: u64, count: usize) -> Vec<u32> {
        assert!(count <= SLOTS);
        self.copy(qtest, BUFFER, at, count as u64 * 4, 3, &[]);
        for slot in 0..count as u64 {
            qtest.expect(&format!("readl {:#x}", at + slot * 4));
        }
        let words = qtest.settle();
        words.iter().map(|word| number(word) as u32).collect()
    }

    fn copy(
        &self,
        qtest: &mut Qtest,
        from: u64,
        to: u64,
        bytes: u64,
        command: u64,
        lines: &[String],
    ) -> Vec<String> {
        for (offset, value) in [(0x80, from), (0x88, to), (0x90, bytes), (0x98, command)] {
            qtest.tell(&format!("writeq {:#x} {value:#x}", self.bar + offset));
        }
        for _ in 0..MOST_POLLS {
            qtest.expect(&format!("readl {:#x}", self.bar + 0x98));
            for line in lines {
                qtest.expect(line);
            }
            let mut answers = qtest.settle();
            if number(&answers[0]) & 1 == 0 {
                answers.remove(0);
                return answers;
            }
        }
        panic!("edu does not end");
    }
}

/// A loaded machine may need some of them.
const MOST_POLLS: usize = 1_000_000;
