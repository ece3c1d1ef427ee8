//! The Distributor: shared peripheral interrupts (IHI 0069, 12.9).

use super::spec::{
    DistributorControl, DistributorType, GICD_CTLR, GICD_ICACTIVER, GICD_ICENABLER, GICD_ICFGR,
    GICD_ICPENDR, GICD_IGROUPR, GICD_IPRIORITYR, GICD_IROUTER, GICD_ISENABLER, GICD_LEN,
    GICD_TYPER, PIDR2, PeripheralId2,
};
use super::{DEFAULT_PRIORITY, GicError, Intid, RWP_LIMIT_NS, Trigger, wait};
use crate::mmio::MmioRegion;
use spin::mutex::TicketMutex;
use tock_registers::{LocalRegisterCopy, fields::FieldValue};

/// The one Distributor of the machine.
#[derive(Debug)]
pub(super) struct Distributor {
    registers: MmioRegion,
    /// First INTID past its SPIs.
    limit: u32,
    /// GICD_ICFGR packs sixteen interrupts into a word that can only be written whole.
    configure: TicketMutex<()>,
}

impl Distributor {
    /// Takes it over: affinity routing on, every SPI of Group 1, level, disabled and neither pending nor active.
    pub(super) fn new(registers: MmioRegion) -> Result<Self, GicError> {
        if registers.len() < GICD_LEN {
            return Err(GicError::RegionTooShort(registers.base()));
        }
        check_revision(&registers)?;
        let limit = 32 * (type_register(&registers).read(DistributorType::ITLinesNumber) + 1);
        let distributor = Self {
            registers,
            limit: limit.min(super::spec::FIRST_SPECIAL),
            configure: TicketMutex::new(()),
        };
        distributor.init()?;
        Ok(distributor)
    }

    fn init(&self) -> Result<(), GicError> {
        // 12.9: affinity routing may only change while the groups are off.
        self.modify_control(
            DistributorControl::EnableGrp0::CLEAR + DistributorControl::EnableGrp1::CLEAR,
        )?;
        self.modify_control(DistributorControl::AreNs::SET)?;
        for word in 1..self.limit.div_ceil(32) as usize {
            self.registers.write32(GICD_ICENABLER + 4 * word, !0);
            self.registers.write32(GICD_ICPENDR + 4 * word, !0);
            self.registers.write32(GICD_ICACTIVER + 4 * word, !0);
            self.registers.write32(GICD_IGROUPR + 4 * word, !0);
        }
        for word in 8..self.limit.div_ceil(4) as usize {
            let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
            self.registers
                .write32(GICD_IPRIORITYR + 4 * word, priorities);
        }
        self.wait()?;
        // 12.9: the trigger may only change while the interrupt is disabled.
        for word in 2..self.limit.div_ceil(16) as usize {
            self.registers.write32(GICD_ICFGR + 4 * word, 0);
        }
        self.modify_control(DistributorControl::EnableGrp1::SET)
    }

    /// Bits of an INTID, and how many LPIs there can be; `None` if there are none.
    pub(super) fn lpis(&self) -> Option<(u32, u32)> {
        let register = type_register(&self.registers);
        let bits = register.read(DistributorType::IdBits) + 1;
        let all = 1u32
            .checked_shl(bits)
            .unwrap_or(u32::MAX)
            .saturating_sub(super::spec::FIRST_LPI);
        let count = match register.read(DistributorType::NumLpis) {
            0 => all,
            n => all.min(1u32.checked_shl(n + 1).unwrap_or(u32::MAX)),
        };
        (register.is_set(DistributorType::Lpis) && count > 0).then_some((bits, count))
    }

    /// Lets `spi` through to the CPU with this affinity.
    pub(super) fn enable(&self, spi: Intid, trigger: Trigger, mpidr: u64) -> Result<(), GicError> {
        let (word, bit) = self.place(spi)?;
        self.disable(spi)?;
        self.set_trigger(spi, trigger);
        // Bit 31 clear: to that one CPU (12.9).
        self.registers
            .write64(GICD_IROUTER + 8 * spi.0 as usize, mpidr & super::AFFINITY);
        self.registers.write32(GICD_ISENABLER + word, bit);
        Ok(())
    }

    /// Stops `spi`; on return the Distributor forwards it no more.
    pub(super) fn disable(&self, spi: Intid) -> Result<(), GicError> {
        let (word, bit) = self.place(spi)?;
        self.registers.write32(GICD_ICENABLER + word, bit);
        self.wait()
    }

    /// Sends `spi` to another CPU from now on.
    pub(super) fn route(&self, spi: Intid, mpidr: u64) -> Result<(), GicError> {
        self.place(spi)?;
        self.registers
            .write64(GICD_IROUTER + 8 * spi.0 as usize, mpidr & super::AFFINITY);
        Ok(())
    }

    pub(super) fn write_bit(&self, register: usize, spi: Intid) -> Result<(), GicError> {
        let (word, bit) = self.place(spi)?;
        self.registers.write32(register + word, bit);
        Ok(())
    }

    pub(super) fn read_bit(&self, register: usize, spi: Intid) -> Result<bool, GicError> {
        let (word, bit) = self.place(spi)?;
        Ok(self.registers.read32(register + word) & bit != 0)
    }

    fn set_trigger(&self, spi: Intid, trigger: Trigger) {
        let offset = GICD_ICFGR + 4 * (spi.0 / 16) as usize;
        let _whole_word = self.configure.lock();
        let old = self.registers.read32(offset);
        self.registers
            .write32(offset, with_trigger(old, spi, trigger));
    }

    /// Byte offset of the word, and the bit in it, of a one-bit-an-INTID array.
    fn place(&self, spi: Intid) -> Result<(usize, u32), GicError> {
        if (32..self.limit).contains(&spi.0) {
            Ok((4 * (spi.0 / 32) as usize, 1 << (spi.0 % 32)))
        } else {
            Err(GicError::Intid(spi))
        }
    }

    fn modify_control(
        &self,
        field: FieldValue<u32, DistributorControl::Register>,
    ) -> Result<(), GicError> {
        let mut control = LocalRegisterCopy::<u32, DistributorControl::Register>::new(
            self.registers.read32(GICD_CTLR),
        );
        control.modify(field);
        self.registers.write32(GICD_CTLR, control.get());
        self.wait()
    }

    fn wait(&self) -> Result<(), GicError> {
        let done = wait::until(RWP_LIMIT_NS, || {
            self.registers.read32(GICD_CTLR) & DistributorControl::Rwp::SET.value == 0
        });
        if done {
            Ok(())
        } else {
            Err(GicError::DistributorTimeout)
        }
    }
}

fn type_register(registers: &MmioRegion) -> LocalRegisterCopy<u32, DistributorType::Register> {
    LocalRegisterCopy::new(registers.read32(GICD_TYPER))
}

/// Whether this frame belongs to a GICv3 or GICv4.
pub(super) fn check_revision(registers: &MmioRegion) -> Result<(), GicError> {
    let id = registers.read32(PIDR2);
    match LocalRegisterCopy::<u32, PeripheralId2::Register>::new(id).read(PeripheralId2::ArchRev) {
        3 | 4 => Ok(()),
        _ => Err(GicError::NotGicV3(id)),
    }
}

/// The GICD_ICFGR or GICR_ICFGR word `old` with the trigger of `intid` replaced.
pub(super) fn with_trigger(old: u32, intid: Intid, trigger: Trigger) -> u32 {
    let edge = 0b10 << (2 * (intid.0 % 16));
    match trigger {
        Trigger::Level => old & !edge,
        Trigger::Edge => old | edge,
    }
}
