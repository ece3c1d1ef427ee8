//! The redistributors' register frames (IHI 0069, §12.11): all of them in one row, two frames a vCPU.

use super::banked::{Banked, is_wide, merge, part};
use super::spec::{IIDR, PIDR2, gicr};
use super::{Effects, PRIVATE, Read, Vgic};
use crate::guest_map::GICR_STRIDE;

impl Vgic {
    /// Reads `size` bytes (1, 2, 4 or 8) at `offset` from the first redistributor.
    pub fn read_redistributor(&mut self, offset: u64, size: u8) -> Read {
        let Some((cpu, offset)) = self.redistributor_at(offset) else {
            self.refuse();
            return Read::default();
        };
        if let Some(offset) = offset.checked_sub(gicr::SGI) {
            return self.read_sgi_frame(cpu, offset, size);
        }
        let c = &self.cpus[cpu];
        let word = match (offset, size) {
            (0x08..=0x0f, _) if is_wide(offset, size) => {
                Some(part(self.redistributor_type(cpu), offset, size))
            }
            (0x70..=0x77, _) if is_wide(offset, size) => Some(part(c.propbaser, offset, size)),
            (0x78..=0x7f, _) if is_wide(offset, size) => Some(part(c.pendbaser, offset, size)),
            (gicr::CTLR, 4) => Some(u64::from(gicr::CTLR_CES | u32::from(c.lpis_enabled))),
            (gicr::IIDR, 4) => Some(u64::from(IIDR)),
            (gicr::WAKER, 4) if c.asleep => Some(u64::from(
                gicr::WAKER_PROCESSOR_SLEEP | gicr::WAKER_CHILDREN_ASLEEP,
            )),
            (super::spec::gicd::PIDR2, 4) => Some(u64::from(PIDR2)),
            _ => None,
        };
        if word.is_none() && !reserved_as_zero(offset, size) {
            self.refuse();
        }
        Read::from(word.unwrap_or(0))
    }

    /// Writes `size` bytes (1, 2, 4 or 8) at `offset` from the first redistributor.
    pub fn write_redistributor(&mut self, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::default();
        let Some((cpu, offset)) = self.redistributor_at(offset) else {
            self.refuse();
            return effects;
        };
        if let Some(offset) = offset.checked_sub(gicr::SGI) {
            return self.write_sgi_frame(cpu, offset, size, value);
        }
        let lpis = self.has_lpis();
        let c = &mut self.cpus[cpu];
        match (offset, size) {
            (gicr::CTLR, 4) => {
                let enabled = lpis && value as u32 & gicr::CTLR_ENABLE_LPIS != 0;
                self.set_lpis_enabled(cpu, enabled, &mut effects);
            }
            (gicr::WAKER, 4) => c.asleep = value as u32 & gicr::WAKER_PROCESSOR_SLEEP != 0,
            (0x70..=0x7f, _) if is_wide(offset, size) && c.lpis_enabled => self.refuse(),
            (0x70..=0x77, _) if is_wide(offset, size) => {
                c.propbaser = merge(c.propbaser, offset, size, value) & gicr::PROPBASER_MASK;
            }
            (0x78..=0x7f, _) if is_wide(offset, size) => {
                c.pendbaser = merge(c.pendbaser, offset, size, value) & gicr::PENDBASER_MASK;
            }
            (gicr::IIDR | super::spec::gicd::PIDR2, 4) => {}
            (0x08..=0x0f, _) if is_wide(offset, size) => {}
            _ if reserved_as_zero(offset, size) => {}
            _ => self.refuse(),
        }
        effects
    }

    fn redistributor_at(&self, offset: u64) -> Option<(usize, u64)> {
        let cpu = usize::try_from(offset / GICR_STRIDE).ok()?;
        (cpu < self.cpus.len()).then_some((cpu, offset % GICR_STRIDE))
    }

    fn redistributor_type(&self, cpu: usize) -> u64 {
        let mut value = (cpu as u64) << gicr::TYPER_NUMBER;
        value |= u64::from(self.cpus[cpu].affinity) << gicr::TYPER_AFFINITY;
        if self.has_lpis() {
            value |= gicr::TYPER_PLPIS;
        }
        if cpu + 1 == self.cpus.len() {
            value |= gicr::TYPER_LAST;
        }
        value
    }

    fn read_sgi_frame(&mut self, cpu: usize, offset: u64, size: u8) -> Read {
        match private_of(offset, size) {
            Some((banked, first)) => self.read_banked(banked, cpu * PRIVATE + first),
            None => {
                if !sgi_reserved_as_zero(offset, size) {
                    self.refuse();
                }
                Read::default()
            }
        }
    }

    fn write_sgi_frame(&mut self, cpu: usize, offset: u64, size: u8, value: u64) -> Effects {
        match private_of(offset, size) {
            Some((banked, first)) => self.write_banked(cpu, banked, cpu * PRIVATE + first, value),
            None => {
                if !sgi_reserved_as_zero(offset, size) {
                    self.refuse();
                }
                Effects::default()
            }
        }
    }
}

fn private_of(offset: u64, size: u8) -> Option<(Banked, usize)> {
    let banked = Banked::decode(offset, size)?;
    let (first, _) = banked.range();
    (first < PRIVATE as u32).then_some((banked, first as usize))
}

/// Registers that exist and read as zero here: no direct LPIs, no partitioning, nothing in flight.
fn reserved_as_zero(offset: u64, size: u8) -> bool {
    let word = size == 4 && offset.is_multiple_of(4);
    match offset {
        _ if gicr::DIRECT_LPI.contains(&(offset & !4)) => is_wide(offset, size),
        gicr::STATUSR | gicr::WAKER | gicr::SYNCR => word,
        0xffd0..=0xffff => word,
        _ => false,
    }
}

/// In the second frame: one security state, so no group modifiers and no access control.
fn sgi_reserved_as_zero(offset: u64, size: u8) -> bool {
    size == 4 && matches!(offset, 0xd00 | 0xe00)
}
