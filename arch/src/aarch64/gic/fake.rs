//! A Distributor and Redistributors that behave: set and clear registers, writes that take time, fixed fields.
//!
//! Written from IHI 0069, 12.9 and 12.11, and on purpose without `spec`. It panics at what software must not do.

use crate::host::mmio::{Device, Memory};
use alloc::vec::Vec;
use spin::mutex::SpinMutex;

/// One-bit-an-interrupt state, as the frames of Distributor and SGI_base share it.
struct Lines {
    enabled: Vec<u32>,
    pending: Vec<u32>,
    active: Vec<u32>,
    /// Groups, priorities, triggers, routes: what is written is read.
    rest: Memory,
}

impl Lines {
    /// `words` of 32 interrupts, with something of everything left over from firmware.
    fn new(words: usize) -> Self {
        let full = || (0..words).map(|_| 0xFFFF_FFFF).collect();
        Self {
            enabled: full(),
            pending: full(),
            active: full(),
            rest: Memory::new(0x1_0000),
        }
    }

    fn read(&self, offset: u64, size: usize) -> u64 {
        match self.state(offset) {
            Some((state, word)) => u64::from(state[word]),
            None => self.rest.read(offset, size),
        }
    }

    fn write(&mut self, offset: u64, size: usize, value: u64) {
        let bits = value as u32;
        let clears = offset & 0x80 != 0;
        if let 0x100..0x400 = offset {
            assert_eq!(size, 4);
            let word = (offset & 0x7F) as usize / 4;
            let state = match offset & 0x300 {
                0x100 => &mut self.enabled,
                0x200 => &mut self.pending,
                _ => &mut self.active,
            };
            state[word] = if clears {
                state[word] & !bits
            } else {
                state[word] | bits
            };
            return;
        }
        if let 0xC00..0xD00 = offset {
            let old = self.rest.read(offset, 4) as u32;
            for field in 0..16 {
                let intid = (offset - 0xC00) as usize * 4 + field;
                let changes = (old ^ bits) >> (2 * field) & 3 != 0;
                let on = self.enabled[intid / 32] >> (intid % 32) & 1 != 0;
                assert!(!(changes && on), "trigger of {intid} changed while enabled");
            }
        }
        self.rest.write(offset, size, value);
    }

    fn state(&self, offset: u64) -> Option<(&Vec<u32>, usize)> {
        let word = (offset & 0x7F) as usize / 4;
        match offset {
            0x100..0x200 => Some((&self.enabled, word)),
            0x200..0x300 => Some((&self.pending, word)),
            0x300..0x400 => Some((&self.active, word)),
            _ => None,
        }
    }
}

/// A write that is under way for some reads.
struct Busy {
    reads: u32,
    left: u32,
}

impl Busy {
    fn start(&mut self) {
        self.left = self.reads;
    }

    fn poll(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left != 0
    }
}

pub(super) struct FakeDistributor(SpinMutex<DistributorState>);

struct DistributorState {
    control: u32,
    typer: u32,
    pidr2: u32,
    lines: Lines,
    busy: Busy,
}

impl FakeDistributor {
    /// `reads`: how often GICD_CTLR.RWP reads 1 after a write. Firmware left Group 1 and all interrupts on.
    pub(super) fn new(typer: u32, pidr2: u32, reads: u32) -> Self {
        Self(SpinMutex::new(DistributorState {
            control: 1 << 6 | 0b11,
            typer,
            pidr2,
            lines: Lines::new((typer as usize & 0x1F) + 1),
            busy: Busy { reads, left: 0 },
        }))
    }

    pub(super) fn control(&self) -> u32 {
        self.0.lock().control
    }

    pub(super) fn word(&self, offset: u64) -> u32 {
        self.0.lock().lines.read(offset, 4) as u32
    }

    pub(super) fn route(&self, intid: u64) -> u64 {
        self.0.lock().lines.read(0x6000 + 8 * intid, 8)
    }
}

impl Device for FakeDistributor {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let mut state = self.0.lock();
        match offset {
            0x0000 => u64::from(state.control) | u64::from(state.busy.poll()) << 31,
            0x0004 => state.typer.into(),
            0xFFE8 => state.pidr2.into(),
            _ => state.lines.read(offset, size),
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.0.lock();
        match offset {
            0x0000 => {
                let new = value as u32 & 0b1_0011 | state.control & 1 << 6;
                let routing_changes = (new ^ state.control) & 1 << 4 != 0;
                assert!(
                    !routing_changes || new & 0b11 == 0,
                    "ARE changed while groups are on"
                );
                state.control = new;
                state.busy.start();
            }
            0x6100..0x8000 => {
                assert_eq!((offset % 8, size), (0, 8));
                assert_ne!(
                    state.control & 1 << 4,
                    0,
                    "a route without affinity routing"
                );
                state.lines.write(offset, size, value);
            }
            _ => {
                state.lines.write(offset, size, value);
                if let 0x180..0x200 = offset {
                    state.busy.start();
                }
            }
        }
    }
}

/// One Redistributor of a region.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) typer: u64,
    /// GICR_WAKER.ChildrenAsleep clears after so many reads.
    pub(super) sleepy: u32,
    /// LPIs were left on by firmware, and GICR_CTLR.EnableLPIs can be cleared or not.
    pub(super) lpis_on: Option<bool>,
    /// GICR_CTLR.EnableLPIs cannot be set.
    pub(super) refuses: bool,
    /// It sees the caches.
    pub(super) coherent: bool,
    /// GICR_CTLR.RWP stays set.
    pub(super) stuck: bool,
}

impl Frame {
    /// The Redistributor of Aff0 `number`, with LPIs.
    pub(super) fn new(number: u64) -> Self {
        Self {
            typer: number << 32 | number << 8 | 1,
            sleepy: 3,
            lpis_on: None,
            refuses: false,
            coherent: true,
            stuck: false,
        }
    }

    pub(super) fn last(self) -> Self {
        Self {
            typer: self.typer | 1 << 4,
            ..self
        }
    }
}

/// Several Redistributors in one region.
pub(super) struct FakeRedistributors {
    stride: u64,
    frames: Vec<SpinMutex<FrameState>>,
}

struct FrameState {
    frame: Frame,
    control: u32,
    waker: u32,
    propbaser: u64,
    pendbaser: u64,
    lines: Lines,
    asleep: Busy,
}

impl FakeRedistributors {
    pub(super) fn new(stride: u64, frames: &[Frame]) -> Self {
        let state = |frame: &Frame| {
            SpinMutex::new(FrameState {
                frame: *frame,
                control: u32::from(frame.lpis_on.is_some()),
                waker: 0b110,
                propbaser: 0,
                pendbaser: 0,
                lines: Lines::new(1),
                asleep: Busy {
                    reads: frame.sleepy,
                    left: frame.sleepy,
                },
            })
        };
        Self {
            stride,
            frames: frames.iter().map(state).collect(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.stride * self.frames.len() as u64
    }

    /// GICR_CTLR, GICR_PROPBASER and GICR_PENDBASER.
    pub(super) fn lpi_registers(&self, frame: usize) -> (u32, u64, u64) {
        let state = self.frames[frame].lock();
        (state.control, state.propbaser, state.pendbaser)
    }

    /// A word of SGI_base.
    pub(super) fn word(&self, frame: usize, offset: u64) -> u32 {
        self.frames[frame].lock().lines.read(offset, 4) as u32
    }

    pub(super) fn is_awake(&self, frame: usize) -> bool {
        self.frames[frame].lock().waker == 0
    }
}

impl Device for FakeRedistributors {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let mut state = self.frames[(offset / self.stride) as usize].lock();
        match offset % self.stride {
            0x0000 => u64::from(state.control) | u64::from(state.frame.stuck) << 3,
            0x0008 => state.frame.typer,
            0x0014 => {
                if state.waker & 0b10 == 0 && !state.asleep.poll() {
                    state.waker = 0;
                }
                state.waker.into()
            }
            0x0070 => state.propbaser,
            0x0078 => state.pendbaser,
            0xFFE8 => 0x3B,
            at @ 0x1_0000..0x2_0000 => state.lines.read(at - 0x1_0000, size),
            at => panic!("read of {at:#x}"),
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.frames[(offset / self.stride) as usize].lock();
        let snoops = if state.frame.coherent {
            !0
        } else {
            !(0b11 << 10)
        };
        match offset % self.stride {
            0x0000 => {
                let locked = state.frame.lpis_on == Some(false);
                let takes = u32::from(!state.frame.refuses);
                state.control = if locked { 1 } else { value as u32 & takes };
            }
            0x0014 => state.waker = state.waker & 0b100 | value as u32 & 0b010,
            0x0070 | 0x0078 if state.control & 1 != 0 => {
                panic!("a table changed while LPIs are on")
            }
            0x0070 => state.propbaser = value & snoops,
            0x0078 => state.pendbaser = value & snoops,
            at @ 0x1_0000..0x2_0000 => state.lines.write(at - 0x1_0000, size, value),
            at => panic!("write of {at:#x}"),
        }
    }
}
