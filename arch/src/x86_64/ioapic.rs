//! An I/O APIC (Intel 82093AA data sheet, 3.2): where each of its inputs goes.

use crate::mmio::MmioRegion;

/// IOREGSEL and IOWIN.
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
/// IOAPICVER, with the number of the last input in bits 23:16.
const VERSION: u32 = 1;
/// The lower half of the first entry; two registers each.
const FIRST: u32 = 0x10;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const LOW: u32 = 1 << 13;

/// How an input is wired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Edge-triggered; level otherwise.
    pub edge: bool,
    /// Active low; high otherwise.
    pub low: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct IoApic {
    registers: MmioRegion,
    inputs: u32,
}

impl IoApic {
    /// Owns `registers`; every input is masked.
    pub fn new(registers: MmioRegion) -> Self {
        let mut io_apic = Self {
            registers,
            inputs: 0,
        };
        io_apic.inputs = (io_apic.read(VERSION) >> 16 & 0xff) + 1;
        for input in 0..io_apic.inputs {
            io_apic.mask(input);
        }
        io_apic
    }

    /// How many inputs there are.
    pub fn inputs(&self) -> u32 {
        self.inputs
    }

    /// Nothing comes from `input` any more.
    pub fn mask(&mut self, input: u32) {
        self.entry(input, 0, MASKED);
    }

    /// Sends `input` to the CPU with APIC ID `id`, less than 255, as `vector`: fixed, physical destination (3.2.4).
    pub fn route(&mut self, input: u32, wire: Wire, id: u8, vector: u8) {
        self.entry(input, u32::from(id) << 24, Self::pin(wire, vector));
    }

    /// Sends `input` as `vector` where the interrupt remapping's entry says that `entry`, the unit's part of the redirection
    /// entry, leads to (VT-d, 5.1.5.1).
    pub fn route_remapped(&mut self, input: u32, wire: Wire, entry: u64, vector: u8) {
        let low = entry as u32 | Self::pin(wire, vector);
        self.entry(input, (entry >> 32) as u32, low);
    }

    fn pin(wire: Wire, vector: u8) -> u32 {
        let level = if wire.edge { 0 } else { LEVEL };
        let low = if wire.low { LOW } else { 0 };
        u32::from(vector) | level | low
    }

    /// Masked while it is changed, so that no half of it is used with the other half of what was before.
    fn entry(&mut self, input: u32, high: u32, low: u32) {
        if input >= self.inputs {
            return;
        }
        let register = FIRST + 2 * input;
        self.write(register, MASKED);
        self.write(register + 1, high);
        self.write(register, low);
    }

    fn read(&mut self, register: u32) -> u32 {
        self.registers.write32(SELECT, register);
        self.registers.read32(WINDOW)
    }

    fn write(&mut self, register: u32, value: u32) {
        self.registers.write32(SELECT, register);
        self.registers.write32(WINDOW, value);
    }
}

#[cfg(test)]
mod tests {
    use super::{IoApic, Wire};
    use crate::host::mmio::Device;
    use crate::mmio::MmioRegion;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;
    use std::sync::Mutex;

    /// The register that is selected, all of them, and every write in order.
    #[derive(Default)]
    struct State {
        selected: u32,
        registers: Vec<u32>,
        writes: Vec<(u32, u32)>,
    }

    /// An I/O APIC with 24 inputs.
    struct Fake(Mutex<State>);

    impl Device for Fake {
        fn read(&self, offset: u64, size: usize) -> u64 {
            assert_eq!((offset, size), (0x10, 4));
            let state = self.0.lock().unwrap();
            match state.selected {
                1 => 0x0017_0020,
                register => state.registers[register as usize].into(),
            }
        }

        fn write(&self, offset: u64, size: usize, value: u64) {
            assert_eq!(size, 4);
            let mut state = self.0.lock().unwrap();
            match offset {
                0 => state.selected = value as u32,
                _ => {
                    let register = state.selected;
                    state.registers[register as usize] = value as u32;
                    state.writes.push((register, value as u32));
                }
            }
        }
    }

    fn io_apic() -> (Arc<Fake>, IoApic) {
        let fake = Arc::new(Fake(Mutex::new(State {
            registers: vec![0; 0x40],
            ..State::default()
        })));
        let region = MmioRegion::fake(0xfec0_0000, 0x1000, fake.clone());
        (fake, IoApic::new(region))
    }

    #[test]
    fn nothing_interrupts_at_first() {
        let (fake, io_apic) = io_apic();
        assert_eq!(io_apic.inputs(), 24);
        let state = fake.0.lock().unwrap();
        assert!((0..24).all(|input| state.registers[0x10 + 2 * input] == 1 << 16));
    }

    #[test]
    fn a_route_is_masked_while_it_changes() {
        let (fake, mut io_apic) = io_apic();
        fake.0.lock().unwrap().writes.clear();
        let level = Wire {
            edge: false,
            low: true,
        };
        io_apic.route(9, level, 3, 0x41);
        let edge = Wire {
            edge: true,
            low: false,
        };
        io_apic.route(4, edge, 0, 0x40);
        io_apic.route(24, edge, 0, 0x40);
        // Index 0x8003 of a remapping table.
        io_apic.route_remapped(5, level, 3 << 49 | 1 << 48 | 1 << 11, 0x42);
        let state = fake.0.lock().unwrap();
        assert_eq!(
            state.writes,
            [
                (0x22, 0x1_0000),
                (0x23, 0x300_0000),
                (0x22, 0xa041),
                (0x18, 0x1_0000),
                (0x19, 0),
                (0x18, 0x40),
                (0x1a, 0x1_0000),
                (0x1b, 0x7_0000),
                (0x1a, 0xa842),
            ]
        );
    }
}
