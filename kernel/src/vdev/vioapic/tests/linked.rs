//! Devices' lines through the I/O APIC to local APICs, beside what has to be true of interrupts in general.

use super::{Vioapic, program};
use crate::vdev::msi::Interrupt;
use crate::vdev::vlapic::{Effects, Vlapics};
use proptest::prelude::*;

const CPUS: usize = 3;

struct Machine {
    io: Vioapic,
    local: Vlapics,
    high: [bool; 4],
}

impl Machine {
    /// Pin n: vector 0x40 + 0x10 * n for CPU n % 3; even ones by level.
    fn new() -> Self {
        let mut local = Vlapics::new(CPUS, 0).unwrap();
        for cpu in 0..CPUS {
            local.set_running(cpu);
            local.write(cpu, 0xf0, 4, 0x1ff, 0);
        }
        let mut io = Vioapic::new();
        for pin in 0..4u64 {
            let level = if pin % 2 == 0 { 0x8000 } else { 0 };
            program(
                &mut io,
                pin as u8,
                (pin % 3) << 56 | level | (0x40 + 0x10 * pin),
            );
        }
        Self {
            io,
            local,
            high: [false; 4],
        }
    }

    fn settle(&mut self) -> usize {
        let mut sent = 0;
        while let Some(msi) = self.io.next_message() {
            let Some(Interrupt::Message(message)) = msi.decode() else {
                panic!("{msi:?}")
            };
            assert_ne!(self.local.deliver(&message), Effects::default());
            sent += 1;
        }
        sent
    }

    fn set(&mut self, pin: usize, high: bool) {
        self.high[pin] = high;
        self.io.set_line(pin, high);
        self.settle();
    }

    fn end(&mut self, cpu: usize) {
        let effects = self.local.write(cpu, 0xb0, 4, 0, 0);
        if let Some(vector) = effects.end {
            self.io.end(vector);
            assert!(self.settle() <= 1, "one pin has this vector");
        }
    }
}

proptest! {
    #[test]
    fn a_level_comes_as_long_as_it_is_high_and_an_edge_once(
        steps in prop::collection::vec((0..4usize, 0..4u8), 1..200)
    ) {
        let mut machine = Machine::new();
        // Edges that have not been taken yet: one request, however many there were.
        let mut open = [false; 4];
        let mut running: [Vec<usize>; CPUS] = Default::default();
        for (n, what) in steps {
            match what {
                0 => {
                    open[n] |= n % 2 == 1 && !machine.high[n];
                    machine.set(n, true);
                }
                1 => machine.set(n, false),
                2 => {
                    let cpu = n % CPUS;
                    if let Some(vector) = machine.local.acknowledge(cpu) {
                        let pin = usize::from(vector - 0x40) / 0x10;
                        prop_assert_eq!(pin % 3, cpu);
                        prop_assert!(pin % 2 == 0 || open[pin], "an edge nobody sent");
                        open[pin] = false;
                        running[cpu].push(pin);
                    }
                }
                _ => {
                    running[n % CPUS].pop();
                    machine.end(n % CPUS);
                }
            }
        }
        // In the end everybody hears of what is still there, and of nothing else.
        for (cpu, running) in running.iter().enumerate() {
            for _ in running {
                machine.end(cpu);
            }
        }
        for pin in (0..4usize).rev() {
            let cpu = pin % 3;
            let vector = 0x40 + 0x10 * pin as u8;
            let mut seen = 0;
            // A level that fell may have been sent before.
            for _ in 0..3 {
                if machine.local.pending(cpu) == Some(vector) {
                    machine.local.acknowledge(cpu);
                    machine.end(cpu);
                    seen += 1;
                }
            }
            match (pin % 2 == 0, machine.high[pin], open[pin]) {
                (true, true, _) => prop_assert_eq!(seen, 3, "pin {} is high", pin),
                (true, false, _) => prop_assert!(seen <= 1),
                (false, _, open) => prop_assert_eq!(seen, usize::from(open)),
            }
            machine.set(pin, false);
            if machine.local.acknowledge(cpu).is_some() {
                machine.end(cpu);
            }
        }
        for cpu in 0..CPUS {
            prop_assert_eq!(machine.local.pending(cpu), None);
        }
    }
}
