//! Turning the ITS on and off (IHI 0069, 5.2 and 12.19).

use super::queue::CommandQueue;
use super::spec::{
    Baser, Command, Control, GITS_BASER, GITS_BASER_COUNT, GITS_CTLR, GITS_LEN, GITS_TYPER, Type,
};
use super::table::Table;
use super::{Its, ItsError, MAX_EVENT_BITS, State, Target};
use crate::aarch64::gic::spec::{PIDR2, PeripheralId2};
use crate::aarch64::gic::wait;
use crate::memory::FramePool;
use crate::mmio::MmioRegion;
use alloc::vec::Vec;
use spin::mutex::TicketMutex;
use tock_registers::LocalRegisterCopy;

/// Bits of a DeviceID at most: 16 for the requester, 8 for the segment that `msi-map` may add.
const MAX_DEVICE_BITS: u32 = 24;
/// Turning off waits for translations under way; past this the ITS is broken.
const QUIESCENT_LIMIT_NS: u64 = 1_000_000_000;

impl Its {
    /// Turns an ITS on, with nothing mapped but a collection for each of `targets`: the CPUs by index, from
    /// [`Gic::its_target`](crate::aarch64::gic::Gic::its_target). `lpis` is how many LPIs the Redistributors' tables have, from
    /// 8192 on; those must be on.
    pub fn new(
        registers: MmioRegion,
        pool: &'static FramePool,
        targets: &[Target],
        lpis: u32,
    ) -> Result<Self, ItsError> {
        if registers.len() < GITS_LEN {
            return Err(ItsError::RegionTooShort(registers.len()));
        }
        let id = registers.read32(PIDR2);
        if !matches!(
            LocalRegisterCopy::<u32, PeripheralId2::Register>::new(id).read(PeripheralId2::ArchRev),
            3 | 4
        ) {
            return Err(ItsError::NotGicV3(id));
        }
        let typer = LocalRegisterCopy::<u64, Type::Register>::new(registers.read64(GITS_TYPER));
        if !typer.is_set(Type::Physical) {
            return Err(ItsError::NoPhysicalLpis);
        }
        turn_off(&registers)?;
        let collection_bits = if typer.is_set(Type::Cil) {
            typer.read(Type::Cidbits) + 1
        } else {
            16
        };
        if targets.is_empty() || targets.len() > 1 << collection_bits {
            return Err(ItsError::Cpus(targets.len()));
        }
        let device_bits = (typer.read(Type::Devbits) as u32 + 1).min(MAX_DEVICE_BITS);
        let device_table = table(
            &registers,
            pool,
            Baser::Type::Value::Devices,
            1 << device_bits,
        )?;
        let collection_table = table(
            &registers,
            pool,
            Baser::Type::Value::Collections,
            targets.len() as u64,
        )?;
        if collection_table.is_none() && targets.len() as u64 > typer.read(Type::Hcc) {
            return Err(ItsError::Cpus(targets.len()));
        }
        let name = |target: &Target| match typer.is_set(Type::Pta) {
            true => target.redistributor >> 16,
            false => u64::from(target.processor),
        };
        let its = Self {
            targets: targets.iter().map(name).collect(),
            lpis,
            event_bits: (typer.read(Type::IdBits) as u8 + 1).min(MAX_EVENT_BITS),
            device_ids: 1 << device_bits,
            itt_entry_len: typer.read(Type::IttEntrySize) + 1,
            state: TicketMutex::new(State {
                queue: CommandQueue::new(&registers, pool)?,
                devices: Vec::new(),
                device_table,
                _collection_table: collection_table,
            }),
            registers,
            pool,
        };
        its.registers
            .write32(GITS_CTLR, Control::Enabled::SET.value);
        let mut state = its.state.lock();
        for (cpu, target) in its.targets.iter().enumerate() {
            let cpu = cpu as u16;
            its.run(
                &mut state,
                &[
                    Command::mapc(cpu, *target),
                    Command::invall(cpu),
                    Command::sync(*target),
                ],
            )?;
        }
        drop(state);
        Ok(its)
    }
}

/// Stops it and waits until nothing is under way.
pub(super) fn turn_off(registers: &MmioRegion) -> Result<(), ItsError> {
    registers.write32(GITS_CTLR, 0);
    let quiescent = wait::until(QUIESCENT_LIMIT_NS, || {
        registers.read32(GITS_CTLR) & Control::Quiescent::SET.value != 0
    });
    if quiescent {
        Ok(())
    } else {
        Err(ItsError::NotQuiescent)
    }
}

/// Memory for the tables of type `wanted`, room for `ids`; `None` if the ITS asks for none.
fn table(
    registers: &MmioRegion,
    pool: &'static FramePool,
    wanted: Baser::Type::Value,
    ids: u64,
) -> Result<Option<Table>, ItsError> {
    let has_type = |n: &usize| {
        let baser =
            LocalRegisterCopy::<u64, Baser::Register>::new(registers.read64(GITS_BASER + 8 * n));
        baser.read(Baser::Type) == wanted as u64
    };
    match (0..GITS_BASER_COUNT).find(has_type) {
        Some(n) => Table::new(registers, pool, n, ids).map(Some),
        None => Ok(None),
    }
}
