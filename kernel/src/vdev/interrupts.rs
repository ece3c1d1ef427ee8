//! The local APICs and the I/O APIC of a partition, behind one lock: what leaves the one arrives at the other, and what a
//! vCPU does to either has all its consequences at once.
//!
//! Messages of the remappable format go nowhere where the partition has no interrupt remapping, and are counted. Where it has,
//! what the I/O APIC sends waits here for its owner, who takes it to the unit that remaps it and brings the result back.

use super::cpuid::Rates;
use super::msi::{Interrupt, Msi};
use super::msr::{self, Access, Outcome};
use super::vioapic::{PINS, Vioapic};
use super::vlapic::{Effects, Message, Vlapics};
use alloc::vec::Vec;

/// What RDMSR and WRMSR come to, once those of the local APIC are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrOutcome {
    /// This goes to EDX:EAX.
    Value(u64),
    /// Written, with these effects.
    Written(Effects),
    /// See [`Outcome::Own`].
    Own,
    /// See [`Outcome::Efer`].
    Efer,
    /// The guest takes #GP(0). To be counted.
    GeneralProtection,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Interrupts {
    /// The local APICs, for what is between a vCPU and its own: ticks, pending vectors, CR8.
    pub local: Vlapics,
    io: Vioapic,
    /// What the I/O APIC has sent, where that is remapped.
    sent: Option<Vec<Msi>>,
    /// Messages that are none, or that nobody translates.
    lost: u64,
}

impl Interrupts {
    /// For `cpus` vCPUs; `None` if there are none, or more than 64.
    pub fn new(cpus: usize, rates: Rates) -> Option<Self> {
        Some(Self {
            local: Vlapics::new(cpus, rates.bus_shift())?,
            io: Vioapic::new(),
            sent: None,
            lost: 0,
        })
    }

    /// From here on what the I/O APIC sends is remapped, by the caller.
    pub fn set_remapped(&mut self) {
        self.sent = Some(Vec::with_capacity(PINS));
    }

    /// What the I/O APIC has sent, to be remapped.
    pub fn next_sent(&mut self) -> Option<Msi> {
        self.sent.as_mut()?.pop()
    }

    /// As after reset, but for the lines of devices.
    pub fn reset(&mut self) {
        self.local.reset();
        self.io.reset();
        if let Some(sent) = &mut self.sent {
            sent.clear();
        }
    }

    /// Accesses and messages so far that have no meaning.
    pub fn misuse(&self) -> u64 {
        self.local.misuse() + self.io.misuse() + self.lost
    }

    /// A load of `cpu` from the page of its local APIC.
    pub fn read_local(&mut self, cpu: usize, offset: u64, size: u8, now: u64) -> u64 {
        self.local.read(cpu, offset, size, now)
    }

    /// A store of `cpu` to the page of its local APIC.
    pub fn write_local(
        &mut self,
        cpu: usize,
        offset: u64,
        size: u8,
        value: u64,
        now: u64,
    ) -> Effects {
        let effects = self.local.write(cpu, offset, size, value, now);
        self.ended(effects)
    }

    /// A load from the I/O APIC.
    pub fn read_io(&mut self, offset: u64, size: u8) -> u64 {
        self.io.read(offset, size)
    }

    /// A store to the I/O APIC.
    pub fn write_io(&mut self, offset: u64, size: u8, value: u64) -> Effects {
        self.io.write(offset, size, value);
        self.settle(Effects::default())
    }

    /// A device asserts its pin of the I/O APIC, or no longer does.
    pub fn set_line(&mut self, pin: usize, high: bool) -> Effects {
        self.io.set_line(pin, high);
        self.settle(Effects::default())
    }

    /// A device sends a message.
    pub fn send(&mut self, msi: Msi) -> Effects {
        match msi.decode() {
            Some(Interrupt::Message(message)) => self.deliver(Some(message)),
            Some(Interrupt::Remappable { .. }) | None => self.deliver(None),
        }
    }

    /// A message that has its meaning; `None`: it has none.
    pub fn deliver(&mut self, message: Option<Message>) -> Effects {
        match message {
            Some(message) => self.local.deliver(&message),
            None => {
                self.lost = self.lost.saturating_add(1);
                Effects::default()
            }
        }
    }

    /// RDMSR or WRMSR by `cpu`.
    pub fn msr(&mut self, cpu: usize, msr: u32, access: Access, now: u64) -> MsrOutcome {
        const DONE: MsrOutcome = MsrOutcome::Written(Effects {
            kick: super::CpuSet::NONE,
            init: super::CpuSet::NONE,
            start: super::CpuSet::NONE,
            switched: super::CpuSet::NONE,
            page: 0,
            end: None,
        });
        let outcome = msr::access(msr, access);
        match (outcome, access) {
            (Outcome::Value(value), _) => MsrOutcome::Value(value),
            (Outcome::Ignore, _) => DONE,
            (Outcome::Own, _) => MsrOutcome::Own,
            (Outcome::Efer, _) => MsrOutcome::Efer,
            (Outcome::GeneralProtection, _) => MsrOutcome::GeneralProtection,
            (Outcome::ApicBase, Access::Read) => MsrOutcome::Value(self.local.base(cpu)),
            (Outcome::ApicBase, Access::Write(value)) => match self.local.set_base(cpu, value) {
                Ok(effects) => MsrOutcome::Written(effects),
                Err(_) => MsrOutcome::GeneralProtection,
            },
            (Outcome::Deadline, Access::Read) => MsrOutcome::Value(self.local.deadline(cpu, now)),
            (Outcome::Deadline, Access::Write(value)) => {
                MsrOutcome::Written(self.local.set_deadline(cpu, value, now))
            }
            (Outcome::X2Apic, Access::Read) => match self.local.read_msr(cpu, msr, now) {
                Ok(value) => MsrOutcome::Value(value),
                Err(_) => MsrOutcome::GeneralProtection,
            },
            (Outcome::X2Apic, Access::Write(value)) => {
                match self.local.write_msr(cpu, msr, value, now) {
                    Ok(effects) => MsrOutcome::Written(self.ended(effects)),
                    Err(_) => MsrOutcome::GeneralProtection,
                }
            }
        }
    }

    /// Tells the I/O APIC of an end, if there was one.
    fn ended(&mut self, mut effects: Effects) -> Effects {
        match effects.end.take() {
            None => effects,
            Some(vector) => {
                self.io.end(vector);
                self.settle(effects)
            }
        }
    }

    /// Sends what the I/O APIC has: once a pin at most, as each is then waiting for its end, or sent.
    fn settle(&mut self, mut effects: Effects) -> Effects {
        while let Some(msi) = self.io.next_message() {
            match &mut self.sent {
                // One that is on its way already arrives for both.
                Some(sent) if sent.contains(&msi) => {}
                Some(sent) if sent.len() < PINS => sent.push(msi),
                // A guest that writes entries faster than they are sent.
                Some(_) => self.lost = self.lost.saturating_add(1),
                None => effects = effects.and(self.send(msi)),
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::{Interrupts, MsrOutcome};
    use crate::vdev::CpuSet;
    use crate::vdev::cpuid::Rates;
    use crate::vdev::msi::Msi;
    use crate::vdev::msr::Access;
    use crate::vdev::vlapic::Effects;

    fn two() -> Interrupts {
        let mut all = Interrupts::new(2, Rates::new(1_000_000_000)).unwrap();
        for cpu in 0..2 {
            all.local.set_running(cpu);
            all.write_local(cpu, 0xf0, 4, 0x1ff, 0);
        }
        all
    }

    fn program(all: &mut Interrupts, pin: u64, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            all.write_io(0, 4, 0x10 + 2 * pin + half);
            all.write_io(0x10, 4, value);
        }
    }

    #[test]
    fn a_level_goes_through_and_its_end_goes_back() {
        for x2apic in [false, true] {
            let mut all = two();
            // Pin 16: vector 0x41 for CPU 1, level-triggered.
            program(&mut all, 16, 1 << 56 | 0x8041);
            if x2apic {
                let written = all.msr(1, 0x1b, Access::Write(0xfee0_0c00), 0);
                let switched = Effects {
                    switched: CpuSet::one(1),
                    ..Effects::default()
                };
                assert_eq!(written, MsrOutcome::Written(switched));
                assert_eq!(
                    all.msr(1, 0x1b, Access::Read, 0),
                    MsrOutcome::Value(0xfee0_0c00)
                );
            }
            assert_eq!(all.set_line(16, true).kick, CpuSet::one(1));
            assert_eq!(all.local.acknowledge(1), Some(0x41));
            assert_eq!(all.local.pending(1), None);
            let ends = if x2apic {
                match all.msr(1, 0x80b, Access::Write(0), 0) {
                    MsrOutcome::Written(effects) => effects,
                    other => panic!("{other:?}"),
                }
            } else {
                all.write_local(1, 0xb0, 4, 0, 0)
            };
            assert_eq!((ends.kick, ends.end), (CpuSet::one(1), None));
            assert_eq!(all.local.acknowledge(1), Some(0x41), "it is still high");
            all.set_line(16, false);
            all.write_io(0x40, 4, 0x41);
            assert_eq!(all.local.pending(1), None);
        }
    }

    #[test]
    fn unmasking_sends_what_waits() {
        let mut all = two();
        program(&mut all, 17, 0x1_8051);
        assert_eq!(all.set_line(17, true), Effects::default());
        all.write_io(0, 4, 0x32);
        assert_eq!(all.write_io(0x10, 4, 0x8051).kick, CpuSet::one(0));
        assert_eq!(all.local.acknowledge(0), Some(0x51));
    }

    #[test]
    fn messages_that_nobody_translates_are_counted() {
        let mut all = two();
        let mut send = |address, data| all.send(Msi { address, data });
        assert_eq!(send(0xfee0_1000, 0x4061).kick, CpuSet::one(1));
        assert_eq!(send(0xfee0_0030, 0), Effects::default());
        assert_eq!(send(0x1000, 0x61), Effects::default());
        assert_eq!(all.misuse(), 2);
        // An entry of that format, too.
        program(&mut all, 18, 1 << 48 | 0x8012);
        assert_eq!(all.set_line(18, true), Effects::default());
        assert_eq!(all.misuse(), 3);
    }

    #[test]
    fn what_is_remapped_waits_for_its_owner() {
        let mut all = two();
        all.set_remapped();
        // One of each format; the second of the same is the first.
        program(&mut all, 4, 0x51);
        program(&mut all, 18, 1 << 48 | 0x8012);
        for high in [true, false, true] {
            assert_eq!(all.set_line(4, high), Effects::default());
        }
        assert_eq!(all.set_line(18, true), Effects::default());
        let sent = [all.next_sent().unwrap(), all.next_sent().unwrap()];
        assert_eq!(sent.map(|msi| msi.address), [0xfee0_0010, 0xfee0_0000]);
        assert_eq!(all.next_sent(), None);
        assert_eq!(all.local.pending(0), None);
        // A level is sent once until it has ended: here by the pin's own vector, as Linux does it.
        all.set_line(18, false);
        assert_eq!(all.set_line(18, true), Effects::default());
        assert_eq!(all.next_sent(), None);
        all.write_io(0x40, 4, 0x12);
        assert_eq!(all.next_sent(), Some(sent[0]));
        // What is not taken is gone with a reset, and does not grow without bound.
        for entry in 0..64 {
            program(&mut all, 4, 0x50 + entry);
            all.set_line(4, false);
            all.set_line(4, true);
        }
        assert_eq!(all.misuse(), 64 - 24);
        all.reset();
        assert_eq!(all.next_sent(), None);
    }

    #[test]
    fn registers_that_are_not_the_apics_pass_through() {
        let mut all = two();
        let mut msr = |number, access| all.msr(0, number, access, 7);
        assert_eq!(msr(0xc000_0102, Access::Read), MsrOutcome::Own);
        assert_eq!(msr(0xc000_0080, Access::Write(1)), MsrOutcome::Efer);
        assert_eq!(msr(0x2ff, Access::Read), MsrOutcome::Value(0x806));
        assert_eq!(
            msr(0x8b, Access::Write(0)),
            MsrOutcome::Written(Effects::default())
        );
        assert_eq!(msr(0x48, Access::Read), MsrOutcome::GeneralProtection);
        assert_eq!(
            msr(0x808, Access::Read),
            MsrOutcome::GeneralProtection,
            "not x2APIC"
        );
        assert_eq!(
            msr(0x1b, Access::Write(0xfee0_0400)),
            MsrOutcome::GeneralProtection
        );
        // One-shot at first: the deadline is ignored.
        msr(0x6e0, Access::Write(99));
        assert_eq!(msr(0x6e0, Access::Read), MsrOutcome::Value(0));
        all.write_local(0, 0x320, 4, 0x4_0055, 7);
        all.msr(0, 0x6e0, Access::Write(99), 7);
        assert_eq!(all.msr(0, 0x6e0, Access::Read, 8), MsrOutcome::Value(99));
        assert_eq!(all.local.next_tick(0), Some(99));
        all.reset();
        assert_eq!(all.local.next_tick(0), None);
    }
}
