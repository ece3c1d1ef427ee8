//! A guest's interrupt remapping (VT-d, chapter 5): what a message of its device means.

use super::effect::Effect;
use super::faults::GuestFault;
use super::spec::{POINTER, interrupt, reserved};
use super::{Slice, VirtVtd};
use crate::addr::Gpa;
use crate::fault::{Fault, FaultReason};
use crate::hal::{GuestMemory, Platform};
use crate::id::VirtDeviceId;
use crate::vtd::event;
use crate::vtd::spec::irte::{IRTE_BYTES, IRTE0, IRTE1, MESSAGE_ADDRESS};
use crate::vtd::spec::registers::{GCMD_FIELDS, IRTA_FIELDS};

/// An interrupt for the guest's local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestInterrupt {
    /// Destination; all ones are everybody, as 0xff is in a message or an entry with 8 bits for it.
    pub destination: u32,
    /// It is a logical one.
    pub logical: bool,
    /// One of several destinations will do.
    pub redirect: bool,
    /// Delivery mode, as in an ICR; 0 is fixed.
    pub mode: u8,
    /// Vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

impl GuestInterrupt {
    /// What a message in the compatibility format says, or one that is not remapped.
    pub const fn of_message(address: u32, data: u32) -> Self {
        Self {
            destination: widened(address >> 12 & 0xff),
            logical: address >> 2 & 1 != 0,
            redirect: address >> 3 & 1 != 0,
            mode: (data >> 8 & 7) as u8,
            vector: data as u8,
            level: data >> 15 & 1 != 0,
        }
    }
}

/// A destination of 8 bits in 32.
const fn widened(destination: u32) -> u32 {
    if destination == 0xff {
        u32::MAX
    } else {
        destination
    }
}

/// Why an interrupt is refused (7.1.3), and whether nobody is told.
struct Refused(u8, bool);

/// What a message asks for.
struct Asked {
    index: u32,
    /// Fields that there must not be.
    reserved: bool,
}

fn asked(address: u32, data: u32) -> Asked {
    let low = address >> MESSAGE_ADDRESS::HANDLE_LOW.shift & MESSAGE_ADDRESS::HANDLE_LOW.mask;
    let high = address >> MESSAGE_ADDRESS::HANDLE_HIGH.shift & 1;
    let adds = address & MESSAGE_ADDRESS::SHV::SET.value != 0;
    Asked {
        index: (low | high << 15) + if adds { data & 0xffff } else { 0 },
        reserved: address & 3 != 0 || adds && data >> 16 != 0,
    }
}

impl<P: Platform, S: Slice> VirtVtd<P, S> {
    /// What the message `data` at `address` of `source` is to the guest's local APICs; `None` where the guest's unit refuses
    /// it, which the guest is told. Its entry is read once. Whoever keeps what this returns asks again when an
    /// [`Effect`] says that entries have changed.
    pub fn remap(
        &mut self,
        memory: &dyn GuestMemory,
        source: u16,
        address: u32,
        data: u32,
    ) -> (Option<GuestInterrupt>, Effect) {
        let mut effect = Effect::default();
        effect.more = self.has_work();
        let compatible = GuestInterrupt::of_message(address, data);
        if !self.registers.is_on(GCMD_FIELDS::IRE::SET) {
            return (Some(compatible), effect);
        }
        self.counters.remapped += 1;
        let wide = self.registers.interrupts & IRTA_FIELDS::EIME::SET.value != 0;
        let (found, index) = if address & MESSAGE_ADDRESS::FORMAT::SET.value == 0 {
            // 5.1.4: with wide destinations there is no compatibility format.
            match self.registers.is_on(GCMD_FIELDS::CFI::SET) && !wide {
                true => (Ok(compatible), 0),
                false => (Err(Refused(interrupt::COMPATIBILITY, false)), 0),
            }
        } else {
            let asked = asked(address, data);
            (self.entry(memory, &asked, source, wide), asked.index)
        };
        let found = found.map_err(|Refused(reason, silent)| {
            if silent {
                self.counters.faults.recorded += 1;
                self.counters.faults.silent += 1;
                return;
            }
            let fault = GuestFault {
                more: 0,
                source,
                reason,
                information: u64::from(index & 0xffff) << 48,
                write: true,
            };
            self.record(&fault, &mut effect);
        });
        (found.ok(), effect)
    }

    /// A message of `source` was refused by the hardware, which recorded `fault`, so that it never came to
    /// [`remap`](Self::remap): one that no function's registers hold, but what a device wrote there by itself. The guest is told if
    /// its own unit refuses it as well; else, and for faults of other kinds, there is `None`, and nothing has happened.
    pub fn refuse(
        &mut self,
        memory: &dyn GuestMemory,
        source: VirtDeviceId,
        fault: &Fault,
    ) -> Option<Effect> {
        let index = event::interrupt_index(fault.raw)?;
        let compatible = fault.reason == FaultReason::Other(interrupt::COMPATIBILITY);
        let address = match compatible {
            true => 0,
            false => {
                let low = u32::from(index) & MESSAGE_ADDRESS::HANDLE_LOW.mask;
                let fields = MESSAGE_ADDRESS::FORMAT::SET
                    + MESSAGE_ADDRESS::HANDLE_LOW.val(low)
                    + MESSAGE_ADDRESS::HANDLE_HIGH.val((index >> 15).into());
                fields.value
            }
        };
        let (found, effect) = self.remap(memory, source.0 as u16, address, 0);
        found.is_none().then_some(effect)
    }

    /// The entry that a message leads to (9.9).
    fn entry(
        &self,
        memory: &dyn GuestMemory,
        asked: &Asked,
        source: u16,
        wide: bool,
    ) -> Result<GuestInterrupt, Refused> {
        if asked.reserved {
            return Err(Refused(interrupt::MESSAGE_RESERVED, false));
        }
        let table = self.registers.interrupts;
        if asked.index >= 2 << (table & IRTA_FIELDS::S.mask) {
            return Err(Refused(interrupt::BEYOND_TABLE, false));
        }
        let at = (table & POINTER) + u64::from(asked.index) * IRTE_BYTES as u64;
        let mut words = [0; 2];
        let read = memory.read_words(Gpa(at), &mut words);
        read.map_err(|_| Refused(interrupt::ACCESS, false))?;
        let [first, second] = words;
        let silent = first & IRTE0::FPD::SET.value != 0;
        if first & IRTE0::P::SET.value == 0 {
            return Err(Refused(interrupt::NOT_PRESENT, silent));
        }
        let [in_first, in_second] = reserved::INTERRUPT;
        let narrow = if wide { 0 } else { reserved::INTERRUPT_NARROW };
        let kind = second >> IRTE1::SVT.shift & IRTE1::SVT.mask;
        if first & (in_first | narrow) != 0 || second & in_second != 0 || kind == IRTE1::SVT.mask {
            return Err(Refused(interrupt::RESERVED, silent));
        }
        if !is_of(second, kind, source) {
            return Err(Refused(interrupt::SOURCE, silent));
        }
        let field = |field: tock_registers::fields::Field<u64, IRTE0::Register>| {
            first >> field.shift & field.mask
        };
        Ok(GuestInterrupt {
            destination: match wide {
                true => field(IRTE0::DST) as u32,
                false => widened(field(IRTE0::DST_XAPIC) as u32),
            },
            logical: field(IRTE0::DM) != 0,
            redirect: field(IRTE0::RH) != 0,
            mode: field(IRTE0::DLM) as u8,
            vector: field(IRTE0::V) as u8,
            level: field(IRTE0::TM) != 0,
        })
    }
}

/// Whether `source` is who the second word of an entry names (9.9, SVT and SQ).
fn is_of(second: u64, kind: u64, source: u16) -> bool {
    let wanted = (second >> IRTE1::SID.shift & IRTE1::SID.mask) as u16;
    match kind {
        0 => true,
        1 => {
            let phantom = [0, 0b100, 0b110, 0b111][(second >> IRTE1::SQ.shift & 3) as usize];
            (source ^ wanted) & !phantom == 0
        }
        _ => (wanted >> 8..=wanted & 0xff).contains(&(source >> 8)),
    }
}
