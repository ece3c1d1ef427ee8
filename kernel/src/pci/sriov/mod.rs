//! SR-IOV (PCIe §9): virtual functions (VFs) of a physical one (PF). How many there are is decided once, before anything
//! has its place: they are functions like any other from then on, with records of their own. Whoever has the PF does not
//! see the capability; we turn the VFs on, at start and after each reset of the PF, which takes them along.

mod fault;

pub use fault::SriovFault;

use super::bar::{self, Bar};
use super::capability::{Capabilities, Express, PortType};
use super::reset::{Clock, MILLISECOND, pause};
use super::topology::{FunctionInfo, Header, Problem, Topology};
use super::{Bdf, ConfigSpace, Function, capability, quiesce, spec};
use alloc::vec::Vec;
use iommu::addr::{Hpa, PAGE_SIZE};

/// A function that shall have VFs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The PF.
    pub function: Function,
    /// How many.
    pub vfs: u16,
}

/// The VFs of one function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sriov {
    /// Offset of the capability.
    pub offset: u16,
    /// How many it can have.
    pub total: u16,
    /// How many it has. What follows has no meaning if that is none.
    pub vfs: u16,
    /// Device ID of a VF; its vendor is the PF's.
    pub device: u16,
    /// From the PF's routing ID to that of its first VF, by 16-bit arithmetic.
    pub first: u16,
    /// From one VF to the next.
    pub stride: u16,
    /// Routing IDs follow the alternative interpretation: the port above forwards it.
    pub ari: bool,
    /// BARs of the first VF; those of the others follow, each right behind the one before.
    pub bars: [Option<Bar>; 6],
}

/// From VF Enable until configuration requests are answered (§9.3.3.3.1).
const ENABLE_TIME: u64 = 100 * MILLISECOND;
/// Until then VFs may ask for a retry (§2.3.1).
const READY_DEADLINE: u64 = 1000 * MILLISECOND;
/// Without VF Enable, until the capability may be written (§9.3.3.3.1).
const DISABLE_TIME: u64 = 1000 * MILLISECOND;
/// System Page Size: 4 KiB, what stage 2 maps.
const PAGES: u32 = 1;

impl Sriov {
    /// The routing ID of VF `index`, of a PF with the routing ID `physical`. It was checked that there is no carry.
    pub fn routing_id(&self, physical: u16, index: u16) -> u16 {
        let offset = self.stride.wrapping_mul(index).wrapping_add(self.first);
        physical.wrapping_add(offset)
    }

    /// The routing IDs of all.
    pub fn routing_ids(&self, physical: u16) -> impl Iterator<Item = u16> {
        (0..self.vfs).map(move |index| self.routing_id(physical, index))
    }

    /// Whether all routing IDs are ones, and which is wrong with them if not (§9.3.3.9, §9.3.3.10).
    fn check(&self, physical: u16) -> Result<(), SriovFault> {
        if self.first == 0 {
            return Err(SriovFault::NoOffset);
        }
        if self.stride == 0 && self.vfs > 1 {
            return Err(SriovFault::NoStride);
        }
        let last = u32::from(self.vfs - 1) * u32::from(self.stride) + u32::from(self.first);
        match u32::from(physical) + last {
            0..=0xffff => Ok(()),
            _ => Err(SriovFault::PastEnd),
        }
    }
}

/// What the SR-IOV capability of `info`, which is silent, says; with `vfs` of them, if that is not zero, chosen as their
/// number. `ari`: the port above forwards alternative routing IDs.
pub(super) fn prepare(
    space: &mut dyn ConfigSpace,
    info: &FunctionInfo,
    offset: u16,
    vfs: u16,
    ari: bool,
) -> (Sriov, Option<SriovFault>) {
    let at = info.address;
    let counts = space.read32(at, offset + spec::SRIOV_INITIAL_VFS);
    let (initial, total) = (counts as u16, (counts >> 16) as u16);
    let mut sriov = Sriov {
        offset,
        total: if initial == total { total } else { 0 },
        vfs: 0,
        device: 0,
        first: 0,
        stride: 0,
        ari,
        bars: [None; 6],
    };
    if vfs == 0 {
        return (sriov, None);
    }
    let fault = if initial != total {
        Err(SriovFault::Counts(initial, total))
    } else if vfs > total {
        Err(SriovFault::TooFew(total))
    } else {
        sriov.vfs = vfs;
        choose(space, info, &mut sriov)
    };
    if fault.is_err() {
        sriov.vfs = 0;
        sriov.bars = [None; 6];
    }
    (sriov, fault.err())
}

fn choose(
    space: &mut dyn ConfigSpace,
    info: &FunctionInfo,
    sriov: &mut Sriov,
) -> Result<(), SriovFault> {
    let at = info.address;
    (sriov.first, sriov.stride) = write_number(space, at, sriov)?;
    sriov.check(at.bdf.requester_id())?;
    sriov.device = space.read16(at, sriov.offset + spec::SRIOV_DEVICE);
    let (bars, fault) = bar::size_at(space, at, sriov.offset + spec::SRIOV_BAR0, 6);
    if let Some((index, fault)) = fault {
        return Err(SriovFault::Bar(index, fault));
    }
    for (index, bar) in (0..).zip(&bars) {
        if bar.is_some_and(|bar| !bar.is_memory() || bar.size < PAGE_SIZE) {
            return Err(SriovFault::NotPages(index));
        }
    }
    sriov.bars = bars;
    Ok(())
}

/// Writes what First VF Offset and VF Stride depend on, and reads these.
fn write_number(
    space: &mut dyn ConfigSpace,
    at: Function,
    sriov: &Sriov,
) -> Result<(u16, u16), SriovFault> {
    let register = |offset: u16| sriov.offset + offset;
    let sizes = space.read32(at, register(spec::SRIOV_SUPPORTED_PAGES));
    if sizes & PAGES == 0 {
        return Err(SriovFault::PageSize(sizes));
    }
    space.write32(at, register(spec::SRIOV_SYSTEM_PAGES), PAGES);
    let ari = if sriov.ari { spec::SRIOV_ARI } else { 0 };
    space.write16(at, register(spec::SRIOV_CONTROL), ari);
    space.write16(at, register(spec::SRIOV_NUMBER), sriov.vfs);
    let number = space.read16(at, register(spec::SRIOV_NUMBER));
    if number != sriov.vfs {
        return Err(SriovFault::Stuck(number));
    }
    let first = space.read16(at, register(spec::SRIOV_FIRST));
    Ok((first, space.read16(at, register(spec::SRIOV_STRIDE))))
}

/// Writes the VF BARs as the record has them.
pub(super) fn write_bars(space: &mut dyn ConfigSpace, info: &FunctionInfo) {
    if let Some(sriov) = info.sriov.as_ref().filter(|sriov| sriov.vfs != 0) {
        let base = sriov.offset + spec::SRIOV_BAR0;
        super::assign::write_registers(space, info.address, base, &sriov.bars);
    }
}

/// The port above `info` forwards alternative routing IDs, and `info` has them.
pub(super) fn has_ari(
    space: &mut dyn ConfigSpace,
    port: Option<&FunctionInfo>,
    own: &Capabilities,
) -> bool {
    let Some((port, express)) = port.and_then(|port| Some((port, port.capabilities.express?)))
    else {
        return false;
    };
    let leads_down = matches!(express.port, PortType::RootPort | PortType::Downstream);
    own.ari.is_some() && leads_down && express.size() >= 0x3c && {
        let capabilities = u16::from(express.offset) + spec::DEVICE_CAPABILITIES2;
        space.read32(port.address, capabilities) & spec::DEVICE_ARI != 0
    }
}

/// Before the capability is written: its VFs are off, and have been for long enough if they were on.
pub(super) fn settle(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    at: Function,
    offset: u16,
) {
    let control = space.read16(at, offset + spec::SRIOV_CONTROL);
    if control & spec::SRIOV_ENABLE != 0 {
        space.write16(at, offset + spec::SRIOV_CONTROL, 0);
        pause(clock, DISABLE_TIME);
    }
}

/// Turns on the VFs of the functions from `first` on, and adds a record for each, silent. One whose VFs do not come has
/// none.
pub(super) fn add_all(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    first: usize,
    limit: usize,
    topology: &mut Topology,
) {
    for index in first..topology.functions.len() {
        let Some(wanted) = topology.functions[index].sriov.as_ref().map(|it| it.vfs) else {
            continue;
        };
        if wanted == 0 {
            continue;
        }
        let added = match topology.functions.len() + usize::from(wanted) > limit {
            true => Err(Problem::TooMany(topology.functions[index].address)),
            false => add(space, clock, index, topology),
        };
        match added {
            Ok(records) => topology.functions.extend(records),
            Err(problem) => {
                // Said already: a BAR of it has no place.
                if !topology.problems.contains(&problem) {
                    topology.problems.push(problem);
                }
                turn_off(space, &topology.functions[index]);
                if let Some(sriov) = &mut topology.functions[index].sriov {
                    sriov.vfs = 0;
                    sriov.bars = [None; 6];
                }
            }
        }
    }
}

fn add(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    index: usize,
    topology: &mut Topology,
) -> Result<Vec<FunctionInfo>, Problem> {
    let info = &topology.functions[index];
    let at = info.address;
    let vfs = functions(info);
    if let Some(taken) = vfs.iter().find(|vf| topology.find(**vf).is_some()) {
        return Err(Problem::Sriov(at, SriovFault::Taken(*taken)));
    }
    let bars = info.sriov.iter().flat_map(|sriov| &sriov.bars).flatten();
    if bars.into_iter().any(|bar| bar.host.is_none()) {
        return Err(Problem::NoSpace(at));
    }
    let failed = |fault| Problem::Sriov(at, fault);
    turn_on(space, clock, topology, index).map_err(failed)?;
    let mut records = Vec::new();
    for (number, &vf) in (0..).zip(&vfs) {
        let record = describe(space, topology, index, number, vf);
        if record.header != Header::Endpoint {
            let layout = space.read8(vf, spec::HEADER_TYPE);
            return Err(Problem::HeaderType(vf, layout));
        }
        if let Some(fault) = record.capabilities.fault {
            topology.problems.push(Problem::Capability(vf, fault));
        }
        records.push(record);
    }
    Ok(records)
}

/// Where the VFs of `info` are.
fn functions(info: &FunctionInfo) -> Vec<Function> {
    let physical = info.address.bdf.requester_id();
    let ids = info
        .sriov
        .iter()
        .flat_map(|sriov| sriov.routing_ids(physical));
    let function = |id| Function {
        segment: info.address.segment,
        bdf: Bdf::from_requester_id(id),
    };
    ids.map(function).collect()
}

/// Turns on the VFs of function `index`, where they were found: at start, and after each of its resets. They are silent
/// afterwards. Blocks for 100 ms, at most 1.1 s.
///
/// # Errors
/// They are not there, or not all of them.
pub fn turn_on(
    space: &mut dyn ConfigSpace,
    clock: &mut dyn Clock,
    topology: &Topology,
    index: usize,
) -> Result<(), SriovFault> {
    let info = &topology.functions[index];
    let Some(sriov) = info.sriov.as_ref().filter(|sriov| sriov.vfs != 0) else {
        return Ok(());
    };
    let at = info.address;
    let control = space.read16(at, sriov.offset + spec::SRIOV_CONTROL);
    if control & spec::SRIOV_ENABLE == spec::SRIOV_ENABLE {
        // It could not be reset, which its owner accepts.
        return Ok(());
    }
    if write_number(space, at, sriov)? != (sriov.first, sriov.stride) {
        return Err(SriovFault::Moved);
    }
    write_bars(space, info);
    if sriov.ari
        && let Some(port) = topology.above(info).next()
        && let Some(express) = port.capabilities.express
    {
        let control = u16::from(express.offset) + spec::DEVICE_CONTROL2;
        let value = space.read16(port.address, control);
        space.write16(port.address, control, value | spec::DEVICE_CONTROL2_ARI);
    }
    let ari = if sriov.ari { spec::SRIOV_ARI } else { 0 };
    let control = sriov.offset + spec::SRIOV_CONTROL;
    space.write16(at, control, ari | spec::SRIOV_ENABLE);
    pause(clock, ENABLE_TIME);
    let start = clock.now_ns();
    for vf in functions(info) {
        // Its vendor ID always reads all ones (§9.3.4), its class does not.
        while space.read32(vf, spec::CLASS) == !0 {
            if clock.now_ns().saturating_sub(start) > READY_DEADLINE {
                return Err(SriovFault::NotReady(vf));
            }
            clock.wait();
        }
    }
    let records = topology.functions.iter();
    for vf in records.filter(|record| record.physical == Some(index)) {
        quiesce(space, vf);
    }
    Ok(())
}

fn turn_off(space: &mut dyn ConfigSpace, info: &FunctionInfo) {
    if let Some(sriov) = &info.sriov {
        space.write16(info.address, sriov.offset + spec::SRIOV_CONTROL, 0);
    }
}

/// The record of VF `number` of function `index`, which is silent afterwards. What a VF has from its PF is not asked of
/// it: IDs, BARs (§9.3.4).
fn describe(
    space: &mut dyn ConfigSpace,
    topology: &Topology,
    index: usize,
    number: u64,
    at: Function,
) -> FunctionInfo {
    let physical = &topology.functions[index];
    let mut bars = [None; 6];
    let mut device = 0;
    if let Some(sriov) = &physical.sriov {
        device = sriov.device;
        bars = sriov.bars.map(|bar| {
            bar.map(|bar| Bar {
                pci: bar.pci.map(|base| base + number * bar.size),
                host: bar.host.map(|base| Hpa(base.0 + number * bar.size)),
                ..bar
            })
        });
    }
    let class = space.read32(at, spec::CLASS);
    let subsystem = space.read32(at, spec::SUBSYSTEM);
    let mut info = FunctionInfo {
        address: at,
        host: physical.host,
        parent: physical.parent,
        physical: Some(index),
        vendor: physical.vendor,
        device,
        revision: class as u8,
        class: class >> 8,
        subsystem: (subsystem as u16, (subsystem >> 16) as u16),
        header: match space.read8(at, spec::HEADER_TYPE) & 0x7f {
            0 => Header::Endpoint,
            other => Header::Unknown(other),
        },
        multifunction: false,
        interrupt_pin: 0,
        intx: None,
        bars,
        sriov: None,
        capabilities: capability::read(space, at, &bars),
        requester_ids: Vec::new(),
        streams: Vec::new(),
        msi: None,
        group: 0,
    };
    // A VF has none (§9.3.7).
    info.capabilities.sriov = None;
    quiesce(space, &info);
    info
}

/// The way in which a VF is reset, which each must have (§9.3.5); no other would be its own.
pub(super) fn has_reset(express: Option<Express>) -> bool {
    express.is_some_and(|express| express.flr())
}
