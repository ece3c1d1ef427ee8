//! The distributor's register frame (IHI 0069, §12.9).

use super::banked::{Banked, is_wide, merge, part};
use super::spec::{IIDR, PIDR2, gicd};
use super::{Effects, Read, Vgic};
use crate::guest_map::SPI_END;
use crate::vdev::CpuSet;

const IROUTER_FIRST: u64 = gicd::IROUTER + 32 * 8;
const IROUTER_END: u64 = gicd::IROUTER + SPI_END as u64 * 8;
const IROUTER_LAST: u64 = gicd::IROUTER + 1019 * 8 + 7;

impl Vgic {
    /// Reads `size` bytes (1, 2, 4 or 8) at `offset` of the distributor.
    pub fn read_distributor(&mut self, offset: u64, size: u8) -> Read {
        if let Some(banked) = Banked::decode(offset, size) {
            return match self.spis_of(banked) {
                Some(id) => self.read_banked(banked, id),
                None => Read::default(),
            };
        }
        if let IROUTER_FIRST..IROUTER_END = offset
            && is_wide(offset, size)
        {
            let id = self.first_spi() + ((offset - IROUTER_FIRST) / 8) as usize;
            return Read::from(part(self.irqs[id].route, offset, size));
        }
        let word = match offset {
            _ if size != 4 => None,
            gicd::CTLR => {
                let waiting = if self.stale == CpuSet::NONE {
                    0
                } else {
                    gicd::CTLR_RWP
                };
                let read = Read::from(u64::from(
                    self.groups | gicd::CTLR_ARE | gicd::CTLR_DS | waiting,
                ));
                return Read {
                    kick: self.stale,
                    ..read
                };
            }
            gicd::TYPER => Some(self.distributor_type()),
            gicd::IIDR => Some(IIDR),
            gicd::PIDR2 => Some(PIDR2),
            _ => None,
        };
        if word.is_none() && !reserved_as_zero(offset, size) {
            self.refuse();
        }
        Read::from(u64::from(word.unwrap_or(0)))
    }

    /// `cpu` writes `size` bytes (1, 2, 4 or 8) at `offset` of the distributor.
    pub fn write_distributor(&mut self, cpu: usize, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::default();
        if let Some(banked) = Banked::decode(offset, size) {
            if let Some(id) = self.spis_of(banked) {
                effects = self.write_banked(cpu, banked, id, value);
            }
        } else if let IROUTER_FIRST..IROUTER_END = offset
            && is_wide(offset, size)
        {
            let id = self.first_spi() + ((offset - IROUTER_FIRST) / 8) as usize;
            let route = merge(self.irqs[id].route, offset, size, value);
            self.set_route(id, route, &mut effects);
        } else if offset == gicd::CTLR && size == 4 {
            let groups = value as u32 & (gicd::CTLR_GROUP0 | gicd::CTLR_GROUP1);
            let disabled = self.groups & !groups;
            let changed = self.groups ^ groups;
            self.groups = groups;
            for cpu in 0..self.cpus.len() {
                let busy = self.cpus[cpu].filled.iter().any(Option::is_some);
                if changed != 0 && (busy || !self.cpus[cpu].ready.is_empty()) {
                    effects.kick = effects.kick.union(CpuSet::one(cpu));
                }
                if disabled != 0 && busy {
                    self.stale = self.stale.union(CpuSet::one(cpu));
                }
            }
        } else if !read_only(offset, size) && !reserved_as_zero(offset, size) {
            self.refuse();
        }
        effects
    }

    /// The first interrupt of `banked`, unless it lies among private ones (RES0 with affinity routing) or past the end.
    fn spis_of(&self, banked: Banked) -> Option<usize> {
        self.spi(banked.range().0)
    }

    fn distributor_type(&self) -> u32 {
        let mut value =
            (SPI_END / 32 - 1) | 15 << gicd::TYPER_ID_BITS | gicd::TYPER_A3V | gicd::TYPER_NO_1N;
        if self.has_lpis() {
            value |= gicd::TYPER_LPIS;
        }
        if self.cpus.iter().any(|cpu| cpu.affinity & 0xf0 != 0) {
            value |= gicd::TYPER_RSS;
        }
        value
    }
}

impl From<u64> for Read {
    fn from(value: u64) -> Self {
        Self {
            value,
            kick: CpuSet::NONE,
        }
    }
}

fn read_only(offset: u64, size: u8) -> bool {
    size == 4 && matches!(offset, gicd::TYPER | gicd::IIDR | gicd::PIDR2)
}

/// Registers that exist and read as zero here: no message-based SPIs, one security state, affinity routing.
fn reserved_as_zero(offset: u64, size: u8) -> bool {
    let word = size == 4 && offset.is_multiple_of(4);
    match offset {
        gicd::TYPER2 | gicd::STATUSR => word,
        _ if gicd::MESSAGES.contains(&offset) => word || size == 2,
        gicd::ITARGETSR..=0xbff => word || size == 1,
        gicd::IGRPMODR..=0xd7f | gicd::NSACR..=0xeff => word,
        gicd::SGIR..=0xf2f => word || size == 1,
        gicd::IROUTER..=IROUTER_LAST => is_wide(offset, size),
        gicd::ID..=0xffff => word,
        _ => false,
    }
}
