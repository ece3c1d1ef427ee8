//! A guest that does anything, often something that makes sense.

use super::machine::{Bench, PARTITION_LEN};
use crate::guest_map as map;
use crate::mmio;
use crate::partition::AfterCall;
use crate::vdev::vgic::{Effects, LrState};
use arch::gic::Intid;
use iommu::addr::Gpa;
use iommu::hal::GuestMemory;

/// Where the guest puts what its ITS reads.
const QUEUE: u64 = map::RAM.0 + 0x10_0000;
const PROPERTIES: u64 = map::RAM.0 + 0x20_0000;

impl Bench {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random.word() % limit
    }

    /// Numbers that mean something, often.
    pub fn value(&mut self) -> u64 {
        let word = self.random.word();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => word & 0xff,
            3 => 1 << (word & 63),
            4 => map::RAM.0 + word % PARTITION_LEN,
            5 => map::PCI_WINDOW.base.0 + word % map::PCI_WINDOW.len,
            6 => word & 0xffff_ffff,
            _ => word,
        }
    }

    fn address(&mut self) -> u64 {
        let word = self.random.word();
        match self.below(12) {
            0 | 1 => map::GICD.base.0 + word % map::GICD.len,
            2 => map::GICD.base.0 + word % 0x1000,
            3 | 4 => map::GICR.base.0 + word % (3 * map::GICR_STRIDE),
            5 => map::GICR.base.0 + (word & 1) * map::GICR_STRIDE + 0x1_0000 + word % 0xd00,
            6 => map::ITS.base.0 + word % 0x140,
            7 => map::UART.base.0 + word % 0x1010,
            8 | 9 => map::ECAM.base.0 + (1 + (word & 1)) * 0x8000 + (word >> 8) % 0x120,
            10 => map::ECAM.base.0 + word % map::ECAM.len,
            _ => self.value(),
        }
    }

    pub fn access(&mut self, vcpu: usize) {
        let size = 1 << self.below(4);
        let mut address = self.address();
        if self.below(8) != 0 {
            address &= !(size - 1);
        }
        let value = (self.below(3) != 0).then(|| self.value());
        let own = &self.system.partitions[0];
        mmio::access(self.system, own, vcpu, address, size as u8, value);
    }

    /// Registers in an order that makes sense, so that what is behind them is reached.
    pub fn set_up(&mut self, vcpu: usize) {
        let width = self.below(32);
        let gicr = map::GICR.base.0 + vcpu as u64 * map::GICR_STRIDE;
        let its = map::ITS.base.0;
        for (address, size, value) in [
            (map::GICD.base.0, 4, 0x13),
            (gicr + 0x70, 8, PROPERTIES | width),
            (gicr, 4, 1),
            (its, 4, 0),
            (its + 0x100, 8, 1 << 63 | QUEUE | 0x200 | 7),
            (its + 0x108, 8, 1 << 63 | QUEUE),
            (its + 0x80, 8, 1 << 63 | QUEUE),
            (its, 4, 1),
        ] {
            let own = &self.system.partitions[0];
            mmio::access(self.system, own, vcpu, address, size, Some(value));
        }
    }

    /// Commands that often make sense.
    pub fn commands(&mut self, vcpu: usize) {
        let own = &self.system.partitions[0];
        let read = mmio::access(self.system, own, vcpu, map::ITS.base.0 + 0x88, 8, None);
        let mut at = read.unwrap_or(0) & 0xfe0;
        for _ in 0..self.below(8) {
            let opcode = if self.below(8) == 0 {
                self.below(256)
            } else {
                1 + self.below(15)
            };
            let device = [8, 0x10, 0x18][self.below(3) as usize];
            let event = self.below(70);
            let lpi = 8192 + self.below(80);
            let target = self.below(3) << 16;
            let words = [
                device << 32 | opcode,
                lpi << 32 | if opcode == 8 { 6 } else { event },
                u64::from(self.below(4) != 0) << 63 | target | self.below(3),
                if self.below(4) == 0 {
                    self.value()
                } else {
                    target
                },
            ];
            for (n, word) in (0..).zip(words) {
                let to = Gpa(QUEUE + at + 8 * n);
                self.system.partitions[0]
                    .ram
                    .write(to, &word.to_le_bytes())
                    .unwrap();
            }
            let property = Gpa(PROPERTIES + lpi - 8192);
            let byte = self.random.word() as u8;
            self.system.partitions[0]
                .ram
                .write(property, &[byte])
                .unwrap();
            at = (at + 32) % 0x1000;
        }
        let doorbell = map::ITS.base.0 + 0x88;
        let own = &self.system.partitions[0];
        mmio::access(self.system, own, vcpu, doorbell, 8, Some(at));
    }

    /// Moves the NVMe's BAR, on and off.
    pub fn move_bar(&mut self, vcpu: usize) {
        let config = map::ECAM.base.0 + 0x8000;
        let to = map::PCI_WINDOW.base.0 + self.below(0x4000) * 0x4000;
        for (register, value) in [(0x10, to), (0x04, 6 * self.below(2))] {
            let own = &self.system.partitions[0];
            mmio::access(self.system, own, vcpu, config + register, 4, Some(value));
        }
    }

    /// What devices and the console do meanwhile.
    pub fn outside(&mut self) {
        let lpi = 8190 + self.below(150) as u32;
        self.system.message(Intid(lpi));
        if self.below(4) == 0 {
            let spi = [33, 36, 37, 40, 41, 106, 109][self.below(7) as usize];
            self.system.shared_interrupt(Intid(spi));
        }
        let byte = self.random.word() as u8;
        self.system.partitions[0].receive(self.system, byte);
    }

    pub fn call(&mut self, vcpu: usize) -> AfterCall {
        let functions = [
            0x8400_0000,
            0x8400_0001,
            0x8400_0002,
            0xc400_0003,
            0xc400_0003,
            0xc400_0004,
            0x8400_0008,
            0x8400_0009,
        ];
        let mut registers: [u64; 8] = core::array::from_fn(|_| self.value());
        if self.below(8) != 0 {
            registers[0] = functions[self.below(functions.len() as u64) as usize];
            registers[1] = self.below(3);
        }
        self.system.partitions[0].call(self.system, vcpu, &registers)
    }
}

/// A vCPU as `vcpu::run` drives it.
pub struct Cpu {
    lists: LrState,
    /// In the guest.
    pub inside: bool,
}

impl Cpu {
    pub fn new() -> Self {
        Self {
            lists: LrState {
                lr: [0; 16],
                used: 0,
                count: 4,
                hcr: 0,
                vmcr: 0,
            },
            inside: false,
        }
    }

    /// The guest runs for a while: it takes, ends and leaves what is in its list registers.
    pub fn run(&mut self, bench: &mut Bench, vcpu: usize) {
        let own = &bench.system.partitions[0];
        own.vgic.lock().flush(vcpu, &mut self.lists);
        for lr in &mut self.lists.lr[..4] {
            let state = *lr >> 62;
            if state != 0 {
                let new = [state, 2, 0, state & 2][bench.below(4) as usize];
                *lr = *lr & !(3 << 62) | new << 62;
            }
        }
        self.lists.hcr |= bench.below(32) << 27;
        self.lists.vmcr = bench.value();
        let mut effects = Effects::default();
        own.vgic.lock().sync(vcpu, &mut self.lists, &mut effects);
        bench.system.apply(own, &effects);
    }
}
