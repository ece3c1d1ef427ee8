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

impl core::fmt::Display for ItsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NotGicV3(pidr) => ("no GICv3 or GICv4: PIDR2", Some(pidr.into())),
            Self::RegionTooShort(base) => ("registers too short at", Some(base)),
            Self::NoPhysicalLpis => ("no physical LPIs", None),
            Self::NotQuiescent => ("never quiescent", None),
            Self::TablePageSize(index) => ("no page size for GITS_BASER", Some(index as u64)),
            Self::Address(base) => ("out of its reach:", Some(base)),
            Self::NoMemory => ("out of memory", None),
            Self::Cpus(count) => ("too many CPUs:", Some(count as u64)),
            Self::Cpu(cpu) => ("no CPU", Some(cpu as u64)),
            Self::TableRange(id) => ("no table for DeviceID", Some(id.into())),
            Self::TooManyDevices(most) => ("more devices than", Some(most.into())),
            Self::DeviceMapped(id) => ("mapped already: DeviceID", Some(id.into())),
            Self::DeviceUnmapped(id) => ("not mapped: DeviceID", Some(id.into())),
            Self::EventBits(bits) => ("too many bits of EventID:", Some(bits.into())),
            Self::EventRange(event) => ("too large an EventID:", Some(event.into())),
            Self::EventMapped(event) => ("mapped already: EventID", Some(event.into())),
            Self::EventUnmapped(event) => ("not mapped: EventID", Some(event.into())),
            Self::Lpi(intid) => ("no LPI", Some(intid.0.into())),
            Self::Rejected(opcode) => ("refused command", Some(opcode.into())),
            Self::Timeout => ("no answer within a second", None),
            Self::Dead => ("dead since it timed out", None),
        };
        crate::text::write(f, what, value)
    }
}
