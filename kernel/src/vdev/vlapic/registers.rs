//! Accesses of a guest: by the page of xAPIC mode, by the MSRs of x2APIC mode, and the two MSRs that both modes have.

use super::lapic::State;
use super::spec::{DIVIDE_WRITABLE, Mode, VERSION, base, esr, icr, lvt, register, svr};
use super::{Destination, Effects, GeneralProtection, Message, Vlapics};
use core::ops::RangeInclusive;

/// The MSRs of x2APIC mode ("x2APIC Register Address Space").
pub const MSRS: RangeInclusive<u32> = FIRST_MSR..=0x8ff;
const FIRST_MSR: u32 = 0x800;
/// Register numbers of xAPIC mode beyond those of x2APIC mode.
const ABSENT: u32 = u32::MAX;

impl Vlapics {
    /// A load of `size` bytes by `cpu` at `offset` of its page. Outside xAPIC mode nothing answers: all ones.
    pub fn read(&mut self, cpu: usize, offset: u64, size: u8, now: u64) -> u64 {
        if self.cpus[cpu].state != State::XApic || !is_register(offset, size) {
            self.refuse();
            return u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        }
        self.cpus[cpu].tick(now);
        let lapic = &self.cpus[cpu];
        match register_of(offset) {
            register::ID => u64::from(lapic.id) << 24,
            register::APR | register::RRD => 0,
            register::LDR => u64::from(lapic.logical_id) << 24,
            register::DFR => u64::from(lapic.format) << 28 | 0x0fff_ffff,
            register::ICR => lapic.icr & 0xffff_ffff,
            register::ICR_HIGH => lapic.icr >> 32,
            // It reads as zero where it can be read.
            register::EOI => 0,
            register::SELF_IPI => self.illegal_register(cpu),
            number => match self.common(cpu, number, now) {
                Some(value) => value.into(),
                None => self.illegal_register(cpu),
            },
        }
    }

    /// A store of `size` bytes by `cpu` at `offset` of its page. Outside xAPIC mode nothing answers.
    pub fn write(&mut self, cpu: usize, offset: u64, size: u8, value: u64, now: u64) -> Effects {
        let mut effects = Effects::default();
        if self.cpus[cpu].state != State::XApic || !is_register(offset, size) {
            self.refuse();
            return effects;
        }
        if self.cpus[cpu].tick(now) {
            effects.kick(cpu);
        }
        let lapic = &mut self.cpus[cpu];
        let value = value & 0xffff_ffff;
        match register_of(offset) {
            // Read-only.
            register::ID | register::VERSION | register::APR..=register::PPR | register::RRD => {}
            register::ISR..register::ESR | register::CURRENT_COUNT => {}
            register::LDR => lapic.logical_id = (value >> 24) as u8,
            register::DFR => lapic.format = (value >> 28) as u8,
            register::ICR => {
                let high = lapic.icr & !0xffff_ffff;
                let written = high | value & icr::WRITABLE;
                let destination =
                    Destination::narrow((high >> 56) as u8, written & icr::LOGICAL != 0);
                self.send(cpu, written, destination, &mut effects);
            }
            register::ICR_HIGH => {
                lapic.icr = lapic.icr & 0xffff_ffff | (value & 0xff00_0000) << 32;
            }
            number => {
                if !self.store(cpu, number, value as u32, now, &mut effects) {
                    self.illegal_register(cpu);
                    effects.kick(cpu);
                }
            }
        }
        effects
    }

    /// RDMSR by `cpu` of one of [`MSRS`].
    pub fn read_msr(&mut self, cpu: usize, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        if self.cpus[cpu].state != State::X2Apic {
            return self.general_protection();
        }
        self.cpus[cpu].tick(now);
        let lapic = &self.cpus[cpu];
        match number_of(msr) {
            register::ID => Ok(lapic.id.into()),
            register::LDR => Ok(lapic.wide_logical_id().into()),
            register::ICR => Ok(lapic.icr),
            number => match self.common(cpu, number, now) {
                Some(value) => Ok(value.into()),
                None => self.general_protection(),
            },
        }
    }

    /// WRMSR by `cpu` to one of [`MSRS`].
    pub fn write_msr(
        &mut self,
        cpu: usize,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effects, GeneralProtection> {
        let number = number_of(msr);
        let allowed = match number {
            register::TPR | register::SELF_IPI => 0xff,
            register::EOI | register::ESR => 0,
            register::SVR => svr::WRITABLE.into(),
            register::ICR => icr::WRITABLE,
            register::LVT..=register::LVT_LAST => {
                u64::from(lvt::WRITABLE[(number - register::LVT) as usize] | lvt::READ_ONLY)
            }
            register::INITIAL_COUNT => 0xffff_ffff,
            register::DIVIDE => DIVIDE_WRITABLE.into(),
            _ => return self.general_protection(),
        };
        if self.cpus[cpu].state != State::X2Apic || value & !allowed != 0 {
            return self.general_protection();
        }
        let mut effects = Effects::default();
        if self.cpus[cpu].tick(now) {
            effects.kick(cpu);
        }
        match number {
            register::ICR => {
                let destination =
                    Destination::wide((value >> 32) as u32, value & icr::LOGICAL != 0);
                self.send(cpu, value, destination, &mut effects);
            }
            register::SELF_IPI => self.send_to_self(cpu, value as u8, &mut effects),
            _ => {
                // Each of them is there: `allowed` says so.
                self.store(cpu, number, value as u32, now, &mut effects);
            }
        }
        Ok(effects)
    }

    /// RDMSR by `cpu` of `IA32_APIC_BASE`.
    pub fn base(&self, cpu: usize) -> u64 {
        self.cpus[cpu].base()
    }

    /// WRMSR by `cpu` to `IA32_APIC_BASE` ("x2APIC State Transitions"). The page cannot be moved.
    pub fn set_base(&mut self, cpu: usize, value: u64) -> Result<Effects, GeneralProtection> {
        const X2APIC: u64 = base::ENABLE | base::EXTD;
        let lapic = &mut self.cpus[cpu];
        let mode = value & X2APIC;
        if (value ^ lapic.base()) & !X2APIC != 0 {
            return self.general_protection();
        }
        let to = match (lapic.state, mode) {
            (_, 0) => State::Off,
            (State::Off | State::XApic, base::ENABLE) => State::XApic,
            (State::XApic | State::X2Apic, X2APIC) => State::X2Apic,
            _ => return self.general_protection(),
        };
        let mut effects = Effects::default();
        if to != lapic.state {
            effects.switch(cpu);
            if to == State::Off {
                let waits = lapic.waits;
                lapic.init();
                lapic.waits = waits;
            }
        }
        lapic.state = to;
        Ok(effects)
    }

    /// RDMSR by `cpu` of `IA32_TSC_DEADLINE`.
    pub fn deadline(&mut self, cpu: usize, now: u64) -> u64 {
        self.cpus[cpu].tick(now);
        self.cpus[cpu].timer.deadline()
    }

    /// WRMSR by `cpu` to `IA32_TSC_DEADLINE`: the timer is set anew.
    pub fn set_deadline(&mut self, cpu: usize, value: u64, now: u64) -> Effects {
        let mut effects = Effects::default();
        let lapic = &mut self.cpus[cpu];
        lapic.tick(now);
        lapic.timer.set_deadline(value);
        lapic.tick(now);
        effects.kick(cpu);
        effects
    }

    /// A register that reads alike in both modes; `None` if there is none of this number.
    fn common(&self, cpu: usize, number: u32, now: u64) -> Option<u32> {
        let lapic = &self.cpus[cpu];
        Some(match number {
            register::VERSION => VERSION,
            register::TPR => lapic.tpr.into(),
            register::PPR => lapic.ppr().into(),
            register::SVR => lapic.svr,
            register::ISR..register::TMR => lapic.isr.word(number),
            register::TMR..register::IRR => lapic.tmr.word(number),
            register::IRR..register::ESR => lapic.irr.word(number),
            register::ESR => lapic.esr,
            register::LVT..=register::LVT_LAST => lapic.lvt[(number - register::LVT) as usize],
            register::INITIAL_COUNT => lapic.timer.initial(),
            register::CURRENT_COUNT => lapic.timer.current(now),
            register::DIVIDE => lapic.timer.divide(),
            _ => return None,
        })
    }

    /// A register that is written alike in both modes; whether there is one.
    fn store(
        &mut self,
        cpu: usize,
        number: u32,
        value: u32,
        now: u64,
        effects: &mut Effects,
    ) -> bool {
        let lapic = &mut self.cpus[cpu];
        match number {
            register::TPR => lapic.tpr = value as u8,
            register::EOI => effects.end = lapic.end(),
            register::SVR => {
                let before = lapic.svr;
                lapic.set_svr(value);
                if (before ^ lapic.svr) & svr::ENABLE != 0 {
                    effects.switch(cpu);
                }
            }
            register::ESR => lapic.esr = core::mem::take(&mut lapic.errors),
            register::LVT..=register::LVT_LAST => {
                lapic.set_lvt((number - register::LVT) as usize, value);
            }
            register::INITIAL_COUNT => lapic.timer.set_initial(value, now),
            register::DIVIDE => lapic.timer.set_divide(value & DIVIDE_WRITABLE, now),
            _ => return false,
        }
        // The timer may be another, a lower priority lets more through.
        effects.kick(cpu);
        true
    }

    /// "Issuing Interprocessor Interrupts", with the combinations of "Valid Combinations for the Pentium 4 and Intel Xeon
    /// Processors' Local xAPIC Interrupt Command Register".
    fn send(&mut self, cpu: usize, command: u64, destination: Destination, effects: &mut Effects) {
        self.cpus[cpu].icr = command;
        let vector = command as u8;
        let Some(mode) = Mode::from_bits((command >> 8) as u8) else {
            return self.refuse();
        };
        // The end of an INIT, which takes none.
        if mode == Mode::Init && command & (icr::LEVEL | icr::ASSERT) == icr::LEVEL {
            return;
        }
        let has_vector = matches!(mode, Mode::Fixed | Mode::Lowest);
        if has_vector && vector < 16 {
            self.cpus[cpu].error(esr::SEND_ILLEGAL_VECTOR);
            return effects.kick(cpu);
        }
        let (destination, except) = match icr::shorthand(command) {
            0 => (destination, None),
            1 | 2 if mode != Mode::Fixed => return self.refuse(),
            1 => return self.send_to_self(cpu, vector, effects),
            2 => (Destination::All, None),
            _ => (Destination::All, Some(cpu)),
        };
        let message = Message {
            destination,
            mode,
            vector,
            level: false,
        };
        let kick = effects.kick;
        *effects = self.deliver_except(&message, except);
        effects.kick = effects.kick.union(kick);
    }

    fn send_to_self(&mut self, cpu: usize, vector: u8, effects: &mut Effects) {
        if vector < 16 {
            self.cpus[cpu].error(esr::SEND_ILLEGAL_VECTOR);
            return effects.kick(cpu);
        }
        let message = Message {
            destination: Destination::Physical(self.cpus[cpu].id),
            mode: Mode::Fixed,
            vector,
            level: false,
        };
        self.accept(cpu, &message, effects);
    }

    fn illegal_register(&mut self, cpu: usize) -> u64 {
        self.refuse();
        self.cpus[cpu].error(esr::ILLEGAL_REGISTER);
        0
    }

    fn general_protection<T>(&mut self) -> Result<T, GeneralProtection> {
        self.refuse();
        Err(GeneralProtection)
    }
}

/// "APIC Register Address Space": 32 bits at multiples of 16.
const fn is_register(offset: u64, size: u8) -> bool {
    size == 4 && offset.is_multiple_of(16) && offset < 0x1000
}

const fn register_of(offset: u64) -> u32 {
    if offset < 0x400 {
        (offset >> 4) as u32
    } else {
        ABSENT
    }
}

const fn number_of(msr: u32) -> u32 {
    msr.wrapping_sub(FIRST_MSR)
}
