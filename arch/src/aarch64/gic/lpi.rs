//! LPIs: their configuration and pending tables in memory (IHI 0069, chapter 5).

use super::redistributor::Redistributor;
use super::spec::{FIRST_LPI, LPI_ENABLED, LPI_PRIORITY, LPI_RES1};
use super::{GicError, Intid};
use crate::barrier;
use crate::memory::{FramePool, Frames};
use alloc::vec::Vec;

/// Bits of the INTIDs that the tables cover at most: 8,192 LPIs, 8 KiB of configuration, 64 KiB of pending table a CPU.
pub const MAX_ID_BITS: u32 = 14;

/// The tables, shared by all CPUs. While LPIs are on, the hardware reads and writes them: they are never given back.
#[derive(Debug)]
pub(super) struct LpiTables {
    property: Frames,
    _pending: Vec<Frames>,
    count: u32,
}

impl LpiTables {
    /// Turns LPIs on at every Redistributor. `id_bits` and `count` are what the Distributor has.
    pub(super) fn new(
        pool: &'static FramePool,
        redistributors: &[Redistributor],
        id_bits: u32,
        count: u32,
    ) -> Result<Self, GicError> {
        if let Some(without) = redistributors.iter().find(|r| !r.has_lpis()) {
            return Err(GicError::NoLpis(Some(without.mpidr())));
        }
        let id_bits = id_bits.min(MAX_ID_BITS);
        let count = count.min((1 << id_bits) - FIRST_LPI);
        let property = pool
            .allocate(u64::from(count), 0x1000)
            .ok_or(GicError::NoMemory)?;
        // One bit an INTID from 0 on, 64 KiB aligned (12.11).
        let pending_len = (1u64 << id_bits) / 8;
        let allocate = |_: &Redistributor| {
            pool.allocate(pending_len, 0x1_0000)
                .ok_or(GicError::NoMemory)
        };
        let pending: Vec<Frames> = redistributors
            .iter()
            .map(allocate)
            .collect::<Result<_, _>>()?;
        for lpi in 0..count as usize {
            property.write8(lpi, LPI_RES1);
        }
        for frames in pending.iter().chain([&property]) {
            frames.clean(0, frames.len() as usize);
        }
        barrier::dma_write();
        let tables = Self {
            property,
            _pending: pending,
            count,
        };
        for (cpu, redistributor) in redistributors.iter().enumerate() {
            let enabled =
                redistributor.enable_lpis(&tables.property, id_bits, &tables._pending[cpu]);
            if let Err(error) = enabled {
                // Those before it use the tables already.
                core::mem::forget(tables);
                return Err(error);
            }
        }
        Ok(tables)
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Writes the configuration byte; the ITS must invalidate before it counts (5.1.1).
    pub(super) fn set(&self, lpi: Intid, enabled: bool, priority: u8) -> Result<(), GicError> {
        let index = lpi
            .0
            .checked_sub(FIRST_LPI)
            .filter(|index| *index < self.count)
            .ok_or(GicError::Intid(lpi))?;
        let enable = if enabled { LPI_ENABLED } else { 0 };
        self.property
            .write8(index as usize, priority & LPI_PRIORITY | LPI_RES1 | enable);
        self.property.clean(index as usize, 1);
        barrier::dma_write();
        Ok(())
    }
}
