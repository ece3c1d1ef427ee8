//! Interrupt remapping (VT-d, chapter 5): the table of entries, its one writer, and messages that lead to one.
//!
//! Closed by default: an index without an entry, and every message in the compatibility format, is refused and recorded.
//! Every entry names who may use it; there is none for everybody.

use tock_registers::fields::FieldValue;

use super::spec::irte::{IRTE_BYTES, IRTE0, IRTE1, MESSAGE_ADDRESS};
use crate::addr::{Hpa, Span};
use crate::hal::{DmaBuffer, Platform};
use crate::held::{Held, span};
use crate::physical::IommuError;

/// Entries of the table: 16 KiB.
pub const INTERRUPTS: u16 = 1024;
const BYTES: usize = INTERRUPTS as usize * IRTE_BYTES;
/// IRTA.S of it: 2^(S + 1) entries.
pub(super) const SIZE: u64 = INTERRUPTS.ilog2() as u64 - 1;

/// How wide destinations are: as the CPUs' local APICs are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destinations {
    /// 8 bits: xAPIC.
    Narrow,
    /// 32 bits: x2APIC.
    Wide,
}

/// Who may send an interrupt (9.9, SVT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// One source, or those that differ from it in the low bits of the function number only.
    Requester {
        /// Its requester ID.
        id: u16,
        /// Bits of the function number that do not count, for a device with phantom functions: none (0), bit 2 (1), bits 2
        /// and 1 (2), all (3).
        phantom: u8,
    },
    /// Whoever is on one of these buses: what is behind a bridge to PCI.
    Buses {
        /// First.
        first: u8,
        /// Last.
        last: u8,
    },
}

impl Source {
    /// What says so in an entry.
    pub(super) fn fields(&self) -> Result<FieldValue<u64, IRTE1::Register>, IommuError> {
        Ok(match *self {
            Self::Requester { id, phantom } if phantom < 4 => {
                IRTE1::SVT::Source + IRTE1::SQ.val(phantom.into()) + IRTE1::SID.val(id.into())
            }
            Self::Buses { first, last } if first <= last => {
                let range = u64::from(first) << 8 | u64::from(last);
                IRTE1::SVT::Bus + IRTE1::SID.val(range)
            }
            _ => return Err(IommuError::Unsupported),
        })
    }
}

/// Where an interrupt goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Local APIC, in physical mode.
    pub destination: u32,
    /// Vector, 16 at least.
    pub vector: u8,
    /// Level-triggered: of a pin of an I/O APIC.
    pub level: bool,
    /// Who may send it.
    pub source: Source,
}

impl Route {
    /// The entry (9.9).
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a destination that is too wide, a vector below 16, or a source that is none.
    pub fn entry(&self, destinations: Destinations) -> Result<[u64; 2], IommuError> {
        let destination = match destinations {
            Destinations::Wide => IRTE0::DST.val(self.destination.into()),
            Destinations::Narrow if self.destination < 0x100 => {
                IRTE0::DST_XAPIC.val(self.destination.into())
            }
            Destinations::Narrow => return Err(IommuError::Unsupported),
        };
        let who = self.source.fields()?;
        if self.vector < 16 {
            return Err(IommuError::Unsupported);
        }
        let how = IRTE0::P::SET
            + IRTE0::TM.val(self.level.into())
            + IRTE0::V.val(self.vector.into())
            + destination;
        Ok([how.value, who.value])
    }
}

/// What a device writes to raise the interrupt with an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Lower half of the address; the upper one is 0.
    pub address: u32,
    /// Data: 0. A device with several messages adds the number of the message, which leads to the entries that follow.
    pub data: u32,
}

impl Message {
    /// That of the interrupt `index` (5.1.2.2).
    pub fn new(index: u16) -> Self {
        let index = u32::from(index);
        let address = MESSAGE_ADDRESS::PREFIX::Interrupt
            + MESSAGE_ADDRESS::FORMAT::SET
            + MESSAGE_ADDRESS::SHV::SET
            + MESSAGE_ADDRESS::HANDLE_LOW.val(index & 0x7fff)
            + MESSAGE_ADDRESS::HANDLE_HIGH.val(index >> 15);
        Self {
            address: address.value,
            data: 0,
        }
    }
}

/// The part of an I/O APIC's redirection entry that leads to the interrupt `index` (5.1.5.1). The pin's own bits are added
/// to it: vector, which has to be the entry's, polarity, trigger mode and mask.
pub fn io_apic_entry(index: u16) -> u64 {
    let index = u64::from(index);
    (index & 0x7fff) << 49 | 1 << 48 | index >> 15 << 11
}

pub(super) struct InterruptTable<P: Platform> {
    buffer: Held<P::Buffer>,
    pub(super) destinations: Destinations,
    taken: [u64; INTERRUPTS as usize / 64],
    coherent: bool,
}

impl<P: Platform> InterruptTable<P> {
    pub(super) fn new(platform: &P, destinations: Destinations, coherent: bool) -> Option<Self> {
        let buffer = platform.allocate(BYTES)?;
        if !coherent {
            buffer.clean(0, BYTES);
        }
        platform.write_barrier();
        Some(Self {
            buffer: Held::new(buffer),
            destinations,
            taken: [0; INTERRUPTS as usize / 64],
            coherent,
        })
    }

    pub(super) fn place(&self) -> Span<Hpa> {
        span(&*self.buffer)
    }

    pub(super) fn lose(&mut self) {
        self.buffer.lose();
    }

    pub(super) fn is_taken(&self, index: u16) -> bool {
        let word = self.taken.get(usize::from(index) / 64);
        word.is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    fn mark(&mut self, first: u16, count: u16, taken: bool) {
        for index in first..first + count {
            let word = &mut self.taken[usize::from(index) / 64];
            *word = *word & !(1 << (index % 64)) | u64::from(taken) << (index % 64);
        }
    }

    /// Takes `count` indices, a power of two, in a row and aligned to it: what a device with several messages needs.
    pub(super) fn take(&mut self, count: u16) -> Option<u16> {
        if !count.is_power_of_two() || count > INTERRUPTS {
            return None;
        }
        let mut firsts = (0..INTERRUPTS).step_by(count.into());
        let first = firsts.find(|first| (*first..first + count).all(|at| !self.is_taken(at)))?;
        self.mark(first, count, true);
        Some(first)
    }

    /// Gives indices back, whose entries are gone from the table and every cache.
    pub(super) fn give(&mut self, first: u16, count: u16) {
        self.mark(first, count.min(INTERRUPTS - first), false);
    }

    pub(super) fn read(&self, index: u16) -> [u64; 2] {
        let at = usize::from(index) * IRTE_BYTES;
        [self.buffer.read64(at), self.buffer.read64(at + 8)]
    }

    /// Stores an entry; visible to the unit on return. P goes first, and comes last.
    pub(super) fn store(&mut self, platform: &P, index: u16, entry: [u64; 2]) {
        let at = usize::from(index) * IRTE_BYTES;
        let [first, second] = entry;
        let order = match first & IRTE0::P::SET.value != 0 {
            true => [(8, second), (0, first)],
            false => [(0, first), (8, second)],
        };
        for (word, value) in order {
            self.buffer.write64(at + word, value);
            if !self.coherent {
                self.buffer.clean(at, IRTE_BYTES);
            }
            platform.write_barrier();
        }
    }

    /// No index has an entry any more, once the unit has forgotten them.
    pub(super) fn close(&mut self, platform: &P) {
        for index in 0..INTERRUPTS {
            if self.read(index)[0] != 0 {
                self.store(platform, index, [0; 2]);
            }
        }
    }
}

/// Whether an entry can be used.
pub(super) fn is_present(entry: [u64; 2]) -> bool {
    entry[0] & IRTE0::P::SET.value != 0
}
