//! A fake PCI fabric for tests: configuration cycles find their way by the bus numbers that are programmed, BARs have
//! writable bits, and functions can misbehave. Every write is recorded.

mod function;

pub use function::FakeFunction;

use super::{Bdf, Clock, ConfigSpace, Function};
use alloc::vec::Vec;

/// Every look at the clock takes 10 µs.
#[derive(Default)]
pub struct Ticking {
    pub now: u64,
    waited: u64,
    /// Longest time in which nobody else was served.
    pub longest: u64,
}

impl Clock for Ticking {
    fn now_ns(&mut self) -> u64 {
        self.now += 10_000;
        self.now
    }

    fn wait(&mut self) {
        self.longest = self.longest.max(self.now - self.waited);
        self.waited = self.now;
    }
}

/// One write that reached a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    pub function: Function,
    pub offset: u16,
    pub len: usize,
    pub value: u32,
}

/// Root buses with what is on them.
#[derive(Clone)]
pub struct FakeBus {
    pub segment: u16,
    pub roots: Vec<(u8, Vec<FakeFunction>)>,
    pub writes: Vec<Write>,
    pub reads: u64,
}

impl FakeBus {
    pub fn new(mut roots: Vec<(u8, Vec<FakeFunction>)>) -> Self {
        for function in roots.iter_mut().flat_map(|(_, functions)| functions) {
            function.power_on();
        }
        Self {
            segment: 0,
            roots,
            writes: Vec::new(),
            reads: 0,
        }
    }

    pub fn function(&mut self, bdf: Bdf) -> Option<&mut FakeFunction> {
        self.roots
            .iter_mut()
            .find_map(|(number, functions)| find(functions, *number, false, bdf))
    }

    pub fn at(&mut self, text: &str) -> &mut FakeFunction {
        self.function(text.parse().unwrap()).expect("function")
    }

    fn read(&mut self, function: Function, offset: u16, len: usize) -> u32 {
        assert!(usize::from(offset) % len == 0 && usize::from(offset) + len <= 4096);
        self.reads += 1;
        let mut value = [0xff; 4];
        let segment = self.segment;
        let Some(target) = self
            .function(function.bdf)
            .filter(|_| function.segment == segment)
        else {
            return u32::from_le_bytes(value);
        };
        if target.dead {
            return !0;
        }
        if target.pending_retries > 0 {
            target.pending_retries -= u32::from(offset == 0);
            return if offset == 0 { 0xffff_0001 } else { !0 };
        }
        value[..len].copy_from_slice(&target.bytes[usize::from(offset)..usize::from(offset) + len]);
        u32::from_le_bytes(value)
    }

    fn write(&mut self, function: Function, offset: u16, len: usize, value: u32) {
        assert!(usize::from(offset) % len == 0 && usize::from(offset) + len <= 4096);
        self.writes.push(Write {
            function,
            offset,
            len,
            value,
        });
        let segment = self.segment;
        if let Some(target) = self
            .function(function.bdf)
            .filter(|_| function.segment == segment)
            && !target.dead
        {
            target.write(offset.into(), len, value);
        }
    }
}

/// A type 0 cycle on `bus`, or a type 1 cycle through the first bridge that claims the number. Below a PCIe downstream
/// port every device number reaches the one device.
fn find(
    functions: &mut [FakeFunction],
    bus: u8,
    point_to_point: bool,
    bdf: Bdf,
) -> Option<&mut FakeFunction> {
    let mut all = functions.iter().enumerate();
    if let Some((at, index)) = all.find_map(|(at, it)| Some((at, it.virtual_at(bus, bdf)?))) {
        return functions[at].virtuals.get_mut(index);
    }
    if bus == bdf.bus() {
        return functions.iter_mut().find(|it| {
            it.function == bdf.function() && (point_to_point || it.device == bdf.device())
        });
    }
    functions
        .iter_mut()
        .filter(|it| it.is_bridge())
        .find_map(|bridge| {
            let (secondary, subordinate) = (bridge.bytes[0x19], bridge.bytes[0x1a]);
            let port = bridge
                .express
                .map(|at| bridge.bytes[usize::from(at) + 2] >> 4);
            (secondary != 0 && (secondary..=subordinate).contains(&bdf.bus())).then_some((
                &mut bridge.children,
                secondary,
                matches!(port, Some(4 | 6)),
            ))
        })
        .and_then(|(children, secondary, link)| find(children, secondary, link, bdf))
}

impl ConfigSpace for FakeBus {
    fn read8(&mut self, function: Function, offset: u16) -> u8 {
        self.read(function, offset, 1) as u8
    }
    fn read16(&mut self, function: Function, offset: u16) -> u16 {
        self.read(function, offset, 2) as u16
    }
    fn read32(&mut self, function: Function, offset: u16) -> u32 {
        self.read(function, offset, 4)
    }
    fn write8(&mut self, function: Function, offset: u16, value: u8) {
        self.write(function, offset, 1, value.into());
    }
    fn write16(&mut self, function: Function, offset: u16, value: u16) {
        self.write(function, offset, 2, value.into());
    }
    fn write32(&mut self, function: Function, offset: u16, value: u32) {
        self.write(function, offset, 4, value);
    }
}

/// xorshift64: random enough, and the same every time.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
