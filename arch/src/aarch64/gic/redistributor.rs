//! The Redistributors: one a CPU, for its SGIs, PPIs and LPIs (IHI 0069, 12.10 and 12.11).

use super::distributor::{check_revision, with_trigger};
use super::spec::{
    GICD_ICACTIVER, GICD_ICENABLER, GICD_ICFGR, GICD_ICPENDR, GICD_IGROUPR, GICD_IPRIORITYR,
    GICD_ISENABLER, GICR_CTLR, GICR_PENDBASER, GICR_PROPBASER, GICR_STRIDE, GICR_STRIDE_VLPIS,
    GICR_TYPER, GICR_WAKER, INNER_SHAREABLE, InnerCache, Pendbaser, Propbaser,
    RedistributorControl, RedistributorType, SGI_BASE, Waker,
};
use super::{
    AFFINITY, DEFAULT_PRIORITY, GicError, Intid, RWP_LIMIT_NS, Trigger, WAKE_LIMIT_NS,
    affinity_word, wait,
};
use crate::memory::Frames;
use crate::mmio::MmioRegion;
use alloc::vec::Vec;
use spin::mutex::TicketMutex;
use tock_registers::LocalRegisterCopy;

/// The Redistributor of one CPU.
#[derive(Debug)]
pub(super) struct Redistributor {
    registers: MmioRegion,
    mpidr: u64,
    typer: LocalRegisterCopy<u64, RedistributorType::Register>,
    /// GICR_ICFGR1 can only be written whole.
    configure: TicketMutex<()>,
}

/// Finds the Redistributor of each of `cpus` (MPIDR_EL1 values) in `regions`, in their order.
///
/// `stride` is what firmware states (the device tree's `redistributor-stride`), `None` what GICR_TYPER implies.
/// The registers of CPUs that are not asked for are dropped: nobody can reach them from here on.
pub(super) fn discover(
    regions: Vec<MmioRegion>,
    stride: Option<u64>,
    cpus: &[u64],
) -> Result<Vec<Redistributor>, GicError> {
    if let Some(stride) = stride.filter(|s| *s < GICR_STRIDE || !s.is_multiple_of(0x1_0000)) {
        return Err(GicError::Stride(stride));
    }
    let mut found: Vec<Option<Redistributor>> = cpus.iter().map(|_| None).collect();
    for region in regions {
        let mut rest = region;
        // Each turn consumes at least 128 KiB of `rest`.
        while rest.len() >= GICR_STRIDE {
            check_revision(&rest)?;
            let typer =
                LocalRegisterCopy::<u64, RedistributorType::Register>::new(rest.read64(GICR_TYPER));
            let step = stride.unwrap_or(match typer.is_set(RedistributorType::Vlpis) {
                true => GICR_STRIDE_VLPIS,
                false => GICR_STRIDE,
            });
            if rest.len() < step {
                return Err(GicError::RegionTooShort(rest.base()));
            }
            let (frame, after) = rest.split_at(step);
            let affinity = typer.read(RedistributorType::Affinity);
            if let Some(cpu) = cpus
                .iter()
                .position(|mpidr| affinity_word(*mpidr) == affinity as u32)
            {
                let previous = found[cpu].replace(Redistributor {
                    registers: frame,
                    mpidr: cpus[cpu] & AFFINITY,
                    typer,
                    configure: TicketMutex::new(()),
                });
                if previous.is_some() {
                    return Err(GicError::TwoRedistributors(cpus[cpu]));
                }
            }
            rest = after;
            if typer.is_set(RedistributorType::Last) {
                break;
            }
        }
    }
    let missing =
        |(cpu, found): (&u64, Option<Redistributor>)| found.ok_or(GicError::NoRedistributor(*cpu));
    cpus.iter().zip(found).map(missing).collect()
}

impl Redistributor {
    /// Affinity of its CPU, as in MPIDR_EL1.
    pub(super) fn mpidr(&self) -> u64 {
        self.mpidr
    }

    /// Physical address of RD_base.
    pub(super) fn base(&self) -> u64 {
        self.registers.base()
    }

    /// GICR_TYPER.Processor_Number.
    pub(super) fn processor_number(&self) -> u16 {
        self.typer.read(RedistributorType::ProcessorNumber) as u16
    }

    /// Whether it has physical LPIs.
    pub(super) fn has_lpis(&self) -> bool {
        self.typer.is_set(RedistributorType::Plpis)
    }

    /// Wakes it, and leaves every SGI and PPI in Group 1, disabled and neither pending nor active, PPIs level.
    pub(super) fn init(&self) -> Result<(), GicError> {
        self.wake()?;
        self.registers.write32(SGI_BASE + GICD_ICENABLER, !0);
        self.registers.write32(SGI_BASE + GICD_ICPENDR, !0);
        self.registers.write32(SGI_BASE + GICD_ICACTIVER, !0);
        self.registers.write32(SGI_BASE + GICD_IGROUPR, !0);
        let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
        for word in 0..8 {
            self.registers
                .write32(SGI_BASE + GICD_IPRIORITYR + 4 * word, priorities);
        }
        self.wait()?;
        // GICR_ICFGR0, of the SGIs, is fixed; a PPI may be, too (12.11).
        self.registers.write32(SGI_BASE + GICD_ICFGR + 4, 0);
        Ok(())
    }

    /// 12.11: software clears ProcessorSleep, and must not use the interface until ChildrenAsleep reads 0.
    fn wake(&self) -> Result<(), GicError> {
        let mut waker =
            LocalRegisterCopy::<u32, Waker::Register>::new(self.registers.read32(GICR_WAKER));
        waker.modify(Waker::ProcessorSleep::CLEAR);
        self.registers.write32(GICR_WAKER, waker.get());
        let awake = wait::until(WAKE_LIMIT_NS, || {
            self.registers.read32(GICR_WAKER) & Waker::ChildrenAsleep::SET.value == 0
        });
        if awake {
            Ok(())
        } else {
            Err(GicError::WakeTimeout(self.mpidr))
        }
    }

    /// Lets an SGI or PPI through to this CPU.
    pub(super) fn enable(&self, intid: Intid, trigger: Trigger) -> Result<(), GicError> {
        self.disable(intid)?;
        if intid.0 >= 16 {
            let offset = SGI_BASE + GICD_ICFGR + 4;
            let _whole_word = self.configure.lock();
            let old = self.registers.read32(offset);
            self.registers
                .write32(offset, with_trigger(old, intid, trigger));
        }
        self.write_bit(GICD_ISENABLER, intid);
        Ok(())
    }

    /// Stops an SGI or PPI; on return it is forwarded no more.
    pub(super) fn disable(&self, intid: Intid) -> Result<(), GicError> {
        self.write_bit(GICD_ICENABLER, intid);
        self.wait()
    }

    pub(super) fn write_bit(&self, register: usize, intid: Intid) {
        self.registers
            .write32(SGI_BASE + register, 1 << (intid.0 % 32));
    }

    pub(super) fn read_bit(&self, register: usize, intid: Intid) -> bool {
        self.registers.read32(SGI_BASE + register) >> (intid.0 % 32) & 1 != 0
    }

    /// Turns LPIs, which are off, on with these tables (12.11). `pending` must be all zero. Returns whether the
    /// Redistributor sees the caches; where it does not, tables must be cleaned after each change.
    pub(super) fn enable_lpis(
        &self,
        property: &Frames,
        id_bits: u32,
        pending: &Frames,
    ) -> Result<bool, GicError> {
        let tables = Propbaser::Address.val(property.base() >> 12)
            + Propbaser::IdBits.val(u64::from(id_bits) - 1);
        let coherent = tables
            + Propbaser::InnerCache.val(InnerCache::WriteBack as u64)
            + Propbaser::Shareability.val(INNER_SHAREABLE);
        self.registers.write64(GICR_PROPBASER, coherent.value);
        // 12.11: an implementation may fix the attributes; Non-shareable read back means that it does not snoop.
        let seen = LocalRegisterCopy::<u64, Propbaser::Register>::new(
            self.registers.read64(GICR_PROPBASER),
        );
        let snoops = seen.read(Propbaser::Shareability) != 0;
        if !snoops {
            let plain = tables + Propbaser::InnerCache.val(InnerCache::NonCacheable as u64);
            self.registers.write64(GICR_PROPBASER, plain.value);
        }

        let table = Pendbaser::Address.val(pending.base() >> 16) + Pendbaser::Ptz::SET;
        let attributes = match snoops {
            true => {
                Pendbaser::InnerCache.val(InnerCache::WriteBack as u64)
                    + Pendbaser::Shareability.val(INNER_SHAREABLE)
            }
            false => {
                Pendbaser::InnerCache.val(InnerCache::NonCacheable as u64)
                    + Pendbaser::Shareability.val(0)
            }
        };
        self.registers
            .write64(GICR_PENDBASER, (table + attributes).value);
        self.modify_control(true);
        if !self.lpis_enabled() {
            return Err(GicError::LpisRefused(self.mpidr));
        }
        Ok(snoops)
    }

    /// Firmware may have left them on, with tables of its own, which the Redistributor goes on writing to.
    pub(super) fn disable_lpis(&self) -> Result<(), GicError> {
        if !self.has_lpis() || !self.lpis_enabled() {
            return Ok(());
        }
        self.modify_control(false);
        self.wait()?;
        if self.lpis_enabled() {
            Err(GicError::LpisLocked(self.mpidr))
        } else {
            Ok(())
        }
    }

    fn lpis_enabled(&self) -> bool {
        self.registers.read32(GICR_CTLR) & RedistributorControl::EnableLpis::SET.value != 0
    }

    fn modify_control(&self, lpis: bool) {
        let mut control = LocalRegisterCopy::<u32, RedistributorControl::Register>::new(
            self.registers.read32(GICR_CTLR),
        );
        control.modify(RedistributorControl::EnableLpis.val(u32::from(lpis)));
        self.registers.write32(GICR_CTLR, control.get());
    }

    fn wait(&self) -> Result<(), GicError> {
        let done = wait::until(RWP_LIMIT_NS, || {
            self.registers.read32(GICR_CTLR) & RedistributorControl::Rwp::SET.value == 0
        });
        if done {
            Ok(())
        } else {
            Err(GicError::RedistributorTimeout(self.mpidr))
        }
    }
}
