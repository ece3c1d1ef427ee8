//! One virtual function: its first 256 bytes as values and bit masks, composed once.

use super::Placement;
use super::layout::{self, Row};
use crate::pci::{BarKind, Bdf, ConfigSpace, Function, FunctionInfo, spec};
use heapless::Vec;
use iommu::addr::{Gpa, Hpa, Span};

/// One 32-bit register.
#[derive(Clone, Copy, Debug, Default)]
struct Register {
    value: u32,
    reset: u32,
    writable: u32,
    physical: u32,
    live: u32,
}

/// One memory BAR.
#[derive(Clone, Copy, Debug)]
pub struct VirtualBar {
    /// Register index.
    pub index: u8,
    wide: bool,
    /// The host pages.
    pub host: Span<Hpa>,
    /// Where it should be.
    pub wanted: Option<Gpa>,
    /// Where stage 2 has it, as far as effects were taken.
    pub mapped: Option<Gpa>,
}

/// One function of the guest.
#[derive(Clone, Debug)]
pub struct VirtualFunction {
    /// The function itself.
    pub physical: Function,
    /// Where the guest sees it.
    pub guest: Bdf,
    /// Its memory BARs.
    pub bars: Vec<VirtualBar, 6>,
    registers: [Register; 64],
    express: Option<u16>,
    power: Option<u16>,
    msi: Option<u16>,
    msix: Option<u16>,
    /// What the device has as address and data of MSI, if that is not what the guest has written.
    message: Option<(u32, u32)>,
    attached: bool,
}

/// What a write did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing to be done outside.
    Nothing,
    /// A BAR may have moved.
    Moved,
    /// Function level reset.
    Reset,
}

const COMMAND: u16 = spec::COMMAND;

impl VirtualFunction {
    /// The function in the state after reset, detached.
    pub fn new(placement: &Placement<'_>, multifunction: bool) -> Self {
        let info = placement.info;
        let mut new = Self {
            physical: info.address,
            guest: placement.guest,
            bars: Vec::new(),
            registers: [Register::default(); 64],
            express: None,
            power: None,
            msi: None,
            msix: None,
            message: None,
            attached: false,
        };
        for row in layout::HEADER {
            new.add(0, row);
        }
        let word = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
        new.at(0x00).reset = word(info.vendor, info.device);
        new.at(0x08).reset = info.class << 8 | u32::from(info.revision);
        if multifunction {
            new.at(0x0c).reset |= u32::from(spec::HEADER_MULTIFUNCTION) << 16;
        }
        new.at(0x2c).reset = word(info.subsystem.0, info.subsystem.1);
        if placement.intx {
            new.at(0x3c).reset |= u32::from(info.interrupt_pin) << 8;
        }
        new.add_bars(info);
        new.add_capabilities(info);
        new.restore();
        new
    }

    fn at(&mut self, offset: u16) -> &mut Register {
        &mut self.registers[usize::from(offset / 4)]
    }

    fn add(&mut self, base: u16, row: Row) {
        let register = self.at(base + u16::from(row.offset));
        register.reset |= row.reset;
        register.writable |= row.writable;
        register.physical |= row.physical;
        register.live |= row.live;
    }

    /// A BAR of less than a page takes a page, as stage 2 does: address bits 11:4 read zero.
    fn add_bars(&mut self, info: &FunctionInfo) {
        for (index, bar) in info.bars.iter().enumerate() {
            let Some((bar, host)) = bar.and_then(|bar| Some((bar, bar.host_span()?))) else {
                continue;
            };
            let address = !(bar.mapped_size() - 1);
            let offset = spec::BAR0 + 4 * index as u16;
            let register = self.at(offset);
            register.reset = bar.flags();
            register.writable = address as u32;
            let wide = bar.kind == BarKind::Memory64;
            if wide {
                self.at(offset + 4).writable = (address >> 32) as u32;
            }
            // At most six registers, so at most six BARs.
            let _ = self.bars.push(VirtualBar {
                index: index as u8,
                wide,
                host,
                wanted: None,
                mapped: None,
            });
        }
    }

    /// The allowed capabilities at their own offsets, linked in their own order. One that shares bytes with another is
    /// left out: their registers could not be told apart.
    fn add_capabilities(&mut self, info: &FunctionInfo) {
        let found = &info.capabilities;
        let mut used = 0u64;
        let mut link: Option<u16> = None;
        for &(id, offset) in &found.list {
            let Some(size) = layout::size_of(found, id, offset) else {
                continue;
            };
            let words = u32::from(size.div_ceil(4));
            let bits = (u64::MAX >> (64 - words)) << (offset / 4);
            if used & bits != 0 {
                continue;
            }
            used |= bits;
            let at = u16::from(offset);
            let rows: Vec<Row, 6> = match id {
                spec::id::POWER => {
                    self.power = Some(at);
                    rows(Some(layout::POWER))
                }
                spec::id::MSI => {
                    self.msi = Some(at);
                    rows(found.msi.as_ref().map(layout::msi))
                }
                spec::id::EXPRESS => {
                    self.express = Some(at);
                    rows(found.express.as_ref().map(layout::express))
                }
                _ => {
                    self.msix = Some(at);
                    rows(found.msix.as_ref().map(layout::msix))
                }
            };
            for row in rows {
                self.add(at, row);
            }
            self.at(at).reset |= u32::from(id);
            match link {
                Some(previous) => self.at(previous).reset |= u32::from(offset) << 8,
                None => self.at(spec::CAPABILITIES).reset = u32::from(offset),
            }
            link = Some(at);
        }
        if link.is_some() {
            self.at(COMMAND).reset |= u32::from(spec::STATUS_CAPABILITIES) << 16;
        }
    }

    /// A read of 1, 2 or 4 bytes, aligned.
    pub fn read(&mut self, space: &mut dyn ConfigSpace, offset: u16, size: u8) -> u32 {
        let Some(&register) = self.registers.get(usize::from(offset / 4)) else {
            return 0;
        };
        let (shift, touched) = lanes(offset, size);
        let mut value = register.value;
        if self.attached && register.live & touched != 0 {
            value |= space.read32(self.physical, offset & !3) & register.live;
        }
        (value & touched) >> shift
    }

    /// A write of 1, 2 or 4 bytes, aligned.
    pub fn write(
        &mut self,
        space: &mut dyn ConfigSpace,
        offset: u16,
        size: u8,
        value: u32,
    ) -> Outcome {
        let at = offset & !3;
        let Some(&register) = self.registers.get(usize::from(at / 4)) else {
            return Outcome::Nothing;
        };
        let (shift, touched) = lanes(offset, size);
        let value = value << shift & touched;
        if self.is_reset(at, value) {
            return Outcome::Reset;
        }
        let changed = register.writable & touched;
        let mut new = register.value & !changed | value & changed;
        if self.power == Some(at.wrapping_sub(4)) && matches!(new & 3, 1 | 2) {
            // D1 and D2 are not there: such a write is discarded (§7.5.2.2).
            new = new & !3 | register.value & 3;
        }
        if self.msi == Some(at) {
            new = bounded_count(new);
        }
        self.at(at).value = new;
        let changed = register.value ^ new;
        if changed & register.physical != 0 && self.attached {
            self.write_through(space, at);
        }
        let bars = spec::BAR0..spec::BAR0 + 24;
        let decoding = u32::from(spec::COMMAND_MEMORY);
        if changed != 0 && bars.contains(&at) || at == COMMAND && changed & decoding != 0 {
            Outcome::Moved
        } else {
            Outcome::Nothing
        }
    }

    /// See [`super::VirtualPci::attach`].
    pub fn attach(&mut self, space: &mut dyn ConfigSpace) {
        self.attached = true;
        // Downwards: addresses before the control words that enable messages, the command register last.
        for at in (0..256).step_by(4).rev() {
            if self.at(at).physical != 0 {
                self.write_through(space, at);
            }
        }
    }

    /// See [`super::VirtualPci::resume`].
    pub fn resume(&mut self, space: &mut dyn ConfigSpace) {
        if self.attached {
            self.attach(space);
        }
    }

    /// See [`super::VirtualPci::detach`].
    pub fn detach(&mut self, space: &mut dyn ConfigSpace) {
        space.write16(self.physical, COMMAND, spec::COMMAND_INTX_DISABLE);
        self.restore();
        // Upwards: messages off before their addresses go.
        for at in (0x40..256).step_by(4) {
            if self.attached && self.at(at).physical != 0 {
                self.write_through(space, at);
            }
        }
        self.attached = false;
    }

    /// Where the guest put BAR number `index` of `bars`, if it decodes memory.
    pub fn place_of(&self, index: usize) -> Option<Span<Gpa>> {
        let bar = &self.bars[index];
        let value = |at: u16| self.registers[usize::from(at / 4)].value;
        if value(COMMAND) & u32::from(spec::COMMAND_MEMORY) == 0 {
            return None;
        }
        let at = spec::BAR0 + 4 * u16::from(bar.index);
        let low = u64::from(value(at) & !0xf);
        let high = if bar.wide { value(at + 4) } else { 0 };
        Span::<Gpa>::new(Gpa(u64::from(high) << 32 | low), bar.host.len)
    }

    /// See [`super::VirtualPci::set_message`].
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn set_message(&mut self, address: u32, data: u32) {
        self.message = Some((address, data));
    }

    /// See [`super::VirtualPci::message`].
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn message(&self, number: u16) -> Option<(u64, u32)> {
        let msi = self.msi.filter(|_| self.attached)?;
        let control = self.value(msi) >> 16;
        let several = 1u16 << (control >> 4 & 7).min(5);
        if control & u32::from(spec::MSI_ENABLE) == 0 || number >= several {
            return None;
        }
        let high = match self.has_wide_msi(msi) {
            true => self.value(msi + 8),
            false => 0,
        };
        let address = u64::from(high) << 32 | u64::from(self.value(msi + 4));
        // The function replaces as many low bits as it takes (§7.7.1.5).
        let data = self.value(self.msi_data(msi)) & !(u32::from(several) - 1);
        Some((address, data | u32::from(number)))
    }

    /// See [`super::VirtualPci::has_msix_on`].
    #[cfg(any(target_arch = "x86_64", test))]
    pub fn has_msix_on(&self) -> bool {
        let on = |at: u16| self.value(at) >> 16 & u32::from(spec::MSIX_ENABLE) != 0;
        self.attached && self.msix.is_some_and(on)
    }

    fn value(&self, at: u16) -> u32 {
        self.registers[usize::from(at / 4)].value
    }

    fn has_wide_msi(&self, msi: u16) -> bool {
        self.value(msi) >> 16 & u32::from(spec::MSI_64) != 0
    }

    fn msi_data(&self, msi: u16) -> u16 {
        msi + if self.has_wide_msi(msi) { 12 } else { 8 }
    }

    /// What the device gets where the guest has written `value`.
    fn for_device(&self, at: u16, value: u32) -> u32 {
        let (Some((address, data)), Some(msi)) = (self.message, self.msi) else {
            return value;
        };
        if at == msi + 4 {
            address
        } else if at == self.msi_data(msi) {
            data
        } else if at == msi + 8 {
            // The upper half, as the data is behind it.
            0
        } else {
            value
        }
    }

    /// 0 none, 1 INTA .. 4 INTD, as the guest reads it.
    pub fn interrupt_pin(&self) -> u8 {
        (self.registers[0x3c / 4].value >> 8) as u8
    }

    /// Whether writing `value` to the register at `at` asks for a function level reset that the function has.
    fn is_reset(&self, at: u16, value: u32) -> bool {
        self.express.is_some_and(|express| {
            let flr = self.registers[usize::from(express / 4 + 1)].value & spec::DEVICE_FLR != 0;
            flr && at == express + spec::DEVICE_CONTROL
                && value & u32::from(spec::DEVICE_CONTROL_FLR) != 0
        })
    }

    fn restore(&mut self) {
        for register in &mut self.registers {
            register.value = register.reset;
        }
    }

    /// Writes the physical half or word of a register: what is not the guest's in it has the recorded value.
    fn write_through(&mut self, space: &mut dyn ConfigSpace, at: u16) {
        let Register {
            value, physical, ..
        } = *self.at(at);
        let value = self.for_device(at, value);
        if at == COMMAND {
            let mut command = (value & layout::COMMAND_PHYSICAL) as u16 | spec::COMMAND_MEMORY;
            if self.interrupt_pin() == 0 {
                command |= spec::COMMAND_INTX_DISABLE;
            }
            space.write16(self.physical, COMMAND, command);
        } else if physical & 0xffff == 0 {
            space.write16(self.physical, at + 2, (value >> 16) as u16);
        } else if physical >> 16 == 0 {
            space.write16(self.physical, at, value as u16);
        } else {
            space.write32(self.physical, at, value);
        }
    }
}

/// Shift and mask of the bytes that an access touches in its register.
fn lanes(offset: u16, size: u8) -> (u32, u32) {
    let shift = 8 * u32::from(offset & 3);
    (shift, u32::MAX >> (32 - 8 * u32::from(size)) << shift)
}

/// Message control and header of MSI with a count of messages that the function can do (§7.7.1.2).
fn bounded_count(register: u32) -> u32 {
    let capable = register >> 17 & 7;
    let enabled = (register >> 20 & 7).min(capable);
    register & !(7 << 20) | enabled << 20
}

fn rows<const N: usize>(rows: Option<[Row; N]>) -> Vec<Row, 6> {
    rows.into_iter().flatten().collect()
}
