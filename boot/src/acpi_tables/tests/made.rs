//! Tables by hand, field by field as the specifications list them.

use super::Tables;

/// The tables of one machine.
#[derive(Clone)]
pub struct Made {
    fadt: Vec<u8>,
    pub madt: Vec<u8>,
    gtdt: Vec<u8>,
    mcfg: Vec<u8>,
    spcr: Vec<u8>,
    pub iort: Vec<u8>,
}

/// Bytes, one field after the other.
#[derive(Clone, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn header(signature: &[u8; 4], revision: u8) -> Self {
        let mut writer = Self::default();
        writer.0.extend_from_slice(signature);
        writer.u32(0).u8(revision).u8(0);
        writer.0.extend_from_slice(b"SLUICE");
        writer.0.extend_from_slice(b"MACHINE ");
        writer.u32(1).u32(0).u32(1);
        writer
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Length and checksum.
    pub fn table(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        let sum = self.0.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        self.0[9] = sum.wrapping_neg();
        self.0
    }
}

/// `rounds` tables that are `whole` but for one to four damages: a field of any width is another number, or bytes are gone,
/// are there twice, or lie elsewhere. Their headers agree with their lengths.
pub fn damaged(whole: &[u8], rounds: u32, mut read: impl FnMut(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    for _ in 0..rounds {
        let mut bytes = whole.to_vec();
        for _ in 0..1 + random(4) {
            let at = 36 + random(bytes.len() - 36);
            let len = [1, 2, 4, 8, 20][random(5)].min(bytes.len() - at);
            match random(6) {
                0 => drop(bytes.drain(at..at + len)),
                1 => {
                    let copy = bytes[at..at + len].to_vec();
                    let to = 36 + random(bytes.len() - 35);
                    bytes.splice(to..to, copy);
                }
                2 => {
                    let from = random(bytes.len() - len + 1);
                    bytes.copy_within(from..from + len, at);
                }
                _ => {
                    let numbers = [0, 1, bytes.len() as u64, u64::MAX, random(1 << 16) as u64];
                    let number = numbers[random(5)].to_le_bytes();
                    let len = len.min(8);
                    bytes[at..at + len].copy_from_slice(&number[..len]);
                }
            }
            // What is left holds a header and a field at least.
            bytes.resize(bytes.len().max(64), 0);
        }
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        read(&bytes);
    }
}

/// An IORT, node by node.
#[derive(Default)]
pub struct Iort {
    nodes: Vec<u8>,
    pub count: u32,
}

/// First input, number of inputs less one, first output, offset of the node it leads to, flags.
type Mapping = (u32, u32, u32, u32, u32);

impl Iort {
    /// Offset of the next node.
    pub fn next(&self) -> u32 {
        48 + self.nodes.len() as u32
    }

    /// One that is no part of what is read, but a node like others.
    pub fn other(&mut self, kind: u8, mappings: &[Mapping]) -> u32 {
        let mut data = Writer::default();
        data.u32(0).u64(0).u8(0);
        data.0.extend_from_slice(b"\\_SB.DEV0\0");
        self.node(kind, 1, &data, mappings)
    }

    fn node(&mut self, kind: u8, revision: u8, data: &Writer, mappings: &[Mapping]) -> u32 {
        let at = self.next();
        let start = 16 + data.0.len();
        let len = start + 20 * mappings.len();
        let mut node = Writer::default();
        node.u8(kind).u16(len as u16).u8(revision).u32(self.count);
        node.u32(mappings.len() as u32).u32(start as u32);
        node.0.extend_from_slice(&data.0);
        for &(input, count, output, to, flags) in mappings {
            node.u32(input).u32(count).u32(output).u32(to).u32(flags);
        }
        self.nodes.extend_from_slice(&node.0);
        self.count += 1;
        at
    }

    pub fn its_group(&mut self, ids: &[u32]) -> u32 {
        let mut data = Writer::default();
        data.u32(ids.len() as u32);
        for id in ids {
            data.u32(*id);
        }
        self.node(0, 1, &data, &[])
    }

    pub fn smmu(&mut self, base: u64, mappings: &[Mapping]) -> u32 {
        let mut data = Writer::default();
        // Base, flags (COHACC override), reserved, VATOS, model, event, PRI, GERR, sync, proximity, device ID mapping.
        data.u64(base).u32(1).u32(0).u64(0).u32(0);
        data.u32(106).u32(107).u32(109).u32(108).u32(0).u32(0);
        self.node(4, 4, &data, mappings)
    }

    pub fn complex(&mut self, segment: u32, mappings: &[Mapping]) -> u32 {
        let mut data = Writer::default();
        // Cache coherent, hints, reserved, flags; ATS, segment, address limit, PASID, reserved.
        data.u32(1).u8(0).u16(0).u8(3);
        data.u32(0).u32(segment).u8(64).u16(0).u8(0);
        self.node(2, 3, &data, mappings)
    }

    pub fn table(self) -> Vec<u8> {
        let mut writer = Writer::header(b"IORT", 5);
        writer.u32(self.count).u32(48).u32(0);
        writer.0.extend_from_slice(&self.nodes);
        writer.table()
    }
}

impl Made {
    pub fn two_smmus() -> Self {
        let mut fadt = Writer::header(b"FACP", 6);
        fadt.0.resize(129, 0);
        fadt.u16(1);
        fadt.0.resize(276, 0);

        let mut madt = Writer::header(b"APIC", 5);
        madt.u32(0).u32(0);
        madt.u8(0xc).u8(24).u16(0).u32(0).u64(0x800_0000).u32(0);
        madt.u8(3).u8(0).u16(0);
        for (uid, mpidr, flags) in [(0, 0, 1), (1, 0x100, 1), (2, 0x200, 0)] {
            madt.u8(0xb).u8(80).u16(0).u32(uid).u32(uid).u32(flags);
            madt.u32(0).u32(23).u64(0).u64(0).u64(0).u64(0);
            madt.u32(25).u64(0).u64(mpidr).u8(0).u8(0).u16(0);
        }
        madt.u8(0xe).u8(16).u16(0).u64(0x80a_0000).u32(0xf6_0000);
        madt.u8(0xf).u8(20).u16(0).u32(0).u64(0x808_0000).u32(0);

        let mut gtdt = Writer::header(b"GTDT", 3);
        gtdt.u64(u64::MAX).u32(0);
        for intid in [29, 30, 27, 26] {
            gtdt.u32(intid).u32(4);
        }
        gtdt.u64(u64::MAX).u32(0).u32(0).u32(0).u32(0);

        let mut mcfg = Writer::header(b"MCFG", 1);
        mcfg.u64(0);
        mcfg.u64(0x40_1000_0000).u16(0).u8(0).u8(255).u32(0);

        let mut spcr = Writer::header(b"SPCR", 2);
        spcr.u8(3).u8(0).u16(0);
        spcr.u8(0).u8(32).u8(0).u8(3).u64(0x900_0000);
        spcr.u8(8).u8(0).u32(33).u8(3);
        spcr.0.resize(80, 0);

        let mut iort = Iort::default();
        let its = iort.its_group(&[0]);
        let first = iort.smmu(0x905_0000, &[(0, 0xffff, 0, its, 0)]);
        let second = iort.smmu(0x907_0000, &[(0, 0xffff, 0x4000, its, 0)]);
        // A named component, an older SMMU, a PMCG and reserved memory (DEN0049, 3.1.1).
        for kind in [1, 3, 5, 6] {
            iort.other(kind, &[(0, 0, 0x77, first, 1)]);
        }
        iort.complex(0, &[(0, 0x7ff, 0, first, 0)]);
        iort.complex(0, &[(0x800, 0xf7ff, 0, second, 0)]);
        Self {
            fadt: fadt.table(),
            madt: madt.table(),
            gtdt: gtdt.table(),
            mcfg: mcfg.table(),
            spcr: spcr.table(),
            iort: iort.table(),
        }
    }

    pub fn tables(&self) -> Tables<'_> {
        Tables {
            fadt: Some(&self.fadt),
            madt: Some(&self.madt),
            gtdt: Some(&self.gtdt),
            mcfg: Some(&self.mcfg),
            spcr: Some(&self.spcr),
            iort: Some(&self.iort),
            dsdt: None,
            dmar: None,
        }
    }

    pub fn bytes(&self, table: usize) -> &[u8] {
        [
            &self.fadt, &self.madt, &self.gtdt, &self.mcfg, &self.spcr, &self.iort,
        ][table]
    }

    pub fn bytes_mut(&mut self, table: usize) -> &mut [u8] {
        [
            &mut self.fadt,
            &mut self.madt,
            &mut self.gtdt,
            &mut self.mcfg,
            &mut self.spcr,
            &mut self.iort,
        ][table]
    }
}
