//! What can go wrong with an ITS.

use crate::aarch64::gic::Intid;

/// What can go wrong with an ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItsError {
    /// This PIDR2 is not that of a GICv3 or GICv4.
    NotGicV3(u32),
    /// The register region is shorter than an ITS.
    RegionTooShort(u64),
    /// It has no physical LPIs.
    NoPhysicalLpis,
    /// It does not become quiescent.
    NotQuiescent,
    /// GITS_BASER of this number takes no page size.
    TablePageSize(usize),
    /// A table at this address is out of its reach.
    Address(u64),
    /// No memory for a table or queue.
    NoMemory,
    /// It has no room for this many CPUs.
    Cpus(usize),
    /// There is no such CPU.
    Cpu(usize),
    /// The tables have no room for this DeviceID.
    TableRange(u32),
    /// As many devices as there can be are mapped.
    TooManyDevices(u32),
    /// This device is mapped already.
    DeviceMapped(u32),
    /// This device is not mapped.
    DeviceUnmapped(u32),
    /// It cannot have events of this many bits.
    EventBits(u8),
    /// The device was mapped with fewer events.
    EventRange(u32),
    /// This event is mapped already.
    EventMapped(u32),
    /// This event is not mapped.
    EventUnmapped(u32),
    /// This is no LPI, or one that the Redistributors' tables do not have.
    Lpi(Intid),
    /// It refused a command with this opcode.
    Rejected(u8),
    /// It did not execute a command within a second.
    Timeout,
    /// It timed out before, and is not asked again.
    Dead,
}
