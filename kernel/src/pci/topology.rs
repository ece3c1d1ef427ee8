//! What enumeration found: one record a function, and the facts that assignment rules need.

use super::bar::{Bar, BarFault};
use super::capability::{Capabilities, ChainFault};
use super::reset::Clock;
use super::sriov::{self, Sriov, SriovFault, Wanted};
use super::{Bdf, ConfigSpace, Function, assign, enumerate, isolation};
use crate::boot_info::{Dmar, IdMap, Irq, PcieHost};
use crate::gather::Gather;
use alloc::vec::Vec;
use core::fmt;
use iommu::id::DeviceId;

/// All functions of all host bridges, a bridge before what is behind it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// The functions.
    pub functions: Vec<FunctionInfo>,
    /// What was wrong with the buses or with a function; nothing here stops a start.
    pub problems: Vec<Problem>,
}

/// One function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionInfo {
    /// Segment, bus, device, function.
    pub address: Function,
    /// Index of its host bridge in `BootInfo::pcie`.
    pub host: usize,
    /// Index in [`Topology::functions`] of the bridge it is behind; `None` on a root bus.
    pub parent: Option<usize>,
    /// Index of the physical function that it is a virtual one of.
    pub physical: Option<usize>,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface.
    pub class: u32,
    /// Subsystem vendor ID and subsystem ID.
    pub subsystem: (u16, u16),
    /// Header layout.
    pub header: Header,
    /// The device says it has more functions.
    pub multifunction: bool,
    /// 0 none, 1 INTA .. 4 INTD.
    pub interrupt_pin: u8,
    /// Where the pin arrives, if the host bridge says.
    pub intx: Option<Irq>,
    /// BARs by register index; the upper half of a 64-bit one is `None`.
    pub bars: [Option<Bar>; 6],
    /// Its virtual functions, if it could have any.
    pub sriov: Option<Sriov>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Every requester ID under which its requests may arrive: its own first, then those that bridges put in its
    /// place. Phantom functions are kept disabled, so they add none.
    pub requester_ids: Vec<u16>,
    /// Its identities at SMMUs, one for each requester ID; shorter if one of them has none.
    pub streams: Vec<Identity>,
    /// Its identity at the ITS.
    pub msi: Option<Identity>,
    /// Functions with the same number can reach each other without passing the IOMMU.
    pub group: usize,
}

/// Header layout (PCIe §7.5.1.1.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// Type 0.
    Endpoint,
    /// Type 1, with its bus numbers; `None` if it got none and is closed.
    Bridge(Option<Buses>),
    /// Anything else: kept silent, never assigned.
    Unknown(u8),
}

/// Bus numbers behind a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buses {
    /// The bus right behind it.
    pub secondary: u8,
    /// The highest one behind it.
    pub subordinate: u8,
}

/// A function's number at an SMMU or an ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// phandle of the SMMU or ITS.
    pub target: u32,
    /// StreamID or DeviceID there.
    pub id: DeviceId,
}

/// Something wrong on the buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The function still asks for configuration retry.
    NotReady(Function),
    /// An unknown header layout.
    HeaderType(Function, u8),
    /// A malformed BAR, by register index.
    Bar(Function, u8, BarFault),
    /// A broken capability list.
    Capability(Function, ChainFault),
    /// No bus number is left for what is behind this bridge.
    NoBusNumber(Function),
    /// No place in the host bridge's windows for a BAR of this function, or for what is behind this bridge.
    NoSpace(Function),
    /// Bridges behind bridges past the bound.
    TooDeep(Function),
    /// More functions than the bound; this one and later ones are not listed.
    TooMany(Function),
    /// The buses of this host bridge do not fit in its ECAM window.
    EcamTooSmall(u16),
    /// It has none of the virtual functions that it should have.
    Sriov(Function, SriovFault),
}

impl Topology {
    /// Walks the buses of `hosts`. Bus numbers and BARs of firmware are kept where they are sound, assigned where not;
    /// afterwards every function is silent (see [`super::quiesce()`]), and has the virtual functions that are `wanted`.
    pub fn enumerate(
        space: &mut dyn ConfigSpace,
        clock: &mut dyn Clock,
        hosts: &[PcieHost],
        wanted: &[Wanted],
    ) -> Self {
        let mut topology = Self::default();
        for (index, host) in hosts.iter().enumerate() {
            let first = topology.functions.len();
            enumerate::scan(space, clock, host, index, wanted, &mut topology);
            assign::assign(space, host, first, &mut topology);
            sriov::add_all(space, clock, first, enumerate::MAX_FUNCTIONS, &mut topology);
            isolation::describe(space, host, first, &mut topology);
        }
        topology
    }

    /// Fills in who translates whose DMA where that is in ACPI's DMAR table: for each requester ID the unit, by its place in
    /// the table, and the ID itself. One that no unit translates has no identity.
    pub fn name_sources(&mut self, dmar: &Dmar) {
        for index in 0..self.functions.len() {
            let info = &self.functions[index];
            let segment = info.address.segment;
            let buses = |bridge: u16| {
                let buses = self.buses_of(segment, bridge)?;
                Some((buses.secondary, buses.subordinate))
            };
            // A virtual function is where its physical one is (VT-d, 8.3).
            let place = match info.physical {
                Some(physical) => self.functions[physical].address.bdf.requester_id(),
                None => info.address.bdf.requester_id(),
            };
            let unit = dmar.unit_of(segment, place, buses);
            let streams = unit.iter().flat_map(|unit| {
                let identity = |id: &u16| Identity {
                    target: *unit as u32,
                    id: DeviceId((*id).into()),
                };
                info.requester_ids.iter().map(identity)
            });
            self.functions[index].streams = streams.gather();
        }
    }

    /// The bus numbers behind the open bridge with this requester ID.
    pub fn buses_of(&self, segment: u16, requester: u16) -> Option<Buses> {
        let bdf = Bdf::from_requester_id(requester);
        self.find(Function { segment, bdf })?.buses()
    }

    /// The record of `function`.
    pub fn find(&self, function: Function) -> Option<&FunctionInfo> {
        self.functions.iter().find(|info| info.address == function)
    }

    /// The bridges above `info`, nearest first.
    pub fn above(&self, info: &FunctionInfo) -> impl Iterator<Item = &FunctionInfo> {
        let mut next = info.parent;
        core::iter::from_fn(move || {
            let bridge = &self.functions[next?];
            next = bridge.parent;
            Some(bridge)
        })
    }

    /// Those that share a requester ID with `info` at the same host bridge, or can reach it past the IOMMU: only one
    /// partition can own any of them.
    pub fn entangled<'a>(
        &'a self,
        info: &'a FunctionInfo,
    ) -> impl Iterator<Item = &'a FunctionInfo> {
        self.functions.iter().filter(move |other| {
            other.address != info.address
                && other.header == Header::Endpoint
                && (other.group == info.group
                    || other.host == info.host
                        && other
                            .requester_ids
                            .iter()
                            .any(|id| info.requester_ids.contains(id)))
        })
    }
}

impl FunctionInfo {
    /// Whether it is a host bridge (class 06.00): part of the root complex, left as it is.
    pub fn is_host_bridge(&self) -> bool {
        self.class >> 8 == 0x0600
    }

    /// Whether a partition may own it: an endpoint, no host bridge, with a place for every memory BAR.
    pub fn is_assignable(&self) -> bool {
        self.header == Header::Endpoint
            && !self.is_host_bridge()
            && self
                .bars
                .iter()
                .flatten()
                .all(|bar| !bar.is_memory() || bar.host.is_some())
    }

    /// How many virtual functions it has.
    pub fn vfs(&self) -> u16 {
        self.sriov.as_ref().map_or(0, |sriov| sriov.vfs)
    }

    /// All that takes memory of the bus, with how many there are in a row: its BARs by register index, those of its
    /// virtual functions from 6 on.
    pub(super) fn regions(&self) -> impl Iterator<Item = (usize, Bar, u64)> {
        let virtuals = self.sriov.iter();
        let virtuals = virtuals.flat_map(|it| (6..).zip(it.bars).map(|(i, bar)| (i, bar, it.vfs)));
        let own = (0..).zip(self.bars).map(|(index, bar)| (index, bar, 1));
        let all = own.chain(virtuals);
        all.filter_map(|(index, bar, count)| Some((index, bar?, count.into())))
            .filter(|(_, bar, _)| bar.is_memory())
    }

    /// The BAR of a region.
    pub(super) fn region_mut(&mut self, index: usize) -> Option<&mut Bar> {
        match index.checked_sub(6) {
            None => self.bars.get_mut(index)?.as_mut(),
            Some(index) => self.sriov.as_mut()?.bars.get_mut(index)?.as_mut(),
        }
    }

    /// Whether every requester ID has a stream: all its DMA passes an SMMU.
    pub fn is_behind_smmu(&self) -> bool {
        self.streams.len() == self.requester_ids.len()
    }

    /// The numbers behind it, if it is an open bridge.
    pub fn buses(&self) -> Option<Buses> {
        match self.header {
            Header::Bridge(buses) => buses,
            _ => None,
        }
    }
}

/// The identity of requester `id` in `map`.
pub(super) fn identity(map: &[IdMap], id: u16) -> Option<Identity> {
    map.iter().find_map(|range| {
        Some(Identity {
            target: range.target,
            id: DeviceId(range.translate(id.into())?),
        })
    })
}

/// The function at `bus`, `device`, `function` of `segment`; the numbers are in range by construction of the caller.
pub(super) fn function_at(segment: u16, bus: u8, device: u8, function: u8) -> Function {
    let devfn = u16::from(device & 31) << 3 | u16::from(function & 7);
    Function {
        segment,
        bdf: Bdf::from_requester_id(u16::from(bus) << 8 | devfn),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(at) => write!(f, "{at}: still not ready for configuration"),
            Self::HeaderType(at, layout) => write!(f, "{at}: unknown header type {layout:#x}"),
            Self::Bar(at, index, fault) => write!(f, "{at}: BAR {index}: {fault}"),
            Self::Capability(at, fault) => write!(f, "{at}: capability list: {fault}"),
            Self::NoBusNumber(at) => write!(f, "{at}: no bus number left behind this bridge"),
            Self::NoSpace(at) => write!(f, "{at}: no space for its BARs or for what is behind it"),
            Self::TooDeep(at) => write!(f, "{at}: too many bridges behind each other"),
            Self::TooMany(at) => write!(f, "{at}: too many functions, the rest is left out"),
            Self::Sriov(at, fault) => write!(f, "{at}: no virtual functions: {fault}"),
            Self::EcamTooSmall(segment) => {
                write!(f, "segment {segment:04x}: ECAM does not hold the bus range")
            }
        }
    }
}
