//! Virtual PCIe host: ECAM with only the assigned functions, under the guest's own numbers on bus 0.
//!
//! A function shows a header and capabilities that were composed once from what enumeration recorded; the device is
//! not asked again, so that it cannot change its mind later. Writes change that composed state, and only the bits that
//! `layout` lists as physical go on to the device. What has to happen outside comes back as a value: after every
//! write, [`VirtualPci::next_remap`] until it has no more.
//!
//! | Register | Guest sees | Physical |
//! |---|---|---|
//! | IDs, class, header | as recorded; multi-function by the guest's numbers | never |
//! | command | memory, bus master, INTx disable | bus master, INTx disable; memory is on while attached |
//! | status | capability list, INTx asserted | INTx asserted is read |
//! | BARs | memory BARs of at least 4 KiB, anywhere | never |
//! | MSI | enable, count, address, data, mask | all of it; pending is read |
//! | MSI-X | enable, function mask | both; the table is in a BAR |
//! | PCI Express | an endpoint of the root complex; link registers zero | pending is read; reset is an effect |
//! | power | D0, D3hot, nothing lost in between | never |
//!
//! Anything not listed reads zero and ignores writes: I/O BARs, the ROM, other capabilities, offsets from 0x100 on.

mod function;
mod layout;
#[cfg(any(target_arch = "x86_64", test))]
pub mod msix;
#[cfg(any(target_arch = "x86_64", test))]
pub mod ports;
#[cfg(test)]
mod tests;

use crate::guest_map;
use crate::pci::{Bdf, ConfigSpace, Function, FunctionInfo};
use alloc::vec::Vec;
use core::fmt;
use function::VirtualFunction;
use iommu::addr::{Gpa, Hpa, Span};

/// Functions that a partition can have.
pub const MAX_FUNCTIONS: usize = 32;

/// One function for the guest.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// Where the guest finds it: on bus 0.
    pub guest: Bdf,
    /// The function.
    pub info: &'a FunctionInfo,
    /// Its INTx pin is routed to the guest; without, it has none.
    pub intx: bool,
}

/// Placements that make no bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// Not on bus 0.
    Bus(Bdf),
    /// Two functions at one place.
    Twice(Bdf),
    /// A device without function 0, which nobody would find (PCIe §7.5.1.1.9).
    NoFunctionZero(Bdf),
    /// A bridge, or a function of which some BAR has no place.
    NotAssignable(Function),
    /// More than [`MAX_FUNCTIONS`].
    TooMany,
}

/// What a write asks for besides remaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest resets the function of this slot. It is detached already: drain the remaps, reset it
    /// ([`crate::pci::reset()`]), attach it again.
    Reset(usize),
}

/// A BAR that leaves the guest's address space, or enters it: exactly one of `from` and `to` is there. Those that leave
/// come before those that enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapBar {
    /// Slot of the function.
    pub slot: usize,
    /// BAR index.
    pub bar: u8,
    /// To unmap.
    pub from: Option<Gpa>,
    /// To map.
    pub to: Option<Gpa>,
    /// The host pages; also the length.
    pub host: Span<Hpa>,
}

/// Guest mistakes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Accesses of a width that is not 1, 2 or 4, or not aligned to it.
    pub malformed: u64,
    /// Writes to functions that are not there.
    pub absent_writes: u64,
}

/// The virtual PCIe host of one partition.
#[derive(Clone, Debug)]
pub struct VirtualPci {
    window: Span<Gpa>,
    functions: Vec<VirtualFunction>,
    /// Slot + 1 by device and function number on bus 0.
    slots: [u8; 256],
    /// Some BAR may not be where it should be.
    moved: bool,
    counters: Counters,
}

impl VirtualPci {
    /// A host whose BARs may lie in `window`; slots are numbered as `placements` are. All functions are detached and in
    /// the state after reset: no BAR is mapped.
    pub fn new(window: Span<Gpa>, placements: &[Placement<'_>]) -> Result<Self, PlacementError> {
        if placements.len() > MAX_FUNCTIONS {
            return Err(PlacementError::TooMany);
        }
        let mut slots = [0; 256];
        for (slot, placement) in placements.iter().enumerate() {
            let guest = placement.guest;
            if guest.bus() != 0 {
                return Err(PlacementError::Bus(guest));
            }
            if !placement.info.is_assignable() {
                return Err(PlacementError::NotAssignable(placement.info.address));
            }
            let place = &mut slots[usize::from(guest.requester_id())];
            if *place != 0 {
                return Err(PlacementError::Twice(guest));
            }
            *place = slot as u8 + 1;
        }
        let mut functions = Vec::with_capacity(placements.len());
        for placement in placements {
            let device = usize::from(placement.guest.device()) << 3;
            if slots[device] == 0 {
                return Err(PlacementError::NoFunctionZero(placement.guest));
            }
            let multifunction = slots[device + 1..device + 8].iter().any(|&slot| slot != 0);
            functions.push(VirtualFunction::new(placement, multifunction));
        }
        Ok(Self {
            window,
            functions,
            slots,
            moved: false,
            counters: Counters::default(),
        })
    }

    /// A read of `size` bytes at `offset` of the ECAM window.
    pub fn read(&mut self, space: &mut dyn ConfigSpace, offset: u64, size: u8) -> u64 {
        let absent = !0 >> (64 - 8 * u32::from(size.clamp(1, 8)));
        if !is_well_formed(offset, size) {
            self.counters.malformed += 1;
            return absent;
        }
        match self.slot_at(offset) {
            Some(slot) => self.functions[slot]
                .read(space, offset as u16 & 0xfff, size)
                .into(),
            None => absent,
        }
    }

    /// A write of the low `size` bytes of `value` at `offset` of the ECAM window. Drain [`Self::next_remap`] after it.
    pub fn write(
        &mut self,
        space: &mut dyn ConfigSpace,
        offset: u64,
        size: u8,
        value: u64,
    ) -> Effect {
        if !is_well_formed(offset, size) {
            self.counters.malformed += 1;
            return Effect::None;
        }
        let Some(slot) = self.slot_at(offset) else {
            self.counters.absent_writes += 1;
            return Effect::None;
        };
        let register = offset as u16 & 0xfff;
        match self.functions[slot].write(space, register, size, value as u32) {
            function::Outcome::Nothing => Effect::None,
            function::Outcome::Moved => {
                self.plan();
                Effect::None
            }
            function::Outcome::Reset => {
                self.detach(space, slot);
                Effect::Reset(slot)
            }
        }
    }

    /// The next BAR to unmap or map, until all are where the guest put them.
    pub fn next_remap(&mut self) -> Option<MapBar> {
        if !self.moved {
            return None;
        }
        for leaving in [true, false] {
            for (slot, function) in self.functions.iter_mut().enumerate() {
                for bar in function.bars.iter_mut() {
                    if bar.mapped == bar.wanted || leaving != bar.mapped.is_some() {
                        continue;
                    }
                    let from = bar.mapped.take();
                    if from.is_none() {
                        bar.mapped = bar.wanted;
                    }
                    return Some(MapBar {
                        slot,
                        bar: bar.index,
                        from,
                        to: bar.mapped,
                        host: bar.host,
                    });
                }
            }
        }
        self.moved = false;
        None
    }

    /// From now on the function belongs to the guest: memory decoding goes on, and what the guest may set follows the
    /// guest. To be called after its reset, with its stream configured.
    pub fn attach(&mut self, space: &mut dyn ConfigSpace, slot: usize) {
        self.functions[slot].attach(space);
    }

    /// The function has lost its registers, by a reset that nobody on this bus asked for: it gets the guest's again, if it
    /// is attached.
    pub fn resume(&mut self, space: &mut dyn ConfigSpace, slot: usize) {
        self.functions[slot].resume(space);
    }

    /// Silences the function (no decoding, no bus mastering, no messages) and puts what the guest sees into the state
    /// after reset. Drain [`Self::next_remap`] before the function has another owner.
    pub fn detach(&mut self, space: &mut dyn ConfigSpace, slot: usize) {
        self.functions[slot].detach(space);
        self.plan();
    }

    /// Detaches all: the state after reset of the partition.
    pub fn reset(&mut self, space: &mut dyn ConfigSpace) {
        for slot in 0..self.functions.len() {
            self.detach(space, slot);
        }
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there is no function.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The physical function of a slot.
    pub fn physical(&self, slot: usize) -> Function {
        self.functions[slot].physical
    }

    /// Where the guest sees the function of a slot.
    pub fn guest(&self, slot: usize) -> Bdf {
        self.functions[slot].guest
    }

    /// The guest's interrupt for the INTx of a slot, if it has one.
    pub fn intx(&self, slot: usize) -> Option<u32> {
        let function = &self.functions[slot];
        intx_intid(function.guest.device(), function.interrupt_pin())
    }

    /// The function of a slot has `address` and `data` in its MSI capability from its next attachment on, whatever the guest
    /// writes: what its unit translates. The upper half of the address is 0.
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn set_message(&mut self, slot: usize, address: u32, data: u32) {
        self.functions[slot].set_message(address, data);
    }

    /// Address and data of what the guest makes of MSI `number` of a slot; none while that is off.
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn message(&self, slot: usize, number: u16) -> Option<(u64, u32)> {
        self.functions[slot].message(number)
    }

    /// Whether the guest has MSI-X of a slot on.
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn has_msix_on(&self, slot: usize) -> bool {
        self.functions[slot].has_msix_on()
    }

    /// Slot, BAR and offset in that of what the guest has mapped at `at`.
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn find_bar(&self, at: Gpa) -> Option<(usize, u8, u64)> {
        for (slot, function) in self.functions.iter().enumerate() {
            for bar in &function.bars {
                let base = bar.mapped.unwrap_or(Gpa(u64::MAX));
                if let Some(offset) = at.0.checked_sub(base.0)
                    && offset < bar.host.len
                {
                    return Some((slot, bar.index, offset));
                }
            }
        }
        None
    }

    /// Mistakes so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn slot_at(&self, offset: u64) -> Option<usize> {
        let bus0 = usize::try_from(offset >> 12).ok()?;
        usize::from(*self.slots.get(bus0)?).checked_sub(1)
    }

    /// Decides where each BAR should be: where the guest put it, if that is inside the window, decoding is on, and no
    /// BAR of a lower slot or index is there.
    fn plan(&mut self) {
        let mut used: heapless::Vec<Span<Gpa>, { MAX_FUNCTIONS * 6 }> = heapless::Vec::new();
        for function in &mut self.functions {
            for index in 0..function.bars.len() {
                let place = function.place_of(index).filter(|span| {
                    self.window.covers(span) && !used.iter().any(|other| other.overlaps(span))
                });
                if let Some(span) = place {
                    // Six BARs a function: there is room.
                    let _ = used.push(span);
                }
                function.bars[index].wanted = place.map(|span| span.base);
            }
        }
        self.moved = true;
    }
}

/// The guest's interrupt of `pin` (1 = INTA; 0 = none) of a device on bus 0, swizzled as in its device tree.
pub fn intx_intid(device: u8, pin: u8) -> Option<u32> {
    let pin = pin.checked_sub(1)?;
    Some(guest_map::INTX_INTID + u32::from(swizzle(device, pin)))
}

/// Which of the host's four interrupts `pin` (0 = INTA) of a device on bus 0 is.
pub const fn swizzle(device: u8, pin: u8) -> u8 {
    (device % 4 + pin) % 4
}

fn is_well_formed(offset: u64, size: u8) -> bool {
    matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size.into())
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(at) => write!(f, "{at}: functions of a guest are on bus 00"),
            Self::Twice(at) => write!(f, "{at}: two functions at one place"),
            Self::NoFunctionZero(at) => write!(f, "{at}: its device has no function 0"),
            Self::NotAssignable(at) => write!(f, "{at} cannot be assigned"),
            Self::TooMany => write!(f, "more than {MAX_FUNCTIONS} functions"),
        }
    }
}
