//! The register file (11.4).

use alloc::vec::Vec;

use super::{Config, State, VtdModel};
use crate::hal::Mmio;

/// What the registers hold.
#[derive(Default)]
pub(super) struct Registers {
    /// State bits of GSTS in force: TES, QIES, IRES, CFIS; and RTPS, IRTPS.
    pub status: u32,
    /// What GSTS reads as for some more reads.
    pub shown: Option<(u32, u32)>,
    pub root: u64,
    /// RTADDR as SRTP took it.
    pub root_in_force: u64,
    pub interrupts: u64,
    /// IRTA as SIRTP took it.
    pub interrupts_in_force: u64,
    pub ccmd: u64,
    pub iva: u64,
    pub iotlb: u64,
    /// Reads of CCMD or IOTLB until they are done.
    pub invalidation_reads: u32,
    /// PFO, IQE, ICE, ITE.
    pub fsts: u32,
    pub fri: usize,
    pub next_record: usize,
    pub fectl: u32,
    pub fedata: u32,
    pub feaddr: u32,
    pub feuaddr: u32,
    pub iectl: u32,
    pub pmen: u32,
    pub low: (u32, u32),
    pub high: (u64, u64),
    pub iqa: u64,
    pub iqh: u64,
    pub iqt: u64,
    pub iqercd: u64,
    pub pqh: u64,
    pub pqt: u64,
    pub pqa: u64,
    /// PPR, PRO.
    pub prs: u32,
    pub pectl: u32,
    pub pedata: u32,
    pub peaddr: u32,
    pub peuaddr: u32,
    pub records: Vec<[u64; 2]>,
}

pub(super) const TES: u32 = 1 << 31;
pub(super) const RTPS: u32 = 1 << 30;
pub(super) const WBFS: u32 = 1 << 27;
pub(super) const QIES: u32 = 1 << 26;
pub(super) const IRES: u32 = 1 << 25;
pub(super) const IRTPS: u32 = 1 << 24;
pub(super) const CFIS: u32 = 1 << 23;

/// FSTS.
pub(super) const PFO: u32 = 1;
pub(super) const PPF: u32 = 2;
pub(super) const IQE: u32 = 1 << 4;
pub(super) const ICE: u32 = 1 << 5;
pub(super) const ITE: u32 = 1 << 6;

/// FECTL.
pub(super) const IM: u32 = 1 << 31;
pub(super) const IP: u32 = 1 << 30;

impl Registers {
    /// As reset leaves them.
    pub fn new(config: &Config) -> Self {
        Self {
            fectl: IM,
            iectl: IM,
            pectl: IM,
            records: alloc::vec![[0; 2]; config.fault_records.1],
            ..Self::default()
        }
    }

    pub fn is_on(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// Whether a record is there.
    pub fn pending(&self) -> bool {
        self.records.iter().any(|record| record[1] >> 63 != 0)
    }
}

impl State {
    /// A register of 32 bits, or half of one of 64.
    fn read_half(&mut self, offset: usize) -> u32 {
        let config = self.config;
        let registers = &mut self.registers;
        let half = |value: u64| (value >> (offset % 8 * 8)) as u32;
        match offset {
            0x00 => 0x10,
            0x08 | 0x0c => half(config.cap()),
            0x10 | 0x14 => half(config.ecap()),
            0x1c => match &mut registers.shown {
                Some((left, old)) if *left > 0 => {
                    *left -= 1;
                    *old
                }
                _ => registers.status,
            },
            0x20 | 0x24 => half(registers.root),
            0x28 | 0x2c => {
                let ccmd = self.finish_by_register(false);
                half(ccmd)
            }
            0x34 => {
                let pending = if registers.pending() { PPF } else { 0 };
                registers.fsts | pending | (registers.fri as u32) << 8
            }
            0x38 => registers.fectl,
            0x3c => registers.fedata,
            0x40 => registers.feaddr,
            0x44 => registers.feuaddr,
            0x64 if config.protected_memory => registers.pmen | registers.pmen >> 31,
            0x68 if config.protected_memory => registers.low.0,
            0x6c if config.protected_memory => registers.low.1,
            0x70 | 0x74 if config.protected_memory => half(registers.high.0),
            0x78 | 0x7c if config.protected_memory => half(registers.high.1),
            0x80 | 0x84 => half(registers.iqh),
            0x88 | 0x8c => half(registers.iqt),
            0x90 | 0x94 => half(registers.iqa),
            0xa0 => registers.iectl,
            0xb0 | 0xb4 => half(registers.iqercd),
            0xb8 | 0xbc => half(registers.interrupts),
            0xc0 | 0xc4 if config.page_requests => half(registers.pqh),
            0xc8 | 0xcc if config.page_requests => half(registers.pqt),
            0xd0 | 0xd4 if config.page_requests => half(registers.pqa),
            0xdc if config.page_requests => registers.prs,
            0xe0 if config.page_requests => registers.pectl,
            0xe4 if config.page_requests => registers.pedata,
            0xe8 if config.page_requests => registers.peaddr,
            0xec if config.page_requests => registers.peuaddr,
            _ => {
                if let Some(at) = offset.checked_sub(config.iotlb_registers)
                    && (8..16).contains(&at)
                {
                    let iotlb = self.finish_by_register(true);
                    return half(iotlb);
                }
                let (base, count) = config.fault_records;
                match offset.checked_sub(base) {
                    Some(at) if at < count * 16 => half(registers.records[at / 16][at % 16 / 8]),
                    _ => 0,
                }
            }
        }
    }

    fn write_half(&mut self, offset: usize, value: u32) {
        let registers = &mut self.registers;
        match offset {
            0x18 => self.command(value),
            0x34 => {
                let clear = value & (PFO | IQE | ICE | ITE);
                let stopped = registers.fsts & IQE != 0;
                registers.fsts &= !clear;
                self.settle_event();
                if stopped && clear & IQE != 0 {
                    self.serve_queue();
                }
            }
            0x38 => {
                registers.fectl = registers.fectl & IP | value & IM;
                if value & IM == 0 && registers.fectl & IP != 0 {
                    registers.fectl &= !IP;
                    self.send_event();
                }
            }
            0x3c => registers.fedata = value,
            0x40 => registers.feaddr = value & !3,
            0x44 => registers.feuaddr = value,
            0x64 if self.config.protected_memory => registers.pmen = value & IM,
            0x68 => registers.low.0 = value,
            0x6c => registers.low.1 = value,
            0xa0 => registers.iectl = value & IM,
            0xdc if self.config.page_requests => self.clear_request_status(value),
            0xe0 if self.config.page_requests => {
                registers.pectl = registers.pectl & IP | value & IM;
                if value & IM == 0 && registers.pectl & IP != 0 {
                    registers.pectl &= !IP;
                    self.send_request_event();
                }
            }
            0xe4 if self.config.page_requests => registers.pedata = value & 0xffff,
            0xe8 if self.config.page_requests => registers.peaddr = value & !3,
            0xec if self.config.page_requests => registers.peuaddr = value,
            _ => {
                let (base, count) = self.config.fault_records;
                if let Some(at) = offset.checked_sub(base)
                    && at < count * 16
                    && at % 16 == 12
                    && value >> 31 != 0
                {
                    registers.records[at / 16][1] &= !(1 << 63);
                    self.settle_event();
                }
            }
        }
    }

    fn write_whole(&mut self, offset: usize, value: u64) {
        let registers = &mut self.registers;
        match offset {
            0x20 => registers.root = value,
            0x28 => self.by_register(value, false),
            0x70 => registers.high.0 = value,
            0x78 => registers.high.1 = value,
            0x88 => self.write_tail(value),
            0x90 => self.write_queue(value),
            0xb8 => registers.interrupts = value,
            0xc0 | 0xc8 | 0xd0 if self.config.page_requests => {
                self.write_request_queue(offset, value);
            }
            _ => match offset.checked_sub(self.config.iotlb_registers) {
                Some(0) => registers.iva = value,
                Some(8) => self.by_register(value, true),
                _ => {
                    self.write_half(offset, value as u32);
                    self.write_half(offset + 4, (value >> 32) as u32);
                }
            },
        }
    }

    /// The event condition changed: a message that waits for its mask may have nothing to say any more (11.4, FECTL.IP).
    fn settle_event(&mut self) {
        let registers = &mut self.registers;
        if !registers.pending() && registers.fsts & (PFO | IQE | ICE | ITE) == 0 {
            registers.fectl &= !IP;
        }
    }

    /// A status bit was set that the fault event is for (7.3); `first`: none was before.
    pub(super) fn raise_event(&mut self, first: bool) {
        if !first {
            return;
        }
        if self.registers.fectl & IM != 0 {
            self.registers.fectl |= IP;
        } else {
            self.send_event();
        }
    }

    fn send_event(&mut self) {
        let registers = &self.registers;
        let address = u64::from(registers.feuaddr) << 32 | u64::from(registers.feaddr);
        self.messages.push((address, registers.fedata));
    }
}

impl Mmio for VtdModel {
    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4), "offset {offset:#x}");
        let mut state = self.0.lock();
        state.accesses += 1;
        state.memory.advance(1_000);
        if state.faults.gone {
            return u32::MAX;
        }
        state.read_half(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4), "offset {offset:#x}");
        let mut state = self.0.lock();
        state.accesses += 1;
        if !state.faults.gone {
            state.write_half(offset, value);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8), "offset {offset:#x}");
        let mut state = self.0.lock();
        state.accesses += 1;
        state.memory.advance(1_000);
        if state.faults.gone {
            return u64::MAX;
        }
        let low = state.read_half(offset);
        u64::from(state.read_half(offset + 4)) << 32 | u64::from(low)
    }

    fn write64(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8), "offset {offset:#x}");
        let mut state = self.0.lock();
        state.accesses += 1;
        if !state.faults.gone {
            state.write_whole(offset, value);
        }
    }
}
