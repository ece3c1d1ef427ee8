//! One local APIC: what it has accepted, and what it does about it.

use super::spec::{Mode, base, esr, lvt, svr};
use super::timer::{Timer, TimerMode};
use super::vectors::Vectors;
use super::{Destination, Message};

/// What software may do with its registers ("x2APIC State Transitions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Off,
    XApic,
    X2Apic,
}

/// What one message does to one APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accepted {
    Nothing,
    /// There is something new to take.
    Interrupt,
    Init,
    Startup,
}

#[derive(Clone, Debug)]
pub(super) struct Lapic {
    pub id: u32,
    pub state: State,
    pub tpr: u8,
    /// The eight bits that xAPIC mode has.
    pub logical_id: u8,
    /// Bits 31:28 of the destination format: 15 is flat, 0 is clusters.
    pub format: u8,
    pub svr: u32,
    pub isr: Vectors,
    pub tmr: Vectors,
    pub irr: Vectors,
    /// What ESR shows.
    pub esr: u32,
    /// What it will show once it is written.
    pub errors: u32,
    pub icr: u64,
    pub lvt: [u32; 6],
    pub timer: Timer,
    pub nmi: bool,
    /// It waits for a start-up message.
    pub waits: bool,
}

impl Lapic {
    pub fn new(id: u32, bus_shift: u32) -> Self {
        let mut lapic = Self {
            id,
            state: State::XApic,
            tpr: 0,
            logical_id: 0,
            format: 0xf,
            svr: svr::RESET,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [lvt::MASKED; 6],
            timer: Timer::new(bus_shift),
            nmi: false,
            waits: false,
        };
        lapic.init();
        lapic
    }

    /// "Local APIC State After an INIT Reset": the ID and the mode stay.
    pub fn init(&mut self) {
        self.tpr = 0;
        self.logical_id = 0;
        self.format = 0xf;
        self.svr = svr::RESET;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [lvt::MASKED; 6];
        self.timer.reset();
        self.nmi = false;
        self.waits = !self.is_bsp();
    }

    pub const fn is_bsp(&self) -> bool {
        self.id == 0
    }

    pub const fn base(&self) -> u64 {
        let bsp = if self.is_bsp() { base::BSP } else { 0 };
        let state = match self.state {
            State::Off => 0,
            State::XApic => base::ENABLE,
            State::X2Apic => base::ENABLE | base::EXTD,
        };
        base::ADDRESS | bsp | state
    }

    /// "Logical x2APIC ID": derived, where xAPIC mode has it written.
    pub const fn wide_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }

    /// "Determining IPI Destination".
    pub const fn is_addressed(&self, destination: Destination) -> bool {
        match destination {
            Destination::All => true,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(to) => match self.state {
                State::Off => false,
                State::X2Apic => {
                    let own = self.wide_logical_id();
                    to >> 16 == own >> 16 && to & own & 0xffff != 0
                }
                State::XApic if to > 0xff => false,
                State::XApic => {
                    let (to, own) = (to as u8, self.logical_id);
                    match self.format {
                        0xf => to & own != 0,
                        0 => to >> 4 == own >> 4 && to & own & 0xf != 0,
                        _ => false,
                    }
                }
            },
        }
    }

    /// Whether it takes interrupts: it is on, by hardware and by software, and does not wait for its start.
    pub const fn listens(&self) -> bool {
        !matches!(self.state, State::Off) && self.svr & svr::ENABLE != 0 && !self.waits
    }

    /// Takes a message that is for it.
    pub fn accept(&mut self, message: &Message) -> Accepted {
        if self.state == State::Off {
            return Accepted::Nothing;
        }
        match message.mode {
            Mode::Fixed | Mode::Lowest => {
                if !self.listens() {
                    return Accepted::Nothing;
                }
                self.request(message.vector, message.level);
                Accepted::Interrupt
            }
            Mode::Nmi if self.waits => Accepted::Nothing,
            Mode::Nmi => {
                self.nmi = true;
                Accepted::Interrupt
            }
            Mode::Init => {
                self.init();
                Accepted::Init
            }
            Mode::Startup if self.waits => {
                self.waits = false;
                Accepted::Startup
            }
            Mode::Startup => Accepted::Nothing,
        }
    }

    /// "Interrupt Acceptance for Fixed Interrupts".
    fn request(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            return self.error(esr::RECEIVE_ILLEGAL_VECTOR);
        }
        self.irr.insert(vector);
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
    }

    /// "Error Handling": for the next look at ESR, and for whoever is called.
    pub fn error(&mut self, error: u32) {
        self.errors |= error;
        let entry = self.lvt[lvt::ERROR];
        if entry & lvt::MASKED != 0 {
            return;
        }
        match entry as u8 {
            0..16 => self.errors |= esr::RECEIVE_ILLEGAL_VECTOR,
            vector => self.request(vector, false),
        }
    }

    /// Lets the timer fire if it is time; whether there is something new to take.
    pub fn tick(&mut self, now: u64) -> bool {
        let entry = self.lvt[lvt::TIMER];
        let fires = self.timer.expire(now) && entry & lvt::MASKED == 0;
        if fires {
            self.request(entry as u8, false);
        }
        fires
    }

    /// When [`Lapic::tick`] would have something to do: a masked timer has not, as its count is known without.
    pub fn next_tick(&self) -> Option<u64> {
        if self.lvt[lvt::TIMER] & lvt::MASKED != 0 {
            return None;
        }
        self.timer.fires_at()
    }

    /// "Processor Priority Register".
    pub fn ppr(&self) -> u8 {
        let service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 {
            self.tpr
        } else {
            service & 0xf0
        }
    }

    /// The vector that it would hand to its processor.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.ppr() >> 4).then_some(vector)
    }

    /// Hands it over: it is in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        Some(vector)
    }

    /// "Signaling Interrupt Servicing Completion": what I/O APICs are to hear of it.
    pub fn end(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        let heard = self.tmr.contains(vector) && self.svr & svr::SUPPRESS_EOI == 0;
        heard.then_some(vector)
    }

    /// "Local APIC State After It Has Been Software Disabled": the local vector table is masked.
    pub fn set_svr(&mut self, value: u32) {
        self.svr = value & svr::WRITABLE;
        if self.svr & svr::ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= lvt::MASKED;
            }
        }
    }

    pub fn set_lvt(&mut self, index: usize, value: u32) {
        let masked = if self.svr & svr::ENABLE == 0 {
            lvt::MASKED
        } else {
            0
        };
        self.lvt[index] = value & lvt::WRITABLE[index] | masked;
        if index == lvt::TIMER {
            self.timer.set_mode(TimerMode::of(value));
        }
    }
}
