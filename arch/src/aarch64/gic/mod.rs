//! The physical GICv3: Distributor, Redistributors and this CPU's interface (IHI 0069).
//!
//! [`Gic::new`] takes the registers and leaves every interrupt disabled; [`Gic::init_cpu`] runs once on each CPU;
//! [`Gic::enable_lpis`] gives the Redistributors their tables, before [`Its`](super::its::Its) sends anything. Then
//! [`acknowledge`](Gic::acknowledge), [`end`](Gic::end) and [`deactivate`](Gic::deactivate) are one instruction each:
//! priority drop and deactivation are apart (ICC_CTLR_EL1.EOImode = 1), because the interrupt of a guest's device is
//! ended by the hypervisor but deactivated by the guest, through `ICH_LR<n>_EL2`.HW (chapter 4).
//!
//! `spec` has the layouts, `distributor` the shared interrupts, `redistributor` those of a CPU, `lpi` the tables of
//! LPIs, `sysreg` the CPU interface.
//!
//! The `arm-gic` crate is not used: its frames are pointers that it must own by an unsafe promise, where ours are an
//! [`MmioRegion`] that was handed out once and answers to a fake on the host; and what a hypervisor needs most (EOImode,
//! LPIs, the ITS, list registers) is not in it.

mod distributor;
#[cfg(test)]
mod fake;
mod intid;
mod lpi;
mod redistributor;
pub(crate) mod spec;
pub(crate) mod sysreg;
#[cfg(test)]
mod tests;
pub(crate) mod wait;

pub use intid::{Intid, Kind, Trigger};
pub use lpi::MAX_ID_BITS;

use crate::memory::FramePool;
use crate::mmio::MmioRegion;
use alloc::vec::Vec;
use distributor::Distributor;
use lpi::LpiTables;
use redistributor::Redistributor;
use spec::{
    FIRST_LPI, FIRST_SPECIAL, GICD_ICACTIVER, GICD_ICPENDR, GICD_ISACTIVER, GICD_ISPENDR,
    ICC_CTLR_EOI_MODE, ICC_CTLR_PRI_BITS, ICC_SRE_EL2_ENABLE, ICC_SRE_NO_BYPASS, ICC_SRE_SRE,
};
use spin::Once;
use sysreg::Register;

/// Priority of every interrupt: the middle, so that it is distinct from 0 and 0xFF with any number of priority bits.
pub const DEFAULT_PRIORITY: u8 = 0x80;

/// Aff3, Aff2, Aff1 and Aff0 of MPIDR_EL1, which are where GICD_IROUTER has them.
const AFFINITY: u64 = 0xFF_00FF_FFFF;
/// A register write takes effect in far less; past this the hardware is broken.
const RWP_LIMIT_NS: u64 = 100_000_000;
/// As above, for the handshake between Redistributor and CPU interface.
const WAKE_LIMIT_NS: u64 = 100_000_000;

/// What can go wrong with the GIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GicError {
    /// This PIDR2 is not that of a GICv3 or GICv4.
    NotGicV3(u32),
    /// A register region is shorter than a frame; its base.
    RegionTooShort(u64),
    /// No Redistributor can be this many bytes from the next.
    Stride(u64),
    /// No Redistributor has this MPIDR's affinity.
    NoRedistributor(u64),
    /// Two Redistributors have this MPIDR's affinity.
    TwoRedistributors(u64),
    /// GICD_CTLR.RWP stays set.
    DistributorTimeout,
    /// GICR_CTLR.RWP of this CPU stays set.
    RedistributorTimeout(u64),
    /// The Redistributor of this CPU does not wake.
    WakeTimeout(u64),
    /// The system registers cannot be turned on: ICC_SRE_EL2 reads this.
    NoSystemRegisters(u64),
    /// The machine, or the Redistributor of this CPU, has no LPIs.
    NoLpis(Option<u64>),
    /// LPIs of this CPU were on and cannot be turned off (GICR_CTLR.CES is 0).
    LpisLocked(u64),
    /// LPIs of this CPU do not turn on.
    LpisRefused(u64),
    /// [`Gic::enable_lpis`] was not called, or is called again.
    LpiState,
    /// No memory for a table.
    NoMemory,
    /// There is no such interrupt here, or the operation is not for its kind.
    Intid(Intid),
    /// There is no such CPU.
    Cpu(usize),
}

impl core::fmt::Display for GicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NotGicV3(pidr) => ("no GICv3 or GICv4: PIDR2", Some(pidr.into())),
            Self::RegionTooShort(base) => ("registers too short at", Some(base)),
            Self::Stride(bytes) => ("no redistributor-stride", Some(bytes)),
            Self::NoRedistributor(cpu) => ("no Redistributor for MPIDR", Some(cpu)),
            Self::TwoRedistributors(cpu) => ("two Redistributors for MPIDR", Some(cpu)),
            Self::DistributorTimeout => ("GICD_CTLR.RWP stays set", None),
            Self::RedistributorTimeout(cpu) => ("GICR_CTLR.RWP stays set for MPIDR", Some(cpu)),
            Self::WakeTimeout(cpu) => ("no awake Redistributor for MPIDR", Some(cpu)),
            Self::NoSystemRegisters(sre) => ("no system registers: ICC_SRE_EL2", Some(sre)),
            Self::NoLpis(cpu) => ("no LPIs", cpu),
            Self::LpisLocked(cpu) => ("LPIs stay on for MPIDR", Some(cpu)),
            Self::LpisRefused(cpu) => ("LPIs stay off for MPIDR", Some(cpu)),
            Self::LpiState => ("LPIs out of order", None),
            Self::NoMemory => ("out of memory", None),
            Self::Intid(intid) => ("no such interrupt:", Some(intid.0.into())),
            Self::Cpu(cpu) => ("no CPU", Some(cpu as u64)),
        };
        crate::text::write(f, what, value)
    }
}

/// The physical interrupt controller, shared by all CPUs.
#[derive(Debug)]
pub struct Gic {
    distributor: Distributor,
    redistributors: Vec<Redistributor>,
    lpis: Once<LpiTables>,
}

impl Gic {
    /// Takes over the Distributor and finds the Redistributor of each CPU; `cpus` has the MPIDR_EL1 value of each CPU
    /// index. `stride` is the device tree's `redistributor-stride` in bytes, if it has one.
    pub fn new(
        distributor: MmioRegion,
        redistributors: Vec<MmioRegion>,
        stride: Option<u64>,
        cpus: &[u64],
    ) -> Result<Self, GicError> {
        let redistributors = redistributor::discover(redistributors, stride, cpus)?;
        // Firmware's tables of LPIs are in RAM that is about to be given away.
        for redistributor in &redistributors {
            redistributor.disable_lpis()?;
        }
        Ok(Self {
            redistributors,
            distributor: Distributor::new(distributor)?,
            lpis: Once::new(),
        })
    }

    /// Wakes the Redistributor of CPU `cpu` and turns on its interface. Runs on that CPU.
    pub fn init_cpu(&self, cpu: usize) -> Result<(), GicError> {
        self.redistributor(cpu)?.init()?;
        // 12.2: with SRE = 0 the other registers are not there.
        let enable = ICC_SRE_SRE | ICC_SRE_NO_BYPASS | ICC_SRE_EL2_ENABLE;
        sysreg::write(Register::ICC_SRE_EL2, enable);
        sysreg::synchronize();
        let sre = sysreg::read(Register::ICC_SRE_EL2);
        if sre & ICC_SRE_SRE == 0 {
            return Err(GicError::NoSystemRegisters(sre));
        }
        forget_active();
        sysreg::write(Register::ICC_PMR_EL1, 0xFF);
        sysreg::write(Register::ICC_BPR1_EL1, 0);
        sysreg::write(Register::ICC_CTLR_EL1, ICC_CTLR_EOI_MODE);
        sysreg::write(Register::ICC_IGRPEN1_EL1, 1);
        sysreg::synchronize();
        Ok(())
    }

    /// How many CPUs it serves.
    pub fn cpus(&self) -> usize {
        self.redistributors.len()
    }

    /// Lets `intid` through to CPU `cpu`: an SPI is routed there, an SGI or PPI is that CPU's own. LPIs have
    /// [`set_lpi`](Self::set_lpi).
    pub fn enable(&self, intid: Intid, trigger: Trigger, cpu: usize) -> Result<(), GicError> {
        let redistributor = self.redistributor(cpu)?;
        match intid.kind() {
            Kind::Sgi | Kind::Ppi => redistributor.enable(intid, trigger),
            _ => self
                .distributor
                .enable(intid, trigger, redistributor.mpidr()),
        }
    }

    /// Stops `intid`, for an SGI or PPI at CPU `cpu`. On return it is forwarded no more; it may be active still.
    pub fn disable(&self, intid: Intid, cpu: usize) -> Result<(), GicError> {
        let redistributor = self.redistributor(cpu)?;
        match intid.kind() {
            Kind::Sgi | Kind::Ppi => redistributor.disable(intid),
            _ => self.distributor.disable(intid),
        }
    }

    /// Sends an SPI to CPU `cpu` from now on.
    pub fn route(&self, spi: Intid, cpu: usize) -> Result<(), GicError> {
        self.distributor
            .route(spi, self.redistributor(cpu)?.mpidr())
    }

    /// Makes `intid` pending, or not; an SGI or PPI at CPU `cpu`.
    pub fn set_pending(&self, intid: Intid, cpu: usize, pending: bool) -> Result<(), GicError> {
        self.write_bit(
            if pending { GICD_ISPENDR } else { GICD_ICPENDR },
            intid,
            cpu,
        )
    }

    /// Makes `intid` active, or not; an SGI or PPI at CPU `cpu`. An interrupt that is active is not signalled again.
    pub fn set_active(&self, intid: Intid, cpu: usize, active: bool) -> Result<(), GicError> {
        self.write_bit(
            if active {
                GICD_ISACTIVER
            } else {
                GICD_ICACTIVER
            },
            intid,
            cpu,
        )
    }

    /// Whether `intid` is pending; an SGI or PPI at CPU `cpu`.
    pub fn is_pending(&self, intid: Intid, cpu: usize) -> Result<bool, GicError> {
        self.read_bit(GICD_ISPENDR, intid, cpu)
    }

    /// Whether `intid` is active; an SGI or PPI at CPU `cpu`.
    pub fn is_active(&self, intid: Intid, cpu: usize) -> Result<bool, GicError> {
        self.read_bit(GICD_ISACTIVER, intid, cpu)
    }

    /// The interrupt that this CPU takes now; `None` if there is none. It is active from here on.
    pub fn acknowledge(&self) -> Option<Intid> {
        let intid = sysreg::read(Register::ICC_IAR1_EL1) as u32 & 0xFF_FFFF;
        // What the interrupt's handler reads was written before the interrupt was sent (chapter 4).
        sysreg::synchronize();
        (!(FIRST_SPECIAL..1024).contains(&intid)).then_some(Intid(intid))
    }

    /// Drops this CPU's running priority to what it was before `intid`, which stays active (EOImode = 1). In the
    /// reverse order of [`acknowledge`](Self::acknowledge).
    pub fn end(&self, intid: Intid) {
        sysreg::write(Register::ICC_EOIR1_EL1, u64::from(intid.0));
        sysreg::synchronize();
    }

    /// Makes `intid` inactive, so that it can be signalled again. Not for LPIs, which are never active (5.1).
    pub fn deactivate(&self, intid: Intid) {
        if intid.0 < FIRST_LPI {
            sysreg::write(Register::ICC_DIR_EL1, u64::from(intid.0));
            sysreg::synchronize();
        }
    }

    /// Sends SGI `sgi` (0..16) to CPU `cpu`. Stores before it are visible there when it arrives.
    pub fn send_sgi(&self, cpu: usize, sgi: Intid) -> Result<(), GicError> {
        if sgi.kind() != Kind::Sgi {
            return Err(GicError::Intid(sgi));
        }
        let word = sgi_word(self.redistributor(cpu)?.mpidr(), sgi);
        crate::barrier::full();
        sysreg::write(Register::ICC_SGI1R_EL1, word);
        sysreg::synchronize();
        Ok(())
    }

    /// Turns LPIs on at every CPU, all disabled one by one, with tables from `pool`. Once.
    pub fn enable_lpis(&self, pool: &'static FramePool) -> Result<(), GicError> {
        let mut first = false;
        let (bits, count) = self.distributor.lpis().ok_or(GicError::NoLpis(None))?;
        self.lpis.try_call_once(|| {
            first = true;
            LpiTables::new(pool, &self.redistributors, bits, count)
        })?;
        if first {
            Ok(())
        } else {
            Err(GicError::LpiState)
        }
    }

    /// How many LPIs there are, from 8192 on; 0 before [`enable_lpis`](Self::enable_lpis).
    pub fn lpi_count(&self) -> u32 {
        self.lpis.get().map_or(0, LpiTables::count)
    }

    /// Sets an LPI's enable and priority. It counts once the ITS has invalidated what it keeps of it.
    pub fn set_lpi(&self, lpi: Intid, enabled: bool, priority: u8) -> Result<(), GicError> {
        self.lpis
            .get()
            .ok_or(GicError::LpiState)?
            .set(lpi, enabled, priority)
    }

    /// How an ITS names CPU `cpu`: physical address of its Redistributor, and GICR_TYPER.Processor_Number.
    pub fn its_target(&self, cpu: usize) -> Result<super::its::Target, GicError> {
        let redistributor = self.redistributor(cpu)?;
        Ok(super::its::Target {
            redistributor: redistributor.base(),
            processor: redistributor.processor_number(),
        })
    }

    fn redistributor(&self, cpu: usize) -> Result<&Redistributor, GicError> {
        self.redistributors.get(cpu).ok_or(GicError::Cpu(cpu))
    }

    fn write_bit(&self, register: usize, intid: Intid, cpu: usize) -> Result<(), GicError> {
        let redistributor = self.redistributor(cpu)?;
        match intid.kind() {
            Kind::Sgi | Kind::Ppi => redistributor.write_bit(register, intid),
            _ => self.distributor.write_bit(register, intid)?,
        }
        Ok(())
    }

    fn read_bit(&self, register: usize, intid: Intid, cpu: usize) -> Result<bool, GicError> {
        let redistributor = self.redistributor(cpu)?;
        match intid.kind() {
            Kind::Sgi | Kind::Ppi => Ok(redistributor.read_bit(register, intid)),
            _ => self.distributor.read_bit(register, intid),
        }
    }
}

/// Clears the active priorities: what firmware has acknowledged and never ended would keep everything else of its priority
/// and below away for good (4.8).
fn forget_active() {
    const GROUP0: [Register; 4] = [
        Register::ICC_AP0R0_EL1,
        Register::ICC_AP0R1_EL1,
        Register::ICC_AP0R2_EL1,
        Register::ICC_AP0R3_EL1,
    ];
    const GROUP1: [Register; 4] = [
        Register::ICC_AP1R0_EL1,
        Register::ICC_AP1R1_EL1,
        Register::ICC_AP1R2_EL1,
        Register::ICC_AP1R3_EL1,
    ];
    let bits = (sysreg::read(Register::ICC_CTLR_EL1) >> ICC_CTLR_PRI_BITS & 7) + 1;
    // One bit a priority level, 32 to a register; the others are UNDEFINED (12.2).
    let count = match bits {
        ..=5 => 1,
        6 => 2,
        _ => 4,
    };
    for register in &GROUP1[..count] {
        sysreg::write_any(*register, 0);
    }
    // Group 0 may be the Secure state's, where an access would trap: then the lowest bit of a priority does not stay, as
    // what we write is halved (4.8).
    let lowest = 1 << (8 - bits);
    sysreg::write(Register::ICC_PMR_EL1, lowest);
    if sysreg::read(Register::ICC_PMR_EL1) == lowest {
        for register in &GROUP0[..count] {
            sysreg::write_any(*register, 0);
        }
        sysreg::write(Register::ICC_IGRPEN0_EL1, 0);
    }
    sysreg::synchronize();
}

/// The affinity of an MPIDR_EL1 value as GICR_TYPER has it: Aff3.Aff2.Aff1.Aff0 (12.11).
fn affinity_word(mpidr: u64) -> u32 {
    ((mpidr >> 32 & 0xFF) << 24 | mpidr & 0xFF_FFFF) as u32
}

/// ICC_SGI1R_EL1 for one CPU (12.2): Aff3 55:48, RS 47:44, Aff2 39:32, INTID 27:24, Aff1 23:16, targets
/// 15:0, where RS says which sixteen values of Aff0 the targets are.
fn sgi_word(mpidr: u64, sgi: Intid) -> u64 {
    let level = |shift: u32| mpidr >> shift & 0xFF;
    let (aff0, aff1, aff2, aff3) = (level(0), level(8), level(16), level(32));
    aff3 << 48
        | (aff0 >> 4) << 44
        | aff2 << 32
        | u64::from(sgi.0) << 24
        | aff1 << 16
        | 1 << (aff0 & 15)
}
